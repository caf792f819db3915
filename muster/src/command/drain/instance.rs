//! `muster drain instance` and `muster drain service`: an instance takes no more traffic, and everybody who
//! reads the service is known to have been told.

use std::time::Duration;

use clap::{Args, ValueEnum};
use http::Method;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen, harmless};
use crate::target::{Target, duration};

/// The time for the answers of the last round and for the last step, beyond the deadline.
const GRACE: Duration = Duration::from_secs(15);
/// The longest time between two lines, which come twice a second while gateways answer.
const SILENCE: Duration = Duration::from_secs(20);
/// The pause before a drain is begun again whose gateway has ended.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `muster drain instance`.
#[derive(Debug, Args)]
pub(crate) struct DrainInstance {
    /// Id of the service.
    #[arg(long, value_name = "ID")]
    service: String,
    /// Id of the instance.
    #[arg(long, value_name = "ID")]
    instance: String,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    target: Target,
}

/// Arguments of `muster drain service`.
#[derive(Debug, Args)]
pub(crate) struct DrainService {
    /// Id of the service, all of whose instances are drained.
    #[arg(long, value_name = "ID")]
    service: String,
    #[command(flatten)]
    terms: Terms,
    #[command(flatten)]
    target: Target,
}

/// The end of a drain.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Then {
    Keep,
    Unregister,
    GiveBack,
}

#[derive(Debug, Args)]
struct Terms {
    /// Time to wait for the watchers, from 1s to 1h. The usual one covers clients that poll every 30s, and
    /// those that have stopped.
    #[arg(long, value_name = "DURATION", default_value = "70s", value_parser = deadline)]
    deadline: Duration,
    /// At the end, unregister what was drained.
    #[arg(long, conflicts_with = "give_back")]
    unregister: bool,
    /// At the end, give the instances back: clients see again what was there before the drain.
    #[arg(long)]
    give_back: bool,
    /// Time after which the instances are given back in any case, up to 7d. Without: one hour after the
    /// deadline, or one minute with --give-back.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    hold: Option<Duration>,
    /// Reason, for those who find the drain later.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

impl Terms {
    fn then(&self) -> Then {
        match (self.unregister, self.give_back) {
            (true, _) => Then::Unregister,
            (false, true) => Then::GiveBack,
            (false, false) => Then::Keep,
        }
    }
}

/// A line of the reply. A server of a later version may send more.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Progress {
    proven: bool,
    done: bool,
    watchers: u64,
    reached: u64,
    pollers: u64,
    pollers_reached: u64,
    pollers_known_in_ms: Option<u64>,
    streams: u64,
    streams_reached: u64,
    moving: u64,
    gateways: u64,
    behind: u64,
    fleet_known: bool,
    silent: Vec<Silent>,
    waiting: Vec<Waiting>,
    elapsed_ms: u64,
    then: Option<String>,
    still_out: u64,
    error: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Silent {
    gateway: String,
    silent_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Waiting {
    consumer: String,
    transport: String,
    peer: String,
    gateway: String,
    state: String,
    for_ms: u64,
}

impl Progress {
    /// The state in words, for people.
    fn words(&self) -> String {
        let mut words = format!("{} of {} watchers know", self.reached, self.watchers);
        let waiting = self.watchers.saturating_sub(self.reached);
        let rest = [
            (waiting, "waits", "wait"),
            (self.moving, "group has watchers on the move", "groups have watchers on the move"),
            (self.behind, "gateway has not come so far", "gateways have not come so far"),
            (self.silent.len() as u64, "gateway does not answer", "gateways do not answer"),
        ];
        for (count, one, many) in rest.into_iter().filter(|(count, ..)| *count > 0) {
            words.push_str(&format!(", {count} {}", if count == 1 { one } else { many }));
        }
        if self.pollers > 0 {
            let Self { pollers, pollers_reached, .. } = self;
            words.push_str(&format!(", {pollers_reached} of {pollers} clients that poll have asked since"));
        }
        if self.streams > 0 {
            let Self { streams, streams_reached, .. } = self;
            words.push_str(&format!(", {streams_reached} of {streams} xDS streams know"));
        }
        if let Some(left) = self.pollers_known_in_ms {
            // Whole minutes' worth of lines would differ in this alone.
            let seconds = left.div_ceil(10_000) * 10;
            words.push_str(&format!(
                ", for up to {seconds} s clients may still go by the answer of a gateway that is gone"
            ));
        }
        if !self.fleet_known {
            words.push_str(", the gateway has just started and does not know the others yet");
        }
        words
    }
}

/// Arguments of `muster drain give-back`.
#[derive(Debug, Args)]
pub(crate) struct GiveBack {
    /// Id of the service.
    #[arg(long, value_name = "ID")]
    service: String,
    /// Id of the instance.
    #[arg(long, value_name = "ID")]
    instance: String,
    #[command(flatten)]
    target: Target,
}

impl GiveBack {
    pub(super) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let path = ["registry", "microservices", &self.service, "instances", &self.instance, "drain"];
        registry.request(Method::DELETE, &path).send().await?;
        screen.note(&format!("gave the instance {} back", self.instance));
        Ok(())
    }
}

impl DrainInstance {
    pub(super) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let path = ["registry", "microservices", &self.service, "instances", &self.instance, "drain"];
        run(&registry, &path, &self.terms, self.target.output, screen).await
    }
}

