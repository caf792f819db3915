//! `muster top` on a real terminal: pictures, keys, sizes, and the terminal as it was before.

mod pty;

use std::process::{Command, Stdio};

use pty::Pty;

/// A standalone registry with one instance, killed when dropped.
struct Registry {
    process: std::process::Child,
    server: String,
    _data: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn muster(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments);
    clean(&mut command);
    command
}

/// The settings of the developer's shell must not change the result.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.env_remove("NO_COLOR").env("TERM", "xterm-256color");
}

impl Registry {
    fn start() -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let log = data.path().join("log");
        let store = data.path().join("store").display().to_string();
        let mut command = muster(&["standalone", "--listen", "127.0.0.1:0", "--data-dir", &store]);
        command.args(["--log-level", "warn"]);
        let out = std::fs::File::create(&log).expect("a log");
        let errors = out.try_clone().expect("a log");
        let process = command.stdout(out).stderr(errors).spawn().expect("it starts");
        let mut registry = Self { process, server: String::new(), _data: data };
        registry.server = pty::until("the registry is ready", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let rest = text.split("ready at ").nth(1)?;
            rest.contains([' ', '\n']).then(|| rest.split([' ', '\n']).next().unwrap_or_default().to_owned())
        });
        let register = ["register", "--app", "shop", "--name", "order", "--endpoint", "rest://10.0.0.7:1"];
        let mut register = muster(&register);
        register.args(["--server", &registry.server]).stdout(Stdio::null());
        assert!(register.status().expect("runs").success());
        registry
    }

    /// Starts `muster top` on a terminal of this size.
    fn top(&self, columns: u16, rows: u16, more: &[&str]) -> Pty {
        let mut arguments =
            vec!["top", "--server", &self.server, "--admin", &self.server, "--every", "200ms"];
        arguments.extend(more);
        // It gets a session of its own, with the terminal as its controlling one, as a shell would have it.
        let mut command = Command::new("setsid");
        command.args(["--ctty", env!("CARGO_BIN_EXE_muster")]).args(arguments);
        clean(&mut command);
        Pty::start(command, columns, rows)
    }
}

#[test]
fn the_view_shows_a_running_registry_and_obeys_keys() {
    let registry = Registry::start();
    let mut top = registry.top(80, 24, &[]);
    let address = registry.server.trim_start_matches("http://").to_owned();
    top.wait_for(&[&address, "both", "1 Processes (1)", "Live", "Instances 2: 2 UP"]);
    top.press("2");
    top.wait_for(&["2 Services, most changed (2)", "shop/order"]);
    top.press("/nothing");
    top.wait_for(&["No row has this text."]);
    top.press("\x1b");
    top.wait_for(&["shop/order"]);
    top.press("?");
    top.wait_for(&["Keys and words"]);
    top.press("?");
    top.wait_for(&["2 Services"]);
    top.resize(200, 50);
    top.wait_for(&["1 Processes (1)", "2 Services", "3 Watchers that lag (1)"]);
    top.press("q");
    top.ends_restored(0);
}

#[test]
fn control_c_and_sigterm_restore_the_terminal() {
    let registry = Registry::start();
    let mut top = registry.top(80, 24, &[]);
    top.wait_for(&["1 Processes (1)"]);
    top.press("\x03");
    top.ends_restored(0);
    let mut top = registry.top(80, 24, &[]);
    top.wait_for(&["1 Processes (1)"]);
    top.signal(rustix::process::Signal::TERM);
    top.ends_restored(0);
}

#[test]
fn a_process_that_dies_stays_on_the_screen() {
    let mut registry = Registry::start();
    let mut top = registry.top(120, 24, &[]);
    top.wait_for(&["both", "Live"]);
    registry.process.kill().expect("is killed");
    registry.process.wait().expect("ends");
    top.wait_for(&["no answer since", "1 without answer", "Reconnecting…"]);
    // Keys work while nothing answers.
    top.press("q");
    top.ends_restored(0);
}

#[test]
fn once_prints_rows_also_on_a_terminal() {
    let registry = Registry::start();
    let mut top = registry.top(120, 24, &["--once"]);
    top.wait_for(&["PROCESS", "both"]);
    top.ends(0);
    assert!(!top.was_full_screen(), "no full screen");
}

#[test]
fn an_address_that_cannot_be_resolved_leaves_the_terminal() {
    let mut command = Command::new("setsid");
    command.args(["--ctty", env!("CARGO_BIN_EXE_muster"), "top", "--admin", "http://nowhere.invalid:1"]);
    clean(&mut command);
    let mut top = Pty::start(command, 80, 24);
    top.ends(69);
    assert!(!top.was_full_screen());
}
