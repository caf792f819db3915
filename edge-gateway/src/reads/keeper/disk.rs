//! The file of the state on a disk, where anything may stand in its place.
//!
//! In: the path that an operator has set, and a state. Out: a file that is replaced as a whole, or the reason
//! for which it is not. Symbolic links are followed. What is no regular file is neither read nor replaced.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use shared::clock::Clock;
use tracing::warn;

use super::super::EdgeView;
use super::super::state::{Claims, decode, encode};

/// The end of the name of a file that is still being written.
const UNFINISHED: &str = ".new";
/// The end of the name of the file whose lock its only writer holds.
const LOCK: &str = ".lock";
/// Symbolic links that may lead to the file, one to the next: as many as Linux follows.
const MOST_LINKS: usize = 40;

/// The file that this path means in the end. Replacing a symbolic link would leave the file that it names as
/// it is, and keep the state where nobody looks for it; and two links to one file need one lock.
pub(super) fn target_of(mut path: PathBuf) -> io::Result<PathBuf> {
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&path) {
            // A relative name counts from the place of the link.
            Ok(target) => path = directory_of(&path).join(target),
            // It is no link, or there is nothing yet.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "its symbolic links lead to each other"))
}

/// Refuses a path that leads to anything but a regular file. Reading a pipe would wait for a writer, and
/// reading a device would never end; and a process of root would replace the device of everybody.
fn regular(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "the path leads to something other than a regular file"))
}

/// The state that the file holds.
///
/// # Errors
/// When there is no file, it cannot be read, or it holds something else.
pub(super) fn read(path: &Path) -> io::Result<EdgeView> {
    regular(path)?;
    let bytes = std::fs::read(path)?;
    decode(&bytes, Instant::now(), Clock::system().micros())
        .map_err(|reason| io::Error::new(ErrorKind::InvalidData, reason))
}

/// The lock of the only process that writes this file. The system releases it when that process ends.
///
/// # Errors
/// When another process has it, or the file beside the state cannot be opened.
pub(super) fn lock_of(path: &Path) -> io::Result<File> {
    std::fs::create_dir_all(directory_of(path))?;
    let mut name = path.as_os_str().to_owned();
    name.push(LOCK);
    // Its contents do not matter. It stays, because removing it would let a third process lock a new one.
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(name)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(ErrorKind::WouldBlock, "another process keeps its state in the same file"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Replaces the file. Returns its size.
///
/// # Errors
/// When it cannot be written, and when the path leads to something other than a regular file. What stood
/// there stays then.
pub(super) fn write(path: &Path, view: &Arc<EdgeView>, claims: &mut Claims) -> io::Result<usize> {
    let Some(bytes) = encode(view, claims, Instant::now(), Clock::system().micros()) else { return Ok(0) };
    match regular(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = directory_of(path);
    std::fs::create_dir_all(directory)?;
    // Its owner alone may read it: properties of instances are not for everybody on the machine.
    let mut file =
        tempfile::Builder::new().prefix(&unfinished(path)).suffix(UNFINISHED).tempfile_in(directory)?;
    file.write_all(&bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // Without this a crash of the machine could bring the old file back, which is harmless, or none.
    File::open(directory)?.sync_all()?;
    Ok(bytes.len())
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// The beginning of the name of a file that is to replace this one. Random letters follow.
fn unfinished(path: &Path) -> String {
    format!(".{}.", path.file_name().unwrap_or_default().display())
}

/// Removes what a process that was killed while it wrote has left. Without this each one would leave a file
/// of the size of the state, until the disk is full.
pub(super) fn clear(path: &Path) {
    let beginning = unfinished(path);
    let is_left = |name: &str| {
        let letters = name.strip_prefix(&beginning).and_then(|rest| rest.strip_suffix(UNFINISHED));
        letters.is_some_and(|letters| letters.bytes().all(|letter| letter.is_ascii_alphanumeric()))
    };
    // A directory that is absent or cannot be read is told of when the state is read or written.
    for entry in std::fs::read_dir(directory_of(path)).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_left)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            warn!(%error, path = %entry.path().display(), "an unfinished state of an earlier process cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;
    use crate::reads::shared_view;

    fn view() -> Arc<EdgeView> {
        Arc::new(EdgeView { heard: Some(Instant::now()), ..(*shared_view().load()).clone() })
    }

    #[test]
    fn a_file_is_replaced_whole_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("made/state");
        let shared = shared_view();
        let empty = shared.load();
        assert_eq!(write(&path, &empty, &mut Claims::new()).expect("nothing to write"), 0);
        assert_eq!(read(&path).err().map(|error| error.kind()), Some(ErrorKind::NotFound));
        for _ in 0..2 {
            let view = EdgeView { heard: Some(Instant::now()), ..(*empty).clone() };
            assert!(write(&path, &Arc::new(view), &mut Claims::new()).expect("is written") > 0);
        }
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path().join("made")).expect("a directory").count(), 1);
        assert!(read(&path).expect("is read").heard.is_some());
        std::fs::write(&path, "something else").expect("is written");
        assert_eq!(read(&path).err().map(|error| error.kind()), Some(ErrorKind::InvalidData));
    }

    #[test]
    fn links_lead_to_one_file_with_one_lock() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("disk")).expect("a directory");
        symlink("disk/state", at("second")).expect("a link to nothing yet");
        symlink(at("second"), at("first")).expect("a link");
        let path = target_of(at("first")).expect("leads somewhere");
        assert_eq!(path, at("disk/state"));
        assert!(write(&path, &view(), &mut Claims::new()).expect("is written") > 0);
        for name in ["first", "second"] {
            assert!(at(name).is_symlink(), "{name} stays a link");
            assert_eq!(target_of(at(name)).expect("leads to the file"), path);
            assert!(read(&at(name)).is_ok());
        }
        symlink("here", at("there")).expect("a link");
        symlink("there", at("here")).expect("a link");
        let error = target_of(at("here")).expect_err("leads nowhere");
        assert!(error.to_string().contains("lead to each other"), "{error}");
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("directory")).expect("a directory");
        let _socket = UnixListener::bind(at("socket")).expect("a socket");
        // Reading it would wait for a writer, of which there is none.
        let made = Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo");
        assert!(made.success());
        symlink("/dev/null", at("device")).expect("a link");
        for name in ["directory", "socket", "pipe", "device"] {
            let before = std::fs::metadata(at(name)).expect("is there").file_type();
            let read = read(&at(name)).expect_err(name);
            let written = write(&at(name), &view(), &mut Claims::new()).expect_err(name);
            for error in [read, written] {
                assert!(error.to_string().contains("other than a regular file"), "{name}: {error}");
            }
            assert_eq!(std::fs::metadata(at(name)).expect("is there").file_type(), before, "{name} stays");
        }
        assert_eq!(
            std::fs::read_dir(directory.path()).expect("a directory").count(),
            4,
            "nothing is left behind"
        );
    }
}
