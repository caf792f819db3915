//! The configuration of a connection to NATS.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::SUBSCRIPTION_CAPACITY;

/// The servers to connect to, the credentials, and the limits of the connection.
#[derive(Clone)]
pub struct NatsConfig {
    /// Servers, such as `nats://10.0.0.5:4222`. One of a cluster is enough; the others are found through it.
    pub urls: Vec<String>,
    /// The name that the server's monitoring shows for this process.
    pub name: String,
    /// The credentials. They may stand in a URL instead.
    pub auth: NatsAuth,
    /// A PEM file with the certificate authorities to trust for `tls://`; `None` stands for the system's.
    pub root_certificates: Option<PathBuf>,
    /// PEM files of the certificate that is shown to the server, and of its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The file of the keys that sign messages; see [`super::Keys`]. Without one, nothing is signed or
    /// checked.
    pub signing_keys: Option<PathBuf>,
    /// Messages without a signature are accepted although there are keys.
    pub accept_unsigned: bool,
    /// Messages that a subscription holds. When it is full, further ones are lost and the link's
    /// generation rises.
    pub subscription_capacity: usize,
    /// The time between two checks of a connection on which nothing else happens.
    pub ping_interval: Duration,
}

impl NatsConfig {
    /// A connection to `urls` without credentials, with every other value at its default.
    pub fn new(urls: Vec<String>, name: impl Into<String>) -> Self {
        Self {
            urls,
            name: name.into(),
            auth: NatsAuth::None,
            root_certificates: None,
            client_certificate: None,
            signing_keys: None,
            accept_unsigned: false,
            subscription_capacity: SUBSCRIPTION_CAPACITY,
            ping_interval: Duration::from_secs(10),
        }
    }
}

/// The credentials of a connection. `Debug` shows no secret.
#[derive(Clone, Default)]
pub enum NatsAuth {
    /// The server asks for no credentials.
    #[default]
    None,
    /// A shared token.
    Token(String),
    /// The seed of an nkey, with which the client signs what the server asks it to sign.
    Nkey(String),
    /// The text of a credentials file: a token that an account has signed, and the seed of its nkey.
    Credentials(String),
    /// A name and a password.
    User {
        /// The user's name.
        name: String,
        /// The user's password.
        password: String,
    },
}

impl fmt::Debug for NatsAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(…)",
            Self::Nkey(_) => "Nkey(…)",
            Self::Credentials(_) => "Credentials(…)",
            Self::User { .. } => "User(…)",
        })
    }
}
