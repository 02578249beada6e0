//! The arguments that a program asks with, as what is wanted of them.

use banter_chat::program::{MESSAGE_BYTES_MAX, REASON_BYTES_MAX, Verdict};

use crate::ask::{No, error};
use crate::json::{self, Written};
use crate::vm::{Node, Nodes, Part};

/// A text without control characters, of so many bytes at most.
pub fn printable(text: &[u8], bytes_max: usize) -> String {
    let mut out = String::new();
    for character in String::from_utf8_lossy(&text[..text.len().min(bytes_max + 4)]).chars() {
        let written: String =
            if character.is_control() { character.escape_default().collect() } else { character.into() };
        if out.len() + written.len() > bytes_max {
            break;
        }
        out.push_str(&written);
    }
    out
}

/// The arguments of an ask.
pub struct Arguments<'a> {
    pub list: &'a [Node<'a>],
    /// The parts of those that are tables, in their order.
    pub tables: &'a Nodes<'a>,
}

impl<'a> Arguments<'a> {
    pub fn part(&self, number: usize) -> Part<'a> {
        self.list.get(number).map_or(Part::Nil, Node::part)
    }

    pub fn is_nil(&self, number: usize) -> bool {
        self.part(number) == Part::Nil
    }

    /// Bytes of all texts, and so many for each part beside.
    pub fn size(&self) -> usize {
        const PART_BYTES: usize = 16;
        let bytes = |node: &Node<'_>| PART_BYTES + if let Part::Text(text) = node.part() { text.len() } else { 0 };
        self.list.iter().chain(self.tables).map(bytes).sum()
    }

    pub fn bytes(&self, number: usize, of: &str) -> Result<&'a [u8], No> {
        match self.part(number) {
            Part::Text(text) => Ok(text),
            _ => error(format!("{of} wants a text as its argument {}", number + 1)),
        }
    }

    pub fn text(&self, number: usize, of: &str) -> Result<&'a str, No> {
        std::str::from_utf8(self.bytes(number, of)?)
            .or_else(|_| error(format!("{of} wants UTF-8 as its argument {}", number + 1)))
    }

    pub fn number(&self, number: usize, of: &str) -> Result<f64, No> {
        match self.part(number) {
            Part::Number(value) => Ok(value),
            _ => error(format!("{of} wants a number as its argument {}", number + 1)),
        }
    }

    pub fn milliseconds(&self, number: usize, of: &str) -> Result<u64, No> {
        let value = self.number(number, of)?;
        if !(0.0..9_007_199_254_740_992.0).contains(&value) {
            return error(format!("{of} wants milliseconds, 0 or more, as its argument {}", number + 1));
        }
        Ok(value as u64)
    }

    /// The JSON of an argument.
    pub fn json(&self, number: usize) -> Result<Vec<u8>, No> {
        let mut out = Vec::new();
        self.write_json(number, &mut out)?;
        Ok(out)
    }

    /// Writes the JSON of an argument, in the place of what was written before.
    pub fn write_json(&self, number: usize, out: &mut Vec<u8>) -> Result<(), No> {
        out.clear();
        let is_table = |node: &&Node<'_>| node.part() == Part::Table;
        // The tables stand one behind the other: those before it are passed over by their ends.
        let before = self.list[..number.min(self.list.len())].iter().filter(is_table).count();
        let part = self.part(number);
        let written = match part {
            Part::Table => Written::new(self.tables),
            _ => Written::new(&[]),
        };
        let mut at = written.nth(before);
        json::write(part, &written, &mut at, out).or_else(|none| error(none.to_string()))
    }

    pub fn body(&self, number: usize, of: &str) -> Result<Vec<u8>, No> {
        if self.is_nil(number) {
            return error(format!("{of} wants a body as its argument {}", number + 1));
        }
        self.json(number)
    }

    pub fn refusal(&self) -> Result<Verdict, No> {
        let reason = self.text(0, "refuse")?;
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
            return error(format!(
                "the reason of refuse has 1 to {REASON_BYTES_MAX} bytes, none of them a control character"
            ));
        }
        let message =
            if self.is_nil(1) { None } else { Some(printable(self.text(1, "refuse")?.as_bytes(), MESSAGE_BYTES_MAX)) };
        let retry_after_ms = if self.is_nil(2) { None } else { Some(self.milliseconds(2, "refuse")?) };
        Ok(Verdict::Refuse { reason: reason.into(), message: message.map(Into::into), retry_after_ms })
    }
}
