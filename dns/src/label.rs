//! Names of the registry as labels of DNS.
//!
//! In: the name of a service, an application, an environment, an instance, a version or a property. Out: the
//! one label by which DNS knows it. Letters become lower case, digits and hyphens stay, and every other
//! character becomes a hyphen. A label has at most 63 characters; a longer one keeps its first 54, followed
//! by a hyphen and the checksum of the whole name. Different names may have one label; the zone decides which
//! of them is meant.

/// The longest label of DNS.
const LONGEST: usize = 63;
/// The characters that a longer name keeps: the rest is a hyphen and eight digits.
const KEPT: usize = LONGEST - 9;

/// The label of a name; empty for an empty name.
pub(crate) fn label(name: &str) -> String {
    let mut label: String = characters(name).collect();
    if label.len() > LONGEST {
        label.truncate(KEPT);
        // The name's own bytes: names that differ in case only still differ.
        label.push_str(&format!("-{:08x}", crc32fast::hash(name.as_bytes())));
    }
    label
}

/// True when `name` has the label `label`.
pub(crate) fn has_label(name: &str, expected: &str) -> bool {
    // Without an allocation, because a question compares it with the names of many instances.
    if name.len() <= LONGEST { characters(name).eq(expected.chars()) } else { label(name) == expected }
}

fn characters(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_labels_by_one_rule() {
        for (name, expected) in [
            ("order", "order"),
            ("Order_Service", "order-service"),
            ("1.2.0", "1-2-0"),
            ("a-b", "a-b"),
            ("größe", "gr--e"),
            ("", ""),
        ] {
            assert_eq!(label(name), expected);
        }
    }

    #[test]
    fn long_names_keep_their_difference() {
        let long = "a".repeat(64);
        let other = format!("{}b", "a".repeat(63));
        assert_eq!(label(&long).len(), 63);
        assert_ne!(label(&long), label(&other));
        assert_eq!(label(&"a".repeat(63)), "a".repeat(63));
    }

    proptest! {
        #[test]
        fn every_label_is_one_of_dns(name in ".{0,80}") {
            let label = label(&name);
            prop_assert!(label.len() <= 63);
            prop_assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            prop_assert!(has_label(&name, &label));
        }
    }
}
