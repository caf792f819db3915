//! Shows that a message comes from a process that has the site's key: a keyed hash in a header.
//!
//! In: keys from a file, messages that leave, messages that arrive. Out: the value of the header, and for
//! each message that arrived whether it is genuine.
//!
//! A message is signed once, however many processes receive it. The hash covers the subject too, so a genuine
//! event passes on no other subject, and a genuine reply answers no other request. It does not cover the
//! reply subject of a request, because superclusters of NATS rewrite that one on the way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use ring::digest::{self, Digest, SHA256};
use ring::hmac::{self, HMAC_SHA256, Key};
use tokio::time::{Duration, Instant};
use tracing::warn;

use crate::Message;

/// The header of a signature: `{id of the key}.{hash}`, both in hexadecimal.
pub(super) const SIGNATURE: &str = "Muster-Signature";
/// The shortest key, in characters. As hexadecimal digits they hold 128 bits.
const SHORTEST_KEY: usize = 32;
/// The most keys: the present one, the next and the previous, with room to spare.
const MOST_KEYS: usize = 8;
/// The largest file of keys, in bytes.
const LARGEST_FILE: u64 = 64 << 10;
/// The bytes of a key's id.
const ID_BYTES: usize = 4;
/// The shortest time between two log lines about refused messages.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The reason for which a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no signature.
    Unsigned,
    /// Its signature names a key that this process does not have.
    UnknownKey,
    /// Its signature is not that of its content.
    Forged,
}

impl Refusal {
    /// Every reason.
    pub(super) const ALL: [Self; 3] = [Self::Unsigned, Self::UnknownKey, Self::Forged];

    /// The name of the reason in metrics and logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::UnknownKey => "unknown_key",
            Self::Forged => "forged",
        }
    }
}

/// The keys of a site. The first one signs, and all of them are accepted.
pub struct Keys(Vec<(String, Key)>);

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// A message for the operator. It has no part of a key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let unreadable = |error: std::io::Error| format!("the file cannot be read: {error}");
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > LARGEST_FILE {
            return Err(format!("the file has {size} bytes, more than {LARGEST_FILE}"));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Reads the text of a file: one key a line. Empty lines and lines that begin with `#` do not count.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<(String, Key)> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let secret = line.trim();
            if secret.is_empty() || secret.starts_with('#') {
                continue;
            }
            let number = index + 1;
            if secret.len() < SHORTEST_KEY {
                return Err(format!("the key in line {number} has fewer than {SHORTEST_KEY} characters"));
            }
            let key = Key::new(HMAC_SHA256, secret.as_bytes());
            // A hash, because the id travels with every message and must tell nothing about the key.
            let tag = hmac::sign(&key, b"id of the key");
            let id = HEXLOWER.encode(tag.as_ref().get(..ID_BYTES).unwrap_or_default());
            if keys.iter().any(|(known, _)| *known == id) {
                return Err(format!("the key in line {number} is there twice"));
            }
            keys.push((id, key));
        }
        match keys.len() {
            0 => Err("the file has no key".to_owned()),
            count if count > MOST_KEYS => Err(format!("the file has {count} keys, more than {MOST_KEYS}")),
            _ => Ok(Self(keys)),
        }
    }

    fn sign(&self, message: &Message) -> Option<String> {
        let (id, key) = self.0.first()?;
        let tag = hmac::sign(key, content(message).as_ref());
        Some(format!("{id}.{}", HEXLOWER.encode(tag.as_ref())))
    }

    fn check(&self, message: &Message, signature: &str) -> Result<(), Refusal> {
        let (id, tag) = signature.split_once('.').ok_or(Refusal::Forged)?;
        let (_, key) = self.0.iter().find(|(known, _)| known == id).ok_or(Refusal::UnknownKey)?;
        let tag = HEXLOWER.decode(tag.as_bytes()).map_err(|_| Refusal::Forged)?;
        hmac::verify(key, content(message).as_ref(), &tag).map_err(|_| Refusal::Forged)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({} …)", self.0.len())
    }
}

/// A hash of everything that is signed. Hashed in parts, because a copy of each payload would cost more.
fn content(message: &Message) -> Digest {
    let subject = original_subject(&message.subject);
    let trace = message.traceparent.as_deref().unwrap_or_default();
    let mut context = digest::Context::new(&SHA256);
    // Lengths first, so that no byte can move from one part to the next.
    for part in [subject.as_bytes(), trace.as_bytes(), &message.payload[..]] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish()
}

/// The subject without the prefix that a supercluster adds to a reply and removes before delivery.
fn original_subject(subject: &str) -> &str {
    let routed = subject.strip_prefix("_GR_.").and_then(|rest| rest.splitn(3, '.').nth(2));
    routed.unwrap_or(subject)
}

/// The signing of one connection's messages, and the count of those that were refused.
pub(super) struct Signing {
    /// `None` at a site without keys: nothing is signed, and everything is accepted.
    keys: Option<ArcSwap<Keys>>,
    accepts_unsigned: bool,
    refused: [AtomicU64; Refusal::ALL.len()],
    logged: Mutex<Option<Instant>>,
}

impl Signing {
    pub(super) fn new(keys: Option<Keys>, accepts_unsigned: bool) -> Self {
        let keys = keys.map(ArcSwap::from_pointee);
        Self { keys, accepts_unsigned, refused: Default::default(), logged: Mutex::default() }
    }

