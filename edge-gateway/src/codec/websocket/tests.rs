//! Frames as clients send them, whole and in pieces.

use proptest::prelude::*;

use super::*;

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A frame as a client sends it.
fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ ..=125 => frame.push(MASKED | short as u8),
        middle @ ..=0xffff => {
            frame.push(MASKED | 126);
            frame.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            frame.push(MASKED | 127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ MASK[index % 4]));
    frame
}

/// Five bytes of payload whose length takes `width` bytes.
fn long_form(width: usize) -> Vec<u8> {
    let mut frame = vec![0x82, MASKED | if width == 2 { 126 } else { 127 }];
    frame.extend_from_slice(&5_u64.to_be_bytes()[8 - width..]);
    frame.extend_from_slice(&[0; 9]);
    frame
}

/// Decodes the bytes in pieces of `size`; returns every frame and the violation that ended it, if one did.
fn read(bytes: &[u8], size: usize) -> (Vec<String>, Option<Violation>) {
    let mut decoder = Decoder::default();
    let mut frames = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        let result = decoder.read(piece, |frame| {
            frames.push(format!("{frame:?}"));
            true
        });
        if let Err(violation) = result {
            return (frames, Some(violation));
        }
        assert!(decoder.partial.len() <= UNMASKED_HEADER + MASK.len() + MAX_CONTROL);
    }
    (frames, None)
}

#[test]
fn good_frames_are_read_in_pieces_of_any_size() {
    let close = [&1000_u16.to_be_bytes()[..], b"bye"].concat();
    let accents = [client(0x01, b"caf\xc3"), client(0x80, b"\xa9 \xe2\x82\xac")].concat();
    let table: [(&str, Vec<u8>, &[&str]); 15] = [
        ("text with a character in two frames", accents, &["Data", "Data"]),
        ("binary that is not UTF-8", client(0x82, b"\xc0\xaf"), &["Data"]),
        ("empty ping", client(0x89, b""), &["Ping([])"]),
        ("ping with payload", client(0x89, b"ab"), &["Ping([97, 98])"]),
        ("pong", client(0x8a, b"x"), &["Pong(None)"]),
        ("numbered pong", client(0x8a, &7_u64.to_be_bytes()), &["Pong(Some(7))"]),
        ("text", client(0x81, b"hello"), &["Data"]),
        ("empty text", client(0x81, b""), &["Data"]),
        ("binary over 64 bytes", client(0x82, &[7; 65]), &["Data"]),
        ("the longest message", client(0x82, &[7; 4096]), &["Data"]),
        (
            "a ping within a fragmented message",
            [client(0x01, b"a"), client(0x89, b""), client(0x00, b"b"), client(0x80, b"c")].concat(),
            &["Data", "Ping([])", "Data", "Data"],
        ),
        ("close", client(0x88, &close), &["Close(Some((1000, \"bye\")))"]),
        ("close without code", client(0x88, b""), &["Close(None)"]),
        ("application's close code", client(0x88, &4001_u16.to_be_bytes()), &["Close(Some((4001, \"\")))"]),
        ("two pings", [client(0x89, b"1"), client(0x89, b"2")].concat(), &["Ping([49])", "Ping([50])"]),
    ];
    for (name, bytes, expected) in table {
        for size in 1..=bytes.len().min(40) {
            let (frames, violation) = read(&bytes, size);
            assert_eq!(frames, expected, "{name} in pieces of {size}");
            assert_eq!(violation, None, "{name} in pieces of {size}");
        }
    }
}

