//! The keyed posts of a room in a segment, in pieces from the newest to the oldest, so that a dedupe window is read with
//! no more than it takes.
//!
//! ```text
//!  piece   [ header 28 ][ author 8 ]…[ key 20 ]…           at most 4 KiB; the newest piece and the newest key come first
//!  header  [ newest sequence 8 ][ newest time 8 ][ keys 2 ][ authors 2 ][ bytes of the piece 4 ][ sum 4 ]
//!  key     [ sequence 3 ][ time 4 ][ author's number 1 ][ key 8 ][ body 4 ]      sequence and time: how far below the newest
//! ```
//!
//! A time that is 49 days or more below the newest of its piece is said as that much: no window is as long.

use super::sum_with;
use crate::PAGE_BYTES;
use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::key::{Fingerprint, KeyedPost};

const HEADER_BYTES: usize = 28;
const SUM_AT: usize = 24;
const AUTHOR_BYTES: usize = 8;
const KEY_BYTES: usize = 20;
/// Authors of a piece at most: their numbers have one byte.
const AUTHORS_MAX: usize = 256;
/// A piece spans no more places than three bytes say.
const PLACES_MAX: u64 = 1 << 24;

/// Appends the pieces of keyed posts, which ascend; says how many bytes they take.
pub fn write(keys: &[KeyedPost], nonce: u64, out: &mut Vec<u8>) -> u32 {
    let start = out.len();
    let mut rest = keys;
    while let Some(newest) = rest.last() {
        let (taken, authors) = piece_of(rest, newest.sequence);
        let (before, piece) = rest.split_at(rest.len() - taken);
        rest = before;
        write_piece(piece, &authors, nonce, out);
    }
    (out.len() - start) as u32
}

/// How many of the newest keys make the next piece, and their authors.
fn piece_of(keys: &[KeyedPost], newest: u64) -> (usize, Vec<u64>) {
    let (mut taken, mut authors) = (0, Vec::new());
    for key in keys.iter().rev() {
        let author = key.fingerprint.author();
        let is_new = !authors.contains(&author);
        let authors_count = authors.len() + usize::from(is_new);
        let bytes = HEADER_BYTES + authors_count * AUTHOR_BYTES + (taken + 1) * KEY_BYTES;
        if bytes > PAGE_BYTES || authors_count > AUTHORS_MAX || newest.saturating_sub(key.sequence) >= PLACES_MAX {
            break;
        }
        if is_new {
            authors.push(author);
        }
        taken += 1;
    }
    (taken, authors)
}

