//! The cursor of a feed as text: which log it is of, and how far it was read.
//!
//! ```text
//!  bytes   [ form 1 ][ log 8 ][ run ][ drops ][ lanes ][ core, hours, bytes, segment, page, record ]…[ CRC-32C 4 ]
//!  text    base64url of these; numbers without a width are LEB128
//! ```
//!
//! It names blocks by where they lie: a segment that is rewritten without what was erased keeps its layout.

use banter_log::PAGE_BYTES;
use banter_log::segment::Class;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::position::{Lane, Place, Position};

/// The form that this build writes, and the only one it reads.
const FORM: u8 = 1;
const SUM_BYTES: usize = 4;
/// Lanes of a cursor at most: cores times classes.
const LANES_MAX: u64 = 65_536;
/// Bytes of a number at most.
const NUMBER_BYTES_MAX: u32 = 10;

/// How far a feed has read, and of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The log.
    pub log: u64,
    /// What tells whether anything was dropped since.
    pub drops: u64,
    /// How far.
    pub position: Position,
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no cursor of a feed, or was damaged on its way")]
pub struct CursorFault;

impl Cursor {
    /// Its text.
    pub fn encode(&self) -> String {
        let mut bytes = vec![FORM];
        bytes.extend_from_slice(&self.log.to_le_bytes());
        let Position { run, lanes } = &self.position;
        for number in [*run, self.drops, lanes.len() as u64] {
            write_number(number, &mut bytes);
        }
        for (Lane { core, class }, Place { segment, offset, record }) in lanes {
            let page = offset / PAGE_BYTES as u64;
            for number in [u64::from(*core), class.hours.into(), class.bytes, *segment, page, u64::from(*record)] {
                write_number(number, &mut bytes);
            }
        }
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// It is none of those that [`Cursor::encode`] writes.
    pub fn decode(text: &str) -> Result<Self, CursorFault> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorFault)?;
        let (summed, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or(CursorFault)?;
        if crc32c::crc32c(summed) != u32::from_le_bytes(*sum) {
            return Err(CursorFault);
        }
        Self::read(summed).ok_or(CursorFault)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (&form, rest) = bytes.split_first()?;
        let (log, mut rest) = rest.split_first_chunk::<8>()?;
        if form != FORM {
            return None;
        }
        let rest = &mut rest;
        let (run, drops, count) = (read_number(rest)?, read_number(rest)?, read_number(rest)?);
        let mut position = Position { run, ..Position::default() };
        for _ in 0..Some(count).filter(|&count| count <= LANES_MAX)? {
            let core = u16::try_from(read_number(rest)?).ok()?;
            let class = Class { hours: u32::try_from(read_number(rest)?).ok()?, bytes: read_number(rest)? };
            let segment = read_number(rest)?;
            let offset = read_number(rest)?.checked_mul(PAGE_BYTES as u64)?;
            let record = u32::try_from(read_number(rest)?).ok()?;
            position.lanes.insert(Lane { core, class }, Place { segment, offset, record });
        }
        rest.is_empty().then_some(Cursor { log: u64::from_le_bytes(*log), drops, position })
    }
}

fn write_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for at in 0..NUMBER_BYTES_MAX {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // The tenth byte holds one bit.
        number |= part.checked_shl(7 * at).filter(|shifted| shifted >> (7 * at) == part)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(lanes: u16) -> Cursor {
        let place =
            |core: u16| Place { segment: 1 << (core % 60), offset: 4_096 * u64::from(core), record: core.into() };
        let lane = |core: u16| Lane { core, class: Class { hours: core.into(), bytes: u64::MAX >> (core % 64) } };
        let lanes = (0..lanes).map(|core| (lane(core), place(core))).collect();
        Cursor { log: 0xfedc_ba98_7654_3210, drops: u64::MAX, position: Position { run: 1 << 52, lanes } }
    }

    #[test]
    fn a_cursor_comes_back_as_it_was_written() {
        for lanes in [0, 1, 2, 300] {
            assert_eq!(Cursor::decode(&cursor(lanes).encode()), Ok(cursor(lanes)));
        }
        let done = Place::first_of(7).done();
        let lanes = [(Lane { core: 0, class: Class::SERVER }, done)].into();
        let done = Cursor { position: Position { run: 3, lanes }, ..cursor(0) };
        assert_eq!(Cursor::decode(&done.encode()), Ok(done));
    }

    #[test]
    fn what_is_damaged_cut_or_none_at_all_is_refused() {
        let text = cursor(2).encode();
        for at in 0..text.len() {
            assert_eq!(Cursor::decode(&text[..at]), Err(CursorFault), "{at}");
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(Cursor::decode(std::str::from_utf8(&damaged).unwrap()), Err(CursorFault), "{at}");
        }
        for text in ["", "start", "=", "\u{e4}"] {
            assert_eq!(Cursor::decode(text), Err(CursorFault), "{text}");
        }
    }

    #[test]
    fn a_right_sum_makes_no_cursor_of_wrong_numbers() {
        let sealed = |bytes: &[u8]| {
            let sum = crc32c::crc32c(bytes).to_le_bytes();
            Cursor::decode(&URL_SAFE_NO_PAD.encode([bytes, &sum].concat()))
        };
        let head = [&[FORM][..], &[0; 8], &[1, 1]].concat();
        let with = |rest: &[u8]| sealed(&[&head[..], rest].concat());
        assert!(with(&[0]).is_ok());
        for (why, rest) in [
            ("more lanes than are there", &[1][..]),
            ("more lanes than there may be", &[0x81, 0x80, 0x04]),
            ("bytes behind the end", &[0, 0]),
            ("a core beyond 16 bits", &[1, 0x80, 0x80, 0x04, 0, 0, 1, 1, 0]),
            ("a page beyond 64 bits", &[1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0]),
            ("a number of eleven bytes", &[0x80; 11]),
            ("a number beyond 64 bits", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
        ] {
            assert_eq!(with(rest), Err(CursorFault), "{why}");
        }
        let later = [&[FORM + 1][..], &head[1..], &[0]].concat();
        assert_eq!(sealed(&later), Err(CursorFault), "a later form");
    }
}
