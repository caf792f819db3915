//! The decision: from a token to an identity, from an identity to a grant, from a grant to yes or no.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use shared::model::{Revision, Tenant};

use crate::claims::{SERVICE_KIND, Verified};
use crate::denial::{Denial, DenialCode};
use crate::issuer::ExternalIssuer;
use crate::policy::{AccountState, Policy};
use crate::role::{ADMIN, Need, Resource, ResourceType, Role, Verb};

/// Tokens without a start are taken to have been issued this many seconds before their end, the longest time
/// that Service-Center gives them.
const LONGEST_TOKEN_TIME: u64 = 24 * 3600;

/// The account behind a request, by what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A verified token.
    Token(Verified),
    /// The certificate of the client's connection.
    Certificate(Certified),
}

/// An account of ours for which a certificate stands that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The name of the account.
    pub account: Arc<str>,
    /// The end of the certificate, in seconds since 1970.
    pub ends: u64,
}

impl Identity {
    /// The name of the account.
    pub fn account(&self) -> &str {
        match self {
            Self::Token(token) => &token.claims.account,
            Self::Certificate(certified) => &certified.account,
        }
    }

    /// The external issuer that keeps the account. `None` for an account of ours.
    pub fn issuer(&self) -> Option<&str> {
        match self {
            Self::Token(token) => token.issuer.as_deref(),
            Self::Certificate(_) => None,
        }
    }

    /// The id of the token; empty for a certificate, and for a token without one.
    pub fn token_id(&self) -> &str {
        match self {
            Self::Token(token) => &token.claims.jti,
            Self::Certificate(_) => "",
        }
    }

    /// The end of the token or certificate, in seconds since 1970.
    pub fn ends(&self) -> u64 {
        match self {
            Self::Token(token) => token.claims.exp,
            Self::Certificate(certified) => certified.ends,
        }
    }
}

/// The labels of a service that permissions may name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'a> {
    /// The environment; empty for the default one.
    pub environment: &'a str,
    /// The application.
    pub app_id: &'a str,
    /// The service's name.
    pub service_name: &'a str,
}

/// Labels that a permission demands. Values may contain `*` for any text.
pub type LabelSet = BTreeMap<String, String>;

/// The part of a type of resource to which an identity may do something.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grant {
    /// Everything.
    #[default]
    All,
    /// Everything that has all labels of one of these sets. There is at least one set.
    Labelled(Arc<[LabelSet]>),
}

/// The one value of the header `Authorization`, if there is any. Programs differ in which of two they take,
/// so two are refused.
///
/// # Errors
/// The refusal, when the header stands there twice.
pub fn authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first.map(HeaderValue::as_bytes)),
        Some(_) => Err(Denial::new(DenialCode::Unauthorized, "invalid auth header")),
    }
}

/// True when the value of a header `Authorization` is there, so that it decides and no certificate does.
pub fn shows_token(header: Option<&[u8]>) -> bool {
    header.is_some_and(|value| !value.is_empty())
}

/// The token in the value of a header `Authorization`.
pub(crate) fn token_in(header: Option<&[u8]>) -> Result<&str, Denial> {
    let header = header.filter(|value| !value.is_empty());
    let header = header.ok_or_else(|| Denial::new(DenialCode::NoHeader, ""))?;
    let malformed = || Denial::new(DenialCode::Unauthorized, "invalid auth header");
    // The scheme's name is not looked at, because Service-Center does not look at it either.
    let text = std::str::from_utf8(header).map_err(|_| malformed())?;
    let (_, token) = text.split_once(' ').ok_or_else(malformed)?;
    if token.contains(' ') { Err(malformed()) } else { Ok(token) }
}

fn unauthorized<T>(detail: &'static str) -> Result<T, Denial> {
    Err(Denial::new(DenialCode::Unauthorized, detail))
}

impl Policy {
    /// True while the key that signed a token is in use.
    pub(crate) fn has_signer(&self, token: &Verified) -> bool {
        match &token.issuer {
            None => self.keys.iter().any(|key| *key.kid == *token.kid),
            Some(name) => self.issuer(name).is_some_and(|issuer| issuer.has_key(&token.kid)),
        }
    }

    /// Decides whether an identity that was found earlier would be found now too. Long connections ask this
    /// whenever the policy has changed, and when their token's time is over.
    ///
    /// # Errors
    /// The refusal.
    pub fn still_counts(&self, identity: &Identity, now: u64) -> Result<(), Denial> {
        if identity.ends() <= now {
            return Err(Denial::new(DenialCode::Expired, ""));
        }
        match identity {
            Identity::Token(token) => self.token_counts(token),
            // Certificates are issued and revoked elsewhere: a new password or the end of sessions is about
            // tokens.
            Identity::Certificate(certified) => self.active(&certified.account).map(drop),
        }
    }

