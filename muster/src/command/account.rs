//! `muster account`: accounts of a registry with access control, and the locks after failed logins.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::login::PasswordSource;
use crate::client::{RegistryClient, RegistryRequest};
use crate::failure::{CommandFailure, RegistryRefusal};
use crate::screen::{OutputFormat, Screen};
use crate::target::Target;

/// Arguments of `muster account`.
#[derive(Debug, Args)]
pub(crate) struct Account {
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// List the accounts.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show an account.
    Show {
        /// Name of the account.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make an account. Without a password it gets one, which is shown once.
    Create {
        /// Name of the account.
        name: String,
        /// Role of the account; may be repeated.
        #[arg(long = "role", value_name = "NAME", required = true)]
        roles: Vec<String>,
        /// Tenant that the account is bound to, as DOMAIN/PROJECT; may be repeated. Without: all.
        #[arg(long = "tenant", value_name = "DOMAIN/PROJECT")]
        tenants: Vec<String>,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        target: Target,
    },
    /// Change roles, status or tenants of an account.
    Update {
        /// Name of the account.
        name: String,
        /// Role that replaces the present ones; may be repeated.
        #[arg(long = "role", value_name = "NAME")]
        roles: Vec<String>,
        /// Tenant that replaces the present ones, as DOMAIN/PROJECT; may be repeated.
        #[arg(long = "tenant", value_name = "DOMAIN/PROJECT")]
        tenants: Vec<String>,
        /// `inactive` takes every right away, `active` gives the rights back.
        #[arg(long, value_parser = ["active", "inactive"])]
        status: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Delete an account and its tokens.
    Delete {
        /// Name of the account.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change a password. One's own needs the present one; another's needs the role `admin`.
    Password {
        /// Name of the account.
        name: String,
        /// File with the present password. Without it the account is taken to be another's.
        #[arg(long, value_name = "FILE")]
        current_password_file: Option<std::path::PathBuf>,
        #[command(flatten)]
        password: PasswordSource,
        #[command(flatten)]
        target: Target,
    },
    /// The sessions of an account.
    Sessions {
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// List the locks after failed logins.
    Locks {
        #[command(flatten)]
        target: Target,
    },
    /// End a lock before its time.
    Unlock {
        /// Key of the lock, as `muster account locks` shows it.
        #[arg(value_name = "KEY")]
        lock: String,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// Log an account out everywhere: none of its tokens counts any more.
    End {
        /// Name of the account.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

/// Sends a request about `path` below `/v4`, and returns the body of the reply.
pub(super) async fn ask(
    target: &Target,
    method: Method,
    path: &[&str],
    body: Option<Value>,
) -> Result<Value, CommandFailure> {
    let server = RegistryClient::new(target)?;
    let path = [&["v4"], path].concat();
    let request: RegistryRequest<'_> = server.request_path(method, &path);
    let request = match body {
        Some(body) => request.body(body),
        None => request,
    };
    Ok(request.send().await?.body)
}

impl Account {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.command {
            AccountCommand::List { target } => {
                let list = ask(&target, Method::GET, &["accounts"], None).await?;
                show_accounts(&target, screen, entries(&list))
            }
            AccountCommand::Show { name, target } => {
                let account = ask(&target, Method::GET, &["accounts", &name], None).await?;
                match target.output {
                    OutputFormat::Json => screen.json(&account),
                    OutputFormat::Table => show_accounts(&target, screen, vec![account]),
                }
            }
            AccountCommand::Create { name, roles, tenants, password, target } => {
                create(screen, &target, &name, json!({"roles": roles, "tenants": tenants}), &password).await
            }
            AccountCommand::Update { name, roles, tenants, status, target } => {
                let mut body = json!({});
                for (key, list) in [("roles", roles), ("tenants", tenants)] {
                    if !list.is_empty() {
                        body[key] = list.into();
                    }
                }
                if let Some(status) = status {
                    body["status"] = status.into();
                }
                if body == json!({}) {
                    let problem = "nothing is to be changed: give --role, --tenant or --status";
                    return Err(CommandFailure::Usage(problem.to_owned()));
                }
                ask(&target, Method::PUT, &["accounts", &name], Some(body)).await?;
                screen.note(&format!("changed the account {name}"));
                Ok(())
            }
            AccountCommand::Delete { name, target } => {
                ask(&target, Method::DELETE, &["accounts", &name], None).await?;
                screen.note(&format!("deleted the account {name}"));
                Ok(())
            }
            AccountCommand::Password { name, current_password_file, password, target } => {
                let mut body = json!({});
                if let Some(path) = current_password_file {
                    body["currentPassword"] = crate::credentials::secret_of(&path)?.into();
                }
                body["password"] = password.read(&format!("New password of {name}: "))?.into();
                ask(&target, Method::POST, &["accounts", &name, "password"], Some(body)).await?;
                screen.note(&format!("changed the password of {name}; its tokens do not count any more"));
                Ok(())
            }
            AccountCommand::Sessions { command: SessionsCommand::End { name, target } } => {
                ask(&target, Method::DELETE, &["accounts", &name, "sessions"], None).await?;
                screen.note(&format!("logged {name} out everywhere"));
                Ok(())
            }
            AccountCommand::Locks { target } => {
                let list = ask(&target, Method::GET, &["account-locks"], None).await?;
                show_locks(&target, screen, entries(&list))
            }
            AccountCommand::Unlock { lock, target } => {
                ask(&target, Method::DELETE, &["account-locks", &lock], None).await?;
                screen.note(&format!("ended the lock {lock}"));
                Ok(())
            }
        }
    }
}

/// Makes an account. Without a password the registry makes one, which only this reply tells.
async fn create(
    screen: &mut Screen,
    target: &Target,
    name: &str,
    mut account: Value,
    password: &PasswordSource,
) -> Result<(), CommandFailure> {
    account["name"] = name.into();
    if password.is_given() {
        account["password"] = password.read("")?.into();
        ask(target, Method::POST, &["accounts"], Some(account)).await?;
        screen.note(&format!("made the account {name}"));
        return Ok(());
    }
    let body = json!({ "accounts": [account] });
    let reply = ask(target, Method::POST, &["accounts", "batch-create"], Some(body)).await?;
    let made = &reply["accounts"][0];
    if made["errorCode"].is_string() {
        return Err(CommandFailure::Refused(RegistryRefusal {
            // The reply as a whole was a success, so the status is that of the code.
            status: text_of(made, "errorCode").get(..3).and_then(|s| s.parse().ok()).unwrap_or_default(),
            code: text_of(made, "errorCode"),
            message: text_of(made, "errorMessage"),
            detail: text_of(made, "detail"),
        }));
    }
    match target.output {
        OutputFormat::Json => screen.json(&json!({ "name": name, "password": made["password"] })),
        OutputFormat::Table => {
            screen.table(&["NAME", "PASSWORD"], &[vec![name.to_owned(), text_of(made, "password")]])?;
            screen.note("the password is shown only now");
            Ok(())
        }
    }
}

/// The entries of a list of the API, which leaves an empty one out.
pub(super) fn entries(list: &Value) -> Vec<Value> {
    list["data"].as_array().cloned().unwrap_or_default()
}

/// The text in a field; empty when there is none.
pub(super) fn text_of(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// The texts of an array, separated by commas.
fn words(list: &Value) -> String {
    let words: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    words.join(",")
}

fn show_accounts(target: &Target, screen: &mut Screen, accounts: Vec<Value>) -> Result<(), CommandFailure> {
    if target.output == OutputFormat::Json {
        return screen.json(&accounts);
    }
    let row = |account: &Value| {
        let status = match text_of(account, "status").as_str() {
            "" => "active".to_owned(),
            status => status.to_owned(),
        };
        vec![text_of(account, "name"), words(&account["roles"]), status, words(&account["tenants"])]
    };
    let rows: Vec<_> = accounts.iter().map(row).collect();
    screen.table(&["NAME", "ROLES", "STATUS", "TENANTS"], &rows)
}

fn show_locks(target: &Target, screen: &mut Screen, locks: Vec<Value>) -> Result<(), CommandFailure> {
    if target.output == OutputFormat::Json {
        return screen.json(&locks);
    }
    let row = |lock: &Value| {
        let until = time(lock["releaseAt"].as_u64().unwrap_or_default());
        vec![text_of(lock, "key"), text_of(lock, "status"), until]
    };
    let rows: Vec<_> = locks.iter().map(row).collect();
    screen.table(&["KEY", "STATUS", "RELEASED AT"], &rows)
}

/// Seconds since 1970 as a date and a time.
pub(super) fn time(seconds: u64) -> String {
    // The last second of the year 9999: the form has four digits for a year.
    let seconds = seconds.min(253_402_300_799);
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(time).to_string()
}
