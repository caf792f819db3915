//! The fields of a frame that the load generator needs. Its frames come from its own changes, so a search is
//! enough; to parse each of them would measure the parser.

use shared::model::Revision;

/// A change, or the state of a provider, as a frame carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoadFrame {
    /// The number of the provider.
    pub(super) owner: usize,
    /// The number of the change.
    pub(super) seq: u64,
    /// The time of its request, in microseconds.
    pub(super) at: u64,
    /// The frame carries the present state and not a change.
    pub(super) is_state: bool,
}

impl LoadFrame {
    /// `None` for frames without a change of a run: of an instance that was registered, for example.
    pub(super) fn find_in(frame: &str) -> Option<Self> {
        Some(Self {
            owner: usize::try_from(text_number(frame, "\"owner\":\"")?).ok()?,
            seq: text_number(frame, "\"seq\":\"")?,
            at: text_number(frame, "\"at\":\"")?,
            is_state: frame.starts_with("{\"action\":\"RESET\""),
        })
    }
}

/// The point from which a watch resumes after a break.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResumePoint {
    since: u64,
    highest: u64,
    /// Frames up to this revision may come a second time.
    repeats_until: u64,
}

impl ResumePoint {
    pub(super) fn since(&self) -> Revision {
        self.since.into()
    }

    /// Accounts for a frame. Returns true if it may be one that has come before.
    pub(super) fn advance(&mut self, frame: &str) -> bool {
        let Some(rev) = last_number(frame, "\"rev\":") else { return false };
        let is_state = frame.starts_with("{\"action\":\"RESET\"");
        if is_state && rev < self.since {
            // The store was restored from a backup, so revisions have begun anew.
            *self = Self { repeats_until: u64::MAX, ..Self::default() };
        }
        // A bookmark has no `since` of its own: its revision is the statement.
        self.since = last_number(frame, "\"since\":").unwrap_or(rev).max(self.since);
        self.highest = self.highest.max(rev);
        rev <= self.repeats_until
    }

    /// The watch was opened again.
    pub(super) fn resumed(&mut self) {
        self.repeats_until = self.repeats_until.max(self.highest);
    }
}

/// The number in the quotes that `name` ends with.
fn text_number(frame: &str, name: &str) -> Option<u64> {
    let rest = &frame[frame.find(name)? + name.len()..];
    rest[..rest.find('"')?].parse().ok()
}

/// The bare number behind the last `name`. Those of the frame itself stand at its end.
fn last_number(frame: &str, name: &str) -> Option<u64> {
    let rest = &frame[frame.rfind(name)? + name.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_by_their_marks() {
        let change = r#"{"action":"UPDATE","key":{},"instance":{"properties":{"owner":"3","seq":"7","at":"99"}},"rev":40,"since":38}"#;
        let found = LoadFrame::find_in(change).expect("is a change");
        assert_eq!((found.owner, found.seq, found.at, found.is_state), (3, 7, 99, false));
        let state = change.replace("UPDATE", "RESET");
        assert!(LoadFrame::find_in(&state).expect("is a state").is_state);
        let bookmark = r#"{"action":"BOOKMARK","rev":41}"#;
        assert_eq!(LoadFrame::find_in(bookmark), None);

        let mut point = ResumePoint::default();
        assert!(!point.advance(change));
        assert_eq!(point.since(), Revision::from(38));
        point.resumed();
        assert!(point.advance(change), "it comes again after a break");
        assert!(!point.advance(bookmark));
        assert_eq!(point.since(), Revision::from(41));
    }
}
