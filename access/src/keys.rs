//! Keys of tokens: the private key that signs them, and the public keys that verify them.
//!
//! Files hold PEM as Service-Center and `openssl` write it: a private key in PKCS#1 or PKCS#8, and one or
//! more public keys in PKIX. While a key is being replaced the public file holds the old and the new one.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA512};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

/// Signatures of smaller keys are not trusted. Service-Center's documents recommend 4096 bits.
const FEWEST_BITS: usize = 2048;

/// The reason for which a key cannot be used. It never contains a part of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not PEM.
    #[error("it is not a PEM file")]
    NotPem,
    /// The PEM text has no block of the expected kind.
    #[error("it has no block `{0}`")]
    Missing(&'static str),
    /// The private key is protected by a passphrase.
    #[error("the key has a passphrase; write it without one, and protect the file instead")]
    Encrypted,
    /// The block holds no RSA key.
    #[error("it does not hold an RSA key")]
    NotRsa,
    /// The key is too small.
    #[error("the key has {0} bits, and at least 2048 are needed")]
    TooSmall(usize),
    /// No key could be made.
    #[error("no key could be made")]
    NotMade,
}

/// A public RSA key, in the form in which it is published (JWK) and sent to gateways. Its id is the
/// thumbprint of RFC 7638, so every process gives a key the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// The id of the key.
    pub kid: String,
    /// The modulus, base64url without padding.
    pub n: String,
    /// The exponent, base64url without padding.
    pub e: String,
}

/// A private RSA key that signs tokens.
pub struct SigningKey {
    /// Kept as it is used: reading a key from its file's bytes checks its numbers, which takes a multiple of
    /// the time of a signature.
    pair: rsa::KeyPair,
    public: PublicKey,
}

/// The key has made no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key has made no signature")]
pub struct NotSigned;

/// A new pair of keys as text for files.
pub struct KeyPairText {
    /// The private key, PKCS#1.
    pub private: String,
    /// The public key, PKIX.
    pub public: String,
}

impl PublicKey {
    /// The key of these numbers, big-endian.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Self {
        let n = BASE64URL_NOPAD.encode(strip_zeros(modulus));
        let e = BASE64URL_NOPAD.encode(strip_zeros(exponent));
        // The members in the order of RFC 7638, without blanks.
        let canonical = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, canonical.as_bytes());
        Self { kid: BASE64URL_NOPAD.encode(digest.as_ref()), n, e }
    }

    /// Reads the public keys of a PEM text, in their order.
    ///
    /// # Errors
    /// The first block that is no key, or that there is none.
    pub fn all_from_pem(text: &[u8]) -> Result<Vec<Self>, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::NotPem)?;
        let wanted = blocks.iter().filter(|block| matches!(block.tag(), "PUBLIC KEY" | "RSA PUBLIC KEY"));
        let keys: Vec<Self> =
            wanted.map(|block| Self::from_der(block.contents())).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(KeyError::Missing("PUBLIC KEY")) } else { Ok(keys) }
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let key = rsa::PublicKey::from_der(der).map_err(|_| KeyError::NotRsa)?;
        Self::of(&key)
    }

    fn of(key: &rsa::PublicKey) -> Result<Self, KeyError> {
        let bits = key.modulus_len() * 8;
        if bits < FEWEST_BITS {
            return Err(KeyError::TooSmall(bits));
        }
        let modulus = key.modulus().big_endian_without_leading_zero();
        Ok(Self::new(modulus, key.exponent().big_endian_without_leading_zero()))
    }

    pub(crate) fn decoding(&self) -> Option<DecodingKey> {
        DecodingKey::from_rsa_components(&self.n, &self.e).ok()
    }
}

impl SigningKey {
    /// Reads the private key of a PEM text.
    ///
    /// # Errors
    /// The reason for which it cannot be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::NotPem)?;
        for block in &blocks {
            let der = block.contents();
            match block.tag() {
                // In PKCS#1 a passphrase shows in the headers of the block.
                "RSA PRIVATE KEY" if block.headers().get("Proc-Type").is_some() => {
                    return Err(KeyError::Encrypted);
                }
                "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
                "RSA PRIVATE KEY" => return Self::from_pkcs1(der),
                "PRIVATE KEY" => return Self::from_pkcs1(inner_of_pkcs8(der).ok_or(KeyError::NotRsa)?),
                _ => {}
            }
        }
        Err(if blocks.is_empty() { KeyError::NotPem } else { KeyError::Missing("RSA PRIVATE KEY") })
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let pair = rsa::KeyPair::from_der(der).map_err(|_| KeyError::NotRsa)?;
        Ok(Self { public: PublicKey::of(pair.public_key())?, pair })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature of some bytes by RS512, the algorithm of tokens. Takes about a millisecond.
    pub(crate) fn sign(&self, content: &[u8]) -> Result<Vec<u8>, NotSigned> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let signed = self.pair.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), content, &mut signature);
        signed.map(|()| signature).map_err(|_| NotSigned)
    }
}

