//! The right by which a session is open, and the judgement about it later.

use std::fmt;
use std::sync::Arc;

use access::denial::DenialCode;
use access::token::LONGEST_TOKEN;
use access::{Certified, Denial, Grant, Identity, Labels, Need, Policy, ResourceType, Verb};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use shared::model::{ServiceKey, Tenant};

use super::PolicyHandle;
use crate::close::Reason;

/// The need of every watch.
pub(crate) const WATCH: Need = Need { resource: ResourceType::Service, verb: Verb::Get };
/// The longest time until a session with a token is looked at again, in seconds. The clock may have been set
/// meanwhile.
const LONGEST_PAUSE: u64 = 600;

/// The right of a session. A session whose client has shown no token has none.
#[derive(Clone, Debug)]
pub(crate) struct Right {
    /// The client.
    pub(crate) client: Client,
    /// The part of all services whose changes the client is sent.
    pub(crate) grant: Arc<Grant>,
}

impl Right {
    /// The grant of a session that may have no right of its own.
    pub(crate) fn grant_of(right: Option<&Self>) -> Arc<Grant> {
        right.map(|right| right.grant.clone()).unwrap_or_default()
    }
}

/// The labels of a service by which grants admit it.
pub(crate) fn labels_of(key: &ServiceKey) -> Labels<'_> {
    Labels { environment: &key.environment, app_id: &key.app_id, service_name: &key.service_name }
}

/// The client behind a session.
#[derive(Clone)]
pub(crate) enum Client {
    /// An account, by a token or a certificate that was verified.
    Account(Identity),
    /// The value of a header with a token that nobody could verify, because access control is off.
    Unverified(Box<[u8]>),
}

/// Written by hand, so that no log line ever shows a token.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(identity) => write!(f, "Account({})", identity.account()),
            Self::Unverified(_) => f.write_str("Unverified(…)"),
        }
    }
}

/// The judgement about an open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Stays,
    /// It ends soon.
    Ends(Reason),
    /// It ends at a moment within [`PolicyHandle::end_over`]: the client has lost nothing, and many others
    /// are concerned too.
    EndsInTurn(Reason),
}

impl PolicyHandle {
    /// The right of a session that begins while access control is off. `None` for a client that shows no
    /// token, nor a certificate that stands for an account.
    pub(crate) fn shown(&self, headers: &HeaderMap, certified: Option<&Certified>) -> Option<Right> {
        if let Some(certified) = certified {
            let client = Client::Account(Identity::Certificate(certified.clone()));
            return Some(Right { client, grant: Arc::default() });
        }
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let value = value.as_bytes();
        // Longer ones would never be accepted, so nothing is lost without them.
        if value.is_empty() || value.len() > LONGEST_TOKEN + 16 {
            return None;
        }
        Some(Right { client: self.client_of(value), grant: Arc::default() })
    }

    fn client_of(&self, value: &[u8]) -> Client {
        let identity = self.last().and_then(|policy| self.authenticate(&policy, Some(value)).ok());
        identity.map_or_else(|| Client::Unverified(value.into()), Client::Account)
    }

    /// Judges an open session in a tenant by the last policy. A policy that is too old to let anybody in ends
    /// no session either.
    pub(crate) fn judge(&self, right: &mut Option<Box<Right>>, tenant: &Tenant) -> Verdict {
        let Some(policy) = self.last().filter(|policy| policy.protects(WATCH.resource)) else {
            return Verdict::Stays;
        };
        let Some(right) = right else { return Verdict::EndsInTurn(Reason::TokenMissing) };
        if let Client::Unverified(value) = &right.client {
            let Ok(identity) = self.authenticate(&policy, Some(value)) else {
                return Verdict::EndsInTurn(Reason::TokenMissing);
            };
            right.client = Client::Account(identity);
        }
        let Client::Account(identity) = &right.client else {
            return Verdict::EndsInTurn(Reason::TokenMissing);
        };
        if let Err(denial) = policy.still_counts(identity, self.now()) {
            return Verdict::Ends(reason_of(&denial, &policy, identity));
        }
        if policy.enter(identity, tenant).is_err() {
            return Verdict::Ends(Reason::RightLost);
        }
        match policy.grant(identity, WATCH) {
            Err(_) => Verdict::Ends(Reason::RightLost),
            Ok(grant) if grant == *right.grant => Verdict::Stays,
            // Its client knows services that it may not see, or lacks some that it may: it begins anew.
            Ok(_) => Verdict::Ends(Reason::RightChanged),
        }
    }

    /// The seconds after which a session is to be judged even if the policy does not change. `None` when its
    /// client has no verified token.
    pub(crate) fn judge_after(&self, right: Option<&Right>) -> Option<u64> {
        match &right?.client {
            Client::Account(identity) => {
                let left = identity.ends().saturating_sub(self.now());
                // At the earliest when the second of the token's end has passed.
                Some((left + 1).min(LONGEST_PAUSE))
            }
            Client::Unverified(_) => None,
        }
    }

    /// Puts a new token in the place of a session's old one. Returns the second since 1970 at which it ends,
    /// if it could be verified.
    ///
    /// # Errors
    /// The refusal; the old token then counts as before.
    pub(crate) fn renew(&self, right: &mut Option<Box<Right>>, token: &str) -> Result<Option<u64>, Denial> {
        let value = format!("Bearer {token}").into_bytes();
        let policy = self.last();
        let protects = policy.as_deref().is_some_and(|policy| policy.protects(WATCH.resource));
        let identity = match (&policy, protects) {
            (Some(policy), true) => self.authenticate(policy, Some(&value))?,
            _ if token.len() > LONGEST_TOKEN => {
                return Err(Denial::new(DenialCode::Unauthorized, "the token is too long"));
            }
            // Kept for the moment at which access control is switched on.
            _ => match self.client_of(&value) {
                Client::Account(identity) => identity,
                unverified @ Client::Unverified(_) => {
                    set_client(right, unverified);
                    return Ok(None);
                }
            },
        };
        if let Some(Right { client: Client::Account(old), .. }) = right.as_deref()
            && old.account() != identity.account()
        {
            return Err(Denial::new(DenialCode::NoPermission, "the token is of another account"));
        }
        let end = identity.ends();
        set_client(right, Client::Account(identity));
        Ok(Some(end))
    }
}

fn set_client(right: &mut Option<Box<Right>>, client: Client) {
    match right {
        Some(right) => right.client = client,
        None => *right = Some(Box::new(Right { client, grant: Arc::default() })),
    }
}

fn reason_of(denial: &Denial, policy: &Policy, identity: &Identity) -> Reason {
    let is_inactive = || {
        let account = policy.accounts.get(identity.account());
        identity.issuer().is_none() && account.is_some_and(|account| account.inactive)
    };
    match denial.code {
        DenialCode::Expired => Reason::TokenExpired,
        DenialCode::AccountDeleted => Reason::AccountDeleted,
        _ if is_inactive() => Reason::AccountInactive,
        _ => Reason::TokenRevoked,
    }
}
