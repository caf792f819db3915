//! The messages of a stream as bytes: read from a body piece by piece, and written with shared resources.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use host::http::RequestBody;
use http_body::Body;
use parking_lot::Mutex;
use prost::Message as _;
use proto::envoy as pb;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::kind::Variant;
use super::names::Names;
use super::stream::Answer;

mod request;

pub(crate) use request::{Message, Reader, Type};

/// Bytes before each message: a flag for compression and four bytes of length.
const PREFIX: usize = 5;
/// Bytes that one message of a client may have: every name that a stream may hold, each with its version.
const LARGEST: usize = 2 << 20;
/// Bytes of a message that any client may have here at any time: as much as its connection holds anyway.
const SMALL: usize = 64 << 10;
/// Larger messages that this gateway reads at the same time. Clients that send nearly everything and then
/// stop could otherwise take 2 MiB for each stream, before anything is known of them.
const MOST_LARGE: usize = 32;
/// The time that a client has for a message once it has begun: an incomplete one takes memory.
const WHOLE: Duration = Duration::from_secs(30);
/// Answers up to this size are copied into one piece, which costs less than sending pieces.
const COPIED: usize = 16 << 10;

/// The reason for which the messages of a client cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("a message is larger than 2 MiB")]
    TooLarge,
    #[error("messages must not be compressed")]
    Compressed,
    #[error("a message is no request for resources")]
    Malformed,
    #[error("the request broke off")]
    Broken,
}

/// The places for large messages, for all streams of this gateway.
pub(crate) fn places_for_large() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_LARGE))
}

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The messages of a client.
pub(crate) struct Messages<B = RequestBody> {
    body: B,
    reader: Reader,
    buffer: BytesMut,
    places: Arc<Semaphore>,
    /// The wait for a place.
    waiting: Option<Waiting>,
    /// The place of the large message that is being read.
    place: Option<OwnedSemaphorePermit>,
    /// The time at which the message that is not complete yet began.
    began: Option<Instant>,
}

impl<B: Body<Data = Bytes> + Unpin> Messages<B> {
    pub(crate) fn new(body: B, variant: Variant, places: Arc<Semaphore>, names: Arc<Names>) -> Self {
        let reader = Reader::new(variant, names);
        Self { body, reader, buffer: BytesMut::new(), places, waiting: None, place: None, began: None }
    }

    /// The time by which the message that has begun must be complete.
    pub(crate) fn late_at(&self) -> Option<Instant> {
        self.began.map(|began| began + WHOLE)
    }

