//! The native frame: an 8-byte header and an rkyv archive, and the reader that cuts a byte stream into frames.
//!
//! ```text
//!  offset  size  field
//!       0     4  payload length in bytes, unsigned little-endian; the header is not counted
//!       4     1  kind (see `FrameKind`)
//!       5     1  version of the format: 1
//!       6     2  reserved: 0
//!       8     n  payload: an rkyv archive, its root at the end
//! ```
//!
//! A frame may start at any address: the archives are unaligned. The same bytes are a record of the log.

use crate::fault::PeerFault;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 8;
/// Where the kind lies in it.
pub(crate) const KIND_OFFSET: usize = 4;
/// The version of the format that this build writes, and the only one it reads.
pub const VERSION: u8 = 1;
/// Kinds from here on are events.
const EVENT_KIND_MIN: u8 = 64;
/// What a native TCP client sends first. The first byte starts no HTTP request, and the line end shows a connection
/// that "repairs" text (PNG's trick); the last byte is the version.
pub const PREAMBLE: [u8; 8] = [0xBA, b'N', b'T', b'R', b'\r', b'\n', 0x00, VERSION];

macro_rules! frame_kinds {
    ($($(#[$meta:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame holds. Requests are below 64, events above.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FrameKind { $($(#[$meta])* $name = $number,)* }

        impl FrameKind {
            /// The kind of that number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(FrameKind::$name),)* _ => None }
            }

            /// Every kind.
            pub const ALL: &'static [FrameKind] = &[$(FrameKind::$name,)*];
        }
    };
}

frame_kinds! {
    /// Request: who this is.
    Hello = 1,
    /// Request: read a room.
    Join = 2,
    /// Request: say something.
    Post = 3,
    /// Request: read the history.
    Fetch = 4,
    /// Request: tell something that is not kept.
    TellSignal = 5,
    /// Request: who is there.
    AskMembers = 6,
    /// Request: stop reading a room.
    Leave = 7,
    /// Request: is anybody there.
    Ping = 8,
    /// Request: go on with another token.
    Renew = 9,
    /// Event: answer to hello.
    Welcome = 65,
    /// Event: answer to join.
    Joined = 66,
    /// Event: answer to post.
    Posted = 67,
    /// Event: answer to fetch.
    Page = 68,
    /// Event: answer to members.
    Members = 69,
    /// Event: answer to leave.
    Left = 70,
    /// Event: answer to ping.
    Pong = 71,
    /// Event: a message; also what the history keeps.
    Message = 72,
    /// Event: a signal.
    Signal = 73,
    /// Event: somebody came or went.
    Presence = 74,
    /// Event: a hole in the history; also what the history keeps in the place of a message that was erased.
    Gap = 75,
    /// Event: the server is stopping.
    Closing = 76,
    /// Event: a refusal.
    Error = 77,
    /// Event: answer with anything, or be closed as idle.
    KeepAlive = 78,
    /// Kept in the log: something other than a message that has a place. Readers that do not know it are told a gap.
    Change = 79,
    /// Kept in the log, and never sent: the state of a room.
    State = 80,
    /// Event: answer to renew.
    Renewed = 81,
    /// Event: the token ends soon.
    Expiring = 82,
    /// Event: a room is read no longer.
    Removed = 83,
    /// Event: answer to a post that the room's program kept for itself.
    Taken = 84,
    /// Kept in the log, and never sent: a message that some classes of readers are shown another body of.
    Viewed = 85,
    /// Event: which other nodes there are.
    Nodes = 86,
}

impl FrameKind {
    /// Whether a server of this version sends it; the others are in the log only.
    pub fn is_sent(self) -> bool {
        !matches!(self, FrameKind::Change | FrameKind::State | FrameKind::Viewed)
    }
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes behind the header.
    pub payload_bytes: u32,
    /// What they hold.
    pub kind: FrameKind,
}

impl FrameHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// Unknown kind or version, reserved bits, or a payload above the limit: all from the header alone.
    pub fn read(bytes: [u8; HEADER_BYTES], payload_bytes_max: u32) -> Result<Self, PeerFault> {
        let [a, b, c, d, kind, version, reserved @ ..] = bytes;
        if version != VERSION {
            return Err(PeerFault::FrameVersion(version));
        }
        let kind = FrameKind::from_number(kind).ok_or(PeerFault::FrameKind(kind))?;
        if reserved != [0, 0] {
            return Err(PeerFault::FrameReserved);
        }
        let payload_bytes = u32::from_le_bytes([a, b, c, d]);
        if payload_bytes > payload_bytes_max {
            return Err(PeerFault::FrameTooLarge { bytes: payload_bytes.into(), bytes_max: payload_bytes_max.into() });
        }
        Ok(FrameHeader { payload_bytes, kind })
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = self.payload_bytes.to_le_bytes();
        [a, b, c, d, self.kind as u8, VERSION, 0, 0]
    }

    /// Bytes of header and payload.
    pub fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.payload_bytes as usize
    }
}