/// Written by hand, so that no log line ever shows the key.
impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.public.kid).finish_non_exhaustive()
    }
}

impl KeyPairText {
    /// Makes a new pair of 3072 bits, which takes some tenths of a second.
    ///
    /// # Errors
    /// When the machine gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Self::generate_of(KeySize::Rsa3072)
    }

    fn generate_of(size: KeySize) -> Result<Self, KeyError> {
        let pair = rsa::KeyPair::generate(size).map_err(|_| KeyError::NotMade)?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyError::NotMade)?;
        let private = inner_of_pkcs8(pkcs8.as_ref()).ok_or(KeyError::NotMade)?;
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| KeyError::NotMade)?;
        let text = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        Ok(Self { private: text("RSA PRIVATE KEY", private), public: text("PUBLIC KEY", public.as_ref()) })
    }
}

/// The PKCS#1 key in a PKCS#8 one: after a version and an algorithm it is the content of an octet string.
fn inner_of_pkcs8(der: &[u8]) -> Option<&[u8]> {
    const INTEGER: u8 = 0x02;
    const OCTET_STRING: u8 = 0x04;
    const SEQUENCE: u8 = 0x30;
    let (content, _) = element(der, SEQUENCE)?;
    let (_, rest) = element(content, INTEGER)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    element(rest, OCTET_STRING).map(|(key, _)| key)
}

/// The content of the DER element at the beginning, which has this tag, and the bytes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    // With the highest bit the byte counts the bytes of the length that follow.
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            let length = bytes
                .iter()
                .try_fold(0usize, |sum, byte| sum.checked_mul(256).map(|sum| sum + usize::from(*byte)))?;
            (length, rest)
        }
    };
    rest.split_at_checked(length)
}

fn strip_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pair_is_read_back() {
        let pair = KeyPairText::generate_of(KeySize::Rsa2048).expect("made");
        let signing = SigningKey::from_pem(pair.private.as_bytes()).expect("a key");
        let public = PublicKey::all_from_pem(pair.public.as_bytes()).expect("a key");
        assert_eq!(public, [signing.public().clone()]);
        let two =
            format!("{}\n{}", pair.public, KeyPairText::generate_of(KeySize::Rsa2048).expect("made").public);
        assert_eq!(PublicKey::all_from_pem(two.as_bytes()).expect("keys").len(), 2);
        assert!(!format!("{signing:?}").contains(&signing.public().n));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_in_words() {
        let pair = KeyPairText::generate_of(KeySize::Rsa2048).expect("made");
        let block = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        let private = |text: &str| SigningKey::from_pem(text.as_bytes()).expect_err("no key");
        assert_eq!(private(""), KeyError::NotPem);
        assert_eq!(private(&pair.public), KeyError::Missing("RSA PRIVATE KEY"));
        assert_eq!(private(&block("PRIVATE KEY", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff])), KeyError::NotRsa);
        assert_eq!(private(&block("RSA PRIVATE KEY", b"x")), KeyError::NotRsa);
        assert_eq!(private(&block("ENCRYPTED PRIVATE KEY", b"x")), KeyError::Encrypted);
        let public = |text: &str| PublicKey::all_from_pem(text.as_bytes()).expect_err("no key");
        assert_eq!(public("hello"), KeyError::Missing("PUBLIC KEY"));
        assert_eq!(public(&pair.private), KeyError::Missing("PUBLIC KEY"));
        assert_eq!(public(&block("PUBLIC KEY", b"x")), KeyError::NotRsa);
    }

    #[test]
    fn the_id_of_a_key_is_the_thumbprint_of_rfc_7638() {
        // The example of the standard, §3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCi\
                 FV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9\
                 c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1j\
                 F44-csFCur-kEgU8awapJzKnqDKgw";
        let modulus = BASE64URL_NOPAD.decode(n.as_bytes()).expect("base64");
        assert_eq!(PublicKey::new(&modulus, &[1, 0, 1]).kid, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
