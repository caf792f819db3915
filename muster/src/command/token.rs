//! `muster token`: long-lived tokens of accounts, for programs that cannot log in.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::account::{ask, entries, text_of, time};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};

/// Arguments of `muster token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token, which is shown once.
    Create {
        /// Name of the account whose rights the token has.
        account: String,
        /// Time for which the token counts, up to 8760h.
        #[arg(long = "for", value_name = "DURATION", default_value = "2160h", value_parser = duration)]
        lasting: Duration,
        /// Sentence by which people recognise the token.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        #[command(flatten)]
        target: Target,
    },
    /// List the tokens of an account, without the tokens themselves.
    List {
        /// Name of the account.
        account: String,
        #[command(flatten)]
        target: Target,
    },
    /// Take a token back.
    Revoke {
        /// Name of the account.
        account: String,
        /// Id of the token, as `muster token list` shows it.
        id: String,
        #[command(flatten)]
        target: Target,
    },
}

impl Token {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        match self.command {
            TokenCommand::Create { account, lasting, description, target } => {
                let body = json!({
                    "description": description,
                    "tokenExpirationTime": format!("{}s", lasting.as_secs()),
                });
                let made = ask(&target, Method::POST, &["accounts", &account, "tokens"], Some(body)).await?;
                match target.output {
                    OutputFormat::Json => screen.json(&made),
                    // The token alone, so that it can be written to a file.
                    OutputFormat::Table => {
                        screen.note(&format!("the token {} is shown only now", text_of(&made, "id")));
                        screen.line(&text_of(&made, "token"))
                    }
                }
            }
            TokenCommand::List { account, target } => {
                let list = ask(&target, Method::GET, &["accounts", &account, "tokens"], None).await?;
                let tokens = entries(&list);
                if target.output == OutputFormat::Json {
                    return screen.json(&tokens);
                }
                let rows: Vec<_> = tokens.iter().map(row).collect();
                screen.table(&["ID", "CREATED", "ENDS", "DESCRIPTION"], &rows)
            }
            TokenCommand::Revoke { account, id, target } => {
                ask(&target, Method::DELETE, &["accounts", &account, "tokens", &id], None).await?;
                screen.note(&format!("took the token {id} back"));
                Ok(())
            }
        }
    }
}

fn row(token: &Value) -> Vec<String> {
    // Times come as numbers or, like those of accounts, as text.
    let at = |name: &str| {
        let value = &token[name];
        let seconds = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        seconds.map_or_else(String::new, time)
    };
    vec![text_of(token, "id"), at("createTime"), at("exp"), text_of(token, "description")]
}
