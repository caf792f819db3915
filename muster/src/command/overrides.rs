//! `muster override`: what operators want of instances, beside what these report.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::account::{text_of, time};
use super::register::property;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen, harmless};
use crate::target::{Target, duration};

/// Arguments of `muster override`.
#[derive(Debug, Args)]
pub(crate) struct Override {
    #[command(subcommand)]
    command: OverrideCommand,
}

#[derive(Debug, Subcommand)]
enum OverrideCommand {
    /// Set an override, instead of an earlier one of the same target. Prints its id.
    Set(Box<SetOverride>),
    /// List the overrides in force.
    List {
        /// Only those of the service with this id.
        #[arg(long, value_name = "ID")]
        service: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// End an override.
    End {
        /// Id of the override, as `muster override list` shows it.
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct SetOverride {
    /// Id of the service.
    #[arg(long, value_name = "ID")]
    service: String,
    /// Only the instance with this id.
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only instances of this version.
    #[arg(long)]
    version: Option<String>,
    /// Only instances in this available zone.
    #[arg(long)]
    zone: Option<String>,
    /// Only instances that report this property; may be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    wishes: Wishes,
    /// Reason, for those who find the override later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Time after which it ends by itself. Without: never.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasting: Option<Duration>,
    #[command(flatten)]
    target: Target,
}

/// The wishes, of which there must be one at least.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Wishes {
    /// Status that the instances are to have.
    #[arg(long, ignore_case = true, value_parser = ["UP", "DOWN", "STARTING", "TESTING", "OUTOFSERVICE"])]
    status: Option<String>,
    /// Weight that they are to have; clients see it as the property `weight`.
    #[arg(long, value_name = "0-100", value_parser = clap::value_parser!(u8).range(0..=100))]
    weight: Option<u8>,
    /// Property that they are to have, instead of theirs or beside them; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    metadata: Vec<(String, String)>,
    /// Property or tag of the consumers that are not to find the service; may be repeated, and a consumer
    /// must have all of them.
    #[arg(long = "hide-from", value_name = "NAME=VALUE", value_parser = property)]
    hidden_from: Vec<(String, String)>,
}

impl Override {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.command {
            OverrideCommand::Set(set) => set.run(screen).await,
            OverrideCommand::List { service, target } => {
                let registry = RegistryClient::new(&target)?;
                let request = registry.get(&["registry", "overrides"]);
                let reply = request.query_if("serviceId", service.as_deref()).send().await?;
                let overrides: Vec<Value> = reply.part("overrides", &registry)?;
                if target.output == OutputFormat::Json {
                    return screen.json(&overrides);
                }
                let rows: Vec<_> = overrides.iter().map(row).collect();
                screen.table(&["ID", "SERVICE", "TARGET", "WISH", "OWNER", "UNTIL", "REASON"], &rows)
            }
            OverrideCommand::End { id, target } => {
                let registry = RegistryClient::new(&target)?;
                registry.request(Method::DELETE, &["registry", "overrides", &id]).send().await?;
                screen.note(&format!("ended the override {id}"));
                Ok(())
            }
        }
    }
}

impl SetOverride {
    async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let request = registry.request(Method::PUT, &["registry", "overrides"]).body(self.body());
        let reply = request.send().await?;
        match self.target.output {
            OutputFormat::Json => screen.json(&reply.body),
            OutputFormat::Table => screen.line(&harmless(&reply.id("overrideId", &registry)?)),
        }
    }

    fn body(&self) -> Value {
        let mut body = Map::new();
        let mut add = |name: &str, value: Value| body.insert(name.to_owned(), value);
        add("serviceId", json!(self.service));
        add("reason", json!(self.reason));
        for (name, text) in [("instanceId", &self.instance), ("version", &self.version), ("zone", &self.zone)]
        {
            if let Some(text) = text {
                add(name, json!(text));
            }
        }
        let Wishes { status, weight, metadata, hidden_from } = &self.wishes;
        for (name, pairs) in
            [("properties", &self.properties), ("metadata", metadata), ("hiddenFrom", hidden_from)]
        {
            if !pairs.is_empty() {
                add(name, json!(pairs.iter().cloned().collect::<BTreeMap<_, _>>()));
            }
        }
        if let Some(status) = status {
            add("status", json!(status.to_ascii_uppercase()));
        }
        if let Some(weight) = weight {
            add("weight", json!(weight));
        }
        if let Some(lasting) = self.lasting {
            add("seconds", json!(lasting.as_secs()));
        }
        Value::Object(body)
    }
}

fn row(shown: &Value) -> Vec<String> {
    let pairs = |field: &str, out: &mut Vec<String>| {
        for (name, value) in shown[field].as_object().into_iter().flatten() {
            out.push(format!("{name}={}", value.as_str().unwrap_or_default()));
        }
    };
    let named = |field: &str, name: &str, out: &mut Vec<String>| match text_of(shown, field) {
        text if text.is_empty() => {}
        text => out.push(format!("{name} {text}")),
    };
    let mut target = Vec::new();
    named("instanceId", "instance", &mut target);
    named("version", "version", &mut target);
    named("zone", "zone", &mut target);
    pairs("properties", &mut target);
    if target.is_empty() {
        target.push("all".to_owned());
    }
    let mut wish = Vec::new();
    match shown["drain"].as_bool() {
        Some(true) => wish.push("drain".to_owned()),
        _ => named("status", "status", &mut wish),
    }
    if let Some(weight) = shown["weight"].as_u64() {
        wish.push(format!("weight {weight}"));
    }
    pairs("metadata", &mut wish);
    if shown["hiddenFrom"].is_object() {
        wish.push("hidden from".to_owned());
        pairs("hiddenFrom", &mut wish);
    }
    let until = shown["until"].as_u64().map_or_else(String::new, time);
    vec![
        text_of(shown, "overrideId"),
        text_of(shown, "serviceId"),
        target.join(" "),
        wish.join(" "),
        text_of(shown, "owner"),
        until,
        text_of(shown, "reason"),
    ]
}
