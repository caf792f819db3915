//! `muster probe`: one question to one address. Images without a shell have no other way to check their health.

use std::time::Duration;

use clap::Args;

use crate::cli::{Target, Trust, duration};
use crate::failure::{Failure, Refusal};
use crate::registry::Registry;

/// Arguments of `muster probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// What to ask, such as http://127.0.0.1:30101/ready.
    url: url::Url,
    /// How long to wait for an answer.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    trust: Trust,
}

impl Probe {
    /// Succeeds when the answer's status is 200.
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let path = self.url.path().to_owned();
        let target = Target::process(self.url, self.timeout, self.trust);
        let answer = Registry::new(&target)?.root(&path).await?;
        let status = answer.status().as_u16();
        if status == 200 {
            return Ok(());
        }
        let detail = answer.body().lines().next().unwrap_or_default().chars().take(300).collect();
        let message = format!("HTTP status {status}");
        Err(Failure::Refused(Refusal { status, message, detail, ..Refusal::default() }))
    }
}
