//! The costs of pieces of work, read from `coefficients.toml`. They are stated nowhere else.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::table::Table;

const FILE: &str = include_str!("../coefficients.toml");

/// The trustworthiness of a figure.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Worth {
    /// By its bench, in a quiet run.
    Measured,
    /// By its bench, while the machine had other work.
    Interim,
    /// By nobody yet.
    Assumed,
}

/// A figure and where it comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Microseconds or bytes, as its name says.
    pub value: f64,
    /// The piece of work that has this cost.
    pub what: String,
    /// The bench that measures it.
    pub bench: String,
    /// The trustworthiness of the figure.
    pub worth: Worth,
}

/// All figures; times in microseconds.
#[derive(Clone, Debug)]
pub struct Coefficients {
    all: BTreeMap<String, Entry>,
}

impl Coefficients {
    /// The coefficients that this program was built with.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn built_in() -> Result<Self> {
        Self::parse(FILE)
    }

    /// Reads coefficients from a text in the form of the file.
    ///
    /// # Errors
    /// When a figure is missing or makes no sense.
    pub fn parse(text: &str) -> Result<Self> {
        let all: BTreeMap<String, Entry> = toml::from_str(text).context("coefficients.toml")?;
        for name in NAMES {
            let entry = all.get(*name).with_context(|| format!("coefficients.toml: `{name}` is missing"))?;
            ensure!(entry.value.is_finite() && entry.value >= 0.0, "coefficients.toml: `{name}` is negative");
        }
        ensure!(all.len() == NAMES.len(), "coefficients.toml: it has figures that nothing uses");
        Ok(Self { all })
    }

    /// The figure of this name.
    ///
    /// # Panics
    /// When there is none of this name: names are checked when the file is read.
    pub fn get(&self, name: &str) -> f64 {
        self.all
            .get(name)
            .map(|entry| entry.value)
            .expect("every name in use was checked when the file was read")
    }

    /// Puts another figure in the place of one.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn set(&mut self, name: &str, value: f64) -> Result<()> {
        self.all.get_mut(name).with_context(|| format!("there is no coefficient `{name}`"))?.value = value;
        Ok(())
    }

    /// As a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["coefficient", "value", "cost of", "bench", "worth"]);
        for (name, entry) in &self.all {
            let worth = format!("{:?}", entry.worth).to_lowercase();
            table.row([
                format!("`{name}`"),
                entry.value.to_string(),
                entry.what.clone(),
                entry.bench.clone(),
                worth,
            ]);
        }
        table
    }
}

/// Every figure that the model and the simulation use.
const NAMES: &[&str] = &[
    "gateway_write_us",
    "gateway_burst_us",
    "gateway_append_us",
    "gateway_bytes",
    "kernel_bytes",
    "gateway_ping_us",
    "gateway_open_us",
    "gateway_forward_us",
    "gateway_event_us",
    "frame_bytes",
    "bus_bytes",
    "nats_message_us",
    "nats_hop_us",
    "publisher_event_us",
    "commit_us",
    "view_us",
    "etcd_write_us",
    "etcd_beat_us",
    "control_beat_us",
    "control_find_us",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_missing_negative_or_unused_is_named() {
        assert!(Coefficients::built_in().is_ok());
        let without = FILE.replace("[nats_hop_us]", "[nats_hops_us]");
        let problem = Coefficients::parse(&without).expect_err("one is missing").to_string();
        assert!(problem.contains("nats_hop_us"), "{problem}");
        let negative = FILE.replace("[nats_hop_us]\nvalue = ", "[nats_hop_us]\nvalue = -");
        assert!(Coefficients::parse(&negative).expect_err("is negative").to_string().contains("nats_hop_us"));
        let more = format!("{FILE}\n[other]\nvalue = 1\nwhat = \"\"\nbench = \"\"\nworth = \"assumed\"\n");
        assert!(Coefficients::parse(&more).expect_err("one is unused").to_string().contains("nothing uses"));
    }
}
