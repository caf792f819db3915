//! `muster probe`: one request to one address. Images without a shell have no other way to check their
//! health.

use std::time::Duration;

use clap::Args;

use crate::client::RegistryClient;
use crate::failure::{CommandFailure, RegistryRefusal};
use crate::target::{Target, Trust, duration};

/// Arguments of `muster probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Address to request, such as http://127.0.0.1:30101/ready.
    url: url::Url,
    /// Time to wait for a reply.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    trust: Trust,
}

impl Probe {
    /// Succeeds when the status of the reply is 200. It prints nothing then: container engines read the exit
    /// status.
    pub(crate) async fn run(self) -> Result<(), CommandFailure> {
        let path = self.url.path().to_owned();
        let target = Target::process(self.url, self.timeout, self.trust);
        let reply = RegistryClient::new(&target)?.get_root(&path).await?;
        if reply.status() == http::StatusCode::OK {
            return Ok(());
        }
        Err(CommandFailure::Refused(RegistryRefusal::from_text(&reply)))
    }
}
