//! A file that only grows, and is set aside when it has reached its size.
//!
//! `audit.jsonl` becomes `audit.jsonl.1`, that becomes `audit.jsonl.2`, and so on; the oldest is overwritten.
//! If something else has moved the file away, or another process has rotated it, the next line begins a new
//! one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tracing::warn;

/// The permissions of the file: its owner alone reads and writes it.
const OWNER_ONLY: u32 = 0o600;

/// A file of lines.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    max_size: u64,
    keep: usize,
    /// `None` after a failure; the next line tries again.
    open: Option<Open>,
    /// The last rotation failed. Keeps a long failure to one log line.
    is_stuck: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    size: u64,
    /// False for a device such as `/dev/null`, which has no size and must not be moved.
    is_regular: bool,
    /// The end is half a line, so the next one needs a new line before it.
    is_torn: bool,
}

impl RotatedFile {
    /// Opens the file, and makes it and its directory if they are missing.
    pub(super) fn open(path: PathBuf, max_size: u64, keep: usize) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory)?;
        }
        let open = Some(open(&path)?);
        Ok(Self { path, max_size, keep, open, is_stuck: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line, which ends with its line feed.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let max_size = self.max_size;
        let fresh = self.fresh()?;
        let is_full = fresh.is_regular && fresh.size > 0 && fresh.size + line.len() as u64 > max_size;
        let open = if is_full { self.rotated()? } else { self.fresh()? };
        if open.is_torn {
            open.write(b"\n")?;
            open.is_torn = false;
        }
        open.write(line)
    }

    /// Brings everything to the disk.
    pub(super) fn finish(&mut self) {
        if let Some(open) = self.open.as_ref().filter(|open| open.is_regular)
            && let Err(error) = open.file.sync_all()
        {
            warn!(file = %self.path.display(), %error, "the end of the audit log may not be on the disk");
        }
    }

    /// The file behind the path, opened again if it is another one by now.
    fn fresh(&mut self) -> io::Result<&mut Open> {
        let current = std::fs::metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        if self.open.as_ref().map(|open| (open.device, open.inode)) != current {
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Some(open(&self.path)?);
        }
        self.open.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// A new file, after the present one has been set aside. A file that cannot be set aside grows further.
    fn rotated(&mut self) -> io::Result<&mut Open> {
        self.finish();
        match set_aside(&self.path, self.keep) {
            Ok(()) => self.is_stuck = false,
            Err(error) if !self.is_stuck => {
                self.is_stuck = true;
                warn!(file = %self.path.display(), %error, "the audit log cannot be rotated; it grows further");
            }
            Err(_) => {}
        }
        self.fresh()
    }
}

impl Open {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Some of it may have been written.
                self.is_torn = self.is_regular;
                Err(error)
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let mut file = OpenOptions::new().append(true).create(true).mode(OWNER_ONLY).open(path)?;
    let found = file.metadata()?;
    let is_regular = found.is_file();
    let mut is_torn = false;
    if is_regular {
        if found.mode() & 0o777 != OWNER_ONLY {
            file.set_permissions(Permissions::from_mode(OWNER_ONLY))?;
        }
        if found.len() > 0 {
            is_torn = last_byte(path)? != b'\n';
        }
    }
    file.flush()?;
    Ok(Open { device: found.dev(), inode: found.ino(), size: found.len(), is_regular, is_torn, file })
}

/// The last byte of a file that is not empty. A process that was killed may have left half a line.
fn last_byte(path: &Path) -> io::Result<u8> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last[0])
}

fn set_aside(path: &Path, keep: usize) -> io::Result<()> {
    for number in (1..keep).rev() {
        match std::fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, numbered(path, 1))
}

/// The name of a file that was set aside; 1 is the latest.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}