/// A whole frame, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it holds.
    pub kind: FrameKind,
    /// The archive.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame at the front of `bytes`, and how many bytes it took.
    ///
    /// # Errors
    /// A bad header, or fewer bytes than it says.
    pub fn read(bytes: &'a [u8], payload_bytes_max: u32) -> Result<(Self, usize), PeerFault> {
        let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(PeerFault::FrameTruncated)?;
        let header = FrameHeader::read(*header, payload_bytes_max)?;
        let payload = bytes.get(HEADER_BYTES..header.frame_bytes()).ok_or(PeerFault::FrameTruncated)?;
        Ok((Frame { kind: header.kind, payload }, header.frame_bytes()))
    }
}

/// The frames of a byte string that holds whole frames one after another, as a page does.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a>(pub &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    /// A frame's bytes with its header, or why the rest cannot be read.
    type Item = Result<&'a [u8], PeerFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match Frame::read(self.0, u32::MAX) {
            Ok((_, used)) => {
                let (frame, rest) = self.0.split_at(used);
                self.0 = rest;
                Some(Ok(frame))
            }
            Err(fault) => {
                self.0 = &[];
                Some(Err(fault))
            }
        }
    }
}

/// Cuts a byte stream into frames. A whole frame is borrowed from the input; only a cut one is kept, and the buffer
/// grows with the bytes that came, not with the length that was announced.
#[derive(Debug)]
pub struct FrameReader {
    /// Boxed and none between frames, since nearly every reader of an idle server has no bytes here.
    #[expect(clippy::box_collection, reason = "the reader of an idle connection is 16 bytes smaller for it")]
    partial: Option<Box<Vec<u8>>>,
    /// The frame in `partial` was handed out, and goes at the next call.
    handed_out: bool,
    payload_bytes_max: u32,
    /// Events of a kind that this build does not know are passed over, and are no fault.
    passes_over_unknown: bool,
    /// Bytes to come of such an event.
    pass_over_bytes: usize,
}

impl FrameReader {
    /// A reader of frames with payloads up to the limit.
    pub fn new(payload_bytes_max: u32) -> Self {
        let (partial, handed_out) = (None, false);
        FrameReader { partial, handed_out, payload_bytes_max, passes_over_unknown: false, pass_over_bytes: 0 }
    }

    /// A client's reader: it passes over events of kinds that only a later server knows, and keeps nothing of them.
    pub fn of_events(payload_bytes_max: u32) -> Self {
        FrameReader { passes_over_unknown: true, ..FrameReader::new(payload_bytes_max) }
    }

