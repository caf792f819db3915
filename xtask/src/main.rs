//! `cargo xtask`: the chores of the workspace by name.

use std::process::ExitCode;

use xtask::{advisories, bench, ci, codegen, compose, console, faults, fuzz, licences, pair, rooms, tests};

const USAGE: &str = "\
usage: cargo xtask ci              run all checks that a change must pass before it is merged
       cargo xtask test [FILTER]   install the servers, build the programs, run all tests (or those whose
                                   name contains FILTER)
       cargo xtask conformance [--server URL]
                                   hold a server (without URL: muster standalone) to the contract of the
                                   registry API
       cargo xtask faults [--times N] [--release]
                                   break every part of a system under load, N times in a row (with optimised
                                   programs), and print one table of all verdicts
       cargo xtask soak [--minutes N]
                                   open and close watches for N minutes (3); nothing may be lost or grow
       cargo xtask servers [--etcd VERSION] [--nats VERSION] [FILTER]
                                   build other servers (v3.7.3 and v2.15.3; needs Go and a network), and run
                                   the system tests and fault cases (or the tests that FILTER names) on them
       cargo xtask fuzz [TARGET ...] [--for TIME] [--jobs N]
                                   run fuzz targets (all) guided by coverage, each for a time (1m), N at once
                                   (1), and merge what they reach into fuzz/corpus (needs a C++ compiler)
       cargo xtask compose [single] [cluster]
                                   bring the compose files up on a container engine of their own, with one or
                                   three members of etcd and NATS, and disturb them under load (needs Debian,
                                   root, Go and a network)
       cargo xtask sdks            drive both planes with the real Go and Java SDKs (needs Go, a JDK, Maven)
       cargo xtask oidc            let both planes follow a real OpenID Connect issuer (needs Node and npm)
       cargo xtask dns             ask for names with dnspython, Go and Java (needs Python, Go, a JDK and a network)
       cargo xtask prometheus      let a Prometheus 3, built from its module, discover (needs Go and a network)
       cargo xtask xds             drive gateways over xDS with Envoy, and gRPC in four languages (needs Python, Go,
                                   Node and npm, a JDK, Maven)
       cargo xtask proxies         run HAProxy, nginx and Envoy with the settings of docs/proxies.md (needs Debian or
                                   haproxy and nginx, Python and a network)
       cargo xtask drain           drain instances under 5 000 watchers and a gateway that is killed
       cargo xtask rolling [--times N] [--usual-polls] [go] [java]
                                   restart a provider N times (5) with a drain, and N times without, under callers
                                   of the Go and Java SDKs (needs Go, a JDK, Maven); they ask every second, or
                                   every 30 and 15
       cargo xtask switch          switch access control on, and replace the keys of tokens, under 2 000 watchers
       cargo xtask eureka          let real clients of Eureka register, find and leave (needs Python, a JDK, Maven
                                   and a network)
       cargo xtask eventsource     read server-sent events with a real client over a link that breaks (needs Node
                                   and npm)
       cargo xtask console [PART ...]
                                   open every page of the console in a browser (needs Node, npm, chromium)
       cargo xtask console build   build the bundle of the console that is committed (needs Node and npm)
       cargo xtask console check   test the console, and compare its bundle with its sources
       cargo xtask bench           list the benches
       cargo xtask bench NAME [ARGUMENTS]
                                   run a bench; `all` runs every bench and takes half an hour
       cargo xtask scale [--watchers N ...]
                                   compute the load of a fleet from the benches' figures (--help lists all)
       cargo xtask rooms           check that no two rooms of a crate need each other
       cargo xtask licences        check licences, sources and duplicates of dependencies by deny.toml
       cargo xtask advisories      check dependencies for security advisories (needs cargo-deny and a network)
       cargo xtask codegen         write proto/src/gen from the .proto files";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["test"] => tests::test(None),
        ["test", "--system"] => tests::system(),
        ["test", filter] => tests::test(Some(filter)),
        ["conformance"] => tests::conformance(None),
        ["conformance", "--server", url] => tests::conformance(Some(url)),
        ["faults", ref arguments @ ..] => faults::Faults::parse(arguments).and_then(|faults| faults.run()),
        ["servers", ref arguments @ ..] => pair::Pair::parse(arguments).and_then(|pair| pair.test()),
        ["fuzz", ref arguments @ ..] => fuzz::Fuzz::parse(arguments).and_then(|fuzz| fuzz.run()),
        ["compose", ref kinds @ ..] => compose::run_all(kinds),
        ["sdks"] => tests::sdks(),
        ["console", "build"] => console::build(),
        ["console", "check"] => console::check().and_then(|bundle| match bundle {
            console::Bundle::Same => Ok(()),
            console::Bundle::Unchecked(reason) => {
                Err(anyhow::anyhow!("the bundle was NOT compared: {reason}"))
            }
        }),
        ["console", ref parts @ ..] => console::smoke(parts),
        ["oidc"] => tests::oidc(),
        ["xds"] => tests::xds(),
        ["proxies"] => tests::proxies(),
        ["switch"] => tests::switch(),
        ["drain"] => tests::drain(),
        ["rolling", "--times", times, ref sdks @ ..] => tests::rolling(times, sdks),
        ["rolling", ref sdks @ ..] => tests::rolling("5", sdks),
        ["dns"] => tests::dns(),
        ["prometheus"] => tests::prometheus(),
        ["eureka"] => tests::eureka(),
        ["eventsource"] => tests::event_source(),
        ["soak"] => tests::soak("3"),
        ["soak", "--minutes", minutes] => tests::soak(minutes),
        ["ci"] => ci::ci(),
        ["bench"] => {
            bench::BENCHES.iter().for_each(|(name, _)| println!("{name}"));
            println!("{}\n{}\n{}", bench::PEERS, bench::BESIDE, bench::MICRO);
            Ok(())
        }
        ["bench", "all"] => bench::all(),
        ["bench", name, ref arguments @ ..] => bench::bench(name, arguments),
        ["scale", ref arguments @ ..] => {
            let name = std::iter::once("cargo xtask scale".to_owned());
            scale::command::run(name.chain(arguments.iter().map(|argument| (*argument).to_owned())))
        }
        ["rooms"] => rooms::check(),
        ["advisories"] => advisories::insist(),
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
