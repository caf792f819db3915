//! Every command of the binary, from one table: help, exit statuses, JSON for programs, colours for people
//! only.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Arguments with which each command does something and ends. The registry has the service `order` of the
/// application `shop` with one instance. `{server}`, `{admin}` and `{service}` stand for its addresses and
/// that id, `{directory}` for a directory.
const COMMANDS: &[(&str, &[&str], CommandResult)] = &[
    ("services", &["--server", "{server}"], CommandResult::Json),
    ("instances", &["--server", "{server}", "--service", "{service}"], CommandResult::Json),
    ("find", &["--server", "{server}", "--app", "shop", "--name", "order"], CommandResult::Json),
    (
        "register",
        &["--server", "{server}", "--name", "cart", "--endpoint", "rest://127.0.0.1:1"],
        CommandResult::Json,
    ),
    ("override", &["list", "--server", "{server}"], CommandResult::Json),
    ("shift", &["list", "--server", "{server}"], CommandResult::Json),
    ("timeline", &["--server", "{server}", "--service", "{service}"], CommandResult::Json),
    ("status", &["--server", "{server}"], CommandResult::Json),
    ("top", &["--admin", "{admin}", "--count", "1"], CommandResult::Json),
    ("diff", &["--admin", "{admin}"], CommandResult::Json),
    ("doctor", &["--server", "{server}"], CommandResult::Json),
    (
        "loadgen",
        &["--server", "{server}", "--watchers", "3", "--rate", "20", "--for", "1s", "--settle", "1s"],
        CommandResult::Json,
    ),
    ("certificate", &["--dir", "{directory}"], CommandResult::Json),
    ("init", &["--dir", "{directory}/site"], CommandResult::Json),
    ("probe", &["{admin}/live"], CommandResult::Nothing),
    ("completions", &["bash"], CommandResult::Text),
    ("version", &[], CommandResult::Text),
    ("unregister", &["--server", "{server}", "--service", "{service}", "--force"], CommandResult::Nothing),
    ("drain", &["{admin}"], CommandResult::Json),
];
/// Commands with tests of their own: two do not end by themselves, `store` needs a registry that is stopped,
/// and the others one with access control.
const TESTED_ELSEWHERE: &[&str] =
    &["standalone", "store", "watch", "login", "logout", "account", "role", "token", "audit"];
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandResult {
    /// With `--output json` one document, or one document a line; otherwise a table.
    Json,
    /// Text for people or for a shell.
    Text,
    /// Only the exit status.
    Nothing,
}

fn command(arguments: &[String]) -> Command {
    let mut command = without_settings(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments);
    command
}

fn without_settings(program: &str) -> Command {
    let mut command = Command::new(program);
    // The settings of the developer's shell must not change the result.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.env_remove("NO_COLOR");
    command
}

