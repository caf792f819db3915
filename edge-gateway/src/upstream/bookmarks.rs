//! The publisher's progress: heard, held against what is known, passed on to watchers.

use std::time::Instant;

use bus::Message;
use futures_util::FutureExt as _;
use prost::Message as _;
use proto::event::v1 as pb;
use shared::event::Position;
use shared::model::ServiceRef;
use tracing::info;

use super::{CONFIRMATION, Upstream, next_of};
use crate::fanout::ToShard;

impl Upstream {
    /// Takes the bookmarks that are there, so that those heard after an answer or a loss were sent after it.
    pub(super) async fn take_bookmarks(&mut self) {
        while let Some(message) =
            tokio::task::unconstrained(next_of(&mut self.bookmarks)).now_or_never().flatten()
        {
            self.on_bookmark(&message).await;
        }
    }

    /// A bookmark counts after everything that came before it. One publisher's messages arrive in order, but in
    /// channels of their own, so what is ready in the others goes first.
    pub(super) async fn on_bookmark(&mut self, message: &Message) {
        let bookmark = match pb::Bookmark::decode(message.payload.clone()) {
            Ok(bookmark) => bookmark,
            Err(error) => return self.malformed(&message.subject, &error),
        };
        self.on_messages(None).await;
        self.heard = Instant::now();
        self.metrics.heard(self.heard);
        if bookmark.sent_at > 0 {
            let shortest = self.offset.note(bookmark.sent_at, self.clock.micros(), self.heard);
            self.metrics.clock_offset(shortest);
        }
        let reached = |it: pb::Reached| Some((ServiceRef::from(it.service?), Position::from(it.at?)));
        let providers = bookmark.providers.into_iter().filter_map(reached);
        let consumers = bookmark.consumers.into_iter().filter_map(reached);
        let tenants = bookmark.tenants.into_iter().filter_map(reached).map(|(it, at)| (it.tenant, at));
        let behind = self.core.on_reached(providers, consumers, tenants);
        if behind > 0 {
            info!(behind, "events that the publisher sent did not come; asking for them");
        }
        self.suspect(bookmark.rev, self.heard);
        if self.core.on_bookmark(bookmark.rev, bookmark.since) {
            info!(revision = bookmark.rev, "the publisher is further than its last word; resynchronising");
        }
        let (rev, everyone) = (self.core.told(), self.heard >= self.next_bookmark);
        if rev == bookmark.rev && (everyone || self.heard >= self.next_confirmation) {
            self.next_confirmation = self.heard + self.config.bookmark_interval.min(CONFIRMATION);
            if everyone {
                self.next_bookmark = self.heard + self.config.bookmark_interval;
            }
            for shard in &self.shards {
                shard.send(ToShard::Bookmark { rev, everyone }).await;
            }
        }
    }
}
