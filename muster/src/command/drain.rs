//! `muster drain`: has a gateway or a control plane drain, by its admin port, and waits until it has ended.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::top::figures::Figures;
use crate::cli::{Target, Trust, duration};
use crate::failure::{Failure, Refusal};
use crate::registry::Registry;
use crate::screen::{Format, Screen};

/// Between two looks.
const PACE: Duration = Duration::from_millis(250);

/// Arguments of `muster drain`.
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The process's admin address, such as http://127.0.0.1:30101.
    admin: url::Url,
    /// The process's admin token; not needed on its own machine.
    #[arg(long, env = "MUSTER_ADMIN_TOKEN", value_name = "SECRET", hide_env_values = true)]
    token: Option<String>,
    /// Only tell it; do not wait for its end.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for its end.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    timeout: Duration,
    /// How to write the result.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    trust: Trust,
}

impl Drain {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), Failure> {
        let target = Target::process(self.admin.clone(), Duration::from_secs(5), self.trust.clone());
        let process = Registry::new(&target)?;
        let answer = process.post_root("/drain", self.token.as_deref()).await?;
        let status = answer.status().as_u16();
        if status != 202 {
            let detail = answer.body().lines().next().unwrap_or_default().chars().take(300).collect();
            let message = format!("HTTP status {status}");
            return Err(Failure::Refused(Refusal { status, message, detail, ..Refusal::default() }));
        }
        let began = Instant::now();
        if !self.no_wait {
            self.wait(&process, screen).await?;
        }
        let (server, seconds) = (process.server(), began.elapsed().as_secs_f64());
        match self.output {
            Format::Json => {
                screen.json(&json!({"process": server, "ended": !self.no_wait, "seconds": seconds}))
            }
            Format::Table if self.no_wait => screen.line(&format!("{server} drains")),
            Format::Table => screen.line(&format!("{server} has drained after {seconds:.1} s")),
        }
    }

    /// Until nobody answers any more.
    async fn wait(&self, process: &Registry, screen: &mut Screen) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut told = None;
        // The admin port is the last to close.
        loop {
            match process.root("/metrics").await {
                Err(Failure::Unreachable { .. }) => return Ok(()),
                Err(failure) => return Err(failure),
                Ok(answer) => {
                    let watchers = Figures::parse(answer.body()).sum("muster_edge_sessions", &[]);
                    if watchers.is_some() && watchers != told {
                        screen.note(&format!("{} watchers are left", watchers.unwrap_or_default()));
                        told = watchers;
                    }
                }
            }
            if Instant::now() > deadline {
                let within = humantime::format_duration(self.timeout);
                return Err(Failure::Unwell(format!("{} has not ended within {within}", process.server())));
            }
            sleep(PACE).await;
        }
    }
}
