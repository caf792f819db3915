//! A shard of the simulation: an inbox, a log and a cursor per watcher for each audience, and rounds in
//! chunks.

use std::collections::VecDeque;

use crate::coefficients::Coefficients;

/// As in the gateway: members served before the inbox is looked at, messages taken before members are served.
const CHUNK: usize = 128;
const INBOX_CHUNK: usize = 256;
/// The agenda's resolution, in microseconds.
const NANOSECOND: f64 = 1e-3;

/// The watchers of one consumer here.
#[derive(Debug)]
struct Audience {
    /// Changes, in order.
    log: Vec<u32>,
    /// The cursor of each watcher: the number of events it has received.
    cursors: Vec<u32>,
    visited: usize,
    queued: bool,
    again: bool,
}

/// A thread with its share of a gateway's watchers.
#[derive(Debug)]
pub(super) struct Shard {
    audiences: Vec<Audience>,
    /// By consumer; none when it has no watchers here.
    places: Vec<Option<u32>>,
    inbox: VecDeque<(u32, f64)>,
    rounds: VecDeque<u32>,
    running: bool,
    busy: f64,
    writes: u64,
}

impl Shard {
    /// A shard with the given number of watchers of each consumer.
    pub(super) fn new(members: &[u32]) -> Self {
        let mut audiences = Vec::new();
        let mut places = Vec::new();
        for count in members {
            places.push((*count > 0).then_some(audiences.len() as u32));
            if *count > 0 {
                let cursors = vec![0; *count as usize];
                audiences.push(Audience {
                    log: Vec::new(),
                    cursors,
                    visited: 0,
                    queued: false,
                    again: false,
                });
            }
        }
        Self {
            audiences,
            places,
            inbox: VecDeque::new(),
            rounds: VecDeque::new(),
            running: false,
            busy: 0.0,
            writes: 0,
        }
    }

    /// A change comes in; true when the shard slept.
    pub(super) fn take(&mut self, event: u32, at: f64) -> bool {
        self.inbox.push_back((event, at));
        !std::mem::replace(&mut self.running, true)
    }

    /// Takes what has come and serves a chunk of watchers. Gives when it is done, and whether there is more
    /// to do.
    pub(super) fn step<'a>(
        &mut self,
        now: f64,
        slower: f64,
        with: &Coefficients,
        consumers: impl Fn(u32) -> &'a [u32],
        mut receipt: impl FnMut(u32, f64),
    ) -> (f64, bool) {
        let mut time = now;
        let append = with.get("gateway_append_us") * slower;
        let (single, further) =
            (with.get("gateway_write_us") * slower, with.get("gateway_burst_us") * slower);
        for _ in 0..INBOX_CHUNK {
            let Some((event, _)) = self.inbox.pop_front_if(|(_, at)| *at <= time + NANOSECOND) else { break };
            for consumer in consumers(event) {
                let Some(place) = self.places[*consumer as usize] else { continue };
                time += append;
                let audience = &mut self.audiences[place as usize];
                audience.log.push(event);
                if audience.queued {
                    audience.again |= audience.visited > 0;
                } else {
                    audience.queued = true;
                    self.rounds.push_back(place);
                }
            }
        }
        let mut budget = CHUNK;
        while budget > 0
            && let Some(&place) = self.rounds.front()
        {
            let audience = &mut self.audiences[place as usize];
            if let Some(cursor) = audience.cursors.get_mut(audience.visited) {
                audience.visited += 1;
                budget -= 1;
                let pending = &audience.log[*cursor as usize..];
                if !pending.is_empty() {
                    time += single + further * (pending.len() - 1) as f64;
                    self.writes += 1;
                    pending.iter().for_each(|event| receipt(*event, time));
                    *cursor = audience.log.len() as u32;
                }
                continue;
            }
            self.rounds.pop_front();
            audience.visited = 0;
            audience.queued = std::mem::take(&mut audience.again);
            if audience.queued {
                self.rounds.push_back(place);
            }
        }
        self.busy += time - now;
        // An event that is on its way from the gateway wakes the shard later.
        let next = match self.inbox.front() {
            _ if !self.rounds.is_empty() => Some(time),
            Some((_, at)) => Some(time.max(*at)),
            None => None,
        };
        self.running = next.is_some();
        (next.unwrap_or(time), next.is_some())
    }

    /// Writes since the last question.
    pub(super) fn take_writes(&mut self) -> u64 {
        std::mem::take(&mut self.writes)
    }

    /// The time that the shard was busy.
    pub(super) fn busy(&self) -> f64 {
        self.busy
    }

    /// Every watcher has everything.
    pub(super) fn check(&self) {
        for audience in &self.audiences {
            let end = audience.log.len() as u32;
            assert!(audience.cursors.iter().all(|cursor| *cursor == end), "every watcher has everything");
            assert!(audience.log.is_sorted(), "in order");
        }
    }
}