#[test]
fn violations_are_named() {
    let unmasked = vec![0x81, 0x01, b'a'];
    let huge = [&[0x82, MASKED | 127][..], &(1_u64 << 40).to_be_bytes(), &MASK].concat();
    let negative = [&[0x82, MASKED | 127][..], &u64::MAX.to_be_bytes(), &MASK].concat();
    let many = [client(0x01, &[0; 3000]), client(0x00, &[0; 3000])].concat();
    let bad_utf8 = [&1000_u16.to_be_bytes()[..], &[0xff, 0xfe]].concat();
    let in_second = [client(0x01, b"caf\xc3"), client(0x89, b""), client(0x80, b"t\xe9")].concat();
    let cut_off = [client(0x01, b"caf\xc3"), client(0x80, b"")].concat();
    let table: [(&str, Vec<u8>, Violation); 21] = [
        ("not masked", unmasked, Violation::Protocol("frame not masked")),
        ("reserved bit", client(0xc1, b""), Violation::Protocol("reserved bits set")),
        ("unknown data opcode", client(0x83, b""), Violation::Protocol("unknown opcode")),
        ("unknown control opcode", client(0x8b, b""), Violation::Protocol("unknown opcode")),
        ("fragmented ping", client(0x09, b""), Violation::Protocol("fragmented control frame")),
        ("long ping", client(0x89, &[0; 126]), Violation::Protocol("control frame too long")),
        ("continuation of nothing", client(0x80, b""), Violation::Protocol("nothing to continue")),
        (
            "text in text",
            [client(0x01, b""), client(0x81, b"")].concat(),
            Violation::Protocol("message not finished"),
        ),
        ("too big", client(0x82, &[0; 4097]), Violation::TooBig),
        ("announced too big", huge, Violation::TooBig),
        ("too big together", many, Violation::TooBig),
        ("length over 63 bits", negative, Violation::Protocol("bad length")),
        ("text that is not UTF-8", client(0x81, b"\xc0\xaf"), Violation::NotText),
        ("text that is not UTF-8 in its second frame", in_second, Violation::NotText),
        ("text that ends within a character", cut_off, Violation::NotText),
        ("length of 5 in 16 bits", long_form(2), Violation::Protocol("length not in its shortest form")),
        ("length of 5 in 64 bits", long_form(8), Violation::Protocol("length not in its shortest form")),
        ("close of one byte", client(0x88, b"x"), Violation::Protocol("bad close frame")),
        (
            "close code that must not be sent",
            client(0x88, &1005_u16.to_be_bytes()),
            Violation::Protocol("bad close code"),
        ),
        (
            "close code below the first",
            client(0x88, &999_u16.to_be_bytes()),
            Violation::Protocol("bad close code"),
        ),
        ("close reason that is not UTF-8", client(0x88, &bad_utf8), Violation::NotText),
    ];
    for (name, bytes, expected) in table {
        for size in [1, 3, bytes.len()] {
            assert_eq!(read(&bytes, size).1, Some(expected), "{name} in pieces of {size}");
        }
    }
}

#[test]
fn frames_are_built_with_the_shortest_length() {
    assert_eq!(text_frame(b"hi").as_ref(), b"\x81\x02hi");
    assert_eq!(text_frame(&[b'a'; 126])[..4], [0x81, 126, 0, 126]);
    assert_eq!(text_frame(&[b'a'; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    let mut out = Vec::new();
    put_ping(&mut out);
    put_pong(b"x", &mut out);
    put_close(Some(1002), "no", &mut out);
    put_close(None, "", &mut out);
    assert_eq!(out, b"\x89\x00\x8a\x01x\x88\x04\x03\xeano\x88\x00");
}

/// The first byte and the payload of an unfragmented frame.
fn any_frame() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let first = prop::sample::select(vec![0x82_u8, 0x89, 0x8a]);
    (first, prop::collection::vec(any::<u8>(), 0..126))
}

proptest! {
    #[test]
    fn junk_never_panics_and_is_read_alike_in_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        size in 1..20_usize,
    ) {
        prop_assert_eq!(read(&bytes, size), read(&bytes, bytes.len()));
    }

    #[test]
    fn good_frames_in_a_row_are_all_read(
        payloads in prop::collection::vec(any_frame(), 0..20),
        size in 1..64_usize,
    ) {
        let bytes: Vec<u8> = payloads.iter().flat_map(|(first, payload)| client(*first, payload)).collect();
        let (frames, violation) = read(&bytes, size);
        prop_assert_eq!(frames.len(), payloads.len());
        prop_assert_eq!(violation, None);
    }
}

#[test]
fn texts_are_delivered_whole_where_they_are_kept() {
    // A text in two frames with a ping between them, an empty one, a binary message, and one more text.
    let bytes = [
        client(0x01, b"caf\xc3"),
        client(0x89, b""),
        client(0x80, b"\xa9"),
        client(0x81, b""),
        client(0x82, b"binary"),
        client(0x81, &[b'x'; 200]),
    ]
    .concat();
    for size in [1, 2, 3, 7, 64, bytes.len()] {
        let mut decoder = Decoder::keeping();
        let mut texts = Vec::new();
        for piece in bytes.chunks(size) {
            let result = decoder.read(piece, |frame| {
                if let Incoming::Text(text) = frame {
                    texts.push(text.to_vec());
                }
                true
            });
            assert_eq!(result, Ok(()));
        }
        assert!(decoder.is_idle(), "nothing is held between messages");
        assert_eq!(texts, ["caf\u{e9}".as_bytes().to_vec(), Vec::new(), vec![b'x'; 200]], "{size}");
    }
    let longest = client(0x81, &vec![b'x'; MAX_KEPT as usize]);
    assert_eq!(Decoder::keeping().read(&longest, |_| true), Ok(()));
    let longer = client(0x81, &vec![b'x'; MAX_KEPT as usize + 1]);
    assert_eq!(Decoder::keeping().read(&longer, |_| true), Err(Violation::TooBig));
    assert_eq!(Decoder::default().read(&longest, |_| true), Err(Violation::TooBig), "kept for nobody else");
}
