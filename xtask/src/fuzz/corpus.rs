//! The corpus of a target: files that a person has named, and files that the engine has found, named by their
//! digest. The named ones stay; the found ones are exchanged for the smallest set that reaches as much.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The most bytes that the found inputs of a target take in the repository.
const MOST_BYTES: u64 = 128 * 1024;

/// The size of a corpus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) inputs: usize,
    pub(super) bytes: u64,
}

/// Makes `directory` anew, with the named inputs of `corpus`.
pub(super) fn keep_named(corpus: &Path, directory: &Path) -> Result<()> {
    if directory.is_dir() {
        fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    for (file, _) in files(corpus)?.into_iter().filter(|(file, _)| !is_found(file)) {
        copy(&file, directory)?;
    }
    Ok(())
}

/// Exchanges the found inputs of `corpus` for those of `directory`, the smallest first while there is room.
pub(super) fn replace_found(corpus: &Path, directory: &Path) -> Result<Size> {
    // Read first: a directory that cannot be read leaves the corpus as it is.
    let mut found = files(directory)?;
    found.retain(|(file, _)| is_found(file));
    found.sort_by(|(one, size), (other, other_size)| (size, one).cmp(&(other_size, other)));
    for (file, _) in files(corpus)?.into_iter().filter(|(file, _)| is_found(file)) {
        fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    let mut bytes = 0;
    for (file, size) in found {
        bytes += size;
        if bytes > MOST_BYTES {
            break;
        }
        copy(&file, corpus)?;
    }
    let all = files(corpus)?;
    Ok(Size { inputs: all.len(), bytes: all.iter().map(|(_, size)| size).sum() })
}

fn copy(file: &Path, directory: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    fs::copy(file, directory.join(name)).with_context(|| file.display().to_string())?;
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.path(), entry.metadata()?.len()))
        })
        .collect()
}

/// True for the name of an input that the engine has found: a SHA-1 digest.
fn is_found(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    name.len() == 40 && name.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, bytes: u64) {
        fs::create_dir_all(directory).expect("a directory");
        fs::write(directory.join(name), vec![b'x'; usize::try_from(bytes).expect("small")]).expect("a file");
    }

    fn names(directory: &Path) -> Vec<String> {
        let files = files(directory).expect("readable").into_iter();
        let mut names: Vec<_> =
            files.map(|(file, _)| file.file_name().unwrap_or_default().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    #[test]
    fn named_inputs_stay_and_found_ones_are_exchanged() {
        let work = tempfile::tempdir().expect("a directory");
        let corpus = work.path().join("corpus");
        let smallest = work.path().join("smallest");
        write(&corpus, "named", 5);
        write(&corpus, &"a".repeat(40), 9);
        write(&smallest, "left over", 1);
        keep_named(&corpus, &smallest).expect("copied");
        assert_eq!(names(&smallest), ["named"]);
        write(&smallest, &"b".repeat(40), 7);
        write(&smallest, &"c".repeat(40), MOST_BYTES);
        let size = replace_found(&corpus, &smallest).expect("exchanged");
        assert_eq!(names(&corpus), ["b".repeat(40), "named".to_owned()]);
        assert_eq!(size, Size { inputs: 2, bytes: 12 });
    }
}
