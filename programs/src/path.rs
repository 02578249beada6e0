//! What stands at a path in a JSON value: found without reading the rest, and replaced so that other bytes stay.
//!
//! A path is names with dots between them; in a list a name is a place from 1. Of members with the same name the last counts, as for
//! a browser; where a value is replaced, those before it are gone, so that no reader sees another one than the program did.

use crate::json::{skip_space, text_end, unescape, value_end};

/// Names of a path at most.
pub const NAMES_MAX: usize = 16;

/// As `split` gives them, which is made for longer texts.
fn names_of(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let path = rest?;
        let dot = path.bytes().position(|byte| byte == b'.');
        rest = dot.map(|dot| &path[dot + 1..]);
        Some(&path[..dot.unwrap_or(path.len())])
    })
}

/// The bytes of the value at the path.
pub fn get<'s>(source: &'s [u8], path: &str) -> Option<&'s [u8]> {
    let mut value = trimmed(source);
    for name in names_of(path).take(NAMES_MAX + 1) {
        let members = Members::new(value)?;
        let place = if members.is_map { None } else { Some(name.parse::<usize>().ok()?.checked_sub(1)?) };
        let mut found = None;
        for (at, member) in members.enumerate() {
            let member = member?;
            match place {
                Some(place) if place == at => {
                    found = Some(member.value);
                    break;
                }
                None if member.is_named(name) => found = Some(member.value),
                _ => {}
            }
        }
        value = found?;
    }
    Some(value)
}

/// The value with another one at the path, or none there; none: there is nothing that could have it.
pub fn set(source: &[u8], path: &str, news: Option<&[u8]>) -> Option<Vec<u8>> {
    let (mut names, mut count) = ([""; NAMES_MAX], 0);
    for name in names_of(path) {
        *names.get_mut(count)? = name;
        count += 1;
    }
    let mut out = Vec::with_capacity(source.len() + news.map_or(0, <[u8]>::len) + path.len() + 8);
    set_in(trimmed(source), &names[..count], news, &mut out)?;
    Some(out)
}

fn set_in(value: &[u8], names: &[&str], news: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
    let (name, rest) = names.split_first()?;
    let members = Members::new(value)?;
    if !members.is_map {
        return set_in_list(members, name, rest, news, out);
    }
    let mut before: Option<Member<'_>> = None;
    let (mut is_plain, mut count) = (true, 0);
    for member in Members::new(value)? {
        let member = member?;
        count += 1;
        if member.is_named(name) {
            is_plain &= before.is_none();
            before = Some(member);
        }
    }
    match (before, news) {
        (None, None) => out.extend_from_slice(value),
        (None, Some(news)) if rest.is_empty() => {
            out.extend_from_slice(&value[..value.len() - 1]);
            if count > 0 {
                out.push(b',');
            }
            crate::json::write_text(name.as_bytes(), out);
            out.push(b':');
            out.extend_from_slice(news);
            out.push(b'}');
        }
        (None, Some(_)) => return None,
        (Some(member), news) if is_plain && !(rest.is_empty() && news.is_none()) => {
            out.extend_from_slice(&value[..member.value_at]);
            set_value(member.value, rest, news, out)?;
            out.extend_from_slice(&value[member.value_at + member.value.len()..]);
        }
        (Some(last), news) => {
            out.push(b'{');
            let mut is_first = true;
            for member in members {
                let member = member?;
                let is_it = member.value_at == last.value_at;
                let is_gone = if is_it { rest.is_empty() && news.is_none() } else { member.is_named(name) };
                if is_gone {
                    continue;
                }
                if !std::mem::take(&mut is_first) {
                    out.push(b',');
                }
                out.extend_from_slice(&value[member.at..member.value_at]);
                if is_it {
                    set_value(member.value, rest, news, out)?;
                } else {
                    out.extend_from_slice(member.value);
                }
            }
            out.push(b'}');
        }
    }
    Some(())
}

fn set_in_list(members: Members<'_>, name: &str, rest: &[&str], news: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
    let value = members.source;
    let place = name.parse::<usize>().ok()?.checked_sub(1)?;
    // A place is not taken out of a list: what is behind it would move.
    let member = members.into_iter().nth(place)??;
    out.extend_from_slice(&value[..member.value_at]);
    set_value(member.value, rest, Some(news.unwrap_or(b"null")), out)?;
    out.extend_from_slice(&value[member.value_at + member.value.len()..]);
    Some(())
}

fn set_value(value: &[u8], rest: &[&str], news: Option<&[u8]>, out: &mut Vec<u8>) -> Option<()> {
    if rest.is_empty() {
        out.extend_from_slice(news?);
        return Some(());
    }
    set_in(value, rest, news, out)
}

fn trimmed(source: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let from = source.iter().position(|byte| !is_space(byte)).unwrap_or(source.len());
    let to = source.iter().rposition(|byte| !is_space(byte)).map_or(from, |at| at + 1);
    &source[from..to]
}

/// One member of an object, or one value of a list.
#[derive(Clone, Copy)]
struct Member<'s> {
    /// Where it begins, with its name.
    at: usize,
    /// The name as it stands; empty in a list.
    name: &'s [u8],
    is_plain: bool,
    value_at: usize,
    value: &'s [u8],
}

impl Member<'_> {
    fn is_named(&self, name: &str) -> bool {
        if self.is_plain {
            return self.name == name.as_bytes();
        }
        let mut plain = Vec::new();
        unescape(self.name, &mut plain).is_some() && plain == name.as_bytes()
    }
}

/// The members of an object or a list, one behind the other; none among them: it is no JSON from there on.
struct Members<'s> {
    source: &'s [u8],
    is_map: bool,
    at: usize,
    is_first: bool,
    is_over: bool,
}

