use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use shared::model::Tenant;

use super::*;
use crate::keys::PublicKey;
use crate::policy::AccountState;
use crate::role::{Permission, Verb};
use crate::token::{Claims, Verifier};

const NOW: u64 = 1_800_000_000;
const NEED: Need = Need { resource: ResourceType::Service, verb: Verb::Get };

fn identity(claims: Claims) -> Identity {
    Identity::Token(Verified { claims: Arc::new(claims), kid: "k".into(), issuer: None })
}

fn claims(account: &str) -> Claims {
    Claims {
        account: account.into(),
        exp: NOW + 600,
        iat: Some(NOW - 600),
        jti: "j".into(),
        ..Claims::default()
    }
}

fn policy(role: Role) -> Policy {
    let state = AccountState { roles: vec![role.name.clone()], ..AccountState::default() };
    Policy {
        enabled: true,
        keys: vec![PublicKey { kid: "k".into(), n: String::new(), e: String::new() }],
        accounts: BTreeMap::from([("peter".to_owned(), state)]),
        roles: BTreeMap::from([(role.name.clone(), Arc::new(role))]),
        ..Policy::default()
    }
}

fn account(policy: &mut Policy) -> &mut AccountState {
    policy.accounts.get_mut("peter").expect("is there")
}

#[test]
fn a_token_counts_only_as_long_as_everything_behind_it() {
    let good = policy(Role::default());
    assert_eq!(good.still_counts(&identity(claims("peter")), NOW), Ok(()));
    let code = |policy: &Policy, claims: Claims, now| {
        policy.still_counts(&identity(claims), now).expect_err("is refused").code.number()
    };
    assert_eq!(code(&good, claims("peter"), NOW + 600), "401205");
    assert_eq!(code(&good, claims("paul"), NOW), "401206");
    let mut changed = good.clone();
    account(&mut changed).inactive = true;
    assert_eq!(code(&changed, claims("peter"), NOW), "401201");
    let mut changed = good.clone();
    account(&mut changed).not_before = NOW;
    assert_eq!(code(&changed, claims("peter"), NOW), "401201");
    let mut changed = good.clone();
    changed.revoked.insert("j".into(), NOW + 600);
    assert_eq!(code(&changed, claims("peter"), NOW), "401201");
    let mut changed = good.clone();
    changed.keys.clear();
    assert_eq!(code(&changed, claims("peter"), NOW), "401201");
    let long = Claims { kind: SERVICE_KIND.into(), ..claims("peter") };
    assert_eq!(code(&good, long.clone(), NOW), "401201");
    let mut changed = good.clone();
    changed.service_tokens.insert("j".into());
    assert_eq!(changed.still_counts(&identity(long), NOW), Ok(()));
}

#[test]
fn a_token_without_a_start_is_as_old_as_can_be() {
    let mut policy = policy(Role::default());
    account(&mut policy).not_before = NOW - 3600;
    let foreign = |exp| identity(Claims { account: "peter".into(), exp, ..Claims::default() });
    assert!(policy.still_counts(&foreign(NOW + 3600), NOW).is_err());
    assert!(policy.still_counts(&foreign(NOW + 24 * 3600 - 3600), NOW).is_ok());
}

#[test]
fn an_account_enters_only_the_tenants_it_is_bound_to() {
    let mut policy = policy(Role::default());
    let peter = identity(claims("peter"));
    let enters =
        |policy: &Policy, domain, project| policy.enter(&peter, &Tenant::new(domain, project)).is_ok();
    assert!(enters(&policy, "any", "p"));
    account(&mut policy).tenants = vec!["a/*".into(), "b/c*".into()];
    assert!(enters(&policy, "a", "p") && enters(&policy, "b", "cd"));
    assert!(!enters(&policy, "b", "d") && !enters(&policy, "aa", "p") && !enters(&policy, "", ""));
}

#[test]
fn the_roles_of_the_token_decide_nothing() {
    let policy = policy(Role::default());
    let forged = identity(Claims { roles: vec![ADMIN.into()], ..claims("peter") });
    assert_eq!(policy.grant(&forged, NEED).expect_err("no role").code, DenialCode::NoPermission);
}

