//! A container engine of our own, and the compose project on it.
//!
//! The engine has its own data, sockets and process, so an engine that the machine runs already is left
//! alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Kind;
use crate::pair;
use crate::run::root;

/// The project's name. Containers are named after it.
const PROJECT: &str = "muster-xtask";
/// The version of compose, built from its Go module.
const COMPOSE_VERSION: &str = "v2.40.3";
const COMPOSE: [(&str, &str); 1] = [("docker-compose", "github.com/docker/compose/v2/cmd")];
const START: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(60);
/// Everything is up, or was scaled, after this time at the latest.
const UP: Duration = Duration::from_secs(240);
/// The default of `MUSTER_NOFILE`.
const USUAL_FILES: u64 = 65_536;

/// The engine of this run. It ends when this is dropped.
pub(super) struct Engine {
    daemon: Child,
    /// Short, because paths of sockets are bounded.
    sockets: tempfile::TempDir,
    compose: PathBuf,
}

impl Engine {
    /// Starts the engine and waits until it answers.
    pub(super) fn start(work: &Path) -> Result<Self> {
        let compose = pair::built("compose", &COMPOSE, COMPOSE_VERSION)?.join("docker-compose");
        let sockets = tempfile::tempdir().context("a directory for sockets")?;
        let log = std::fs::File::create(work.join("engine.log")).context("the engine's log")?;
        let daemon = Command::new("dockerd")
            .arg("--data-root")
            .arg(work.join("engine"))
            .arg("--exec-root")
            .arg(sockets.path().join("exec"))
            .arg("--pidfile")
            .arg(sockets.path().join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", sockets.path().join("socket").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("dockerd cannot be started")?;
        let mut engine = Self { daemon, sockets, compose };
        let begun = Instant::now();
        while engine.docker(&["info"]).is_err() {
            ensure!(
                engine.daemon.try_wait()?.is_none() && begun.elapsed() < START,
                "dockerd does not answer; see target/compose/engine.log"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(engine)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", format!("unix://{}", self.sockets.path().join("socket").display()))
            // The builder that needs no other container.
            .env("DOCKER_BUILDKIT", "0")
            .current_dir(root());
        command
    }

    /// Runs `docker`, and returns what it prints.
    pub(super) fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.docker_within(arguments, SHORT)
    }

    /// Runs `docker` for at most this time.
    pub(super) fn docker_within(&self, arguments: &[&str], most: Duration) -> Result<String> {
        within(self.command(Path::new("docker")).args(arguments), most)
    }

    /// The project of the compose files, whose clients connect to this port.
    pub(super) fn stack<'a>(&'a self, kind: &'a Kind, port: u16) -> Result<Stack<'a>> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let files = limit.map_or(USUAL_FILES, |limit| limit.min(USUAL_FILES));
        Ok(Stack { engine: self, kind, port, files })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some(id) = i32::try_from(self.daemon.id()).ok().and_then(rustix::process::Pid::from_raw) else {
            return;
        };
        if rustix::process::kill_process(id, rustix::process::Signal::TERM).is_ok() {
            // The engine ends its containers first.
            let begun = Instant::now();
            while matches!(self.daemon.try_wait(), Ok(None)) && begun.elapsed() < START {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// The project of the compose files.
pub(super) struct Stack<'a> {
    engine: &'a Engine,
    kind: &'a Kind,
    port: u16,
    /// The files that a process may open here.
    files: u64,
}

impl Stack<'_> {
    /// The address of the registry.
    pub(super) fn server(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Runs `docker`, and returns what it prints.
    pub(super) fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.engine.docker(arguments)
    }

    /// Runs compose for at most this time.
    pub(super) fn compose(&self, arguments: &[&str], most: Duration) -> Result<()> {
        eprintln!("==> docker compose {}", arguments.join(" "));
        self.secretly(arguments, most)
    }

    /// Runs compose without a line about it. What it prints is dropped, because it may be a secret.
    pub(super) fn secretly(&self, arguments: &[&str], most: Duration) -> Result<()> {
        let mut command = self.engine.command(&self.engine.compose);
        command
            .args(["-p", PROJECT])
            .args(self.kind.files.iter().flat_map(|file| ["-f", file]))
            .args(arguments)
            .env("MUSTER_PORT_ON_HOST", self.port.to_string())
            .env("MUSTER_ADVERTISE", format!("127.0.0.1:{}", self.port))
            .env("MUSTER_NOFILE", self.files.to_string())
            .env("MUSTER_WATCH_PER_NODE", (self.files / 4).to_string())
            .env("MUSTER_MAXCONN", (self.files / 5).to_string());
        within(&mut command, most).map(drop)
    }

    /// Brings everything up that clients need, with this number of gateways, and waits until all is healthy.
    pub(super) fn scale(&self, gateways: u32) -> Result<()> {
        let scale = format!("edge-gateway={gateways}");
        let up = ["up", "-d", "--wait", "--no-build", "--pull", "never", "--no-recreate", "--scale"];
        self.compose(&[&up[..], &[&scale], self.kind.services].concat(), UP)
    }

    /// The name of the first container of a service.
    #[expect(clippy::unused_self, reason = "the name is the project's")]
    pub(super) fn container(&self, service: &str) -> String {
        format!("{PROJECT}-{service}-1")
    }

    /// The directory of a volume on this machine.
    pub(super) fn volume(&self, name: &str) -> Result<PathBuf> {
        let volume = format!("{PROJECT}_{name}");
        Ok(PathBuf::from(self.docker(&["volume", "inspect", "-f", "{{.Mountpoint}}", &volume])?.trim()))
    }
}

/// Runs a command for at most this time, and returns what it prints.
pub(super) fn within(command: &mut Command, most: Duration) -> Result<String> {
    let ended = ended_within(command, most)?;
    ensure!(ended.status.success(), "{} failed ({}): {}", ended.name, ended.status, ended.errors.trim());
    Ok(ended.output)
}

/// A command that has ended.
pub(super) struct Ended {
    /// The program and its first argument.
    name: String,
    status: ExitStatus,
    pub(super) output: String,
    pub(super) errors: String,
}

/// Runs a command for at most this time. It is killed when the time is over.
pub(super) fn ended_within(command: &mut Command, most: Duration) -> Result<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    let first = command.get_args().next().unwrap_or_default().to_string_lossy().into_owned();
    // Files, because a pipe that nobody reads meanwhile would hold the command up.
    let output = tempfile::NamedTempFile::new().context("a file for output")?;
    let errors = tempfile::NamedTempFile::new().context("a file for output")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.reopen()?)
        .stderr(errors.reopen()?)
        .spawn()
        .with_context(|| format!("{program} cannot be started"))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > most {
            _ = child.kill();
            _ = child.wait();
            bail!("{program} {first} did not end within {most:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let errors = std::fs::read_to_string(errors.path()).unwrap_or_default();
    let output = std::fs::read_to_string(output.path()).context("the output is not text")?;
    Ok(Ended { name: format!("{program} {first}"), status, output, errors })
}