impl<'s> Members<'s> {
    fn new(source: &'s [u8]) -> Option<Self> {
        let is_map = match source.first()? {
            b'{' => true,
            b'[' => false,
            _ => return None,
        };
        Some(Members { source, is_map, at: 1, is_first: true, is_over: false })
    }

    fn member(&mut self) -> Option<Member<'s>> {
        let source = self.source;
        if !self.is_first {
            if source.get(self.at) != Some(&b',') {
                return None;
            }
            self.at += 1;
            skip_space(source, &mut self.at);
        }
        self.is_first = false;
        let at = self.at;
        let (mut name, mut is_plain): (&[u8], bool) = (&[], true);
        if self.is_map {
            let (end, plain) = text_end(source, at)?;
            (name, is_plain) = (&source[at + 1..end - 1], plain);
            self.at = end;
            skip_space(source, &mut self.at);
            if source.get(self.at) != Some(&b':') {
                return None;
            }
            self.at += 1;
            skip_space(source, &mut self.at);
        }
        let value_at = self.at;
        let end = value_end(source, value_at)?;
        self.at = end;
        Some(Member { at, name, is_plain, value_at, value: &source[value_at..end] })
    }
}

impl<'s> Iterator for Members<'s> {
    type Item = Option<Member<'s>>;

    fn next(&mut self) -> Option<Self::Item> {
        skip_space(self.source, &mut self.at);
        let end = if self.is_map { b'}' } else { b']' };
        if self.is_over || self.source.get(self.at) == Some(&end) {
            return None;
        }
        let member = self.member();
        self.is_over = member.is_none();
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'s>(source: &'s str, path: &str) -> Option<&'s str> {
        get(source.as_bytes(), path).map(|value| std::str::from_utf8(value).unwrap())
    }

    fn with(source: &str, path: &str, news: Option<&str>) -> Option<String> {
        set(source.as_bytes(), path, news.map(str::as_bytes)).map(|value| String::from_utf8(value).unwrap())
    }

    #[test]
    fn a_path_leads_to_one_value_and_the_last_of_a_name_counts() {
        let source = r#" {"a" : {"b":[1, {"c":"x"}]}, "te\u0078t":"t", "a2":null} "#;
        assert_eq!(at(source, "a.b.2.c"), Some("\"x\""));
        assert_eq!(at(source, "a.b.1"), Some("1"));
        assert_eq!(at(source, "a.b.3"), None);
        assert_eq!(at(source, "a.b.0"), None);
        assert_eq!(at(source, "text"), Some("\"t\""));
        assert_eq!(at(source, "a2"), Some("null"));
        assert_eq!(at(source, ""), None);
        assert_eq!(at(r#"{"a":1,"a":2}"#, "a"), Some("2"));
        assert_eq!(at("5", "a"), None);
        assert_eq!(at("{\"a\":", "a"), None);
        assert_eq!(at("{\"a\" 1}", "a"), None);
    }

    #[test]
    fn a_value_is_replaced_and_other_bytes_stay() {
        let source = r#"{ "a" : 1 , "b":{"c": 1e2}, "n":12345678901234567890 }"#;
        assert_eq!(
            with(source, "a", Some("7")).as_deref(),
            Some(r#"{ "a" : 7 , "b":{"c": 1e2}, "n":12345678901234567890 }"#)
        );
        assert_eq!(
            with(source, "b.c", Some("[]")).as_deref(),
            Some(r#"{ "a" : 1 , "b":{"c": []}, "n":12345678901234567890 }"#)
        );
        assert_eq!(with("{}", "x", Some("1")).as_deref(), Some(r#"{"x":1}"#));
        assert_eq!(with(r#"{"a":1}"#, "x", Some("1")).as_deref(), Some(r#"{"a":1,"x":1}"#));
        assert_eq!(with(r#"{"a":1}"#, "x.y", Some("1")), None);
        assert_eq!(with("[1,2]", "2", Some("3")).as_deref(), Some("[1,3]"));
        assert_eq!(with("[1,2]", "2", None).as_deref(), Some("[1,null]"));
        assert_eq!(with("[1,2]", "3", Some("3")), None);
        assert_eq!(with("7", "a", Some("3")), None);
    }

    #[test]
    fn what_is_gone_is_gone_and_so_is_what_another_reader_might_have_taken() {
        assert_eq!(with(r#"{"a":1, "b":2}"#, "a", None).as_deref(), Some(r#"{"b":2}"#));
        assert_eq!(with(r#"{"a":1}"#, "a", None).as_deref(), Some("{}"));
        assert_eq!(with(r#"{"a":1}"#, "b", None).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(
            with(r#"{"t":"bad","u":1,"\u0074":"bad"}"#, "t", Some("\"*\"")).as_deref(),
            Some(r#"{"u":1,"\u0074":"*"}"#)
        );
        assert_eq!(with(r#"{"o":{"t":"bad"},"o":{"t":"bad"}}"#, "o.t", Some("1")).as_deref(), Some(r#"{"o":{"t":1}}"#));
    }

    #[test]
    fn no_bytes_panic() {
        let source = br#"{"a":[1,{"b":"\u0041\\"}],"c":{"d":null}}"#;
        for at in 0..source.len() {
            for byte in [b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', 0, 255] {
                let mut damaged = source.to_vec();
                damaged[at] = byte;
                for path in ["a.2.b", "c.d", "c", "x"] {
                    get(&damaged, path);
                    set(&damaged, path, Some(b"1"));
                    set(&damaged[..at], path, None);
                }
            }
        }
    }
}
