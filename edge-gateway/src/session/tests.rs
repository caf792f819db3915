//! The protocol, exhaustively, without a socket.

use super::*;

fn pace() -> Pace {
    Pace::from(&SessionConfig::default())
}

fn seconds(n: u64) -> Tick {
    ticks(Duration::from_secs(n))
}

fn written(protocol: &mut Protocol) -> Vec<u8> {
    let mut out = Vec::new();
    protocol.put(&mut out);
    assert!(!protocol.wants_to_write());
    out
}

#[test]
fn the_server_pings_clients_that_ping_too() {
    let pace = pace();
    let mut now = 0;
    let mut protocol = Protocol::new(now, &pace, Farewell::Silence);
    for _ in 0..5 {
        let due = protocol.deadline(&pace);
        assert!(due - now <= seconds(30) && due - now >= seconds(27));
        now = due;
        protocol.on(Input::Frame(Incoming::Ping(b"")), now, &pace);
        assert_eq!(written(&mut protocol), b"\x8a\x00");
        protocol.on(Input::Timer, now, &pace);
        assert_eq!(written(&mut protocol), b"\x89\x00");
    }
}

#[test]
fn silence_ends_a_session_without_a_close_frame() {
    let pace = pace();
    for frame in [Incoming::Pong(None), Incoming::Ping(b""), Incoming::Data] {
        let mut protocol = Protocol::new(0, &pace, Farewell::Silence);
        protocol.on(Input::Frame(frame), seconds(100), &pace);
        written(&mut protocol);
        protocol.on(Input::Timer, seconds(219), &pace);
        assert_eq!(protocol.phase(), Phase::Open);
        written(&mut protocol);
        protocol.on(Input::Timer, seconds(220), &pace);
        assert_eq!(protocol.phase(), Phase::Over(Reason::ReadTimeout));
        assert_eq!(written(&mut protocol), b"");
    }
}

#[test]
fn only_the_latest_of_many_pings_is_answered() {
    let pace = pace();
    let mut protocol = Protocol::new(0, &pace, Farewell::Silence);
    for payload in [b"a", b"b", b"c"] {
        protocol.on(Input::Frame(Incoming::Ping(payload)), 1, &pace);
    }
    assert_eq!(written(&mut protocol), b"\x8a\x01c");
}

#[test]
fn a_close_is_echoed_and_ends_when_the_client_does() {
    let pace = pace();
    for (close, echo) in [(Some((1000, "bye")), &b"\x88\x05\x03\xe8bye"[..]), (None, b"\x88\x00")] {
        let mut protocol = Protocol::new(0, &pace, Farewell::Silence);
        protocol.on(Input::Frame(Incoming::Close(close)), 1, &pace);
        assert_eq!(protocol.phase(), Phase::Closing(Reason::ClientClosed));
        assert_eq!(written(&mut protocol), echo);
        protocol.on(Input::Ended, 2, &pace);
        assert_eq!(protocol.phase(), Phase::Over(Reason::ClientClosed));
    }
}

#[test]
fn last_frames_are_those_of_the_table() {
    let pace = pace();
    let table = [
        (Input::Violation(Violation::Protocol("no")), &b"\x88\x04\x03\xeano"[..]),
        (Input::Violation(Violation::TooBig), b"\x88\x11\x03\xf1message too big"),
        (Input::Violation(Violation::NotText), b"\x88\x0b\x03\xefnot UTF-8"),
        (Input::End(Reason::NoService), b"\x81\x16service does not exist"),
        (Input::End(Reason::Drained), b""),
    ];
    for (input, expected) in table {
        let mut protocol = Protocol::new(0, &pace, Farewell::Silence);
        protocol.on(input, 1, &pace);
        assert_eq!(written(&mut protocol), expected);
        // The session is over after a while even if the client never ends its side.
        let Phase::Closing(reason) = protocol.phase() else { panic!("{:?}", protocol.phase()) };
        protocol.on(Input::Timer, protocol.deadline(&pace), &pace);
        assert_eq!(protocol.phase(), Phase::Over(reason));
    }
}

#[test]
fn only_clients_that_take_nothing_time_out() {
    let pace = pace();
    let mut protocol = Protocol::new(0, &pace, Farewell::Silence);
    protocol.on(Input::Blocked, 0, &pace);
    for second in (4..40).step_by(4) {
        protocol.on(Input::Frame(Incoming::Pong(None)), seconds(second), &pace);
        protocol.on(Input::Timer, seconds(second), &pace);
        assert_eq!(protocol.phase(), Phase::Open);
        protocol.on(Input::Progress, seconds(second), &pace);
    }
    protocol.on(Input::Timer, seconds(41), &pace);
    assert_eq!(protocol.phase(), Phase::Over(Reason::WriteTimeout));

    let mut protocol = Protocol::new(0, &pace, Farewell::Silence);
    protocol.on(Input::Blocked, 0, &pace);
    protocol.on(Input::Drained, 1, &pace);
    protocol.on(Input::Timer, seconds(6), &pace);
    assert_eq!(protocol.phase(), Phase::Open);
}

#[test]
fn the_farewell_depends_on_the_client_and_the_reason() {
    let pace = pace();
    for (farewell, reason, expected) in [
        (Farewell::Silence, Reason::Drained, &b""[..]),
        (Farewell::Violation, Reason::Drained, b"\x83\x00"),
        (Farewell::Violation, Reason::Restored, b"\x83\x00"),
        (Farewell::Violation, Reason::HeartbeatFailed, b""),
        (Farewell::Close, Reason::Drained, b"\x88\x27\x03\xe9this gateway is draining; watch again"),
    ] {
        let mut protocol = Protocol::new(0, &pace, farewell);
        protocol.on(Input::End(reason), 1, &pace);
        assert_eq!(written(&mut protocol), expected, "{farewell:?} {reason:?}");
    }
}
