//! The reasons to request providers again.

/// The reason for which the events of providers are requested again. It is counted for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The predecessor of an event is missing.
    Gap,
    /// The link to the bus was lost, or dropped messages.
    Link,
    /// A bookmark names an event that has not arrived, or begins after the end of the previous bookmark.
    Bookmark,
    /// The digests of the gateway and of a replica differ.
    Digest,
    /// The last reply did not reach far enough, or a new subscription is being verified.
    Again,
    /// The store was restored from a backup.
    Restored,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 6] =
        [Self::Gap, Self::Link, Self::Bookmark, Self::Digest, Self::Again, Self::Restored];

    /// The value of the metric label `cause`.
    pub fn label(self) -> &'static str {
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
