//! A child process: its log, its signals, its end.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use crate::{eventually, reason};

/// Lines of a log that are printed when a test fails.
const LAST_LINES: usize = 60;

/// A process and how to start it again. Killed when dropped. When a test fails its last lines are printed,
/// and with `MUSTER_TEST_LOGS` all of them are kept in that folder.
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// Its working directory, with its data and its log.
    directory: TempDir,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Prepares a program found on the search path or in `/usr/sbin`; [`Process::start`] starts it. To test
    /// with another version, set for example `MUSTER_TEST_ETCD` to its file.
    ///
    /// # Panics
    /// When it is not installed; `package` names the Debian package that holds it.
    pub fn installed(program: &str, package: &str) -> Self {
        let chosen = format!("MUSTER_TEST_{}", program.to_uppercase().replace('-', "_"));
        if let Some(chosen) = std::env::var_os(chosen) {
            return Self::at(program, chosen.into());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
        let found = directories.map(|directory| directory.join(program)).find(|file| file.is_file());
        let Some(found) = found else {
            panic!(
                "{program} is not installed. On Debian: apt-get install --no-install-recommends {package}"
            );
        };
        Self::at(program, found)
    }

    /// Prepares one of our own programs, which `cargo xtask test` builds beside the tests.
    ///
    /// # Panics
    /// When it has not been built.
    pub fn ours(program: &str) -> Self {
        // Cargo puts tests into `deps`, one folder below the programs. The search goes up from there, so that
        // any profile and any target folder works.
        let test = std::env::current_exe().expect("a test knows its own program");
        let found = test.ancestors().skip(1).take(3).map(|directory| directory.join(program));
        let Some(found) = found.into_iter().find(|file| file.is_file()) else {
            panic!(
                "{program} is not built. Run `cargo build --bins` first, or the tests by `cargo xtask test`."
            );
        };
        Self::at(program, found)
    }

    fn at(name: &str, program: PathBuf) -> Self {
        let directory = tempfile::Builder::new().prefix("muster-").tempdir().expect("a temporary directory");
        Self {
            name: name.to_owned(),
            program,
            arguments: Vec::new(),
            // Escape codes would split the words that tests look for in logs.
            environment: vec![("NO_COLOR".into(), "1".into())],
            directory,
            child: Mutex::new(None),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Everything that it prints until it ends, with these arguments and not its own.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn output_of(&self, arguments: &[&str]) -> String {
        let output = Command::new(&self.program).args(arguments).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    }

    /// The directory in which it runs; gone when this is dropped.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it, or starts it again. What it prints is added to the log.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self) {
        reason::keep();
        // A process that still runs would hold the ports and the data.
        self.kill();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log file");
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        *self.child.lock() = Some(child);
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it was not started, or has been ended.
    pub fn pid(&self) -> u32 {
        self.child.lock().as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// It was started and has not ended by itself.
    pub fn is_running(&self) -> bool {
        self.child.lock().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&self) {
        if let Some(mut child) = self.child.lock().take() {
            // An error means that it has ended already.
            _ = child.kill();
            _ = child.wait();
        }
    }

    /// SIGTERM, and waits for its end. Gives its exit code.
    pub async fn terminate(&self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// SIGTERM without waiting.
    pub fn begin_to_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end. Gives its exit code.
    pub async fn ended(&self) -> Option<i32> {
        eventually(&format!("{} ends", self.name), || async {
            let mut child = self.child.lock();
            child.as_mut().and_then(|child| child.try_wait().ok().flatten()).map(|status| status.code())
        })
        .await
    }

    /// SIGSTOP: it keeps its sockets and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Files that it has open.
    pub fn files(&self) -> u64 {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        files.unwrap_or_else(|error| panic!("{}: {error}", self.name)).count() as u64
    }

    /// From now on it may have so many files open.
    pub fn limit_files(&self, most: u64) {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        prlimit(Some(self.id()), Resource::Nofile, limit)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.pid().cast_signed()).expect("a process id is not zero")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    fn log_file(&self) -> PathBuf {
        self.directory().join("log")
    }

    /// Everything it has printed so far.
    pub fn log(&self) -> String {
        fs::read(self.log_file())
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Waits for a line of the log with all of `words`, printed since byte `from` of it.
    pub async fn line(&self, words: &[&str], from: usize) -> String {
        eventually(&format!("{} prints {words:?}", self.name), || async {
            let log = self.log();
            let line = log.get(from..)?.lines().find(|line| words.iter().all(|word| line.contains(word)));
            if line.is_none() {
                assert!(self.is_running(), "{} has ended", self.name);
            }
            line.map(str::to_owned)
        })
        .await
    }

    /// Waits for the address that it says it listens on: the field `{name}=` of a line with `listening`.
    pub async fn address(&self, name: &str) -> SocketAddr {
        let field = format!("{name}=");
        let line = self.line(&["listening", &field], 0).await;
        field_of(&line, &field)
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address {name} in: {line}"))
    }
}

/// The value of a field, with or without quotes.
fn field_of<'a>(line: &'a str, field: &str) -> Option<&'a str> {
    let words = line.split([' ', ',', '{', '}']);
    words
        .map(|word| word.trim_matches('"'))
        .find_map(|word| word.strip_prefix(field))
        .map(|v| v.trim_matches('"'))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            if let Some(kept) = std::env::var_os("MUSTER_TEST_LOGS") {
                let name = format!("{}-", self.name);
                let mut file = tempfile::Builder::new();
                file.prefix(&name).suffix(".log").disable_cleanup(true);
                // Only a help: the last lines are shown below in any case.
                _ = file.tempfile_in(kept).and_then(|mut file| file.write_all(log.as_bytes()));
            }
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            eprintln!("---- {} ----\n{}", self.name, last.join("\n"));
            eprintln!("---- the test failed at {} ----", reason::last());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_with_and_without_quotes() {
        let line =
            r#"2026-01-01T00:00:00Z  INFO listening plane="control" api=127.0.0.1:30100 admin="[::1]:9""#;
        assert_eq!(field_of(line, "api="), Some("127.0.0.1:30100"));
        assert_eq!(field_of(line, "admin="), Some("[::1]:9"));
        assert_eq!(field_of(line, "plane="), Some("control"));
        assert_eq!(field_of(line, "lane="), None);
    }

    #[tokio::test]
    async fn a_process_is_stopped_and_ended_by_its_id() {
        let process = Process::installed("sleep", "coreutils").args(["60"]);
        process.start();
        assert!(process.is_running());
        process.freeze();
        assert!(process.is_running());
        process.thaw();
        assert_eq!(process.terminate().await, None, "ended by a signal");
        assert!(!process.is_running());
    }
}
