//! Muster in one binary: both planes in one process (`muster standalone`), and the command line.
//!
//! ```text
//! arguments ─▶ cli ─▶ command/* ─▶ target ─▶ client (HTTP, WebSocket) ─▶ a registry
//!                         └──────▶ screen (tables, JSON, one line for an error)
//! ```
//!
//! Exit statuses are part of the interface. [`failure`] defines them.

mod cli;
mod client;
mod command;
mod credentials;
mod dialect;
mod failure;
mod processes;
mod screen;
mod standalone;
mod target;
#[cfg(test)]
mod tests;
mod top;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(e) => {
            // The error cannot be reported in another way when standard error itself does not accept it.
            let _ = e.print();
            // clap reports `--help` and `--version` as errors too, but writes them to standard output.
            return ExitCode::from(if e.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    // A standalone registry needs the host of the two planes, with its own runtime, logs and signals.
    if let Some((standalone::NAME, matches)) = matches.subcommand() {
        return standalone::main(matches);
    }
    // Commands wait for the network, so one thread is enough.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("muster: the async runtime cannot be started: {e}");
            return ExitCode::from(failure::SOFTWARE);
        }
    };
    ExitCode::from(runtime.block_on(cli::run(&matches, screen::Screen::of_process())))
}
