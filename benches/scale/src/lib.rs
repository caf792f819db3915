//! A fleet on paper: what a million watchers ask of each part, from what the parts were measured to cost.
//!
//! ```text
//! coefficients.toml ─▶ coefficients ─┬─▶ model ──────▶ tables ─▶ docs/scale.md
//!                      fleet ────────┴─▶ simulation ─▶ tables ─┘
//! ```
//! The model is arithmetic over averages and computes the load of each hop. The simulation plays single
//! events with queues at each hop and computes the delay of each receipt. Neither touches a network; both
//! give the same figures every time. `cargo xtask scale` prints them; a test holds the document against them.

pub mod coefficients;
pub mod command;
mod compare;
pub mod fleet;
pub mod model;
pub mod simulation;
pub mod storm;
pub mod table;
