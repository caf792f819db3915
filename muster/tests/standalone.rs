//! The binary in the hands of a new user: a registry, a watch, a load, an end and a restart.

#![expect(clippy::disallowed_methods, reason = "a test ends with its runtime, which ends its tasks")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// The deadline of every wait.
const DEADLINE: Duration = Duration::from_secs(60);

fn muster(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    // The settings of the developer's shell must not change the result.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command
}

/// Reads lines until `wanted` picks something from one.
async fn find<T>(lines: &mut (impl AsyncBufRead + Unpin), wanted: impl Fn(&str) -> Option<T>) -> T {
    let searching = async {
        let mut line = String::new();
        let mut seen = String::new();
        while lines.read_line(&mut line).await.expect("is readable") > 0 {
            if let Some(found) = wanted(&line) {
                return found;
            }
            seen.push_str(&line);
            line.clear();
        }
        panic!("ended after:\n{seen}")
    };
    timeout(DEADLINE, searching).await.expect("comes in time")
}

struct RunningCommand {
    child: Child,
    out: BufReader<ChildStdout>,
    notes: BufReader<ChildStderr>,
}

fn start(arguments: &[&str]) -> RunningCommand {
    let mut child = muster(arguments).spawn().expect("starts");
    let out = BufReader::new(child.stdout.take().expect("is piped"));
    let notes = BufReader::new(child.stderr.take().expect("is piped"));
    RunningCommand { child, out, notes }
}

/// Starts a registry on a free port. Returns it with its address.
async fn registry(data: &Path) -> (RunningCommand, String) {
    let data = data.to_str().expect("is text");
    let mut running =
        start(&["standalone", "--listen", "127.0.0.1:0", "--data-dir", data, "--log-level", "warn"]);
    let address = find(&mut running.out, |line| {
        let rest = line.split("ready at ").nth(1)?;
        Some(rest.split([' ', '\n']).next().unwrap_or_default().to_owned())
    });
    let address = address.await;
    (running, address)
}

impl RunningCommand {
    async fn end(mut self) -> Option<i32> {
        let id = self.child.id().expect("runs").to_string();
        let killed = Command::new("kill").args(["-TERM", &id]).status().await.expect("kill is there");
        assert!(killed.success());
        // The logs are read until the end, so that the process cannot block on a full pipe.
        let reading = tokio::spawn(async move {
            while self.notes.read_line(&mut String::new()).await.is_ok_and(|n| n > 0) {}
        });
        let status = timeout(DEADLINE, self.child.wait()).await.expect("ends in time").expect("is ours");
        reading.await.expect("ends");
        status.code()
    }
}

async fn json(arguments: &[&str], server: &str) -> Value {
    let arguments = [arguments, &["--server", server, "--output", "json"]].concat();
    let done = timeout(DEADLINE, muster(&arguments).output()).await.expect("ends in time").expect("starts");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("is JSON")
}

#[tokio::test]
async fn a_registry_pushes_bears_a_load_and_survives_a_restart() {
    let data = tempfile::tempdir().expect("is made");
    let (server, url) = registry(data.path()).await;

    let consumer = json(&["register", "--name", "consumer"], &url).await;
    let consumer = consumer["serviceId"].as_str().expect("has an id").to_owned();
    let watch =
        ["watch", "--service", &consumer, "--provider", "provider", "--server", &url, "--output", "json"];
    let mut watch = start(&watch);
    find(&mut watch.notes, |line| line.contains("watching").then_some(())).await;
    json(&["register", "--name", "provider", "--endpoint", "rest://10.0.0.7:8080"], &url).await;
    let frame: Value = find(&mut watch.out, |line| {
        let frame: Value = serde_json::from_str(line).ok()?;
        frame.get("instance").is_some().then_some(frame)
    })
    .await;
    assert_eq!(frame["key"]["serviceName"], "provider");
    assert_eq!(frame["instance"]["endpoints"][0], "rest://10.0.0.7:8080");
    assert_eq!(watch.end().await, Some(0));

    let load = [
        "loadgen",
        "--watchers",
        "20",
        "--consumers",
        "2",
        "--providers",
        "3",
        "--rate",
        "50",
        "--for",
        "1s",
        "--source",
        "127.0.0.2-127.0.0.4",
    ];
    let report = json(&load, &url).await;
    assert_eq!(report["watchers_settled"], 20, "{report}");
    assert_eq!(report["sources"], 3, "{report}");
    for none in ["watchers_lost", "frames_out_of_order", "frames_told_twice", "changes_merged_or_missed"] {
        assert_eq!(report[none], 0, "{none}: {report}");
    }

    let findings = json(&["doctor"], &url).await;
    let states: Vec<_> =
        findings.as_array().expect("is a list").iter().map(|finding| finding["state"].clone()).collect();
    assert_eq!(states, ["ok"; 12], "{findings}");
    for dialect in ["xds", "http-sd", "eureka", "sse"] {
        let told = findings.as_array().into_iter().flatten().find(|finding| finding["check"] == dialect);
        let detail = told.map(|finding| finding["detail"].to_string()).unwrap_or_default();
        assert!(detail.contains("that a find has"), "{dialect}: {findings}");
    }

    assert_eq!(server.end().await, Some(0));
    let (server, url) = registry(data.path()).await;
    let services = json(&["services"], &url).await;
    let names: Vec<_> = services
        .as_array()
        .expect("is a list")
        .iter()
        .map(|service| service["serviceName"].clone())
        .collect();
    assert!(names.contains(&"provider".into()) && names.contains(&"consumer".into()), "{names:?}");
    assert!(
        names.iter().all(|name| !name.as_str().unwrap_or_default().starts_with("provider-")),
        "{names:?}"
    );
    assert_eq!(server.end().await, Some(0));
}

