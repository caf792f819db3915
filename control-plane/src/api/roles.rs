//! Operations on roles.

use access::Permission;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use shared::model::null_default;

use super::accounts::{failures, held, listed};
use super::call::Call;
use super::failure::Code;
use super::operation::{Operation, delete, get, object, post, put};
use super::reply::{self, Reply};
use super::state::Api;
use crate::trail::{self, About};

pub(super) fn operations() -> Vec<Operation> {
    let mut all = vec![
        get("/v4/roles", list, "ListRole", "List the roles.")
            .returns(object! { "total": usize, "data": Vec<Value> })
            .fails_with(failures![]),
        post(
            "/v4/roles",
            create,
            "CreateRole",
            "Make a role. Unknown verbs and types are kept and permit nothing.",
        )
        .takes(object! { "name": String, "perms": Vec<Value> })
        .fails_with(failures![NoRoleQuota, RoleExists]),
        get("/v4/roles/{roleName}", read, "GetRole", "Read a role.")
            .returns(object! { "id": String, "name": String, "perms": Vec<Value>, "createTime": String,
            "updateTime": String })
            .fails_with(failures![RoleNotFound]),
        put("/v4/roles/{roleName}", update, "UpdateRole", "Replace the permissions of a role.")
            .takes(object! { "perms": Vec<Value> })
            .fails_with(failures![RoleNotFound, RoleProtected]),
        delete("/v4/roles/{roleName}", remove, "DeleteRole", "Delete a role that no account has.")
            .fails_with(failures![RoleNotFound, RoleBound, RoleProtected]),
    ];
    for operation in &mut all {
        operation.tenantless = true;
    }
    all
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    #[serde(deserialize_with = "null_default")]
    name: String,
    #[serde(deserialize_with = "null_default")]
    perms: Vec<Permission>,
}

async fn list(State(api): State<Api>, call: Call) -> Reply {
    held(&call)?;
    listed(api.accounts()?.roles(&call.caller).await?)
}

async fn create(State(api): State<Api>, call: Call) -> Reply {
    let by = held(&call)?.name();
    let Body { name, perms } = call.json()?;
    api.accounts()?.create_role(by, &name, perms).await?;
    trail::about(|| About::New(name));
    reply::empty()
}

async fn read(State(api): State<Api>, call: Call) -> Reply {
    held(&call)?;
    reply::json(&api.accounts()?.role(&call.caller, call.param("roleName")).await?)
}

async fn update(State(api): State<Api>, call: Call) -> Reply {
    let by = held(&call)?.name();
    let Body { perms, .. } = call.json()?;
    api.accounts()?.update_role(by, call.param("roleName"), perms).await?;
    reply::empty()
}

async fn remove(State(api): State<Api>, call: Call) -> Reply {
    let by = held(&call)?.name();
    api.accounts()?.delete_role(by, call.param("roleName")).await?;
    reply::empty()
}
