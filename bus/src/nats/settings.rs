//! The settings of the bus's connection, the same for every program.

use super::{NatsAuth, NatsConfig};
use settings::{Secret, Settings, Url};

impl NatsConfig {
    /// Declares the settings `nats.*` and takes their values; `name` is shown by the server's monitoring.
    pub fn read(settings: &mut Settings<'_>, name: &str) -> Self {
        settings.alias("nats.urls", "nats");
        let urls: Vec<Url> =
            settings.get("nats.urls", "nats://127.0.0.1:4222", "Servers of the NATS cluster.");
        let user: Option<String> = settings.optional("nats.user", "Name at NATS.");
        let password: Option<Secret> = settings.optional("nats.password", "Password at NATS.");
        let token: Option<Secret> =
            settings.optional("nats.token", "Token at NATS, instead of name and password.");
        if token.is_some() && user.is_some() {
            settings.mistake("nats.token", "a token and a name exclude each other");
        }
        if user.is_some() != password.is_some() {
            settings.mistake("nats.user", "a name and a password go together");
        }
        let authorities: Option<std::path::PathBuf> =
            settings.optional("nats.ca", "PEM file with the authorities to trust at NATS.");
        if let Some(Err(error)) = authorities.as_ref().map(std::fs::read) {
            settings.mistake("nats.ca", format!("the file cannot be read: {error}"));
        }
        let secret = |secret: Secret| secret.expose().to_owned();
        let auth = match (token, user, password) {
            (Some(token), _, _) => NatsAuth::Token(secret(token)),
            (None, Some(name), Some(password)) => NatsAuth::User { name, password: secret(password) },
            (None, _, _) => NatsAuth::None,
        };
        Self {
            auth,
            root_certificates: authorities,
            ..Self::new(urls.iter().map(|url| url.as_str().to_owned()).collect(), name)
        }
    }
}
