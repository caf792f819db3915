//! Watches of what does not exist, and frames that are none.

use std::io;

use tokio::io::AsyncWriteExt as _;

use super::visit::{Visit, hold, upgrade};

pub(super) async fn long_name(visit: &Visit) -> io::Result<()> {
    let consumer = "c".repeat(4100);
    open(visit, &format!("/microservices/{consumer}/watcher"), &[]).await
}

pub(super) async fn unknown_providers(visit: &Visit) -> io::Result<()> {
    let names: Vec<String> = (0..100).map(|_| format!("{:032x}", fastrand::u128(..))).collect();
    open(visit, &format!("/microservices/c/watcher?rev=0&providers={}", names.join(",")), &[]).await
}

pub(super) async fn broken_frame(visit: &Visit) -> io::Result<()> {
    open(visit, "/microservices/c/watcher", &[0x83, 0x80, 0, 0, 0, 0]).await
}

/// Asks for a watch, and sends these bytes without waiting for the answer.
async fn open(visit: &Visit, path: &str, frame: &[u8]) -> io::Result<()> {
    let mut stream = visit.connect().await?;
    stream.write_all(&upgrade(path, "")).await?;
    stream.write_all(frame).await?;
    hold(&mut stream).await;
    Ok(())
}
