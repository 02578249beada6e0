//! JSON for programs: read into parts of tables, written from them, and walked without being read.
//!
//! Bodies were checked when they came, texts of a program were not: nothing here trusts either. What is no JSON gives none.

use crate::vm::{Node, Part};

/// As deep as a value may be that is read into tables.
pub const DEPTH_MAX: usize = 64;

/// A part of a value that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token {
    Nil,
    Bool(bool),
    Number(f64),
    /// A text, as its bytes stand in the source.
    Plain(usize, usize),
    /// A text with escapes, as it stands in [`Tokens::texts`].
    Written(usize, usize),
    List(u32),
    Map(u32),
}

/// A value that was read, in the order of its parts.
#[derive(Debug, Default)]
pub struct Tokens {
    pub list: Vec<Token>,
    pub texts: Vec<u8>,
}

/// Why a value was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is no JSON, or too deep.
    NoValue,
    /// It has more parts than were allowed.
    TooMany,
}

impl Tokens {
    /// Reads a whole text, of so many parts at most.
    pub fn read(&mut self, source: &[u8], parts_max: usize) -> Result<(), Unread> {
        self.list.clear();
        self.texts.clear();
        let mut reader = Reader { source, at: 0, tokens: self, parts_max };
        reader.value(0)?;
        skip_space(source, &mut reader.at);
        if reader.at == source.len() { Ok(()) } else { Err(Unread::NoValue) }
    }
}

struct Reader<'s, 't> {
    source: &'s [u8],
    at: usize,
    tokens: &'t mut Tokens,
    parts_max: usize,
}

impl Reader<'_, '_> {
    fn push(&mut self, token: Token) -> Result<usize, Unread> {
        if self.tokens.list.len() >= self.parts_max {
            return Err(Unread::TooMany);
        }
        self.tokens.list.push(token);
        Ok(self.tokens.list.len() - 1)
    }

    fn value(&mut self, depth: usize) -> Result<(), Unread> {
        skip_space(self.source, &mut self.at);
        match self.source.get(self.at) {
            Some(b'{') => self.container(depth, b'}'),
            Some(b'[') => self.container(depth, b']'),
            Some(b'"') => self.text(),
            Some(_) => {
                let end = scalar_end(self.source, self.at);
                let token = scalar(&self.source[self.at..end]).ok_or(Unread::NoValue)?;
                self.at = end;
                self.push(token).map(|_| ())
            }
            None => Err(Unread::NoValue),
        }
    }

