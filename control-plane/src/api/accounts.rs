//! Operations on accounts, their locks and their long-lived tokens.
//!
//! They exist only while access control is on: nobody could use them otherwise.

use std::sync::Arc;

use access::role::ADMIN;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::model::null_default;

use super::call::Call;
use super::client::Client;
use super::failure::{Code, Failure};
use super::operation::{Operation, delete, get, object, post, put};
use super::permit::{Held, Permit};
use super::reply::{self, Reply};
use super::state::Api;
use crate::registry::AccountError;
use crate::registry::account::{AccountChange, NewAccount, form, generated_password};
use crate::trail::{self, About};

/// The codes with which every operation on accounts, roles and tokens may fail.
macro_rules! failures {
    ($($code:ident),* $(,)?) => {
        &[Code::InvalidParams, Code::Internal, Code::Unavailable, Code::NotReady, $(Code::$code),*]
    };
}
pub(super) use failures;

/// The most accounts that are made by one request.
const MOST_AT_ONCE: usize = 20;

pub(super) fn operations() -> Vec<Operation> {
    let mut all = vec![
        get("/v4/accounts", list, "ListAccount", "List the accounts.")
            .returns(object! { "total": usize, "data": Vec<Value> })
            .fails_with(failures![]),
        post("/v4/accounts", create, "CreateAccount", "Make an account. Its creator may give it any role.")
            .takes(object! { "name": String, "password": String, "roles": Vec<String>, "status": String,
            "tenants": Vec<String> })
            .fails_with(failures![InvalidRoles, NoAccountQuota, AccountExists]),
        post(
            "/v4/accounts/batch-create",
            create_many,
            "BatchCreateAccount",
            "Make up to 20 accounts. One without a password gets one, which is in the reply and nowhere else.",
        )
        .takes(object! { "accounts": Vec<Value> })
        .returns(object! { "accounts": Vec<Value> })
        .fails_with(failures![]),
        get("/v4/accounts/{name}", read, "GetAccount", "Read an account.")
            .returns(object! { "id": String, "name": String, "roles": Vec<String>, "status": String,
            "createTime": String, "updateTime": String, "tenants": Vec<String> })
            .fails_with(failures![AccountNotFound]),
        put("/v4/accounts/{name}", update, "UpdateAccount", "Change roles, status and tenants of an account.")
            .takes(object! { "roles": Vec<String>, "status": String, "tenants": Vec<String> })
            .fails_with(failures![AccountNotFound, InvalidRoles, RootProtected, OwnAccount]),
        delete("/v4/accounts/{name}", remove, "DeleteAccount", "Delete an account and its tokens.")
            .fails_with(failures![AccountNotFound, RootProtected, OwnAccount]),
        post(
            "/v4/accounts/{name}/password",
            change_password,
            "ChangePassword",
            "Change the own password, or as an administrator that of another account. Ends all its sessions.",
        )
        .takes(object! { "currentPassword": String, "password": String })
        .fails_with(failures![AccountNotFound, BadNewPassword, WrongPassword, AccountBlocked, Forbidden]),
        delete(
            "/v4/accounts/{name}/sessions",
            reset_sessions,
            "ResetSessions",
            "End all sessions of an account: no token that it has counts any more.",
        )
        .fails_with(failures![AccountNotFound, Forbidden]),
        get("/v4/accounts/{name}/tokens", tokens, "ListAccountTokens", "List an account's long-lived tokens.")
            .returns(object! { "total": usize, "data": Vec<Value> })
            .fails_with(failures![AccountNotFound]),
        post(
            "/v4/accounts/{name}/tokens",
            create_token,
            "CreateAccountToken",
            "Make a long-lived token, of up to 8760h. It is in the reply and nowhere else.",
        )
        .takes(object! { "description": String, "tokenExpirationTime": String })
        .returns(object! { "id": String, "token": String })
        .fails_with(failures![AccountNotFound, Forbidden]),
        delete(
            "/v4/accounts/{name}/tokens/{tokenId}",
            delete_token,
            "DeleteAccountToken",
            "Take a long-lived token back.",
        )
        .fails_with(failures![AccountNotFound, Forbidden]),
        get("/v4/account-locks", locks, "ListAccountLocks", "List the locks after failed logins.")
            .returns(object! { "total": usize, "data": Vec<Value> })
            .fails_with(failures![]),
        delete("/v4/account-locks/{lock}", unlock, "DeleteAccountLock", "End a lock before its time.")
            .fails_with(failures![]),
    ];
    for operation in &mut all {
        operation.tenantless = true;
    }
    all
}

