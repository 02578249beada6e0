//! Reading back: pages and keys over the borders of segments, what they cost, and what damage makes of them.

use banter_protocol::ids::{Epoch, Sequence};

use crate::PAGE_BYTES;
use crate::index::HEADER_BYTES;
use crate::journal::Answer;
use crate::reading::{LogFile, PageRead, PageWant, ReadFault};
use crate::record::RecordKind;
use crate::rig::{Post, RUN, Rig, frames, want, want_in};

mod cost;
mod faults;
mod keys;
mod page;
mod races;
mod states;

/// The header, four posts of a block each, and a proof.
const FOUR_POSTS: u64 = 6 * PAGE_BYTES as u64;

/// "lobby" over five sealed segments and the one that is written.
fn over_segments() -> Rig {
    let mut rig = Rig::new(FOUR_POSTS);
    rig.post(1..=22);
    assert_eq!(rig.indexes.len(), 5);
    rig
}

fn page(sequences: std::ops::RangeInclusive<u64>) -> Result<PageRead, ReadFault> {
    let (first, through) = (Sequence(*sequences.start()), Sequence(*sequences.end()));
    let count = sequences.clone().count() as u32;
    Ok(PageRead { messages: frames(sequences), count, first, through })
}

/// Numbers that look like chance, by Knuth's MMIX; the low bits are left out, since they hardly change.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const STRANGERS: [&str; 5] = ["one", "two", "three", "four", "five"];

/// A log of commits of many records of strangers, with records of "lobby" between them; `gap` strangers at most from one
/// to the next. Returns what "lobby" has.
fn mixed(rig: &mut Rig, count: u64, gap: u64, seed: u64) -> Vec<Post> {
    let mut chance = Chance(seed);
    let (mut posts, mut batch, mut heads) = (Vec::new(), Vec::new(), [0; STRANGERS.len()]);
    while (posts.len() as u64) < count {
        for _ in 0..chance.below(gap + 1) {
            let room = chance.below(STRANGERS.len() as u64) as usize;
            heads[room] += 1;
            let body_bytes = chance.below(300) as usize;
            batch.push(Post { room: STRANGERS[room], body_bytes, ..Post::at(heads[room]) });
        }
        let post = mixed_post(posts.len() as u64 + 1, &mut chance);
        if chance.below(10) == 0 {
            batch.push(Post { kind: RecordKind::State, ..Post::at(post.sequence - 1) });
        }
        batch.push(post);
        posts.push(post);
        if chance.below(6) == 0 || batch.len() > 100 || posts.len() as u64 == count {
            rig.commit(&std::mem::take(&mut batch));
        }
    }
    posts
}

/// Any kind that has a place, of any size.
fn mixed_post(sequence: u64, chance: &mut Chance) -> Post {
    let kind = match chance.below(12) {
        0 => RecordKind::Change,
        1 => RecordKind::Tombstone,
        _ => RecordKind::Message,
    };
    let body_bytes = match chance.below(40) {
        0 => 5_000,
        1..=4 => 0,
        _ => chance.below(400) as usize,
    };
    Post { kind, body_bytes, is_keyed: kind == RecordKind::Message && sequence.is_multiple_of(3), ..Post::at(sequence) }
}

fn frames_of(posts: &[Post]) -> Vec<u8> {
    posts.iter().flat_map(|post| post.frame_of(1)).collect()
}

fn flip(file: &mut [u8], bit: usize) {
    file[bit / 8] ^= 1 << (bit % 8);
}
