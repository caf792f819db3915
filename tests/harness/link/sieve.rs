//! Loses single messages of a bus without breaking its connection: what a server that drops does to its
//! clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};

/// The stream from a nats-server to one client, cut into whole protocol messages.
pub(super) struct Sieve {
    waiting: BytesMut,
    lost: Arc<AtomicU64>,
}

impl Sieve {
    pub(super) fn new(lost: Arc<AtomicU64>) -> Self {
        Self { waiting: BytesMut::new(), lost }
    }

    /// Takes what came and gives what is complete, without the messages of subjects that begin with `loses`.
    pub(super) fn sift(&mut self, chunk: &[u8], loses: Option<&str>) -> Bytes {
        self.waiting.extend_from_slice(chunk);
        let mut passed = BytesMut::new();
        while let Some(line) = self.waiting.windows(2).position(|two| two == b"\r\n") {
            let head = String::from_utf8_lossy(&self.waiting[..line]).into_owned();
            let mut words = head.split_ascii_whitespace();
            let carries = matches!(words.next(), Some("MSG" | "HMSG"));
            let subject = words.next().unwrap_or_default();
            // The last number is the size of all that follows the line.
            let payload = words.last().and_then(|size| size.parse::<usize>().ok());
            let size = line + 2 + payload.filter(|_| carries).map_or(0, |size| size + 2);
            if self.waiting.len() < size {
                break;
            }
            if carries && loses.is_some_and(|loses| subject.starts_with(loses)) {
                self.waiting.advance(size);
                self.lost.fetch_add(1, Ordering::Relaxed);
            } else {
                passed.extend_from_slice(&self.waiting.split_to(size));
            }
        }
        passed.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_to_be_lost_is_lost_wherever_it_is_cut() {
        let said = b"INFO {}\r\nMSG a.b 1 3\r\nx\r\n\r\nHMSG lost.b 1 reply 2 4\r\nabcd\r\nPING\r\n";
        for cut in 0..said.len() {
            let lost = Arc::<AtomicU64>::default();
            let mut sieve = Sieve::new(lost.clone());
            let mut passed = sieve.sift(&said[..cut], Some("lost.")).to_vec();
            passed.extend_from_slice(&sieve.sift(&said[cut..], Some("lost.")));
            assert_eq!(passed, b"INFO {}\r\nMSG a.b 1 3\r\nx\r\n\r\nPING\r\n", "{cut}");
            assert_eq!(lost.load(Ordering::Relaxed), 1);
        }
    }
}