impl DrainService {
    pub(super) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let path = ["registry", "microservices", &self.service, "drain"];
        run(&registry, &path, &self.terms, self.target.output, screen).await
    }
}

async fn run(
    registry: &RegistryClient,
    path: &[&str],
    terms: &Terms,
    output: OutputFormat,
    screen: &mut Screen,
) -> Result<(), CommandFailure> {
    let last = follow(registry, path, terms, output, screen).await?;
    if output == OutputFormat::Table {
        show(&last, screen)?;
    }
    if let Some(error) = last.error {
        return Err(CommandFailure::Unwell(format!("the drain did not come to its end: {error}")));
    }
    if last.proven {
        return Ok(());
    }
    let deadline = humantime::format_duration(terms.deadline);
    Err(CommandFailure::Unwell(format!("not everybody is known to have been told within {deadline}")))
}

/// Drains an instance that this process is about to unregister, and says how it went.
pub(crate) async fn before_the_end(
    registry: &RegistryClient,
    service: &str,
    instance: &str,
    deadline: Duration,
    screen: &mut Screen,
) -> Result<(), CommandFailure> {
    let path = ["registry", "microservices", service, "instances", instance, "drain"];
    let terms = Terms { deadline, unregister: false, give_back: false, hold: None, reason: None };
    let last = follow(registry, &path, &terms, OutputFormat::Table, screen).await?;
    if !last.proven {
        screen.note("not everybody is known to have been told; unregistering all the same");
    }
    Ok(())
}

/// Runs a drain and returns its last line. One whose gateway ends is begun again at the next gateway.
async fn follow(
    registry: &RegistryClient,
    path: &[&str],
    terms: &Terms,
    output: OutputFormat,
    screen: &mut Screen,
) -> Result<Progress, CommandFailure> {
    let until = Instant::now() + terms.deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        match once(registry, path, left, terms, output, screen).await {
            Ok(Some(last)) => return Ok(last),
            Ok(None) => screen.note("the drain was cut off; beginning it again"),
            Err(failure) if failure.is_passing() => screen.note(&failure.to_string()),
            Err(failure) => return Err(failure),
        }
        if Instant::now() + PAUSE >= until {
            return Err(CommandFailure::Unwell("the drain was cut off, so nothing is known".to_owned()));
        }
        sleep(PAUSE).await;
    }
}

