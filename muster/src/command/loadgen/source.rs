//! Where watches come from: addresses of this machine, and how many files it may open.
//!
//! A connection is four numbers, of which only the client's port differs between watches of one machine on one
//! gateway; there are some 28 000 of those. Each further source address has as many again. On loopback all of
//! `127.0.0.0/8` is there for the asking.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Addresses of a list; more is surely a mistake.
const MOST: usize = 4096;
/// Files beside the watches: what the process itself, its calls and its output need.
const BESIDE: u64 = 200;

/// Addresses that watches come from in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sources(Vec<IpAddr>);

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim) {
            let bad = || format!("`{part}`: expected an address, or two of IPv4 with a dash between");
            match part.split_once('-') {
                None => all.push(part.parse().map_err(|_| bad())?),
                Some((first, last)) => {
                    let [first, last] = [first, last].map(|end| end.trim().parse::<Ipv4Addr>());
                    let (first, last) =
                        (u32::from(first.map_err(|_| bad())?), u32::from(last.map_err(|_| bad())?));
                    let count = last
                        .checked_sub(first)
                        .ok_or_else(|| format!("`{part}`: it ends before it begins"))?;
                    if count as usize >= MOST {
                        return Err(format!("`{part}`: at most {MOST} addresses"));
                    }
                    all.extend((first..=last).map(|address| IpAddr::V4(address.into())));
                }
            }
            if all.len() > MOST {
                return Err(format!("at most {MOST} addresses"));
            }
        }
        Ok(Self(all))
    }
}

impl Sources {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The address of a watch; none when the system may choose.
    pub(super) fn of(&self, watch: usize) -> Option<IpAddr> {
        (!self.0.is_empty()).then(|| self.0[watch % self.0.len()])
    }
}

/// Lets this process open as many files as it may, and says when that is too few for so many watches.
pub(super) fn room_for(watches: u32) -> Result<(), String> {
    let wanted = u64::from(watches) + BESIDE;
    let limit = getrlimit(Resource::Nofile);
    let Some(now) = limit.current.filter(|now| *now < wanted) else { return Ok(()) };
    let most = limit.maximum.unwrap_or(wanted).max(now);
    let raised = Rlimit { current: Some(most.min(wanted)), maximum: limit.maximum };
    // Refused: what is in force is what counts.
    let most = if setrlimit(Resource::Nofile, raised).is_ok() { most } else { now };
    if most >= wanted {
        return Ok(());
    }
    Err(format!(
        "{watches} watches need {wanted} open files and this process may have {most}: raise the limit \
         (`ulimit -Hn`), or spread the watches over several runs"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_taken_in_turn() {
        let sources: Sources = "127.0.0.2-127.0.0.4, ::1,10.0.0.1".parse().expect("is a list");
        assert_eq!(sources.len(), 5);
        let of = |watch| sources.of(watch).expect("is one").to_string();
        assert_eq!(
            [of(0), of(2), of(3), of(4), of(5)],
            ["127.0.0.2", "127.0.0.4", "::1", "10.0.0.1", "127.0.0.2"]
        );
        assert_eq!(Sources::default().of(3), None);
        assert_eq!("10.0.0.1-10.0.0.1".parse::<Sources>().expect("one").len(), 1);
    }

    #[test]
    fn what_is_no_list_of_addresses_is_refused_with_the_part_that_is_wrong() {
        for (text, part) in [
            ("", "``"),
            ("127.0.0.1,", "``"),
            ("localhost", "`localhost`"),
            ("127.0.0.9-127.0.0.1", "ends before"),
            ("::1-::9", "`::1-::9`"),
            ("10.0.0.0-10.9.9.9", "at most"),
            ("127.0.0.1-", "`127.0.0.1-`"),
        ] {
            let problem = text.parse::<Sources>().expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn a_limit_that_is_too_low_is_told_with_both_numbers() {
        assert_eq!(room_for(1), Ok(()));
        if getrlimit(Resource::Nofile).maximum.is_some_and(|most| most < 1 << 30) {
            let problem = room_for(u32::MAX).expect_err("is too many");
            assert!(problem.contains("4294967295 watches need 4294967495"), "{problem}");
        }
    }
}
