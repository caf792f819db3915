//! Tries the compose files on a real container engine: brings up the unchanged `docker-compose.yml`, scales
//! the gateways, kills and restarts each service under load, and judges what watchers received. Then it does the same
//! with `docker-compose.cluster.yml`, and kills members of etcd and NATS.
//!
//! In: this machine with a network and root's rights, the programs of the workspace. Out: a table with one
//! row for each disturbance, or the first thing that is wrong.
//!
//! | room | holds |
//! | --- | --- |
//! | `engine` | the container engine that is started for this run, and commands with a bound of time |
//! | `images` | images with the names in the compose file, made of Debian's packages and our programs |
//! | `load` | the load beside each disturbance, and its figures |
//!
//! Everything is made under `target/compose`. Only processes of this run are ended.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, run};
use crate::servers;

mod engine;
mod images;
mod load;

use engine::{Engine, Stack};
use load::Load;

/// The programs that this command needs, and the Debian packages that hold them.
const TOOLS: [(&str, &str); 3] =
    [("dockerd", "docker.io"), ("docker", "docker.io"), ("debootstrap", "debootstrap")];
/// The longest wait for a service that was killed.
const RECOVERY: Duration = Duration::from_secs(120);

/// Tries the stacks of these names, `single` and `cluster`; both if none is named. Takes ten minutes each, and more when
/// nothing has been built yet.
///
/// # Errors
/// When a name is unknown, a tool is missing, a stack does not come up, or the load is answered wrongly.
pub fn run_all(names: &[&str]) -> Result<()> {
    let unknown = names.iter().find(|name| !KINDS.iter().any(|kind| kind.name == **name));
    ensure!(unknown.is_none(), "`{}`: expected single or cluster", unknown.unwrap_or(&""));
    ensure!(rustix::process::geteuid().is_root(), "a container engine of its own needs the rights of root");
    servers::ensure_tools(&TOOLS)?;
    let programs = ["control-plane", "edge-gateway", "muster"];
    let mut build = cargo(&["build", "--locked", "--bins"]);
    programs.iter().for_each(|program| _ = build.args(["--package", program]));
    run(&mut build)?;
    let work = root().join("target/compose");
    std::fs::create_dir_all(&work).context("target/compose cannot be made")?;

    let engine = Engine::start(&work)?;
    images::make(&engine, &work)?;
    for kind in KINDS.iter().filter(|kind| names.is_empty() || names.contains(&kind.name)) {
        let stack = engine.stack(kind, free_port()?)?;
        let outcome = try_stack(&stack, kind, &work);
        // The volumes too: the next run begins with secrets of its own.
        let down = stack.compose(&["down", "--volumes", "--timeout", "20"], Duration::from_secs(120));
        outcome.and(down)?;
    }
    Ok(())
}

/// A stack that the compose files describe.
struct Kind {
    name: &'static str,
    files: &'static [&'static str],
    /// The services that are brought up, with those that they depend on.
    services: &'static [&'static str],
    /// The services of which one container is killed.
    killed: &'static [&'static str],
}

const KINDS: [Kind; 2] = [SINGLE, CLUSTER];

const SINGLE: Kind = Kind {
    name: "single",
    files: &["docker-compose.yml"],
    services: &["load-balancer"],
    killed: &["edge-gateway", "control-plane-1", "control-plane-2", "nats", "etcd", "load-balancer"],
};

const CLUSTER: Kind = Kind {
    name: "cluster",
    files: &["docker-compose.yml", "docker-compose.cluster.yml"],
    // No service depends on the further members, because planes need a majority only.
    services: &["etcd-2", "etcd-3", "nats-2", "nats-3", "load-balancer"],
    killed: &["etcd", "etcd-2", "nats", "nats-3"],
};

fn try_stack(stack: &Stack<'_>, kind: &Kind, work: &Path) -> Result<()> {
    // A run that was broken off may have left its containers.
    stack.compose(&["down", "--volumes", "--timeout", "5"], Duration::from_secs(120))?;
    stack.secretly(&["run", "--rm", "--no-deps", "init"], Duration::from_secs(60))?;
    let begun = Instant::now();
    stack.scale(2)?;
    println!("{}: up after {:.1} s", kind.name, begun.elapsed().as_secs_f64());
    let load = Load::login(stack, work)?;

    let mut rows = Vec::new();
    rows.push(load.beside("nothing", || Ok(()))?);
    rows.push(load.beside("2 to 4 gateways", || stack.scale(4))?);
    rows.push(load.beside("4 to 2 gateways", || stack.scale(2))?);
    for service in kind.killed {
        rows.push(load.beside(&format!("{service} killed"), || kill_and_start(stack, service))?);
    }
    println!("{}", load::table(&rows));
    let wrong: Vec<String> = rows.iter().filter_map(load::Row::fault).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Kills the first container of a service, starts it again, and waits until it is healthy.
fn kill_and_start(stack: &Stack<'_>, service: &str) -> Result<()> {
    let container = stack.container(service);
    stack.docker(&["kill", &container])?;
    stack.docker(&["start", &container])?;
    let begun = Instant::now();
    loop {
        let health = stack.docker(&["inspect", "-f", "{{.State.Health.Status}}", &container])?;
        if health.trim() == "healthy" {
            return Ok(());
        }
        ensure!(begun.elapsed() < RECOVERY, "{service} is {} after {RECOVERY:?}", health.trim());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?.port())
}
