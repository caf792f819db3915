//! Judges the versions of etcd and NATS: the oldest that Muster was tried on, and those with the security
//! fixes of 2026.

use super::{Outcome, failed, ok, warning};

type Version = (u32, u32, u32);

/// The oldest etcd on which the system tests pass.
const OLDEST_ETCD: Version = (3, 4, 0);
/// The first releases of etcd with the fixes, each in its own line. Older lines get none.
const FIXED_ETCD: [Version; 2] = [(3, 6, 14), (3, 7, 1)];
/// The oldest NATS on which the system tests pass.
const OLDEST_NATS: Version = (2, 9, 0);
/// The first release of NATS with the fixes.
const FIXED_NATS: [Version; 1] = [(2, 12, 6)];

/// Adds what there is to say about a version of etcd to the outcome of its check.
pub(super) fn etcd(said: &str, version: &str) -> Outcome {
    judge(said, "etcd", version, OLDEST_ETCD, &FIXED_ETCD, "3.6.14 or 3.7.1")
}

/// Adds what there is to say about a version of NATS to the outcome of its check.
pub(super) fn nats(said: &str, version: &str) -> Outcome {
    judge(said, "NATS", version, OLDEST_NATS, &FIXED_NATS, "2.12.6")
}

fn judge(said: &str, name: &str, text: &str, oldest: Version, fixed: &[Version], wanted: &str) -> Outcome {
    let Some(version) = parse(text) else {
        return warning(format!("{said}; its version `{text}` cannot be read"));
    };
    let (major, minor, patch) = oldest;
    if version < oldest {
        return failed(format!(
            "{said}, version {text}: Muster needs {name} {major}.{minor}.{patch} or later, the oldest that it was tried on"
        ));
    }
    if is_fixed(version, fixed) {
        ok(format!("{said}, version {text}"))
    } else {
        warning(format!(
            "{said}, version {text}, is without the security fixes of 2026: run {wanted} or later"
        ))
    }
}

/// A line is a major and a minor version. Lines after the last one in `fixed` began with the fixes.
fn is_fixed(version: Version, fixed: &[Version]) -> bool {
    let line = |version: &Version| (version.0, version.1);
    match fixed.iter().find(|first| line(first) == line(&version)) {
        Some(first) => version >= *first,
        None => fixed.last().is_some_and(|last| line(&version) > line(last)),
    }
}

/// The three numbers of `3.6.14`, also with something behind them.
fn parse(text: &str) -> Option<Version> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::CheckState::{self, Failed, Ok, Warning};

    #[test]
    fn old_and_unfixed_servers_are_named() {
        let states: [(&str, CheckState); 9] = [
            ("3.3.27", Failed),
            ("3.4.23", Warning),
            ("3.5.21", Warning),
            ("3.6.13", Warning),
            ("3.6.14", Ok),
            ("3.7.0", Warning),
            ("3.7.3", Ok),
            ("3.8.0-rc.0", Ok),
            ("junk", Warning),
        ];
        for (version, state) in states {
            assert_eq!(etcd("http://etcd:2379 answers", version).0, state, "{version}");
        }
        for (version, state) in
            [("2.8.4", Failed), ("2.9.10", Warning), ("2.12.5", Warning), ("2.12.6", Ok), ("2.15.3", Ok)]
        {
            assert_eq!(nats("answers", version).0, state, "{version}");
        }
        let (_, said) = etcd("http://etcd:2379 answers", "3.4.23");
        assert!(said.contains("version 3.4.23") && said.contains("3.6.14 or 3.7.1"), "{said}");
    }
}
