//! State of the world: a request lists all names, and an answer of clusters or listeners lists all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{ALL, Channel, Content, Kind, PART, Point, Resource, Source, read_version};

impl Channel {
    /// Takes the names of a request. Returns the point that the client has.
    pub(super) fn ask_state(&mut self, kind: Kind, names: Vec<Arc<str>>, version: &str) -> Point {
        let mut shown = Point::ZERO;
        let is_first = !std::mem::replace(&mut self.asked, true);
        if is_first {
            self.due.all = true;
            if let Some((point, digest)) = read_version(version) {
                shown = point;
                self.claim = Some(digest);
            }
        }
        let has_all = names.iter().any(|name| &**name == ALL);
        let wildcard = kind.is_whole() && (has_all || (names.is_empty() && !self.named));
        self.named |= !names.is_empty();
        let mut asks_for_more = wildcard && !self.wildcard;
        if asks_for_more {
            self.due.all = true;
        }
        let wanted: BTreeSet<Arc<str>> = names.into_iter().filter(|name| &**name != ALL).collect();
        for item in self.items.values_mut() {
            item.named = false;
        }
        for name in wanted {
            if let Some(item) = self.items.get_mut(&name) {
                item.named = true;
            } else {
                asks_for_more = true;
                self.items.entry(&name).named = true;
                // A whole answer shows, too, that a name does not exist.
                self.due.all |= kind.is_whole();
                self.unproven |= kind.is_whole();
                self.due.add(name);
            }
        }
        // A client has nothing of the names that its first request did not have, whatever its version says.
        self.distrusted |= asks_for_more && !is_first && !self.answered;
        if wildcard {
            self.wildcard = true;
        } else {
            let given_up = || self.items.iter().filter(|(_, item)| !item.named);
            self.overstated |= given_up().any(|(_, item)| item.sent.is_some());
            // Resources that the client said it has may be among those that it gave up.
            self.distrusted |= !self.answered && (self.wildcard || given_up().next().is_some());
            self.narrow();
        }
        shown
    }

    /// The next answer of a kind whose answers list everything.
    pub(super) fn next_whole(&mut self, kind: Kind, source: &impl Source) -> Option<Content> {
        self.due = super::Due::default();
        let mut names: BTreeSet<Arc<str>> =
            self.items.iter().filter(|(_, item)| item.named).map(|(name, _)| name.clone()).collect();
        if self.wildcard {
            names.extend(source.all(kind));
        }
        let found: Vec<(Arc<str>, Arc<Resource>)> = names
            .into_iter()
            .filter_map(|name| source.find(kind, &name).map(|resource| (name, resource)))
            .collect();
        let digest = found.iter().fold(0_u64, |digest, (_, resource)| digest.wrapping_add(resource.digest));
        // Digests of what the client has, so names that are gone count.
        let is_same = digest == self.digest && !self.unproven;
        let is_overstated = std::mem::take(&mut self.overstated);
        if self.answered && is_same && !is_overstated {
            return None;
        }
        self.unproven = false;
        // At a reconnect the client may have exactly this, and then replaces nothing.
        let may_differ = !self.answered && (self.distrusted || self.claim != Some(digest));
        let has_these = !self.answered && !may_differ;
        let mut content = Content { may_differ, ..Content::default() };
        let gone: Vec<Arc<str>> = self.items.names().cloned().collect();
        for (name, resource) in &found {
            let is_new = self.items.get(name).and_then(|item| item.sent) != Some(resource.digest);
            if is_new && !has_these {
                content.renewed.push(name.clone());
            }
            self.send(name, Some(resource.digest));
        }
        let there: BTreeSet<&Arc<str>> = found.iter().map(|(name, _)| name).collect();
        for name in gone.iter().filter(|name| !there.contains(name)) {
            if self.items.get(name).is_some_and(|item| item.named) {
                self.send(name, None);
            } else {
                self.forget(name);
            }
        }
        content.resources = found.into_iter().map(|(_, resource)| resource).collect();
        Some(content)
    }

    /// The next answer of a kind whose answers may leave out what the client has.
    pub(super) fn next_part(&mut self, kind: Kind, source: &impl Source) -> Option<Content> {
        let due = self.take_due(kind, source);
        // An answer, if need be without content, gives the client a version that tells what it has left. With
        // the old one it would seem, after a reconnect, to have the names that it gave up.
        let is_overstated = std::mem::take(&mut self.overstated);
        let mut content = Content::default();
        if !self.answered && !self.distrusted && self.has_all_claimed(kind, source) {
            return Some(content);
        }
        let mut changed = self.changed_among(kind, source, due);
        if changed.is_empty() && self.answered && !is_overstated {
            return None;
        }
        if std::mem::take(&mut self.refused) {
            // Something in an earlier answer was refused, and with it perhaps everything else in that.
            let all: BTreeSet<Arc<str>> = self.items.names().cloned().collect();
            self.items.values_mut().for_each(|item| item.owed = true);
            changed = self.changed_among(kind, source, all);
        }
        let mut bytes = 0;
        for (name, resource) in changed {
            if bytes > 0 && bytes + resource.size() > PART {
                self.due.add(name);
                continue;
            }
            bytes += resource.size();
            self.send(&name, Some(resource.digest));
            content.resources.push(resource);
        }
        Some(content)
    }

    /// The names with something to send.
    fn changed_among(
        &self,
        kind: Kind,
        source: &impl Source,
        names: BTreeSet<Arc<str>>,
    ) -> Vec<(Arc<str>, Arc<Resource>)> {
        let changed = names.into_iter().filter_map(|name| {
            let item = self.items.get(&name)?;
            let had = item.sent.is_some() || self.claim.is_some();
            let resource = match source.find(kind, &name) {
                None if had => source.none_any_more(kind, &name),
                found => found,
            }?;
            (item.owed || item.sent != Some(resource.digest)).then_some((name, resource))
        });
        changed.collect()
    }

    /// True when the client has everything that there is, by what it says after a reconnect. It is then noted
    /// as sent.
    fn has_all_claimed(&mut self, kind: Kind, source: &impl Source) -> bool {
        // Endpoints are owed when their cluster was replaced before this first answer.
        if self.items.iter().any(|(_, item)| item.owed) {
            return false;
        }
        let names: Vec<Arc<str>> = self.items.names().cloned().collect();
        let found: Vec<_> = names.into_iter().map(|name| (source.find(kind, &name), name)).collect();
        // A missing resource may have ended meanwhile, and the client has to be told.
        if found.iter().any(|(resource, _)| resource.is_none()) {
            return false;
        }
        let digests =
            found.iter().filter_map(|(resource, _)| resource.as_ref()).map(|resource| resource.digest);
        if self.claim != Some(digests.fold(0, u64::wrapping_add)) {
            return false;
        }
        for (resource, name) in found {
            self.send(&name, resource.map(|resource| resource.digest));
        }
        true
    }
}
