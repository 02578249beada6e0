//! Seeded fuzz of every parser, on the stable toolchain: good bytes that are changed, cut and put together at random.
//!
//! For every input: nothing panics, a stream reads the same however it is cut, all of the input is taken or something
//! is handed out, and memory is bounded by the bytes that came and by the limits.
//!
//! `BANTER_FUZZ_ITERATIONS` and `BANTER_FUZZ_SEED` choose how many inputs and which; a failure prints the command that
//! replays it. `scripts/fuzz.sh` runs many.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::sync::OnceLock;

use banter_protocol::fault::PeerFault;
use banter_protocol::frame::{Frame, FrameKind, FrameReader, Frames, HEADER_BYTES, PREAMBLE};
use banter_protocol::http::{HEAD_BYTES_MAX, Head, parse_head};
use banter_protocol::ingress::{Incoming, Ingress};
use banter_protocol::request::{Ask, Body, BodyFormat, Request};
use banter_protocol::websocket::{Role, WebSocketReader};
use banter_protocol::wire::{SUBPROTOCOL_RKYV, WireForm};
use banter_protocol::{json, native};
use banter_tests::golden;
use banter_tests::seeded::Seeded;

/// Inputs of each test in `cargo test`: a second or two each in a debug build.
const ITERATIONS: u64 = 4_000;
const SEED: u64 = 1;

/// Counts the bytes that each thread has allocated.
struct Counting;

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no counters left, and nobody asks for them.
    let _ = LIVE_BYTES.try_with(|live| {
        live.set(live.get() + bytes);
        PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(live.get())))
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches only plain cells of this thread, which
// need no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live_bytes() -> isize {
    LIVE_BYTES.get()
}

/// What `run` gives, and by how much memory rose at most while it ran.
fn with_peak<T>(run: impl FnOnce() -> T) -> (T, isize) {
    let before = live_bytes();
    PEAK_BYTES.set(before);
    let value = run();
    (value, PEAK_BYTES.get() - before)
}

/// Says how to replay an input, if it was the one that failed.
struct Replay {
    test: &'static str,
    seed: u64,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { test, seed } = self;
            eprintln!(
                "replay: BANTER_FUZZ_SEED={seed} BANTER_FUZZ_ITERATIONS=1 cargo test -p banter-tests --test fuzz {test}"
            );
        }
    }
}

fn number_from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

/// Runs `one` for each seed. It says whether the input was taken as good: both must happen, or the test shows nothing.
fn fuzz(test: &'static str, one: impl Fn(&mut Seeded) -> bool) {
    let iterations = number_from_environment("BANTER_FUZZ_ITERATIONS").unwrap_or(ITERATIONS);
    let first = number_from_environment("BANTER_FUZZ_SEED").unwrap_or(SEED);
    let mut good = 0;
    for seed in first..first.saturating_add(iterations) {
        let _replay = Replay { test, seed };
        good += u64::from(one(&mut Seeded::new(seed)));
    }
    println!("{test}: {iterations} inputs, {good} of them good");
    if iterations >= ITERATIONS {
        assert!((iterations / 20..iterations * 19 / 20).contains(&good), "{good} of {iterations} inputs were good");
    }
}

// Inputs.

fn native_frames() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| golden::all().into_iter().map(|file| file.bytes).collect())
}

fn native_requests() -> &'static [Vec<u8>] {
    static FRAMES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    FRAMES.get_or_init(|| native_frames().iter().filter(|frame| frame[4] < 64).cloned().collect())
}