    fn token_counts(&self, token: &Verified) -> Result<(), Denial> {
        let claims = &token.claims;
        if !self.has_signer(token) {
            return unauthorized("the key that signed the token is not in use any more");
        }
        if !claims.jti.is_empty() && self.revoked.contains_key(&claims.jti) {
            return unauthorized("the token is revoked");
        }
        // Accounts of an external issuer are not kept here: its tokens say all that there is.
        if token.issuer.is_some() {
            return Ok(());
        }
        let account = self.active(&claims.account)?;
        let issued = claims.iat.unwrap_or_else(|| claims.exp.saturating_sub(LONGEST_TOKEN_TIME));
        if issued < account.not_before {
            return unauthorized("the token was issued before the account's password or sessions were reset");
        }
        if claims.kind == SERVICE_KIND && !self.service_tokens.contains(&claims.jti) {
            return unauthorized("the token is revoked");
        }
        Ok(())
    }

    /// The account with this name, unless it cannot be used.
    fn active(&self, name: &str) -> Result<&AccountState, Denial> {
        let Some(account) = self.accounts.get(name) else {
            return Err(Denial::new(DenialCode::AccountDeleted, format!("account [{name}] is deleted")));
        };
        if account.inactive { unauthorized("the account is not active") } else { Ok(account) }
    }

    /// The part of the needed resource to which an identity may do the needed.
    ///
    /// The roles that the account has in this policy decide, never those that the token names.
    ///
    /// # Errors
    /// The refusal, when no role permits any of it.
    pub fn grant(&self, identity: &Identity, need: Need) -> Result<Grant, Denial> {
        let names = self.role_names(identity);
        if names.contains(&ADMIN) {
            return Ok(Grant::All);
        }
        let roles: Vec<&Role> =
            names.iter().filter_map(|name| self.roles.get(*name).map(Arc::as_ref)).collect();
        if roles.iter().all(|role| role.perms.is_empty()) {
            return Err(Denial::new(DenialCode::NoPermission, "role has no any permissions"));
        }
        let permissions = roles.iter().flat_map(|role| role.perms.iter());
        let resources: Vec<&Resource> =
            permissions.flat_map(|permission| permission.matching(need)).collect();
        if resources.is_empty() {
            return Err(no_permission(need, None));
        }
        if resources.iter().any(|resource| resource.labels.is_empty()) {
            return Ok(Grant::All);
        }
        let mut sets: Vec<LabelSet> = resources.into_iter().map(|resource| resource.labels.clone()).collect();
        // Sorted, so that equal rights are equal values and watchers with the same rights share an audience.
        sets.sort();
        sets.dedup();
        Ok(Grant::Labelled(sets.into()))
    }

    /// Decides whether an identity may operate a process by its admin port: with the right `ops` for
    /// everything and in all tenants, to get for the method `GET` and to create for any other. The scope
    /// (`rbac.scope`) opens nothing here.
    ///
    /// # Errors
    /// The refusal.
    pub fn operate(&self, identity: &Identity, method: &Method) -> Result<(), Denial> {
        let verb = if method == Method::GET { Verb::Get } else { Verb::Create };
        let need = Need { resource: ResourceType::Ops, verb };
        self.enter_all(identity)?;
        // These routes have no labels, so a right that is limited by labels covers none of them.
        if self.grant(identity, need)? == Grant::All { Ok(()) } else { Err(no_permission(need, None)) }
    }

    /// The names of the roles that an identity has now.
    pub fn role_names<'a>(&'a self, identity: &'a Identity) -> Vec<&'a str> {
        if let Identity::Token(Verified { claims, issuer: Some(name), .. }) = identity {
            return match self.issuer(name) {
                Some(issuer) => issuer.roles_of(&claims.roles).collect(),
                None => Vec::new(),
            };
        }
        let account = self.accounts.get(identity.account());
        account.map(|account| account.roles.iter().map(String::as_str).collect()).unwrap_or_default()
    }

    /// The revision after which the identity's account and roles have not been stored: what its rights cover has been
    /// the same since then. Zero if nothing is known of them.
    pub fn granted_at(&self, identity: &Identity) -> Revision {
        let account = self.accounts.get(identity.account()).filter(|_| identity.issuer().is_none());
        let account = account.map_or(Revision::ZERO, |account| account.revision);
        let names = self.role_names(identity);
        let roles = names.into_iter().filter_map(|name| self.role_revisions.get(name).copied());
        roles.fold(account, Revision::max)
    }

