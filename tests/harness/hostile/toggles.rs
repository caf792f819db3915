//! A large instance whose status changes all the time: each change writes all of it to the store, and every control
//! plane keeps it in its history.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::visit::{ATTEMPT, Visit, hold_for, request_in};

/// A domain of its own: in that of the others it would wait for its turn behind them.
const DOMAIN: &str = "hostile-writer";
/// The id of the instance's service.
const SERVICE: &str = "hostile-large";
/// The size of its property. The record of an instance has at most 60 KiB; the route of instances takes no such one,
/// but that of services does, with instances.
const SIZE: usize = 56 << 10;
/// The time for one change.
const PACE: Duration = Duration::from_millis(100);
/// The changes after which the pace falls to one in each attempt: 112 MiB, for which the store of a case has
/// room.
const MOST: u64 = 2048;

pub(super) async fn toggle(visit: &Visit) -> io::Result<()> {
    let until = Instant::now() + ATTEMPT;
    let mut stream = visit.connect().await?;
    // One for each client, so that each change is one.
    let id = format!("at-{}", visit.target.port());
    let instances = register(&mut stream, DOMAIN, &id).await?;
    for status in ["DOWN", "UP"].iter().cycle() {
        let path = format!("{instances}/{id}/status?value={status}");
        stream.write_all(&request_in(DOMAIN, "PUT", &path, "", 0, "")).await?;
        let answers = hold_for(&mut stream, PACE).await.matches("HTTP/1.1 200").count();
        let toggled = visit.tally.toggled.fetch_add(answers as u64, Ordering::Relaxed);
        if toggled >= MOST {
            tokio::time::sleep_until(until).await;
        }
        if Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

/// Registers a large instance in this domain, and gives the path of the instances of its service.
pub(super) async fn register(stream: &mut TcpStream, domain: &str, id: &str) -> io::Result<String> {
    let padding = "x".repeat(SIZE);
    let body = format!(
        r#"{{"service":{{"serviceId":"{SERVICE}","serviceName":"s","version":"2.0.0"}},"instances":[{{"instanceId":"{id}","hostName":"h","endpoints":["rest://10.1.1.1:80/{id}"],"properties":{{"p":"{padding}"}}}}]}}"#
    );
    stream.write_all(&request_in(domain, "POST", "/microservices", "", body.len(), &body)).await?;
    hold_for(stream, PACE).await;
    Ok(format!("/microservices/{SERVICE}/instances"))
}
