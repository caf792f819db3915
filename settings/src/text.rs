//! Files with settings or a secret, of bounded size.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The most bytes of a file with settings or a secret.
const LONGEST: u64 = 1 << 20;

/// The text of a file with settings or a secret. A pipe is read to its end.
///
/// # Errors
/// When it cannot be read, is no text, or is larger than 1 MiB: a device that never ends would fill the
/// memory.
pub(super) fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}