    /// Signs and checks by these keys from now on.
    pub(super) fn replace(&self, keys: Keys) {
        if let Some(held) = &self.keys {
            held.store(Arc::new(keys));
        }
    }

    /// The value of the header.
    pub(super) fn sign(&self, message: &Message) -> Option<String> {
        self.keys.as_ref()?.load().sign(message)
    }

    /// True for a message that may be used. Others are counted, and logged now and then.
    pub(super) fn admits(&self, message: &Message, signature: Option<&str>) -> bool {
        let Some(keys) = &self.keys else { return true };
        let checked = match signature {
            Some(signature) => keys.load().check(message, signature),
            None if self.accepts_unsigned => Ok(()),
            None => Err(Refusal::Unsigned),
        };
        if let Err(refusal) = checked {
            self.note(refusal, &message.subject);
        }
        checked.is_ok()
    }

    /// The number of messages that were refused for this reason.
    pub(super) fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].load(Ordering::Relaxed)
    }

    fn note(&self, refusal: Refusal, subject: &str) {
        self.refused[refusal as usize].fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut logged = self.logged.lock();
        // Any client that can publish on the bus decides how many these are, so not each gets a line.
        if logged.is_none_or(|at| now.duration_since(at) >= LOG_INTERVAL) {
            *logged = Some(now);
            warn!(
                reason = refusal.as_str(),
                subject, "messages on the bus are not signed by this site's key; dropping them"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210";

    fn signing(keys: &str, accepts_unsigned: bool) -> Signing {
        Signing::new(Some(Keys::parse(keys).expect("good keys")), accepts_unsigned)
    }

    fn message() -> Message {
        let trace = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
        Message { traceparent: trace, ..Message::new("muster.event.d.p.a", "payload") }
    }

    #[test]
    fn a_changed_message_is_refused_and_counted() {
        let site = signing(OLD, false);
        let message = message();
        let signature = site.sign(&message).expect("a key");
        assert!(site.admits(&message, Some(&signature)));
        let forged = [
            Message { payload: "another".into(), ..message.clone() },
            Message { subject: "muster.event.d.p.b".into(), ..message.clone() },
            Message { traceparent: None, ..message.clone() },
            // Bytes that moved from one part to the next.
            Message { subject: "muster.event.d.p.a0".into(), ..message.clone() },
        ];
        for forged in &forged {
            assert!(!site.admits(forged, Some(&signature)), "{forged:?}");
        }
        let id = signature.split_once('.').expect("two parts").0;
        for bad in ["", ".", "x", &*format!("{id}."), &*format!("{id}.00"), &*format!("{signature}00")] {
            assert!(!site.admits(&message, Some(bad)), "{bad}");
        }
        assert!(!site.admits(&message, None));
        assert!(!site.admits(&message, signing(NEW, false).sign(&message).as_deref()));
        let counted = Refusal::ALL.map(|reason| (reason.as_str(), site.refused(reason)));
        assert_eq!(counted, [("unsigned", 1), ("unknown_key", 2), ("forged", 9)]);
    }

    #[test]
    fn keys_change_without_a_message_lost() {
        let message = message();
        // Each step of a rotation beside the one before it, and after it.
        let steps = [OLD.to_owned(), format!("{OLD}\n{NEW}"), format!("{NEW}\n{OLD}"), NEW.to_owned()];
        for pair in steps.windows(2) {
            let [before, after] = [signing(&pair[0], false), signing(&pair[1], false)];
            assert!(before.admits(&message, after.sign(&message).as_deref()), "{pair:?}");
            assert!(after.admits(&message, before.sign(&message).as_deref()), "{pair:?}");
        }
        let site = signing(OLD, false);
        site.replace(Keys::parse(NEW).expect("good keys"));
        assert_eq!(site.sign(&message), signing(NEW, false).sign(&message));
    }

    #[test]
    fn a_site_becomes_signed_process_by_process() {
        let message = message();
        let [without, accepting, strict] =
            [Signing::new(None, false), signing(OLD, true), signing(OLD, false)];
        for (from, to) in [
            (&without, &accepting),
            (&accepting, &without),
            (&accepting, &accepting),
            (&accepting, &strict),
            (&strict, &accepting),
        ] {
            assert!(to.admits(&message, from.sign(&message).as_deref()));
        }
        assert!(!strict.admits(&message, without.sign(&message).as_deref()));
        // A wrong signature is refused even where none is needed.
        assert!(!accepting.admits(&message, Some("00.00")));
    }

    #[test]
    fn a_reply_through_a_supercluster_is_genuine() {
        let site = signing(OLD, false);
        let sent = Message::new("_GR_.cluster.server._INBOX.abc.d", "reply");
        let received = Message { subject: "_INBOX.abc.d".into(), ..sent.clone() };
        assert!(site.admits(&received, site.sign(&sent).as_deref()));
    }

    #[test]
    fn bad_files_of_keys_are_refused_without_a_secret() {
        let many: String = (0..9).map(|n| format!("{OLD}{n}\n")).collect();
        for text in ["", "# only a comment", "short-secret", &*format!("{OLD}\n{OLD}"), &*many] {
            let refused = Keys::parse(text).expect_err(text);
            assert!(!refused.contains("short-secret") && !refused.contains(OLD), "{refused}");
        }
        assert!(Keys::parse(&format!("# of March\n\n  {OLD}  \r\n")).is_ok());
        assert!(Keys::read(Path::new("/nowhere")).is_err());
    }
}
