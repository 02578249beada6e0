//! Follows what a server says on a WebSocket without keeping it: a hostile connection only wants to know when it was
//! answered.

/// Bytes of a text that are kept: enough for its type.
const OPENING_BYTES: usize = 24;
/// What ends an HTTP answer's head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What a text was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The answer to a request of a room.
    Answer,
    /// A refusal.
    Refusal,
    /// Anything else.
    Other,
}

/// Where a connection's bytes are.
#[derive(Clone, Debug, Default)]
pub struct Skim {
    head_end_bytes: usize,
    header: Vec<u8>,
    payload_left_bytes: u64,
    opening: Vec<u8>,
}

impl Skim {
    /// Bytes came: `told` is told what each frame was that ended with them.
    pub fn read(&mut self, mut bytes: &[u8], mut told: impl FnMut(Told)) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.head_end_bytes < HEAD_END.len() {
                self.read_head(first);
                bytes = rest;
            } else if self.payload_left_bytes > 0 {
                bytes = self.read_payload(bytes);
                if self.payload_left_bytes == 0 {
                    told(judge(&self.opening));
                }
            } else {
                self.read_header(first);
                bytes = rest;
            }
        }
    }

    fn read_head(&mut self, byte: u8) {
        let is_next = byte == HEAD_END[self.head_end_bytes];
        self.head_end_bytes = if is_next { self.head_end_bytes + 1 } else { usize::from(byte == HEAD_END[0]) };
    }

    fn read_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let taken = usize::try_from(self.payload_left_bytes).map_or(bytes.len(), |left| left.min(bytes.len()));
        let kept = (OPENING_BYTES - self.opening.len()).min(taken);
        self.opening.extend_from_slice(&bytes[..kept]);
        self.payload_left_bytes -= taken as u64;
        &bytes[taken..]
    }

    fn read_header(&mut self, byte: u8) {
        self.header.push(byte);
        let length_bytes = match self.header.get(1) {
            None => return,
            Some(126) => 2,
            Some(127) => 8,
            Some(_) => 0,
        };
        if self.header.len() < 2 + length_bytes {
            return;
        }
        let long = self.header[2..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        self.payload_left_bytes = if length_bytes == 0 { self.header[1].into() } else { long };
        self.header.clear();
        self.opening.clear();
    }
}

fn judge(opening: &[u8]) -> Told {
    let Some(kind) = opening.strip_prefix(br#"{"type":""#) else { return Told::Other };
    let is = |name: &[u8]| kind.strip_prefix(name).is_some_and(|rest| rest.starts_with(b"\""));
    if is(b"error") {
        Told::Refusal
    } else if [b"joined".as_slice(), b"left", b"page", b"members"].into_iter().any(is) {
        Told::Answer
    } else {
        Told::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banter_protocol::websocket::{FrameKind, write_frame_header};

    fn stream() -> Vec<u8> {
        let mut stream = b"HTTP/1.1 101 Switching\r\nA: b\r\n\r\n".to_vec();
        let long = format!(r#"{{"type":"page","id":3,"messages":["{}"]}}"#, "x".repeat(70_000));
        let texts = [r#"{"type":"welcome"}"#, &long, r#"{"type":"message","body":"joined"}"#, r#"{"type":"error"}"#];
        for text in texts.into_iter().chain([&*format!(r#"{{"type":"left","room":"{}"}}"#, "y".repeat(200))]) {
            write_frame_header(&mut stream, FrameKind::Text, text.len());
            stream.extend_from_slice(text.as_bytes());
        }
        write_frame_header(&mut stream, FrameKind::Pong, 0);
        stream
    }

    #[test]
    fn a_stream_in_pieces_of_any_size_tells_the_same() {
        let stream = stream();
        for piece_bytes in [1, 2, 3, 7, 1000, stream.len()] {
            let (mut skim, mut told) = (Skim::default(), Vec::new());
            stream.chunks(piece_bytes).for_each(|piece| skim.read(piece, |one| told.push(one)));
            assert_eq!(
                told,
                [Told::Other, Told::Answer, Told::Other, Told::Refusal, Told::Answer],
                "pieces of {piece_bytes}"
            );
        }
    }
}
