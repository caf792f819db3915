//! Checks access control: whether strangers are let in, and for how long the own token counts.

use std::time::Duration;

use access::token::Claims;
use data_encoding::BASE64URL_NOPAD;
use shared::clock::Clock;

use super::{Outcome, failed, ok, warning};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;
use crate::target::Target;

/// A token that ends sooner than this is worth a word.
const ENDS_SOON: Duration = Duration::from_secs(30 * 60);

/// Asks the registry for something that needs a right, without a token and with the one that there is.
pub(super) async fn check(target: &Target) -> Outcome {
    let list = |client: RegistryClient| async move {
        client.get(&["registry", "microservices"]).send().await.map(|_| ())
    };
    let stranger = match RegistryClient::without_token(target) {
        Ok(client) => list(client).await,
        Err(failure) => return failed(failure.to_string()),
    };
    match stranger {
        Ok(()) if target.is_this_machine() => {
            ok("off: every program that reaches the registry may change all of it")
        }
        Ok(()) => warning(
            "off, and the registry listens beyond its own machine: switch it on, docs/security.md says how",
        ),
        Err(CommandFailure::LogIn(_)) => own_token(target).await,
        Err(failure) => failed(failure.to_string()),
    }
}

/// Access control is on: the own token decides about everything else.
async fn own_token(target: &Target) -> Outcome {
    let token = match target.access.token(&target.server) {
        Ok(Some(token)) => token,
        Ok(None) => return failed("on, and there is no token: muster login"),
        Err(failure) => return failed(failure.to_string()),
    };
    let client = match RegistryClient::new(target) {
        Ok(client) => client,
        Err(failure) => return failed(failure.to_string()),
    };
    if let Err(failure @ CommandFailure::LogIn(_)) = client.get(&["registry", "microservices"]).send().await {
        return failed(format!("on: {failure}"));
    }
    let Some(end) = end_of(&token) else { return ok("on, and the token counts") };
    let now = Clock::system().micros() / 1_000_000;
    lasting(Duration::from_secs(end.saturating_sub(now)))
}

fn lasting(left: Duration) -> Outcome {
    let shown = humantime::format_duration(left).to_string();
    if left < ENDS_SOON {
        warning(format!(
            "on, and the token ends in {shown}: muster login, or a long-lived one by muster token"
        ))
    } else {
        ok(format!("on, and the token counts for {shown}"))
    }
}

/// The end of a token in seconds since 1970, if it is one of the usual form. Nothing is decided by it.
fn end_of(token: &str) -> Option<u64> {
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice::<Claims>(&claims).ok().map(|claims| claims.exp)
}

#[cfg(test)]
mod tests {
    use super::super::CheckState;
    use super::*;

    #[test]
    fn a_token_that_ends_soon_is_worth_a_warning() {
        let claims = BASE64URL_NOPAD.encode(br#"{"account":"root","exp":1700000000}"#);
        assert_eq!(end_of(&format!("e30.{claims}.x")), Some(1_700_000_000));
        for garbage in ["", "a", "a.b.c", "..", "a.\u{fe}.c"] {
            assert_eq!(end_of(garbage), None, "{garbage}");
        }
        assert_eq!(lasting(Duration::from_secs(60)).0, CheckState::Warning);
        assert_eq!(lasting(Duration::from_secs(7200)).0, CheckState::Ok);
    }
}
