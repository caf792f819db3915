//! Every command of the binary, by one table: help, exit statuses, JSON for programs, colours for people only.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How a command is called so that it does something and ends, against a registry that has the service `order` of the
/// application `shop` with one instance. `{server}`, `{admin}` and `{service}` stand for what that registry has.
const COMMANDS: &[(&str, &[&str], Answers)] = &[
    ("services", &["--server", "{server}"], Answers::Json),
    ("instances", &["--server", "{server}", "--service", "{service}"], Answers::Json),
    ("find", &["--server", "{server}", "--app", "shop", "--name", "order"], Answers::Json),
    (
        "register",
        &["--server", "{server}", "--name", "cart", "--endpoint", "rest://127.0.0.1:1"],
        Answers::Json,
    ),
    ("status", &["--server", "{server}"], Answers::Json),
    ("top", &["--admin", "{admin}", "--count", "1"], Answers::Json),
    ("diff", &["--admin", "{admin}"], Answers::Json),
    ("doctor", &["--server", "{server}"], Answers::Json),
    (
        "loadgen",
        &["--server", "{server}", "--watchers", "3", "--rate", "20", "--for", "1s", "--settle", "1s"],
        Answers::Json,
    ),
    ("probe", &["{admin}/live"], Answers::Nothing),
    ("completions", &["bash"], Answers::Text),
    ("version", &[], Answers::Text),
    ("unregister", &["--server", "{server}", "--service", "{service}", "--force"], Answers::Nothing),
    ("drain", &["{admin}"], Answers::Json),
];
/// These do not end by themselves, and have tests of their own.
const ENDLESS: &[&str] = &["standalone", "watch"];
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    /// With `--output json` one document or one line for each; else a table.
    Json,
    /// Text for people or for a shell.
    Text,
    /// The exit status says it all.
    Nothing,
}

fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments);
    // Settings of whoever runs the test are not ours.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.env_remove("NO_COLOR");
    command
}

