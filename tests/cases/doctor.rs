//! `muster doctor` on broken setups: it names the fault, and says what to do.

use harness::port::local;
use harness::{Authority, Client, Etcd, Nats, Process, World, eventually};

use crate::key_files::{KeyFiles, ROOT_PASSWORD};
use crate::operate::{Registry, muster, write, write_identity};

/// The report of the doctor on a program with this configuration file. It must find something.
async fn diagnosis(program: &str, file: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = write(directory.path(), "muster.toml", file);
    let (status, text) =
        muster(&["doctor", "--program", program, "--config", &path, "--timeout", "5s"]).await;
    assert_eq!(status, 1, "{text}");
    text
}

fn ports() -> String {
    format!("listen = '{}'\nadmin-listen = '{}'\n", local(), local())
}

/// The line of a check.
#[track_caller]
fn assert_says(text: &str, check: &str, words: &[&str]) {
    let line = text.lines().find(|line| line.starts_with(check) && line.contains("failed"));
    let line = line.unwrap_or_else(|| panic!("{check} is not named:\n{text}"));
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
}

#[tokio::test]
async fn a_file_with_mistakes() {
    let text = diagnosis("control-plane", "[quota]\nservice = 5\ninstances = 'many'\n").await;
    assert_says(&text, "settings", &["quota.instances", "many"]);
    assert!(text.contains("did you mean `quota.services`"), "{text}");
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = taken.local_addr().expect("is bound");
    let text = diagnosis("standalone", &format!("listen = '{address}'")).await;
    assert_says(&text, "listen", &["is taken", "ss -ltnp"]);
}

#[tokio::test]
async fn a_certificate_that_has_expired() {
    let directory = tempfile::tempdir().expect("a directory");
    let (certificate, key) =
        write_identity(directory.path(), &Authority::new().issue_expired(&["127.0.0.1"]));
    let file = format!("{}[tls]\ncertificate = '{certificate}'\nkey = '{key}'\n", ports());
    assert_says(&diagnosis("standalone", &file).await, "certificate", &["has expired", "put a new one"]);
}

#[tokio::test]
async fn a_key_that_is_not_the_certificates() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let (certificate, _) = write_identity(directory.path(), &authority.issue(&["127.0.0.1"]));
    let key = write(directory.path(), "other.pem", &authority.issue(&["127.0.0.1"]).key_pem);
    let file = format!("{}[tls]\ncertificate = '{certificate}'\nkey = '{key}'\n", ports());
    assert_says(&diagnosis("standalone", &file).await, "settings", &["tls.certificate", "cannot be used"]);
}

#[tokio::test]
async fn more_connections_than_files_may_be_open() {
    // More than any limit of open files under which the test may run.
    let file = format!("{}[watch]\nper-node = 2000000000\n", ports());
    assert_says(&diagnosis("standalone", &file).await, "open files", &["raise it", "LimitNOFILE"]);
}

#[tokio::test]
async fn an_etcd_that_is_not_there() {
    let nats = Nats::start().await;
    let file = format!("{}etcd.endpoints = 'http://{}'\nnats.urls = '{}'\n", ports(), local(), nats.url());
    assert_says(&diagnosis("control-plane", &file).await, "etcd", &["look at etcd.endpoints"]);
}

#[tokio::test]
async fn the_versions_of_the_servers_are_named() {
    let (etcd, nats) = tokio::join!(Etcd::start(), Nats::start());
    let directory = tempfile::tempdir().expect("a directory");
    let file =
        format!("{}etcd.endpoints = 'http://{}'\nnats.urls = '{}'\n", ports(), etcd.endpoint(), nats.url());
    let path = write(directory.path(), "muster.toml", &file);
    let (_, text) = muster(&["doctor", "--program", "control-plane", "--config", &path]).await;
    for server in ["etcd", "nats"] {
        let line = text.lines().find(|line| line.starts_with(server)).expect(server);
        assert!(line.contains(", version ") && !line.contains("failed"), "{line}");
    }
}

