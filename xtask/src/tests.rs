//! Tests, with the servers and our own programs that they start.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, run};
use crate::servers;

/// Our programs that tests start. Each is the binary of the package with its name.
const PROGRAMS: [&str; 4] = ["control-plane", "edge-gateway", "muster", "resumable-client"];

/// Installs servers, builds our programs once, runs the tests whose names contain `filter`.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn test(filter: Option<&str>) -> Result<()> {
    prepare()?;
    run(&mut cargo(&["test", "--locked", "--workspace", "--no-run"]))?;
    // The compiler has just written gigabytes. Until they are on the disk, every `fsync` of a store in the
    // tests waits for them, which looks like a fault of the store.
    run(&mut Command::new("sync"))?;
    run(cargo(&["test", "--locked", "--workspace"]).args(filter))
}

/// Runs the tests that start servers, without the set of fault cases.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn system() -> Result<()> {
    prepare()?;
    let packages = ["--package", "integration-tests", "--package", "edge-gateway", "--package", "muster-bus"];
    run(cargo(&["test", "--locked"]).args(packages))
}

/// Runs a chore of this program with another search path, on which other servers may come first.
///
/// # Errors
/// When the chore fails.
pub fn on_path(path: &OsStr, chore: &[&str]) -> Result<()> {
    let program = std::env::current_exe().context("this program has no path")?;
    run(Command::new(program).args(chore).env("PATH", path).current_dir(root()))
}

/// Runs the fault cases `times` times in a row, one at a time, and shows the line that each prints. Stops at
/// the first failure. `MUSTER_TEST_LONG` adds the long variants.
///
/// # Errors
/// When something is missing, does not build, or fails.
pub fn faults(times: &str) -> Result<()> {
    let times: u32 = times.parse().context("--times takes a number")?;
    prepare()?;
    (0..times).try_for_each(|_| set_apart("faults::"))
}

/// Drives both planes with the SDKs that applications use.
///
/// # Errors
/// When Go, a JDK or Maven is missing, or an SDK sees something that it does not expect.
pub fn sdks() -> Result<()> {
    prepare()?;
    set_apart("sdks::")
}

/// Lets both planes follow a real OpenID Connect issuer.
///
/// # Errors
/// When Node is missing, or a token counts that must not, or the other way round.
pub fn oidc() -> Result<()> {
    prepare()?;
    run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(root().join("tests/oidc")))?;
    set_apart("oidc::")
}

/// Lets real clients of Eureka register, find and leave.
///
/// # Errors
/// When Python, a JDK or Maven is missing, or a client sees something that it does not expect.
pub fn eureka() -> Result<()> {
    prepare()?;
    let folder = root().join("tests/eureka/python");
    run(Command::new("python3").args(["-m", "venv", ".venv"]).current_dir(&folder))?;
    let install = ["-m", "pip", "install", "--quiet", "--requirement", "requirements.txt"];
    run(Command::new(folder.join(".venv/bin/python")).args(install).current_dir(&folder))?;
    set_apart("eureka::")
}

/// Has a real client read server-sent events over a link that breaks.
///
/// # Errors
/// When Node is missing, or an event is lost or comes twice.
pub fn event_source() -> Result<()> {
    prepare()?;
    let library = root().join("tests/eventsource");
    run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(library))?;
    set_apart("event_stream::")
}

/// Has dnspython, and the resolvers of Go and of the JDK, ask a registry for names. `dig` does so in the
/// ordinary tests.
///
/// # Errors
/// When a client is missing, or reads something else than it should.
pub fn dns() -> Result<()> {
    let python = root().join("target/dnspython");
    if !python.join("bin/python").is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
    }
    run(Command::new(python.join("bin/pip")).args(["install", "--quiet", "dnspython"]))?;
    let lookup = root().join("target/dns-go/lookup");
    run(Command::new("go")
        .args(["build", "-o"])
        .arg(lookup)
        .arg(".")
        .current_dir(root().join("tests/dns/go")))?;
    prepare()?;
    set_apart("dns::")
}

/// Lets a Prometheus 3, built from its module, take its targets from a gateway. Debian's does so in the
/// ordinary tests.
///
/// # Errors
/// When Go is missing, the module does not build, or Prometheus loses a target.
pub fn prometheus() -> Result<()> {
    prepare()?;
    let program = root().join("target/prometheus-3/prometheus");
    // Without the discoveries that we do not use it builds in minutes.
    let build = ["build", "-tags", "remove_all_sd,enable_http_sd", "-o"];
    let module = "github.com/prometheus/prometheus/cmd/prometheus";
    run(Command::new("go")
        .args(build)
        .arg(&program)
        .arg(module)
        .current_dir(root().join("tests/prometheus")))?;
    let test = ["test", "--locked", "--package", "integration-tests", "--test", "cases", "prometheus::"];
    run(cargo(&test).args(["--", "--test-threads", "1"]).env("MUSTER_TEST_PROMETHEUS", program))
}

