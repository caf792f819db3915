//! The versions of resources and answers, `INCARNATION.REVISION-DIGEST`.
//!
//! The digest decides whether two versions are of the same content. Incarnation and revision are the
//! [`Point`] that the content is of, for gateways that are behind, and for people.

use shared::model::{Incarnation, Revision};

/// A point in the history of the registry.
///
/// The incarnation counts first: after a restore of the store its revisions begin anew at an earlier one, and
/// all of them are later than those that were undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    // In the order in which points are compared.
    pub(crate) incarnation: Incarnation,
    pub(crate) revision: Revision,
}

impl Point {
    /// The point before everything.
    pub(crate) const ZERO: Self = Self { incarnation: Incarnation::FIRST, revision: Revision::ZERO };

    /// A point in an incarnation. One that control planes have not told is the first.
    pub(crate) fn new(incarnation: Option<u64>, revision: Revision) -> Self {
        Self { incarnation: incarnation.map(Incarnation::new).unwrap_or_default(), revision }
    }

    /// The point of another revision in the same incarnation.
    pub(crate) fn with(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }
}

/// A version as clients are shown it.
pub(crate) fn version_of(point: Point, digest: u64) -> String {
    format!("{}.{}-{digest:016x}", point.incarnation, point.revision.get())
}

/// Reads a version that this gateway or another one has given out.
pub(crate) fn read_version(text: &str) -> Option<(Point, u64)> {
    let (point, digest) = text.split_once('-')?;
    let (incarnation, revision) = point.split_once('.')?;
    (digest.len() == 16).then_some(())?;
    let point = Point::new(Some(incarnation.parse().ok()?), Revision::new(revision.parse().ok()?));
    Some((point, u64::from_str_radix(digest, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point(incarnation: u64, revision: u64) -> Point {
        Point::new(Some(incarnation), revision.into())
    }

    #[test]
    fn other_versions_are_not_read() {
        let digest = "0123456789abcdef";
        for text in ["", "1.7", "1.7-", "1.7-0123", "1.7-0123456789abcdeg", "1.x-0123456789abcdef"] {
            assert_eq!(read_version(text), None, "{text}");
        }
        for point in ["", "7", ".7", "7.", "-1.7", "1.7.2", "99999999999999999999.7"] {
            let text = format!("{point}-{digest}");
            assert_eq!(read_version(&text), None, "{text}");
        }
    }

    #[test]
    fn a_restored_store_is_later_whatever_its_revision() {
        assert!(point(0, 900) < point(1, 4) && point(1, 4) < point(1, 5));
        assert_eq!(Point::new(None, 7.into()), point(0, 7), "what is not known is the first");
        assert!(point(3, 9).with(4.into()) < point(3, 9));
    }

    proptest! {
        /// A plain model: a history is a list of moments, in which the store takes a change or is restored.
        /// Of any two moments the later one has the later point, and both are read back from their versions.
        #[test]
        fn points_are_in_the_order_of_what_happened(
            steps in prop::collection::vec((prop::bool::weighted(0.2), 0..100_u64, any::<u32>()), 1..40),
            digest: u64,
        ) {
            let mut now = (Incarnation::FIRST, 1_u64);
            let mut moments = vec![now];
            for (is_restored, back, step) in steps {
                now = if is_restored {
                    // To the revision of a backup, as a control plane then raises the incarnation.
                    (now.0.after(step), now.1.saturating_sub(back).max(1))
                } else {
                    (now.0, now.1 + 1)
                };
                moments.push(now);
            }
            let points: Vec<Point> =
                moments.iter().map(|(incarnation, revision)| point(incarnation.get(), *revision)).collect();
            prop_assert!(points.is_sorted_by(|a, b| a < b), "{points:?}");
            for point in points {
                prop_assert_eq!(read_version(&version_of(point, digest)), Some((point, digest)));
            }
        }
    }
}