#[test]
fn the_words_of_a_refusal_are_those_of_service_center() {
    let labels = Labels { environment: "development", app_id: "a", service_name: "rb" };
    let need = Need { resource: ResourceType::Service, verb: Verb::Create };
    let body = no_permission(need, Some(labels)).body();
    assert_eq!(
        body,
        r#"{"detail":"role has no permissions[service:create] for labels [map[appId:a environment:development serviceName:rb]]","errorCode":"403205","errorMessage":"No permission(s)"}"#
    );
}

/// The plain model of a pattern: by trying every split.
fn plain_glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| plain_glob(rest, &text[at..])),
        Some((byte, rest)) => text.first() == Some(byte) && plain_glob(rest, &text[1..]),
    }
}

fn words() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "*", "a", "b", "ab", "a*", "*b", "a*b"]).prop_map(str::to_owned)
}

fn resource() -> impl Strategy<Value = Resource> {
    let kind = prop::sample::select(vec!["service", "service/schema", "ops", "nope"]);
    let key = prop::sample::select(vec!["environment", "appId", "serviceName", "color"]);
    let labels = prop::collection::btree_map(key.prop_map(str::to_owned), words(), 0..3);
    (kind, labels).prop_map(|(kind, labels)| Resource { kind: kind.to_owned(), labels })
}

fn role() -> impl Strategy<Value = Role> {
    let verb = prop::sample::select(vec!["get", "create", "update", "delete", "*", "fly"]);
    let verbs = prop::collection::vec(verb.prop_map(str::to_owned), 0..3);
    let permission = (prop::collection::vec(resource(), 0..3), verbs)
        .prop_map(|(resources, verbs)| Permission { resources, verbs });
    let name = prop::sample::select(vec!["one", "two", "admin"]);
    (name, prop::collection::vec(permission, 0..3)).prop_map(|(name, perms)| Role {
        name: name.into(),
        perms,
        ..Role::default()
    })
}

/// The plain model: some permission of some role allows exactly this.
fn plain(roles: &[Role], held: &[&str], need: Need, labels: Labels<'_>) -> bool {
    let value = |key: &str| match key {
        "environment" => labels.environment,
        "appId" => labels.app_id,
        "serviceName" => labels.service_name,
        _ => "",
    };
    held.contains(&"admin")
        || roles.iter().filter(|role| held.contains(&role.name.as_str())).any(|role| {
            role.perms.iter().any(|permission| {
                permission.verbs.iter().any(|verb| verb == "*" || verb == need.verb.word())
                    && permission.resources.iter().any(|resource| {
                        resource.kind == need.resource.word()
                            && resource.labels.iter().all(|(key, pattern)| {
                                // Without that label a service has the empty text, which `*` matches too;
                                // a key that no service can have is matched by the empty text alone.
                                match key.as_str() {
                                    "color" => pattern.is_empty(),
                                    _ => plain_glob(pattern.as_bytes(), value(key).as_bytes()),
                                }
                            })
                    })
            })
        })
}