fn texts() -> &'static [String] {
    static TEXTS: OnceLock<Vec<String>> = OnceLock::new();
    TEXTS.get_or_init(|| {
        let files = golden::all().into_iter().filter(|file| file.bytes[4] < 64);
        let mut texts: Vec<String> = files.map(|file| file.json).collect();
        texts.extend(
            [
                r#"{"type":"post","room":"\u0061\ud83d\ude00\"\\","body":[[[{"a":[1.5e-7,true,null]}]],"[[{"],"key":"é"}"#,
                r#" { "id" : 9007199254740991 , "type" : "signal" , "room" : "r" , "body" : null } "#,
                r#"{"type":"join","room":"r","after":null,"last":18446744073709551615,"echo":null,"presence":true}"#,
            ]
            .map(str::to_owned),
        );
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        texts.extend([64, 65, 500].map(|depth| format!(r#"{{"type":"post","room":"r","body":{}}}"#, nested(depth))));
        texts
    })
}

const HEADS: [&str; 5] = [
    "GET /ws HTTP/1.1\r\nHost: h:1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "GET /ws?a=b HTTP/1.1\r\nHost: h\r\nOrigin: https://h\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: other, banter.rkyv.v1\r\nSec-WebSocket-Protocol: banter.json.v1\r\n\r\n",
    "GET /metrics HTTP/1.1\r\nhost: h\r\nuser-agent: x\r\naccept: */*\r\n\r\n",
    "POST http://h/x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
];

const WORDS: [&[u8]; 12] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"Host: x\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\"id\":",
    b"\"body\":",
    b"{\"",
    b"\\u0000",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\xed\xa0\x80",
];

/// Changes bytes at random places; now and then none, so that good inputs stay.
fn mutate(bytes: &mut Vec<u8>, seeded: &mut Seeded) {
    let changes = *seeded.pick(&[0, 0, 1, 1, 1, 2, 4, 16]);
    for _ in 0..changes {
        let at = seeded.below(bytes.len() + 1);
        let longest = *seeded.pick(&[1, 8, 64]);
        let until = (at + seeded.below(1 + longest)).min(bytes.len());
        match seeded.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << seeded.below(8),
            2 if at < bytes.len() => bytes[at] = seeded.number() as u8,
            3 => drop(bytes.drain(at..until)),
            4 => {
                let again = bytes[at..until].to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let length = seeded.below(9);
                let random = seeded.bytes(length);
                bytes.splice(at..at, random);
            }
            6 => drop(bytes.splice(at..at, seeded.pick(&WORDS).iter().copied())),
            7 if seeded.once_in(4) => bytes.truncate(at),
            _ => {}
        }
    }
}

/// A client's WebSocket frame whose fields may be anything; mostly it is what a good client sends.
fn websocket_frame(is_final: bool, opcode: u8, payload: &[u8], role: Role, seeded: &mut Seeded) -> Vec<u8> {
    let is_masked = (role == Role::Server) != seeded.once_in(200);
    let mask_bit = if is_masked { 0x80 } else { 0 };
    let reserved = if seeded.once_in(200) { 1 << (4 + seeded.below(3)) } else { 0 };
    let mut frame = vec![(u8::from(is_final) << 7) | reserved | opcode];
    let length = payload.len() as u64;
    match seeded.below(200) {
        0 => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&seeded.number().to_be_bytes());
        }
        1 => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ if length < 126 => frame.push(mask_bit | length as u8),
        _ if length < 65_536 => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    let mask = if is_masked { (seeded.number() as u32).to_le_bytes() } else { [0; 4] };
    if is_masked {
        frame.extend_from_slice(&mask);
    }
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A message in one frame or in fragments, with control frames between them.
fn websocket_message(payload: &[u8], opcode: u8, role: Role, stream: &mut Vec<u8>, seeded: &mut Seeded) {
    let mut opcode = opcode;
    let mut rest = payload;
    while seeded.once_in(3) {
        let (first, behind) = rest.split_at(seeded.below(rest.len() + 1));
        stream.extend(websocket_frame(false, opcode, first, role, seeded));
        (opcode, rest) = (0, behind);
        if seeded.once_in(2) {
            let length = seeded.below(126);
            let (control, payload) = (*seeded.pick(&[9, 10]), seeded.bytes(length));
            stream.extend(websocket_frame(true, control, &payload, role, seeded));
        }
    }
    stream.extend(websocket_frame(true, opcode, rest, role, seeded));
    if seeded.once_in(50) {
        let payload = *seeded.pick::<&[u8]>(&[b"", b"\x03\xe8", b"\x03\xe9bye", b"\x03", b"\0\0", b"\x03\xe8\xff"]);
        stream.extend(websocket_frame(true, 8, payload, role, seeded));
    }
}

/// Some requests as messages of a WebSocket.
fn websocket_stream(form: WireForm, role: Role, seeded: &mut Seeded) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..1 + seeded.below(4) {
        let (opcode, mut payload) = match form {
            WireForm::Json => (1, seeded.pick(texts()).clone().into_bytes()),
            _ => (2, seeded.pick(native_requests()).clone()),
        };
        if seeded.once_in(3) {
            mutate(&mut payload, seeded);
        }
        if seeded.once_in(20) {
            payload.resize(payload.len() + *seeded.pick(&[1, 100, 5_000, 70_000]), b' ');
        }
        let opcode = if seeded.once_in(40) { seeded.below(16) as u8 } else { opcode };
        websocket_message(&payload, opcode, role, &mut stream, seeded);
    }
    stream
}

