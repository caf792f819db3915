//! Tokens, and the records and keys of access control.

use std::sync::{Arc, LazyLock};

use access::issuer::{ExternalIssuer, IssuerKeys};
use access::keys::{PublicKey, SigningKey};
use access::token::Verifier;
use access::{Account, AccountState, Bundle, Need, Policy, ResourceType, Role, Scope, Verb};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// The time of every decision, in seconds since 1970.
const NOW: u64 = 1_700_000_000;
/// The account of the only token that [`PUBLIC`] has ever verified. Its private half was thrown away.
const ACCOUNT: &str = "peter";
const PUBLIC: &[u8] = include_bytes!("public.pem");
const ISSUER: &str = "https://id.example";

struct Setting {
    policy: Policy,
    /// The key of the external issuer. It signs whatever an input says, so that claims are read too.
    external: Ed25519KeyPair,
}

static SETTING: LazyLock<Setting> = LazyLock::new(|| {
    let external = Ed25519KeyPair::generate().expect("a key");
    let x = BASE64URL_NOPAD.encode(external.public_key().as_ref());
    let set = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x }] });
    let issuer = ExternalIssuer {
        issuer: ISSUER.to_owned(),
        audience: "registry".to_owned(),
        account_claim: "preferred_username".to_owned(),
        groups_claim: "realm.groups".to_owned(),
        roles: [("ops".to_owned(), vec!["developer".to_owned()])].into(),
        keys: IssuerKeys::parse(set.to_string().as_bytes()).expect("keys"),
    };
    let account = AccountState { roles: vec!["developer".to_owned()], ..AccountState::default() };
    let policy = Policy {
        enabled: true,
        keys: PublicKey::all_from_pem(PUBLIC).expect("a key"),
        issuers: vec![Arc::new(issuer)],
        accounts: [(ACCOUNT.to_owned(), account)].into(),
        roles: Role::built_in().into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect(),
        ..Policy::default()
    };
    Setting { policy, external }
});

/// Nobody becomes another account than the signer of a token says.
///
/// A text of one line is a token, or a whole header with its scheme. Two lines are the header and the claims
/// of a token that the external issuer signs.
pub(crate) fn tokens(input: &[u8]) {
    let Setting { policy, external } = &*SETTING;
    let text = String::from_utf8_lossy(input).into_owned();
    let token = match text.split_once('\n') {
        None => text.clone(),
        Some((head, claims)) => {
            let encode = |part: &str| BASE64URL_NOPAD.encode(part.trim_end().as_bytes());
            let content = format!("{}.{}", encode(head), encode(claims));
            let signature = external.sign(content.as_bytes());
            format!("{content}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }
    };
    let verifier = Verifier::default();
    let verified = verifier.verify(&token, policy, NOW);
    assert_eq!(verifier.verify(&token, policy, NOW), verified, "{text}: remembering changes nothing");
    if let Ok(verified) = &verified {
        assert!(verified.claims.exp > NOW, "{text}: the token is over");
        match &verified.issuer {
            None => assert_eq!(verified.claims.account, ACCOUNT, "{text}"),
            Some(issuer) => assert!(**issuer == *ISSUER && !verified.claims.account.is_empty(), "{text}"),
        }
    }
    let header = format!("Bearer {token}");
    for header in [header.as_bytes(), input] {
        if let Ok(identity) = policy.authenticate(Some(header), &verifier, NOW) {
            let accounts = Need { resource: ResourceType::Account, verb: Verb::Create };
            assert!(policy.grant(&identity, accounts).is_err(), "{text}: no role here manages accounts");
        }
    }
}

/// A record that is understood is written back as itself, and a policy arrives as it was sent.
pub(crate) fn records(input: &[u8]) {
    written_back::<Account>(input);
    written_back::<Role>(input);
    if let Ok(role) = serde_json::from_slice::<Role>(input) {
        let role = Role { name: "any".to_owned(), ..role };
        for kind in ResourceType::ALL {
            for verb in Verb::ALL {
                let need = Need { resource: *kind, verb: *verb };
                let found = role.perms.iter().flat_map(|permission| permission.matching(need));
                assert!(found.into_iter().all(|resource| resource.kind == kind.word()));
            }
        }
    }
    if let Ok(policy) = serde_json::from_slice::<Policy>(input) {
        // A key of an issuer that names a member twice is of no known type, and is of one when it has been written: then
        // it names each once. Control planes send policies that they have written themselves.
        let sent = Bundle::of(&policy).read().expect("our own");
        assert_eq!(Bundle::of(&sent).read().expect("our own"), sent);
    }
    if let Ok(keys) = IssuerKeys::parse(input) {
        assert_eq!(IssuerKeys::parse(keys.to_json().as_bytes()).expect("our own"), keys);
    }
    _ = PublicKey::all_from_pem(input);
    _ = SigningKey::from_pem(input);
    _ = std::str::from_utf8(input).map(Scope::parse);
}

fn written_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<T>(input) {
        let written = serde_json::to_vec(&record).expect("plain fields");
        assert_eq!(serde_json::from_slice::<T>(&written).expect("our own"), record);
    }
}