    /// Reads at most one frame from the front of `input`, and says how many bytes it took. Without a frame all of
    /// `input` was taken and kept, or [`FrameReader::of_events`] passed over what it took.
    ///
    /// # Errors
    /// A bad header: the stream means nothing from here on.
    pub fn read<'a>(&'a mut self, input: &'a [u8]) -> Result<(usize, Option<Frame<'a>>), PeerFault> {
        self.release();
        if self.passes_over_unknown
            && let used @ 1.. = self.pass_over(input)?
        {
            return Ok((used, None));
        }
        if self.partial.is_none() {
            return match Frame::read(input, self.payload_bytes_max) {
                Ok((frame, used)) => Ok((used, Some(frame))),
                Err(PeerFault::FrameTruncated) => {
                    self.partial = (!input.is_empty()).then(|| Box::new(input.to_vec()));
                    Ok((input.len(), None))
                }
                Err(fault) => Err(fault),
            };
        }
        let partial = self.partial.get_or_insert_default();
        let mut used = 0;
        if partial.len() < HEADER_BYTES {
            used = keep(partial, input, HEADER_BYTES);
        }
        let Some(header) = partial.first_chunk::<HEADER_BYTES>() else { return Ok((used, None)) };
        let header = FrameHeader::read(*header, self.payload_bytes_max)?;
        used += keep(partial, &input[used..], header.frame_bytes());
        if partial.len() < header.frame_bytes() {
            return Ok((used, None));
        }
        self.handed_out = true;
        Ok((used, Some(Frame { kind: header.kind, payload: &partial[HEADER_BYTES..] })))
    }

    /// Takes bytes of an unknown event, if it is one that comes next, and says how many.
    fn pass_over(&mut self, input: &[u8]) -> Result<usize, PeerFault> {
        if self.pass_over_bytes == 0 {
            let Some(mut header) = self.header_ahead(input) else { return Ok(0) };
            let kind = header[KIND_OFFSET];
            if kind < EVENT_KIND_MIN || FrameKind::from_number(kind).is_some_and(FrameKind::is_sent) {
                return Ok(0);
            }
            // The rest of the header, its length above all, has to be as right as any other's.
            header[KIND_OFFSET] = FrameKind::KeepAlive as u8;
            let frame_bytes = FrameHeader::read(header, self.payload_bytes_max)?.frame_bytes();
            self.pass_over_bytes = frame_bytes - self.partial.take().map_or(0, |partial| partial.len());
        }
        let used = input.len().min(self.pass_over_bytes);
        self.pass_over_bytes -= used;
        Ok(used)
    }

    /// The header of the frame that comes next, once what was kept and `input` hold all of it.
    fn header_ahead(&self, input: &[u8]) -> Option<[u8; HEADER_BYTES]> {
        let mut bytes = self.partial.iter().flat_map(|partial| partial.iter()).chain(input);
        let mut header = [0; HEADER_BYTES];
        for byte in &mut header {
            *byte = *bytes.next()?;
        }
        Some(header)
    }

    /// Frees the frame that the last [`FrameReader::read`] handed out, if it was kept here.
    pub fn release(&mut self) {
        if self.handed_out {
            self.handed_out = false;
            self.partial = None;
        }
    }

    /// Whether a cut frame is being kept, or the rest of an event that is passed over has yet to come.
    pub fn is_partial(&self) -> bool {
        self.pass_over_bytes > 0 || (!self.handed_out && self.partial.is_some())
    }
}

