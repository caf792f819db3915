//! Certificates of clients: the names in them, and the accounts that those stand for.
//!
//! In: the certificate of a connection, whose chain the TLS library has verified, and rules. Out: the account
//! in whose name the client acts while it shows no token.
//!
//! A certificate counts for the connection that shows it. So a gateway that has decided by one says so in the
//! header [`ACCOUNT`], and a control plane believes that of gateways only. A request that anybody else has
//! passed on is not one of the certificate's owner.

use std::sync::Arc;

use http::header::{FORWARDED, VIA};
use http::{HeaderMap, HeaderName, Uri};
use settings::{Kind, Setting, Settings};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

use crate::browser;

/// The account for which a client's certificate stands, as a gateway tells it a control plane. Empty for a
/// client without one: then the certificate of the connection, which is the gateway's, does not count either.
pub const ACCOUNT: HeaderName = HeaderName::from_static("x-muster-account");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const SPIFFE: &str = "spiffe://";
/// The longest SPIFFE id, by its specification.
const LONGEST_ID: usize = 2048;
/// The longest name of an account.
const LONGEST_ACCOUNT: usize = 64;

/// The names in a client's certificate. An extension of every request on a connection that has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate(Option<Arc<Names>>);

#[derive(Debug, PartialEq, Eq)]
struct Names {
    name: Name,
    ends: u64,
}

/// The one name by which a certificate is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    SpiffeId(String),
    CommonName(String),
}

/// An extension of requests that a gateway of the same process has passed on.
#[derive(Clone, Copy, Debug)]
pub struct FromGateway;

/// An account that a certificate stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedAccount {
    /// The name of the account.
    pub account: Arc<str>,
    /// The end of the certificate, in seconds since 1970.
    pub ends: u64,
}

impl PeerCertificate {
    /// Reads a certificate. One without a clear name is nobody's.
    pub fn read(der: &[u8]) -> Self {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return Self::default() };
        let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        Self(name_of(&certificate).map(|name| Arc::new(Names { name, ends })))
    }
}

/// A certificate with an address is known by that alone, and by one only, as SPIFFE demands: its authority
/// need not have checked the common name.
fn name_of(certificate: &X509Certificate<'_>) -> Option<Name> {
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.as_ref().map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut addresses = names.iter().filter_map(|name| match name {
        GeneralName::URI(address) => Some(*address),
        _ => None,
    });
    match (addresses.next(), addresses.next()) {
        (Some(id), None) => is_spiffe_id(id).then(|| Name::SpiffeId(id.to_owned())),
        (Some(_), Some(_)) => None,
        (None, _) => {
            let mut names = certificate.subject().iter_common_name();
            let (Some(name), None) = (names.next(), names.next()) else { return None };
            let name = name.as_str().ok().filter(|name| !name.is_empty())?;
            Some(Name::CommonName(name.to_owned()))
        }
    }
}

/// True for a SPIFFE id with a path. Dots alone are no segment, so a pattern cannot be walked around.
fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix(SPIFFE).and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let is_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    text.len() <= LONGEST_ID
        && !domain.is_empty()
        && domain.chars().all(is_domain)
        && path.split('/').all(|segment| {
            !matches!(segment, "" | "." | "..")
                && segment.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
}

/// A pattern of names: a SPIFFE id, whose last segment may end with `*` for any further text of that segment,
/// or a common name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Is(Name),
    /// Begins so, and has at least one further character and no further segment.
    Begins(String),
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        if !text.starts_with(SPIFFE) {
            let is_name = !text.is_empty() && !text.contains('*') && !text.contains("://");
            return is_name.then(|| Self::Is(Name::CommonName(text.to_owned())));
        }
        match text.strip_suffix('*') {
            // With any character in the place of the star, the rest must be an id.
            Some(prefix) => is_spiffe_id(&format!("{prefix}x")).then(|| Self::Begins(prefix.to_owned())),
            None => is_spiffe_id(text).then(|| Self::Is(Name::SpiffeId(text.to_owned()))),
        }
    }

    fn matches(&self, name: &Name) -> bool {
        match (self, name) {
            (Self::Is(expected), name) => expected == name,
            (Self::Begins(prefix), Name::SpiffeId(id)) => {
                id.strip_prefix(prefix.as_str()).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
            }
            (Self::Begins(_), Name::CommonName(_)) => false,
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Is(Name::SpiffeId(name) | Name::CommonName(name)) => name.clone(),
            Self::Begins(prefix) => format!("{prefix}*"),
        }
    }
}

/// A rule of `rbac.certificates`: a pattern of names and the account that they stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    pattern: Pattern,
    account: Arc<str>,
}

impl Setting for CertificateRule {
    const NAME: &'static str = "RULE";
    const KIND: Kind = Kind::Text;

    fn expected() -> String {
        "name=account, where the name is spiffe://domain/path, perhaps with * at its end, or a common name"
            .to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let (pattern, account) = text.trim().rsplit_once('=')?;
        let is_account = (1..=LONGEST_ACCOUNT).contains(&account.len())
            && account.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        let pattern = Pattern::parse(pattern)?;
        is_account.then(|| Self { pattern, account: account.into() })
    }