    fn container(&mut self, depth: usize, end: u8) -> Result<(), Unread> {
        if depth >= DEPTH_MAX {
            return Err(Unread::NoValue);
        }
        let is_map = end == b'}';
        let place = self.push(if is_map { Token::Map(0) } else { Token::List(0) })?;
        self.at += 1;
        let mut count = 0;
        skip_space(self.source, &mut self.at);
        if self.source.get(self.at) == Some(&end) {
            self.at += 1;
            return Ok(());
        }
        loop {
            if is_map {
                skip_space(self.source, &mut self.at);
                self.text()?;
                self.expect(b':')?;
            }
            self.value(depth + 1)?;
            count += 1;
            skip_space(self.source, &mut self.at);
            match self.source.get(self.at) {
                Some(b',') => self.at += 1,
                Some(byte) if *byte == end => break,
                _ => return Err(Unread::NoValue),
            }
        }
        self.at += 1;
        self.tokens.list[place] = if is_map { Token::Map(count) } else { Token::List(count) };
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unread> {
        skip_space(self.source, &mut self.at);
        if self.source.get(self.at) != Some(&byte) {
            return Err(Unread::NoValue);
        }
        self.at += 1;
        Ok(())
    }

    fn text(&mut self) -> Result<(), Unread> {
        let (end, is_plain) = text_end(self.source, self.at).ok_or(Unread::NoValue)?;
        let (first, last) = (self.at + 1, end - 1);
        let token = if is_plain {
            Token::Plain(first, last)
        } else {
            let from = self.tokens.texts.len();
            unescape(&self.source[first..last], &mut self.tokens.texts).ok_or(Unread::NoValue)?;
            Token::Written(from, self.tokens.texts.len())
        };
        self.at = end;
        self.push(token).map(|_| ())
    }
}

/// A number, true, false or null.
pub fn scalar(text: &[u8]) -> Option<Token> {
    match text {
        b"null" => Some(Token::Nil),
        b"true" => Some(Token::Bool(true)),
        b"false" => Some(Token::Bool(false)),
        _ => number(text).map(Token::Number),
    }
}

/// Whether there is an integer of 64 bits like that; without `fract`, which is a call where the CPU is only known to be an x86-64.
pub fn is_whole(number: f64) -> bool {
    (number as i64) as f64 == number
}

/// Digits of an integer that any number of Luau holds.
const EXACT_DIGITS: usize = 15;

fn number(text: &[u8]) -> Option<f64> {
    if let [b'1'..=b'9', rest @ ..] = text
        && rest.len() < EXACT_DIGITS
        && rest.iter().all(u8::is_ascii_digit)
    {
        // As most are: times, counts, places.
        return Some(text.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')) as f64);
    }
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    // What Rust reads and JSON has not: "+1", "1.", ".5", "01", "inf".
    let is_json = match digits {
        [b'0', b'0'..=b'9', ..] => false,
        [b'0'..=b'9', ..] => {
            digits.last().is_some_and(u8::is_ascii_digit)
                && !digits.windows(2).any(|pair| pair[0] == b'.' && !pair[1].is_ascii_digit())
        }
        _ => false,
    };
    // JSON's numbers may be larger than any that there is. Those are infinite, and there all the same: a program that saw nothing there
    // would let pass what it is to look at.
    std::str::from_utf8(text).ok().filter(|_| is_json)?.parse().ok()
}

/// Goes on to the next byte that is no space.
pub fn skip_space(source: &[u8], at: &mut usize) {
    while source.get(*at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
        *at += 1;
    }
}

fn scalar_end(source: &[u8], from: usize) -> usize {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
    from + source[from..].iter().take_while(|byte| is_part(byte)).count()
}

/// The place behind the text that begins there, and whether it stands as it is, without an escape.
pub fn text_end(source: &[u8], from: usize) -> Option<(usize, bool)> {
    if source.get(from) != Some(&b'"') {
        return None;
    }
    let (mut at, mut is_plain) = (from + 1, true);
    loop {
        at += plain_bytes(&source[at.min(source.len())..]);
        match source.get(at)? {
            b'"' => return Some((at + 1, is_plain)),
            _ => (at, is_plain) = (at + 2, false),
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// Marks the bytes of a word that are below `end`: the first mark is right, those behind it may not be.
fn marks_below(word: u64, end: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(end)) & !word & (ONES << 7)
}

fn marks_of(word: u64, byte: u8) -> u64 {
    marks_below(word ^ (ONES * u64::from(byte)), 1)
}

/// Bytes ahead of the first that is marked: eight at a time, since most of a body is texts. A space is not marked.
fn bytes_ahead(source: &[u8], marks: impl Fn(u64) -> u64) -> usize {
    let (words, rest) = source.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let found = marks(u64::from_le_bytes(*word));
        if found != 0 {
            return number * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    let found = marks(u64::from_le_bytes(last));
    source.len() - rest.len() + (found.trailing_zeros() as usize / 8).min(rest.len())
}

/// Bytes ahead of the first quote or backslash.
fn plain_bytes(source: &[u8]) -> usize {
    bytes_ahead(source, |word| marks_of(word, b'"') | marks_of(word, b'\\'))
}

/// Bytes ahead of the first that a text of JSON has as an escape.
fn bytes_as_they_are(text: &[u8]) -> usize {
    bytes_ahead(text, |word| marks_of(word, b'"') | marks_of(word, b'\\') | marks_below(word, b' '))
}

/// The place behind the value that begins there, whatever it holds. Takes no stack.
pub fn value_end(source: &[u8], from: usize) -> Option<usize> {
    let (mut at, mut depth) = (from, 0_usize);
    loop {
        match source.get(at)? {
            b'"' => at = text_end(source, at)?.0,
            b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
            b'}' | b']' => (at, depth) = (at + 1, depth.checked_sub(1)?),
            byte if byte.is_ascii_alphanumeric() || *byte == b'-' => at = scalar_end(source, at),
            b' ' | b'\t' | b'\n' | b'\r' | b',' | b':' if depth > 0 => {
                at += 1;
                continue;
            }
            _ => return None,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Writes the text that stands with escapes. Half of a surrogate pair is U+FFFD.
pub fn unescape(escaped: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut at = 0;
    while at < escaped.len() {
        if escaped[at] != b'\\' {
            let plain = escaped[at..].iter().position(|byte| *byte == b'\\').unwrap_or(escaped.len() - at);
            out.extend_from_slice(&escaped[at..at + plain]);
            at += plain;
            continue;
        }
        let byte = match escaped.get(at + 1)? {
            b'u' => {
                let (character, bytes) = unescape_unit(&escaped[at..])?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                at += bytes;
                continue;
            }
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            byte @ (b'"' | b'\\' | b'/') => *byte,
            _ => return None,
        };
        out.push(byte);
        at += 2;
    }
    Some(())
}

/// The character that stands as `\uXXXX`, or as two of them, and its bytes there.
fn unescape_unit(escaped: &[u8]) -> Option<(char, usize)> {
    let first = unit(escaped)?;
    if let Some(character) = char::from_u32(first) {
        return Some((character, 6));
    }
    let second = escaped.get(6..).and_then(unit).filter(|second| (0xdc00..0xe000).contains(second));
    match second {
        Some(second) if first < 0xdc00 => {
            Some((char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))?, 12))
        }
        _ => Some((char::REPLACEMENT_CHARACTER, 6)),
    }
}

fn unit(escaped: &[u8]) -> Option<u32> {
    let digits = escaped.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |sum, digit| Some(sum * 16 + char::from(*digit).to_digit(16)?))
}

/// Why a value of a program is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoJson {
    /// A number without one.
    #[error("a number that is infinite or none is no JSON value")]
    Number,
    /// Keys of both kinds.
    #[error("a table is a list, with 1, 2, 3 as its keys, or has texts as keys: not both")]
    Keys,
    /// A list with few values far from each other.
    #[error("a list has more holes than values")]
    Holes,
    /// A function or such.
    #[error("a function is no JSON value")]
    Other,
}

/// Writes the value of an argument: one part, and for a table the parts of `tables` from `at` on, which goes behind it.
pub fn write(value: Part<'_>, tables: &Written<'_>, at: &mut usize, out: &mut Vec<u8>) -> Result<(), NoJson> {
    match value {
        Part::Nil => out.extend_from_slice(b"null"),
        Part::Bool(true) => out.extend_from_slice(b"true"),
        Part::Bool(false) => out.extend_from_slice(b"false"),
        Part::Number(number) => write_number(number, out)?,
        Part::Text(text) => write_text(text, out),
        Part::Table => {
            // The mark of the table itself came as a part too.
            let end = tables.write_table(*at, out)?;
            *at = end + 1;
        }
        Part::List(_) | Part::Map(_) | Part::End | Part::Other => return Err(NoJson::Other),
    }
    Ok(())
}

/// Parts that came from tables, with the place where each table ends.
pub struct Written<'a> {
    parts: &'a [Node<'a>],
    ends: Vec<u32>,
}

impl<'a> Written<'a> {
    /// Of those parts.
    pub fn new(parts: &'a [Node<'a>]) -> Self {
        let mut ends = vec![0; parts.len()];
        let mut open = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            match part.part() {
                Part::Table => open.push(at),
                Part::End => {
                    if let Some(begin) = open.pop() {
                        ends[begin] = at as u32;
                    }
                }
                _ => {}
            }
        }
        Written { parts, ends }
    }

