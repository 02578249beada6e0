//! Lua's patterns, each step counted: what `string.find`, `match`, `gmatch` and `gsub` search with.
//!
//! Own, since Luau's matcher runs as long as a pattern and a text make it, and nothing stops it meanwhile.

use std::ffi::CStr;

/// Captures of a pattern at most.
pub const CAPTURES_MAX: usize = 32;
/// Items of a pattern that wait for each other at most: each takes a frame of the native stack.
const DEPTH_MAX: u32 = 200;
const UNFINISHED: i64 = -1;
/// The length of a capture that is a place: `()`.
const POSITION: i64 = -2;

/// Why a pattern is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternFault {
    EndsWithPercent,
    NoClosingBracket,
    NoBalance,
    NoFrontier,
    TooManyCaptures,
    NoCapture,
    Unfinished,
    TooComplex,
}

impl PatternFault {
    /// As Lua says it.
    pub fn text(self) -> &'static CStr {
        match self {
            PatternFault::EndsWithPercent => c"malformed pattern (ends with '%')",
            PatternFault::NoClosingBracket => c"malformed pattern (missing ']')",
            PatternFault::NoBalance => c"missing arguments to '%b'",
            PatternFault::NoFrontier => c"missing '[' after '%f' in pattern",
            PatternFault::TooManyCaptures => c"too many captures",
            PatternFault::NoCapture => c"invalid capture index",
            PatternFault::Unfinished => c"unfinished capture",
            PatternFault::TooComplex => c"pattern too complex",
        }
    }
}

/// Searches from a byte on; `^` holds it there. Fills in the whole and its captures as pairs of begin and length, and gives how many
/// pairs; 0: there is none, or there were no more steps.
///
/// # Errors
/// The pattern is none, as far as it was read.
pub fn search(
    text: &[u8],
    from: usize,
    pattern: &[u8],
    steps_max: u32,
    out: &mut [i64],
    steps: &mut u32,
) -> Result<usize, PatternFault> {
    let is_anchored = pattern.first() == Some(&b'^');
    let mut matcher =
        Matcher { text, pattern, captures: [(0, 0); CAPTURES_MAX], count: 0, steps_left: steps_max, depth: 0 };
    let mut at = from;
    let found = loop {
        matcher.count = 0;
        match matcher.matches(at, usize::from(is_anchored))? {
            Some(end) => break Some((at, end)),
            None if is_anchored || at >= text.len() || matcher.steps_left == 0 => break None,
            None => at += 1,
        }
    };
    *steps = steps_max - matcher.steps_left;
    let Some((begin, end)) = found.filter(|_| matcher.steps_left > 0) else { return Ok(0) };
    (out[0], out[1]) = (begin as i64, (end - begin) as i64);
    for (number, (begin, length)) in matcher.captures[..matcher.count].iter().enumerate() {
        if *length == UNFINISHED {
            return Err(PatternFault::Unfinished);
        }
        (out[2 * number + 2], out[2 * number + 3]) = (*begin as i64, *length);
    }
    Ok(matcher.count + 1)
}

struct Matcher<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    /// Begin and length.
    captures: [(usize, i64); CAPTURES_MAX],
    count: usize,
    steps_left: u32,
    depth: u32,
}

/// The end of a match, where there is one.
type Matched = Result<Option<usize>, PatternFault>;