    /// The next message; `None` when the client sends no more. Cancel-safe.
    ///
    /// # Errors
    /// When the client breaks the rules; nothing more can be read then.
    pub(crate) async fn next(&mut self) -> Result<Option<Message>, Unreadable> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for what [`Messages::next`] gives.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, Unreadable>> {
        loop {
            if let Some(message) = take(&mut self.buffer)? {
                self.began = None;
                if self.buffer.is_empty() {
                    // An idle stream keeps no room.
                    self.buffer = BytesMut::new();
                }
                if self.buffer.len() <= SMALL {
                    self.place = None;
                }
                return Poll::Ready(self.reader.read(message).map(Some));
            }
            if !self.buffer.is_empty() {
                self.began.get_or_insert_with(Instant::now);
            }
            if self.buffer.len() > SMALL && self.place.is_none() {
                // Nothing is read meanwhile, so that the client stops sending. It has no more time for that.
                let places = &self.places;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(places.clone().acquire_owned()));
                let place = ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
                self.place = place.ok();
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None if self.buffer.is_empty() => return Poll::Ready(Ok(None)),
                None | Some(Err(_)) => return Poll::Ready(Err(Unreadable::Broken)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

/// Takes a whole message from the front.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Bytes>, Unreadable> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let [compressed, size @ ..] = *prefix;
    let size = u32::from_be_bytes(size) as usize;
    if compressed != 0 {
        return Err(Unreadable::Compressed);
    }
    if size > LARGEST {
        return Err(Unreadable::TooLarge);
    }
    if rest.len() < size {
        return Ok(None);
    }
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(size).freeze()))
}

/// The last answers that were written, for streams that have come the same way and send the same bytes.
#[derive(Default)]
pub(crate) struct Envelopes(Mutex<VecDeque<(Variant, Answer, Bytes)>>);

/// Answers that are kept: of each kind in both variants, and as many of streams that came another way.
const KEPT: usize = 16;

impl Envelopes {
    /// An answer as the pieces of one message.
    pub(crate) fn write(&self, variant: Variant, answer: Answer) -> VecDeque<Bytes> {
        let find = |kept: &VecDeque<(Variant, Answer, Bytes)>| {
            let found = kept.iter().find(|(of, known, _)| *of == variant && known.is_same(&answer));
            found.map(|(_, _, bytes)| bytes.clone())
        };
        if let Some(bytes) = find(&self.0.lock()) {
            return [bytes].into();
        }
        let pieces = write(variant, &answer);
        // An answer in several pieces shares the large ones anyway.
        if let [piece] = pieces.as_slices().0 {
            let kept = &mut *self.0.lock();
            kept.truncate(KEPT - 1);
            kept.push_front((variant, answer, piece.clone()));
        }
        pieces
    }
}

/// An answer as the pieces of one message. The resources in it are shared with all other streams.
pub(super) fn write(variant: Variant, answer: &Answer) -> VecDeque<Bytes> {
    let type_url = answer.kind.type_url().to_owned();
    let nonce = answer.nonce.to_string();
    let version = answer.version.clone();
    // In protobuf a message without its list, followed by the list as fields, is the message.
    let head = match variant {
        Variant::State => {
            pb::DiscoveryResponse { version_info: version, type_url, nonce, resources: Vec::new() }
                .encode_to_vec()
        }
        Variant::Delta => pb::DeltaDiscoveryResponse {
            system_version_info: version,
            type_url,
            nonce,
            resources: Vec::new(),
            removed_resources: answer.removed.iter().map(|name| name.to_string()).collect(),
        }
        .encode_to_vec(),
    };
    let fields = answer.resources.iter().map(|resource| match variant {
        Variant::State => resource.of_state(),
        Variant::Delta => resource.of_delta(),
    });
    let fields: Vec<Bytes> = fields.collect();
    let size = head.len() + fields.iter().map(Bytes::len).sum::<usize>();
    let is_copied = size <= COPIED;
    let mut first = BytesMut::with_capacity(PREFIX + if is_copied { size } else { head.len() });
    first.put_u8(0);
    // No answer comes near 4 GiB. If one did, its stream would break, and not the process.
    first.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    first.put_slice(&head);
    if is_copied {
        fields.iter().for_each(|field| first.put_slice(field));
        return [first.freeze()].into();
    }
    std::iter::once(first.freeze()).chain(fields).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::kind::Kind;
    use super::super::resource::Resource;
    use super::super::stream::Terms;
    use super::super::version::Point;
    use super::*;

    #[test]
    fn answers_are_messages_of_the_contract_however_large() {
        for size in [10, COPIED] {
            let value = pb::ClusterLoadAssignment { cluster_name: "x".repeat(size), ..Default::default() };
            let resource = Resource::new(Kind::Endpoint, "a/b", Point::ZERO, value.encode_to_vec());
            let answer = Answer {
                kind: Kind::Endpoint,
                nonce: 7,
                version: "v".into(),
                resources: vec![Arc::new(resource)],
                removed: vec!["a/c".into()],
            };
            let mut bytes: BytesMut = write(Variant::Delta, &answer).iter().flatten().collect();
            let message = take(&mut bytes).expect("readable").expect("whole");
            assert!(bytes.is_empty());
            let read = pb::DeltaDiscoveryResponse::decode(message).expect("an answer");
            assert_eq!((&*read.nonce, &*read.system_version_info), ("7", "v"));
            assert_eq!((&*read.resources[0].name, read.removed_resources), ("a/b", vec!["a/c".to_owned()]));
            let mut bytes: BytesMut = write(Variant::State, &answer).iter().flatten().collect();
            let message = take(&mut bytes).expect("readable").expect("whole");
            let read = pb::DiscoveryResponse::decode(message).expect("an answer");
            assert_eq!(read.resources[0].value, value.encode_to_vec());
            assert_eq!(read.type_url, Kind::Endpoint.type_url());
        }
    }

    type Frames = tokio::sync::mpsc::Sender<Result<http_body::Frame<Bytes>, std::convert::Infallible>>;

    fn client(places: &Arc<Semaphore>) -> (Frames, Messages<impl Body<Data = Bytes> + Unpin>) {
        let (frames, body) = tokio::sync::mpsc::channel(64);
        let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
        (frames, Messages::new(body, Variant::State, places.clone(), Arc::default()))
    }

    async fn send(frames: &Frames, bytes: &[u8]) {
        frames.send(Ok(http_body::Frame::data(Bytes::copy_from_slice(bytes)))).await.expect("is read");
    }

    #[tokio::test(start_paused = true)]
    async fn large_messages_wait_for_each_other() {
        let places = Arc::new(Semaphore::new(1));
        let request =
            pb::DiscoveryRequest { resource_names: vec!["x".repeat(2 * SMALL)], ..Default::default() };
        let size = u32::try_from(request.encoded_len()).expect("small").to_be_bytes();
        let bytes = [&[0][..], &size, &request.encode_to_vec()].concat();
        let (most, rest) = bytes.split_at(SMALL + 1);
        let (slow, mut first) = client(&places);
        send(&slow, most).await;
        let pause = Duration::from_millis(1);
        assert!(tokio::time::timeout(pause, first.next()).await.is_err(), "it is not complete");
        let (quick, mut second) = client(&places);
        send(&quick, most).await;
        send(&quick, rest).await;
        assert!(tokio::time::timeout(pause, second.next()).await.is_err(), "it has no place");
        assert!(second.late_at().is_some(), "and must have one in time");
        assert!(second.buffer.len() <= SMALL + 1, "nothing is read without one");
        send(&slow, rest).await;
        assert!(first.next().await.expect("readable").is_some());
        let second = second.next().await.expect("readable").expect("a message");
        assert!(matches!(second.ask.terms, Terms::State { names, .. } if names.len() == 1));
        assert_eq!(places.available_permits(), 1);
    }

    #[test]
    fn broken_messages_are_refused() {
        let take = |bytes: &[u8]| take(&mut BytesMut::from(bytes));
        assert_eq!(take(b"\0\0\0"), Ok(None));
        assert_eq!(take(b"\0\0\0\0\x02a"), Ok(None));
        assert_eq!(take(b"\0\0\0\0\x01ab"), Ok(Some(Bytes::from_static(b"a"))));
        assert_eq!(take(b"\x01\0\0\0\0"), Err(Unreadable::Compressed));
        assert_eq!(take(b"\0\xff\0\0\0"), Err(Unreadable::TooLarge));
        let malformed = Reader::new(Variant::State, Arc::default()).read(Bytes::from_static(b"\xff\xff"));
        assert_eq!(malformed.err(), Some(Unreadable::Malformed));
    }
}
