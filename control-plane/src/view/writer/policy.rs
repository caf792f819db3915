//! Applies accounts, roles and tokens to the policy of the view.
//!
//! The settings say what does not come from the store: whether access control is on, for which resources, and
//! with which keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::keys::PublicKey;
use access::{Account, AccountState, ExternalIssuer, IssuerKeys, Policy, Role};
use shared::model::Revision;
use tokio::sync::watch;

use super::ViewWriter;
use crate::record::AccountExtra;
use crate::store::KeyValue;

/// The part of the policy that does not come from the store, and what waits for its account.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessBase {
    settings: Policy,
    /// The keys that verify tokens, if they can change.
    keys: Option<watch::Receiver<Vec<PublicKey>>>,
    /// By the account's name. They may be stored before the account, and outlive it.
    extras: BTreeMap<String, AccountExtra>,
}

impl AccessBase {
    /// The policy of an empty store.
    pub(super) fn policy(&mut self, at: Revision) -> Policy {
        self.extras.clear();
        Policy { revision: at, ..self.settings.clone() }
    }

    /// The keys that verify tokens.
    pub(super) fn keys(&self) -> &[PublicKey] {
        &self.settings.keys
    }

    /// Takes over what a list has told of accounts beside their records.
    pub(super) fn take_extras(&mut self, listed: Self) {
        self.extras = listed.extras;
    }
}

impl ViewWriter {
    /// The same writer, whose policy begins with these settings: `enabled`, `scope`, `keys` and `issuers`.
    #[must_use]
    pub fn guarding(mut self, settings: Policy) -> Self {
        // They count before anybody has stored them, so that a mistake in the store cannot lock everybody
        // out.
        let roles = Role::built_in().map(|role| (role.name.clone(), Arc::new(role)));
        self.access.settings = Policy { roles: BTreeMap::from(roles), ..settings };
        self.current.policy = Arc::new(self.access.settings.clone());
        self
    }

    /// The same writer, whose policy has these keys, also after they have changed.
    #[must_use]
    pub fn following_keys(mut self, keys: watch::Receiver<Vec<PublicKey>>) -> Self {
        self.access.keys = Some(keys);
        self
    }

    /// Waits until there are other keys of tokens. Waits for ever when they cannot change. Cancel-safe.
    pub(in crate::view) async fn keys_changed(&mut self) {
        if let Some(keys) = &mut self.access.keys
            && keys.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }

    /// Takes the keys of tokens if they have changed. The revision stays: keys are no part of the store.
    pub(in crate::view) fn take_keys(&mut self) {
        let Some(keys) = &mut self.access.keys else { return };
        let fresh = keys.borrow_and_update().clone();
        if fresh == self.access.settings.keys {
            return;
        }
        Arc::make_mut(&mut self.current.policy).keys.clone_from(&fresh);
        self.access.settings.keys = fresh;
        self.publish();
    }

    /// The policy, to be changed at a revision.
    pub(super) fn policy_mut(&mut self, at: Revision) -> &mut Policy {
        let policy = Arc::make_mut(&mut self.current.policy);
        policy.revision = at;
        policy
    }

    pub(super) fn apply_account(&mut self, name: &str, kv: &KeyValue, at: Revision) {
        let state = match self.parse::<Account>(kv) {
            Some(record) => AccountState::from(&record.value),
            // Its old record must not go on counting: perhaps the new one took rights away.
            None => AccountState { inactive: true, ..AccountState::default() },
        };
        let state = AccountState { revision: kv.mod_rev, ..state };
        let extra = self.access.extras.get(name).cloned().unwrap_or_default();
        self.policy_mut(at).accounts.insert(name.to_owned(), with(state, extra));
    }

    pub(super) fn remove_account(&mut self, name: &str, at: Revision) {
        self.policy_mut(at).accounts.remove(name);
    }

    pub(super) fn apply_account_extra(&mut self, name: &str, kv: &KeyValue, at: Revision) {
        let Some(extra) = self.parse::<AccountExtra>(kv) else { return };
        self.set_extra(name, Some(extra.value), at);
    }