fn native_stream(frames: &[Vec<u8>], seeded: &mut Seeded) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..1 + seeded.below(5) {
        let mut frame = seeded.pick(frames).clone();
        if seeded.once_in(30) {
            let body = Body { format: BodyFormat::Bytes, bytes: &[b'x'; 70_000][..seeded.below(70_000)] };
            let ask = Ask::Post { room: "lobby".into(), body, key: None };
            frame.clear();
            native::write_request(&Request { id: None, ask }, &mut frame);
        } else if seeded.once_in(3) {
            // The payload alone, with its right length.
            let mut payload = frame.split_off(HEADER_BYTES);
            mutate(&mut payload, seeded);
            frame[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
            frame.append(&mut payload);
        }
        stream.append(&mut frame);
    }
    stream
}

// Streams.

/// A reader of a byte stream, and what it makes of it.
trait Reader {
    type Fault: Debug + PartialEq;

    /// Reads once, and gives what came as a text.
    fn read(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), Self::Fault>;
}

impl Reader for FrameReader {
    type Fault = PeerFault;

    fn read(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), PeerFault> {
        let (used, frame) = FrameReader::read(self, input)?;
        Ok((used, frame.map(|frame| format!("{frame:?}"))))
    }
}

impl Reader for WebSocketReader {
    type Fault = banter_protocol::websocket::WebSocketFault;

    fn read(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), Self::Fault> {
        let (used, incoming) = WebSocketReader::read(self, input)?;
        Ok((used, incoming.map(|incoming| format!("{incoming:?}"))))
    }
}

impl Reader for Ingress {
    type Fault = PeerFault;

    fn read(&mut self, input: &mut [u8]) -> Result<(usize, Option<String>), PeerFault> {
        let (used, incoming) = Ingress::read(self, input)?;
        let upgrade = match &incoming {
            Some(Incoming::Http(request)) => request.upgrade,
            _ => None,
        };
        let form = upgrade.map(|upgrade| match upgrade.subprotocols.iter().any(|name| name == SUBPROTOCOL_RKYV) {
            true => WireForm::WebSocketRkyv,
            false => WireForm::Json,
        });
        let text = incoming.map(|incoming| format!("{incoming:?}"));
        if let Some(form) = form {
            self.accept_websocket(form);
        }
        Ok((used, text))
    }
}

/// What a stream gave: each thing, and what ended it.
type Seen<F> = (Vec<String>, Option<F>);

/// Reads a stream in parts, and checks after each read what the reader took and what it holds.
fn read_in_parts<R: Reader>(
    make: &impl Fn() -> R,
    stream: &[u8],
    parts: &[usize],
    kept_bytes_max: usize,
) -> Seen<R::Fault> {
    let mut input = stream.to_vec();
    let mut seen = Vec::new();
    let before = live_bytes();
    let mut seen_bytes = 0;
    let mut reader = make();
    let (mut at, mut end) = (0, 0);
    for part in parts {
        end += part;
        loop {
            let left = end - at;
            let (used, text) = match reader.read(&mut input[at..end]) {
                Ok(read) => read,
                Err(fault) => return (seen, Some(fault)),
            };
            assert!(used <= left, "{used} of {left} bytes were taken");
            at += used;
            let Some(text) = text else {
                assert_eq!(used, left, "with nothing, all is taken");
                break;
            };
            assert!(used > 0, "{text} was made of nothing");
            let without = live_bytes() - text.capacity() as isize;
            seen.push(text);
            seen_bytes += live_bytes() - without;
        }
        // A vector may be twice as long as what it holds; the rest is what a reader needs besides.
        let kept_bytes = live_bytes() - before - seen_bytes;
        let bytes_max = 2 * at.min(kept_bytes_max) + 512;
        assert!(kept_bytes <= bytes_max as isize, "{kept_bytes} bytes are kept of {at}, at most {bytes_max} may");
    }
    (seen, None)
}

/// Reads a stream whole and cut, which must be the same. Gives what there was.
fn read_stream<R: Reader>(
    make: impl Fn() -> R,
    stream: &[u8],
    kept_bytes_max: usize,
    seeded: &mut Seeded,
) -> Seen<R::Fault> {
    let whole = read_in_parts(&make, stream, &[stream.len()], kept_bytes_max);
    for _ in 0..2 {
        let parts = seeded.parts(stream.len());
        let cut = read_in_parts(&make, stream, &parts, kept_bytes_max);
        assert_eq!(cut, whole, "in parts of {parts:?}: {:?}", stream.escape_ascii().to_string());
    }
    whole
}

