//! The contract of the registry API, held against a server by address.
//!
//! `MUSTER_CONFORMANCE_SERVER=http://host:port` names the server; without it one `muster standalone` serves
//! the whole run. Cases run side by side, each in a domain of its own. When the server has an OpenAPI
//! document, every answer must be in it, and a whole run must have seen everything that it promises.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};

mod document;
mod expected;
mod limits;
mod script;
mod server;
mod wire;

use server::Server;

/// Tables of cases; see [`script`] for how they are read.
const TABLES: [(&str, &str); 11] = [
    ("services", include_str!("cases/services.txt")),
    ("belongings", include_str!("cases/belongings.txt")),
    ("instances", include_str!("cases/instances.txt")),
    ("find", include_str!("cases/find.txt")),
    ("dependencies", include_str!("cases/dependencies.txt")),
    ("govern", include_str!("cases/govern.txt")),
    ("sdk", include_str!("cases/sdk.txt")),
    ("overrides", include_str!("cases/overrides.txt")),
    ("drains", include_str!("cases/drains.txt")),
    ("shifts", include_str!("cases/shifts.txt")),
    ("http", include_str!("cases/http.txt")),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases wait for answers most of the time.
    arguments.test_threads = arguments.test_threads.or(Some(8));
    let runtime = Arc::new(tokio::runtime::Runtime::new().expect("a runtime"));
    let server = (!arguments.list).then(|| Arc::new(runtime.block_on(Server::start())));
    let trial = |name: String, run: Run| {
        let runtime = runtime.clone();
        let server = server.clone();
        Trial::test(name, move || match &server {
            Some(server) => runtime.block_on(run(server.clone())).map_err(Failed::from),
            None => Ok(()),
        })
    };
    let mut trials = Vec::new();
    for (table, text) in TABLES {
        for case in script::cases(text).unwrap_or_else(|mistake| panic!("cases/{table}.txt: {mistake}")) {
            let case = Arc::new(case);
            let name = format!("{table}: {}", case.name);
            trials.push(trial(
                name,
                Box::new(move |server| {
                    let case = case.clone();
                    Box::pin(async move { case.run(&server).await })
                }),
            ));
        }
    }
    trials.extend(limits::trials().into_iter().map(|(name, run)| trial(format!("limits: {name}"), run)));
    trials.extend(wire::trials().into_iter().map(|(name, run)| trial(format!("wire: {name}"), run)));
    let whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list;
    let conclusion = libtest_mimic::run(&arguments, trials);
    let unseen = server.as_ref().filter(|_| whole).map(|server| server.unseen()).unwrap_or_default();
    for promise in &unseen {
        eprintln!("documented, but no case has seen it: {promise}");
    }
    // Its process ends with it, and its directory.
    drop(server);
    if conclusion.has_failed() || !unseen.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The function that runs a case.
type Run = Box<dyn Fn(Arc<Server>) -> Outcome + Send>;
type Outcome = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
