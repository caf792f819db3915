//! Logins, permissions and signatures on the bus.

use std::path::Path;

use futures_util::StreamExt;
use harness::{Authority, Client, Pair, Watcher, World, eventually};
use prost::Message as _;
use proto::event::v1 as pb;

const PERMISSIONS: &str = include_str!("../../deploy/nats/permissions.conf");
const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A configuration of NATS with the shipped permissions and a user for each plane.
fn with_permissions(control_plane: &str, gateway: &str, more: &str) -> String {
    format!(
        "{PERMISSIONS}\nauthorization {{ users = [
           {{ {control_plane}, permissions: $MUSTER_CONTROL_PLANE }}
           {{ {gateway}, permissions: $MUSTER_EDGE_GATEWAY }}
         ] }}\n{more}"
    )
}

/// A system in which changes reach watchers, finds work, and a gateway requests what it has missed.
async fn assert_works(world: &World) -> (Pair, Client) {
    let client = world.client(0);
    let mut pair = world.pair(0).await;
    client.instance(&pair.provider, "i").await;
    pair.watcher.expect("CREATE", "i", "").await;
    // A watch that is opened later begins with requests over the bus.
    let mut late = world.watch(0, &pair.consumer).await;
    client.tag(&pair.provider, "i", "1").await;
    pair.watcher.expect("UPDATE", "i", "1").await;
    late.expect("UPDATE", "i", "1").await;
    (pair, client)
}

/// The event of the change to this tag. The registry has an instance of its own, and an event may be published
/// a second time.
async fn change_to(tag: &str, events: &mut async_nats::Subscriber) -> async_nats::Message {
    loop {
        let message = events.next().await.expect("an event");
        let event = pb::InstanceEvent::decode(message.payload.clone()).expect("an event");
        let instance = event.instance.unwrap_or_default();
        if instance.properties.get("tag").is_some_and(|of_event| of_event == tag) {
            return message;
        }
    }
}

