//! The files with the keys of tokens.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use access::keys::{KeyError, KeyPairText, PublicKey, SigningKey};
use access::token::Issuer;
use tracing::info;

/// The files of the keys of tokens.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    /// The private key that signs tokens.
    pub private: PathBuf,
    /// The public keys that verify tokens. The file may be absent: the private key contains its public half.
    pub public: PathBuf,
}

/// The keys of tokens, as they were read.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    /// The files that they came from.
    pub files: KeyFiles,
    /// Makes tokens.
    pub issuer: Issuer,
    /// The keys that verify tokens. The first one belongs to the issuer.
    pub public: Vec<PublicKey>,
}

/// The reason for which the keys of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read or written.
    #[error("{path} cannot be {action}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file does not hold a key of the kind that is needed.
    #[error("{path} cannot be used as a key of tokens: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: KeyError,
    },
    /// The authorities of the external issuer cannot be used.
    #[error("the authorities to trust at the external issuer cannot be used: {0}")]
    Authorities(#[from] host::tls::TlsError),
    /// A file that was there before is absent.
    #[error("{0} is missing")]
    Missing(PathBuf),
    /// There are public keys and no private one. A new private key would not fit them.
    #[error(
        "{0} is missing, while the public key is there; put it back, or remove both to have new ones made"
    )]
    NoPrivateKey(PathBuf),
}

impl KeyFiles {
    /// Reads the keys at the start of the process, or makes them when there are none.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn open(&self) -> Result<TokenKeys, KeysError> {
        match self.read() {
            Err(KeysError::Missing(_)) if self.public.exists() => {
                Err(KeysError::NoPrivateKey(self.private.clone()))
            }
            Err(KeysError::Missing(_)) => {
                self.make()?;
                // Read back, so that new keys are used as those of the next start.
                self.read()
            }
            read => read,
        }
    }

    /// Reads keys that have been read before.
    ///
    /// # Errors
    /// The file that cannot be used, and why. A file of public keys that has gone is one: the keys in it
    /// count until somebody says otherwise.
    pub fn read_again(&self, before: &[PublicKey]) -> Result<TokenKeys, KeysError> {
        if before.len() > 1 && !self.public.exists() {
            return Err(KeysError::Missing(self.public.clone()));
        }
        self.read()
    }

    fn read(&self) -> Result<TokenKeys, KeysError> {
        let Self { private, public } = self;
        let text = read(private)?.ok_or_else(|| KeysError::Missing(private.clone()))?;
        let signing =
            SigningKey::from_pem(&text).map_err(|source| KeysError::Key { path: private.clone(), source })?;
        let mut keys = vec![signing.public().clone()];
        if let Some(text) = read(public)? {
            let listed = PublicKey::all_from_pem(&text)
                .map_err(|source| KeysError::Key { path: public.clone(), source })?;
            keys.extend(listed.into_iter().filter(|key| key != signing.public()));
        }
        Ok(TokenKeys { files: self.clone(), issuer: Issuer::new(signing), public: keys })
    }

    fn make(&self) -> Result<(), KeysError> {
        let Self { private, public } = self;
        let pair =
            KeyPairText::generate().map_err(|source| KeysError::Key { path: private.clone(), source })?;
        // The private key comes last: a public one alone is found at the next start, and not taken for a
        // pair.
        write(public, &pair.public)?;
        write(private, &pair.private)?;
        info!(private = %private.display(), public = %public.display(), "keys of tokens have been made");
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, KeysError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeysError::File { path: path.to_owned(), action: "read", source }),
    }
}

/// Writes a new file that only its owner can read. Never replaces one.
fn write(path: &Path, text: &str) -> Result<(), KeysError> {
    let failed = |source| KeysError::File { path: path.to_owned(), action: "written", source };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(directory: &tempfile::TempDir) -> KeyFiles {
        let path = |name: &str| directory.path().join("keys").join(name);
        KeyFiles { private: path("private.key"), public: path("public.key") }
    }

    #[test]
    fn keys_are_made_once_and_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(&directory);
        let made = files.open().expect("made");
        let read = files.open().expect("read");
        assert_eq!(made.public, read.public);
        assert_eq!(made.public.len(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(&files.private).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        // While a key is being replaced, the file of public keys also has the old one.
        let old = KeyPairText::generate().expect("made").public;
        let both = format!("{old}\n{}", std::fs::read_to_string(&files.public).expect("a file"));
        std::fs::write(&files.public, both).expect("written");
        let read = files.open().expect("read");
        assert_eq!((read.public.len(), &read.public[0]), (2, &made.public[0]));
        std::fs::remove_file(&files.private).expect("removed");
        assert!(matches!(files.open(), Err(KeysError::NoPrivateKey(_))));
        std::fs::write(&files.private, "no key").expect("written");
        assert!(matches!(files.open(), Err(KeysError::Key { .. })));
    }

    #[test]
    fn files_that_have_gone_are_not_made_anew_while_running() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = files(&directory);
        let made = files.open().expect("made");
        let other = KeyPairText::generate().expect("made").public;
        std::fs::write(&files.public, other).expect("written");
        let both = files.read_again(&made.public).expect("read").public;
        assert_eq!(both.len(), 2);
        std::fs::remove_file(&files.public).expect("removed");
        assert!(matches!(files.read_again(&both), Err(KeysError::Missing(path)) if path == files.public));
        assert_eq!(files.read_again(&made.public).expect("one key").public, made.public);
        std::fs::remove_file(&files.private).expect("removed");
        assert!(
            matches!(files.read_again(&made.public), Err(KeysError::Missing(path)) if path == files.private)
        );
    }
}