/// An account in the body of a request. Never shown in a log: it has passwords.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    #[serde(deserialize_with = "null_default")]
    id: String,
    #[serde(deserialize_with = "null_default")]
    name: String,
    #[serde(deserialize_with = "null_default")]
    password: String,
    #[serde(deserialize_with = "null_default")]
    role: String,
    #[serde(deserialize_with = "null_default")]
    roles: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    current_password: String,
    #[serde(deserialize_with = "null_default")]
    status: String,
    tenants: Option<Vec<String>>,
}

impl Body {
    /// The roles, of which very old clients send one only.
    fn roles(&self) -> Vec<String> {
        match self.roles.is_empty() && !self.role.is_empty() {
            true => vec![self.role.clone()],
            false => self.roles.clone(),
        }
    }

    fn new_account(self) -> NewAccount {
        let roles = self.roles();
        let Self { id, name, password, status, tenants, .. } = self;
        NewAccount { id, name, password, roles, status, tenants: tenants.unwrap_or_default() }
    }
}

/// A list as Service-Center shows it: an empty one has no members.
#[derive(Serialize)]
pub(super) struct Listed<T> {
    #[serde(skip_serializing_if = "is_zero")]
    total: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    data: Vec<T>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

pub(super) fn listed<T: Serialize>(data: Vec<T>) -> Reply {
    reply::json(&Listed { total: data.len(), data })
}

/// The account behind a request. These operations always have one, so its absence is a refusal.
pub(super) fn held(call: &Call) -> Result<&Arc<Held>, Failure> {
    match &call.permit {
        Permit::Of(held) => Ok(held),
        Permit::Open => Err(Failure::new(Code::NoToken, "")),
    }
}

impl Held {
    /// The name of the account, for the log.
    pub(super) fn name(&self) -> &str {
        self.identity().account()
    }

    /// True for the account's own name. Accounts of an external issuer are others, whatever they are called.
    fn is_self(&self, name: &str) -> bool {
        self.identity().issuer().is_none() && self.name() == name
    }

    /// Refuses an account that is no administrator of all tenants.
    fn administrate(&self, refusal: &'static str) -> Result<(), Failure> {
        if !self.policy.role_names(self.identity()).contains(&ADMIN) {
            return Err(Failure::new(Code::Forbidden, refusal));
        }
        Ok(self.policy.enter_all(self.identity())?)
    }

