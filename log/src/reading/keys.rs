//! The keys of a room's newest posts: from its newest part back, as many pieces as the window takes.

use std::collections::BTreeMap;

use banter_protocol::ids::{RoomId, Sequence};

use super::find::{Looked, PartLook, Place, doubtful_index};
use super::{KeysRead, KeysWant, LogFile, Shelf, Step};
use crate::PAGE_BYTES;
use crate::erasure::Erasure;
use crate::index::keys;
use crate::key::{KeyedPost, KnownKey};

/// Keys being read.
#[derive(Debug)]
pub(super) struct KeysReading {
    room: RoomId,
    want: KeysWant,
    read: KeysRead,
    /// How many there are of each author.
    authors: BTreeMap<u64, u32>,
    /// The oldest place that was read: what an older part says of later ones was given again.
    before: Sequence,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begin,
    Look(PartLook),
    Keys(Place, u64),
    End,
}

impl KeysReading {
    pub(super) fn new(room: RoomId, want: KeysWant) -> Self {
        let mut keys = KeysReading {
            room,
            want,
            read: KeysRead::default(),
            authors: BTreeMap::new(),
            before: Sequence(u64::MAX),
            stage: Stage::Begin,
        };
        keys.begin_anew();
        keys
    }

    pub(super) fn begin_anew(&mut self) {
        (self.read, self.authors) = (KeysRead::default(), BTreeMap::new());
        (self.before, self.stage) = (Sequence(u64::MAX), Stage::Begin);
    }

    pub(super) fn go(&mut self, shelf: Shelf<'_>) -> Step {
        loop {
            let went = match &mut self.stage {
                Stage::Begin => {
                    let newest = shelf.catalog.room(self.room).map(|room| room.newest_segment);
                    self.stage = newest.map_or(Stage::End, |segment| Stage::Look(PartLook::new(segment)));
                    Ok(())
                }
                Stage::Look(look) => {
                    let segment = look.segment;
                    look.go(self.room, shelf).and_then(|looked| self.begin_part(segment, looked, shelf))
                }
                Stage::Keys(place, offset) => {
                    let (place, offset) = (*place, *offset);
                    self.piece(place, offset, shelf)
                }
                Stage::End => return Step::Keys(std::mem::take(&mut self.read)),
            };
            if let Err(step) = went {
                return step;
            }
        }
    }

    fn begin_part(&mut self, segment: u64, looked: Looked, shelf: Shelf<'_>) -> Result<(), Step> {
        let Looked::Found(part) = looked else {
            self.stage = Stage::End;
            return Ok(());
        };
        if shelf.catalog.clock_ms(segment, part.newest_ms) < self.want.since_ms {
            self.stage = Stage::End;
            return Ok(());
        }
        let place = Place { segment, part, last: part.last.min(self.before.previous()) };
        if let Some(index) = shelf.index_of(segment) {
            let keys = index.room(self.room).map_or(&[][..], |room| &room.keys);
            let goes_on = self.take_all(keys.iter().rev(), &place, shelf);
            self.end_part(&place, goes_on);
        } else {
            self.stage = Stage::Keys(place, part.details.keys_offset());
        }
        Ok(())
    }

    fn piece(&mut self, place: Place, offset: u64, shelf: Shelf<'_>) -> Result<(), Step> {
        let details = place.part.details;
        if offset >= details.end_offset() {
            self.end_part(&place, true);
            return Ok(());
        }
        let Some(header) = shelf.segment(place.segment) else {
            self.stage = Stage::End;
            return Ok(());
        };
        let end = offset.saturating_add(PAGE_BYTES as u64).min(details.end_offset());
        let bytes = shelf.bytes(place.segment, LogFile::Index, offset..end)?;
        let Some((keys, length)) = keys::read(&bytes, header.nonce) else {
            return Err(doubtful_index(place.segment, offset));
        };
        if self.take_all(keys.iter(), &place, shelf) {
            self.stage = Stage::Keys(place, offset + length as u64);
        } else {
            self.end_part(&place, false);
        }
        Ok(())
    }

    fn end_part(&mut self, place: &Place, goes_on: bool) {
        self.before = self.before.min(place.part.first);
        let before = place.part.chain.before;
        self.stage = if goes_on && before != 0 && before < place.segment {
            Stage::Look(PartLook::new(before))
        } else {
            Stage::End
        };
    }

    /// Takes keys, newest first; whether older ones may count too.
    fn take_all<'k>(&mut self, keys: impl Iterator<Item = &'k KeyedPost>, place: &Place, shelf: Shelf<'_>) -> bool {
        let erased: Vec<_> = shelf.catalog.erasures().of(self.room).iter().map(Erasure::keys).collect();
        let is_erased = |key: &KeyedPost| erased.iter().any(|keys| keys.holds(key));
        for &post in keys.filter(|key| key.sequence <= place.last.0) {
            let clock_ms = shelf.catalog.clock_ms(place.segment, post.time_ms);
            if clock_ms < self.want.since_ms {
                return false;
            }
            if !is_erased(&post) && !self.add(KnownKey { post, clock_ms }) {
                return false;
            }
        }
        true
    }

    /// Takes a key, unless its author has enough; `false`: there are enough of all.
    fn add(&mut self, key: KnownKey) -> bool {
        let of_author = self.authors.entry(key.post.fingerprint.author()).or_default();
        if *of_author >= self.want.keys_per_author_max {
            return true;
        }
        if self.read.keys.len() >= self.want.keys_max {
            self.read.left_out += 1;
            return false;
        }
        *of_author += 1;
        self.read.keys.push(key);
        true
    }
}
