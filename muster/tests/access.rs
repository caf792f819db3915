//! The commands for accounts, roles, tokens and the audit log, against a registry with access control.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PASSWORD: &str = "Complicated_password1";
const OTHER: &str = "Complicated_password2";
const WRONG: &str = "Wrong_password_of_somebody3";
const DEADLINE: Duration = Duration::from_secs(60);

/// A registry, and a directory for the files of its users. It is killed when dropped.
struct Site {
    process: Child,
    server: String,
    directory: tempfile::TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments).stdin(Stdio::null());
    // The settings of the developer's shell must not change the result.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command
}

impl Site {
    fn start(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = std::fs::File::create(directory.path().join("log")).expect("a log");
        let data = directory.path().join("data");
        let data = data.to_str().expect("is text");
        let flags =
            [&["standalone", "--listen", "127.0.0.1:0", "--data-dir", data, "--rbac-enable"], more].concat();
        let process = command(&flags)
            .env("SC_INIT_ROOT_PASSWORD", PASSWORD)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("starts");
        let mut site = Self { process, server: String::new(), directory };
        let mut out = BufReader::new(site.process.stdout.take().expect("is piped"));
        let mut line = String::new();
        while out.read_line(&mut line).expect("is readable") > 0 {
            if let Some(address) = line.split("ready at ").nth(1).and_then(|rest| rest.split(' ').next()) {
                site.server = address.to_owned();
                break;
            }
            line.clear();
        }
        assert!(!site.server.is_empty(), "it has ended: {}", site.file("log"));
        for (name, password) in
            [("root.password", PASSWORD), ("other.password", OTHER), ("wrong.password", WRONG)]
        {
            std::fs::write(site.path(name), password).expect("is written");
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Runs a command as the user of a credentials file, in the directory of the site.
    fn run_as(&self, user: &str, arguments: &[&str]) -> (i32, String, String) {
        let home = self.path(user);
        std::fs::create_dir_all(&home).expect("is made");
        let output = command(arguments)
            .env("MUSTER_SERVER", &self.server)
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", &home)
            .current_dir(self.directory.path())
            .output();
        let Output { status, stdout, stderr } = output.expect("starts");
        let text = |bytes| String::from_utf8(bytes).expect("is text");
        (status.code().expect("is not killed"), text(stdout), text(stderr))
    }

    #[track_caller]
    fn ok(&self, user: &str, arguments: &[&str]) -> String {
        let (status, out, notes) = self.run_as(user, arguments);
        assert_eq!(status, 0, "{arguments:?}: {out}{notes}\n{}", self.file("log"));
        out
    }

    fn json(&self, user: &str, arguments: &[&str]) -> Value {
        let out = self.ok(user, &[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
    }

    fn log_in(&self, user: &str, password_file: &str) -> i32 {
        self.run_as(user, &["login", "--account", user, "--password-file", password_file]).0
    }

    /// Logs root in. The account is made after the registry has become ready, and a login that fails would
    /// count.
    fn root(&self) {
        let made = || self.file("log").contains("the account root has been created").then_some(());
        self.until("the account root is made", made);
        assert_eq!(self.log_in("root", "root.password"), 0, "{}", self.file("log"));
    }

    fn until<T>(&self, what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(reached) = reached() {
                return reached;
            }
            assert!(started.elapsed() < DEADLINE, "{what}: {}", self.file("log"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The records of the audit log that pass these filters.
    fn audit(&self, filters: &[&str]) -> Vec<Value> {
        let (_, out, _) = self.run_as("auditor", &[&["audit", "data", "--json"], filters].concat());
        out.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect()
    }

    fn terminate(&mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill is there").success());
        assert!(self.process.wait().expect("is ours").success(), "{}", self.file("log"));
    }
}

#[test]
fn an_account_lives_and_dies_by_commands() {
    let site = Site::start(&[]);
    site.root();
    site.ok("root", &["role", "create", "viewer", "--allow", "service:get"]);
    let role = site.json("root", &["role", "show", "viewer"]);
    assert_eq!((&role["name"], &role["perms"][0]["verbs"][0]), (&"viewer".into(), &"get".into()), "{role}");
    let create = ["account", "create", "peter", "--role", "viewer", "--password-file", "root.password"];
    site.ok("root", &create);
    assert_eq!(site.log_in("peter", "root.password"), 0);
    site.until("peter may list services", || (site.run_as("peter", &["services"]).0 == 0).then_some(()));
    assert_ne!(site.run_as("peter", &["account", "list"]).0, 0, "a viewer sees no accounts");

    // A role that an account has stays.
    assert_ne!(site.run_as("root", &["role", "delete", "viewer"]).0, 0, "is refused");
    let change = ["account", "update", "peter", "--role", "developer", "--tenant", "default/default"];
    site.ok("root", &change);
    let shown = site.json("root", &["account", "show", "peter"]);
    assert_eq!((&shown["roles"][0], &shown["tenants"][0]), (&"developer".into(), &"default/default".into()));
    site.ok("root", &["role", "delete", "viewer"]);
    assert_ne!(site.run_as("root", &["role", "show", "viewer"]).0, 0);

    // The own password needs the present one, another's does not. Both end the sessions.
    let own = ["account", "password", "peter", "--current-password-file"];
    let wrong = [&own[..], &["wrong.password", "--password-file", "other.password"]].concat();
    assert_ne!(site.run_as("peter", &wrong).0, 0);
    site.ok("peter", &[&own[..], &["root.password", "--password-file", "other.password"]].concat());
    assert_eq!(site.log_in("peter", "other.password"), 0);
    site.ok("root", &["account", "password", "peter", "--password-file", "root.password"]);
    assert_ne!(site.log_in("peter", "other.password"), 0);
    assert_eq!(site.log_in("peter", "root.password"), 0);

    site.ok("root", &["account", "update", "peter", "--status", "inactive"]);
    assert_ne!(site.log_in("peter", "root.password"), 0);
    site.ok("root", &["account", "update", "peter", "--status", "active"]);
    assert_eq!(site.log_in("peter", "root.password"), 0);
    site.ok("root", &["account", "delete", "peter"]);
    assert_ne!(site.run_as("root", &["account", "show", "peter"]).0, 0);
    site.until("the token dies too", || (site.run_as("peter", &["services"]).0 == 77).then_some(()));
}

#[test]
fn a_lock_is_listed_and_ended() {
    let site = Site::start(&[]);
    site.root();
    let create = ["account", "create", "peter", "--role", "developer", "--password-file", "root.password"];
    site.ok("root", &create);
    for _ in 0..3 {
        assert_ne!(site.log_in("peter", "wrong.password"), 0);
    }
    assert_ne!(site.log_in("peter", "root.password"), 0, "is locked");
    let locks = site.json("root", &["account", "locks"]);
    let key = locks
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|lock| lock["key"].as_str())
        .find(|key| key.contains("peter"))
        .unwrap_or_else(|| panic!("{locks}"));
    site.ok("root", &["account", "unlock", key]);
    assert_eq!(site.log_in("peter", "root.password"), 0, "{}", site.file("log"));
}

#[test]
fn a_token_bears_a_load_until_it_is_revoked() {
    let site = Site::start(&[]);
    site.root();
    let made = site.json("root", &["token", "create", "root", "--for", "1h", "--description", "load"]);
    std::fs::write(site.path("load.token"), made["token"].as_str().expect("a token")).expect("is written");
    let load = ["--watchers", "3", "--consumers", "1", "--providers", "1", "--rate", "20", "--for", "1s"];
    let load = [&["loadgen", "--settle", "1s"], &load[..]].concat();
    // Another user, without any login.
    let report = site.json("loader", &[&load[..], &["--token-file", "load.token"]].concat());
    assert!(report.is_object(), "{report}");
    assert_eq!(site.run_as("loader", &load).0, 77, "without a token");

    let listed = site.json("root", &["token", "list", "root"]);
    let id = made["id"].as_str().expect("an id");
    assert!(listed.as_array().expect("a list").iter().any(|token| token["id"] == id), "{listed}");
    site.ok("root", &["token", "revoke", "root", id]);
    let use_it = ["services", "--token-file", "load.token"];
    site.until("the token is refused", || (site.run_as("loader", &use_it).0 == 77).then_some(()));
    assert_ne!(site.run_as("root", &["token", "revoke", "root", id]).0, 0, "it is gone already");
}

#[test]
fn writes_denials_and_logins_are_audited_without_secrets() {
    let mut site = Site::start(&["--audit-max-size", "4KiB", "--audit-keep", "50"]);
    site.root();
    assert_ne!(site.log_in("root", "wrong.password"), 0);
    site.ok(
        "root",
        &["account", "create", "peter", "--role", "developer", "--password-file", "other.password"],
    );
    assert_eq!(site.log_in("peter", "other.password"), 0);
    // Until then it refuses an account that it does not know, and could not name it in the record.
    site.until("the account counts at the gateway", || {
        (site.run_as("peter", &["services"]).0 == 0).then_some(())
    });
    assert_ne!(site.run_as("peter", &["role", "delete", "developer"]).0, 0);
    site.ok("root", &["account", "update", "peter", "--status", "inactive"]);
    let made = site.json("root", &["token", "create", "root", "--for", "1h"]);
    for name in 0..20 {
        site.ok("root", &["register", "--name", &format!("service{name}")]);
    }
    // The gate lets it pass, because a message could name the tenant; the admission refuses it.
    let bound = ["account", "create", "bound", "--role", "developer", "--tenant", "mine/default"];
    site.ok("root", &[&bound[..], &["--password-file", "other.password"]].concat());
    let of_bound = site.json("root", &["token", "create", "bound", "--for", "1h"]);
    let of_bound = of_bound["token"].as_str().expect("a token");
    let head = site.until("the token counts at the gateway", || {
        let head = upgrade(&site.server, of_bound);
        (!head.contains(" 401 ")).then_some(head)
    });
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    // The end of the process writes the rest.
    site.terminate();

    let all = site.audit(&[]);
    let login = site.audit(&["--decision", "denied", "--action", "LoginAccount"]);
    assert_eq!(login.len(), 1, "{all:?}");
    assert_eq!((&login[0]["status"], &login[0]["target"]), (&401.into(), &"/v4/accounts/root".into()));
    assert_eq!((&login[0]["source"], &login[0]["plane"]), (&"127.0.0.1".into(), &"control".into()));
    let denied = site.audit(&["--account", "peter", "--decision", "denied"]);
    assert_eq!(denied.len(), 1, "{all:?}");
    assert_eq!(
        (&denied[0]["method"], &denied[0]["route"]),
        (&"DELETE".into(), &"/v4/roles/{roleName}".into())
    );
    assert_eq!((&denied[0]["plane"], &denied[0]["source"]), (&"edge".into(), &"127.0.0.1".into()));
    assert!(denied[0]["revision"].as_u64() > Some(0), "{denied:?}");

    let accounts = site.audit(&["--account", "root", "--action", "/v4/accounts/peter"]);
    let [created, changed] = &accounts[..] else { panic!("{all:?}") };
    assert_eq!((&created["before"], &created["operation"]), (&Value::Null, &"CreateAccount".into()));
    assert_eq!(created["after"], changed["before"], "the record that the one has written the other has read");
    assert_ne!(changed["before"], changed["after"]);
    assert!(changed["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{changed}");
    assert!(
        site.audit(&["--since", "1h"]).len() == all.len()
            && site.audit(&["--since", "2099-01-01T00:00:00Z"]).is_empty()
    );

    let mut watches = site.audit(&["--account", "bound", "--action", "GET /v4/{project}/registry/watcher"]);
    // A machine so busy that the gateway learns of the token after its patience has refusals before this one.
    watches.retain(|record| record["status"] != 401);
    assert_eq!(watches.len(), 1, "{all:?}");
    assert_eq!((&watches[0]["plane"], &watches[0]["status"]), (&"edge".into(), &403.into()));

    let rotated = std::fs::read_dir(site.path("data")).expect("is listed").filter_map(|entry| {
        let name = entry.expect("is listed").file_name().into_string().ok()?;
        name.starts_with("audit.jsonl").then_some(name)
    });
    let rotated: Vec<String> = rotated.collect();
    assert!(rotated.len() >= 3, "{rotated:?}");
    assert!(all.iter().filter(|record| record["operation"] == "RegisterService").count() >= 20, "{all:?}");
    let text: String = rotated.iter().map(|name| site.file(&format!("data/{name}"))).collect();
    let token = made["token"].as_str().expect("a token");
    for secret in [PASSWORD, OTHER, WRONG, token, "Bearer", "$argon2", "?"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    // Without filters, for people.
    let (status, out, _) = site.run_as("auditor", &["audit", "data/audit.jsonl", "--account", "peter"]);
    assert!(status == 0 && out.contains("denied") && out.contains("/v4/roles/developer"), "{out}");
    assert_eq!(site.run_as("auditor", &["audit", "nothing"]).0, 64);
}

#[test]
fn a_full_disk_loses_records_and_refuses_nobody() {
    let site = Site::start(&["--audit-file", "/dev/full"]);
    site.root();
    site.ok("root", &["register", "--name", "order"]);
    let probe = site.until("the loss is counted", || {
        let metrics = format!("{}/metrics", site.server);
        let text = get(&metrics);
        let failed =
            text.lines().find(|line| line.starts_with("muster_audit_records_total{fate=\"failed\""))?;
        failed.rsplit(' ').next()?.parse::<u64>().ok().filter(|failed| *failed > 0)
    });
    assert!(probe > 0);
    assert!(site.file("log").contains("audit records cannot be written"), "{}", site.file("log"));
}

/// The head of the answer to a WebSocket watch of everything in the default tenant.
fn upgrade(server: &str, token: &str) -> String {
    let host = server.strip_prefix("http://").expect("an address");
    let mut stream = std::net::TcpStream::connect(host).expect("connects");
    let request = format!(
        "GET /v4/default/registry/watcher?all HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("is sent");
    BufReader::new(stream).lines().next().expect("an answer").expect("is text")
}

fn get(url: &str) -> String {
    let rest = url.strip_prefix("http://").expect("an address");
    let (host, path) = rest.split_once('/').expect("a path");
    let mut stream = std::net::TcpStream::connect(host).expect("connects");
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("is answered");
    answer
}
