//! The floor of a request: a handler that sends a constant body, on the kind of server that our programs have.
//!
//! A process of its own like a gateway, so that what it takes is counted the same way.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use host::http::{ServerLimits, serve};
use host::lifecycle::Tasks;

/// The first argument of the process with the bare handler.
const BARE: &str = "bare";

/// Becomes the bare handler if that is what this process was started for.
///
/// # Errors
/// When its port cannot be used, or its arguments make no sense.
pub async fn become_child_if_asked() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [first, bytes] if first == BARE => serve_bytes(bytes.parse()?).await.map(|()| true),
        _ => Ok(false),
    }
}

/// The process with the bare handler, ended with this.
pub struct Bare {
    child: Child,
    /// The address at which it answers `GET /`.
    pub address: SocketAddr,
}

impl Bare {
    /// Starts a handler that sends so many bytes. The program has to begin with [`become_child_if_asked`].
    ///
    /// # Errors
    /// When the process cannot be started, or does not tell its address.
    pub fn start(bytes: usize) -> Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut child = Command::new(program)
            .args([BARE, &bytes.to_string()])
            // The end of its input is its order to stop, so it ends with this process, too.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the bare handler cannot be started")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        Ok(Self { address: line.trim().parse()?, child })
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // An error means that it has ended.
        _ = self.child.wait();
    }
}

/// Serves a constant body on the kind of server that our programs have, until the input ends.
async fn serve_bytes(bytes: usize) -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let body = bytes::Bytes::from(vec![b'x'; bytes]);
    let answer = get(move || {
        let body = body.clone();
        async move { body }
    });
    let tasks = Tasks::new();
    let serving = tasks.clone();
    let routes = Router::new().route("/", answer);
    tasks.spawn(async move { serve(listener, routes, ServerLimits::default(), &serving).await });
    let input = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    input.await??;
    Ok(())
}
