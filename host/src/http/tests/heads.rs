//! Heads that proxies may read differently, and bodies that nobody reads.

use axum::routing::post;

use super::*;

#[tokio::test]
async fn a_head_that_proxies_may_read_differently_is_refused() {
    let server = start(hello(), ServerLimits::default()).await;
    for (head, refused) in [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\nconnection: close\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nhost: a/b@c\r\nconnection: close\r\n\r\n", true),
        ("GET / HTTP/1.1\nhost: a\nconnection: close\n\n", true),
        ("GET / HTTP/1.1\r\nhost: a\nx: b\r\nconnection: close\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nhost: my_service:80\r\nconnection: close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nhost: [fe80::1%25eth0]:80\r\nconnection: close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
    ] {
        let answer = server.exchange(head.as_bytes()).await;
        let status = if refused { "400" } else { "200" };
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head:?}: {answer}");
        assert!(answer.contains("X-Request-Id: "), "{answer}");
    }
}

#[tokio::test]
async fn a_head_in_the_read_of_the_request_before_it_is_checked_too() {
    let router = hello().route("/", post(async |body: String| body));
    let server = start(router, ServerLimits::default()).await;
    let bare = "GET / HTTP/1.1\nhost: a\r\n\r\n";
    for before in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n\n\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\n\n\r\n0\r\n\r\n",
    ] {
        let answer = server.exchange(format!("{before}{bare}").as_bytes()).await;
        let statuses: Vec<&str> =
            answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
        assert_eq!(statuses, ["200", "400"], "{before:?}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_a_body_is_seen() {
    let router = hello().route("/refused", post(async || (axum::http::StatusCode::CONFLICT, "no")));
    let server = start(router, ServerLimits::default()).await;
    let mut stream = server.connect().await;
    // Each line feed in the body would be a fault in a head.
    let body = "{\n}\n".repeat(200_000);
    let head = format!("POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await.expect("writes");
        stream.write_all(body.as_bytes()).await.expect("the whole body is taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"no") {
            assert_ne!(stream.read_buf(&mut answer).await.expect("reads"), 0, "the connection goes on");
        }
        assert!(answer.starts_with(b"HTTP/1.1 409"));
    }
    stream.write_all(GET_AND_CLOSE).await.expect("writes");
    assert!(read_to_end(&mut stream).await.ends_with("hello"));

    let asking = b"POST /refused HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    let answer = server.exchange(asking).await;
    assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("Connection: close"), "{answer}");
}
