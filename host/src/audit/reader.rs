//! Reads the files of the audit log: those that were set aside, the present one, and lines that follow.

use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The most bytes that are read at once.
const CHUNK: u64 = 256 << 10;

/// The files of an audit log, the oldest first. The last one is `path` itself, if it is there.
///
/// # Errors
/// When the directory cannot be read.
pub fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let entry_name = entry.file_name();
        let number = entry_name.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.'));
        if let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable_by_key(|(number, _)| Reverse(*number));
    let mut files: Vec<PathBuf> = found.into_iter().map(|(_, file)| file).collect();
    if path.exists() {
        files.push(path.to_owned());
    }
    Ok(files)
}

/// Reads whole lines from a file that grows, and goes on with its successor when it has been rotated.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    inode: u64,
    /// Half a line, whose rest has not been written yet.
    rest: Vec<u8>,
}

impl Follower {
    /// Begins at the start of the file, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        let mut follower = Self { path, file: None, inode: 0, rest: Vec::new() };
        // At once, so that a rotation from now on is followed. A file that cannot be read is tried again.
        let _ = follower.open(&follower.path.clone());
        follower
    }

    /// The files that were set aside before the one with which this begins, the oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn earlier(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = files_of(&self.path)?;
        let own = self.place_in(&files).or_else(|| files.iter().position(|file| *file == self.path));
        files.truncate(own.unwrap_or(files.len()));
        Ok(files)
    }

    /// The next lines; none at the present end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(&mut self) -> io::Result<Vec<String>> {
        if self.file.is_none() && !self.open(&self.path.clone())? {
            return Ok(Vec::new());
        }
        let mut read = self.read_on()?;
        // The end of the old file first: lines may have come between the last look and its rotation.
        while read == 0 && self.go_on()? {
            read = self.read_on()?;
        }
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n').filter(|_| read > 0) else {
            return Ok(Vec::new());
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        Ok(String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect())
    }

    /// Opens the file that was begun after the one that is read. False while there is none. There may have
    /// been several rotations since the last look.
    fn go_on(&mut self) -> io::Result<bool> {
        let files = files_of(&self.path)?;
        let next = match self.place_in(&files) {
            Some(own) => files.get(own + 1),
            // Ours was removed as one too many, so all that are left are newer. Or another program has moved
            // it away, and its successor has its name.
            None if self.is_removed()? => files.first(),
            None => files.last().filter(|file| **file == self.path),
        };
        let Some(next) = next else { return Ok(false) };
        let Some(expected) = inode_of(next) else { return Ok(false) };
        let own = (self.file.take(), self.inode);
        if self.open(next)? && self.inode == expected {
            self.rest.clear();
            return Ok(true);
        }
        // It was rotated just now, and the name stands for another one. The next look finds the right one.
        (self.file, self.inode) = own;
        Ok(false)
    }

    fn is_removed(&self) -> io::Result<bool> {
        self.file.as_ref().map_or(Ok(false), |file| Ok(file.metadata()?.nlink() == 0))
    }

    fn place_in(&self, files: &[PathBuf]) -> Option<usize> {
        self.file.as_ref()?;
        files.iter().position(|file| inode_of(file) == Some(self.inode))
    }

    fn open(&mut self, path: &Path) -> io::Result<bool> {
        match File::open(path) {
            Ok(file) => {
                self.inode = file.metadata()?.ino();
                self.file = Some(file);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_on(&mut self) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        file.take(CHUNK).read_to_end(&mut self.rest)
    }
}

fn inode_of(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|found| found.ino())
}