/// An event of the instance `i` as nobody has written it.
async fn forged(client: &async_nats::Client, genuine: &async_nats::Message) {
    let mut event = pb::InstanceEvent::decode(genuine.payload.clone()).expect("an event");
    let at = event.at.as_mut().expect("a position");
    event.prev = Some(*at);
    // Far ahead: a reply to a gateway that asks again names the store's revision, which others raise, and
    // then an event of the next one counts as known.
    at.rev += 1_000_000;
    event.mod_rev = at.rev;
    event.instance.as_mut().expect("an instance").properties.insert("tag".into(), "a lie".into());
    client.publish(genuine.subject.clone(), event.encode_to_vec().into()).await.expect("connected");
    client.flush().await.expect("connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_permissions_are_enough_and_no_more() {
    let plane = r#"user: "plane", password: "p""#;
    let gateway = r#"user: "gateway", password: "g""#;
    let world = World::with()
        .planes(2)
        .nats_configuration(&with_permissions(plane, gateway, ""))
        .plane_flag("--lease-mode", "reported")
        .plane_flag("--nats-user", "plane")
        .plane_flag("--nats-password", "p")
        .gateway_flag("--nats-user", "gateway")
        .gateway_flag("--nats-password", "g")
        .start()
        .await;
    let (mut pair, client) = assert_works(&world).await;
    // With a gateway's login, changes can be read, but none can be published.
    let options = async_nats::ConnectOptions::with_user_and_password("gateway".into(), "g".into());
    let intruder = options.connect(world.nats.url()).await.expect("may connect");
    let mut events = intruder.subscribe("muster.event.>").await.expect("connected");
    intruder.flush().await.expect("connected");
    client.tag(&pair.provider, "i", "2").await;
    pair.watcher.expect("UPDATE", "i", "2").await;
    let genuine = change_to("2", &mut events).await;
    forged(&intruder, &genuine).await;
    client.tag(&pair.provider, "i", "3").await;
    pair.watcher.expect("UPDATE", "i", "3").await;
    // Nor can a tick of a publisher, which would acknowledge what nobody has heard.
    let mut ticks = intruder.subscribe("muster.beats.tick").await.expect("connected");
    let forged = pb::BeatTick { number: u64::MAX, ..pb::BeatTick::default() };
    intruder.publish("muster.beats.tick", forged.encode_to_vec().into()).await.expect("connected");
    intruder.flush().await.expect("connected");
    for _ in 0..2 {
        let tick = ticks.next().await.expect("a tick");
        let tick = pb::BeatTick::decode(tick.payload).expect("a tick");
        assert_ne!(tick.number, u64::MAX);
    }
    answers_heartbeats(&world, &pair).await;
    // The seat is handed over: every replica has its part with these permissions.
    world.publisher().await.process.kill();
    client.tag(&pair.provider, "i", "4").await;
    pair.watcher.expect("UPDATE", "i", "4").await;
    answers_heartbeats(&world, &pair).await;
}

/// Waits until the gateway answers heartbeats by itself, for which its reports have to reach the publisher
/// and to be acknowledged.
async fn answers_heartbeats(world: &World, pair: &Pair) {
    let path = format!("/microservices/{}/instances/i/heartbeat", pair.provider);
    let labels = r#"answered_by="gateway""#;
    let before = world.gateways[0].metric("muster_edge_beats_total", labels).await;
    eventually("the gateway answers heartbeats", || async {
        world.client(0).try_call("PUT", &path, &serde_json::Value::Null).await?;
        (world.gateways[0].try_metric("muster_edge_beats_total", labels).await? > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_log_in_at_the_bus() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let ca = file("ca.pem", &authority.certificate_pem());
    let issue = |name: &str| {
        let identity = authority.issue(&[name]);
        [
            file(&format!("{name}.pem"), &identity.certificate_pem),
            file(&format!("{name}.key"), &identity.key_pem),
        ]
    };
    let [server, server_key] = issue("127.0.0.1");
    let [plane, plane_key] = issue("plane");
    let [gateway, gateway_key] = issue("gateway");
    let tls = format!(
        "tls {{ cert_file: {server:?}, key_file: {server_key:?}, ca_file: {ca:?}, verify_and_map: true }}"
    );
    let world = World::with()
        .nats_configuration(&with_permissions(r#"user: "plane""#, r#"user: "gateway""#, &tls))
        .plane_flag("--nats-ca", &ca)
        .plane_flag("--nats-certificate", &plane)
        .plane_flag("--nats-certificate-key", &plane_key)
        .gateway_flag("--nats-ca", &ca)
        .gateway_flag("--nats-certificate", &gateway)
        .gateway_flag("--nats-certificate-key", &gateway_key)
        .start()
        .await;
    assert_works(&world).await;
}

/// Sends a watcher a forged event, and then a true one.
async fn lie_to(world: &World) -> Pair {
    let (mut pair, client) = assert_works(world).await;
    let intruder = async_nats::connect(world.nats.url()).await.expect("connects");
    let mut events = intruder.subscribe("muster.event.>").await.expect("connected");
    intruder.flush().await.expect("connected");
    client.tag(&pair.provider, "i", "2").await;
    pair.watcher.expect("UPDATE", "i", "2").await;
    let genuine = change_to("2", &mut events).await;
    forged(&intruder, &genuine).await;
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_event_is_dropped_and_counted() {
    // Without keys the lie is told, so the attack is a real one.
    let open = World::with().start().await;
    lie_to(&open).await.watcher.expect("UPDATE", "i", "a lie").await;

    let directory = tempfile::tempdir().expect("a directory");
    let keys = directory.path().join("keys");
    std::fs::write(&keys, KEY).expect("written");
    let keys = keys.display().to_string();
    let world = World::with()
        .plane_flag("--nats-signing-keys", &keys)
        .gateway_flag("--nats-signing-keys", &keys)
        .start()
        .await;
    let mut pair = lie_to(&world).await;
    world.client(0).tag(&pair.provider, "i", "3").await;
    pair.watcher.expect("UPDATE", "i", "3").await;
    // The gateway reads each subscription on its own, so the later event may be pushed before this one is
    // counted.
    eventually("the forged event is counted", || async {
        let refused =
            world.gateways[0].try_metric("muster_bus_refused_total", r#"reason="unsigned""#).await?;
        (refused == 1.0).then_some(())
    })
    .await;
    assert_eq!(world.control_planes[0].metric("muster_bus_refused_total", "").await, 0.0);
}

async fn restart_with(world: &World, configuration: &Path, text: &str, consumer: &str, provider: &str) {
    std::fs::write(configuration, text).expect("written");
    let mut tag = 0;
    for node in world.nodes() {
        node.process.terminate().await;
        node.process.start();
        node.ready().await;
        for gateway in 0..world.gateways.len() {
            let mut watcher: Watcher = world.watch(gateway, consumer).await;
            tag += 1;
            let tag = format!("{}-{tag}", text.len());
            eventually("a control plane takes the write", || async {
                let path = format!("/microservices/{provider}/instances/i/properties");
                let body = serde_json::json!({"properties": {"tag": tag}});
                let answer = world.client(gateway).try_call("PUT", &path, &body).await?;
                (answer.status == 200).then_some(())
            })
            .await;
            watcher.expect("UPDATE", "i", &tag).await;
        }
        for node in world.nodes() {
            let refused = node.metric("muster_bus_refused_total", "").await;
            assert_eq!(refused, 0.0, "{} refuses messages", node.api);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_becomes_signed_by_rolling_restarts() {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = directory.path().join("keys");
    std::fs::write(&keys, KEY).expect("written");
    let configuration = directory.path().join("muster.toml");
    std::fs::write(&configuration, "").expect("written");
    let file = configuration.display().to_string();
    let world = World::with()
        .planes(2)
        .gateways(2)
        .plane_flag("--config", &file)
        .gateway_flag("--config", &file)
        .start()
        .await;
    let Pair { consumer, provider, .. } = world.pair_of(0, &["i"]).await;
    let signed = format!("[nats]\nsigning-keys = {:?}\n", keys.display().to_string());
    for text in [format!("{signed}accept-unsigned = true\n"), signed] {
        restart_with(&world, &configuration, &text, &consumer, &provider).await;
    }
    // Signatures are asked for now.
    let stranger = async_nats::connect(world.nats.url()).await.expect("connects");
    stranger.publish("muster.bookmark", "".into()).await.expect("connected");
    stranger.flush().await.expect("connected");
    eventually("an unsigned bookmark is refused", || async {
        let refused = world.gateways[0].try_metric("muster_bus_refused_total", r#"reason="unsigned""#).await;
        (refused? == 1.0).then_some(())
    })
    .await;
}
