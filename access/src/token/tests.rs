use std::sync::LazyLock;

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use shared::model::Tenant;

use super::*;
use crate::keys::KeyPairText;
use crate::{AccountState, Need, Permission, Resource, ResourceType, Role, Verb};

const NOW: u64 = 1_900_000_000;

/// Two pairs of keys, the first of which verifies. Made once, because a key takes some tenths of a second.
static PAIRS: LazyLock<[KeyPairText; 2]> =
    LazyLock::new(|| [(); 2].map(|()| KeyPairText::generate().expect("a pair")));

fn signing(pair: usize) -> SigningKey {
    SigningKey::from_pem(PAIRS[pair].private.as_bytes()).expect("a key")
}

fn policy() -> Policy {
    Policy { enabled: true, keys: vec![signing(0).public().clone()], ..Policy::default() }
}

fn claims() -> Claims {
    Claims {
        account: "peter".into(),
        roles: vec!["developer".into()],
        exp: NOW + 60,
        iat: Some(NOW),
        jti: "j".into(),
        ..Claims::default()
    }
}

fn encoded(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

/// A token with any header and any claims, signed by `sign`.
fn forged(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let content = format!("{}.{}", encoded(header), encoded(claims));
    format!("{content}.{}", BASE64URL_NOPAD.encode(&sign(content.as_bytes())))
}

/// Signs as an RSA algorithm does that a header may name.
fn by(pair: usize, algorithm: Algorithm) -> impl Fn(&[u8]) -> Vec<u8> {
    let file = pem::parse(&PAIRS[pair].private).expect("a key");
    let key = EncodingKey::from_rsa_der(file.contents());
    move |content| {
        let text = jsonwebtoken::crypto::sign(content, &key, algorithm).expect("it signs");
        BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64")
    }
}

fn refusal(token: &str) -> Denial {
    Verifier::default().verify(token, &policy(), NOW).expect_err("it is refused")
}

#[test]
fn an_issued_token_is_verified_and_names_its_key() {
    let token = Issuer::new(signing(0)).issue(&claims()).expect("issued");
    let header = jsonwebtoken::decode_header(&token).expect("a header");
    assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::RS512, Some(&*signing(0).public().kid)));
    let verified = Verifier::default().verify(&token, &policy(), NOW).expect("verified");
    assert_eq!(*verified.claims, Claims { iss: "muster".into(), ..claims() });
    assert_eq!(*verified.kid, signing(0).public().kid);
}

#[test]
fn a_token_of_service_center_is_verified() {
    let claims = json!({ "account": "root", "exp": NOW + 60, "roles": ["admin"] });
    let token = forged(&json!({ "alg": "RS512", "typ": "JWT" }), &claims, by(0, Algorithm::RS512));
    let verified = Verifier::default().verify(&token, &policy(), NOW).expect("verified");
    assert_eq!((verified.claims.account.as_str(), verified.claims.iat), ("root", None));
}

#[test]
fn no_header_chooses_another_algorithm_or_key() {
    let good = json!({ "account": "root", "roles": ["admin"], "exp": NOW + 60 });
    let kid = signing(0).public().kid.clone();
    let head = |alg: &str| json!({ "alg": alg, "typ": "JWT", "kid": kid });
    let nothing = |_: &[u8]| Vec::new();
    // A library that takes the key's text for a secret would verify this one.
    let hmac = |content: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA512, PAIRS[0].public.as_bytes());
        hmac::sign(&key, content).as_ref().to_vec()
    };
    for (case, token) in [
        ("no signature", forged(&head("none"), &good, nothing)),
        ("no signature, in capitals", forged(&head("NONE"), &good, nothing)),
        ("an empty signature", forged(&head("RS512"), &good, nothing)),
        ("no algorithm", forged(&json!({ "typ": "JWT" }), &good, by(0, Algorithm::RS512))),
        ("the public key as a secret", forged(&head("HS512"), &good, hmac)),
        ("RS256", forged(&head("RS256"), &good, by(0, Algorithm::RS256))),
        ("PS512", forged(&head("PS512"), &good, by(0, Algorithm::PS512))),
        ("RS512 that is RS256", forged(&head("RS512"), &good, by(0, Algorithm::RS256))),
        ("another key under our id", forged(&head("RS512"), &good, by(1, Algorithm::RS512))),
        (
            "our key under another id",
            forged(&json!({ "alg": "RS512", "kid": "other" }), &good, by(0, Algorithm::RS512)),
        ),
        ("another key without an id", forged(&json!({ "alg": "RS512" }), &good, by(1, Algorithm::RS512))),
    ] {
        assert_eq!(refusal(&token).code, DenialCode::Unauthorized, "{case}");
    }
}

