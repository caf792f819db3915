//! From the token or the certificate of a request to the account behind it.

use std::sync::Arc;

use shared::model::Revision;

use crate::admitted::Admitted;
use crate::decision::{Certified, Identity, shows_token, token_in};
use crate::denial::Denial;
use crate::policy::Policy;
use crate::token::Verifier;

impl Policy {
    /// The account behind a request at `now` (seconds since 1970): that of the token in the value of its
    /// header `Authorization`, and without such a value that of the client's certificate.
    ///
    /// # Errors
    /// The refusal: nothing shows an account, or the token or certificate that does is none of ours, is
    /// over, or does not count any more.
    pub fn identify(
        self: &Arc<Self>,
        header: Option<&[u8]>,
        certificate: Option<Certified>,
        verifier: &Verifier,
        now: u64,
    ) -> Result<Arc<Admitted>, Denial> {
        match certificate {
            Some(certified) if !shows_token(header) => {
                Admitted::of(Identity::Certificate(certified), self, now)
            }
            _ => verifier.admit(header, self, now),
        }
    }

    /// The identity that the value of a header `Authorization` shows at `now` (seconds since 1970).
    ///
    /// # Errors
    /// The refusal: no header, a token that is none of ours, is over, or does not count any more.
    pub fn authenticate(
        &self,
        header: Option<&[u8]>,
        verifier: &Verifier,
        now: u64,
    ) -> Result<Identity, Denial> {
        let identity = Identity::Token(verifier.verify(token_in(header)?, self, now)?);
        self.still_counts(&identity, now)?;
        Ok(identity)
    }

    /// The revision by which this policy would have to know the account of a token, when that is later than
    /// `known`: the account or its roles may be so new that the policy lacks them. `None` when the refusal
    /// of a request with this header is final: the token is not newer, is none of ours, or does not count.
    pub fn owed_to(
        &self,
        header: Option<&[u8]>,
        verifier: &Verifier,
        now: u64,
        known: Revision,
    ) -> Option<Revision> {
        let verified = verifier.verify(token_in(header).ok()?, self, now).ok()?;
        // The revisions of another issuer, if its tokens have any, are not ours.
        (verified.issuer.is_none() && verified.claims.rev > known).then_some(verified.claims.rev)
    }
}
