//! The chores of the workspace, as functions; `cargo xtask` lists them.

pub mod bench;
pub mod ci;
pub mod codegen;
pub mod licences;
pub mod rooms;
pub mod run;
pub mod servers;
pub mod tests;
