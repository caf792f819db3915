//! Tokens of an external issuer (OpenID Connect): which ones count, for whom, and with which roles.
//!
//! The issuer's name, audience and mapping come from the settings. Its keys are fetched by the control plane
//! and travel in the policy, so no decision ever fetches anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonwebtoken::jwk::{Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::claims::{Claims, Verified};
use crate::denial::{Denial, DenialCode};

/// The most keys of an issuer that are kept. Issuers have two or three.
const MOST_KEYS: usize = 32;
/// The most groups of a token that are looked at.
const MOST_GROUPS: usize = 256;
/// Algorithms that are accepted. All of them have a public half: with a shared secret, everybody who can
/// verify a token could make one.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// An external issuer whose tokens count beside our own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalIssuer {
    /// The issuer, exactly as its tokens name it.
    pub issuer: String,
    /// The audience that a token must name.
    pub audience: String,
    /// The claim with the name of the account.
    pub account_claim: String,
    /// The claim with the groups: a list of texts, or a text with blanks between them. Dots lead into
    /// objects.
    pub groups_claim: String,
    /// The roles of each group. A group without a line has none.
    pub roles: BTreeMap<String, Vec<String>>,
    /// The public keys of the issuer.
    pub keys: IssuerKeys,
}

/// The public keys of an issuer, as it publishes them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IssuerKeys(Vec<Jwk>);

impl IssuerKeys {
    /// Reads a published set. Keys that cannot verify signatures are left out.
    ///
    /// # Errors
    /// The reason, when the text is no set or no key of it can be used.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let set: LooseSet = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        // One by one: an issuer may publish kinds of keys that are not known here.
        let keys: Vec<Jwk> = set
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
            .filter(|key| key.common.key_id.is_some() && DecodingKey::from_jwk(key).is_ok_and(is_public))
            .take(MOST_KEYS)
            .collect();
        if keys.is_empty() {
            return Err("it has no key with an id that can verify a token".to_owned());
        }
        Ok(Self(keys))
    }

    /// The set in the published form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&JwkSet { keys: self.0.clone() }).unwrap_or_default()
    }

    /// True before any key has been fetched.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, kid: &str) -> Option<&Jwk> {
        self.0.iter().find(|key| key.common.key_id.as_deref() == Some(kid))
    }
}

#[derive(Deserialize)]
struct LooseSet {
    keys: Vec<Value>,
}

fn is_public(key: DecodingKey) -> bool {
    ALGORITHMS.iter().any(|algorithm| algorithm.family() == key.family())
}

impl ExternalIssuer {
    /// Verifies a token of this issuer, except for its end.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn verify(&self, token: &str) -> Result<Verified, Denial> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| unauthorized("the token is malformed"))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(unauthorized("the token's algorithm is not accepted"));
        }
        let unknown = || unauthorized("the token's signature is not valid");
        let kid = header.kid.ok_or_else(unknown)?;
        let key = self.keys.find(&kid).ok_or_else(unknown)?;
        // A key that names its algorithm is used with no other.
        let used = KeyAlgorithm::from(header.alg);
        if key.common.key_algorithm.is_some_and(|named| named != used) {
            return Err(unauthorized("the token's algorithm is not accepted"));
        }
        let decoding = DecodingKey::from_jwk(key).map_err(|_| unknown())?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        // Compared with the caller's clock afterwards, for remembered tokens too.
        validation.validate_exp = false;
        let data = jsonwebtoken::decode::<Map<String, Value>>(token, &decoding, &validation)
            .map_err(|_| unauthorized("the token is not one of this registry's issuer for this registry"))?;
        self.read(&data.claims, &kid).ok_or_else(|| unauthorized("the token names no account"))
    }

    fn read(&self, claims: &Map<String, Value>, kid: &str) -> Option<Verified> {
        let account = claim(claims, &self.account_claim)?.as_str().filter(|name| !name.is_empty())?;
        let number = |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as u64);
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let groups = match claim(claims, &self.groups_claim) {
            Some(Value::Array(all)) => {
                all.iter().filter_map(Value::as_str).take(MOST_GROUPS).map(str::to_owned).collect()
            }
            Some(Value::String(all)) => all.split(' ').take(MOST_GROUPS).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let claims = Claims {
            account: account.to_owned(),
            roles: groups,
            exp: number("exp")?,
            iat: number("iat"),
            jti: text("jti"),
            iss: self.issuer.clone(),
            ..Claims::default()
        };
        Some(Verified {
            claims: Arc::new(claims),
            kid: kid.into(),
            issuer: Some(self.issuer.as_str().into()),
        })
    }

    /// The roles of the groups that a token names.
    pub(crate) fn roles_of<'a>(&'a self, groups: &'a [String]) -> impl Iterator<Item = &'a str> {
        groups.iter().filter_map(|group| self.roles.get(group)).flatten().map(String::as_str)
    }

    pub(crate) fn has_key(&self, kid: &str) -> bool {
        self.keys.find(kid).is_some()
    }
}

/// A claim by its path: a name as a whole, or names with dots between them.
fn claim<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    claim(claims.get(first)?.as_object()?, rest)
}

/// The issuer that a token claims to be of. Nothing is verified: it only chooses who verifies.
pub(crate) fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claimed {
        iss: String,
    }
    let payload = token.split('.').nth(1)?;
    let payload = data_encoding::BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
    serde_json::from_slice::<Claimed>(&payload).ok().map(|claimed| claimed.iss)
}