proptest! {
    #[test]
    fn a_pattern_matches_like_the_plain_model(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
        prop_assert_eq!(glob(&pattern, &text), plain_glob(pattern.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn a_decision_equals_the_plain_model(
        roles in prop::collection::vec(role(), 0..4),
        held in prop::collection::vec(prop::sample::select(vec!["one", "two", "admin", "gone"]), 0..3),
        kind in prop::sample::select(ResourceType::ALL),
        verb in prop::sample::select(Verb::ALL),
        environment in words(), app_id in words(), service_name in words(),
    ) {
        // A name is stored once; the last role of a name is the stored one.
        let stored: BTreeMap<String, Arc<Role>> =
            roles.into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect();
        let plain_roles: Vec<Role> = stored.values().map(|role| role.as_ref().clone()).collect();
        let mut policy = policy(Role::default());
        policy.roles = stored;
        account(&mut policy).roles = held.iter().map(|name| (*name).to_owned()).collect();
        let need = Need { resource: kind, verb };
        let labels = Labels { environment: &environment, app_id: &app_id, service_name: &service_name };
        let decided = policy
            .grant(&identity(claims("peter")), need)
            .is_ok_and(|grant| grant.check(need, labels).is_ok());
        prop_assert_eq!(decided, plain(&plain_roles, &held, need, labels));
    }
}

#[test]
fn a_certificate_acts_as_its_account_while_no_token_is_shown() {
    let certified = |ends| Some(Certified { account: "peter".into(), ends });
    let good = policy(Role::default());
    let verifier = Verifier::default();
    let identity = |policy: &Policy, header: Option<&[u8]>, ends| {
        let policy = Arc::new(policy.clone());
        let account = policy.identify(header, certified(ends), &verifier, NOW);
        account.map(|account| account.identity().clone()).map_err(|denial| denial.code.number())
    };
    let by_certificate = identity(&good, None, NOW + 1).expect("an account");
    assert_eq!((by_certificate.account(), by_certificate.issuer()), ("peter", None));
    assert_eq!(good.role_names(&by_certificate), good.role_names(&self::identity(claims("peter"))));
    assert!(identity(&good, Some(b""), NOW + 1).is_ok(), "an empty header shows no token");
    assert_eq!(identity(&good, None, NOW), Err("401205"));
    // A token counts or is refused; a certificate does not help it.
    assert_eq!(identity(&good, Some(b"Bearer junk"), NOW + 1), Err("401201"));
    let nobody = Arc::new(good.clone()).identify(None, None, &verifier, NOW);
    assert_eq!(nobody.map_err(|denial| denial.code.number()).err(), Some("401204"));
    let mut changed = good.clone();
    account(&mut changed).not_before = NOW;
    assert!(identity(&changed, None, NOW + 1).is_ok(), "the end of sessions is about tokens");
    account(&mut changed).inactive = true;
    assert_eq!(identity(&changed, None, NOW + 1), Err("401201"));
    changed.accounts.clear();
    assert_eq!(identity(&changed, None, NOW + 1), Err("401206"));
    assert_eq!(
        changed.still_counts(&by_certificate, NOW).map_err(|denial| denial.code.number()),
        Err("401206")
    );
    assert!(changed.enter(&by_certificate, &Tenant::default()).is_err());
}

#[test]
fn the_admin_port_needs_ops_without_labels_or_tenants() {
    let identity = identity(claims("peter"));
    let role = |kind: &str, labels: &[(&str, &str)], verb: &str| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let resources = vec![Resource { kind: kind.to_owned(), labels }];
        let perms = vec![Permission { resources, verbs: vec![verb.to_owned()] }];
        Role { name: "r".into(), perms, ..Role::default() }
    };
    let may = |policy: &Policy, method| policy.operate(&identity, &method).is_ok();
    let reader = policy(role("ops", &[], "get"));
    assert!(may(&reader, Method::GET) && !may(&reader, Method::POST) && !may(&reader, Method::HEAD));
    let all = policy(role("ops", &[], "*"));
    assert!(may(&all, Method::GET) && may(&all, Method::POST));
    assert!(!may(&policy(role("ops", &[("appId", "shop")], "*")), Method::GET));
    assert!(!may(&policy(role("service", &[], "*")), Method::GET));
    let mut bound = all.clone();
    account(&mut bound).tenants = vec!["default/default".to_owned()];
    assert!(!may(&bound, Method::GET));
}

#[test]
fn rights_date_from_the_last_change_of_the_account_or_of_one_of_its_roles() {
    let mut policy = policy(Role { name: "reader".to_owned(), ..Role::default() });
    let peter = identity(claims("peter"));
    let unknown = identity(claims("paul"));
    assert_eq!(policy.granted_at(&peter), Revision::ZERO, "a policy of an earlier version");
    account(&mut policy).revision = 7.into();
    policy.role_revisions = [("reader".to_owned(), 5.into()), ("other".to_owned(), 9.into())].into();
    assert_eq!((policy.granted_at(&peter), policy.granted_at(&unknown)), (7.into(), Revision::ZERO));
    policy.role_revisions.insert("reader".to_owned(), 8.into());
    assert_eq!(policy.granted_at(&peter), 8.into());
}
