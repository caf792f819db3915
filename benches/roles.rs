//! The price of one event for many watchers with access control: none, one role for all, and a hundred roles.
//!
//! Each row has etcd, NATS, a control plane, a gateway and a crowd of its own, and the rows take turns, so
//! that what else the machine does meets all of them. A single event is one `PUT`; a burst is one etcd
//! transaction of 100 changes. CPU is the gateway's own. Ratios are to the row without access control.
//! Arguments: watchers of each row, turns.

use std::time::Duration;

use access::keys::{KeyPairText, SigningKey};
use access::token::{Claims, Issuer};
use anyhow::Result;
use benches::call::{Client, ask};
use benches::crowd::{self, Crowd, Sight};
use benches::report::Report;
use benches::stage::{self, Provider, Stage};
use etcd_client::Client as Etcd;
use harness::eventually;
use serde_json::json;
use shared::clock::Clock;
use tempfile::TempDir;

const BURST: usize = 100;
/// Events of a row in each turn.
const SINGLES: usize = 20;
const BURSTS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(30);
/// The account that registers. Its role is in every store.
const REGISTRAR: &str = "registrar";

fn main() -> Result<()> {
    if crowd::become_child_if_asked()? {
        return Ok(());
    }
    let [watchers, turns] = benches::arguments([3000, 10])?;
    tokio::runtime::Runtime::new()?.block_on(run(watchers, turns))
}

async fn run(watchers: usize, turns: usize) -> Result<()> {
    let mut rows = [
        Row::start("no access control", watchers, 0).await?,
        Row::start("one role", watchers, 1).await?,
        Row::start("100 roles", watchers, 100).await?,
    ];
    for turn in 0..=turns {
        for row in &mut rows {
            row.turn().await?;
            // The first turn fills caches, and does not count.
            if turn == 0 {
                row.singles = Phase::default();
                row.bursts = Phase::default();
            }
        }
    }
    let columns = ["CPU-s per M", "ratio", "p50 ms", "p99 ms", "ratio of p99"];
    let report = Report::new("roles", &columns);
    for row in &rows {
        let what = format!("{}, {watchers}, single", row.what);
        row.singles.tell(&report, &what, &rows[0].singles);
    }
    for row in &rows {
        let what = format!("{}, {watchers}, 100 at once", row.what);
        row.bursts.tell(&report, &what, &rows[0].bursts);
    }
    Ok(())
}

/// The events of one kind.
#[derive(Default)]
struct Phase {
    cpu: f64,
    deliveries: u64,
    rounds: Vec<Sight>,
}

struct Row {
    what: &'static str,
    stage: Stage,
    /// The control plane looks at its key files again and again.
    _keys: TempDir,
    etcd: Etcd,
    provider: Provider,
    crowd: Crowd,
    watchers: usize,
    singles: Phase,
    bursts: Phase,
}

impl Row {
    /// Starts a system and its watchers, with so many roles; 0 is no access control.
    async fn start(what: &'static str, watchers: usize, roles: usize) -> Result<Self> {
        let keys = tempfile::tempdir()?;
        let pair = KeyPairText::generate()?;
        let path = |name: &str| keys.path().join(name).display().to_string();
        std::fs::write(path("private.key"), &pair.private)?;
        std::fs::write(path("public.key"), &pair.public)?;
        let mut plan = Stage::plan("1h");
        if roles > 0 {
            plan = plan
                .plane_flag("--rbac-enable", "true")
                .gateway_flag("--rbac-enable", "true")
                .plane_flag("--rbac-private-key", &path("private.key"))
                .plane_flag("--rbac-public-key", &path("public.key"));
        }
        let mut stage = Stage::of(plan).await;
        let mut etcd = stage::etcd(&stage).await?;
        let issuer = Issuer::new(SigningKey::from_pem(pair.private.as_bytes())?);
        let mut tokens = Vec::new();
        if roles > 0 {
            tokens = accounts(&mut etcd, &issuer, roles).await?;
            let registrar = token(&issuer, REGISTRAR)?;
            // The last of them: the gateway knows the others, too.
            for token in tokens.last().into_iter().chain([&registrar]) {
                let services =
                    ask("/v4/default/registry/microservices", &format!("Authorization: Bearer {token}\r\n"));
                let gateway = stage.world.gateways[0].api.to_string();
                eventually("the gateway knows the accounts", || async {
                    Client::connect(&gateway).await.ok()?.call(&services).await.ok()
                })
                .await;
            }
            stage.registry = stage.registry.authorized(&format!("Bearer {registrar}"));
        }
        let provider = stage.provider(0, BURST).await;
        let consumers = stage.consumers(0, 1, |_| vec![0]).await;
        let mut crowd = Crowd::start()?;
        let gateway = stage.world.gateways[0].api;
        match roles {
            0 => _ = crowd.open(gateway, &consumers, watchers, 0)?,
            _ => crowd.open_with_tokens(gateway, &consumers[0], watchers, &tokens)?,
        }
        let [singles, bursts] = [(); 2].map(|()| Phase::default());
        Ok(Self { what, stage, _keys: keys, etcd, provider, crowd, watchers, singles, bursts })
    }