/// Moves bytes to `partial` until it holds `wanted`, and says how many.
fn keep(partial: &mut Vec<u8>, input: &[u8], wanted: usize) -> usize {
    let taken = input.len().min(wanted.saturating_sub(partial.len()));
    partial.extend_from_slice(&input[..taken]);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = FrameHeader { payload_bytes: payload.len() as u32, kind }.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn every_way_to_cut_a_stream_gives_the_same_frames() {
        let mut stream = frame(FrameKind::Ping, b"");
        stream.extend(frame(FrameKind::Post, b"hello"));
        stream.extend(frame(FrameKind::Leave, &[7; 40]));
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut reader = FrameReader::new(64);
                let mut seen = Vec::new();
                for mut part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    while !part.is_empty() {
                        let (used, frame) = reader.read(part).unwrap();
                        if let Some(frame) = frame {
                            seen.push((frame.kind, frame.payload.to_vec()));
                        }
                        part = &part[used..];
                    }
                }
                assert_eq!(
                    seen,
                    [(FrameKind::Ping, vec![]), (FrameKind::Post, b"hello".to_vec()), (FrameKind::Leave, vec![7; 40])],
                    "cut at {first} and {second}"
                );
                assert!(!reader.is_partial());
            }
        }
    }

    #[test]
    fn a_bad_header_is_refused_before_its_payload_comes() {
        let good = FrameHeader { payload_bytes: 64, kind: FrameKind::Post }.to_bytes();
        let mut reader = FrameReader::new(64);
        assert_eq!(reader.read(&good), Ok((8, None)));

        let large = FrameHeader { payload_bytes: 65, kind: FrameKind::Post }.to_bytes();
        let fault = PeerFault::FrameTooLarge { bytes: 65, bytes_max: 64 };
        assert_eq!(FrameReader::new(64).read(&large), Err(fault.clone()));
        // The same when the header itself comes in two parts.
        let mut reader = FrameReader::new(64);
        assert_eq!(reader.read(&large[..3]), Ok((3, None)));
        assert_eq!(reader.read(&large[3..]), Err(fault));

        for (offset, value, fault) in [
            (4, 200, PeerFault::FrameKind(200)),
            (5, 2, PeerFault::FrameVersion(2)),
            (6, 1, PeerFault::FrameReserved),
            (7, 1, PeerFault::FrameReserved),
        ] {
            let mut bad = good;
            bad[offset] = value;
            assert_eq!(FrameReader::new(64).read(&bad), Err(fault));
        }
    }

    /// A frame of a kind that no build of this version knows.
    fn unknown(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = frame(FrameKind::Pong, payload);
        bytes[KIND_OFFSET] = kind;
        bytes
    }

    fn read_in_parts(reader: &mut FrameReader, parts: &[&[u8]]) -> Result<Vec<FrameKind>, PeerFault> {
        let mut kinds = Vec::new();
        for mut part in parts.iter().copied() {
            while !part.is_empty() {
                let (used, frame) = reader.read(part)?;
                kinds.extend(frame.map(|frame| frame.kind));
                part = &part[used..];
            }
        }
        Ok(kinds)
    }

    #[test]
    fn a_clients_reader_passes_over_unknown_events_however_the_stream_is_cut() {
        let known = frame(FrameKind::Gap, b"gap");
        let stream = [&known[..], &unknown(79, b"later"), &unknown(255, b""), &known, &unknown(64, &[9; 30])].concat();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let mut reader = FrameReader::of_events(64);
                let parts = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(read_in_parts(&mut reader, &parts), Ok(vec![FrameKind::Gap; 2]), "{first} {second}");
                assert!(!reader.is_partial());
            }
        }
        let mut reader = FrameReader::of_events(64);
        read_in_parts(&mut reader, &[&stream[..stream.len() - 1]]).unwrap();
        assert!(reader.is_partial());
    }

    #[test]
    fn a_clients_reader_still_refuses_what_is_no_event_or_too_large() {
        let read = |bytes: &[u8]| read_in_parts(&mut FrameReader::of_events(64), &[bytes]);
        assert_eq!(read(&unknown(63, b"")), Err(PeerFault::FrameKind(63)));
        assert_eq!(read(&unknown(79, &[0; 65])), Err(PeerFault::FrameTooLarge { bytes: 65, bytes_max: 64 }));
        let mut other_version = unknown(79, b"");
        other_version[KIND_OFFSET + 1] = 2;
        assert_eq!(read(&other_version), Err(PeerFault::FrameVersion(2)));
    }

    #[test]
    fn an_announced_length_allocates_nothing_by_itself() {
        let mut reader = FrameReader::new(16 << 20);
        let header = FrameHeader { payload_bytes: 16 << 20, kind: FrameKind::Post }.to_bytes();
        reader.read(&header).unwrap();
        assert!(reader.partial.unwrap().capacity() < 1024);
    }

    #[test]
    fn frames_of_a_page_are_walked_and_a_torn_page_is_told() {
        let mut page = frame(FrameKind::Message, b"one");
        page.extend(frame(FrameKind::Message, b"three"));
        assert_eq!(Frames(&page).map(|frame| frame.unwrap().len()).collect::<Vec<_>>(), [11, 13]);
        let torn = &page[..page.len() - 1];
        assert_eq!(Frames(torn).last(), Some(Err(PeerFault::FrameTruncated)));
    }
}
