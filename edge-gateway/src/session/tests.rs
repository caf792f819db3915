//! The machine, exhaustively, without a socket.

use super::*;

fn pace() -> Pace {
    Pace::from(&SessionConfig::default())
}

fn seconds(n: u64) -> Tick {
    ticks(Duration::from_secs(n))
}

fn written(machine: &mut Machine) -> Vec<u8> {
    let mut out = Vec::new();
    machine.put(&mut out);
    assert!(!machine.wants_to_write());
    out
}

#[test]
fn the_server_pings_also_a_client_that_pings() {
    let (pace, mut now) = (pace(), 0);
    let mut machine = Machine::new(now, &pace);
    for _ in 0..5 {
        let due = machine.deadline(&pace);
        assert!(due - now <= seconds(30) && due - now >= seconds(27));
        now = due;
        machine.on(Input::Frame(Incoming::Ping(b"")), now, &pace);
        assert_eq!(written(&mut machine), b"\x8a\x00");
        machine.on(Input::Timer, now, &pace);
        assert_eq!(written(&mut machine), b"\x89\x00");
    }
}

#[test]
fn any_frame_is_life_and_silence_is_the_end_without_a_close_frame() {
    let pace = pace();
    for frame in [Incoming::Pong, Incoming::Ping(b""), Incoming::Data] {
        let mut machine = Machine::new(0, &pace);
        machine.on(Input::Frame(frame), seconds(100), &pace);
        written(&mut machine);
        machine.on(Input::Timer, seconds(219), &pace);
        assert_eq!(machine.phase(), Phase::Open);
        written(&mut machine);
        machine.on(Input::Timer, seconds(220), &pace);
        assert_eq!(machine.phase(), Phase::Over(Reason::ReadTimeout));
        assert_eq!(written(&mut machine), b"");
    }
}

#[test]
fn only_the_latest_of_many_pings_is_answered() {
    let pace = pace();
    let mut machine = Machine::new(0, &pace);
    for payload in [b"a", b"b", b"c"] {
        machine.on(Input::Frame(Incoming::Ping(payload)), 1, &pace);
    }
    assert_eq!(written(&mut machine), b"\x8a\x01c");
}

#[test]
fn a_close_is_echoed_and_ends_when_the_client_does() {
    let pace = pace();
    for (said, echo) in [(Some((1000, "bye")), &b"\x88\x05\x03\xe8bye"[..]), (None, b"\x88\x00")] {
        let mut machine = Machine::new(0, &pace);
        machine.on(Input::Frame(Incoming::Close(said)), 1, &pace);
        assert_eq!(machine.phase(), Phase::Closing(Reason::ClientClosed));
        assert_eq!(written(&mut machine), echo);
        machine.on(Input::Ended, 2, &pace);
        assert_eq!(machine.phase(), Phase::Over(Reason::ClientClosed));
    }
}

#[test]
fn violations_and_endings_say_what_the_table_says() {
    let pace = pace();
    let table = [
        (Input::Violation(Violation::Protocol("no")), &b"\x88\x04\x03\xeano"[..]),
        (Input::Violation(Violation::TooBig), b"\x88\x11\x03\xf1message too big"),
        (Input::Violation(Violation::NotText), b"\x88\x0b\x03\xefnot UTF-8"),
        (Input::End(Reason::NoService), b"\x81\x16service does not exist"),
        (Input::End(Reason::Drained), b""),
    ];
    for (input, expected) in table {
        let mut machine = Machine::new(0, &pace);
        machine.on(input, 1, &pace);
        assert_eq!(written(&mut machine), expected);
        // A client that does not end its side is not waited for.
        let Phase::Closing(reason) = machine.phase() else { panic!("{:?}", machine.phase()) };
        machine.on(Input::Timer, machine.deadline(&pace), &pace);
        assert_eq!(machine.phase(), Phase::Over(reason));
    }
}

#[test]
fn a_client_that_takes_nothing_is_let_go_and_one_that_takes_a_little_is_not() {
    let pace = pace();
    let mut machine = Machine::new(0, &pace);
    machine.on(Input::Blocked, 0, &pace);
    for second in (4..40).step_by(4) {
        machine.on(Input::Frame(Incoming::Pong), seconds(second), &pace);
        machine.on(Input::Timer, seconds(second), &pace);
        assert_eq!(machine.phase(), Phase::Open);
        machine.on(Input::Progress, seconds(second), &pace);
    }
    machine.on(Input::Timer, seconds(41), &pace);
    assert_eq!(machine.phase(), Phase::Over(Reason::WriteTimeout));

    let mut machine = Machine::new(0, &pace);
    machine.on(Input::Blocked, 0, &pace);
    machine.on(Input::Drained, 1, &pace);
    machine.on(Input::Timer, seconds(6), &pace);
    assert_eq!(machine.phase(), Phase::Open);
}
