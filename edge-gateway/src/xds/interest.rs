//! The streams of a hub by what they are about, so that a change wakes those that it concerns.
//!
//! In: the interest of each stream, and what has changed. Out: [`News`] for the streams concerned. News that a
//! stream has not taken yet are merged, within a bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::stream::{Change, Interest};

/// Changes that wait for one stream. More of them are a reason to look at everything: a client that does not
/// read leaves them here.
const MOST: usize = 256;

/// The news since a stream last looked.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The changes of the state that concern the stream.
    pub(crate) changes: Vec<Change>,
    /// There are too many of them.
    pub(crate) all: bool,
    /// The process has begun to drain.
    pub(crate) draining: bool,
    /// There will be no further news.
    pub(crate) ended: bool,
}

/// The way of news to one stream.
#[derive(Debug, Default)]
pub(crate) struct Signal(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Something is new, perhaps only that the stream has to look around.
    is_new: bool,
    news: News,
    waker: Option<Waker>,
}

impl Signal {
    /// Resolves with everything that is new.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<News> {
        let waiting = &mut *self.0.lock();
        if std::mem::take(&mut waiting.is_new) {
            return Poll::Ready(std::mem::take(&mut waiting.news));
        }
        match &mut waiting.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// True when something is new that has not been taken.
    pub(crate) fn has_news(&self) -> bool {
        self.0.lock().is_new
    }

