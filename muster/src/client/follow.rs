//! A watch that opens itself again after a break, and resumes exactly where the server sends revisions.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::Deserialize;
use shared::backoff::Backoff;
use shared::model::{Instance, Revision, ServiceKey};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::RegistryClient;
use super::watch::{self, WatchQuery, WatchSocket};
use crate::failure::{CommandFailure, RegistryRefusal};

/// Silence after which the connection counts as lost. Servers ping every 30 seconds; three pings are missing
/// then.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(95);

/// A text frame of either watch. Fields that one of them does not send are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct WatchFrame {
    /// `CREATE`, `UPDATE`, `DELETE`, `RESET` or `BOOKMARK`.
    pub(crate) action: String,
    /// The service.
    pub(crate) key: ServiceKey,
    /// The instance that has changed.
    pub(crate) instance: Option<Instance>,
    /// All instances of the service, after a `RESET`.
    pub(crate) instances: Vec<Instance>,
    /// The revision of the change.
    pub(crate) rev: Option<Revision>,
    /// The revision up to which nothing is missing.
    pub(crate) since: Option<Revision>,
}

/// An event of a watch that is followed.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The watch is open for the first time.
    Opened,
    /// The watch is open again. `is_whole` says that nothing is missing.
    Resumed { is_whole: bool },
    /// A frame, as it came and as it was understood.
    Frame { text: Utf8Bytes, frame: Box<WatchFrame> },
    /// The connection was lost, with the sign of the loss for people.
    Lost(String),
}

/// A watch that is opened again whenever it is lost.
pub(crate) struct Follower<'a> {
    registry: &'a RegistryClient,
    query: WatchQuery<'a>,
    point: ResumePoint,
    socket: Option<WatchSocket>,
    was_open: bool,
    backoff: Backoff,
}

impl<'a> Follower<'a> {
    /// Follows the query after `since`; without a revision from now on only, with a gap at each break.
    pub(crate) fn new(registry: &'a RegistryClient, query: WatchQuery<'a>, since: Option<Revision>) -> Self {
        Self {
            registry,
            query,
            point: ResumePoint { since, shown: HashSet::new() },
            socket: None,
            was_open: false,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }

    /// The next event.
    ///
    /// # Errors
    /// The first opening failed: a wrong address is reported at once. Later, that no opening will succeed, or
    /// that the server ended the watch with a reason. The next call tries once more in any case.
    pub(crate) async fn next(&mut self) -> Result<Followed, CommandFailure> {
        loop {
            let Some(socket) = &mut self.socket else { return self.open().await };
            let lost = match tokio::time::timeout(MAX_SILENCE, socket.next()).await {
                Ok(Some(Ok(Message::Close(_)))) => "the server closed the connection".to_owned(),
                Ok(Some(Ok(message))) => {
                    // Reset by a message and not by the handshake: a server that accepts and closes at once
                    // is not healthy.
                    self.backoff.reset();
                    // The library answers pings.
                    let Message::Text(text) = message else { continue };
                    match parse(text.as_str()) {
                        Ok(frame) if self.point.accept(&frame) => {
                            return Ok(Followed::Frame { text, frame: Box::new(frame) });
                        }
                        Ok(_) => continue,
                        Err(failure) => {
                            self.socket = None;
                            return Err(failure);
                        }
                    }
                }
                Ok(Some(Err(e))) => format!("the connection broke ({e})"),
                Ok(None) => "the connection was closed".to_owned(),
                Err(_) => "the server went silent".to_owned(),
            };
            self.socket = None;
            return Ok(Followed::Lost(lost));
        }
    }

    async fn open(&mut self) -> Result<Followed, CommandFailure> {
        if !self.was_open {
            self.socket = Some(watch::open(self.registry, self.query, self.point.since, None).await?);
            self.was_open = true;
            return Ok(Followed::Opened);
        }
        loop {
            tokio::time::sleep(self.backoff.next_wait()).await;
            match watch::open(self.registry, self.query, self.point.since, None).await {
                Ok(socket) => {
                    self.socket = Some(socket);
                    return Ok(Followed::Resumed { is_whole: self.point.since.is_some() });
                }
                Err(CommandFailure::TryAgain { wait: Some(wait), .. }) => tokio::time::sleep(wait).await,
                Err(failure) if failure.is_passing() => {}
                Err(failure) => return Err(failure),
            }
        }
    }
}

/// The point from which the watch resumes after a break.
struct ResumePoint {
    /// Up to this revision nothing is missing. `None` when the watch cannot be resumed.
    since: Option<Revision>,
    /// Changes after `since` that have been shown, by instance. The server sends them again after a break. A
    /// bookmark follows each burst of changes and empties the set, so it stays small.
    shown: HashSet<(String, Revision)>,
}

impl ResumePoint {
    /// Accounts for a frame. Returns false when its change was shown before a break.
    fn accept(&mut self, frame: &WatchFrame) -> bool {
        // A server that sends no revisions does not resume, so nothing comes twice.
        let (Some(since), Some(rev)) = (self.since.as_mut(), frame.rev) else { return true };
        if frame.action == "RESET" && rev < *since {
            // The store was restored from a backup. Revisions of the history before say nothing about this
            // one.
            *since = Revision::ZERO;
            self.shown.clear();
        }
        // A bookmark has no `since` of its own: its revision is the statement.
        *since = frame.since.unwrap_or(rev).max(*since);
        if let Some(instance) = &frame.instance {
            return self.shown.insert((instance.instance_id.clone(), rev));
        }
        let since = *since;
        self.shown.retain(|(_, rev)| *rev > since);
        true
    }
}

/// Parses a text frame. By contract a text that is not JSON is the reason for which the server ends the
/// watch.
fn parse(text: &str) -> Result<WatchFrame, CommandFailure> {
    serde_json::from_str(text).map_err(|_| {
        let refusal =
            RegistryRefusal { message: text.chars().take(500).collect(), ..RegistryRefusal::default() };
        CommandFailure::Refused(refusal)
    })
}
