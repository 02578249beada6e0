//! Word lists: whether a text has one of them, and a text with them masked. Takes time in proportion to the text.
//!
//! A word is a run of letters and digits; case makes no difference. An entry of several words is found where they follow each
//! other, whatever stands between them.

use rustc_hash::{FxHashMap, FxHashSet};

/// Words of an entry at most: as many are looked at ahead from each word of a text.
const ENTRY_WORDS_MAX: usize = 8;
/// Bytes of a word that is looked up; no entry is longer.
const WORD_BYTES_MAX: usize = 128;

/// A list of words.
#[derive(Debug)]
pub struct Words {
    single: FxHashSet<Box<str>>,
    /// By their first word, the longest first: what follows it.
    several: FxHashMap<Box<str>, Vec<Vec<Box<str>>>>,
    /// By its first byte: the lengths that an ASCII word has which an entry begins with, a bit each, the last for all that are
    /// longer. Most words of a text are told from all entries by that, and are not looked up.
    beginnings: [u64; 128],
}

/// Why an entry is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no word: an entry has 1 to {ENTRY_WORDS_MAX} words of letters and digits, each of {WORD_BYTES_MAX} bytes at most"
)]
pub struct NoWord(pub String);

/// One word of a text, as the bytes that it has there.
#[derive(Clone, Copy)]
struct Place {
    begin: usize,
    end: usize,
    is_ascii: bool,
}

/// ASCII letters and digits.
const IS_LETTER: [bool; 256] = {
    let mut is_letter = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        is_letter[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    is_letter
};

fn length_bit(word: &str) -> u64 {
    1 << (word.len().clamp(1, 64) - 1)
}

impl Words {
    /// Of those entries.
    ///
    /// # Errors
    /// One has no word, or too many, or too long ones.
    pub fn new<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, NoWord> {
        let mut words = Words { single: FxHashSet::default(), several: FxHashMap::default(), beginnings: [0; 128] };
        for entry in entries {
            let mut folded = Vec::new();
            let mut places = Places { text: entry, at: 0 };
            while let Some(place) = places.next() {
                folded.push(fold(&entry[place.begin..place.end]).ok_or_else(|| NoWord(entry.to_owned()))?);
            }
            if folded.is_empty() || folded.len() > ENTRY_WORDS_MAX {
                return Err(NoWord(entry.to_owned()));
            }
            let first = folded.remove(0);
            if first.is_ascii() {
                words.beginnings[usize::from(first.as_bytes()[0])] |= length_bit(&first);
            }
            if folded.is_empty() {
                words.single.insert(first);
            } else {
                words.several.entry(first).or_default().push(folded);
            }
        }
        words.several.values_mut().for_each(|list| list.sort_by_key(|rest| std::cmp::Reverse(rest.len())));
        Ok(words)
    }

    /// Whether one of them is in the text.
    pub fn has(&self, text: &str) -> bool {
        let mut places = Places { text, at: 0 };
        std::iter::from_fn(|| places.next()).any(|place| self.end_of(text, place).is_some())
    }

    /// Writes the text with each letter and digit of them as `mask`; how many there were. Where there are none, nothing is written.
    pub fn mask(&self, text: &str, mask: char, out: &mut String) -> u32 {
        let mut places = Places { text, at: 0 };
        let (mut count, mut kept) = (0, 0);
        while let Some(place) = places.next() {
            let Some(end) = self.end_of(text, place) else { continue };
            if count == 0 {
                out.clear();
            }
            count += 1;
            out.push_str(&text[kept..place.begin]);
            out.extend(text[place.begin..end].chars().map(|c| if c.is_alphanumeric() { mask } else { c }));
            (kept, places.at) = (end, end);
        }
        if count > 0 {
            out.push_str(&text[kept..]);
        }
        count
    }

    /// Whether an entry may begin with that ASCII word.
    fn may_begin(&self, word: &str) -> bool {
        let first = word.as_bytes().first().map_or(0, |first| usize::from(first.to_ascii_lowercase()));
        self.beginnings.get(first).is_some_and(|lengths| lengths & length_bit(word) != 0)
    }

    /// The end of the entry that begins with that word.
    fn end_of(&self, text: &str, first: Place) -> Option<usize> {
        let word = &text[first.begin..first.end];
        if first.is_ascii && !self.may_begin(word) {
            return None;
        }
        with_folded(word, |word| {
            let several = if self.several.is_empty() { None } else { self.several.get(word) };
            let longer = several.and_then(|list| list.iter().find_map(|rest| end_of_rest(text, first.end, rest)));
            longer.or_else(|| self.single.contains(word).then_some(first.end))
        })
        .flatten()
    }
}

fn end_of_rest(text: &str, from: usize, rest: &[Box<str>]) -> Option<usize> {
    let mut places = Places { text, at: from };
    let mut end = from;
    for word in rest {
        let place = places.next()?;
        if with_folded(&text[place.begin..place.end], |folded| folded == &**word) != Some(true) {
            return None;
        }
        end = place.end;
    }
    Some(end)
}

fn fold(word: &str) -> Option<Box<str>> {
    with_folded(word, |folded| folded.into())
}

/// Gives the word in small letters to `then`; none where it is longer than any entry.
fn with_folded<T>(word: &str, then: impl FnOnce(&str) -> T) -> Option<T> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    if word.is_ascii() {
        let mut folded = [0; WORD_BYTES_MAX];
        let folded = &mut folded[..word.len()];
        folded.copy_from_slice(word.as_bytes());
        folded.make_ascii_lowercase();
        return std::str::from_utf8(folded).ok().map(then);
    }
    Some(then(&word.to_lowercase()))
}

