//! Why providers are asked for again.

/// Why providers are asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An event's predecessor is missing.
    Gap,
    /// The link to the bus lost messages, or was lost.
    Link,
    /// The publisher's progress shows a loss.
    Bookmark,
    /// The sums differ.
    Digest,
    /// The last answer did not reach far enough.
    Again,
    /// The store was restored from a backup.
    Restored,
}

impl Cause {
    /// All of them.
    pub(crate) const ALL: [Self; 6] =
        [Self::Gap, Self::Link, Self::Bookmark, Self::Digest, Self::Again, Self::Restored];

    /// The value of the label `cause`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Gap => "gap",
            Self::Link => "link",
            Self::Bookmark => "bookmark",
            Self::Digest => "digest",
            Self::Again => "again",
            Self::Restored => "restored",
        }
    }
}