fn write_piece(keys: &[KeyedPost], authors: &[u64], nonce: u64, out: &mut Vec<u8>) {
    let start = out.len();
    let newest_sequence = keys.last().map_or(0, |key| key.sequence);
    let newest_ms = keys.iter().map(|key| key.time_ms).max().unwrap_or(0);
    let bytes = HEADER_BYTES + authors.len() * AUTHOR_BYTES + keys.len() * KEY_BYTES;
    out.extend_from_slice(&newest_sequence.to_le_bytes());
    out.extend_from_slice(&newest_ms.to_le_bytes());
    out.extend_from_slice(&(keys.len() as u16).to_le_bytes());
    out.extend_from_slice(&(authors.len() as u16).to_le_bytes());
    out.extend_from_slice(&(bytes as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    authors.iter().for_each(|author| out.extend_from_slice(&author.to_le_bytes()));
    for key in keys.iter().rev() {
        let author = authors.iter().position(|&author| author == key.fingerprint.author()).unwrap_or(0);
        let below = u32::try_from(newest_ms - key.time_ms).unwrap_or(u32::MAX);
        out.extend_from_slice(&((newest_sequence - key.sequence) as u32).to_le_bytes()[..3]);
        out.extend_from_slice(&below.to_le_bytes());
        out.push(author as u8);
        out.extend_from_slice(&(key.fingerprint.0 as u64).to_le_bytes());
        out.extend_from_slice(&key.body.to_le_bytes());
    }
    let sum = sum_of(&out[start..], nonce);
    out[start + SUM_AT..start + HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
}

fn sum_of(piece: &[u8], nonce: u64) -> u32 {
    crc32c::crc32c_append(sum_with(nonce, &piece[..SUM_AT]), &piece[HEADER_BYTES..])
}

/// Reads the piece that starts with these bytes: its keys, newest first, and how many bytes it has. `None` if it does not
/// check.
pub fn read(bytes: &[u8], nonce: u64) -> Option<(Vec<KeyedPost>, usize)> {
    let (newest_sequence, newest_ms) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
    let (keys, authors) = (usize::from(u16_at(bytes, 16)?), usize::from(u16_at(bytes, 18)?));
    let keys_at = HEADER_BYTES + authors * AUTHOR_BYTES;
    let length = keys_at + keys * KEY_BYTES;
    let piece = bytes.get(..length).filter(|_| u32_at(bytes, 20) == Some(length as u32))?;
    if sum_of(piece, nonce) != u32_at(piece, SUM_AT)? {
        return None;
    }
    let read_key = |key: &[u8]| {
        let [a, b, c] = array(key, 0)?;
        let author = u64_at(piece, HEADER_BYTES + usize::from(key[7]) * AUTHOR_BYTES)?;
        Some(KeyedPost {
            sequence: newest_sequence.checked_sub(u32::from_le_bytes([a, b, c, 0]).into())?,
            time_ms: newest_ms.saturating_sub(u32_at(key, 3)?.into()),
            fingerprint: Fingerprint(u128::from(author) << 64 | u128::from(u64_at(key, 8)?)),
            body: u32_at(key, 16)?,
        })
    };
    let keys = piece[keys_at..].chunks_exact(KEY_BYTES).map(read_key).collect::<Option<_>>()?;
    Some((keys, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u64 = 5;

    fn key(sequence: u64, author: u64) -> KeyedPost {
        KeyedPost {
            sequence,
            time_ms: 1_000 + sequence * 3,
            fingerprint: Fingerprint(u128::from(author) << 64 | u128::from(sequence * 77)),
            body: sequence as u32 * 3,
        }
    }

    fn read_all(mut bytes: &[u8]) -> (Vec<KeyedPost>, usize) {
        let (mut all, mut pieces) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let (keys, length) = read(bytes, NONCE).unwrap();
            assert!(length <= PAGE_BYTES && !keys.is_empty());
            all.extend(keys);
            (bytes, pieces) = (&bytes[length..], pieces + 1);
        }
        (all, pieces)
    }

    #[test]
    fn keys_come_back_newest_first_and_take_22_bytes_each_where_authors_repeat() {
        for (authors, bytes_max) in [(1, 21), (50, 23), (100_000, 29)] {
            let keys: Vec<KeyedPost> = (1..=5_000).map(|sequence| key(sequence, sequence % authors)).collect();
            let mut out = Vec::new();
            assert_eq!(write(&keys, NONCE, &mut out) as usize, out.len());
            assert!(out.len() <= 5_000 * bytes_max, "{} for {authors} authors", out.len());
            let newest_first: Vec<KeyedPost> = keys.into_iter().rev().collect();
            assert_eq!(read_all(&out).0, newest_first);
        }
        assert_eq!(write(&[], NONCE, &mut Vec::new()), 0);
    }

    #[test]
    fn places_far_apart_lie_in_pieces_of_their_own_and_old_times_are_only_old() {
        let mut keys = vec![key(1, 1), key(2, 2), key(PLACES_MAX + 1, 3), key(PLACES_MAX + 2, 3)];
        keys[3].time_ms = u64::from(u32::MAX) * 3;
        let mut out = Vec::new();
        write(&keys, NONCE, &mut out);
        let (read, pieces) = read_all(&out);
        assert_eq!((read.len(), pieces), (4, 2));
        assert_eq!((read[0], read[2], read[3]), (keys[3], keys[1], keys[0]));
        assert_eq!(read[1].time_ms, u64::from(u32::MAX) * 2, "as old as can be said");
        let of_time_zero = KeyedPost { time_ms: u64::MAX, ..keys[0] };
        let mut out = Vec::new();
        write(&[of_time_zero, KeyedPost { time_ms: 0, ..keys[1] }], NONCE, &mut out);
        assert_eq!(read_all(&out).0.len(), 2, "no times are a fault");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_piece_is_seen() {
        let keys: Vec<KeyedPost> = (1..=5).map(|sequence| key(sequence, sequence)).collect();
        let mut out = Vec::new();
        write(&keys, NONCE, &mut out);
        assert_eq!(read(&out, NONCE + 1), None);
        for bit in 0..out.len() * 8 {
            let mut flipped = out.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&flipped, NONCE), None, "bit {bit}");
        }
        for length in 0..out.len() {
            assert_eq!(read(&out[..length], NONCE), None);
        }
    }
}