/// The words of a text, one behind the other.
struct Places<'t> {
    text: &'t str,
    at: usize,
}

impl Places<'_> {
    fn next(&mut self) -> Option<Place> {
        let bytes = self.text.as_bytes();
        let mut at = self.at;
        loop {
            match *bytes.get(at)? {
                byte if IS_LETTER[usize::from(byte)] => break,
                byte if byte.is_ascii() => at += 1,
                _ => match self.character(at) {
                    (true, _) => break,
                    (false, size) => at += size,
                },
            }
        }
        let (begin, mut is_ascii) = (at, true);
        while let Some(byte) = bytes.get(at) {
            match *byte {
                byte if IS_LETTER[usize::from(byte)] => at += 1,
                byte if byte.is_ascii() => break,
                _ => match self.character(at) {
                    (true, size) => (at, is_ascii) = (at + size, false),
                    (false, _) => break,
                },
            }
        }
        self.at = at;
        Some(Place { begin, end: at, is_ascii })
    }

    /// Whether the character that begins there is a letter or a digit, and its bytes.
    fn character(&self, at: usize) -> (bool, usize) {
        let character = self.text.get(at..).and_then(|rest| rest.chars().next());
        character.map_or((false, 1), |c| (c.is_alphanumeric(), c.len_utf8()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> (String, u32) {
        let words = Words::new(["darn", "Ärger", "so what", "so what now"]).unwrap();
        let mut out = String::new();
        let count = words.mask(text, '*', &mut out);
        assert_eq!(words.has(text), count > 0);
        (if count > 0 { out } else { text.to_owned() }, count)
    }

    #[test]
    fn whole_words_are_masked_whatever_their_case() {
        for (text, expected, count) in [
            ("", "", 0),
            ("darning", "darning", 0),
            ("Darn! DARN it", "****! **** it", 2),
            ("ärger, ÄRGER", "*****, *****", 2),
            ("so... What then", "**... **** then", 1),
            ("so what now", "** **** ***", 1),
            ("so what so what", "** **** ** ****", 2),
            ("so", "so", 0),
            ("\u{1f600}darn\u{1f600}", "\u{1f600}****\u{1f600}", 1),
        ] {
            assert_eq!(masked(text), (expected.to_owned(), count), "{text}");
        }
        assert!(Words::new(["..."]).is_err());
        assert!(Words::new(["a b c d e f g h i"]).is_err());
    }
}