#[test]
fn frame_reader() {
    fuzz("frame_reader", |seeded| {
        let payload_bytes_max = *seeded.pick(&[0, 60, 100, 5_000, u32::MAX]);
        let mut stream = native_stream(native_frames(), seeded);
        if seeded.once_in(2) {
            mutate(&mut stream, seeded);
        }
        let kept_bytes_max = HEADER_BYTES.saturating_add(payload_bytes_max as usize);
        let (seen, fault) = read_stream(|| FrameReader::new(payload_bytes_max), &stream, kept_bytes_max, seeded);
        // A second opinion: what can be walked in memory.
        let mut rest = &stream[..];
        for text in &seen {
            let (frame, used) = Frame::read(rest, payload_bytes_max).expect("the reader found a frame");
            assert_eq!(&format!("{frame:?}"), text);
            rest = &rest[used..];
        }
        assert_eq!(Frame::read(rest, payload_bytes_max).err(), fault.clone().or(Some(PeerFault::FrameTruncated)));
        // The frames of a page are the same walk, and it ends.
        assert!(Frames(&stream).count() <= stream.len() / HEADER_BYTES + 1);
        fault.is_none()
    });
}

#[test]
fn websocket_reader() {
    fuzz("websocket_reader", |seeded| {
        let message_bytes_max = *seeded.pick(&[0, 100, 1_000, 65_536, 1 << 20]);
        let role = *seeded.pick(&[Role::Server, Role::Client]);
        let form = *seeded.pick(&[WireForm::Json, WireForm::WebSocketRkyv]);
        let mut stream = websocket_stream(form, role, seeded);
        if seeded.once_in(3) {
            mutate(&mut stream, seeded);
        }
        // A cut control frame may lie beside the fragments of a message.
        let kept_bytes_max = message_bytes_max as usize + 125;
        let (_, fault) = read_stream(|| WebSocketReader::new(role, message_bytes_max), &stream, kept_bytes_max, seeded);
        fault.is_none()
    });
}

#[test]
fn ingress() {
    fuzz("ingress", |seeded| {
        let frame_bytes_max = *seeded.pick(&[64, 1_024, 65_536]);
        let mut stream = match seeded.below(20) {
            0 => {
                let length = seeded.below(40);
                seeded.bytes(length)
            }
            1 => [HEADS[seeded.below(HEADS.len())].repeat(1 + seeded.below(80)), "x".repeat(20)].concat().into_bytes(),
            2 => format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(seeded.below(HEAD_BYTES_MAX * 2))).into_bytes(),
            3..9 => [&PREAMBLE[..], &native_stream(native_requests(), seeded)].concat(),
            9..15 => [HEADS[0].as_bytes(), &websocket_stream(WireForm::Json, Role::Server, seeded)].concat(),
            _ => [HEADS[1].as_bytes(), &websocket_stream(WireForm::WebSocketRkyv, Role::Server, seeded)].concat(),
        };
        if seeded.once_in(3) {
            mutate(&mut stream, seeded);
        }
        let kept_bytes_max = HEAD_BYTES_MAX.max(frame_bytes_max as usize + 125 + HEADER_BYTES);
        let (_, fault) = read_stream(|| Ingress::new(frame_bytes_max), &stream, kept_bytes_max, seeded);
        fault.is_none()
    });
}

// Whole things.

#[test]
fn http_head() {
    fuzz("http_head", |seeded| {
        let mut bytes = seeded.pick(&HEADS).as_bytes().to_vec();
        mutate(&mut bytes, seeded);
        if seeded.once_in(20) {
            let line = *seeded.pick(&["x: y\r\n", "Connection: upgrade,,\r\n", "Sec-WebSocket-Protocol: a, b\r\n"]);
            let lines = line.repeat(seeded.below(120)).into_bytes();
            if let Some(at) = bytes.windows(2).position(|pair| pair == b"\r\n") {
                bytes.splice(at + 2..at + 2, lines);
            }
        }
        let (parsed, peak) = with_peak(|| parse_head(&bytes));
        assert_eq!(peak, 0, "a head is parsed without allocating");
        let Ok(Head::Complete { consumed, request }) = parsed else { return false };
        assert!(consumed <= bytes.len());
        if let Some(upgrade) = &request.upgrade {
            assert!(upgrade.subprotocols.iter().all(|name| !name.is_empty() && name.is_ascii()));
        }
        for end in 0..consumed {
            assert_eq!(parse_head(&bytes[..end]), Ok(Head::Partial), "a part of a good head is no fault");
        }
        assert_eq!(parse_head(&bytes[..consumed]), parsed, "what is behind a head does not change it");
        true
    });
}

