//! Tokens: the one that a command shows to a registry, and the file that keeps those of `muster login`.
//!
//! In: flags, the environment, the file. Out: the token for one server, and never for another one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::failure::CommandFailure;

/// The variable with a token. There is no flag of that kind: arguments can be read by every user of a
/// machine.
const VARIABLE: &str = "MUSTER_TOKEN";

/// The places from which a command takes its token.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct Access {
    /// File with a token. Without it: the variable MUSTER_TOKEN, then the token of `muster login`.
    #[arg(long, env = "MUSTER_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// File that keeps the tokens of `muster login`. Default: muster/credentials.json in $XDG_CONFIG_HOME or
    /// ~/.config.
    #[arg(long, env = "MUSTER_CREDENTIALS", value_name = "FILE")]
    pub(crate) credentials: Option<PathBuf>,
    /// No token is shown, whatever there is.
    #[arg(skip)]
    is_off: bool,
}

/// The tokens of `muster login`, by the address of the server.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Credentials(BTreeMap<String, Login>);

/// A login at one server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Login {
    /// The name of the account.
    pub(crate) account: String,
    /// The token.
    pub(crate) token: String,
}

/// Written by hand, so that no message ever shows a token.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("account", &self.account).finish_non_exhaustive()
    }
}

impl Access {
    /// No token at all.
    pub(crate) fn none() -> Self {
        Self { is_off: true, ..Self::default() }
    }

    /// The token for a server, if there is one.
    pub(crate) fn token(&self, server: &url::Url) -> Result<Option<String>, CommandFailure> {
        if self.is_off {
            return Ok(None);
        }
        if let Some(path) = &self.token_file {
            return secret_of(path).map(Some);
        }
        if let Some(token) = std::env::var(VARIABLE).ok().filter(|token| !token.trim().is_empty()) {
            return Ok(Some(token.trim().to_owned()));
        }
        // Nobody has logged in who has no place for a file.
        let Ok(path) = self.path() else { return Ok(None) };
        Ok(Credentials::read(&path)?.0.remove(&key(server)).map(|login| login.token))
    }

    /// The login that the file keeps for a server.
    pub(crate) fn login(&self, server: &url::Url) -> Result<Option<Login>, CommandFailure> {
        Ok(Credentials::read(&self.path()?)?.0.remove(&key(server)))
    }

    /// Keeps a login for a server, or forgets it.
    pub(crate) fn keep(&self, server: &url::Url, login: Option<Login>) -> Result<PathBuf, CommandFailure> {
        let path = self.path()?;
        let mut all = Credentials::read(&path)?;
        match login {
            Some(login) => all.0.insert(key(server), login),
            None => all.0.remove(&key(server)),
        };
        all.write(&path)?;
        Ok(path)
    }

    fn path(&self) -> Result<PathBuf, CommandFailure> {
        let place = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = &self.credentials {
            return Ok(path.clone());
        }
        // A relative XDG_CONFIG_HOME counts as absent, by the standard of that variable.
        let config = place("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let config = config.or_else(|| Some(place("HOME")?.join(".config")));
        let config = config.ok_or_else(|| {
            CommandFailure::Usage(
                "there is no $HOME to keep a login in: name a file with --credentials".into(),
            )
        })?;
        Ok(config.join("muster/credentials.json"))
    }
}

impl Credentials {
    fn read(path: &Path) -> Result<Self, CommandFailure> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unusable(path, &error)),
        };
        let mode = std::fs::metadata(path).map_err(|error| unusable(path, &error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(unusable(path, &"other users can read it: chmod 600"));
        }
        serde_json::from_slice(&text).map_err(|_| unusable(path, &"it does not hold credentials; remove it"))
    }

    fn write(&self, path: &Path) -> Result<(), CommandFailure> {
        let text = serde_json::to_string_pretty(self).map_err(|error| unusable(path, &error))?;
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|error| unusable(directory, &error))?;
        }
        // In one step, so that another command never reads half of it.
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut options = std::fs::OpenOptions::new();
        let written = options.write(true).create_new(true).mode(0o600).open(&new);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|error| unusable(path, &error))
    }
}

/// The name of a server in the file: scheme, host and port. A token is for no other server.
fn key(server: &url::Url) -> String {
    server.origin().ascii_serialization()
}

/// The content of a file with one secret, without the end of its line.
pub(crate) fn secret_of(path: &Path) -> Result<String, CommandFailure> {
    let text = std::fs::read_to_string(path).map_err(|error| unusable(path, &error))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(unusable(path, &"it is empty")),
        secret => Ok(secret.to_owned()),
    }
}

fn unusable(path: &Path, problem: &dyn std::fmt::Display) -> CommandFailure {
    CommandFailure::Usage(format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(path: &Path) -> Access {
        Access { credentials: Some(path.to_owned()), ..Access::default() }
    }

    fn url(text: &str) -> url::Url {
        text.parse().expect("an address")
    }

    #[test]
    fn a_token_is_shown_to_its_own_server_only() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/credentials.json");
        let access = access(&path);
        let login = Login { account: "root".into(), token: "t".into() };
        access.keep(&url("https://a:30100/"), Some(login)).expect("is kept");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(access.token(&url("https://a:30100/x")).expect("reads").as_deref(), Some("t"));
        for other in ["http://a:30100", "https://a:30101", "https://b:30100", "https://a"] {
            assert_eq!(access.token(&url(other)).expect("reads"), None, "{other}");
        }
        access.keep(&url("https://a:30100"), None).expect("is forgotten");
        assert_eq!(access.login(&url("https://a:30100")).expect("reads"), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("credentials.json");
        std::fs::write(&path, "{}").expect("is written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("is set");
        let refusal = access(&path).token(&url("http://a")).expect_err("is refused");
        assert!(refusal.to_string().contains("chmod 600"), "{refusal}");
    }
}
