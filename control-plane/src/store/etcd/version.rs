//! The versions of etcd that keep requested progress in the order of events.
//!
//! Before 3.4.25, and in 3.5 before 3.5.8, the response to a progress request could overtake events that it
//! claims to cover: <https://github.com/etcd-io/etcd/issues/15220>.

/// True when the response to a progress request proves that all events up to its revision were delivered. A
/// version that cannot be parsed counts as an old one, which is slower but never wrong.
pub(super) fn progress_is_in_order(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse::<u32>().ok());
    let major = numbers.next().flatten();
    let minor = numbers.next().flatten();
    let patch = numbers.next().flatten();
    match (major, minor, patch) {
        (Some(3), Some(4), Some(patch)) => patch >= 25,
        (Some(3), Some(5), Some(patch)) => patch >= 8,
        (Some(3), Some(minor), _) => minor > 5,
        (Some(major), _, _) => major > 3,
        (None, _, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_versions_with_the_repair_are_trusted() {
        for old in ["3.3.27", "3.4.23", "3.4.24", "3.5.0", "3.5.7", "2.3.8", "", "junk", "3", "3.5"] {
            assert!(!progress_is_in_order(old), "{old}");
        }
        for new in ["3.4.25", "3.4.34", "3.5.8", "3.5.21-rc.0", "3.6.0-rc.3", "3.7.2", "4.0.0"] {
            assert!(progress_is_in_order(new), "{new}");
        }
    }
}
