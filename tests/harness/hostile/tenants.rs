//! Requests that name another tenant than their own: in a body, by an id, or with the header of their tenant among
//! those that belong to one connection only.

use std::io;

use tokio::io::AsyncWriteExt as _;

use super::visit::{Visit, hold, post, request, upgrade};

/// Headers by which the planes decide. A proxy that removed them would send on a request of somebody else.
const NAMED: &str = "X-Domain-Name, X-Forwarded-For, X-ConsumerId, Authorization, Host, Content-Length";

pub(super) async fn confused(visit: &Visit) -> io::Result<()> {
    let victim = &visit.site.victim;
    if visit.is_at_gateway() {
        let mut stream = visit.connect().await?;
        let path = format!("/microservices/{}/watcher", victim.consumer);
        stream.write_all(&upgrade(&path, &format!(", {NAMED}"))).await?;
        if hold(&mut stream).await.contains(&victim.provider) {
            visit.note_had("an event of another tenant");
        }
    }
    // The consumer has a namesake here, or its declaration would be refused before anything is decided.
    let key = format!(r#""appId":"shop","serviceName":"{}","version":"1.0.0""#, victim.consumer_name);
    let namesake = format!(r#"{{"service":{{{key}}}}}"#);
    let of_others = format!(r#"{{"tenant":"default/default",{key}}}"#);
    let none = format!(r#"{{"dependencies":[{{"consumer":{of_others},"providers":[]}}]}}"#);
    let all =
        format!(r#"{{"dependencies":[{{"consumer":{of_others},"providers":[{{"serviceName":"*"}}]}}]}}"#);
    let connection = format!("Connection: {NAMED}\r\n");
    let service = format!("/microservices/{}?force=1", victim.provider);
    let instances = format!("/microservices/{}/instances", victim.provider);
    for request in [
        post("/microservices", namesake.len(), &namesake),
        request("PUT", "/dependencies", "", none.len(), &none),
        request("POST", "/dependencies", "", all.len(), &all),
        request("DELETE", &service, &connection, 0, ""),
        request("GET", &instances, &connection, 0, ""),
    ] {
        let mut stream = visit.connect().await?;
        if stream.write_all(&request).await.is_ok() && hold(&mut stream).await.contains("fixed-0") {
            visit.note_had("instances of another tenant");
        }
    }
    Ok(())
}