/// One attempt. `None` when the reply ends before its last line.
async fn once(
    registry: &RegistryClient,
    path: &[&str],
    left: Duration,
    terms: &Terms,
    output: OutputFormat,
    screen: &mut Screen,
) -> Result<Option<Progress>, CommandFailure> {
    let then = terms.then().to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let hold = terms.hold.map(|hold| format!("{}ms", hold.as_millis()));
    let request = registry.request(Method::POST, path);
    let request = request.query("deadline", &format!("{}ms", left.as_millis())).query("then", &then);
    let request = request.query_if("for", hold.as_deref()).query_if("reason", terms.reason.as_deref());
    let mut lines = request.lines(SILENCE.min(left + GRACE)).await?;
    let mut said = String::new();
    while let Some(line) = lines.next().await? {
        let Ok(progress) = serde_json::from_str::<Progress>(&line) else { continue };
        if output == OutputFormat::Json {
            // As it came: programs may know fields that this version does not.
            screen.json_text(&line)?;
        }
        let is_cut_off = progress.done && progress.then.is_none() && !progress.proven;
        if is_cut_off {
            if let Some(error) = &progress.error {
                screen.note(error);
            }
            return Ok(None);
        }
        if progress.done {
            return Ok(Some(progress));
        }
        let words = progress.words();
        if output == OutputFormat::Table && words != said {
            screen.note(&words);
            said = words;
        }
    }
    Ok(None)
}

fn show(last: &Progress, screen: &mut Screen) -> Result<(), CommandFailure> {
    let seconds = last.elapsed_ms as f64 / 1000.0;
    let then = last.then.as_deref().unwrap_or("left as it is");
    let proof = if last.proven { "all of them are known to have been told" } else { "nothing is proven" };
    let gateways = if last.gateways == 1 { "gateway" } else { "gateways" };
    let words =
        format!("{} on {} {gateways} after {seconds:.1} s: {proof}; {then}", last.words(), last.gateways);
    screen.line(&harmless(&words))?;
    if last.still_out > 0 {
        let count = last.still_out;
        screen.note(&format!("{count} take no traffic all the same: they report so, or an override says so"));
    }
    for Silent { gateway, silent_ms } in &last.silent {
        let name = if gateway.is_empty() { "a gateway of an older version" } else { gateway };
        screen.note(&format!("no answer from {name}, last heard {silent_ms} ms ago"));
    }
    if last.waiting.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = last
        .waiting
        .iter()
        .map(|watcher| {
            let Waiting { consumer, transport, peer, gateway, state, for_ms } = watcher;
            let waits = format!("{:.1} s", *for_ms as f64 / 1000.0);
            [consumer, transport, peer, gateway, state, &waits].map(Clone::clone).into()
        })
        .collect();
    screen.table(&["CONSUMER", "TRANSPORT", "CLIENT", "GATEWAY", "STATE", "FOR"], &rows)
}

fn deadline(text: &str) -> Result<Duration, String> {
    let deadline = duration(text).map_err(|e| e.to_string())?;
    let is_bounded = (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&deadline);
    is_bounded.then_some(deadline).ok_or_else(|| "expected a time from 1s to 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_reader_is_named() {
        let line = r#"{"watchers":5,"reached":4,"pollers":3,"pollersReached":1,"streams":2,"streamsReached":2,
                       "pollersKnownInMs":41200,"fleetKnown":true,"later":1}"#;
        let progress: Progress = serde_json::from_str(line).expect("a line");
        assert_eq!(
            progress.words(),
            "4 of 5 watchers know, 1 waits, 1 of 3 clients that poll have asked since, 2 of 2 xDS streams know, \
             for up to 50 s clients may still go by the answer of a gateway that is gone"
        );
        let older = r#"{"watchers":1,"reached":1,"fleetKnown":true}"#;
        let progress: Progress = serde_json::from_str(older).expect("a line");
        assert_eq!(progress.words(), "1 of 1 watchers know", "of a server that counts watchers alone");
    }
}
