//! The settings of the connection to NATS. They have the same names in every program.

use std::path::PathBuf;

use async_nats::{ConnectOptions, ServerAddr};
use nkeys::{KeyPair, KeyPairType};

use super::{Keys, NatsAuth, NatsConfig};
use settings::{Secret, Setting, Settings, Url};

/// The address of a NATS server: a [`Url`] with an example of its own in messages and help.
struct ServerUrl(Url);

impl Setting for ServerUrl {
    const NAME: &'static str = Url::NAME;

    fn expected() -> String {
        "an address such as nats://10.0.0.5:4222".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        // The client of NATS refuses some addresses, such as those of other schemes, but only when it connects.
        Url::parse(text).filter(|url| url.as_str().parse::<ServerAddr>().is_ok()).map(Self)
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
        let auth = auth(settings);
        let root_certificates = file(settings, "nats.ca", "PEM file with the authorities to trust at NATS.");
        let certificate =
            file(settings, "nats.certificate", "PEM file with the certificate that is shown to NATS.");
        let key = file(settings, "nats.certificate-key", "PEM file with the key of `nats.certificate`.");
        if certificate.is_some() != key.is_some() {
            settings.mistake("nats.certificate", "a certificate and its key go together");
        }
        let signing_keys: Option<PathBuf> = settings.optional(
            "nats.signing-keys",
            "File with the keys that sign the messages on the bus, one a line; the first signs, all are accepted.",
        );
        if let Some(Err(problem)) = signing_keys.as_deref().map(Keys::read) {
            settings.mistake("nats.signing-keys", problem);
        }
        let accept_unsigned = settings.get(
            "nats.accept-unsigned",
            "false",
            "Accept messages without a signature too, while a site begins to sign.",
        );
        if accept_unsigned && signing_keys.is_none() {
            settings.mistake("nats.accept-unsigned", "without keys (nats.signing-keys) nothing is signed");
        }
        Self {
            auth,
            root_certificates,
            client_certificate: certificate.zip(key),
            signing_keys,
            accept_unsigned,
            ..Self::new(urls.iter().map(|url| url.0.as_str().to_owned()).collect(), name)
        }
    }
}

/// A file that the client reads itself. It is read here only to report a mistake with all others.
fn file(settings: &mut Settings<'_>, key: &'static str, help: &'static str) -> Option<PathBuf> {
    let path: Option<PathBuf> = settings.optional(key, help);
    if let Some(Err(error)) = path.as_ref().map(std::fs::read) {
        settings.mistake(key, format!("the file cannot be read: {error}"));
    }
    path
}

fn auth(settings: &mut Settings<'_>) -> NatsAuth {
    let user: Option<String> = settings.optional("nats.user", "Name at NATS.");
    let password: Option<Secret> = settings.optional("nats.password", "Password at NATS.");
    let token: Option<Secret> =
        settings.optional("nats.token", "Token at NATS, instead of name and password.");
    let nkey: Option<Secret> =
        settings.optional("nats.nkey", "Seed of the user's nkey at NATS, instead of name and password.");
    let credentials: Option<PathBuf> = settings
        .optional("nats.credentials", "Credentials file of the user at NATS, instead of name and password.");
    if user.is_some() != password.is_some() {
        settings.mistake("nats.user", "a name and a password go together");
    }
    let mut ways = Vec::new();
    if let (Some(name), Some(password)) = (user, password) {
        ways.push(("nats.user", NatsAuth::User { name, password: password.expose().to_owned() }));
    }
    if let Some(token) = token {
        ways.push(("nats.token", NatsAuth::Token(token.expose().to_owned())));
    }
    if let Some(seed) = nkey {
        let seed = seed.expose().trim();
        let is_of_user = KeyPair::from_seed(seed).is_ok_and(|pair| pair.key_pair_type() == KeyPairType::User);
        if !is_of_user {
            settings.mistake("nats.nkey", "it is not the seed of a user, which begins with SU");
        }
        ways.push(("nats.nkey", NatsAuth::Nkey(seed.to_owned())));
    }
    if let Some(path) = credentials {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            settings.mistake("nats.credentials", format!("the file cannot be read: {error}"));
            String::new()
        });
        if !text.is_empty() && ConnectOptions::with_credentials(&text).is_err() {
            settings.mistake("nats.credentials", "the file holds no token and seed of a user");
        }
        ways.push(("nats.credentials", NatsAuth::Credentials(text)));
    }
    // The last one names the mistake: the others are usually older.
    if let [.., (first, _), (last, _)] = &ways[..] {
        settings.mistake(last, format!("it and {first} exclude each other"));
    }
    ways.pop().map(|(_, auth)| auth).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use settings::{Config, Sources, parse};

    use super::*;

    struct OnlyNats(NatsConfig);

    impl Config for OnlyNats {
        fn read(settings: &mut Settings<'_>) -> Self {
            Self(NatsConfig::read(settings, "test"))
        }
    }

    #[test]
    fn every_mistake_about_the_bus_is_reported_at_once() {
        let sources = Sources::default()
            .with_flag("nats.user", "a")
            .with_flag("nats.nkey", "SUNOSEED")
            .with_flag("nats.token", "secret")
            .with_flag("nats.credentials", "/nowhere/a")
            .with_flag("nats.certificate", "/nowhere/b")
            .with_flag("nats.accept-unsigned", "true")
            .with_flag("nats.urls", "nats://127.0.0.1:4222,redis://127.0.0.1:6379");
        let Err(mistakes) = parse::<OnlyNats>(&sources) else { panic!("no mistake was found") };
        let mistakes = mistakes.to_string();
        for problem in [
            "a name and a password go together",
            "begins with SU",
            "exclude each other",
            "a certificate and its key go together",
            "without keys",
            "an address such as nats://",
        ] {
            assert!(mistakes.contains(problem), "{problem}: {mistakes}");
        }
        assert_eq!(mistakes.matches("cannot be read").count(), 2, "{mistakes}");
        assert!(!mistakes.contains("SUNOSEED") && !mistakes.contains("secret"), "{mistakes}");
    }

    #[test]
    fn each_login_is_taken_alone() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        let mistakes =
            |key: &str, value: &str| parse::<OnlyNats>(&Sources::default().with_flag(key, value)).err();
        let seed = KeyPair::new_user().seed().expect("a seed");
        assert!(mistakes("nats.nkey", &seed).is_none());
        assert!(mistakes("nats.nkey", &KeyPair::new_account().seed().expect("a seed")).is_some());
        std::fs::write(&path, "no credentials").expect("written");
        assert!(mistakes("nats.credentials", &path).is_some());
        assert!(mistakes("nats.signing-keys", &path).is_some());
        std::fs::write(&path, "0123456789abcdef0123456789abcdef").expect("written");
        let sources = Sources::default().with_flag("nats.signing-keys", path);
        let Ok(OnlyNats(config)) = parse(&sources.with_flag("nats.accept-unsigned", "true")) else {
            panic!("a mistake was found")
        };
        assert!(config.accept_unsigned && config.signing_keys.is_some());
    }
}