    /// The external issuer with this name.
    pub(crate) fn issuer(&self, name: &str) -> Option<&ExternalIssuer> {
        self.issuers.iter().find(|issuer| issuer.issuer == name).map(Arc::as_ref)
    }

    /// The tenants that an identity is bound to; none means all. `None` when nothing is known of it.
    fn tenants_of(&self, identity: &Identity) -> Option<&[String]> {
        match identity.issuer() {
            None => self.accounts.get(identity.account()).map(|account| account.tenants.as_slice()),
            Some(name) => self.issuer(name).map(|_| [].as_slice()),
        }
    }

    /// Decides whether an identity may enter a tenant.
    ///
    /// # Errors
    /// The refusal.
    pub fn enter(&self, identity: &Identity, tenant: &Tenant) -> Result<(), Denial> {
        let Some(patterns) = self.tenants_of(identity) else {
            return Err(Denial::new(DenialCode::NoPermission, "the account does not exist any more"));
        };
        let matches = |pattern: &String| match pattern.split_once('/') {
            Some((domain, project)) => glob(domain, &tenant.domain) && glob(project, &tenant.project),
            None => glob(pattern, &tenant.domain),
        };
        if patterns.is_empty() || patterns.iter().any(matches) {
            return Ok(());
        }
        Err(Denial::new(DenialCode::NoPermission, "the account is not bound to this domain and project"))
    }

    /// Decides whether an identity may do something that concerns every tenant.
    ///
    /// # Errors
    /// The refusal, when the account is bound to some tenants.
    pub fn enter_all(&self, identity: &Identity) -> Result<(), Denial> {
        if self.tenants_of(identity).is_some_and(<[String]>::is_empty) {
            return Ok(());
        }
        Err(Denial::new(DenialCode::NoPermission, "the account is bound to some domains and projects only"))
    }

    /// True when a request for this type of resource needs a token.
    pub fn protects(&self, kind: ResourceType) -> bool {
        self.enabled && self.scope.contains(kind)
    }
}

impl Grant {
    /// True when something with these labels is part of the grant.
    pub fn admits(&self, labels: Labels<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Labelled(sets) => sets.iter().any(|set| {
                set.iter().all(|(key, pattern)| match key.as_str() {
                    "environment" => glob(pattern, labels.environment),
                    "appId" => glob(pattern, labels.app_id),
                    "serviceName" => glob(pattern, labels.service_name),
                    // A label that no service has: only "it has none" is true of it.
                    _ => pattern.is_empty(),
                })
            }),
        }
    }

    /// True when some service of an application may be part of the grant.
    pub fn admits_some_of_app(&self, app_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Labelled(sets) => {
                sets.iter().any(|set| set.get("appId").is_none_or(|pattern| glob(pattern, app_id)))
            }
        }
    }

    /// Refuses what is not part of the grant.
    ///
    /// # Errors
    /// The refusal, which names the labels.
    pub fn check(&self, need: Need, labels: Labels<'_>) -> Result<(), Denial> {
        if self.admits(labels) { Ok(()) } else { Err(no_permission(need, Some(labels))) }
    }
}

/// The refusal of a request without an account that asks for audit records while access control is on. An
/// account is decided on by [`Policy::operate`]; a scope that leaves administration open does not cover
/// these records.
pub fn audit_needs_an_account() -> Denial {
    Denial::new(DenialCode::NoPermission, "the audit log is shown to accounts with the right `ops` only")
}

/// The refusal for a need, perhaps for something with these labels. The words are Service-Center's.
pub fn no_permission(need: Need, labels: Option<Labels<'_>>) -> Denial {
    let mut detail = format!("role has no permissions[{}:{}]", need.resource.word(), need.verb.word());
    if let Some(labels) = labels {
        let all = [
            ("appId", labels.app_id),
            ("environment", labels.environment),
            ("serviceName", labels.service_name),
        ];
        let named: Vec<String> = all.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        detail.push_str(&format!(" for labels [map[{}]]", named.join(" ")));
    }
    Denial::new(DenialCode::NoPermission, detail)
}

/// True when `text` has the form of `pattern`, in which each `*` stands for any text.
///
/// Written here because a pattern must cost time in proportion to its length, whatever a role contains.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return text.is_empty() };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place is as good as any later one, because everything between may be anything.
        let Some(place) = rest.find(part) else { return false };
        rest = &rest[place + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
