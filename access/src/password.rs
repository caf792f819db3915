//! Passwords: hashes that are made here, and those that Service-Center has stored.
//!
//! | form | made by |
//! | --- | --- |
//! | `$argon2id$…` | this program |
//! | `1024$8$1$salt$key` (scrypt, hexadecimal) | Service-Center, and this program where both share a store |
//! | `$2a$…` (bcrypt) | older Service-Center |
//!
//! All functions here are slow on purpose, and block: callers run them where they delay nobody else. A stored
//! value may be anybody's, so one that asks for more time or memory than any program of this family uses is
//! refused.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use subtle::ConstantTimeEq as _;

/// The form in which a new password is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKind {
    /// Argon2id, which Service-Center cannot read.
    #[default]
    Argon2id,
    /// Scrypt, in Service-Center's form and with its parameters.
    Scrypt,
}

/// The machine gives no randomness, so no hash can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no password can be stored, because the machine gives no randomness")]
pub struct NoRandomness;

/// Memory of argon2id in KiB, rounds and lanes. OWASP's password storage cheat sheet names several pairs of
/// memory and rounds that protect equally well; this one takes the least time, by a sixth against 19 MiB and
/// two rounds, because less memory has to be fetched.
const ARGON2: (u32, u32, u32) = (12 * 1024, 3, 1);
/// Service-Center's parameters: the logarithm of N, r, p, and the bytes of salt and key.
const SCRYPT: (u8, u32, u32) = (10, 8, 1);
const SCRYPT_SALT: usize = 8;
const SCRYPT_KEY: usize = 32;
/// The most memory that verifying may take, in bytes.
const MOST_MEMORY: u64 = 256 << 20;
/// The most rounds of argon2.
const MOST_ROUNDS: u32 = 16;
/// The highest cost of bcrypt. Service-Center used 14.
const HIGHEST_COST: u32 = 16;

/// The text to store for a password.
///
/// # Errors
/// Without randomness.
pub fn hash(kind: HashKind, password: &str) -> Result<String, NoRandomness> {
    match kind {
        HashKind::Argon2id => {
            let mut salt = [0; 16];
            fill(&mut salt)?;
            let hashed = argon2().hash_password_with_salt(password.as_bytes(), &salt);
            hashed.map(|hash| hash.to_string()).map_err(|_| NoRandomness)
        }
        HashKind::Scrypt => {
            let mut salt = [0; SCRYPT_SALT];
            fill(&mut salt)?;
            let mut key = [0; SCRYPT_KEY];
            let (log_n, r, p) = SCRYPT;
            let params = scrypt::Params::new(log_n, r, p).map_err(|_| NoRandomness)?;
            scrypt::scrypt(password.as_bytes(), &salt, &params, &mut key).map_err(|_| NoRandomness)?;
            Ok(format!("{}${r}${p}${}${}", 1u32 << log_n, HEX.encode(&salt), HEX.encode(&key)))
        }
    }
}

/// True when the password is the one that was stored. False for a stored text that is no hash, or that asks
/// for too much.
pub fn verify(stored: &str, password: &str) -> bool {
    if stored.starts_with("$argon2") {
        verify_argon2(stored, password).unwrap_or(false)
    } else if stored.starts_with("$2") {
        verify_bcrypt(stored, password).unwrap_or(false)
    } else {
        verify_scrypt(stored, password).unwrap_or(false)
    }
}

/// True when a stored text has the form and the parameters that a new one would have. Others are replaced
/// when their password is known, which is at a login.
pub fn is_current(kind: HashKind, stored: &str) -> bool {
    match kind {
        HashKind::Argon2id => {
            let (memory, rounds, lanes) = ARGON2;
            stored.starts_with(&format!("$argon2id$v=19$m={memory},t={rounds},p={lanes}$"))
        }
        HashKind::Scrypt => {
            let (log_n, r, p) = SCRYPT;
            stored.starts_with(&format!("{}${r}${p}$", 1u32 << log_n))
        }
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| NoRandomness)
}