fn run(arguments: &[String]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().expect("it starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("it is not killed"), text(stdout), text(stderr))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|it| (*it).to_owned()).collect()
}

/// A registry of its own, killed when dropped.
struct Registry {
    process: Child,
    server: String,
    admin: String,
    service: String,
    _data: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let (port, log) = (data.path().join("ports"), data.path().join("log"));
        let flags =
            ["standalone", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--drain-over", "0s"];
        let mut arguments = words(&flags);
        arguments.extend(["--data-dir".to_owned(), port.display().to_string()]);
        let log_file = std::fs::File::create(&log).expect("a log");
        let stdout = log_file.try_clone().expect("a log");
        let process =
            command(&arguments).stdout(stdout).stderr(Stdio::from(log_file)).spawn().expect("it starts");
        let (server, admin, service) = <(String, String, String)>::default();
        // Owned first: it is ended also when no address comes.
        let mut it = Self { process, server, admin, service, _data: data };
        (it.server, it.admin) = (address(&log, "api="), address(&log, "admin="));
        let ready = words(&["probe", &format!("{}/ready", it.admin)]);
        let started = Instant::now();
        while run(&ready).0 != 0 {
            assert!(started.elapsed() < DEADLINE, "it is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        let register = ["register", "--app", "shop", "--name", "order", "--endpoint", "rest://127.0.0.1:2"];
        let (_, out, _) =
            run(&words(&[&register[..], &["--server", &it.server, "--output", "json"]].concat()));
        let registered: Value = serde_json::from_str(&out).expect("JSON");
        it.service = registered["serviceId"].as_str().expect("an id").to_owned();
        it
    }

    fn arguments(&self, name: &str, arguments: &[&str]) -> Vec<String> {
        let filled = arguments.iter().map(|it| {
            it.replace("{server}", &self.server)
                .replace("{admin}", &self.admin)
                .replace("{service}", &self.service)
        });
        std::iter::once(name.to_owned()).chain(filled).collect()
    }
}

/// The address that the log names.
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
fn the_table_has_every_command_and_each_explains_itself() {
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
        COMMANDS.iter().map(|(name, ..)| *name).chain(ENDLESS.iter().copied()).collect();
    known.sort_unstable();
    assert_eq!(listed, known, "{help}");
    for name in known {
        let (status, help, notes) = run(&words(&[name, "--help"]));
        assert_eq!((status, notes.as_str()), (0, ""), "{name}");
        assert!(
            help.contains("Usage: muster ") && help.lines().next().is_some_and(|it| it.len() > 10),
            "{help}"
        );
    }
    for status in ["0", "1", "64", "69", "74", "75", "76"] {
        assert!(help.contains(&format!("\n  {status} ")), "exit status {status} is not explained:\n{help}");
    }
}

#[test]
fn every_command_ends_well_and_writes_json_without_colours_into_a_pipe() {
    let registry = Registry::start();
    for (name, arguments, answers) in COMMANDS {
        let mut arguments = registry.arguments(name, arguments);
        if *answers == Answers::Json {
            arguments.extend(words(&["--output", "json"]));
        }
        let (status, out, notes) = run(&arguments);
        assert_eq!(status, 0, "{arguments:?}: {out}{notes}");
        assert!(!out.contains('\x1b') && !notes.contains('\x1b'), "{arguments:?}: {out}{notes}");
        match answers {
            Answers::Json => {
                let parsed: Result<Vec<Value>, _> =
                    serde_json::Deserializer::from_str(&out).into_iter().collect();
                assert!(parsed.is_ok_and(|it| !it.is_empty()), "{arguments:?}: {out}");
            }
            Answers::Text => assert!(out.contains("muster"), "{arguments:?}: {out}"),
            Answers::Nothing => assert_eq!(out, "", "{arguments:?}"),
        }
    }
}

#[test]
fn mistakes_and_a_registry_that_is_away_have_a_status_each_and_a_sentence() {
    // Nobody listens on a port that was given back.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("binds");
    for (name, arguments, _) in COMMANDS {
        let (status, _, notes) = run(&words(&[name, "--no-such-flag"]));
        assert!(status == 64 && notes.contains("Usage: muster"), "{name}: {status}: {notes}");
        if !arguments.concat().contains('{') {
            continue;
        }
        let away = format!("http://{free}");
        let filled = arguments
            .iter()
            .map(|it| it.replace("{server}", &away).replace("{admin}", &away).replace("{service}", "s"));
        let arguments: Vec<String> = std::iter::once((*name).to_owned()).chain(filled).collect();
        let (status, out, notes) = run(&arguments);
        // What looks for faults has found one.
        let expected = if *name == "doctor" || *name == "top" { [1, 69] } else { [69, 69] };
        assert!(expected.contains(&status), "{arguments:?}: {status}: {out}{notes}");
        assert!(notes.lines().last().is_some_and(|it| it.starts_with("muster: ")), "{arguments:?}: {notes}");
        assert!(!notes.contains("panicked"), "{arguments:?}: {notes}");
    }
    let (status, _, notes) = run(&words(&["services", "--server", "ftp://127.0.0.1"]));
    assert!(status == 64 && notes.contains("ftp"), "{status}: {notes}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let registry = Registry::start();
    let listing = format!(
        "{} instances --server {} --service {}",
        env!("CARGO_BIN_EXE_muster"),
        registry.server,
        registry.service
    );
    let on_a_terminal = |colour: &str| {
        // `script` gives its command a terminal.
        let mut script = Command::new("script");
        script.args(["-qec", &listing, "/dev/null"]).stdin(Stdio::null());
        match colour {
            "" => script.env_remove("NO_COLOR"),
            no => script.env("NO_COLOR", no),
        };
        String::from_utf8(script.output().expect("util-linux is there").stdout).expect("text")
    };
    let (coloured, plain) = (on_a_terminal(""), on_a_terminal("1"));
    assert!(coloured.contains("\x1b[") && coloured.contains("rest://127.0.0.1:2"), "{coloured:?}");
    assert!(!plain.contains('\x1b') && plain.contains("rest://127.0.0.1:2"), "{plain:?}");
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
