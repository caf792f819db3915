//! A reply that comes line by line.

use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::client::RegistryClient;
use crate::failure::CommandFailure;

/// The longest line that is accepted.
const MAX_LINE: usize = 4 << 20;

/// The lines of a reply, as they come.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    client: &'a RegistryClient,
    body: Incoming,
    read: BytesMut,
    /// The longest time between two pieces of the reply.
    silence: Duration,
    content_type: Option<String>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(
        client: &'a RegistryClient,
        body: Incoming,
        silence: Duration,
        content_type: Option<String>,
    ) -> Self {
        Self { client, body, read: BytesMut::new(), silence, content_type }
    }

    /// The header `Content-Type` of the reply.
    pub(crate) fn content_type(&self) -> &Option<String> {
        &self.content_type
    }

    /// The next line; `None` at the end of the reply.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, CommandFailure> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(line.trim_ascii()).into_owned()));
            }
            if self.read.len() > MAX_LINE {
                return Err(self.client.not_understood("a line of the reply does not end".to_owned()));
            }
            let frame = timeout(self.silence, self.body.frame()).await;
            let frame = frame.map_err(|_| self.client.unreachable("the reply has stopped"))?;
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read.extend_from_slice(&data);
                    }
                }
                Some(Err(e)) => return Err(self.client.unreachable(&e.to_string())),
            }
        }
    }
}