/// Checks what was read from JSON: a body is a JSON value, and the native form says the same.
fn check_request(request: &Request<'_>) {
    if let Ask::Post { body, .. } | Ask::Signal { body, .. } = &request.ask {
        assert_eq!(json::check_value(body.bytes), Ok(()));
        assert_eq!(body.bytes.trim_ascii(), body.bytes);
    }
    let optional = match &request.ask {
        Ask::Post { key, .. } => key,
        Ask::Hello { token, .. } => token,
        _ => &None,
    };
    if optional.as_deref() == Some("") {
        return; // In the native form an empty text is none.
    }
    let mut bytes = Vec::new();
    native::write_request(request, &mut bytes);
    let (frame, used) = Frame::read(&bytes, u32::MAX).expect("what was written is a frame");
    assert_eq!(used, bytes.len());
    assert_eq!(native::read_request(frame).as_ref(), Ok(request));
}

#[test]
fn json_request() {
    fuzz("json_request", |seeded| {
        let mut bytes = seeded.pick(texts()).clone().into_bytes();
        mutate(&mut bytes, seeded);
        let text = String::from_utf8_lossy(&bytes);
        let (read, peak) = with_peak(|| json::read_request(&text));
        // Unescaped texts, the parser's stack of brackets, a message: each no longer than what it is made of.
        assert!(peak <= 4 * text.len() as isize + 4_096, "{peak} bytes for a text of {}", text.len());
        let spaced = format!("\t{text}\r\n ");
        let again = json::read_request(&spaced);
        match &read {
            Ok(request) => {
                check_request(request);
                assert_eq!(again.as_ref(), Ok(request), "white space around a request is nothing");
            }
            Err(fault) => {
                assert!(fault.message.len() < 300, "{}", fault.message);
                assert_eq!(again.map_err(|fault| fault.id), Err(fault.id));
            }
        }
        read.is_ok()
    });
}

/// Writes an event as JSON, and reads that with another parser.
fn check_json(write: impl FnOnce(&mut Vec<u8>), body: Option<Body<'_>>) {
    let mut text = Vec::new();
    write(&mut text);
    // What is said to be a JSON body was checked when it was posted, and is not again.
    if body.is_none_or(|body| body.format == BodyFormat::Bytes || json::check_value(body.bytes).is_ok())
        && let Err(error) = serde_json::from_slice::<&serde_json::value::RawValue>(&text)
    {
        panic!("{error}: {}", text.escape_ascii());
    }
}

#[test]
fn rkyv_access() {
    fuzz("rkyv_access", |seeded| {
        let mut bytes = seeded.pick(native_frames()).clone();
        // At any address, and with room in front for the mutations.
        let kind = if seeded.once_in(4) {
            *seeded.pick(FrameKind::ALL)
        } else {
            FrameKind::from_number(bytes[4]).expect("golden")
        };
        let mut payload = bytes.split_off(HEADER_BYTES);
        mutate(&mut payload, seeded);
        bytes[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[4] = kind as u8;
        bytes.append(&mut payload);
        let shift = seeded.below(8);
        bytes.splice(0..0, vec![0; shift]);
        let whole = &bytes[shift..];
        let (frame, _) = Frame::read(whole, u32::MAX).expect("the header is good");

        let ((request, event, message), peak) =
            with_peak(|| (native::read_request(frame), native::read_event(frame), native::read_message(whole)));
        assert!(peak <= 1_024, "{peak} bytes to read an archive in place");
        if let Ok(request) = &request {
            if let Ask::Post { body, .. } | Ask::Signal { body, .. } = &request.ask
                && body.format == BodyFormat::Json
            {
                assert_eq!(json::check_value(body.bytes), Ok(()));
            }
            let mut again = Vec::new();
            native::write_request(request, &mut again);
            let (frame, _) = Frame::read(&again, u32::MAX).expect("what was written is a frame");
            assert_eq!(native::read_request(frame).as_ref(), Ok(request));
        }
        if let Ok(event) = &event {
            let mut again = Vec::new();
            native::write_event(event, &mut again);
            let (frame, _) = Frame::read(&again, u32::MAX).expect("what was written is a frame");
            assert_eq!(native::read_event(frame).as_ref(), Ok(event));
        }
        if let Ok(message) = &message {
            check_json(|out| json::write_message(message, out), Some(message.body));
            let as_event = event.as_ref().map(|event| format!("{event:?}"));
            assert_eq!(as_event, Ok(format!("Message({message:?})")));
        }
        request.is_ok() || event.is_ok()
    });
}
