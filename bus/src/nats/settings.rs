//! The settings of the connection to NATS. They have the same names in every program.

use super::{NatsAuth, NatsConfig};
use settings::{Secret, Setting, Settings, Url};

/// The address of a NATS server: a [`Url`] with an example of its own in messages and help.
struct ServerUrl(Url);

impl Setting for ServerUrl {
    const NAME: &'static str = Url::NAME;

    fn expected() -> String {
        "an address such as nats://10.0.0.5:4222".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Url::parse(text).map(Self)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

impl NatsConfig {
    /// Declares the settings `nats.*` and takes their values. The server's monitoring shows `name`.
    pub fn read(settings: &mut Settings<'_>, name: &str) -> Self {
        settings.alias("nats.urls", "nats");
        let urls: Vec<ServerUrl> =
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
        // Read here only to report the mistake with all others; the client reads the file itself.
        if let Some(Err(error)) = authorities.as_ref().map(std::fs::read) {
            settings.mistake("nats.ca", format!("the file cannot be read: {error}"));
        }
        let auth = match (token, user, password) {
            (Some(token), _, _) => NatsAuth::Token(token.expose().to_owned()),
            (None, Some(name), Some(password)) => {
                NatsAuth::User { name, password: password.expose().to_owned() }
            }
            // A name without a password is among the mistakes already, so this value is never used.
            (None, _, _) => NatsAuth::None,
        };
        Self {
            auth,
            root_certificates: authorities,
            ..Self::new(urls.iter().map(|url| url.0.as_str().to_owned()).collect(), name)
        }
    }
}
