//! A listener that goes on answering while the process drains, and one that shares its address.

use super::*;

fn router() -> Router {
    let peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string();
    hello().route("/peer", get(peer))
}

async fn lingering(listener: TcpListener, limits: ServerLimits) -> (Server, CancellationToken) {
    let address = listener.local_addr().expect("has an address");
    let tasks = Tasks::new();
    let serving = tasks.clone();
    let stop = CancellationToken::new();
    let until = stop.clone();
    let metrics = ServerMetrics::none();
    let ended =
        tokio::spawn(async move { serve_until(until, listener, router(), limits, metrics, &serving).await });
    (Server { address, tasks, ended }, stop)
}

#[tokio::test]
async fn a_drain_answers_and_closes_until_the_stop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (server, stop) = lingering(listener, ServerLimits::default()).await;
    let mut kept = server.connect().await;
    kept.write_all(GET).await.expect("writes");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        kept.read_buf(&mut answer).await.expect("reads");
    }
    assert!(!String::from_utf8_lossy(&answer).contains("Connection:"), "no drain yet");

    server.tasks.drain().cancel();
    for mut stream in [kept, server.connect().await] {
        stream.write_all(GET).await.expect("writes");
        let answer = read_to_end(&mut stream).await;
        assert!(answer.contains("Connection: close") && answer.ends_with("hello"), "{answer}");
    }
    let mut idle = server.connect().await;
    stop.cancel();
    assert_eq!(read_to_end(&mut idle).await, "");
    server.ended.await.expect("ends");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody accepts any more");
}

#[tokio::test]
async fn a_client_that_connects_right_before_the_stop_is_answered() {
    for reuse_port in [false, true] {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), reuse_port).expect("binds");
        let limits = ServerLimits { reuse_port, ..ServerLimits::default() };
        let (server, stop) = lingering(listener, limits).await;
        // The kernel has it, and nobody has accepted it.
        let mut client = server.connect().await;
        server.tasks.drain().cancel();
        stop.cancel();
        // Until the listener has closed, so that the request comes later.
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        client.write_all(GET).await.expect("writes");
        let answer = read_to_end(&mut client).await;
        assert!(answer.contains("Connection: close") && answer.ends_with("hello"), "{answer}");
        server.ended.await.expect("ends");
    }
}

#[tokio::test]
async fn a_connection_on_http2_is_told_of_the_drain() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let (server, _stop) = lingering(listener, ServerLimits::default()).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Body>();
    let peer = async || {
        let url = format!("http://{}/peer", server.address).parse().expect("is a url");
        let answer = client.get(url).await.expect("answers");
        http_body_util::BodyExt::collect(answer.into_body()).await.expect("is read").to_bytes()
    };
    let first = peer().await;
    assert_eq!(peer().await, first);
    server.tasks.drain().cancel();
    // The client may send a last request before it has read that the connection ends.
    while peer().await == first {}
}

#[tokio::test]
async fn two_processes_share_an_address_and_lose_no_client() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let first = listen(any, true).expect("binds");
    let address = first.local_addr().expect("has an address");
    let limits = ServerLimits { reuse_port: true, ..ServerLimits::default() };
    let (old, stop_old) = lingering(first, limits.clone()).await;
    let (new, _stop_new) = lingering(listen(address, true).expect("binds beside it"), limits).await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(old.connect().await);
    }
    old.tasks.drain().cancel();
    for mut client in clients {
        client.write_all(GET_AND_CLOSE).await.expect("writes");
        assert!(read_to_end(&mut client).await.ends_with("hello"));
    }
    stop_old.cancel();
    old.ended.await.expect("ends");
    for _ in 0..50 {
        assert!(new.exchange(GET_AND_CLOSE).await.ends_with("hello"), "the new one has all of them");
    }
    assert!(listen(address, false).is_err(), "others cannot listen there");
}
