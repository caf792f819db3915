//! Drains in a fleet: the mark outlives the gateway that has set it, whatever happens to the processes.

use harness::{Client, World, eventually};
use serde_json::Value;

use crate::operate::muster;

/// The status of the instance as clients see it, and the number of overrides that take it.
async fn seen(client: &Client, provider: &str) -> (String, usize) {
    let path = format!("/v4/default/registry/microservices/{provider}/instances/i/overrides");
    let found = client.get(&path).await.ok();
    let status = found["instance"]["status"].as_str().unwrap_or_default().to_owned();
    (status, found["overrides"].as_array().map_or(0, Vec::len))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_its_gateway_and_is_given_back() {
    let world = World::with().planes(2).gateways(2).start().await;
    let pair = world.pair_of(0, &["i"]).await;
    let provider = &pair.provider;
    let servers: Vec<String> =
        world.gateways.iter().map(|gateway| format!("http://{}", gateway.api)).collect();
    let of = ["--service", provider, "--instance", "i"];
    // An operator's own override of the same instance.
    let wish = ["--status", "testing", "--weight", "7", "--reason", "a trial"];
    let (status, text) =
        muster(&[&["override", "set", "--server", &servers[0]], &of[..], &wish].concat()).await;
    assert_eq!(status, 0, "{text}");

    // The watcher of the pair reads nothing, so the drain is under way when its gateway dies.
    let first = tokio::spawn({
        let words: Vec<String> = [&["drain", "instance", "--server", &servers[0]], &of[..], &["--give-back"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
        async move { muster(&words.iter().map(String::as_str).collect::<Vec<_>>()).await }
    });
    let client = world.client(1);
    eventually("the instance is marked", || async {
        (seen(&client, provider).await == ("OUTOFSERVICE".to_owned(), 2)).then_some(())
    })
    .await;
    world.gateways[0].process.kill();

    // Neither a registration nor a fail-over undoes the mark.
    client.tag(provider, "i", "again").await;
    let publisher = world.publisher().await;
    publisher.process.kill();
    publisher.process.start();
    publisher.ready().await;
    assert_eq!(seen(&client, provider).await, ("OUTOFSERVICE".to_owned(), 2));
    let (status, listed) = muster(&["override", "list", "--server", &servers[1]]).await;
    assert!(status == 0 && listed.contains("drain") && listed.contains("a trial"), "{listed}");

    // The next gateway takes it up. The dead one may have watchers, so nothing is proven within the deadline.
    let again = ["--give-back", "--deadline", "2s", "--output", "json"];
    let (status, text) =
        muster(&[&["drain", "instance", "--server", &servers[1]], &of[..], &again].concat()).await;
    assert_eq!(status, 1, "{text}");
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = lines.next_back().expect("a line");
    assert_eq!((&last["proven"], &last["then"]), (&false.into(), &"given back".into()), "{last}");
    assert_eq!(seen(&client, provider).await, ("TESTING".to_owned(), 1), "exactly what was before");
    first.abort();
}
