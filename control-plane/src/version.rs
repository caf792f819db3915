//! Versions and version rules.
//!
//! A version has one to four numbers, each up to 32767; missing ones count as 0. An exact rule is textual
//! (`1.0` is not `1.0.0`), every other rule is numeric. A range is half open, its bounds may come in either
//! order.

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
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let number: u64 = if digits { part.parse().ok()? } else { return None };
            if count > 4 || number > 32767 {
                return None;
            }
            packed = packed << 16 | number;
        }
        Some(Self(packed << (16 * (4 - count))))
    }
}

/// Which versions of a provider a consumer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionRule {
    /// The highest registered one.
    Latest,
    /// This one and all above.
    AtLeast(Version),
    /// From the first up to, but not including, the second.
    Range(Version, Version),
    /// The one with exactly this text.
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
        if let Some((a, b)) = text.split_once('-') {
            let (a, b) = (Version::parse(a)?, Version::parse(b)?);
            return Some(Self::Range(a.min(b), a.max(b)));
        }
        Version::parse(text).map(|_| Self::Exact(text.into()))
    }

    /// Whether the rule takes a version, given the highest one registered.
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

    /// The vectors of the contract: registered are 1.0.0, 1.0.1, 1.1 and 2.0.0.
    #[test]
    fn rules_take_what_the_contract_says() {
        let registered = ["2.0.0", "1.1", "1.0.1", "1.0.0"];
        let highest = Version::parse("2.0.0").expect("a version");
        let taken = |rule: &str| -> Vec<&str> {
            let rule = VersionRule::parse(rule).expect(rule);
            let takes = |t: &&str| rule.takes(t, Version::parse(t).expect("a version"), highest);
            registered.into_iter().filter(takes).collect()
        };
        for (rule, expected) in [
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
            assert_eq!(taken(rule), expected, "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in
            ["", "abc", "1.0.0.0.0", "1.40000", "0%2B", "1..2", "1.", "+", "-", "1-", "1.0 ", "-1", "١"]
        {
            assert_eq!(VersionRule::parse(text), None, "{text}");
        }
    }

    #[test]
    fn versions_order_by_number() {
        let version = |text| Version::parse(text).expect(text);
        assert!(version("1.9") < version("1.10"));
        assert_eq!(version("1.0"), version("1.0.0.0"));
        assert!(version("32767.32767.32767.32767") > version("32767"));
    }
}
