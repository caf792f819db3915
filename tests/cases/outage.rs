//! Service while the store or the bus is away.

use harness::{Answer, Client, Direction, Node, Pair, World, eventually};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_reads_go_on_and_watchers_stay() {
    let world = World::with().start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let provider = client.service("order").await;
    client.instance(&provider, "i").await;
    let rev = client.find(&consumer, "order", "").await.revision().to_owned();
    let mut watcher = world.watch(0, &consumer).await;
    world.etcd.kill();
    let pulled = client.find(&consumer, "order", &rev).await;
    assert_eq!(pulled.status, 200, "nothing vanishes, and nothing is claimed to be unchanged");
    assert_eq!(pulled.ok()["instances"][0]["instanceId"], "i");
    let body = json!({"service": {"appId": "shop", "serviceName": "late", "version": "1.0.0"}});
    let refused = client.call("POST", "/microservices", "", &body).await;
    assert!(refused.text().contains(r#""errorCode":"500011""#), "{} {}", refused.status, refused.text());
    let alarms = client.get("/v4/default/admin/alarms").await.ok();
    assert!(alarms.to_string().contains("BackendConnectionRefuse"), "{alarms}");
    // Control planes answer that do not know whether it still holds.
    let stale = world.gateways[0].metric("muster_edge_finds_total", r#"answered="stale""#).await;
    let read = async |path: &str| client.call("GET", path, &consumer, &Value::Null).await;
    let find = "/instances?appId=shop&serviceName=order&version=0%2B";
    let instances = format!("/microservices/{provider}/instances");
    for path in [find, "/microservices", &instances] {
        let marked = eventually("what nobody confirms is marked", || async {
            let answer = read(path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            answer.headers.contains_key("warning").then_some(answer)
        })
        .await;
        assert!(marked.headers.contains_key("age"), "{path}: {:?}", marked.headers);
    }
    assert!(world.gateways[0].metric("muster_edge_finds_total", r#"answered="stale""#).await > stale);
    assert!(!read("/version").await.headers.contains_key("warning"), "a process knows its version");
    world.etcd.restart().await;
    eventually("writes go on", || async {
        let path = format!("/microservices/{provider}/instances/i/properties");
        let answer = client.call("PUT", &path, "", &json!({"properties": {"tag": "back"}})).await;
        (answer.status == 200).then_some(())
    })
    .await;
    watcher.expect("UPDATE", "i", "back").await;
    for path in [find, "/microservices", &instances] {
        eventually("what is confirmed again has no mark", || async {
            (!read(path).await.headers.contains_key("warning")).then_some(())
        })
        .await;
    }
}

/// A batch of finds of these providers, by a client that has these revisions, and of one instance.
fn batch_of(providers: &[(&str, &str)], service: &str, instance: &str) -> Value {
    let finds = providers.iter().map(
        |(name, rev)| json!({"service": {"appId": "shop", "serviceName": name, "version": "0+"}, "rev": rev}),
    );
    let one = json!({"instance": {"serviceId": service, "instanceId": instance}});
    json!({"services": finds.collect::<Vec<_>>(), "instances": [one]})
}

const BATCH: &str = "/instances/action?type=query";

/// The gateway's answer, once it makes it by itself.
async fn batch_at_the_edge(world: &World, consumer: &str, batch: &Value) -> Answer {
    let client = world.client(0);
    let here = || async {
        let of = async |answered: &str| {
            world.gateways[0].metric("muster_edge_finds_total", &format!("answered=\"{answered}\"")).await
        };
        of("here").await + of("unchanged").await
    };
    eventually("the gateway answers a batch by itself", || async {
        let before = here().await;
        let answer = client.call("POST", BATCH, consumer, batch).await;
        (here().await > before).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_finds_is_the_same_at_both_planes_and_outlives_one() {
    let world = World::with().planes(2).start().await;
    let client = world.client(0);
    let consumer = client.service("cart").await;
    let order = client.service("order").await;
    let stock = client.service("stock").await;
    client.service("empty").await;
    for id in ["a", "b"] {
        client.instance(&order, id).await;
    }
    client.instance(&stock, "c").await;

    let direct = Client::new(world.control_planes[0].api);
    let all = |rev: &str| batch_of(&[("order", ""), ("stock", rev), ("empty", "")], &order, "a");
    let mut revision = String::new();
    for change in 0..4 {
        match change {
            0 => {}
            1 => client.tag(&order, "a", "changed").await,
            2 => client.instance(&stock, "d").await,
            _ => client.unregister(&order, "b").await,
        }
        for batch in [all(""), all(&revision)] {
            let here = batch_at_the_edge(&world, &consumer, &batch).await;
            // It contains every write of this client. The control plane may not have heard of them all.
            let there = direct.call("POST", &format!("{BATCH}&noCache=1"), &consumer, &batch).await;
            assert_eq!(here.text(), there.text(), "after change {change}");
            let header = |answer: &Answer| answer.headers.get("content-type").cloned();
            assert_eq!(header(&here), header(&there));
            let stock = here.ok()["services"]["updated"].as_array().and_then(|all| {
                Some(all.iter().find(|updated| updated["index"] == 1)?["rev"].as_str()?.to_owned())
            });
            revision = stock.unwrap_or(revision);
        }
    }
    let last = batch_at_the_edge(&world, &consumer, &all(&revision)).await;
    assert_eq!(last.ok()["services"]["notModified"], json!([1]));

    for node in &world.control_planes {
        node.process.kill();
    }
    let stale = eventually("the gateway goes by what it knows", || async {
        let answer = client.call("POST", BATCH, &consumer, &all(&revision)).await;
        answer.headers.contains_key("warning").then_some(answer)
    })
    .await;
    assert_eq!((stale.status, stale.text()), (200, last.text()));
    let unknown = batch_of(&[("order", ""), ("nobody", "")], &order, "a");
    let refused = client.call("POST", BATCH, &consumer, &unknown).await;
    assert_eq!(refused.status, 503, "nothing is made up: {}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_services_is_the_same_at_both_planes_and_outlives_one() {
    let world = World::with().planes(2).gateways(2).start().await;
    let client = world.client(0);
    const LIST: &str = "/v4/default/registry/microservices";
    let tag = |answer: &Answer| answer.headers.get("etag").cloned();
    // A control plane that is ready may not have registered the registry itself yet, and no list may change below.
    eventually("the registry lists itself", || async {
        client.get(LIST).await.text().contains("SERVICECENTER").then_some(())
    })
    .await;
    for number in 0..10 {
        let id = client.service(&format!("service-{number}")).await;
        let here = client.get(LIST).await;
        assert!(here.text().contains(&id), "a client finds what it wrote through this gateway");
        assert_eq!(client.get(LIST).await.text(), here.text());
    }
    let last = client.get(LIST).await;
    let confirmed = world.gateways[0].metric("muster_edge_lists_total", r#"answered="here""#).await;
    assert!(confirmed >= 10.0, "{confirmed} of 21 were sent again");
    for node in &world.control_planes {
        let direct = Client::new(node.api);
        // It may not have heard of the last one.
        let there = eventually("the lists are the same", || async {
            let there = direct.get(LIST).await;
            (there.text() == last.text()).then_some(there)
        })
        .await;
        assert_eq!((tag(&there).is_some(), tag(&there)), (true, tag(&last)));
    }

    for node in &world.control_planes {
        node.process.kill();
    }
    let stale = eventually("the gateway goes by what it knows", || async {
        let answer = client.get(LIST).await;
        answer.headers.contains_key("warning").then_some(answer)
    })
    .await;
    assert_eq!((stale.status, stale.text()), (200, last.text()));
    assert_eq!(world.client(1).get(LIST).await.status, 503, "the other one was never asked for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bus_the_registry_serves_and_nothing_is_lost() {
    let world = World::with().planes(2).start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;
    client.instance(&provider, "before").await;
    watcher.expect("CREATE", "before", "").await;
    world.nats.kill();
    // Nothing can be published now. Afterwards the gateway can learn of these instances only by asking for
    // them.
    for n in 0..20 {
        client.instance(&provider, &format!("during-{n:02}")).await;
    }
    world.nats.restart().await;
    for n in 0..20 {
        watcher.expect("CREATE", &format!("during-{n:02}"), "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_was_lost_is_told_once() {
    let world = World::with().planes(2).linked().start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair_of(0, &["i"]).await;
    let gateway = &world.gateways[0];
    let mut tag = 0;
    for plane in &world.control_planes {
        let store = plane.store.as_ref().expect("its link");
        let before = gateway.metric("muster_edge_forward_retries_total", "").await;
        // What it asks of etcd happens, and it does not learn of it. So the gateway asks the other one.
        store.freeze(Direction::ToClient);
        while gateway.metric("muster_edge_forward_retries_total", "").await == before {
            tag += 1;
            client.tag(&provider, "i", &tag.to_string()).await;
        }
        store.mend().await;
        plane.ready().await;
    }
    client.tag(&provider, "i", "last").await;
    for tag in 1..=tag {
        watcher.expect("UPDATE", "i", &tag.to_string()).await;
    }
    watcher.expect("UPDATE", "i", "last").await;
}

/// Waits until a gateway's admin port answers `/ready` so, with this word as the reason of its condition
/// `bus`.
async fn bus_condition(gateway: &Node, status: u16, reason: &str) {
    let admin = Client::new(gateway.admin);
    eventually(&format!("/ready of {} is {status}: {reason}", gateway.api), || async {
        let answer = admin.try_get("/ready").await?;
        let is_so = answer.status == status && answer.text().contains(reason);
        is_so.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_bus_takes_no_gateway_out_unless_others_have_it() {
    let world = World::with().gateways(2).linked().start().await;
    let [first, second] = &world.gateways[..] else { panic!("two gateways") };
    let links = world.control_planes.iter().chain(&world.gateways).filter_map(|node| node.bus.as_ref());
    let links: Vec<_> = links.collect();
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair(0).await;

    // Only this gateway has lost the bus: the other one pushes, so balancers should use that.
    first.bus.as_ref().expect("its link").cut().await;
    bus_condition(first, 503, "not reachable").await;
    bus_condition(second, 200, "joined").await;

    // Nobody has it. Without a ready gateway, balancers would refuse all registrations and heartbeats.
    for link in &links {
        link.cut().await;
    }
    for gateway in [first, second] {
        bus_condition(gateway, 200, "not reachable for any control plane either").await;
    }
    client.instance(&provider, "during").await;

    for link in &links {
        link.mend().await;
    }
    for gateway in [first, second] {
        bus_condition(gateway, 200, "joined").await;
    }
    watcher.expect("CREATE", "during", "").await;
}

/// The number of the control plane that publishes.
async fn publisher_of(world: &World) -> usize {
    eventually("a control plane publishes", || async {
        for (index, node) in world.control_planes.iter().enumerate() {
            if node.metric("muster_publisher_active", "").await > 0.0 {
                return Some(index);
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_killed_is_replaced_without_a_gap() {
    let world = World::with().planes(2).start().await;
    let client = world.client(0);
    let Pair { provider, mut watcher, .. } = world.pair_of(0, &["i"]).await;
    let publisher = publisher_of(&world).await;
    client.tag(&provider, "i", "0").await;
    watcher.expect("UPDATE", "i", "0").await;
    world.control_planes[publisher].process.kill();
    for n in 1..50 {
        let tag = n.to_string();
        // The gateway may send an attempt to the control plane that was killed before it notices the death.
        eventually("the other control plane takes the write", || async {
            let path = format!("/microservices/{provider}/instances/i/properties");
            let answer = client.call("PUT", &path, "", &json!({"properties": {"tag": tag}})).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    for n in 1..50 {
        watcher.expect("UPDATE", "i", &n.to_string()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_without_its_store_is_passed_by() {
    let world = World::with().planes(2).linked().start().await;
    let client = world.client(0);
    let provider = client.service("order").await;
    client.instance_with(&provider, "i", 300).await;
    let heartbeat = format!("/microservices/{provider}/instances/i/heartbeat");
    let lonely = &world.control_planes[0];
    let link = lonely.store.as_ref().expect("a world of links");
    // Half open, as after a firewall has forgotten the connection: nothing is refused, and nothing comes.
    link.freeze(Direction::ToServer);
    link.freeze(Direction::ToClient);
    for n in 0..50 {
        let answer = client.call("PUT", &heartbeat, "", &serde_json::Value::Null).await;
        assert_eq!(answer.status, 200, "heartbeat {n} of a live instance: {}", answer.text());
    }
    let gateway = &world.gateways[0];
    eventually("the lonely control plane says that it is not ready", || async {
        (gateway.metric("muster_edge_control_planes_ready", "").await == 1.0).then_some(())
    })
    .await;
    for n in 0..50 {
        let id = format!("new-{n:02}");
        client.instance(&provider, &id).await;
        let read = client.get(&format!("/v4/default/registry/microservices/{provider}/instances/{id}")).await;
        assert_eq!(
            read.status,
            200,
            "a find is answered by the replica that follows the store: {}",
            read.text()
        );
    }
    link.mend().await;
    eventually("it is ready again", || async {
        (gateway.metric("muster_edge_control_planes_ready", "").await == 2.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_is_older_than_the_one_before_while_a_replica_lags() {
    let world = World::with().planes(2).linked().plane_flag("--registry-store-grace", "1m").start().await;
    let client = world.client(0);
    // Its bookmarks would tell the gateway of the change.
    let publisher = publisher_of(&world).await;
    let [lagging, current] = [publisher, 1 - publisher].map(|number| &world.control_planes[number]);
    let service = client.service("order").await;
    // Not by way of the gateway from here on, which would require its own writes of each read.
    let elsewhere = Client::new(current.api);
    let list = "/v4/default/registry/microservices".to_owned();
    let one = format!("{list}/{service}");
    let write = async |value: &str| {
        let properties = json!({"properties": {"value": value}});
        elsewhere.call("PUT", &format!("/microservices/{service}/properties"), "", &properties).await.ok();
    };
    let shows = async |path: &String, value: &str| {
        client.get(path).await.text().contains(&format!("\"value\":\"{value}\""))
    };
    write("before").await;
    // The gateway knows nothing of a write that passed it by, so its first read may be older.
    eventually("the first write is shown", || async { shows(&list, "before").await.then_some(()) }).await;
    eventually("both control planes answer requests of the gateway", || async {
        assert!(shows(&list, "before").await, "a list is no older than the one before");
        let lists = ("service_center_http_request_total", "api=\"ListService\"");
        let [of_lagging, of_current] =
            [lagging, current].map(|plane| async { plane.metric(lists.0, lists.1).await });
        (of_lagging.await > 0.0 && of_current.await > 0.0).then_some(())
    })
    .await;
    // It still takes requests, and does not know yet that it hears of nothing.
    lagging.store.as_ref().expect("a world of links").freeze(Direction::ToClient);
    write("after").await;
    for path in [&one, &list] {
        eventually("a read shows the change", || async { shows(path, "after").await.then_some(()) }).await;
        for read in 0..8 {
            assert!(shows(path, "after").await, "read {read} of {path} shows what was before");
        }
    }
}
