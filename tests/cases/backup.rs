//! The commands of `docs/operations.md` that save and restore, as they are written there.

use std::path::Path;
use std::process::Command;

use harness::{Client, World, eventually};

use crate::operate::{Registry, muster};

/// The block of commands that the page says is run here under this name, with what differs on this machine.
fn commands(name: &str, differs: &[(&str, &str)]) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, block) = page.split_once(&format!("these commands: {name} -->\n```sh\n")).expect("the block");
    let (block, _) = block.split_once("```").expect("its end");
    differs.iter().fold(block.to_owned(), |block, (from, to)| {
        assert!(block.contains(from), "`{from}` is not in the commands `{name}`");
        block.replace(from, to)
    })
}

fn run(commands: &str, directory: &Path) {
    let output =
        Command::new("sh").args(["-euc", commands]).current_dir(directory).output().expect("a shell");
    assert!(output.status.success(), "{commands}\n{output:?}");
}

async fn has(client: &Client, consumer: &str, wanted: &[&str]) {
    eventually("the registry has what it had", || async {
        let answer = client.try_find(consumer, "order").await.filter(|answer| answer.status == 200)?;
        let instances = answer.ok()["instances"].as_array().cloned().unwrap_or_default();
        let mut ids: Vec<_> =
            instances.iter().filter_map(|instance| instance["instanceId"].as_str()).collect();
        ids.sort_unstable();
        (ids == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_saved_and_restored_by_the_documented_commands() {
    let world = World::with().start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.find(&consumer, "order", "").await.ok();
    // Before the instances: the gateway may hear of a change a little after the reply to its request, and a
    // watch that is opened in between is told of it.
    let mut watcher = world.watch(0, &consumer).await;
    client.instance_with(&provider, "before", 300).await;
    watcher.expect("CREATE", "before", "").await;
    let etcd = &world.etcd;
    let endpoint = format!("http://{}", world.etcd.endpoint());
    run(&commands("save", &[("http://127.0.0.1:2379", &endpoint)]), etcd.directory());

    client.instance_with(&provider, "after", 300).await;
    watcher.expect("CREATE", "after", "").await;
    // So few that the control plane's own writes after the restore bring the store past the revision that it
    // had.
    client.tag(&provider, "after", "seen").await;
    watcher.expect("UPDATE", "after", "seen").await;
    etcd.kill();
    let data = etcd.directory().join("data").display().to_string();
    // The command of the server that is installed: 3.4 has no etcdutl, and 3.6 restores with nothing else.
    let has_etcdutl = Command::new("etcdutl").arg("version").output().is_ok();
    let restore = if has_etcdutl { "restore" } else { "restore of 3.4" };
    run(&commands(restore, &[("/var/lib/etcd", &data)]), etcd.directory());
    etcd.restart().await;

    has(&client, &consumer, &["before"]).await;
    watcher.expect("DELETE", "after", "seen").await;
    // The lease came back with it: the provider goes on as if nothing had happened.
    let path = format!("/microservices/{provider}/instances/before/heartbeat");
    client.call("PUT", &path, "", &serde_json::Value::Null).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_store_is_saved_and_restored_by_a_copy() {
    let registry = Registry::start(&[]).await;
    let client = Client::new(registry.api);
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.instance_with(&provider, "before", 300).await;
    let directory = registry.process.directory().to_owned();
    assert_eq!(registry.process.terminate().await, Some(0));
    run(&commands("copy", &[("muster-data", "data"), ("muster-backup", "backup")]), &directory);
    registry.start_again().await;
    client.instance_with(&provider, "after", 300).await;
    has(&client, &consumer, &["after", "before"]).await;

    assert_eq!(registry.process.terminate().await, Some(0));
    std::fs::remove_dir_all(directory.join("data")).expect("its data");
    run(&commands("copy", &[("muster-data", "backup"), ("muster-backup", "data")]), &directory);
    registry.start_again().await;
    has(&client, &consumer, &["before"]).await;
    let (status, text) = muster(&[
        "instances",
        "--name",
        "order",
        "--app",
        "shop",
        "--server",
        &format!("http://{}", registry.api),
    ])
    .await;
    assert!(status == 0 && text.contains("before") && !text.contains("after"), "{status}: {text}");
}
