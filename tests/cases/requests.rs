//! One request is found again in the logs of every process that it went through.

use harness::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_found_by_its_id_in_the_logs_of_both_planes() {
    // A switch has no value of its own; the next flag stands in its place.
    let switch = "--log-access";
    let next = "--log-format=text";
    let world = World::with().plane_flag(switch, next).gateway_flag(switch, next).start().await;
    let client = world.client(0);
    let path = "/v4/default/registry/microservices/nobody";
    let headers = [("X-Request-Id", "my-own.id_1"), ("Authorization", "Bearer hush")];
    let answer = client
        .try_send("GET", &format!("{path}?token=hush"), &headers, String::new())
        .await
        .expect("an answer");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.headers["x-request-id"], "my-own.id_1");
    for node in world.gateways.iter().chain(&world.control_planes) {
        let line = eventually("the request is in the log", || async {
            let log = node.process.log();
            log.lines().find(|line| line.contains("my-own.id_1")).map(str::to_owned)
        })
        .await;
        assert!(line.contains(path) && line.contains("GET") && line.contains("400"), "{line}");
        assert!(!node.process.log().contains("hush"), "no secret is logged");
    }
    // A request without an id is given one of its own.
    let one = client.get(path).await;
    let two = client.get(path).await;
    assert_ne!(one.headers["x-request-id"], two.headers["x-request-id"]);
    // An error that is not the client's names its request.
    world.control_planes[0].process.kill();
    let refused = client.get(path).await;
    let id = refused.headers["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains(&format!("(request {id})")), "{}", refused.text());
}