#[test]
fn a_token_that_is_over_is_refused_even_when_remembered() {
    let token = Issuer::new(signing(0)).issue(&claims()).expect("issued");
    let verifier = Verifier::default();
    verifier.verify(&token, &policy(), NOW + 59).expect("the last second");
    let over = |verifier: &Verifier| verifier.verify(&token, &policy(), NOW + 60).expect_err("over").code;
    assert_eq!((over(&verifier), over(&Verifier::default())), (DenialCode::Expired, DenialCode::Expired));
}

#[test]
fn a_key_that_is_taken_away_takes_its_tokens_with_it() {
    let token = Issuer::new(signing(0)).issue(&claims()).expect("issued");
    let verifier = Verifier::default();
    verifier.verify(&token, &policy(), NOW).expect("verified, and remembered");
    let both = Policy { keys: vec![signing(1).public().clone(), signing(0).public().clone()], ..policy() };
    verifier.verify(&token, &both, NOW).expect("still a key");
    let other = Policy { keys: vec![signing(1).public().clone()], ..policy() };
    assert_eq!(verifier.verify(&token, &other, NOW).expect_err("gone").code, DenialCode::Unauthorized);
}

#[test]
fn a_changed_byte_makes_a_token_worthless() {
    let token = Issuer::new(signing(0)).issue(&claims()).expect("issued");
    let parts: Vec<&str> = token.split('.').collect();
    let as_root = encoded(&json!({ "account": "root", "exp": NOW + 60 }));
    for other in [
        format!("{}.{as_root}.{}", parts[0], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], parts[2].to_ascii_lowercase()),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{token}."),
        format!(".{}.{}", parts[1], parts[2]),
        parts[..2].join("."),
        String::new(),
    ] {
        assert_eq!(refusal(&other).code, DenialCode::Unauthorized, "{other}");
    }
    let detail = "token contains an invalid number of segments";
    assert_eq!(refusal("x"), unauthorized(detail));
}

#[test]
fn a_token_must_have_an_end_and_a_bounded_length() {
    let head = json!({ "alg": "RS512" });
    for bad in [
        json!({ "account": "peter" }),
        json!({ "account": "peter", "exp": "tomorrow" }),
        json!({ "account": "peter", "exp": -1 }),
        json!(["peter"]),
    ] {
        let token = forged(&head, &bad, by(0, Algorithm::RS512));
        assert_eq!(refusal(&token).code, DenialCode::Unauthorized, "{bad}");
    }
    let long = json!({ "account": "peter", "exp": NOW + 60, "jti": "x".repeat(LONGEST_TOKEN) });
    let token = forged(&head, &long, by(0, Algorithm::RS512));
    assert_eq!(refusal(&token), unauthorized("the token is too long"));
}

