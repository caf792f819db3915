//! A shard alone, without threads and sockets, for the micro-benches.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use opentelemetry::metrics::Meter;
use shared::event::InstanceEvent;
use shared::model::{ServiceRef, Tenant};

use super::*;
use crate::fanout::Attached;
use crate::fanout::stream::{Next, Reader, stream};
use crate::limits::{Limits, LimitsConfig};
use crate::metrics::{Metrics, Tallied};
use crate::push::Push;
use crate::session::SessionConfig;

/// A group of streams in a shard, and their readers.
pub struct Dispatch {
    shard: Rc<RefCell<Shard>>,
    readers: Vec<Reader>,
}

impl Dispatch {
    /// So many watchers of one consumer.
    pub fn new(watchers: usize, meter: &Meter) -> Self {
        let metrics = Metrics::new(meter, "micro");
        // Nobody listens; a shard keeps what it cannot say.
        let (left, _) = mpsc::channel(1);
        let setup = Setup {
            pace: Pace::from(&SessionConfig::default()),
            slow_after: 1 << 20,
            send_buffer: 0,
            metrics: metrics.fanout,
            left,
            clock: Clock::system(),
        };
        let shard = Rc::new_cyclic(|this| RefCell::new(Shard::new(setup, this.clone())));
        let limits =
            Limits::new(LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 0 }, metrics.sessions);
        let consumer = ServiceRef::new(Tenant::default(), "consumer");
        let open = |number| {
            let ticket = Ticket(number);
            let permit = limits.take(&consumer, "gRPC").ok()?;
            let (writer, reader) = stream();
            let mut shard = shard.borrow_mut();
            let preface = Vec::new();
            shard.take(ToShard::Reserve { ticket, group: GroupId(1), encoding: Encoding::Grpc, preface });
            shard.take(ToShard::Attach { ticket, to: Attached::Stream(writer), permit });
            Some(reader)
        };
        let readers = (0..watchers as u64).map_while(open).collect();
        Self { shard, readers }
    }

    /// Tells everyone of an event and takes it at the other end; the bytes that came.
    pub fn event(&self, event: &InstanceEvent) -> usize {
        let mut shard = self.shard.borrow_mut();
        shard.append(&Arc::new(Push::of(0, event)), &[GroupId(1)]);
        while shard.walk() {}
        let mut context = Context::from_waker(Waker::noop());
        let mut take = |reader: &Reader| match reader.poll_next(&mut context) {
            Poll::Ready(Next::Chunk(bytes)) => bytes.len(),
            _ => 0,
        };
        self.readers.iter().map(&mut take).sum()
    }

    /// What is counted for a chunk of sessions, and how many sessions that are. Usually less: the tally is told
    /// once a tick, not once a chunk.
    pub fn count(&self) -> usize {
        let shard = self.shard.borrow();
        let now = shard.setup.clock.micros();
        shard.setup.metrics.lag(now, now, now);
        shard.setup.metrics.tally(Tallied { delivered: CHUNK as u64, ..Tallied::default() });
        CHUNK
    }
}
