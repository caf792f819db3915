//! `muster shift`: moves traffic from some instances to others, in steps of weights.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::account::{text_of, time};
use super::register::property;
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};

/// The pause between two looks of `muster shift watch`.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `muster shift`.
#[derive(Debug, Args)]
pub(crate) struct Shift {
    #[command(subcommand)]
    command: ShiftCommand,
}

#[derive(Debug, Subcommand)]
enum ShiftCommand {
    /// Start a shift with its first step. Prints its id.
    Start(Box<StartShift>),
    /// List the shifts.
    List {
        /// Only those with this service on one of their sides.
        #[arg(long, value_name = "ID")]
        service: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Let the present step of a shift stay.
    Pause(OneShift),
    /// Let a shift that is paused go on.
    Resume(OneShift),
    /// End the weights that a shift has set.
    Undo(OneShift),
    /// Print each step of a shift as it is taken, until the shift is done or undone.
    Watch(OneShift),
}

#[derive(Debug, Args)]
struct OneShift {
    /// Id of the shift, as `muster shift list` shows it.
    id: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct StartShift {
    /// Id of the service from which traffic moves.
    #[arg(long, value_name = "ID")]
    service: String,
    /// Id of the service to which it moves. Default: the same service.
    #[arg(long, value_name = "ID")]
    to_service: Option<String>,
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    to: To,
    /// Weight of each instance to which traffic moves, and the time that the step lasts; to be repeated. The
    /// other instances have the rest to 100, or a weight of their own: `10/80:5m`.
    #[arg(long = "step", value_name = "WEIGHT:DURATION", required = true, value_parser = step)]
    steps: Vec<Value>,
    /// Reason, for those who find the weights later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    target: Target,
}

/// The instances of the first service.
#[derive(Debug, Args)]
struct From {
    /// Only the instance with this id loses traffic.
    #[arg(long, value_name = "ID")]
    from_instance: Option<String>,
    /// Only instances of this version lose traffic.
    #[arg(long, value_name = "VERSION")]
    from_version: Option<String>,
    /// Only instances in this available zone lose traffic.
    #[arg(long, value_name = "ZONE")]
    from_zone: Option<String>,
    /// Only instances that report this property lose traffic; may be repeated.
    #[arg(long = "from-property", value_name = "NAME=VALUE", value_parser = property)]
    from_properties: Vec<(String, String)>,
}

/// The instances of the second service.
#[derive(Debug, Args)]
struct To {
    /// Only the instance with this id gets traffic.
    #[arg(long, value_name = "ID")]
    to_instance: Option<String>,
    /// Only instances of this version get traffic.
    #[arg(long, value_name = "VERSION")]
    to_version: Option<String>,
    /// Only instances in this available zone get traffic.
    #[arg(long, value_name = "ZONE")]
    to_zone: Option<String>,
    /// Only instances that report this property get traffic; may be repeated.
    #[arg(long = "to-property", value_name = "NAME=VALUE", value_parser = property)]
    to_properties: Vec<(String, String)>,
}

/// Parses `10:5m`, and `10/80:5m`.
fn step(text: &str) -> Result<Value, String> {
    let form = || format!("'{text}' is not of the form WEIGHT:DURATION, such as 10:5m or 10/80:5m");
    let (weights, lasting) = text.split_once(':').ok_or_else(form)?;
    let (to, from) = weights.split_once('/').map_or((weights, None), |(to, from)| (to, Some(from)));
    let weight = |text: &str| text.parse().ok().filter(|weight: &u8| *weight <= 100).ok_or_else(form);
    let mut step = Map::new();
    step.insert("toWeight".to_owned(), json!(weight(to)?));
    if let Some(from) = from {
        step.insert("fromWeight".to_owned(), json!(weight(from)?));
    }
    let lasting = duration(lasting).map_err(|_| form())?;
    step.insert("seconds".to_owned(), json!(lasting.as_secs()));
    Ok(Value::Object(step))
}

impl Shift {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.command {
            ShiftCommand::Start(start) => start.run(screen).await,
            ShiftCommand::List { service, target } => {
                let registry = RegistryClient::new(&target)?;
                let request = registry.get(&["registry", "shifts"]);
                let reply = request.query_if("serviceId", service.as_deref()).send().await?;
                let shifts: Vec<Value> = reply.part("shifts", &registry)?;
                if target.output == OutputFormat::Json {
                    return screen.json(&shifts);
                }
                let rows: Vec<_> = shifts.iter().map(row).collect();
                screen.table(
                    &["ID", "FROM", "TO", "STATE", "STEP", "WEIGHTS", "UNTIL", "OWNER", "REASON"],
                    &rows,
                )
            }
            ShiftCommand::Pause(shift) => shift.act("pause", "paused", screen).await,
            ShiftCommand::Resume(shift) => shift.act("resume", "resumed", screen).await,
            ShiftCommand::Undo(shift) => shift.act("undo", "undone", screen).await,
            ShiftCommand::Watch(shift) => shift.watch(screen).await,
        }
    }
}

impl OneShift {
    async fn act(&self, act: &str, done: &str, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        registry.request(Method::PUT, &["registry", "shifts", &self.id, act]).send().await?;
        screen.note(&format!("{done}: the shift {}", self.id));
        Ok(())
    }

