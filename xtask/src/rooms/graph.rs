//! A small directed graph whose edges remember why they exist.

use std::collections::{BTreeMap, BTreeSet};

/// Nodes by name; each edge carries every reason that was given for it, in order.
pub(super) struct Graph<R> {
    edges: BTreeMap<String, BTreeMap<String, Vec<R>>>,
}

impl<R> Default for Graph<R> {
    fn default() -> Self {
        Self { edges: BTreeMap::new() }
    }
}

impl<R> Graph<R> {
    /// Adds a reason for the edge. An edge from a node to itself says nothing and is ignored.
    pub(super) fn add(&mut self, from: &str, to: &str, reason: R) {
        if from != to {
            let targets = self.edges.entry(from.into()).or_default();
            targets.entry(to.into()).or_default().push(reason);
        }
    }

    /// The strongly connected components of two nodes and more, the nodes of each in alphabetical order.
    pub(super) fn circles(&self) -> Vec<Vec<String>> {
        // Comparing the reach of all pairs is quadratic, but a crate has a few hundred files at most, and
        // unlike Tarjan's algorithm these lines can be checked by reading them once.
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.edges.keys().map(|node| (node.as_str(), self.reachable_from(node))).collect();
        let mut circles = Vec::new();
        let mut seen = BTreeSet::new();
        for (node, reached) in &reach {
            if !reached.contains(node) || seen.contains(node) {
                continue;
            }
            let mut members = Vec::new();
            for other in reached {
                if reach.get(other).is_some_and(|back| back.contains(node)) {
                    members.push(*other);
                }
            }
            seen.extend(members.iter().copied());
            circles.push(members.into_iter().map(String::from).collect());
        }
        circles
    }

    /// Every edge between two of these nodes, with its reasons.
    pub(super) fn edges_within<'a>(
        &'a self,
        nodes: &'a [String],
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a [R])> {
        let inside = self.edges.iter().filter(|(from, _)| nodes.contains(from));
        inside.flat_map(|(from, targets)| {
            let kept = targets.iter().filter(|(to, _)| nodes.contains(to));
            kept.map(|(to, reasons)| (from.as_str(), to.as_str(), reasons.as_slice()))
        })
    }

    /// The nodes at the end of some path; the node itself only when it lies on a circle.
    fn reachable_from(&self, node: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<&str> = Vec::from([node]);
        while let Some(next) = waiting.pop() {
            for to in self.edges.get(next).into_iter().flat_map(BTreeMap::keys) {
                if reached.insert(to.as_str()) {
                    waiting.push(to);
                }
            }
        }
        reached
    }
}