fn run(arguments: &[String]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().expect("it starts");
    let stdout = String::from_utf8(stdout).expect("text");
    let stderr = String::from_utf8(stderr).expect("text");
    (status.code().expect("it is not killed"), stdout, stderr)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A standalone registry for one test, killed when dropped.
struct TestRegistry {
    process: Child,
    server: String,
    admin: String,
    service: String,
    data: tempfile::TempDir,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl TestRegistry {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let log = data.path().join("log");
        let flags =
            ["standalone", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--drain-over", "0s"];
        let mut arguments = words(&flags);
        arguments.extend(["--data-dir".to_owned(), data.path().join("store").display().to_string()]);
        let log_file = std::fs::File::create(&log).expect("a log");
        let stdout = log_file.try_clone().expect("a log");
        let process =
            command(&arguments).stdout(stdout).stderr(Stdio::from(log_file)).spawn().expect("it starts");
        // Owned before the addresses are known, so that the process is ended also when none comes.
        let mut registry =
            Self { process, server: String::new(), admin: String::new(), service: String::new(), data };
        registry.server = address(&log, "api=");
        registry.admin = address(&log, "admin=");
        let ready = words(&["probe", &format!("{}/ready", registry.admin)]);
        let started = Instant::now();
        while run(&ready).0 != 0 {
            assert!(started.elapsed() < DEADLINE, "the registry is not ready in time");
            std::thread::sleep(Duration::from_millis(20));
        }
        let register = ["register", "--app", "shop", "--name", "order", "--endpoint", "rest://127.0.0.1:2"];
        let (_, out, _) =
            run(&words(&[&register[..], &["--server", &registry.server, "--output", "json"]].concat()));
        let registered: Value = serde_json::from_str(&out).expect("JSON");
        registry.service = registered["serviceId"].as_str().expect("an id").to_owned();
        registry
    }

    fn arguments(&self, name: &str, arguments: &[&str]) -> Vec<String> {
        let filled = arguments.iter().map(|argument| {
            argument
                .replace("{server}", &self.server)
                .replace("{admin}", &self.admin)
                .replace("{service}", &self.service)
                .replace("{directory}", &self.data.path().display().to_string())
        });
        std::iter::once(name.to_owned()).chain(filled).collect()
    }
}

/// Waits for the address in the field `name` of the log.
fn address(log: &Path, name: &str) -> String {
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).expect("a log");
        let named = text.split_once(name).and_then(|(_, rest)| rest.split_once(char::is_whitespace));
        if let Some((address, _)) = named {
            return format!("http://{address}");
        }
        assert!(started.elapsed() < DEADLINE, "no address in {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_table_is_complete_and_every_command_has_help() {
    let (status, help, _) = run(&words(&["--help"]));
    assert_eq!(status, 0);
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut listed: Vec<&str> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    listed.sort_unstable();
    let mut known: Vec<&str> =
        COMMANDS.iter().map(|(name, ..)| *name).chain(TESTED_ELSEWHERE.iter().copied()).collect();
    known.sort_unstable();
    assert_eq!(listed, known, "{help}");
    for name in known {
        let (status, help, notes) = run(&words(&[name, "--help"]));
        assert_eq!((status, notes.as_str()), (0, ""), "{name}");
        assert!(
            help.contains("Usage: muster ") && help.lines().next().is_some_and(|about| about.len() > 10),
            "{help}"
        );
    }
    for status in ["0", "1", "64", "69", "74", "75", "76", "77"] {
        assert!(help.contains(&format!("\n  {status} ")), "exit status {status} is not explained:\n{help}");
    }
}

#[test]
fn every_command_writes_json_without_colours_into_a_pipe() {
    let registry = TestRegistry::start();
    for (name, arguments, result) in COMMANDS {
        let mut arguments = registry.arguments(name, arguments);
        if *result == CommandResult::Json {
            arguments.extend(words(&["--output", "json"]));
        }
        let (status, out, notes) = run(&arguments);
        assert_eq!(status, 0, "{arguments:?}: {out}{notes}");
        assert!(!out.contains('\x1b') && !notes.contains('\x1b'), "{arguments:?}: {out}{notes}");
        match result {
            CommandResult::Json => {
                let parsed: Result<Vec<Value>, _> =
                    serde_json::Deserializer::from_str(&out).into_iter().collect();
                assert!(parsed.is_ok_and(|documents| !documents.is_empty()), "{arguments:?}: {out}");
            }
            CommandResult::Text => assert!(out.contains("muster"), "{arguments:?}: {out}"),
            CommandResult::Nothing => assert_eq!(out, "", "{arguments:?}"),
        }
    }
}

#[test]
fn mistakes_and_an_absent_registry_have_their_own_statuses() {
    // The listener is dropped at once, so nobody listens on its port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0");
    let free = listener.and_then(|listener| listener.local_addr()).expect("binds");
    for (name, arguments, _) in COMMANDS {
        let (status, _, notes) = run(&words(&[name, "--no-such-flag"]));
        assert!(status == 64 && notes.contains("Usage: muster"), "{name}: {status}: {notes}");
        let needs_a_registry =
            arguments.iter().any(|argument| argument.contains("{server}") || argument.contains("{admin}"));
        if !needs_a_registry {
            continue;
        }
        let away = format!("http://{free}");
        let filled = arguments.iter().map(|argument| {
            argument.replace("{server}", &away).replace("{admin}", &away).replace("{service}", "s")
        });
        let arguments: Vec<String> = std::iter::once((*name).to_owned()).chain(filled).collect();
        let (status, out, notes) = run(&arguments);
        // These two look for faults, and report the one that they have found.
        let expected = if *name == "doctor" || *name == "top" { [1, 69] } else { [69, 69] };
        assert!(expected.contains(&status), "{arguments:?}: {status}: {out}{notes}");
        assert!(
            notes.lines().last().is_some_and(|line| line.starts_with("muster: ")),
            "{arguments:?}: {notes}"
        );
        assert!(!notes.contains("panicked"), "{arguments:?}: {notes}");
    }
    let (status, _, notes) = run(&words(&["services", "--server", "ftp://127.0.0.1"]));
    assert!(status == 64 && notes.contains("ftp"), "{status}: {notes}");
}

#[test]
fn colours_need_a_terminal_and_no_objection() {
    let registry = TestRegistry::start();
    let listing = format!(
        "{} instances --server {} --service {}",
        env!("CARGO_BIN_EXE_muster"),
        registry.server,
        registry.service
    );
    let coloured = run_on_a_terminal(&listing, None);
    let plain = run_on_a_terminal(&listing, Some("1"));
    assert!(coloured.contains("\x1b[") && coloured.contains("rest://127.0.0.1:2"), "{coloured:?}");
    assert!(!plain.contains('\x1b') && plain.contains("rest://127.0.0.1:2"), "{plain:?}");
}

fn run_on_a_terminal(command_line: &str, no_color: Option<&str>) -> String {
    // `script` gives its command a terminal.
    let mut script = Command::new("script");
    script.args(["-qec", command_line, "/dev/null"]).stdin(Stdio::null());
    match no_color {
        None => script.env_remove("NO_COLOR"),
        Some(value) => script.env("NO_COLOR", value),
    };
    String::from_utf8(script.output().expect("util-linux is there").stdout).expect("text")
}

#[test]
fn every_shell_can_complete_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, script, _) = run(&words(&["completions", shell]));
        assert_eq!(status, 0, "{shell}");
        for (name, ..) in COMMANDS {
            assert!(script.contains(name), "{shell} does not know {name}");
        }
    }
    assert_eq!(run(&words(&["completions", "cmd"])).0, 64);
}

