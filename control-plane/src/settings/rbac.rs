//! The settings of access control.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use access::password::HashKind;
use access::{ExternalIssuer, Policy, Scope};
use host::certificates::Certificates;
use host::exposure::Exposure;
use host::proxies::TrustedProxies;
use host::tls::ClientFiles;
use settings::{Choice, Secret, Settings, Url};

use super::token_keys::{KeyFiles, KeysError, TokenKeys};

/// The settings of access control.
#[derive(Clone, Debug)]
pub struct RbacConfig {
    /// Requests need the token of an account.
    pub enabled: bool,
    /// The file of the private key that signs tokens; `None` for the default place.
    pub private_key: Option<PathBuf>,
    /// The file of the public keys that verify tokens; `None` for the default place.
    pub public_key: Option<PathBuf>,
    /// The resources that need a token.
    pub scope: Scope,
    /// The password with which the account `root` is created when it does not exist.
    pub root_password: Option<Secret>,
    /// The form in which new passwords are stored.
    pub password_hash: HashKind,
    /// The time for which an account is locked after three failed logins from one address.
    pub release_lock_after: Duration,
    /// The time for which a failed login counts.
    pub retain_lock_history_for: Duration,
    /// The proxies that are trusted to name their client. Gateways belong to them.
    pub trusted_proxies: TrustedProxies,
    /// The accounts that certificates of clients stand for, and the gateways that are believed about them.
    /// Read by the program, which has the listener.
    pub certificates: Certificates,
    /// An external issuer whose tokens count too.
    pub issuer: Option<IssuerConfig>,
    /// The keys of tokens, once they have been opened.
    pub keys: Option<TokenKeys>,
}

/// A form of stored passwords, as a setting.
#[derive(Clone, Copy, PartialEq)]
struct StoredAs(HashKind);

impl Choice for StoredAs {
    const ALL: &'static [(&'static str, Self)] =
        &[("argon2id", Self(HashKind::Argon2id)), ("scrypt", Self(HashKind::Scrypt))];
}

/// An external issuer of tokens, and where its keys are fetched.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// The issuer, without its keys.
    pub issuer: ExternalIssuer,
    /// The address of its keys; `None` takes the one that its discovery document names on the same host.
    pub keys_at: Option<Url>,
    /// The authorities that are trusted there.
    pub tls: ClientFiles,
    /// The pause between two fetches of the keys.
    pub refresh: Duration,
}

impl RbacConfig {
    pub(super) fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            enabled: Exposure::read(settings).access_control,
            private_key: settings.optional(
                "rbac.private-key",
                "PEM file of the RSA key that signs tokens, the same for all control planes. Made when it is absent at the \
                 start; read again when it changes. Default: private.key in the working directory; of a standalone registry, in its data directory.",
            ),
            public_key: settings.optional(
                "rbac.public-key",
                "PEM file of the public keys that verify tokens; several while a key is being replaced. \
                 Read again when it changes. Default: public.key beside the private key.",
            ),
            scope: scope(settings),
            root_password: settings.optional(
                "rbac.root-password",
                "Password with which the account root is created if it does not exist.",
            ),
            password_hash: settings
                .get_or(
                    "rbac.password-hash",
                    StoredAs(HashKind::Argon2id),
                    "Form of stored passwords. Service-Center nodes on the same store can read scrypt only.",
                )
                .0,
            release_lock_after: settings.within(
                "rbac.release-lock-after",
                "15m",
                "1s"..="24h",
                "Time for which an account is locked for an address after three failed logins.",
            ),
            retain_lock_history_for: settings.within(
                "rbac.retain-lock-history-for",
                "20m",
                "1s"..="24h",
                "Time for which a failed login counts.",
            ),
            trusted_proxies: TrustedProxies::read(settings),
            certificates: Certificates::default(),
            issuer: issuer(settings),
            keys: None,
        }
    }

    /// Reads the keys of tokens, or makes them when there are none. Does nothing while access control is off.
    /// `directory` is the default place.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn open_keys(&mut self, directory: &Path) -> Result<(), KeysError> {
        if !self.enabled {
            return Ok(());
        }
        if let Some(config) = &self.issuer {
            // Tried here, so that a file that cannot be used is found at the start.
            host::tls::client(&config.tls)?;
        }
        let private = self.private_key.clone().unwrap_or_else(|| directory.join("private.key"));
        let public = self.public_key.clone().unwrap_or_else(|| private.with_file_name("public.key"));
        self.keys = Some(KeyFiles { private, public }.open()?);
        Ok(())
    }

    /// The part of the policy that comes from the settings.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            enabled: self.enabled,
            scope: self.scope.clone(),
            keys: self.keys.as_ref().map(|keys| keys.public.clone()).unwrap_or_default(),
            issuers: self.issuer.iter().map(|config| Arc::new(config.issuer.clone())).collect(),
            ..Policy::default()
        }
    }
}