fn argon2() -> Argon2<'static> {
    let (memory, rounds, lanes) = ARGON2;
    let params = Params::new(memory, rounds, lanes, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn verify_argon2(stored: &str, password: &str) -> Option<bool> {
    let hash = PasswordHash::new(stored).ok()?;
    let params = Params::try_from(&hash).ok()?;
    let is_bounded = u64::from(params.m_cost()) * 1024 <= MOST_MEMORY
        && params.t_cost() <= MOST_ROUNDS
        && params.p_cost() <= 16;
    is_bounded.then(|| argon2().verify_password(password.as_bytes(), &hash).is_ok())
}

fn verify_bcrypt(stored: &str, password: &str) -> Option<bool> {
    let cost: u32 = stored.split('$').nth(2)?.parse().ok()?;
    (cost <= HIGHEST_COST).then(|| bcrypt::verify(password, stored).unwrap_or(false))
}

fn verify_scrypt(stored: &str, password: &str) -> Option<bool> {
    let parts: Vec<&str> = stored.split('$').collect();
    let [n, r, p, salt, key] = parts[..] else { return None };
    let n: u64 = n.parse().ok().filter(|n: &u64| n.is_power_of_two() && *n > 1)?;
    let r: u32 = r.parse().ok()?;
    let p: u32 = p.parse().ok()?;
    let memory = n.checked_mul(128)?.checked_mul(r.into())?;
    let key = HEX.decode(key.as_bytes()).ok().filter(|key| (16..=64).contains(&key.len()))?;
    let salt = HEX.decode(salt.as_bytes()).ok()?;
    if memory > MOST_MEMORY || !(1..=16).contains(&p) {
        return None;
    }
    let params = scrypt::Params::new(n.trailing_zeros().try_into().ok()?, r, p).ok()?;
    let mut found = vec![0; key.len()];
    scrypt::scrypt(password.as_bytes(), &salt, &params, &mut found).ok()?;
    Some(found.ct_eq(&key).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_verified_in_every_form() {
        for kind in [HashKind::Argon2id, HashKind::Scrypt] {
            let stored = hash(kind, "Complicated_password1").expect("hashed");
            assert!(is_current(kind, &stored), "{stored}");
            assert!(verify(&stored, "Complicated_password1") && !verify(&stored, "Complicated_password2"));
        }
        let bcrypt = bcrypt::hash("Complicated_password1", 4).expect("hashed").replacen("$2b$", "$2a$", 1);
        assert!(verify(&bcrypt, "Complicated_password1") && !verify(&bcrypt, "x"));
        assert!(!is_current(HashKind::Argon2id, &bcrypt) && !is_current(HashKind::Scrypt, &bcrypt));
    }

    #[test]
    fn a_hash_of_other_parameters_counts_and_is_replaced() {
        let params = Params::new(19 * 1024, 2, 1, None).expect("parameters");
        let earlier = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let stored = earlier.hash_password_with_salt(b"Complicated_password1", b"0123456789abcdef");
        let stored = stored.expect("hashed").to_string();
        assert!(verify(&stored, "Complicated_password1") && !verify(&stored, "x"));
        assert!(!is_current(HashKind::Argon2id, &stored));
    }

    #[test]
    fn scrypt_is_that_of_the_standard() {
        // RFC 7914 §12, the second and the third example.
        let key = "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640";
        assert!(verify(&format!("1024$8$16${}${key}", HEX.encode(b"NaCl")), "password"));
        let key = "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887";
        assert!(verify(&format!("16384$8$1${}${key}", HEX.encode(b"SodiumChloride")), "pleaseletmein"));
    }

    #[test]
    fn a_stored_text_cannot_ask_for_more_than_a_bound() {
        for stored in [
            "",
            "$",
            "plain",
            "1000$8$1$00$00",
            "1$8$1$00$00000000000000000000000000000000",
            "1073741824$8$1$00$00000000000000000000000000000000",
            "1024$4294967295$1$00$00000000000000000000000000000000",
            "1024$8$4294967295$00$00000000000000000000000000000000",
            "18446744073709551615$8$1$00$00",
            "$2a$31$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "$2a$",
            "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=8,t=4294967295,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$",
        ] {
            assert!(!verify(stored, ""), "{stored}");
        }
    }
}