    async fn turn(&mut self) -> Result<()> {
        for (events, rounds) in [(1, SINGLES), (BURST, BURSTS)] {
            let expected = (self.watchers * events) as u64;
            let before = self.stage.gateway_cpu()?;
            let mut seen = Vec::new();
            for _ in 0..rounds {
                match events {
                    1 => self.provider.change(&self.stage.registry).await,
                    _ => self.provider.burst(&mut self.etcd, events).await?,
                }
                // Every watcher has the change before the next one is made.
                let sight = self.crowd.collect(expected, PATIENCE)?;
                sight.check(expected)?;
                seen.push(sight);
            }
            let phase = if events == 1 { &mut self.singles } else { &mut self.bursts };
            phase.cpu += self.stage.gateway_cpu()? - before;
            phase.deliveries += expected * rounds as u64;
            phase.rounds.append(&mut seen);
        }
        Ok(())
    }
}

/// Stores accounts, each with a role of its own, and that of the registrar. All may get the services of the
/// application that is watched, and each those of another one beside. Returns the tokens of all but the
/// registrar.
async fn accounts(etcd: &mut Etcd, issuer: &Issuer, count: usize) -> Result<Vec<String>> {
    let mut tokens = Vec::new();
    for number in 0..count {
        let name = format!("account-{number}");
        let sets = ["shop".to_owned(), format!("other-{number}")];
        let resources = sets.map(|app| json!({"type": "service", "labels": {"appId": app}}));
        let role = json!({"id": name, "name": name, "perms": [{"resources": resources, "verbs": ["get"]}]});
        etcd.put(format!("/cse-sr/roles/{name}"), role.to_string(), None).await?;
        account(etcd, &name, &name).await?;
        tokens.push(token(issuer, &name)?);
    }
    account(etcd, REGISTRAR, "admin").await?;
    Ok(tokens)
}

async fn account(etcd: &mut Etcd, name: &str, role: &str) -> Result<()> {
    let account = json!({"name": name, "roles": [role], "status": "active"});
    etcd.put(format!("/cse-sr/accounts/{name}"), account.to_string(), None).await?;
    Ok(())
}

fn token(issuer: &Issuer, account: &str) -> Result<String> {
    let now = Clock::system().micros() / 1_000_000;
    let claims =
        Claims { account: account.to_owned(), exp: now + 36_000, iat: Some(now), ..Claims::default() };
    Ok(issuer.issue(&claims)?)
}

impl Phase {
    fn cpu_per_million(&self) -> f64 {
        self.cpu / (self.deliveries as f64 / 1e6)
    }

    fn median(&self, of: impl Fn(&Sight) -> f64) -> f64 {
        crowd::median(&self.rounds, of)
    }

    fn tell(&self, report: &Report, what: &str, open: &Self) {
        let [p50, p99] = [self.median(|sight| sight.p50_ms), self.median(|sight| sight.p99_ms)];
        let cpu = self.cpu_per_million();
        let ratios = [cpu / open.cpu_per_million(), p99 / open.median(|sight| sight.p99_ms)];
        report.row(what, &[Some(cpu), Some(ratios[0]), Some(p50), Some(p99), Some(ratios[1])]);
    }
}