fn scope(settings: &mut Settings<'_>) -> Scope {
    let list: String = settings.get(
        "rbac.scope",
        "*",
        "Comma list of the resources that need a token: account, role, service, service/schema, governance, ops, \
         config, or * for all. Accounts and roles always need one.",
    );
    match Scope::parse(&list) {
        Ok(scope) => scope,
        Err(word) => {
            settings.mistake("rbac.scope", format!("`{word}` is no type of resource"));
            Scope::default()
        }
    }
}

fn issuer(settings: &mut Settings<'_>) -> Option<IssuerConfig> {
    let issuer: Option<String> = settings.optional(
        "rbac.oidc.issuer",
        "An external issuer (OpenID Connect) whose tokens count too, exactly as its tokens name it.",
    );
    let audience: Option<String> =
        settings.optional("rbac.oidc.audience", "Audience that tokens of the external issuer must name.");
    let keys_at: Option<Url> = settings.optional(
        "rbac.oidc.keys",
        "Address of the external issuer's keys (JWKS). Default: the one of its discovery document, on the same host.",
    );
    if keys_at.as_ref().is_some_and(|url| !matches!(url.scheme(), "https" | "http")) {
        settings.mistake("rbac.oidc.keys", "keys are fetched from an address that begins with https://");
    }
    let ca: Option<PathBuf> = settings.optional(
        "rbac.oidc.ca",
        "PEM file with the authorities to trust at the external issuer, read again before each fetch. Default: the system's.",
    );
    let refresh = settings.within(
        "rbac.oidc.refresh",
        "1m",
        "1s"..="1h",
        "Pause between two fetches of the external issuer's keys. A key that the issuer uses at once counts after it at the latest.",
    );
    let account_claim = settings.get(
        "rbac.oidc.account-claim",
        "preferred_username",
        "Claim of the external issuer's tokens with the name of the account; dots lead into objects.",
    );
    let groups_claim = settings.get(
        "rbac.oidc.groups-claim",
        "groups",
        "Claim of the external issuer's tokens with the groups of the account; dots lead into objects.",
    );
    let lines: Vec<String> = settings
        .optional("rbac.oidc.roles", "Roles of the external issuer's groups, each as `group=role`.")
        .unwrap_or_default();
    let mut roles = std::collections::BTreeMap::<String, Vec<String>>::new();
    for line in lines {
        match line.rsplit_once('=') {
            Some((group, role)) if !group.is_empty() && !role.is_empty() => {
                roles.entry(group.to_owned()).or_default().push(role.to_owned());
            }
            _ => settings.mistake("rbac.oidc.roles", format!("`{line}` is not of the form group=role")),
        }
    }
    if issuer.is_none() && audience.is_some() {
        settings
            .mistake("rbac.oidc.audience", "without rbac.oidc.issuer no tokens of an external issuer count");
    }
    let issuer = issuer?;
    let Some(audience) = audience else {
        // Otherwise a token that the issuer made for any other program would be let in here.
        settings.mistake("rbac.oidc.audience", "an external issuer needs an audience");
        return None;
    };
    // Kept as text, because tokens must name it exactly so, with or without a slash at the end.
    if !["https://", "http://"].iter().any(|scheme| issuer.starts_with(scheme)) {
        settings.mistake("rbac.oidc.issuer", "an issuer is an address that begins with https://");
        return None;
    }
    let issuer =
        ExternalIssuer { issuer, audience, account_claim, groups_claim, roles, ..ExternalIssuer::default() };
    Some(IssuerConfig { issuer, keys_at, tls: ClientFiles { ca, ..ClientFiles::default() }, refresh })
}
