//! The form of names, passwords, roles and times. Limits and texts are Service-Center's.
//!
//! One text differs: a password that is refused is not repeated.

use std::time::Duration;

use shared::model::MAX_TENANT_NAME;

use super::{AccountChange, NewAccount};
use crate::registry::RegistryError;

type Checked = Result<(), RegistryError>;

/// The form of names in Service-Center's words.
const NAME_RULE: &str = r"^[a-zA-Z0-9]*$|^[a-zA-Z0-9][a-zA-Z0-9_\\-.]*[a-zA-Z0-9]$";
/// The longest name of an account or a role.
const LONGEST_NAME: usize = 64;
/// The most roles of an account.
const MOST_ROLES: usize = 5;
/// The most tenants that an account is bound to.
const MOST_TENANTS: usize = 100;
/// The longest password in bytes.
const LONGEST_PASSWORD: usize = 32;
/// Characters of a refused value that the refusal shows.
const SHOWN: usize = 64;

/// The beginning of a value that a client has sent.
pub(crate) fn shown(value: &str) -> String {
    value.chars().take(SHOWN).collect()
}

/// True for the name of an account or a role. No other text may become a part of a key.
pub(crate) fn is_name(name: &str) -> bool {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    (1..=LONGEST_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        && is_end(name.chars().next())
        && is_end(name.chars().next_back())
}

/// The name of an account or a role; `field` is Service-Center's word for it.
pub(crate) fn name(field: &str, name: &str) -> Checked {
    if is_name(name) {
        return Ok(());
    }
    Err(refused(field, &shown(name), &format!("{{Min: 1, Max: {LONGEST_NAME}, Regexp: {NAME_RULE}}}")))
}

fn refused(field: &str, value: &str, rule: &str) -> RegistryError {
    RegistryError::invalid(format!("field '{field}' invalid value '{value}' does not match rule: {rule}"))
}

pub(super) fn new_account(new: &NewAccount) -> Checked {
    name("Account.Name", &new.name)?;
    roles(&new.roles)?;
    new_password(&new.name, &new.password)?;
    status(&new.status)?;
    tenants(&new.tenants)?;
    if new.id.len() > LONGEST_NAME || !new.id.chars().all(|c| c.is_ascii_graphic()) {
        return Err(refused("Account.Id", &shown(&new.id), "{Max: 64, Form: no blanks}"));
    }
    Ok(())
}

pub(super) fn change(change: &AccountChange) -> Checked {
    let AccountChange { roles: new_roles, status: new_status, tenants: new_tenants } = change;
    if new_roles.is_none() && new_status.is_none() && new_tenants.is_none() {
        return roles(&[]);
    }
    new_roles.as_deref().map_or(Ok(()), roles)?;
    new_status.as_deref().map_or(Ok(()), status)?;
    new_tenants.as_deref().map_or(Ok(()), tenants)
}

fn roles(roles: &[String]) -> Checked {
    if (1..=MOST_ROLES).contains(&roles.len()) && roles.iter().all(|role| is_name(role)) {
        return Ok(());
    }
    let value = shown(&roles.join(" "));
    let rule = format!("{{Min: 1, Max: {MOST_ROLES}, Regexp: {NAME_RULE}}}");
    Err(refused("Account.Roles", &format!("[{value}]"), &rule))
}

fn status(status: &str) -> Checked {
    if matches!(status, "" | "active" | "inactive") {
        return Ok(());
    }
    Err(refused("Account.Status", &shown(status), "{Regexp: ^(active|inactive)$|^$}"))
}

/// Tenants as `domain/project`, in which `*` stands for any text.
fn tenants(tenants: &[String]) -> Checked {
    let is_part = |part: &str| {
        !part.is_empty() && part.chars().count() <= MAX_TENANT_NAME && !part.chars().any(char::is_control)
    };
    let is_tenant = |tenant: &String| {
        tenant
            .split_once('/')
            .is_some_and(|(domain, project)| is_part(domain) && is_part(project) && !project.contains('/'))
    };
    if tenants.len() > MOST_TENANTS {
        let rule = format!("{{Max: {MOST_TENANTS}}}");
        return Err(refused("Account.Tenants", &format!("{} items", tenants.len()), &rule));
    }
    match tenants.iter().find(|tenant| !is_tenant(tenant)) {
        Some(tenant) => Err(refused("Account.Tenants", &shown(tenant), "{Form: domain/project}")),
        None => Ok(()),
    }
}

/// A password that an account is to get.
pub(super) fn new_password(name: &str, password: &str) -> Checked {
    let reversed: String = name.chars().rev().collect();
    if is_strong(password) && password != name && password != reversed {
        return Ok(());
    }
    // The value stays out of the refusal: clients write refusals into their logs.
    Err(RegistryError::invalid(
        "field 'Account.Password' does not match rule: {Regexp: password}: 8 to 32 bytes with an upper and a lower \
         case letter, a digit and a special character, and not the name of the account forwards or backwards",
    ))
}

pub(super) fn is_strong(password: &str) -> bool {
    (8..=LONGEST_PASSWORD).contains(&password.len())
        && password.chars().any(char::is_uppercase)
        && password.chars().any(char::is_lowercase)
        && password.chars().any(char::is_numeric)
        && password.chars().any(|c| !c.is_alphanumeric() && !c.is_whitespace() && !c.is_control())
}

/// The time that a token is to live, within bounds; `default` when none is given.
pub(crate) fn token_time(
    text: &str,
    default: Duration,
    bounds: std::ops::RangeInclusive<Duration>,
) -> Result<Duration, RegistryError> {
    if text.is_empty() {
        return Ok(default);
    }
    duration(text)
        .filter(|time| bounds.contains(time))
        .ok_or_else(|| refused("Account.TokenExpirationTime", &shown(text), "{Regexp: TokenExpirationTime}"))
}

/// A duration as Go writes it, such as `1h30m`. `None` for another text, and for a negative one.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = after;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, seconds) in [
            ("15m", 900.0),
            ("1h30m", 5400.0),
            ("1.5h", 5400.0),
            ("+2h0m0s", 7200.0),
            ("900000ms", 900.0),
            ("0", 0.0),
            (".5h", 1800.0),
        ] {
            assert_eq!(duration(text).map(|time| time.as_secs_f64()), Some(seconds), "{text}");
        }
        for bad in ["", "+", "-15m", "15", "15 m", "m", "1d", "1e3s", "..m", "99999999999999999999h", "½h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn passwords_need_all_kinds_of_characters() {
        for good in ["Pwd0000_1", "Complicated_password1", "Ää1§ääääää"] {
            assert!(new_password("peter", good).is_ok(), "{good}");
        }
        let long = "Aa1_".repeat(9);
        for bad in ["", "Aa1_", "aaaaaaa1_", "AAAAAAA1_", "Aaaaaaaa_", "Aaaaaaa11", "Aaaaaa1 1", &long] {
            assert!(new_password("peter", bad).is_err(), "{bad}");
        }
        assert!(
            new_password("Peter_01", "Peter_01").is_err() && new_password("Peter_01", "10_reteP").is_err()
        );
        let text = new_password("peter", "hunter2").expect_err("weak").to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn tenants_have_a_domain_and_a_project() {
        let check = |text: &str| tenants(&[text.to_owned()]).is_ok();
        assert!(check("a/b") && check("*/*") && check("a-*/p"));
        assert!(
            !check("") && !check("a") && !check("/b") && !check("a/") && !check("a/b/c") && !check("a/\n")
        );
    }

    proptest! {
        #[test]
        fn a_name_is_one_segment_of_a_key(text in ".{0,80}") {
            if is_name(&text) {
                prop_assert!(!text.contains('/') && text.len() <= 64 && text.is_ascii());
            } else {
                prop_assert!(name("Account.Name", &text).is_err());
            }
        }

        #[test]
        fn no_text_breaks_a_check(text in ".{0,80}") {
            let _ = (duration(&text), is_strong(&text), tenants(std::slice::from_ref(&text)));
        }
    }
}
