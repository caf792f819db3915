//! The chores of the workspace.

use std::process::ExitCode;

use xtask::{bench, ci, codegen, licences, rooms, tests};

const USAGE: &str = "\
usage: cargo xtask test [filter]   run all tests (or those whose name contains the filter) with their servers
       cargo xtask conformance [--server URL]
                                   hold a server (or muster standalone) against the contract of the registry API
       cargo xtask faults [--times N]  break every part under load, N times in a row
       cargo xtask sdks            drive both planes with the real Go and Java SDKs (needs Go, a JDK and Maven)
       cargo xtask soak [--minutes N]  churn for N minutes (3), nothing lost and nothing growing
       cargo xtask ci              everything that must hold before a change is merged
       cargo xtask bench           list what can be measured
       cargo xtask bench <name>    measure it; arguments follow the name. `all` is everything, half an hour
       cargo xtask scale [--watchers N …]  what a fleet asks of each part, from the benches' figures (--help: all)
       cargo xtask licences        check licences, sources and duplicates of dependencies by deny.toml
       cargo xtask rooms           check that no two rooms of a crate need each other
       cargo xtask codegen         write proto/src/gen from the .proto files";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["test"] => tests::test(None),
        ["test", filter] => tests::test(Some(filter)),
        ["conformance"] => tests::conformance(None),
        ["conformance", "--server", url] => tests::conformance(Some(url)),
        ["faults"] => tests::faults("1"),
        ["faults", "--times", times] => tests::faults(times),
        ["sdks"] => tests::sdks(),
        ["soak"] => tests::soak("3"),
        ["soak", "--minutes", minutes] => tests::soak(minutes),
        ["ci"] => ci::ci(),
        ["bench"] => {
            bench::BENCHES.iter().for_each(|(name, _)| println!("{name}"));
            println!("{}", bench::MICRO);
            Ok(())
        }
        ["bench", "all"] => bench::all(),
        ["bench", name, ref arguments @ ..] => bench::bench(name, arguments),
        ["scale", ref arguments @ ..] => {
            let name = std::iter::once("cargo xtask scale".to_owned());
            scale::command::run(name.chain(arguments.iter().map(|argument| (*argument).to_owned())))
        }
        ["rooms"] => rooms::check(),
        ["licences"] => licences::check(),
        ["codegen"] => codegen::generate(&codegen::checked_in()),
        _ => {
            eprintln!("{USAGE}");
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