#[test]
fn an_instance_is_drained_and_the_proof_is_printed() {
    let registry = TestRegistry::start();
    let instances =
        registry.arguments("instances", &["--server", "{server}", "--service", "{service}", "-o", "json"]);
    let listed: Value = serde_json::from_str(&run(&instances).1).expect("JSON");
    let listed = listed.as_array().map_or(&listed, |list| &list[0]);
    let instance = listed["instanceId"].as_str().expect("an id").to_owned();
    let drain = |rest: &[&str]| {
        let mut words = vec!["instance", "--server", "{server}", "--service", "{service}"];
        words.extend_from_slice(&["--instance", &instance]);
        words.extend_from_slice(rest);
        run(&registry.arguments("drain", &words))
    };
    let (status, out, notes) = drain(&["--deadline", "1m", "-o", "json"]);
    assert_eq!(status, 0, "{notes}");
    let last: Value = serde_json::from_str(out.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["proven"], &last["then"]), (&Value::from(true), &Value::from("kept")), "{out}");
    assert!(run(&instances).1.contains("OUTOFSERVICE"));
    let overrides = registry.arguments("override", &["list", "--server", "{server}"]);
    let (_, out, _) = run(&overrides);
    assert!(out.contains(&format!("instance {instance}  drain")), "{out}");
    // As when the gateway of the first drain has died: what was there before is there again.
    let (status, out, notes) = drain(&["--give-back", "--for", "1h", "--reason", "again"]);
    assert_eq!(status, 0, "{notes}");
    assert!(out.contains("all of them are known to have been told; given back"), "{out}");
    assert!(!run(&instances).1.contains("OUTOFSERVICE"));
    assert_eq!(drain(&[]).0, 0);
    let words = ["give-back", "--server", "{server}", "--service", "{service}", "--instance", &instance];
    let give_back = registry.arguments("drain", &words);
    assert_eq!(run(&give_back).0, 0);
    assert!(!run(&instances).1.contains("OUTOFSERVICE"));
    let (status, _, notes) = run(&give_back);
    assert!(status == 1 && notes.contains("not drained"), "{notes}");
    let timeline = ["--server", "{server}", "--service", "{service}", "--instance", &instance];
    let (_, out, _) = run(&registry.arguments("timeline", &timeline));
    assert!(out.contains("drain-ended") && out.contains("again"), "{out}");
    let service = ["service", "--server", "{server}", "--service", "{service}", "--unregister"];
    let (status, out, _) = run(&registry.arguments("drain", &service));
    assert!(status == 0 && out.contains("unregistered"), "{out}");
    assert!(!run(&instances).1.contains(&instance));
    let (status, _, notes) = drain(&[]);
    assert!(status == 1 && notes.contains("400017"), "{notes}");
    for wrong in [&["--deadline", "2h"][..], &["--unregister", "--give-back"]] {
        assert_eq!(drain(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn the_example_of_the_page_about_shifts_works() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/shift.md"));
    let page = page.expect("the page");
    let example = page.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let registry = TestRegistry::start();
    let program = Path::new(env!("CARGO_BIN_EXE_muster")).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = without_settings("sh")
        .args(["-euc", example])
        .env("PATH", format!("{}:{path}", program.display()))
        .env("MUSTER_SERVER", &registry.server)
        .output()
        .expect("sh is there");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("90 -> 10") && out.contains("1 of 3"), "{out}");
    assert!(out.contains("shift by anonymous, step 1 of 3: pay 2.0"), "{out}");
    let list = registry.arguments("shift", &["list", "--server", "{server}", "-o", "json"]);
    let listed: Value = serde_json::from_str(&run(&list).1).expect("JSON");
    assert_eq!(listed[0]["state"], "undone", "{listed}");
    let id = listed[0]["shiftId"].as_str().expect("an id");
    let (status, out, _) = run(&registry.arguments("shift", &["watch", "--server", "{server}", id]));
    assert!(status == 0 && out.contains("undone by anonymous"), "{out}");
}