    fn tell(&self, tell: impl FnOnce(&mut News)) {
        let waker = {
            let waiting = &mut *self.0.lock();
            tell(&mut waiting.news);
            waiting.is_new = true;
            waiting.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The streams of a hub.
#[derive(Debug, Default)]
pub(super) struct Audience(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    /// By number; the places of streams that have ended are used again.
    all: Vec<Option<Arc<Signal>>>,
    free: Vec<u32>,
    groups: HashMap<Arc<str>, Numbers>,
    existence: Numbers,
    everything: Numbers,
    /// Those that wait for this gateway to see what their clients have seen.
    behind: Numbers,
}

/// A set of streams.
#[derive(Debug, Default)]
struct Numbers(Vec<u32>);

impl Numbers {
    fn put(&mut self, number: u32, is_in: bool) {
        match (self.0.binary_search(&number), is_in) {
            (Err(at), true) => self.0.insert(at, number),
            (Ok(at), false) => _ = self.0.remove(at),
            _ => {}
        }
    }
}

/// A stream's place in the audience.
#[derive(Debug)]
pub(super) struct Place {
    number: u32,
    pub(super) signal: Arc<Signal>,
    /// The groups that it is told of, in their order.
    groups: Vec<Arc<str>>,
}

impl Audience {
    /// A place for a stream that is not interested in anything yet.
    pub(super) fn enter(&self) -> Place {
        let streams = &mut *self.0.lock();
        let signal = Arc::<Signal>::default();
        let number = streams.free.pop().unwrap_or_else(|| {
            streams.all.push(None);
            // A gateway holds far fewer connections than that.
            u32::try_from(streams.all.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(place) = streams.all.get_mut(number as usize) {
            *place = Some(signal.clone());
        }
        Place { number, signal, groups: Vec::new() }
    }

    pub(super) fn leave(&self, place: &Place) {
        let streams = &mut *self.0.lock();
        for group in &place.groups {
            streams.uninterest(group, place.number);
        }
        for numbers in [&mut streams.existence, &mut streams.everything, &mut streams.behind] {
            numbers.put(place.number, false);
        }
        if let Some(known) = streams.all.get_mut(place.number as usize) {
            *known = None;
            streams.free.push(place.number);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let streams = self.0.lock();
        streams.free.len() == streams.all.len()
    }

    /// From now on the stream is told of what this interest contains. It has to look at the state after that.
    pub(super) fn interest(&self, place: &mut Place, interest: &Interest<'_>) {
        let streams = &mut *self.0.lock();
        streams.existence.put(place.number, interest.existence);
        streams.everything.put(place.number, interest.everything);
        let wanted = |group: &Arc<str>| interest.groups.binary_search(&&**group).is_ok();
        place.groups.retain(|group| {
            let is_wanted = wanted(group);
            if !is_wanted {
                streams.uninterest(group, place.number);
            }
            is_wanted
        });
        let kept = place.groups.len();
        for group in &interest.groups {
            if place.groups[..kept].binary_search_by(|known| (**known).cmp(group)).is_ok() {
                continue;
            }
            let name = match streams.groups.get_key_value(*group) {
                Some((name, _)) => name.clone(),
                None => Arc::from(*group),
            };
            streams.groups.entry(name.clone()).or_default().put(place.number, true);
            place.groups.push(name);
        }
        place.groups.sort_unstable();
        place.groups.shrink_to_fit();
    }

    /// Says whether the stream waits for a later height.
    pub(super) fn wait(&self, place: &Place, waits: bool) {
        self.0.lock().behind.put(place.number, waits);
    }

    /// Tells of changes in the state, which must be shown already.
    pub(super) fn changed(&self, changes: &[Change]) {
        let streams = self.0.lock();
        for change in changes {
            streams.tell(&streams.everything, |news| news.add(change));
            if change.in_existence {
                streams.tell(&streams.existence, |news| news.add(change));
            }
            if let Some(numbers) = streams.groups.get(&change.group) {
                streams.tell(numbers, |news| news.add(change));
            }
        }
    }

    /// Wakes the streams that wait for a later height.
    pub(super) fn risen(&self) {
        let streams = self.0.lock();
        streams.tell(&streams.behind, |_| {});
    }

    /// Tells all streams.
    pub(super) fn tell(&self, tell: impl Fn(&mut News)) {
        let streams = self.0.lock();
        streams.all.iter().flatten().for_each(|signal| signal.tell(&tell));
    }
}

impl Streams {
    fn uninterest(&mut self, group: &Arc<str>, number: u32) {
        if let Some(numbers) = self.groups.get_mut(group) {
            numbers.put(number, false);
            if numbers.0.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    fn tell(&self, numbers: &Numbers, tell: impl Fn(&mut News)) {
        let signals = numbers.0.iter().filter_map(|number| self.all.get(*number as usize)?.as_ref());
        signals.for_each(|signal| signal.tell(&tell));
    }
}

impl News {
    fn add(&mut self, change: &Change) {
        if self.all {
            return;
        }
        if self.changes.len() >= MOST {
            self.all = true;
            self.changes = Vec::new();
            return;
        }
        if self.changes.is_empty() {
            self.changes.reserve_exact(1);
        }
        self.changes.push(change.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn change(group: &str, in_existence: bool) -> Change {
        Change { group: group.into(), in_existence }
    }

    /// The groups that a stream was told of; `None` when it was not woken.
    fn told(place: &Place) -> Option<Vec<String>> {
        match place.signal.poll(&Context::from_waker(Waker::noop())) {
            Poll::Ready(news) => Some(news.changes.iter().map(|change| change.group.to_string()).collect()),
            Poll::Pending => None,
        }
    }

    fn about<'a>(groups: &[&'a str]) -> Interest<'a> {
        Interest { groups: groups.to_vec(), ..Interest::default() }
    }

    #[test]
    fn a_change_wakes_the_streams_that_it_concerns_and_no_other() {
        let audience = Audience::default();
        let mut places: Vec<Place> = (0..4).map(|_| audience.enter()).collect();
        audience.interest(&mut places[0], &about(&["a/x"]));
        audience.interest(&mut places[1], &about(&["a/x", "a/y"]));
        audience.interest(&mut places[2], &Interest { existence: true, ..Interest::default() });
        audience.interest(&mut places[3], &Interest { everything: true, ..Interest::default() });
        audience.changed(&[change("a/y", false), change("a/z", true)]);
        let all: Vec<_> = places.iter().map(told).collect();
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(all, [None, names(&["a/y"]), names(&["a/z"]), names(&["a/y", "a/z"])]);
        // An interest that is given up is one no more, and the others stay.
        audience.interest(&mut places[1], &about(&["a/x", "b/c"]));
        audience.changed(&[change("a/y", true), change("a/x", false)]);
        assert_eq!((told(&places[0]), told(&places[1])), (names(&["a/x"]), names(&["a/x"])));
    }

    #[test]
    fn a_stream_that_has_ended_leaves_nothing() {
        let audience = Audience::default();
        let (mut first, second) = (audience.enter(), audience.enter());
        audience.interest(&mut first, &about(&["a/x", "a/y"]));
        audience.wait(&first, true);
        audience.leave(&first);
        assert!(!audience.is_empty());
        let third = audience.enter();
        audience.changed(&[change("a/x", true)]);
        audience.risen();
        assert_eq!(told(&third), None, "it has the place of the first, and not its interest");
        audience.leave(&second);
        audience.leave(&third);
        assert!(audience.is_empty());
        assert!(audience.0.lock().groups.is_empty());
    }

    #[test]
    fn changes_that_nobody_takes_have_a_bound() {
        let audience = Audience::default();
        let mut place = audience.enter();
        audience.interest(&mut place, &about(&["a/x"]));
        for _ in 0..10 * MOST {
            audience.changed(&[change("a/x", false)]);
        }
        assert!(place.signal.0.lock().news.changes.capacity() <= MOST);
        let Poll::Ready(news) = place.signal.poll(&Context::from_waker(Waker::noop())) else {
            panic!("there are news")
        };
        assert!(news.all && news.changes.is_empty());
    }
}
