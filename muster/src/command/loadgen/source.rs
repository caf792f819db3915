//! The limits of one machine: its source addresses, and the number of files it may open.
//!
//! A connection is identified by two addresses and two ports. Between one machine and one gateway only the
//! client's port differs, and there are about 28 000 of those. Each further source address has as many again.
//! On Linux all of `127.0.0.0/8` can be used without setting anything up.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Addresses of a list at most. A longer list is surely a mistake.
const MAX_ADDRESSES: usize = 4096;
/// Files beside the watches, for the process itself, its requests and its output.
const SPARE_FILES: u64 = 200;

/// The addresses from which watches are opened in turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceAddresses(Vec<IpAddr>);

impl FromStr for SourceAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part.split_once('-') {
                None => all.push(part.parse().map_err(|_| not_an_address(part))?),
                Some((first, last)) => add_range(part, first, last, &mut all)?,
            }
            if all.len() > MAX_ADDRESSES {
                return Err(format!("at most {MAX_ADDRESSES} addresses"));
            }
        }
        Ok(Self(all))
    }
}

fn add_range(part: &str, first: &str, last: &str, all: &mut Vec<IpAddr>) -> Result<(), String> {
    let first: Ipv4Addr = first.trim().parse().map_err(|_| not_an_address(part))?;
    let last: Ipv4Addr = last.trim().parse().map_err(|_| not_an_address(part))?;
    let first = u32::from(first);
    let last = u32::from(last);
    let count = last.checked_sub(first).ok_or_else(|| format!("`{part}`: it ends before it begins"))?;
    // Checked before the range is built: it could be the whole address space.
    if count as usize >= MAX_ADDRESSES {
        return Err(format!("`{part}`: at most {MAX_ADDRESSES} addresses"));
    }
    all.extend((first..=last).map(|address| IpAddr::V4(address.into())));
    Ok(())
}

fn not_an_address(part: &str) -> String {
    format!("`{part}`: expected an address, or two of IPv4 with a dash between")
}

impl SourceAddresses {
    /// The number of addresses.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The address of a watch, or `None` when the system may choose.
    pub(super) fn of(&self, watch: usize) -> Option<IpAddr> {
        (!self.0.is_empty()).then(|| self.0[watch % self.0.len()])
    }
}

/// Raises this process's limit on open files as far as needed.
///
/// # Errors
/// When the limit stays too low for the watches; the text says what to do.
pub(super) fn raise_file_limit(watches: u32) -> Result<(), String> {
    let wanted = u64::from(watches) + SPARE_FILES;
    let limit = getrlimit(Resource::Nofile);
    // No limit at all, or one that is high enough.
    let Some(current) = limit.current.filter(|current| *current < wanted) else { return Ok(()) };
    let allowed = limit.maximum.unwrap_or(wanted).max(current);
    let raised = Rlimit { current: Some(allowed.min(wanted)), maximum: limit.maximum };
    // A sandbox may refuse the change; then the present limit remains in force.
    let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { allowed } else { current };
    if allowed >= wanted {
        return Ok(());
    }
    Err(format!(
        "{watches} watches need {wanted} open files and this process may have {allowed}: raise the limit \
         (`ulimit -Hn`), or spread the watches over several runs"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_used_in_turn() {
        let sources: SourceAddresses = "127.0.0.2-127.0.0.4, ::1,10.0.0.1".parse().expect("is a list");
        assert_eq!(sources.len(), 5);
        for (watch, address) in
            [(0, "127.0.0.2"), (2, "127.0.0.4"), (3, "::1"), (4, "10.0.0.1"), (5, "127.0.0.2")]
        {
            assert_eq!(sources.of(watch).expect("is one").to_string(), address);
        }
        assert_eq!(SourceAddresses::default().of(3), None);
        assert_eq!("10.0.0.1-10.0.0.1".parse::<SourceAddresses>().expect("one").len(), 1);
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_wrong_part() {
        for (text, part) in [
            ("", "``"),
            ("127.0.0.1,", "``"),
            ("localhost", "`localhost`"),
            ("127.0.0.9-127.0.0.1", "ends before"),
            ("::1-::9", "`::1-::9`"),
            ("10.0.0.0-10.9.9.9", "at most"),
            ("127.0.0.1-", "`127.0.0.1-`"),
        ] {
            let problem = text.parse::<SourceAddresses>().expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn a_limit_that_is_too_low_is_reported_with_both_numbers() {
        assert_eq!(raise_file_limit(1), Ok(()));
        if getrlimit(Resource::Nofile).maximum.is_some_and(|most| most < 1 << 30) {
            let problem = raise_file_limit(u32::MAX).expect_err("is too many");
            assert!(problem.contains("4294967295 watches need 4294967495"), "{problem}");
        }
    }
}
