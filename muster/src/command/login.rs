//! `muster login` and `muster logout`: a password becomes a token, which the credentials file keeps.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::json;

use crate::client::RegistryClient;
use crate::credentials::{Login, secret_of};
use crate::failure::CommandFailure;
use crate::screen::{OutputFormat, Screen};
use crate::target::{Target, duration};

/// The longest password that is read from standard input, in bytes.
const LONGEST_PASSWORD: u64 = 4096;

/// The place from which a password comes. It is never an argument: other users could read that.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct PasswordSource {
    /// Read the password from the first line of standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Read the password from this file.
    #[arg(long, value_name = "FILE", conflicts_with = "password_stdin")]
    password_file: Option<PathBuf>,
}

impl PasswordSource {
    /// True when the arguments name a place.
    pub(crate) fn is_given(&self) -> bool {
        self.password_stdin || self.password_file.is_some()
    }

    /// The password; asked for at the terminal when the arguments name no place.
    pub(crate) fn read(&self, question: &str) -> Result<String, CommandFailure> {
        if let Some(path) = &self.password_file {
            return secret_of(path);
        }
        let password = if self.password_stdin {
            let mut text = String::new();
            std::io::stdin().take(LONGEST_PASSWORD).read_to_string(&mut text)?;
            text.lines().next().unwrap_or_default().to_owned()
        } else {
            rpassword::prompt_password(question).map_err(|error| {
                CommandFailure::Usage(format!(
                    "no password can be asked for here: {error}; use --password-stdin or --password-file"
                ))
            })?
        };
        if password.is_empty() {
            return Err(CommandFailure::Usage("the password is empty".to_owned()));
        }
        Ok(password)
    }
}

/// Arguments of `muster login`.
#[derive(Debug, Args)]
pub(crate) struct LogIn {
    /// Name of the account.
    #[arg(long, value_name = "NAME")]
    account: String,
    /// Time for which the token counts, 15m to 24h. Default: the server's, 12h.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasting: Option<Duration>,
    #[command(flatten)]
    password: PasswordSource,
    #[command(flatten)]
    target: Target,
}

impl LogIn {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let Self { account, lasting, password, mut target } = self;
        // An old token has no say here, and a file with one need not be there.
        target.access.token_file = None;
        let server = RegistryClient::without_token(&target)?;
        if target.server.scheme() == "http" && !target.is_this_machine() {
            screen.note("the password crosses the network in the clear: use an https:// address");
        }
        let password = password.read(&format!("Password of {account}: "))?;
        let mut body = json!({ "name": account, "password": password });
        if let Some(lasting) = lasting {
            body["tokenExpirationTime"] = format!("{}s", lasting.as_secs()).into();
        }
        let reply = server.request_path(Method::POST, &["v4", "token"]).body(body).send().await;
        let token = reply?.id("token", &server)?;
        let login = Login { account: account.clone(), token };
        let path = target.access.keep(&target.server, Some(login))?;
        let server = server.server();
        match target.output {
            OutputFormat::Json => screen.json(&json!({ "server": server, "account": account, "file": path })),
            OutputFormat::Table => {
                screen
                    .note(&format!("logged in at {server} as {account}; {} keeps the token", path.display()));
                Ok(())
            }
        }
    }
}

/// Arguments of `muster logout`.
#[derive(Debug, Args)]
pub(crate) struct LogOut {
    #[command(flatten)]
    target: Target,
}

impl LogOut {
    pub(crate) async fn run(self, screen: &mut Screen) -> Result<(), CommandFailure> {
        let target = self.target;
        let Some(login) = target.access.login(&target.server)? else {
            screen.note("nobody is logged in there");
            return Ok(());
        };
        let server = RegistryClient::without_token(&target)?.with_token(&login.token)?;
        let ended = server.request_path(Method::DELETE, &["v4", "token"]).send().await;
        // A token that does not count any more is as good as revoked. After any other failure the file keeps
        // the token, so that the command can be repeated.
        if let Err(failure) = ended
            && !matches!(failure, CommandFailure::LogIn(_))
        {
            return Err(failure);
        }
        target.access.keep(&target.server, None)?;
        screen.note(&format!("{} is logged out at {}", login.account, server.server()));
        Ok(())
    }
}
