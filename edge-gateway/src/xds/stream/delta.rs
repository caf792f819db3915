//! Incremental: a request adds and removes names, and an answer tells what has changed and what has gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ALL, Channel, Content, Item, Kind, PART, Point, Source, read_version};

impl Channel {
    /// Takes the names of a request. Returns the point that the client has.
    pub(super) fn ask_delta(
        &mut self,
        kind: Kind,
        mut subscribe: Vec<Arc<str>>,
        unsubscribe: Vec<Arc<str>>,
        versions: BTreeMap<Arc<str>, String>,
    ) -> Point {
        let mut shown = Point::ZERO;
        let is_first = !std::mem::replace(&mut self.asked, true);
        if is_first {
            self.due.all = true;
            self.wildcard = kind.is_whole() && subscribe.is_empty();
            for (name, version) in versions {
                // A version of somebody else's is none, and then the resource is sent.
                let version = read_version(&version);
                shown = shown.max(version.map_or(Point::ZERO, |(point, _)| point));
                // The client has some content in any case, and has to be told if that has gone.
                self.send(&name, Some(version.map_or(u64::MAX, |(_, digest)| digest)));
            }
        }
        // In the order of the list that they go into, so that each is put at its end.
        subscribe.sort_unstable();
        for name in subscribe {
            if &*name == ALL {
                self.wildcard = true;
                self.due.all = true;
                continue;
            }
            let item = self.items.entry(&name);
            item.named = true;
            // A client that subscribes again has forgotten what it had, and waits for it.
            item.owed = !(is_first && item.sent.is_some());
            self.due.add(name);
        }
        for name in unsubscribe {
            if &*name == ALL {
                self.wildcard = false;
            } else if let Some(item) = self.items.get_mut(&name) {
                item.named = false;
                // A resource that everything includes goes on, and the client does not know that.
                item.owed = self.wildcard;
                self.due.add(name);
            }
        }
        if !self.wildcard {
            self.narrow();
        }
        shown
    }

    /// The next answer.
    pub(super) fn next_delta(&mut self, kind: Kind, source: &impl Source) -> Option<Content> {
        let mut content = self.changed(kind, source);
        let has_something = |content: &Content| !content.resources.is_empty() || !content.removed.is_empty();
        if has_something(&content) && std::mem::take(&mut self.refused) {
            // The client may lack everything that was in an answer with what it has refused.
            self.items.values_mut().for_each(|item| item.owed = item.sent.is_some());
            self.due.all = true;
            let removed = std::mem::take(&mut content.removed);
            content = self.changed(kind, source);
            content.removed.extend(removed);
        }
        (has_something(&content) || !self.answered).then_some(content)
    }

    /// Everything that is to be told, up to the size of one answer.
    fn changed(&mut self, kind: Kind, source: &impl Source) -> Content {
        let mut content = Content::default();
        let mut bytes = 0;
        for name in self.take_due(kind, source) {
            let Some(item) = self.items.get(&name).cloned().or_else(|| self.wildcard.then(Item::default))
            else {
                continue;
            };
            let is_wanted = item.named || (self.wildcard && source.is_of_all(kind, &name));
            let found = match source.find(kind, &name).filter(|_| is_wanted) {
                None if is_wanted && item.sent.is_some() => source.none_any_more(kind, &name),
                found => found,
            };
            let Some(resource) = found else {
                if item.sent.is_some() || item.owed {
                    bytes += name.len();
                    content.removed.push(name.clone());
                }
                if item.named {
                    self.send(&name, None)
                } else {
                    self.forget(&name)
                }
                continue;
            };
            if !item.owed && item.sent == Some(resource.digest) {
                continue;
            }
            if bytes > 0 && bytes + resource.size() > PART {
                self.due.add(name);
                continue;
            }
            bytes += resource.size();
            content.renewed.push(name.clone());
            self.send(&name, Some(resource.digest));
            content.resources.push(resource);
        }
        content
    }
}
