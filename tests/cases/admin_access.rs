//! The admin ports of both planes: accounts with the right `ops` may use them, and every act is recorded.

use harness::{Client, World, eventually};
use serde_json::{Value, json};

use crate::key_files::{KeyFiles, ROOT_PASSWORD};
use crate::operate::{muster, write};

const ADMIN_TOKEN: &str = "hunter2hunter2";

async fn token(client: &Client, name: &str) -> Option<String> {
    let body = json!({"name": name, "password": ROOT_PASSWORD}).to_string();
    let answer = client.try_send("POST", "/v4/token", &[], body).await?;
    (answer.status == 200).then(|| answer.ok()["token"].as_str().expect("a token").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_with_ops_operate_both_planes_and_are_recorded() {
    let directory = tempfile::tempdir().expect("a directory");
    let audit = |plane: &str| directory.path().join(plane).display().to_string();
    let keys = KeyFiles::new();
    let world = keys
        .guard(World::with())
        .plane_flag("--admin-token", ADMIN_TOKEN)
        .gateway_flag("--admin-token", ADMIN_TOKEN)
        .plane_flag("--audit-file", &audit("plane"))
        .gateway_flag("--audit-file", &audit("gateway"))
        .start()
        .await;
    let registry = Client::new(world.gateways[0].api);
    let root = eventually("root logs in", || token(&registry, "root")).await;
    let headers = [("authorization", format!("Bearer {root}"))];
    let headers = [("authorization", headers[0].1.as_str())];
    for (name, kind) in [("operator", "ops"), ("reader", "service")] {
        let perms = json!([{"resources": [{"type": kind}], "verbs": ["get"]}]);
        let role = json!({"name": name, "perms": perms}).to_string();
        registry.try_send("POST", "/v4/roles", &headers, role).await.expect("an answer").ok();
        let account = json!({"name": name, "password": ROOT_PASSWORD, "roles": [name]}).to_string();
        registry.try_send("POST", "/v4/accounts", &headers, account).await.expect("an answer").ok();
    }
    let operator = token(&registry, "operator").await.expect("logs in");
    let reader = token(&registry, "reader").await.expect("logs in");

    let admins = [("plane", &world.control_planes[0]), ("gateway", &world.gateways[0])];
    for (plane, node) in admins {
        let admin = Client::new(node.admin);
        let ask = async |method: &str, path: &str, token: &str| {
            let header = format!("Bearer {token}");
            let headers = [("authorization", header.as_str())];
            admin.try_send(method, path, &headers, String::new()).await.expect("an answer")
        };
        eventually("the account is known here", || async {
            (ask("GET", "/config", &operator).await.status == 200).then_some(())
        })
        .await;
        assert_eq!(ask("GET", "/known", &operator).await.status, 200, "{plane}");
        for (method, path, token) in [
            ("POST", "/drain", operator.as_str()),
            ("POST", "/drain", reader.as_str()),
            ("GET", "/config", reader.as_str()),
            ("GET", "/known", "x"),
            ("GET", "/access", ""),
        ] {
            let answer = ask(method, path, token).await;
            assert_eq!(answer.status, 403, "{plane}: {method} {path}: {}", answer.text());
        }
        assert_eq!(ask("GET", "/config", ADMIN_TOKEN).await.status, 200, "{plane}");
        let state = ask("GET", "/access", &root).await.ok();
        assert_eq!((&state[0]["state"], &state[0]["demanded"]), (&json!("guarded"), &json!(true)), "{state}");
        assert_eq!(state[0]["keys"].as_array().map(Vec::len), Some(1), "{state}");

        // A refusal is recorded with the account; the request was let through by nothing.
        let record = eventually("the refused drain is recorded", || async {
            let text = std::fs::read_to_string(audit(plane)).expect("the file is there");
            assert!(!text.contains(&operator) && !text.contains(ADMIN_TOKEN), "a token is in the file");
            let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            records.find(|record| record["path"] == "/drain" && record["account"] == "operator")
        })
        .await;
        assert_eq!(
            (&record["plane"], &record["decision"], &record["status"], record.get("means")),
            (&json!("admin"), &json!("denied"), &json!(403), None)
        );
    }

    // The commands take the login of the registry to the admin ports.
    let password = write(directory.path(), "password", ROOT_PASSWORD);
    let credentials = directory.path().join("credentials.json").display().to_string();
    let server = format!("http://{}", world.gateways[0].api);
    let login = ["login", "--server", &server, "--credentials", &credentials, "--password-file", &password];
    let (status, text) = muster(&[&login[..], &["--account", "root"]].concat()).await;
    assert_eq!(status, 0, "{text}");
    let both = format!("http://{},http://{}", world.control_planes[0].admin, world.gateways[0].admin);
    let as_root = ["--server", &server, "--credentials", &credentials];
    let (status, text) = muster(&[&["diff", "--admin", &both], &as_root[..]].concat()).await;
    assert_eq!(status, 0, "{text}");
    let (_, text) = muster(&["diff", "--admin", &both]).await;
    assert!(text.contains("right `ops`"), "{text}");
    let (_, text) = muster(&[&["doctor", "--admin", &both], &as_root[..]].concat()).await;
    for line in ["access at the control plane", "access at the gateway", "all decide by the same policy"] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    let (_, text) = muster(&["doctor", "--admin", &both]).await;
    assert!(text.contains("shown to operators only"), "{text}");

    let gateway = format!("http://{}", world.gateways[0].admin);
    let (status, text) = muster(&[&["drain", &gateway], &as_root[..]].concat()).await;
    assert!(status == 0 && text.contains("has drained after"), "{text}");
    let text = std::fs::read_to_string(audit("gateway")).expect("the file is there");
    let mut records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let drained = records.find(|record| record["path"] == "/drain" && record["decision"] == "allowed");
    let drained = drained.unwrap_or_else(|| panic!("the drain is not recorded: {text}"));
    assert_eq!((&drained["account"], &drained["means"]), (&json!("root"), &json!("account")));
}
