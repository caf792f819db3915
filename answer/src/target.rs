//! The check of request targets. Its rules are Service-Center's, to the letter.

/// Bytes from which on a target is refused.
const LIMIT: usize = 2048;

/// True when the target keeps the rules.
pub fn is_acceptable(target: &str) -> bool {
    !target.is_empty()
        && target.len() < LIMIT
        && !target.ends_with([';', '&', '?', '+', '@'])
        && !target.starts_with('.')
        && !target.contains("//")
}

/// The text that a client gets for a target that does not keep them.
pub fn refusal(target: &str) -> String {
    let shown: String = target.chars().take(LIMIT).collect();
    format!("Invalid Request URI {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_checked_by_the_old_rules() {
        for good in ["/", "/version", "/v4/default/registry/instances?version=0%2B&env="] {
            assert!(is_acceptable(good), "{good}");
        }
        let long = format!("/{}", "a".repeat(LIMIT - 1));
        for bad in ["", "/a?", "/a&", "/a;", "/a?version=1+", "/a@", "./a", "/a//b", long.as_str()] {
            assert!(!is_acceptable(bad), "{bad}");
        }
        assert!(is_acceptable(&long[..LIMIT - 1]));
    }
}