    pub(super) fn remove_account_extra(&mut self, name: &str, at: Revision) {
        self.set_extra(name, None, at);
    }

    fn set_extra(&mut self, name: &str, extra: Option<AccountExtra>, at: Revision) {
        match &extra {
            Some(extra) => self.access.extras.insert(name.to_owned(), extra.clone()),
            None => self.access.extras.remove(name),
        };
        if let Some(state) = self.policy_mut(at).accounts.get_mut(name) {
            *state = with(std::mem::take(state), extra.unwrap_or_default());
        }
    }

    pub(super) fn apply_role(&mut self, name: &str, kv: &KeyValue, at: Revision) {
        match self.parse::<Role>(kv) {
            Some(record) => {
                let role = Role { name: name.to_owned(), ..record.value };
                let policy = self.policy_mut(at);
                policy.roles.insert(name.to_owned(), Arc::new(role));
                policy.role_revisions.insert(name.to_owned(), kv.mod_rev);
            }
            // As with accounts: nothing is better than the rights that it had before.
            None => self.remove_role(name, at),
        }
    }

    pub(super) fn remove_role(&mut self, name: &str, at: Revision) {
        let built_in = self.access.settings.roles.get(name).cloned();
        let policy = self.policy_mut(at);
        match built_in {
            Some(role) => policy.roles.insert(name.to_owned(), role),
            None => policy.roles.remove(name),
        };
        policy.role_revisions.remove(name);
    }

    pub(super) fn apply_revoked_token(&mut self, id: &str, kv: &KeyValue, at: Revision) {
        let text = String::from_utf8_lossy(&kv.value);
        // A token whose end cannot be read is revoked all the same.
        let end = text.trim().parse().unwrap_or(u64::MAX);
        self.policy_mut(at).revoked.insert(id.to_owned(), end);
    }

    pub(super) fn apply_issuer_keys(&mut self, kv: &KeyValue, at: Revision) {
        match IssuerKeys::parse(&kv.value) {
            Ok(keys) => {
                for issuer in &mut self.policy_mut(at).issuers {
                    *issuer = Arc::new(ExternalIssuer { keys: keys.clone(), ..issuer.as_ref().clone() });
                }
            }
            Err(error) => self.skip(kv, &error),
        }
    }
}

fn with(state: AccountState, extra: AccountExtra) -> AccountState {
    AccountState { not_before: extra.not_before, tenants: extra.tenants, ..state }
}

#[cfg(test)]
mod tests {
    use shared::clock::Clock;

    use super::*;
    use crate::store::KvEvent;
    use crate::view::{History, Protection, View, empty};

    struct Fixture {
        writer: ViewWriter,
        view: View,
        revision: u64,
    }

    impl Fixture {
        fn new() -> Self {
            let (writer, view) = empty(History::new(100), Protection::default(), Clock::manual(1));
            let mut writer = writer.guarding(Policy { enabled: true, ..Policy::default() });
            writer.reset(Vec::new(), Revision::new(1));
            Self { writer, view, revision: 1 }
        }

        fn put(&mut self, key: &str, value: &str) -> Arc<Policy> {
            self.revision += 1;
            let rev = Revision::new(self.revision);
            let kv = KeyValue {
                key: key.into(),
                value: value.to_owned().into(),
                create_rev: rev,
                mod_rev: rev,
                version: 1,
                lease: None,
            };
            self.apply(KvEvent::Put(kv))
        }

        fn delete(&mut self, key: &str) -> Arc<Policy> {
            self.revision += 1;
            self.apply(KvEvent::Delete { key: key.into(), rev: Revision::new(self.revision) })
        }

        fn apply(&mut self, event: KvEvent) -> Arc<Policy> {
            self.writer.apply(vec![event]);
            self.view.now().expect("listed").policy.clone()
        }
    }

