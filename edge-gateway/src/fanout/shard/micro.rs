//! A shard alone, without threads and sockets, for the micro-benches.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use opentelemetry::metrics::Meter;
use shared::event::InstanceEvent;
use shared::model::{ServiceRef, Tenant};

use super::*;
use crate::fanout::stream::{Next, Reader, stream};
use crate::fanout::{Attached, Opening};
use crate::limits::{Limits, LimitsConfig};
use crate::metrics::{Metrics, Tallied};
use crate::push::{Encoding, Push};
use crate::session::SessionConfig;

/// A group of streams in a shard, and their readers.
pub struct Dispatch {
    shard: Rc<RefCell<Shard>>,
    readers: Vec<Reader>,
}

impl Dispatch {
    /// A shard with the given number of watchers of one consumer.
    pub fn new(watchers: usize, meter: &Meter) -> Self {
        let metrics = Metrics::new(meter, "micro");
        // Without a receiver: a shard keeps the reports that it cannot send.
        let (closed, _) = mpsc::channel(1);
        let setup = Setup {
            pace: Pace::from(&SessionConfig::default()),
            slow_after: 1 << 20,
            send_buffer: 0,
            plain_end: PlainEnd::Error,
            others: watch::channel(Others::None).1,
            policy: PolicyHandle::off(),
            metrics: metrics.fanout,
            closed,
            clock: Clock::system(),
        };
        let shard = Rc::new_cyclic(|this| RefCell::new(Shard::new(setup, this.clone())));
        let limits = Limits::new(
            LimitsConfig { node: 0, domain: 0, consumer: 0, memory: 0, ..LimitsConfig::default() },
            metrics.sessions,
        );
        let consumer = ServiceRef::new(Tenant::default(), "consumer");
        let mut readers = Vec::new();
        for number in 0..watchers as u64 {
            let ticket = Ticket::new(number);
            let permit = limits.take(&consumer, "gRPC").expect("there is no limit");
            let (writer, reader) = stream();
            shard.borrow_mut().reserve(
                ticket,
                GroupId::new(1),
                Encoding::Grpc,
                Opening::default(),
                None,
                Revision::ZERO,
            );
            shard.borrow_mut().attach(ticket, Attached::Stream(writer), permit);
            readers.push(reader);
        }
        Self { shard, readers }
    }

    /// Pushes an event to every watcher and reads it at the other end; returns the bytes that were read.
    pub fn event(&self, event: &InstanceEvent) -> usize {
        let mut shard = self.shard.borrow_mut();
        shard.append(&Arc::new(Push::from_event(0, event)), &[GroupId::new(1)]);
        while shard.run_rounds() {}
        let mut context = Context::from_waker(Waker::noop());
        let mut bytes = 0;
        for reader in &self.readers {
            if let Poll::Ready(Next::Chunk(chunk)) = reader.poll_next(&mut context) {
                bytes += chunk.len();
            }
        }
        bytes
    }

    /// Records the metrics of a chunk of sessions; returns the number of sessions in a chunk. In operation it
    /// is less: the tally is reported once per tick and not once per chunk.
    pub fn count(&self) -> usize {
        let shard = self.shard.borrow();
        let now = shard.setup.clock.micros();
        shard.setup.metrics.lag(now, now, now);
        shard.setup.metrics.tally(Tallied { delivered: CHUNK as u64, ..Tallied::default() });
        CHUNK
    }
}
