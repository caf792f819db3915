//! Muster in one binary: both planes in one process (`muster standalone`), and the command line.
//!
//! ```text
//! arguments ─▶ cli ─▶ command/* ─▶ registry (HTTP) ─▶ a registry
//!                         └──────▶ screen (tables, JSON, one line of error)
//! ```
//! Exit statuses are part of the interface; they stand in [`failure`].

mod cli;
mod command;
mod failure;
mod registry;
mod screen;
mod standalone;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            // Nothing is left to do when even this cannot be told.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    if let Some((standalone::NAME, matches)) = matches.subcommand() {
        return standalone::main(matches);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("muster: cannot start: {e}");
            return ExitCode::from(failure::SOFTWARE);
        }
    };
    ExitCode::from(runtime.block_on(cli::run(&matches, screen::Screen::of_process())))
}