    fn show(&self) -> String {
        format!("{}={}", self.pattern.show(), self.account)
    }
}

/// A name of `rbac.gateways`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayName(Pattern);

impl Setting for GatewayName {
    const NAME: &'static str = "NAME";
    const KIND: Kind = Kind::Text;

    fn expected() -> String {
        "spiffe://domain/path, perhaps with * at its end, or a common name".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Pattern::parse(text.trim()).map(Self)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// The accounts that certificates stand for, and the gateways that are believed about them.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    rules: Vec<CertificateRule>,
    gateways: Vec<GatewayName>,
}

/// The refusal of a request that names an account and comes from nobody that may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAGateway;

impl Certificates {
    /// These accounts, on the word of these gateways.
    pub fn new(rules: Vec<CertificateRule>, gateways: Vec<GatewayName>) -> Self {
        Self { rules, gateways }
    }

    /// Declares `rbac.certificates`. `has_authority` is true when the listener asks its clients for
    /// certificates.
    pub fn read(settings: &mut Settings<'_>, has_authority: bool) -> Self {
        let rules: Option<Vec<CertificateRule>> = settings.optional(
            "rbac.certificates",
            "Accounts that certificates of clients stand for, each as name=account. The name is a SPIFFE id, perhaps \
             with * at its end, or a common name. Needs tls.client-ca. The same for gateways and control planes.",
        );
        let rules = rules.unwrap_or_default();
        if !rules.is_empty() && !has_authority {
            settings.mistake("rbac.certificates", "clients show a certificate only with tls.client-ca");
        }
        for (place, rule) in rules.iter().enumerate() {
            if rules[..place].iter().any(|other| other.pattern == rule.pattern) {
                let mistake = format!("`{}` has two accounts", rule.pattern.show());
                settings.mistake("rbac.certificates", mistake);
            }
        }
        Self::new(rules, Vec::new())
    }

    /// Declares `rbac.gateways`, for a control plane.
    pub fn read_gateways(&mut self, settings: &mut Settings<'_>, has_authority: bool) {
        let gateways: Option<Vec<GatewayName>> = settings.optional(
            "rbac.gateways",
            "Names in the certificates of gateways, which are believed about the certificates of their clients: SPIFFE \
             ids, perhaps with * at their end, or common names. Needs tls.client-ca. Default: none.",
        );
        self.gateways = gateways.unwrap_or_default();
        if !self.gateways.is_empty() && !has_authority {
            settings.mistake("rbac.gateways", "gateways show a certificate only with tls.client-ca");
        }
    }

    /// True when no certificate stands for an account.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The account behind a client's own request, by the certificate of its connection.
    ///
    /// Browsers show certificates for pages of anybody. A request that such a page has caused has none.
    pub fn of_client(
        &self,
        certificate: Option<&PeerCertificate>,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<CertifiedAccount> {
        let names = certificate?.0.as_deref()?;
        // A proxy's certificate is not its client's.
        if [FORWARDED_FOR, FORWARDED, VIA, ACCOUNT].iter().any(|name| headers.contains_key(name))
            || self.is_gateway(names)
            || browser::is_of_another_site(headers, uri)
        {
            return None;
        }
        let rule = self.rules.iter().find(|rule| rule.pattern.matches(&names.name))?;
        Some(CertifiedAccount { account: rule.account.clone(), ends: names.ends })
    }

    /// The account behind a request at a control plane: on the word of a gateway, or by the certificate of
    /// the connection. A gateway may name the accounts of the rules here, one within this process any
    /// account.
    ///
    /// # Errors
    /// When the request names an account and has not come from a gateway that may.
    pub fn of_request<B>(&self, request: &http::Request<B>) -> Result<Option<CertifiedAccount>, NotAGateway> {
        let certificate = request.extensions().get::<PeerCertificate>();
        let mut named = request.headers().get_all(ACCOUNT).iter();
        let Some(account) = named.next() else {
            return Ok(self.of_client(certificate, request.uri(), request.headers()));
        };
        let is_only_one = named.next().is_none();
        if is_only_one && account.is_empty() {
            return Ok(None);
        }
        let is_within = request.extensions().get::<FromGateway>().is_some();
        let names = certificate.and_then(|certificate| certificate.0.as_deref());
        match account.to_str() {
            // A gateway that was taken over must not be any account that there is, such as `root`.
            Ok(account)
                if is_only_one
                    && (is_within
                        || (names.is_some_and(|names| self.is_gateway(names))
                            && self.rules.iter().any(|rule| *rule.account == *account))) =>
            {
                // The gateway has looked at the end of the certificate.
                Ok(Some(CertifiedAccount { account: account.into(), ends: u64::MAX }))
            }
            _ => Err(NotAGateway),
        }
    }

    fn is_gateway(&self, names: &Names) -> bool {
        self.gateways.iter().any(|gateway| gateway.0.matches(&names.name))
    }
}

#[cfg(test)]
mod tests;
