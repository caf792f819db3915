//! One question over HTTP to a dialect that is asked again and again.

use serde_json::Value;

use super::Told;
use crate::Client;

/// The answer to a question.
pub(super) enum Answer {
    Told(Told),
    /// The gateway says that it does not know, as it may.
    Unknown,
    /// It denies something that exists.
    Denied(String),
}

pub(super) fn stamp_of(value: &Value) -> Option<u64> {
    value.as_str().and_then(|text| text.parse().ok())
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The body of a success.
pub(super) async fn get(client: &Client, path: &str) -> Option<Result<Value, Answer>> {
    let answer = client.try_send("GET", path, &[("accept", "application/json")], "").await?;
    Some(match answer.status {
        200 => Ok(answer.ok()),
        503 | 429 => Err(Answer::Unknown),
        status => Err(Answer::Denied(format!("{path}: {status} {}", answer.text()))),
    })
}
