//! `muster watch --as`: the answer to the clients of a dialect, printed anew whenever it differs.
//!
//! A resumable watch tells that something has changed, and the gateway is then asked in the dialect. So a
//! change is shown when its clients could know of it, and nothing is asked while nothing changes.

use std::pin::pin;
use std::time::Duration;

use shared::clock::Clock;
use shared::model::Revision;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::client::RegistryClient;
use crate::client::follow::{Followed, Follower};
use crate::client::watch::WatchQuery;
use crate::dialect::{Choice, Dialect, Told};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};

/// Changes that come within this time of each other are asked for together.
const TOGETHER: Duration = Duration::from_millis(100);
/// Time after the last change at which the answer is asked for once more: behind a balancer another gateway
/// may have answered that had not heard of it.
const ONCE_MORE: Duration = Duration::from_secs(2);
/// Pause before an answer is asked for again that could not be had.
const AGAIN: Duration = Duration::from_secs(2);

/// The answers that are watched.
pub(super) struct WatchedAnswer<'a> {
    pub(super) registry: &'a RegistryClient,
    pub(super) dialect: Dialect,
    pub(super) choice: Choice<'a>,
    pub(super) format: OutputFormat,
}

impl WatchedAnswer<'_> {
    /// Prints until the watch ends.
    pub(super) async fn follow(&self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let query = WatchQuery::Services { app: self.choice.app, environment: self.choice.env };
        // In a future of its own: a watch that is being opened again is not to begin anew at each answer.
        let (sender, mut events) = mpsc::channel(64);
        let mut following = pin!(async {
            let mut follower = Follower::new(self.registry, query, Some(Revision::ZERO));
            while sender.send(follower.next().await).await.is_ok() {}
        });
        let mut shown: Option<Told> = None;
        let mut is_failing = false;
        // The next time to ask, and the last one after a change.
        let mut due: Option<Instant> = None;
        let mut once_more: Option<Instant> = None;
        loop {
            let next = due.or(once_more);
            tokio::select! {
                biased;
                () = &mut following => return Ok(()),
                Some(event) = events.recv() => {
                    if notes(event?, screen) {
                        due.get_or_insert(Instant::now() + TOGETHER);
                        once_more = Some(Instant::now() + ONCE_MORE);
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if due.take().is_none() {
                        once_more = None;
                    }
                    match self.dialect.ask(self.registry, self.choice).await {
                        Ok(told) => {
                            is_failing = false;
                            if shown.as_ref().is_none_or(|shown| !shown.is_same(&told)) {
                                self.show(&told, screen)?;
                                shown = Some(told);
                            }
                        }
                        Err(failure) if failure.is_passing() => {
                            if !std::mem::replace(&mut is_failing, true) {
                                screen.note(&format!("{failure}; asking again"));
                            }
                            due = Some(Instant::now() + AGAIN);
                        }
                        Err(failure) => return Err(failure),
                    }
                }
            }
        }
    }

    fn show(&self, told: &Told, screen: &mut Screen) -> Result<(), CommandFailure> {
        if self.format == OutputFormat::Table {
            let now = humantime::format_rfc3339_seconds(Clock::system().now()).to_string();
            let time = now.get(11..19).unwrap_or_default();
            screen.line(&format!("{time}  {} told:", told.count()))?;
        }
        told.show(self.format, true, screen)
    }
}

/// Notes the state of the watch. Returns true if the answer may have changed.
fn notes(event: Followed, screen: &mut Screen) -> bool {
    match event {
        Followed::Opened => screen.note("watching"),
        Followed::Resumed { .. } => screen.note("reconnected; nothing is missing"),
        Followed::Lost(sign) => {
            screen.note(&format!("{sign}; reconnecting"));
            return false;
        }
        // A bookmark changes nothing, and comes every few seconds.
        Followed::Frame { frame, .. } => return frame.action != "BOOKMARK",
    }
    true
}