/// Lets Envoy, and gRPC in Go, Java, Node.js and Python, find services over xDS.
///
/// # Errors
/// When Python, Go, Node, a JDK or Maven is missing, a package cannot be installed, a request fails or an
/// answer is refused.
pub fn xds() -> Result<()> {
    prepare()?;
    let environment = root().join("target/xds");
    if !environment.join("bin/pip").is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    let clients = root().join("tests/xds");
    let requirements = clients.join("requirements.txt");
    run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "-r"]).arg(requirements))?;
    let program = environment.join("bin/go-client");
    run(Command::new("go").args(["build", "-o"]).arg(program).arg(".").current_dir(clients.join("go")))?;
    run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(clients.join("node")))?;
    let goals = ["-q", "-B", "compile", "dependency:copy-dependencies"];
    run(Command::new("mvn").args(goals).current_dir(clients.join("java")))?;
    set_apart("xds::")
}

/// Switches access control on in a fleet with 2 000 watchers, and replaces the keys of tokens in another one.
///
/// # Errors
/// When something does not build, an event is lost, or a watcher ends that has the right to go on.
pub fn switch() -> Result<()> {
    prepare()?;
    set_apart("under_2000_watchers")
}

/// Drains instances under 5 000 watchers on two gateways, of which one is killed.
///
/// # Errors
/// When something does not build, or a drain is proven before everybody knows.
pub fn drain() -> Result<()> {
    prepare()?;
    set_apart("drain_proof::")
}

/// Restarts the instances of a provider under callers of these SDKs (all of them, if none is named): `times`
/// times with a drain before each stop, and as often without.
///
/// # Errors
/// When Go, a JDK or Maven is missing, or a call fails at an instance that was drained.
pub fn rolling(times: &str, sdks: &[&str]) -> Result<()> {
    let restarts: u32 = times.parse().context("--times takes a number")?;
    let unknown = sdks.iter().find(|sdk| !["go", "java"].contains(*sdk));
    ensure!(unknown.is_none(), "there are callers of go and java, not of {}", unknown.unwrap_or(&""));
    prepare()?;
    let mut cases = cases("rolling_calls::");
    cases.env("MUSTER_TEST_RESTARTS", restarts.to_string());
    if !sdks.is_empty() {
        cases.env("MUSTER_TEST_SDKS", sdks.join(" "));
    }
    run(&mut cases)
}

/// Runs cases that ordinary test runs leave out, one at a time, and shows what they print.
fn set_apart(filter: &str) -> Result<()> {
    run(&mut cases(filter))
}

fn cases(filter: &str) -> Command {
    // One at a time: many cases stop processes and time the recovery, and a second case beside them would
    // take the cores that the first one needs.
    let test = ["test", "--locked", "--package", "integration-tests", "--test", "cases", filter];
    let mut cases = cargo(&test);
    cases.args(["--", "--ignored", "--nocapture", "--test-threads", "1"]);
    cases
}

/// Opens and closes watches, and changes instances, for this number of minutes; the oracle judges at the end.
///
/// # Errors
/// When something is missing, does not build, is delivered wrongly, or grows.
pub fn soak(minutes: &str) -> Result<()> {
    prepare()?;
    let soak = ["run", "--locked", "--package", "integration-tests", "--bin", "soak", "--", minutes];
    run(&mut cargo(&soak))
}

pub(crate) fn prepare() -> Result<()> {
    servers::ensure_installed()?;
    let mut build = cargo(&["build", "--locked", "--bins"]);
    PROGRAMS.iter().for_each(|program| _ = build.args(["--package", program]));
    run(&mut build)
}

/// Runs the conformance suite against a server by address, or against our own.
///
/// # Errors
/// When something does not build, or a case fails.
pub fn conformance(server: Option<&str>) -> Result<()> {
    if server.is_none() {
        run(&mut cargo(&["build", "--locked", "--package", "muster"]))?;
    }
    let mut suite = cargo(&["test", "--locked", "--package", "integration-tests", "--test", "conformance"]);
    // Set even when empty, so that a value in the caller's environment cannot redirect a run against
    // our own server.
    run(suite.env("MUSTER_CONFORMANCE_SERVER", server.unwrap_or_default()))
}