fn unauthorized(detail: &'static str) -> Denial {
    Denial::new(DenialCode::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;
    use serde_json::json;

    use super::*;
    use crate::policy::Policy;
    use crate::role::{Need, Permission, Resource, ResourceType, Role, Verb};
    use crate::token::Verifier;

    const NOW: u64 = 1_900_000_000;

    /// An issuer of a moment with one key.
    struct TestIssuer {
        key: aws_lc_rs::signature::EcdsaKeyPair,
    }

    impl TestIssuer {
        fn new() -> Self {
            let kind = &aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
            Self { key: aws_lc_rs::signature::EcdsaKeyPair::generate(kind).expect("a key") }
        }

        fn keys(&self) -> Vec<u8> {
            use aws_lc_rs::signature::KeyPair as _;
            let point = self.key.public_key().as_ref();
            let [x, y] = [&point[1..33], &point[33..]].map(|half| BASE64URL_NOPAD.encode(half));
            json!({"keys": [
                {"kty": "new", "kid": "later"},
                {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
                {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "one", "x": x, "y": y},
            ]})
            .to_string()
            .into_bytes()
        }

        fn token(&self, header: Value, claims: Value) -> String {
            let encode = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
            let content = format!("{}.{}", encode(header), encode(claims));
            let random = aws_lc_rs::rand::SystemRandom::new();
            let signature = self.key.sign(&random, content.as_bytes()).expect("it signs");
            format!("{content}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
        }

        fn issuer(&self) -> ExternalIssuer {
            ExternalIssuer {
                issuer: "https://id.example".into(),
                audience: "registry".into(),
                account_claim: "preferred_username".into(),
                groups_claim: "realm.groups".into(),
                roles: BTreeMap::from([("ops".to_owned(), vec!["reader".to_owned()])]),
                keys: IssuerKeys::parse(&self.keys()).expect("keys"),
            }
        }
    }

    fn header() -> Value {
        json!({"alg": "ES256", "kid": "one", "typ": "JWT"})
    }

    fn claims() -> Value {
        json!({"iss": "https://id.example", "aud": ["registry"], "exp": NOW + 60, "iat": NOW, "jti": "j",
            "preferred_username": "peter", "realm": {"groups": ["ops", "admin"]}})
    }

    fn policy(issuer: ExternalIssuer) -> Policy {
        let resource = Resource { kind: "service".into(), ..Resource::default() };
        let perms = vec![Permission { resources: vec![resource], verbs: vec!["get".into()] }];
        let reader = Role { name: "reader".into(), perms, ..Role::default() };
        Policy {
            enabled: true,
            issuers: vec![Arc::new(issuer)],
            roles: BTreeMap::from([("reader".to_owned(), Arc::new(reader))]),
            ..Policy::default()
        }
    }

    fn decide(policy: &Policy, token: &str) -> Result<(), Denial> {
        let header = format!("Bearer {token}");
        policy.authenticate(Some(header.as_bytes()), &Verifier::default(), NOW).map(drop)
    }

    #[test]
    fn a_token_of_the_issuer_has_the_roles_of_its_groups() {
        let issuer = TestIssuer::new();
        let mut policy = policy(issuer.issuer());
        let token = format!("Bearer {}", issuer.token(header(), claims()));
        let identity =
            policy.authenticate(Some(token.as_bytes()), &Verifier::default(), NOW).expect("it counts");
        let need = |verb| Need { resource: ResourceType::Service, verb };
        assert!(policy.grant(&identity, need(Verb::Get)).is_ok());
        // The group "admin" is the issuer's word, and no role of ours.
        assert!(policy.grant(&identity, need(Verb::Delete)).is_err());
        policy.issuers.clear();
        assert!(policy.still_counts(&identity, NOW).is_err());
        assert!(policy.grant(&identity, need(Verb::Get)).is_err());
    }

    #[test]
    fn a_token_for_somebody_else_or_of_another_key_is_refused() {
        let issuer = TestIssuer::new();
        let policy = policy(issuer.issuer());
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            issuer.token(header(), claims)
        };
        assert_eq!(decide(&policy, &issuer.token(header(), claims())), Ok(()));
        for token in [
            with("aud", json!("other")),
            with("iss", json!("https://id.example/")),
            with("exp", json!(NOW)),
            with("exp", json!("soon")),
            with("nbf", json!(NOW * 2)),
            with("preferred_username", json!("")),
            TestIssuer::new().token(header(), claims()),
            issuer.token(json!({"alg": "ES256", "kid": "two"}), claims()),
            issuer.token(json!({"alg": "ES256"}), claims()),
            issuer.token(json!({"alg": "HS256", "kid": "shared"}), claims()),
            issuer.token(json!({"alg": "none", "kid": "one"}), claims()),
        ] {
            assert_eq!(decide(&policy, &token).expect_err(&token).code.status(), 401, "{token}");
        }
    }

    #[test]
    fn only_keys_that_verify_in_public_are_kept() {
        let keys = IssuerKeys::parse(&TestIssuer::new().keys()).expect("keys");
        assert_eq!(keys.0.len(), 1, "{keys:?}");
        assert_eq!(IssuerKeys::parse(keys.to_json().as_bytes()).as_ref(), Ok(&keys));
        for bad in
            ["", "[]", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"a","k":"YQ"}]}"#]
        {
            assert!(IssuerKeys::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
