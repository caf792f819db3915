//! A stream of gRPC in both directions: messages out, messages in.
//!
//! The command needs one method of one service, so that a stack with channels, balancing and reconnects would
//! be most of it. The framing is five bytes before each message.

use std::convert::Infallible;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Fuse};
use futures_util::stream::poll_fn;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::sync::mpsc;

use super::{RegistryClient, refusal};
use crate::failure::{CommandFailure, RegistryRefusal};

/// Messages that may wait to be sent.
const WAITING: usize = 16;
/// Size of the largest message that is accepted.
const MAX_MESSAGE: usize = 64 << 20;
/// Bytes before each message: a flag for compression and four bytes of length.
const PREFIX: usize = 5;

/// An open stream. It ends with this value.
pub(crate) struct GrpcStream<'a> {
    client: &'a RegistryClient,
    sender: mpsc::Sender<Bytes>,
    body: Incoming,
    read: BytesMut,
    /// Driven while somebody waits for a message; its failures show in the body.
    connection: Fuse<BoxFuture<'static, ()>>,
}

impl<'a> GrpcStream<'a> {
    /// Opens a stream of the method with this path. Servers answer once they have the first message.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub(crate) async fn open(
        client: &'a RegistryClient,
        path: &str,
        first: &impl Message,
    ) -> Result<Self, CommandFailure> {
        let unreachable = |e: &dyn std::fmt::Display| client.unreachable(&e.to_string());
        let stream = client.open_http2().await.map_err(|e| unreachable(&e))?;
        let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unreachable(&e))?;
        let mut connection = connection.map(drop).boxed().fuse();
        let (sender, mut messages) = mpsc::channel::<Bytes>(WAITING);
        let frames = poll_fn(move |context| {
            let next = messages.poll_recv(context);
            next.map(|message| message.map(|message| Ok::<_, Infallible>(Frame::data(message))))
        });
        let mut url = client.base.clone();
        url.set_path(path);
        let mut request =
            Request::post(url.as_str()).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
        if let Some(authorization) = &client.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request =
            request.body(StreamBody::new(frames)).map_err(|e| CommandFailure::Usage(e.to_string()))?;
        sender.try_send(framed(first)).map_err(|e| unreachable(&e))?;
        let replied = driven(&mut connection, requests.send_request(request)).await;
        let reply = replied.map_err(|e| unreachable(&e))?;
        let (head, body) = reply.into_parts();
        if head.status != StatusCode::OK {
            let body = driven(&mut connection, Limited::new(body, MAX_MESSAGE).collect()).await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            return Err(refusal(&Response::from_parts(head, ()), &body));
        }
        if let Some(failure) = failure_of(&head.headers) {
            return Err(failure);
        }
        let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/grpc") {
            return Err(client.not_understood(format!("the reply is `{kind}` and not gRPC")));
        }
        Ok(Self { client, sender, body, read: BytesMut::new(), connection })
    }

    /// Sends a message.
    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), CommandFailure> {
        let sent = driven(&mut self.connection, self.sender.send(framed(message))).await;
        sent.map_err(|_| self.client.unreachable("the stream has ended"))
    }

    /// The next message.
    ///
    /// # Errors
    /// The stream has ended, and why.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<M, CommandFailure> {
        loop {
            if let Some((prefix, rest)) = self.read.split_first_chunk::<PREFIX>() {
                let [compressed, size @ ..] = *prefix;
                let size = u32::from_be_bytes(size) as usize;
                if compressed != 0 || size > MAX_MESSAGE {
                    return Err(self
                        .client
                        .not_understood("a message is compressed or too large".to_owned()));
                }
                if rest.len() >= size {
                    self.read.advance(PREFIX);
                    let message = self.read.split_to(size).freeze();
                    return M::decode(message).map_err(|e| self.client.not_understood(e.to_string()));
                }
            }
            match driven(&mut self.connection, self.body.frame()).await {
                None => return Err(self.client.unreachable("the stream has ended")),
                Some(Err(e)) => return Err(self.client.unreachable(&e.to_string())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.read.extend_from_slice(&data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Err(failure_of(&trailers)
                            .unwrap_or_else(|| self.client.unreachable("the server has ended the stream")));
                    }
                },
            }
        }
    }
}

/// Waits for something that comes over a connection.
async fn driven<T>(connection: &mut Fuse<BoxFuture<'static, ()>>, waited: impl Future<Output = T>) -> T {
    let mut waited = std::pin::pin!(waited);
    loop {
        tokio::select! {
            biased;
            () = &mut *connection => {}
            done = &mut waited => return done,
        }
    }
}

fn framed(message: &impl Message) -> Bytes {
    let size = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + size);
    bytes.put_u8(0);
    // The messages of this program are small.
    bytes.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    bytes.put(message.encode_to_vec().as_slice());
    bytes.freeze()
}

/// The failure that the status of a stream stands for, told in HTTP's terms as all refusals are.
fn failure_of(headers: &HeaderMap) -> Option<CommandFailure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?;
    let message = text("grpc-message").unwrap_or_default();
    let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned();
    let (status, name) = match code {
        "0" => return None,
        "3" => (400, "INVALID_ARGUMENT"),
        "7" => (403, "PERMISSION_DENIED"),
        "8" => (429, "RESOURCE_EXHAUSTED"),
        "12" => (404, "UNIMPLEMENTED"),
        "14" => (503, "UNAVAILABLE"),
        "16" => (401, "UNAUTHENTICATED"),
        other => (500, other),
    };
    let refusal =
        RegistryRefusal { status, message: name.to_owned(), detail: message, ..RegistryRefusal::default() };
    Some(match status {
        401 => CommandFailure::LogIn(refusal),
        429 | 503 => CommandFailure::TryAgain { refusal, wait: None },
        _ => CommandFailure::Refused(refusal),
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_status_of_grpc_is_a_failure_with_its_words() {
        let failure = |code: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(code));
            headers.insert("grpc-message", HeaderValue::from_static("not%20yet"));
            failure_of(&headers).map(|failure| (failure.status(), failure.to_string().contains("not yet")))
        };
        assert_eq!(failure("0"), None);
        for (code, status) in [("16", 77), ("7", 1), ("12", 1), ("14", 75), ("8", 75), ("99", 1)] {
            assert_eq!(failure(code), Some((status, true)), "{code}");
        }
        assert!(failure_of(&HeaderMap::new()).is_none());
    }
}
