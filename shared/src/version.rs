//! Versions and version rules.
//!
//! A version has one to four numbers, each up to 32767; missing ones count as 0. An exact rule is textual
//! (`1.0` is not `1.0.0`), every other rule is numeric. A range is half open. Its bounds may come in either
//! order.

/// The largest number in a version.
const MAX_NUMBER: u64 = 32767;

/// A version as one number that orders like the version: four parts of 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Parses one to four numbers joined by dots, each up to 32767.
    pub fn parse(text: &str) -> Option<Self> {
        let mut packed = 0_u64;
        let mut count = 0;
        for part in text.split('.') {
            count += 1;
            // Checked by hand, because Rust would also take a plus sign.
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number: u64 = part.parse().ok()?;
            if count > 4 || number > MAX_NUMBER {
                return None;
            }
            packed = packed << 16 | number;
        }
        // The first number is the most significant one, however many follow.
        Some(Self(packed << (16 * (4 - count))))
    }
}

/// The versions of a provider that a consumer asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VersionRule {
    /// The highest registered version.
    Latest,
    /// This version and all above.
    AtLeast(Version),
    /// From the first version up to, but not including, the second.
    Range(Version, Version),
    /// The version with exactly this text.
    Exact(String),
}

impl VersionRule {
    /// Every version.
    pub const ALL: Self = Self::AtLeast(Version(0));

    /// Parses `latest`, `1.2+`, `1.0-2.0` or `1.2.3`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self::Latest);
        }
        if let Some(least) = text.strip_suffix('+') {
            return Version::parse(least).map(Self::AtLeast);
        }
        if let Some((first, second)) = text.split_once('-') {
            let first = Version::parse(first)?;
            let second = Version::parse(second)?;
            return Some(Self::Range(first.min(second), first.max(second)));
        }
        Version::parse(text).map(|_| Self::Exact(text.into()))
    }

    /// True when the rule takes a version. `highest` is the highest version registered.
    pub fn takes(&self, text: &str, version: Version, highest: Version) -> bool {
        match self {
            Self::Latest => version == highest,
            Self::AtLeast(least) => version >= *least,
            Self::Range(from, to) => (*from..*to).contains(&version),
            Self::Exact(exact) => exact == text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).expect(text)
    }

    /// The vectors of the contract: registered are 1.0.0, 1.0.1, 1.1 and 2.0.0.
    #[test]
    fn rules_take_the_versions_of_the_contract() {
        let registered = ["2.0.0", "1.1", "1.0.1", "1.0.0"];
        let highest = version("2.0.0");
        for (text, expected) in [
            ("0+", &registered[..]),
            ("0.0.0.0+", &registered[..]),
            ("1.0.1+", &["2.0.0", "1.1", "1.0.1"]),
            ("1.0-1.1", &["1.0.1", "1.0.0"]),
            ("1.1-1.0", &["1.0.1", "1.0.0"]),
            ("1.0-1.0", &[]),
            ("latest", &["2.0.0"]),
            ("1.1", &["1.1"]),
            ("1.1.0", &[]),
            ("9+", &[]),
        ] {
            let rule = VersionRule::parse(text).expect(text);
            let mut taken = Vec::from(registered);
            taken.retain(|candidate| rule.takes(candidate, version(candidate), highest));
            assert_eq!(taken, expected, "{text}");
        }
    }

    #[test]
    fn malformed_rules_are_refused() {
        for text in
            ["", "abc", "1.0.0.0.0", "1.40000", "0%2B", "1..2", "1.", "+", "-", "1-", "1.0 ", "-1", "١"]
        {
            assert_eq!(VersionRule::parse(text), None, "{text}");
        }
    }

    #[test]
    fn versions_order_by_number() {
        assert!(version("1.9") < version("1.10"));
        assert_eq!(version("1.0"), version("1.0.0.0"));
        assert!(version("32767.32767.32767.32767") > version("32767"));
    }
}
