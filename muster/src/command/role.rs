//! `muster role`: roles, and the words in which their permissions are given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use access::role::ANY_VERB;
use access::{Permission, Resource, ResourceType, Verb};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::account::{ask, entries, text_of};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// The labels by which a permission can be limited.
const LABELS: [&str; 3] = ["environment", "appId", "serviceName"];

/// Arguments of `muster role`.
#[derive(Debug, Args)]
pub(crate) struct Role {
    #[command(subcommand)]
    command: RoleCommand,
}

/// The permissions of a role.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Permissions {
    /// Permission, such as `service:get,update[environment=production]`; may be repeated.
    #[arg(long, value_name = "TYPE:VERBS[LABELS]", value_parser = permission)]
    allow: Vec<Permission>,
    /// JSON file with the list of permissions, as the API has them.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum RoleCommand {
    /// List the roles.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a role.
    Show {
        /// Name of the role.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make a role.
    Create {
        /// Name of the role.
        name: String,
        #[command(flatten)]
        permissions: Permissions,
        #[command(flatten)]
        target: Target,
    },
    /// Replace the permissions of a role.
    Update {
        /// Name of the role.
        name: String,
        #[command(flatten)]
        permissions: Permissions,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a role that no account has.
    Delete {
        /// Name of the role.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Role {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.command {
            RoleCommand::List { target } => {
                let list = ask(&target, Method::GET, &["roles"], None).await?;
                show(&target, screen, &Value::from(entries(&list)))
            }
            RoleCommand::Show { name, target } => {
                let role = ask(&target, Method::GET, &["roles", &name], None).await?;
                show(&target, screen, &role)
            }
            RoleCommand::Create { name, permissions, target } => {
                let body = json!({ "name": name, "perms": permissions.read()? });
                ask(&target, Method::POST, &["roles"], Some(body)).await?;
                screen.note(&format!("made the role {name}"));
                Ok(())
            }
            RoleCommand::Update { name, permissions, target } => {
                let body = json!({ "name": name, "perms": permissions.read()? });
                ask(&target, Method::PUT, &["roles", &name], Some(body)).await?;
                screen.note(&format!("replaced the permissions of the role {name}"));
                Ok(())
            }
            RoleCommand::Delete { name, target } => {
                ask(&target, Method::DELETE, &["roles", &name], None).await?;
                screen.note(&format!("deleted the role {name}"));
                Ok(())
            }
        }
    }
}

impl Permissions {
    fn read(self) -> Result<Vec<Permission>, CommandFailure> {
        let Some(path) = self.file else { return Ok(self.allow) };
        let unusable = |problem: String| CommandFailure::Usage(format!("{}: {problem}", path.display()));
        let text = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
        let all: Vec<Permission> =
            serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        for permission in &all {
            // The API keeps words that it does not know, and they permit nothing. That is never meant.
            for resource in &permission.resources {
                check(&resource.kind, &permission.verbs, &resource.labels).map_err(unusable)?;
            }
            if permission.resources.is_empty() {
                return Err(unusable("a permission names no resource".to_owned()));
            }
        }
        Ok(all)
    }
}

/// Refuses words that the registry would not understand.
fn check(kind: &str, verbs: &[String], labels: &BTreeMap<String, String>) -> Result<(), String> {
    if ResourceType::parse(kind).is_none() {
        let known: Vec<&str> = ResourceType::ALL.iter().map(|kind| kind.word()).collect();
        return Err(format!("`{kind}` is no type of resource; expected one of {}", known.join(", ")));
    }
    if verbs.is_empty() {
        return Err("a permission names no verb".to_owned());
    }
    if let Some(verb) = verbs.iter().find(|verb| *verb != ANY_VERB && Verb::parse(verb).is_none()) {
        let known: Vec<&str> = Verb::ALL.iter().map(|verb| verb.word()).collect();
        return Err(format!("`{verb}` is no verb; expected * or some of {}", known.join(", ")));
    }
    match labels.keys().find(|label| !LABELS.contains(&label.as_str())) {
        Some(label) => Err(format!("`{label}` is no label; expected some of {}", LABELS.join(", "))),
        None => Ok(()),
    }
}

/// Reads `type:verb,verb[label=value,label=value]`.
fn permission(text: &str) -> Result<Permission, String> {
    let (kind, rest) = text.split_once(':').ok_or("expected TYPE:VERBS, perhaps with [LABELS] behind")?;
    let (verbs, labels) = match rest.split_once('[') {
        Some((verbs, labels)) => (verbs, labels.strip_suffix(']').ok_or("the labels end with `]`")?),
        None => (rest, ""),
    };
    let verbs: Vec<String> = verbs.split(',').map(|verb| verb.trim().to_owned()).collect();
    let mut limits = BTreeMap::new();
    for label in labels.split(',').filter(|label| !label.trim().is_empty()) {
        let (name, value) = label.split_once('=').ok_or("a label is NAME=VALUE")?;
        if limits.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(format!("the label {} is given twice", name.trim()));
        }
    }
    check(kind, &verbs, &limits)?;
    let resource = Resource { kind: kind.to_owned(), labels: limits };
    Ok(Permission { resources: vec![resource], verbs })
}

/// A permission in the words of `--allow`.
fn words(permission: &Permission) -> String {
    let word = |resource: &Resource| {
        let labels: Vec<String> =
            resource.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("[{}]", labels.join(",")) };
        format!("{}:{}{labels}", resource.kind, permission.verbs.join(","))
    };
    permission.resources.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Shows one role, or a list of them.
fn show(target: &Target, screen: &mut Screen, roles: &Value) -> Result<(), CommandFailure> {
    if target.output == OutputFormat::Json {
        return screen.json(roles);
    }
    let list = roles.as_array().map_or_else(|| std::slice::from_ref(roles), Vec::as_slice);
    let mut rows = Vec::new();
    for role in list {
        let permissions: Vec<Permission> = serde_json::from_value(role["perms"].clone()).unwrap_or_default();
        let all: Vec<String> = permissions.iter().map(words).collect();
        rows.push(vec![text_of(role, "name"), all.join(" ")]);
    }
    screen.table(&["NAME", "PERMISSIONS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_reads_as_it_is_written() {
        for text in [
            "service:get",
            "service:get,update[environment=production]",
            "service/schema:*[appId=shop,serviceName=cart*]",
            "ops:*",
        ] {
            assert_eq!(permission(text).map(|permission| words(&permission)).as_deref(), Ok(text));
        }
        assert_eq!(
            permission("service:get[environment=]").expect("reads").resources[0].labels["environment"],
            ""
        );
    }

    #[test]
    fn words_that_would_permit_nothing_are_refused() {
        for (text, hint) in [
            ("service", "TYPE:VERBS"),
            ("services:get", "no type of resource"),
            ("service:read", "no verb"),
            ("service:", "no verb"),
            ("service:get[env=x]", "no label"),
            ("service:get[environment]", "NAME=VALUE"),
            ("service:get[appId=a,appId=b]", "twice"),
            ("service:get[appId=a", "end with"),
        ] {
            let refusal = permission(text).expect_err(text);
            assert!(refusal.contains(hint), "{text}: {refusal}");
        }
    }
}
