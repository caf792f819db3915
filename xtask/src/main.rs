//! The chores of the workspace; `cargo xtask` lists them.

mod codegen;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match arguments.next().as_deref() {
        Some("codegen") => codegen::run(),
        _ => {
            eprintln!("usage: cargo xtask codegen      write proto/src/gen from the .proto files");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
