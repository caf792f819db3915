//! A file under the database that is read but never changed: what the database writes stays in memory.
//!
//! The database repairs a file while it opens it, and repairing a damaged file destroys what could tell of
//! the damage. So a file is first opened through an overlay, and only a file that proved sound is opened
//! itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, StorageBackend};

const PAGE: u64 = 4096;
/// The part of the database's header that does not change after the file was created, but for one byte of
/// flags and the number of regions, which the database finds again from the size of the file.
const FIXED_BYTES: usize = 64;

/// A file, and the pages that were written over it. Copies share them.
#[derive(Clone, Debug)]
pub(super) struct Overlay(Arc<Mutex<Pages>>);

#[derive(Debug)]
struct Pages {
    file: Option<File>,
    /// The bytes of the file that have not been cut off.
    visible: u64,
    length: u64,
    written: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    /// An overlay over `file`.
    pub(super) fn over(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self::new(Some(file), length))
    }

    fn new(file: Option<File>, length: u64) -> Self {
        let pages = Pages { file, visible: length, length, written: BTreeMap::new() };
        Self(Arc::new(Mutex::new(pages)))
    }

    /// Replaces the fixed part of the header by that of a new file which was not closed properly. The
    /// database then finds everything else from the two states that it keeps.
    pub(super) fn mend_header(&self) -> Result<(), redb::Error> {
        let fresh = Self::new(None, 0);
        let database = Database::builder().create_with_backend(fresh.clone())?;
        let mut header = [0; FIXED_BYTES];
        fresh.read(0, &mut header)?;
        drop(database);
        Ok(self.write(0, &header)?)
    }
}

impl Pages {
    /// The page that begins at `at`, with zeros after the end of the file.
    fn page(&self, at: u64) -> io::Result<Box<[u8]>> {
        if let Some(page) = self.written.get(&at) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE as usize].into_boxed_slice();
        if let Some(file) = &self.file {
            let there = self.visible.saturating_sub(at).min(PAGE) as usize;
            file.read_exact_at(&mut page[..there], at)?;
        }
        Ok(page)
    }
}

/// Calls `visit` for each page that `length` bytes at `offset` touch, with the page's begin, the part of the
/// page, and the part of the bytes.
fn for_each_page(
    offset: u64,
    length: usize,
    mut visit: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let count = (PAGE as usize - within).min(length - done);
        visit(at - within as u64, within..within + count, done..done + count)?;
        done += count;
    }
    Ok(())
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let pages = self.0.lock();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > pages.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for_each_page(offset, out.len(), |at, within, part| {
            out[part].copy_from_slice(&pages.page(at)?[within]);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut pages = self.0.lock();
        if length < pages.length {
            // Bytes that are cut off must be zero when the length grows again.
            pages.visible = pages.visible.min(length);
            pages.written.split_off(&length);
            let last = length - length % PAGE;
            if let Some(page) = pages.written.get_mut(&last) {
                page[(length % PAGE) as usize..].fill(0);
            }
        }
        pages.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut pages = self.0.lock();
        for_each_page(offset, data.len(), |at, within, part| {
            let mut page = pages.page(at)?;
            page[within].copy_from_slice(&data[part]);
            pages.written.insert(at, page);
            Ok(())
        })?;
        pages.length = pages.length.max(offset + data.len() as u64);
        Ok(())
    }
}