    #[test]
    fn an_account_is_put_together_from_its_two_keys_in_any_order() {
        let mut view = Fixture::new();
        view.put("/cse-sr/muster/access/account/peter", r#"{"notBefore":7,"tenants":["a/*"]}"#);
        let policy =
            view.put("/cse-sr/accounts/peter", r#"{"name":"peter","roles":["dev"],"status":"active"}"#);
        let state = &policy.accounts["peter"];
        assert_eq!(
            (state.not_before, state.inactive, state.roles.as_slice()),
            (7, false, &["dev".to_owned()][..])
        );
        let policy = view.put("/cse-sr/muster/access/account/peter", r#"{"notBefore":9}"#);
        assert_eq!((policy.accounts["peter"].not_before, policy.accounts["peter"].tenants.len()), (9, 0));
        assert_eq!(policy.accounts["peter"].roles, ["dev"]);
        assert_eq!(
            policy.accounts["peter"].revision,
            Revision::new(3),
            "its other key says nothing of rights"
        );
        let policy = view.put("/cse-sr/accounts/peter", r#"{"name":"peter","status":"inactive"}"#);
        assert!(policy.accounts["peter"].inactive);
        assert_eq!(policy.revision, Revision::new(5));
        assert!(view.delete("/cse-sr/accounts/peter").accounts.is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_gives_no_rights() {
        let mut view = Fixture::new();
        view.put("/cse-sr/accounts/peter", r#"{"name":"peter","roles":["dev"]}"#);
        let policy = view.put(
            "/cse-sr/roles/dev",
            r#"{"name":"dev","perms":[{"resources":[{"type":"service"}],"verbs":["*"]}]}"#,
        );
        assert_eq!(policy.role_revisions["dev"], Revision::new(3));
        assert!(view.put("/cse-sr/accounts/peter", "{").accounts["peter"].inactive);
        let policy = view.put("/cse-sr/roles/dev", "[]");
        assert!(!policy.roles.contains_key("dev") && policy.role_revisions.is_empty());
        assert_eq!(view.view.skipped(), 2);
    }

    #[test]
    fn the_built_in_roles_always_exist() {
        let mut view = Fixture::new();
        let policy = view.put("/cse-sr/roles/admin", r#"{"name":"admin","id":"1"}"#);
        assert_eq!(policy.roles["admin"].id, "1");
        let policy = view.delete("/cse-sr/roles/admin");
        assert_eq!(policy.roles["admin"].perms.len(), 1);
        assert!(policy.roles.contains_key("developer"));
    }

    #[test]
    fn a_list_replaces_the_policy_and_keeps_the_settings() {
        let mut view = Fixture::new();
        view.put("/cse-sr/accounts/peter", r#"{"name":"peter"}"#);
        view.put("/cse-sr/muster/access/revoked/j", "17");
        assert_eq!(view.put("/cse-sr/muster/access/token/peter/t", "{}").service_tokens.len(), 1);
        view.writer.reset(Vec::new(), Revision::new(9));
        let policy = view.view.now().expect("listed").policy.clone();
        assert!(policy.enabled && policy.accounts.is_empty() && policy.revoked.is_empty());
        assert_eq!(policy.revision, Revision::new(9));
    }

    #[test]
    fn other_keys_count_at_the_same_revision_and_stay() {
        let mut view = Fixture::new();
        let key = |kid: &str| PublicKey { kid: kid.into(), n: "n".into(), e: "e".into() };
        let keys = watch::Sender::new(vec![key("old")]);
        view.writer = view.writer.following_keys(keys.subscribe());
        view.put("/cse-sr/accounts/peter", r#"{"name":"peter"}"#);
        let mut revisions = view.view.revisions();
        revisions.mark_unchanged();
        keys.send_replace(vec![key("new"), key("old")]);
        view.writer.take_keys();
        assert!(revisions.has_changed().expect("the writer lives"), "readers who wait are told");
        let policy = view.view.now().expect("listed").policy.clone();
        assert_eq!((policy.revision, &policy.keys[0].kid[..]), (Revision::new(2), "new"));
        assert!(policy.accounts.contains_key("peter"));
        view.writer.reset(Vec::new(), Revision::new(9));
        assert_eq!(view.view.now().expect("listed").policy.keys.len(), 2);
    }
}
