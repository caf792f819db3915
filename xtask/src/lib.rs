//! The chores of the workspace, as functions. `cargo xtask` without arguments lists them.
//!
//! | module | chore |
//! | --- | --- |
//! | [`ci`] | all checks that a change must pass, the quick ones first |
//! | [`rooms`] | no two rooms of a crate import each other |
//! | [`licences`], [`advisories`] | licences, sources, duplicates and security advisories of dependencies |
//! | [`tests`], [`mod@bench`] | tests and measurements, with the programs and servers that they start |
//! | [`console`] | the bundle of the console against its sources, and its pages in a browser |
//! | [`codegen`] | Rust code from the `.proto` files |
//! | [`faults`] | rounds of all fault cases, and one table of their verdicts |
//! | [`compose`] | the compose file on a container engine of its own, disturbed under load |
//! | [`fuzz`] | long runs of the fuzz targets, guided by coverage |
//! | [`pair`] | other versions of etcd and NATS, and the tests on them |
//! | [`servers`], [`run`] | installing the servers, and running other programs visibly |

pub mod advisories;
pub mod bench;
pub mod ci;
pub mod codegen;
pub mod compose;
pub mod console;
pub mod faults;
pub mod fuzz;
pub mod licences;
pub mod pair;
pub mod rooms;
pub mod run;
pub mod servers;
pub mod tests;