#[test]
fn what_is_remembered_of_a_token_never_differs_from_what_is_decided_anew() {
    let need = Need { resource: ResourceType::Service, verb: Verb::Get };
    let tenant = Tenant::default();
    let role = |label: &str| {
        let labels = [("serviceName".to_owned(), label.to_owned())].into();
        let resources = vec![Resource { kind: "service".to_owned(), labels }];
        let perms = vec![Permission { resources, verbs: vec!["get".to_owned()] }];
        Arc::new(Role { name: "reader".to_owned(), perms, ..Role::default() })
    };
    let mut first = policy();
    let account = AccountState { roles: vec!["reader".to_owned()], ..AccountState::default() };
    first.accounts.insert("peter".to_owned(), account);
    first.roles.insert("reader".to_owned(), role("shop*"));
    let changed = |change: &dyn Fn(&mut Policy)| {
        let mut policy = first.clone();
        change(&mut policy);
        policy
    };
    fn peter(policy: &mut Policy) -> &mut AccountState {
        policy.accounts.get_mut("peter").expect("an account")
    }
    let policies = [
        changed(&|_| ()),
        changed(&|policy| _ = policy.roles.insert("reader".to_owned(), role("bank*"))),
        changed(&|policy| policy.roles.clear()),
        changed(&|policy| peter(policy).roles = vec!["admin".to_owned()]),
        changed(&|policy| peter(policy).tenants = vec!["other/*".to_owned()]),
        changed(&|policy| peter(policy).inactive = true),
        changed(&|policy| peter(policy).not_before = NOW + 1),
        changed(&|policy| policy.accounts.clear()),
        changed(&|policy| _ = policy.revoked.insert("j".to_owned(), NOW + 60)),
        changed(&|policy| policy.keys = vec![signing(1).public().clone()]),
        changed(&|policy| policy.keys.clear()),
    ];
    let token = Issuer::new(signing(0)).issue(&claims()).expect("signed");
    let header = format!("Bearer {token}");
    let header = Some(header.as_bytes());
    let remembering = Verifier::default();
    let mut outcomes = std::collections::BTreeSet::new();
    // From every policy to every other one, and each twice, as it is the second time that memory answers.
    for (at, before) in policies.iter().enumerate() {
        for after in &policies[at..] {
            for policy in [before, before, after, after, before] {
                // A new address each time, as when a policy arrives.
                let policy = Arc::new(policy.clone());
                for now in [NOW, NOW + 59, NOW, NOW + 60, NOW] {
                    let anew = policy.authenticate(header, &Verifier::default(), now).and_then(|identity| {
                        policy.enter(&identity, &tenant)?;
                        policy.grant(&identity, need)
                    });
                    let remembered = remembering.admit(header, &policy, now).and_then(|account| {
                        account.enter(&policy, &tenant)?;
                        account.grant(&policy, need)
                    });
                    assert_eq!(remembered, anew);
                    outcomes.insert(format!("{anew:?}"));
                }
            }
        }
    }
    assert!(outcomes.len() >= 9, "each policy decides in its own way: {outcomes:?}");
}

#[test]
fn a_token_that_is_shown_again_is_decided_once() {
    let mut policy = policy();
    let account = AccountState { roles: vec!["admin".to_owned()], ..AccountState::default() };
    policy.accounts.insert("peter".to_owned(), account);
    let policy = Arc::new(policy);
    let verifier = Verifier::default();
    let admit = |token: &str, policy: &Arc<Policy>| {
        let header = format!("Bearer {token}");
        verifier.admit(Some(header.as_bytes()), policy, NOW).expect("it counts")
    };
    let token = Issuer::new(signing(0)).issue(&claims()).expect("signed");
    let account = admit(&token, &policy);
    assert!(Arc::ptr_eq(&account, &admit(&token, &policy)));
    let other = Issuer::new(signing(0)).issue(&Claims { jti: "k".into(), ..claims() }).expect("signed");
    assert!(!Arc::ptr_eq(&account, &admit(&other, &policy)), "each token for itself");
    let next = Arc::new(Policy::clone(&policy));
    assert!(!account.holds(&next, NOW) && account.holds(&policy, NOW));
    assert!(!Arc::ptr_eq(&account, &admit(&token, &next)));
}
