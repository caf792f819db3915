//! Other protocols that gateways serve: what a client of each is told about services.
//!
//! In: a registry and a choice of services. Out: the answer, as a table for people and as it came for
//! programs. A further dialect is one more variant of [`Dialect`], with a file that asks in its own way.

mod dns;
mod eureka;
mod http_sd;
pub(crate) mod xds;

use serde_json::Value;

use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};

/// A protocol besides the registry's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dialect {
    /// Discovery of Prometheus over HTTP.
    HttpSd,
    /// Records of DNS.
    Dns,
    /// Eureka's REST interface.
    Eureka,
    /// Resources of xDS, for Envoy and gRPC.
    Xds,
}

/// The services that are asked for. What is absent matches everything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice<'a> {
    /// The application.
    pub(crate) app: Option<&'a str>,
    /// The environment; the default one is the empty text.
    pub(crate) env: Option<&'a str>,
    /// The name.
    pub(crate) service: Option<&'a str>,
}

/// The answer to a client of a dialect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
    body: Value,
    /// Seconds since anything has confirmed the answer, if it may be old.
    age: Option<u64>,
}

impl Dialect {
    /// Asks as a client of the dialect does.
    ///
    /// # Errors
    /// The registry refuses, does not know yet, or does not serve the dialect.
    pub(crate) async fn ask(
        self,
        registry: &RegistryClient,
        choice: Choice<'_>,
    ) -> Result<Told, CommandFailure> {
        match self {
            Self::HttpSd => http_sd::ask(registry, choice).await,
            Self::Dns => dns::ask(registry, choice).await,
            Self::Eureka => eureka::ask(registry, choice).await,
            Self::Xds => xds::ask(registry, choice).await,
        }
    }
}

impl Told {
    /// True if both answers tell the same, in any order and of any age.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.rows == other.rows && sorted(&self.body) == sorted(&other.body)
    }

    /// The number of things that were told.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    /// Writes the answer: a table, or what came. `is_one_of_many` answers are JSON of one line each.
    pub(crate) fn show(
        &self,
        format: OutputFormat,
        is_one_of_many: bool,
        screen: &mut Screen,
    ) -> Result<(), CommandFailure> {
        if let Some(age) = self.age {
            screen.note(&format!("no control plane has confirmed this for {age} s"));
        }
        match format {
            OutputFormat::Json if is_one_of_many => screen.json_line(&self.body),
            OutputFormat::Json => screen.json(&self.body),
            OutputFormat::Table => screen.table(self.heads, &self.rows),
        }
    }
}

/// The elements of a list as texts, in an order of their own.
fn sorted(body: &Value) -> Vec<String> {
    let mut texts: Vec<String> = match body {
        Value::Array(elements) => elements.iter().map(Value::to_string).collect(),
        other => vec![other.to_string()],
    };
    texts.sort_unstable();
    texts
}