#[tokio::test]
async fn a_dialect_is_shown_as_its_clients_are_told() {
    let data = tempfile::tempdir().expect("is made");
    let (server, url) = registry(data.path()).await;
    let mut watch =
        start(&["watch", "--app", "shop", "--as", "http-sd", "--server", &url, "--output", "json"]);
    async fn told(watch: &mut RunningCommand) -> Vec<String> {
        let list: Vec<Value> = find(&mut watch.out, |line| serde_json::from_str(line).ok()).await;
        list.iter().map(|group| group["targets"][0].as_str().expect("is a target").to_owned()).collect()
    }
    assert_eq!(told(&mut watch).await, [""; 0]);
    let register = |name: &'static str, endpoint: &'static str| {
        ["register", "--app", "shop", "--name", name, "--endpoint", endpoint]
    };
    json(&register("order", "rest://10.0.0.7:8080"), &url).await;
    assert_eq!(told(&mut watch).await, ["10.0.0.7:8080"]);
    json(&register("cart", "rest://10.0.0.8:8080"), &url).await;
    assert_eq!(told(&mut watch).await.len(), 2);
    assert_eq!(watch.end().await, Some(0));

    let found = json(&["find", "--app", "shop", "--name", "order", "--as", "http-sd"], &url).await;
    assert_eq!(found[0]["targets"][0], "10.0.0.7:8080", "{found}");
    assert_eq!(found[0]["labels"]["__meta_muster_service"], "order", "{found}");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    let found = json(&["find", "--app", "shop", "--name", "order", "--as", "eureka"], &url).await;
    assert_eq!(found["applications"]["application"][0]["name"], "ORDER", "{found}");
    assert_eq!(found["applications"]["apps__hashcode"], "UP_1_", "{found}");
    let found = json(&["find", "--app", "shop", "--name", "order", "--as", "xds"], &url).await;
    let kinds: Vec<_> = found
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (&one["name"], &one["resource"]["@type"]))
        .collect();
    assert_eq!(kinds.len(), 6, "two clusters with endpoints, a listener and a route: {found}");
    let address = &found[2]["resource"]["endpoints"][0]["lbEndpoints"][0]["endpoint"]["address"];
    assert_eq!(
        address["socketAddress"],
        serde_json::json!({"address": "10.0.0.7", "portValue": 8080}),
        "{found}"
    );
    assert!(found[2]["version"].as_str().is_some_and(|version| version.contains('-')), "{found}");
    let nobody = json(&["find", "--app", "shop", "--name", "nobody", "--as", "xds"], &url).await;
    assert_eq!(nobody, serde_json::json!([]));
    assert_eq!(server.end().await, Some(0));
}

#[tokio::test]
async fn a_load_goes_on_over_the_death_of_its_registry() {
    for resume in [false, true] {
        let data = tempfile::tempdir().expect("is made");
        let (mut server, url) = registry(data.path()).await;
        let listen = url.strip_prefix("http://").expect("is http").to_owned();
        let mut load =
            ["loadgen", "--server", &url, "--output", "json", "--watchers", "20", "--consumers", "2"]
                .to_vec();
        load.extend(["--providers", "3", "--rate", "50", "--for", "3s", "--settle", "40s"]);
        if resume {
            load.push("--resume");
        }
        let mut load = start(&load);
        find(&mut load.notes, |line| line.contains("making changes").then_some(())).await;
        server.child.kill().await.expect("is killed");
        let data = data.path().to_str().expect("is text");
        let again = start(&["standalone", "--listen", &listen, "--data-dir", data, "--log-level", "warn"]);

        let mut report = String::new();
        timeout(DEADLINE, load.out.read_to_string(&mut report))
            .await
            .expect("ends in time")
            .expect("is text");
        let status = timeout(DEADLINE, load.child.wait()).await.expect("ends in time").expect("is ours");
        let report: Value = serde_json::from_str(&report).expect("is JSON");
        // Failures are told by the exit status too.
        assert_eq!(status.code(), Some(1), "{report}");
        let total = |name: &str| {
            let kinds = report[name].as_object().expect(name);
            kinds.values().map(|number| number.as_u64().expect("is a number")).sum::<u64>()
        };
        assert!(total("changes_failed") > 0 && report["changes"].as_u64() > Some(0), "{report}");
        assert!(report["without_answer"]["longest_ms"].as_f64() > Some(0.0), "{report}");
        assert!(total("connections_lost") >= 20, "{report}");
        assert_eq!(
            (&report["watchers_settled"], &report["watchers_lost"]),
            (&20.into(), &0.into()),
            "{report}"
        );
        assert_eq!(report["frames_out_of_order"], 0, "{report}");
        assert_eq!(report["frames_told_twice"], 0, "{report}");
        if resume {
            assert_eq!(report["changes_missed_while_away"], 0, "{report}");
        }
        assert_eq!(again.end().await, Some(0));
    }
}

#[tokio::test]
async fn mistakes_in_the_settings_are_reported_together() {
    let done = muster(&["standalone", "--grace", "soon", "--watch-ping-interval", "1ms"]).output().await;
    let done = done.expect("starts");
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(64), "{errors}");
    assert!(
        errors.contains("--grace: `soon`") && errors.contains("--watch-ping-interval: `1ms`"),
        "{errors}"
    );
}