#[tokio::test]
async fn a_nats_that_is_not_there() {
    let file = format!("{}nats.urls = 'nats://{}'\n", ports(), local());
    assert_says(&diagnosis("edge-gateway", &file).await, "nats", &["look at nats.urls"]);
}

#[tokio::test]
async fn a_nats_that_knows_another_password() {
    let nats = Nats::launch(&["--user", "muster", "--pass", "right"], None).await;
    let file =
        format!("{}nats.urls = '{}'\nnats.user = 'muster'\nnats.password = 'wrong'\n", ports(), nats.url());
    let text = diagnosis("edge-gateway", &file).await;
    assert_says(&text, "nats", &["refused", "look at nats.user"]);
    assert!(!text.contains("wrong"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_control_planes() {
    let nats = Nats::start().await;
    let api = local();
    let admin = local();
    let gateway = Process::ours("edge-gateway")
        .args(["--nats", &nats.url(), "--listen", &api.to_string(), "--admin-listen", &admin.to_string()])
        .args(["--control-plane", &format!("http://{}", local())]);
    gateway.start();
    eventually("it joins the bus", || async {
        let report = Client::new(admin).try_get("/ready").await?.text();
        report.contains(r#""bus":{"met":true"#).then_some(())
    })
    .await;
    let admin = format!("http://{admin}");
    let (status, text) = muster(&["doctor", "--admin", &admin]).await;
    assert_eq!(status, 1, "{text}");
    assert_says(&text, &format!("{admin} ready"), &["control_plane", "look at control-plane.urls"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_of_two_clusters_on_one_nats() {
    let world = World::with().gateways(0).start().await;
    let other = Etcd::start().await;
    let api = local();
    let admin = local();
    let stranger = Process::ours("control-plane")
        .args(["--etcd", &format!("http://{}", other.endpoint()), "--nats", &world.nats.url()])
        .args(["--listen", &api.to_string(), "--admin-listen", &admin.to_string()]);
    stranger.start();
    world.publisher().await;
    let admins = format!("http://{},http://{admin}", world.control_planes[0].admin);
    eventually("two publishers are named", || async {
        let (_, text) = muster(&["doctor", "--admin", &admins]).await;
        text.contains("different etcd clusters and share one NATS").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_planes_without_a_publisher() {
    let nats = Nats::start().await;
    let api = local();
    let admin = local();
    let plane = Process::ours("control-plane")
        .args(["--etcd", &format!("http://{}", local()), "--nats", &nats.url()])
        .args(["--listen", &api.to_string(), "--admin-listen", &admin.to_string()]);
    plane.start();
    let admin_url = format!("http://{admin}");
    eventually("it serves its admin port", || async { Client::new(admin).try_get("/ready").await }).await;
    let (status, text) = muster(&["doctor", "--admin", &admin_url]).await;
    assert_eq!(status, 1, "{text}");
    assert_says(&text, "publisher", &["nothing is pushed", "etcd"]);
    assert_says(&text, &format!("{admin_url} ready"), &["view", "look at etcd"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_does_not_hear_from_the_publisher() {
    let world = World::with().start().await;
    world.publisher().await;
    let admin = format!("http://{}", world.gateways[0].admin);
    eventually("the gateway is fresh", || async {
        let (_, text) = muster(&["doctor", "--admin", &admin]).await;
        text.contains("heard from the publisher").then_some(())
    })
    .await;
    // Frozen rather than killed: its connections stay open, so only the missing bookmarks give it away.
    world.control_planes[0].process.freeze();
    let text = eventually("the gateway is stale", || async {
        let (status, text) = muster(&["doctor", "--admin", &admin]).await;
        text.contains("no word of the publisher").then_some((status, text))
    })
    .await;
    assert_eq!(text.0, 1, "{}", text.1);
    assert_says(&text.1, &format!("{admin} freshness"), &["look at the control planes", "NATS"]);
}

/// The dialects that share the API's port.
const DIALECTS: [&str; 4] = ["xds", "http-sd", "eureka", "sse"];

/// Each of these dialects is found well, and compared with a find.
#[track_caller]
fn assert_agree(text: &str, dialects: &[&str]) {
    for dialect in dialects {
        assert!(agrees(text, dialect), "{dialect}:\n{text}");
    }
}

fn agrees(text: &str, dialect: &str) -> bool {
    let line = text.lines().find(|line| line.starts_with(dialect));
    line.is_some_and(|line| line.contains("tells the one instance of shop/order that a find has"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialect_that_is_off_is_told_and_is_no_fault() {
    for (index, off) in DIALECTS.into_iter().enumerate() {
        let registry = Registry::start(&[&format!("--{off}"), "false"]).await;
        let client = Client::new(registry.api);
        let service = client.service("order").await;
        client.instance(&service, "i").await;
        let server = format!("http://{}", registry.api);
        let (status, text) = muster(&["doctor", "--server", &server, "--read-only"]).await;
        assert_eq!(status, 0, "{text}");
        let line = text.lines().find(|line| line.starts_with(off)).expect("it is named");
        assert!(line.contains(&format!("the setting `{off}` is off")), "{line}");
        let others = [&DIALECTS[..index], &DIALECTS[index + 1..]].concat();
        assert_agree(&text, &others);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dialects_are_asked_over_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let ca = write(directory.path(), "ca.pem", &authority.certificate_pem());
    let (certificate, key) = write_identity(directory.path(), &authority.issue(&["127.0.0.1"]));
    let registry = Registry::start(&["--tls-certificate", &certificate, "--tls-key", &key]).await;
    let server = format!("https://{}", registry.api);
    let register = Process::ours("muster")
        .args(["register", "--server", &server, "--ca", &ca, "--app", "shop", "--name", "order"])
        .args(["--endpoint", "rest://10.0.0.1:80"]);
    register.start();
    eventually("the instance is there", || async {
        let (_, text) =
            muster(&["find", "--server", &server, "--ca", &ca, "--app", "shop", "--name", "order"]).await;
        text.contains("rest://10.0.0.1:80").then_some(())
    })
    .await;
    let (status, text) = muster(&["doctor", "--server", &server, "--ca", &ca, "--read-only"]).await;
    assert_eq!(status, 0, "{text}");
    assert_agree(&text, &DIALECTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn dialects_are_asked_with_a_login() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = KeyFiles::new();
    let world = keys.guard(World::with()).start().await;
    let password = write(directory.path(), "password", ROOT_PASSWORD);
    let credentials = directory.path().join("credentials.json").display().to_string();
    let server = format!("http://{}", world.gateways[0].api);
    let as_root = ["--server", &server, "--credentials", &credentials];
    let login = [&["login", "--account", "root", "--password-file", &password], &as_root[..]].concat();
    eventually("root logs in", || async { (muster(&login).await.0 == 0).then_some(()) }).await;
    let register = ["register", "--app", "shop", "--name", "order", "--endpoint", "rest://10.0.0.1:80"];
    let register = Process::ours("muster").args(register).args(as_root);
    register.start();
    let doctor = [&["doctor", "--read-only"], &as_root[..]].concat();
    // The dialects are asked one after another, and the instance may come between two of them.
    eventually("the instance is there for each dialect", || async {
        let (_, text) = muster(&doctor).await;
        DIALECTS.iter().all(|dialect| agrees(&text, dialect)).then_some(())
    })
    .await;
    // Without a login nothing is told, and the report says so.
    let (status, text) = muster(&["doctor", "--server", &server, "--read-only"]).await;
    assert!(status == 1 && text.contains("muster login"), "{status} {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_is_told_apart_from_a_gateway() {
    let world = World::with().start().await;
    let server = format!("http://{}", world.control_planes[0].api);
    let (status, text) = muster(&["doctor", "--server", &server]).await;
    assert_eq!(status, 0, "{text}");
    let push = text.lines().find(|line| line.starts_with("push")).expect("the push is tried");
    assert!(push.contains("not served at this address: this is no gateway"), "{push}");
}
