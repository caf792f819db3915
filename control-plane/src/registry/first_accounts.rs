//! The accounts and roles that exist from the first start: `root`, `admin` and `developer`.
//!
//! They are written when they are absent and never changed, so what an operator did to them stays.

use std::sync::Arc;
use std::time::Duration;

use access::account::ROOT;
use access::password::{self, HashKind};
use access::role::ADMIN;
use access::{Account, Role};
use settings::Secret;
use shared::backoff::Backoff;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{Registry, RegistryError};
use crate::keys;
use crate::record;
use crate::store::{Compare, Op, Txn};

mod older_roles;

/// The first pause after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The longest pause after a failure.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Writes the first roles and the first account, and tries again until the store has taken them or `stop`.
pub(crate) async fn write(
    registry: Registry,
    root_password: Option<Secret>,
    kind: HashKind,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    while let Err(error) = try_write(&registry, root_password.as_ref(), kind).await {
        // At start-up the view is not there yet. That is no trouble worth a line.
        if !matches!(error, RegistryError::ReadView(_)) {
            let error = error.with_sources();
            warn!(error, "the first accounts could not be written; trying again");
        }
        if stop.run_until_cancelled(tokio::time::sleep(backoff.next_wait())).await.is_none() {
            return;
        }
    }
}

async fn try_write(
    registry: &Registry,
    root_password: Option<&Secret>,
    kind: HashKind,
) -> Result<(), RegistryError> {
    // An account that this view does not show may exist: each transaction asks the store itself.
    registry.view().at(shared::model::Revision::new(1), Duration::from_secs(1)).await?;
    older_roles::complete(registry).await?;
    for role in Role::built_in() {
        let now = registry.seconds();
        let key = keys::role(&role.name);
        let role = Role { id: new_id(), create_time: now.clone(), update_time: now, ..role };
        registry.write_absent(key.clone(), vec![Op::put(key, record::render(&role, None))]).await?;
    }
    if registry.view().now()?.policy.accounts.contains_key(ROOT) {
        return Ok(());
    }
    let Some(root_password) = root_password.filter(|password| !password.expose().is_empty()) else {
        warn!("there is no account root, and rbac.root-password is not set: nobody can log in as root");
        return Ok(());
    };
    let text = Arc::new(root_password.expose().to_owned());
    let hashed = tokio::task::spawn_blocking(move || password::hash(kind, &text)).await;
    let Ok(Ok(hashed)) = hashed else {
        error!("the password of root could not be hashed");
        return Ok(());
    };
    let now = registry.seconds();
    let account = Account {
        id: new_id(),
        name: ROOT.to_owned(),
        password: hashed,
        roles: vec![ADMIN.to_owned()],
        status: "active".to_owned(),
        create_time: now.clone(),
        update_time: now,
        ..Account::default()
    };
    let key = keys::account(ROOT);
    let ops = vec![
        Op::put(key.clone(), record::render(&account, None)),
        Op::put(keys::role_of_account(ADMIN, ROOT), ""),
    ];
    if registry.write_absent(key, ops).await? {
        info!("the account root has been created");
    }
    Ok(())
}

/// An id in Service-Center's form.
fn new_id() -> String {
    Uuid::new_v4().simple().to_string()
}

impl Registry {
    /// Runs `ops` if `key` does not exist. True when they have run.
    async fn write_absent(&self, key: String, ops: Vec<Op>) -> Result<bool, RegistryError> {
        let txn = Txn { compare: vec![Compare::Absent(key)], then: ops, ..Txn::default() };
        Ok(self.commit(txn).await?.succeeded)
    }
}