    async fn watch(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let mut printed = None;
        loop {
            let reply = registry.get(&["registry", "shifts", &self.id]).send().await?;
            let shift: Value = reply.part("shift", &registry)?;
            let revision = shift["revision"].as_u64();
            if printed != Some(revision) {
                printed = Some(revision);
                match self.target.output {
                    // One document a line, as in `muster watch`.
                    OutputFormat::Json => screen.line(&shift.to_string())?,
                    OutputFormat::Table => screen.line(&told(&shift))?,
                }
            }
            if matches!(shift["state"].as_str(), Some("done" | "undone")) {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl StartShift {
    async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let registry = RegistryClient::new(&self.target)?;
        let request = registry.request(Method::POST, &["registry", "shifts"]).body(self.body());
        let reply = request.send().await?;
        match self.target.output {
            OutputFormat::Json => screen.json(&reply.body),
            OutputFormat::Table => screen.line(&reply.id("shiftId", &registry)?),
        }
    }

    fn body(&self) -> Value {
        let Self { service, to_service, from, to, steps, reason, .. } = self;
        let from =
            side(service, [&from.from_instance, &from.from_version, &from.from_zone], &from.from_properties);
        let to_service = to_service.as_ref().unwrap_or(service);
        let to = side(to_service, [&to.to_instance, &to.to_version, &to.to_zone], &to.to_properties);
        json!({ "from": from, "to": to, "steps": steps, "reason": reason })
    }
}

fn side(service: &str, texts: [&Option<String>; 3], properties: &[(String, String)]) -> Value {
    let mut side = Map::new();
    side.insert("serviceId".to_owned(), json!(service));
    for (name, text) in ["instanceId", "version", "zone"].into_iter().zip(texts) {
        if let Some(text) = text {
            side.insert(name.to_owned(), json!(text));
        }
    }
    if !properties.is_empty() {
        side.insert("properties".to_owned(), json!(properties.iter().cloned().collect::<BTreeMap<_, _>>()));
    }
    Value::Object(side)
}

fn row(shift: &Value) -> Vec<String> {
    let until = shift["stepUntil"].as_u64().map_or_else(String::new, time);
    vec![
        text_of(shift, "shiftId"),
        instances(&shift["from"]),
        instances(&shift["to"]),
        text_of(shift, "state"),
        steps(shift),
        weights(shift),
        until,
        text_of(shift, "owner"),
        text_of(shift, "reason"),
    ]
}

/// A line about the present state of a shift.
fn told(shift: &Value) -> String {
    let mut line = format!("step {}  {}  {}", steps(shift), weights(shift), text_of(shift, "state"));
    if let Some(until) = shift["stepUntil"].as_u64() {
        line.push_str(&format!(" until {}", time(until)));
    }
    for (name, before) in [("by", " by "), ("obstacle", ": ")] {
        let text = text_of(shift, name);
        if !text.is_empty() {
            line.push_str(before);
            line.push_str(&text);
        }
    }
    line
}

fn steps(shift: &Value) -> String {
    format!("{} of {}", shift["step"], shift["steps"].as_array().map_or(0, Vec::len))
}

/// The weights of the present step: those of the instances that lose traffic, and of those that get it.
fn weights(shift: &Value) -> String {
    let index = shift["step"].as_u64().and_then(|step| usize::try_from(step).ok()?.checked_sub(1));
    let step = index.map_or(&Value::Null, |index| &shift["steps"][index]);
    format!("{} -> {}", step["fromWeight"], step["toWeight"])
}

fn instances(side: &Value) -> String {
    let mut texts = vec![text_of(side, "serviceId")];
    for (field, name) in [("instanceId", "instance"), ("version", "version"), ("zone", "zone")] {
        let text = text_of(side, field);
        if !text.is_empty() {
            texts.push(format!("{name} {text}"));
        }
    }
    for (name, value) in side["properties"].as_object().into_iter().flatten() {
        texts.push(format!("{name}={}", value.as_str().unwrap_or_default()));
    }
    texts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_weights_and_a_time() {
        assert_eq!(step("10:5m"), Ok(json!({"toWeight": 10, "seconds": 300})));
        assert_eq!(step("10/80:90s"), Ok(json!({"toWeight": 10, "fromWeight": 80, "seconds": 90})));
        for text in ["", "10", "101:5m", "-1:5m", "10/:5m", "10:", "10:5"] {
            assert!(step(text).is_err(), "{text}");
        }
    }
}