impl Matcher<'_> {
    /// Whether there is a step left, and takes it.
    fn step(&mut self) -> bool {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.steps_left > 0
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.pattern.get(at).copied()
    }

    /// Matches the text at `at` with the pattern from `p` on.
    fn matches(&mut self, at: usize, p: usize) -> Matched {
        self.depth += 1;
        let matched = if self.depth > DEPTH_MAX { Err(PatternFault::TooComplex) } else { self.matches_here(at, p) };
        self.depth -= 1;
        matched
    }

    fn matches_here(&mut self, mut at: usize, mut p: usize) -> Matched {
        loop {
            if !self.step() {
                return Ok(None);
            }
            let Some(first) = self.byte(p) else { return Ok(Some(at)) };
            match (first, self.byte(p + 1)) {
                (b'(', Some(b')')) => return self.open(at, p + 2, POSITION),
                (b'(', _) => return self.open(at, p + 1, UNFINISHED),
                (b')', _) => return self.close(at, p + 1),
                (b'$', None) => return Ok((at == self.text.len()).then_some(at)),
                (b'%', Some(b'b')) => match self.balanced(at, p + 2)? {
                    Some(end) => (at, p) = (end, p + 4),
                    None => return Ok(None),
                },
                (b'%', Some(b'f')) => match self.frontier(at, p + 2)? {
                    Some(behind) => p = behind,
                    None => return Ok(None),
                },
                (b'%', Some(digit @ b'0'..=b'9')) => match self.again(at, digit)? {
                    Some(end) => (at, p) = (end, p + 2),
                    None => return Ok(None),
                },
                _ => {
                    let behind = self.class_end(p)?;
                    match self.byte(behind) {
                        Some(b'?') => {
                            if self.is_one(at, p, behind)
                                && let Some(end) = self.matches(at + 1, behind + 1)?
                            {
                                return Ok(Some(end));
                            }
                            p = behind + 1;
                        }
                        Some(b'*') => return self.longest(at, p, behind, 0),
                        Some(b'+') => return self.longest(at, p, behind, 1),
                        Some(b'-') => return self.shortest(at, p, behind),
                        _ if self.is_one(at, p, behind) => (at, p) = (at + 1, behind),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    fn longest(&mut self, at: usize, p: usize, behind: usize, least: usize) -> Matched {
        let mut count = 0;
        while self.is_one(at + count, p, behind) {
            if !self.step() {
                return Ok(None);
            }
            count += 1;
        }
        while count >= least {
            if let Some(end) = self.matches(at + count, behind + 1)? {
                return Ok(Some(end));
            }
            if count == 0 || !self.step() {
                break;
            }
            count -= 1;
        }
        Ok(None)
    }

    fn shortest(&mut self, mut at: usize, p: usize, behind: usize) -> Matched {
        loop {
            if let Some(end) = self.matches(at, behind + 1)? {
                return Ok(Some(end));
            }
            if !self.step() || !self.is_one(at, p, behind) {
                return Ok(None);
            }
            at += 1;
        }
    }

    fn open(&mut self, at: usize, p: usize, length: i64) -> Matched {
        if self.count >= CAPTURES_MAX {
            return Err(PatternFault::TooManyCaptures);
        }
        self.captures[self.count] = (at, length);
        self.count += 1;
        let matched = self.matches(at, p)?;
        if matched.is_none() {
            self.count -= 1;
        }
        Ok(matched)
    }

    fn close(&mut self, at: usize, p: usize) -> Matched {
        let open = self.captures[..self.count].iter().rposition(|(_, length)| *length == UNFINISHED);
        let number = open.ok_or(PatternFault::NoCapture)?;
        self.captures[number].1 = (at - self.captures[number].0) as i64;
        let matched = self.matches(at, p)?;
        if matched.is_none() {
            self.captures[number].1 = UNFINISHED;
        }
        Ok(matched)
    }

    /// `%bxy`: from an x to the y that ends it.
    fn balanced(&mut self, at: usize, p: usize) -> Matched {
        let (Some(begin), Some(end)) = (self.byte(p), self.byte(p + 1)) else { return Err(PatternFault::NoBalance) };
        if self.text.get(at) != Some(&begin) {
            return Ok(None);
        }
        let mut open = 1;
        for (number, byte) in self.text[at + 1..].iter().enumerate() {
            if !self.step() {
                return Ok(None);
            }
            if *byte == end {
                open -= 1;
                if open == 0 {
                    return Ok(Some(at + number + 2));
                }
            } else if *byte == begin {
                open += 1;
            }
        }
        Ok(None)
    }

    /// `%f[set]`: where the set begins; gives the place in the pattern behind it.
    fn frontier(&mut self, at: usize, p: usize) -> Matched {
        if self.byte(p) != Some(b'[') {
            return Err(PatternFault::NoFrontier);
        }
        let behind = self.class_end(p)?;
        let before = if at == 0 { 0 } else { self.text[at - 1] };
        let here = self.text.get(at).copied().unwrap_or(0);
        Ok((!self.is_in_set(before, p, behind) && self.is_in_set(here, p, behind)).then_some(behind))
    }

    /// `%1`: what that capture has.
    fn again(&mut self, at: usize, digit: u8) -> Matched {
        let number = usize::from(digit).wrapping_sub(usize::from(b'1'));
        let Some((begin, length)) = self.captures[..self.count].get(number).copied() else {
            return Err(PatternFault::NoCapture);
        };
        let length = usize::try_from(length).map_err(|_| PatternFault::NoCapture)?;
        self.steps_left = self.steps_left.saturating_sub(length as u32 / 16);
        let is_there = self.text[at..].starts_with(&self.text[begin..begin + length]);
        Ok(is_there.then_some(at + length))
    }

    /// The place behind the class that begins at `p`.
    fn class_end(&self, p: usize) -> Result<usize, PatternFault> {
        match self.byte(p) {
            Some(b'%') => match self.byte(p + 1) {
                Some(_) => Ok(p + 2),
                None => Err(PatternFault::EndsWithPercent),
            },
            Some(b'[') => {
                let mut at = p + 1 + usize::from(self.byte(p + 1) == Some(b'^'));
                // A bracket that comes first is one of the set.
                let mut is_first = true;
                loop {
                    match self.byte(at) {
                        None => return Err(PatternFault::NoClosingBracket),
                        Some(b']') if !is_first => return Ok(at + 1),
                        Some(b'%') => at += 2,
                        Some(_) => at += 1,
                    }
                    is_first = false;
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Whether the byte at `at` is one of the class between `p` and `behind`. A set takes steps by its length.
    fn is_one(&mut self, at: usize, p: usize, behind: usize) -> bool {
        let Some(byte) = self.text.get(at).copied() else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => is_of_class(byte, self.pattern[p + 1]),
            b'[' => {
                self.steps_left = self.steps_left.saturating_sub((behind - p) as u32 / 4);
                self.is_in_set(byte, p, behind)
            }
            literal => literal == byte,
        }
    }

    fn is_in_set(&self, byte: u8, p: usize, behind: usize) -> bool {
        let is_negated = self.byte(p + 1) == Some(b'^');
        let set = &self.pattern[p + 1 + usize::from(is_negated)..behind - 1];
        let mut at = 0;
        while let Some(first) = set.get(at).copied() {
            let (is_there, next) = match (first, set.get(at + 1).copied(), set.get(at + 2).copied()) {
                (b'%', Some(class), _) => (is_of_class(byte, class), at + 2),
                (from, Some(b'-'), Some(to)) => ((from..=to).contains(&byte), at + 3),
                (literal, ..) => (literal == byte, at + 1),
            };
            if is_there {
                return !is_negated;
            }
            at = next;
        }
        is_negated
    }
}

fn is_of_class(byte: u8, class: u8) -> bool {
    let is_there = match class.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'g' => byte.is_ascii_graphic(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        b's' => matches!(byte, b' ' | 9..=13),
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        _ => return class == byte,
    };
    is_there != class.is_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, pattern: &str) -> Result<Vec<String>, PatternFault> {
        let mut out = [0; 2 * (CAPTURES_MAX + 1)];
        let mut steps = 0;
        let count = search(text.as_bytes(), 0, pattern.as_bytes(), 100_000, &mut out, &mut steps)?;
        let part = |number: usize| match (out[2 * number], out[2 * number + 1]) {
            (begin, POSITION) => format!("@{}", begin + 1),
            (begin, length) => text[begin as usize..(begin + length) as usize].to_owned(),
        };
        Ok((0..count).map(part).collect())
    }

    #[test]
    fn patterns_find_what_luas_do() {
        for (text, pattern, expected) in [
            ("hello world", "o w", vec!["o w"]),
            ("hello", "l+", vec!["ll"]),
            ("hello", "^l+", vec![]),
            ("/roll 2d6", "^/roll (%d%d?)d(%d%d?%d?)$", vec!["/roll 2d6", "2", "6"]),
            ("/roll 2d6666", "^/roll (%d%d?)d(%d%d?%d?)$", vec![]),
            ("key = value", "(%w+)%s*=%s*(%w+)", vec!["key = value", "key", "value"]),
            ("<<a>b>", "%b<>", vec!["<<a>b>"]),
            ("THE (quick) fox", "%f[%a]%a+%f[%A]", vec!["THE"]),
            ("abcabc", "(abc)%1", vec!["abcabc", "abc"]),
            ("abc", "()b()", vec!["b", "@2", "@3"]),
            ("a]b", "[]]", vec!["]"]),
            ("a-b", "[a%-]+", vec!["a-"]),
            ("x123y", "[^%d]%d-3", vec!["x123"]),
            ("", ".-", vec![""]),
            ("a.b", "%.", vec!["."]),
            ("5-", "[0-9-]+", vec!["5-"]),
            ("abc", "b$", vec![]),
            ("$", "%$", vec!["$"]),
            ("a$b", "a$b", vec!["a$b"]),
        ] {
            assert_eq!(
                found(text, pattern).as_deref(),
                Ok(&expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]),
                "{text} {pattern}"
            );
        }
    }

    #[test]
    fn a_pattern_that_is_none_is_said() {
        for (pattern, fault) in [
            ("%", PatternFault::EndsWithPercent),
            ("[a", PatternFault::NoClosingBracket),
            ("[]", PatternFault::NoClosingBracket),
            ("[%", PatternFault::NoClosingBracket),
            ("%b", PatternFault::NoBalance),
            ("%fa", PatternFault::NoFrontier),
            ("(a", PatternFault::Unfinished),
            ("a)", PatternFault::NoCapture),
            ("%1", PatternFault::NoCapture),
            ("(%1)", PatternFault::NoCapture),
            ("%0", PatternFault::NoCapture),
        ] {
            assert_eq!(found("aaa", pattern), Err(fault), "{pattern}");
        }
        assert_eq!(found("a", &"()".repeat(33)), Err(PatternFault::TooManyCaptures));
        assert_eq!(found(&"a".repeat(300), &"a?".repeat(300)), Err(PatternFault::TooComplex));
    }

    #[test]
    fn steps_end_a_search_that_would_not() {
        let text = "a".repeat(1_000);
        let pattern = format!("{}b", ".-".repeat(30));
        let mut out = [0; 2 * (CAPTURES_MAX + 1)];
        let mut steps = 0;
        assert_eq!(search(text.as_bytes(), 0, pattern.as_bytes(), 5_000, &mut out, &mut steps), Ok(0));
        assert_eq!(steps, 5_000);
    }
}
