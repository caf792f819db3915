//! The head: a small file beside the store's own, which says how far writes were acknowledged.
//!
//! In: the number of each batch once it is durable. Out: the last number, when the store is opened again. The
//! database keeps its last two states and falls back to the older one when the newer one does not verify. For
//! a batch that was being written during a crash that is right. For a batch that was acknowledged it would be
//! a loss in silence, and only a second witness can tell the two apart.
//!
//! The head is written without waiting for the disk, so it costs nothing. After a crash of the machine it may
//! be older than the store, which is harmless, but never newer. Its lock also keeps a second process away
//! while the first one creates the store.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use shared::model::Revision;

const MARK: [u8; 8] = *b"\xf5MSTHEAD";
const BYTES: usize = MARK.len() + 8 + 8 + 4;

/// The extent of what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The number of batches.
    pub(super) batch: u64,
    /// The revision of the last one.
    pub(super) rev: Revision,
}

/// The open head of a store. It is locked until it is dropped.
pub(super) struct Head(File);

impl Head {
    /// The path of the head of the store at `path`.
    pub(super) fn path(path: &Path) -> PathBuf {
        path.with_extension("head")
    }

    /// Opens the head of the store at `path`, or creates it. `None` if another process has it open.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let path = Self::path(path);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// The last acknowledgement. `None` if the head is new, or is not readable.
    pub(super) fn read(&self) -> Option<Acknowledged> {
        let mut bytes = [0; BYTES];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        decode(&bytes)
    }

    /// True if the head holds something that is not an acknowledgement.
    pub(super) fn is_damaged(&self) -> bool {
        self.0.metadata().is_ok_and(|metadata| metadata.len() > 0) && self.read().is_none()
    }

    /// Notes an acknowledgement.
    pub(super) fn write(&self, acknowledged: Acknowledged) -> io::Result<()> {
        self.0.write_all_at(&encode(acknowledged), 0)
    }

    /// Waits until the head is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn encode(acknowledged: Acknowledged) -> Vec<u8> {
    let mut bytes = MARK.to_vec();
    bytes.extend(acknowledged.batch.to_le_bytes());
    bytes.extend(acknowledged.rev.get().to_le_bytes());
    let sum = crc32fast::hash(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Option<Acknowledged> {
    let rest = bytes.strip_prefix(&MARK)?;
    let batch = u64::from_le_bytes(*rest.first_chunk()?);
    let rev = Revision::new(u64::from_le_bytes(*rest.get(8..)?.first_chunk()?));
    let acknowledged = Acknowledged { batch, rev };
    // Comparing the encodings compares the checksums as well.
    (encode(acknowledged) == bytes).then_some(acknowledged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_written_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("muster.redb");
        let head = Head::open(&path).expect("opens").expect("free");
        assert!(head.read().is_none() && !head.is_damaged());
        assert!(Head::open(&path).expect("opens").is_none(), "one process at a time");
        let acknowledged = Acknowledged { batch: 7, rev: 9.into() };
        head.write(Acknowledged { batch: u64::MAX, rev: 3.into() }).expect("written");
        head.write(acknowledged).expect("written");
        assert_eq!(head.read(), Some(acknowledged));
        for bit in 0..BYTES * 8 {
            let mut bytes: [u8; BYTES] = encode(acknowledged).try_into().expect("of this size");
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes), None, "bit {bit}");
        }
        head.0.write_all_at(b"x", 3).expect("written");
        assert!(head.is_damaged());
    }
}