    fn protect_self(&self, name: &str) -> Result<(), Failure> {
        if self.is_self(name) { Err(refusal(AccountError::OwnAccount)) } else { Ok(()) }
    }
}

fn refusal(error: AccountError) -> Failure {
    crate::registry::RegistryError::from(error).into()
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    held(&call)?;
    listed(api.accounts()?.accounts().await?)
}

async fn create(State(api): State<Api>, call: Call) -> Reply {
    let by = held(&call)?.name();
    let account = call.json::<Body>()?.new_account();
    let name = account.name.clone();
    api.accounts()?.create(by, account).await?;
    trail::about(|| About::New(name));
    reply::empty()
}

#[derive(Deserialize)]
struct Batch {
    #[serde(default, deserialize_with = "null_default")]
    accounts: Vec<Body>,
}

/// The outcome of one account of a batch.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

async fn create_many(State(api): State<Api>, call: Call) -> Reply {
    let by = held(&call)?.name();
    let Batch { accounts } = call.json()?;
    if !(1..=MOST_AT_ONCE).contains(&accounts.len()) {
        let value = if accounts.is_empty() { "[]".to_owned() } else { format!("{} items", accounts.len()) };
        return Err(Failure::invalid(format!(
            "field 'BatchCreateAccountsRequest.Accounts' invalid value '{value}' does not match rule: \
             {{Min: 1, Max: {MOST_AT_ONCE}}}"
        )));
    }
    let mut outcomes = Vec::with_capacity(accounts.len());
    for body in accounts {
        let mut account = body.new_account();
        let name = account.name.clone();
        let made = account.password.is_empty().then(generated_password);
        if let Some(password) = &made {
            account.password.clone_from(password);
        }
        outcomes.push(match api.accounts()?.create(by, account).await {
            Ok(()) => Outcome { name, password: made, ..Outcome::default() },
            Err(error) => {
                let Failure { code, detail } = error.into();
                let error_code = Some(code.number());
                let error_message = Some(code.message());
                let name = form::shown(&name);
                Outcome { name, password: None, error_code, error_message, detail: detail.into_owned() }
            }
        });
    }
    reply::list("accounts", &outcomes)
}

async fn read(State(api): State<Api>, call: Call) -> Reply {
    held(&call)?;
    reply::json(&api.accounts()?.account(call.param("name")).await?)
}

async fn update(State(api): State<Api>, call: Call) -> Reply {
    let held = held(&call)?;
    let name = call.param("name");
    let body: Body = call.json()?;
    // First, so that the refusal does not depend on the body.
    if name == access::account::ROOT {
        return Err(refusal(AccountError::RootProtected));
    }
    held.protect_self(name)?;
    let change = AccountChange {
        roles: Some(body.roles()).filter(|roles| !roles.is_empty()),
        status: Some(body.status).filter(|status| !status.is_empty()),
        tenants: body.tenants,
    };
    api.accounts()?.update(held.name(), name, change).await?;
    reply::empty()
}

async fn remove(State(api): State<Api>, call: Call) -> Reply {
    let held = held(&call)?;
    let name = call.param("name");
    if name == access::account::ROOT {
        return Err(refusal(AccountError::RootProtected));
    }
    held.protect_self(name)?;
    api.accounts()?.delete(held.name(), name).await?;
    reply::empty()
}

async fn change_password(State(api): State<Api>, client: Client, call: Call) -> Reply {
    let held = held(&call)?;
    let name = call.param("name");
    let body: Body = call.json()?;
    let accounts = api.accounts()?;
    if held.is_self(name) {
        accounts.change_own_password(name, &body.current_password, &body.password, client.0).await?;
    } else {
        held.administrate("can not change other account password")?;
        accounts.change_others_password(held.name(), name, &body.password).await?;
    }
    reply::empty()
}

/// The sessions and tokens of `root` are an administrator's: others could otherwise become `root`.
async fn reset_sessions(State(api): State<Api>, call: Call) -> Reply {
    let held = held(&call)?;
    let name = call.param("name");
    if name == access::account::ROOT && !held.is_self(name) {
        held.administrate("can not end the sessions of root")?;
    }
    api.accounts()?.reset_sessions(held.name(), name).await?;
    reply::empty()
}

async fn tokens(State(api): State<Api>, call: Call) -> Reply {
    held(&call)?;
    listed(api.accounts()?.tokens(call.param("name")).await?)
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TokenBody {
    #[serde(deserialize_with = "null_default")]
    description: String,
    #[serde(deserialize_with = "null_default")]
    token_expiration_time: String,
}

/// A token gives the rights of its account, so only that account or an administrator gets one.
async fn create_token(State(api): State<Api>, call: Call) -> Reply {
    let held = held(&call)?;
    let name = call.param("name");
    if !held.is_self(name) {
        held.administrate("can not make a token of another account")?;
    }
    let TokenBody { description, token_expiration_time } = call.json()?;
    let accounts = api.accounts()?;
    let issued = accounts.create_token(held.name(), name, &description, &token_expiration_time).await?;
    trail::about(|| About::New(issued.id.clone()));
    reply::json(&issued)
}

async fn delete_token(State(api): State<Api>, call: Call) -> Reply {
    let held = held(&call)?;
    let name = call.param("name");
    if name == access::account::ROOT && !held.is_self(name) {
        held.administrate("can not take back a token of root")?;
    }
    api.accounts()?.delete_token(held.name(), name, call.param("tokenId")).await?;
    reply::empty()
}

async fn locks(State(api): State<Api>, call: Call) -> Reply {
    held(&call)?;
    listed(api.accounts()?.locks().await?)
}

async fn unlock(State(api): State<Api>, call: Call) -> Reply {
    let held = held(&call)?;
    api.accounts()?.unlock(held.name(), call.param("lock")).await?;
    reply::empty()
}