    /// The place of the table with so many before it that are not within each other.
    pub fn nth(&self, before: usize) -> usize {
        let mut at = 0;
        for _ in 0..before {
            at = self.ends.get(at).map_or(0, |end| *end as usize + 1);
        }
        at
    }

    /// Writes the table at `at`; gives the place of its end.
    fn write_table(&self, begin: usize, out: &mut Vec<u8>) -> Result<usize, NoJson> {
        let end = *self.ends.get(begin).ok_or(NoJson::Other)? as usize;
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        let mut at = begin + 1;
        while at < end {
            let value = at + 1;
            match self.parts[at].part() {
                Part::Text(key) => texts.push((key, value)),
                Part::Number(key) => numbers.push((key, value)),
                _ => return Err(NoJson::Keys),
            }
            at = if self.ends[value] > 0 { self.ends[value] as usize } else { value } + 1;
        }
        match (texts.is_empty(), numbers.is_empty()) {
            (false, false) => return Err(NoJson::Keys),
            // A table without anything says nothing of its kind.
            (_, true) => self.write_map(texts, out)?,
            (true, false) => self.write_list(numbers, out)?,
        }
        Ok(end)
    }

    fn write_map(&self, mut pairs: Vec<(&[u8], usize)>, out: &mut Vec<u8>) -> Result<(), NoJson> {
        pairs.sort_unstable_by_key(|(key, _)| *key);
        out.push(b'{');
        for (number, (key, value)) in pairs.into_iter().enumerate() {
            if number > 0 {
                out.push(b',');
            }
            write_text(key, out);
            out.push(b':');
            self.write_part(value, out)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn write_list(&self, mut values: Vec<(f64, usize)>, out: &mut Vec<u8>) -> Result<(), NoJson> {
        values.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        let is_place = |key: f64| key >= 1.0 && key.fract() == 0.0;
        if !values.iter().all(|(key, _)| is_place(*key)) {
            return Err(NoJson::Keys);
        }
        // A list that came with nulls among its values has holes.
        if values.last().is_some_and(|(last, _)| *last > 2.0 * values.len() as f64 + 8.0) {
            return Err(NoJson::Holes);
        }
        out.push(b'[');
        let mut place = 1.0;
        for (key, value) in values {
            while place < key {
                out.extend_from_slice(if place > 1.0 { b",null" } else { b"null" });
                place += 1.0;
            }
            if place > 1.0 {
                out.push(b',');
            }
            self.write_part(value, out)?;
            place += 1.0;
        }
        out.push(b']');
        Ok(())
    }

    fn write_part(&self, at: usize, out: &mut Vec<u8>) -> Result<(), NoJson> {
        write(self.parts[at].part(), self, &mut { at }, out)
    }
}

/// Up to here each whole number is one: 2^53.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

fn write_number(number: f64, out: &mut Vec<u8>) -> Result<(), NoJson> {
    if !number.is_finite() {
        return Err(NoJson::Number);
    }
    if is_whole(number) && number.abs() <= WHOLE_MAX {
        out.extend_from_slice(itoa::Buffer::new().format(number as i64).as_bytes());
        return Ok(());
    }
    serde_json::to_writer(out, &number).map_err(|_| NoJson::Number)
}

/// Writes a text with its quotes. What is no UTF-8 is U+FFFD.
pub fn write_text(text: &[u8], out: &mut Vec<u8>) {
    if std::str::from_utf8(text).is_ok() {
        write_utf8(text, out);
    } else {
        write_utf8(String::from_utf8_lossy(text).as_bytes(), out);
    }
}

fn write_utf8(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    out.push(b'"');
    loop {
        let (kept, from_escape) = rest.split_at(bytes_as_they_are(rest));
        out.extend_from_slice(kept);
        let Some((byte, behind)) = from_escape.split_first() else { break };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = behind;
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Result<Vec<Token>, Unread> {
        let mut tokens = Tokens::default();
        tokens.read(source.as_bytes(), 100).map(|()| tokens.list)
    }

    #[test]
    fn json_is_read_and_what_is_none_is_not() {
        assert_eq!(
            tokens(" [1, -2.5e1,true] "),
            Ok(vec![Token::List(3), Token::Number(1.0), Token::Number(-25.0), Token::Bool(true)])
        );
        assert_eq!(tokens(r#"{"a":null}"#), Ok(vec![Token::Map(1), Token::Plain(2, 3), Token::Nil]));
        for none in [
            "",
            "[",
            "[1",
            "[1,]",
            "{\"a\"}",
            "{1:2}",
            "01",
            "+1",
            "1.",
            ".5",
            "nul",
            "\"a",
            "\"\\x\"",
            "[1] 2",
            "inf",
            "--1",
            "{\"a\":1,}",
        ] {
            assert_eq!(tokens(none), Err(Unread::NoValue), "{none}");
        }
        assert_eq!(tokens("-1e999"), Ok(vec![Token::Number(f64::NEG_INFINITY)]), "it is there");
        let deep = |depth: usize| tokens(&("[".repeat(depth) + &"]".repeat(depth)));
        assert!(deep(DEPTH_MAX).is_ok());
        assert_eq!(deep(DEPTH_MAX + 1), Err(Unread::NoValue));
        assert_eq!(tokens(&format!("[{}1]", "1,".repeat(200))), Err(Unread::TooMany));
    }

    #[test]
    fn texts_are_read_with_their_escapes() {
        let read = |text: &str| {
            let mut out = Vec::new();
            unescape(text.as_bytes(), &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(read(r#"a\n\u0041\"\\\/"#).as_deref(), Some("a\nA\"\\/"));
        assert_eq!(read(r"\ud83d\ude00\ud83d\u0041\udc00").as_deref(), Some("\u{1f600}\u{fffd}A\u{fffd}"));
        assert_eq!(read(r"\u12"), None);
        let mut out = Vec::new();
        write_text(b"a\"\\\n\x01\xff\xc3\xa4", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "\"a\\\"\\\\\\n\\u0001\u{fffd}\u{e4}\"");
    }

    #[test]
    fn values_end_where_they_do_at_any_depth() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(value_end(deep.as_bytes(), 0), Some(200_000));
        assert_eq!(value_end(br#"{"a]":[1,"}"]} "#, 0), Some(14));
        assert_eq!(value_end(b"]", 0), None);
        assert_eq!(value_end(b"[", 0), None);
        assert_eq!(value_end(b"12,", 0), Some(2));
    }

    #[test]
    fn numbers_are_written_as_short_as_they_are() {
        let written = |number| {
            let mut out = Vec::new();
            write_number(number, &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(written(3.0).as_deref(), Ok("3"));
        assert_eq!(written(1_795_719_282_592_123.0).as_deref(), Ok("1795719282592123"));
        assert_eq!(written(-0.5).as_deref(), Ok("-0.5"));
        assert_eq!(written(1e300).as_deref(), Ok("1e+300"));
        assert_eq!(written(f64::NAN), Err(NoJson::Number));
    }
}
