//! Revocations as lines of a file that is only appended to: a sum, and JSON that people can read.
//!
//! ```text
//! 1c291ca3 {"format":1,"revoke":{"user":"ann"},"issued_before_seconds":1700000000,"until_seconds":1700086400}
//! 8d2f4be0 {"format":1,"lift":{"address":"192.0.2.0/24"}}
//! ```
//!
//! The sum is CRC32C of what stands between the space and the line's end, in 8 hexadecimal digits.

use std::sync::Arc;

use banter_protocol::ids::UserName;
use serde_json::{Map, Value};

use super::{Revocation, Subject};
use crate::json::{self, Json, Object};

/// Longest line, in bytes, without its end: an id of 255 bytes, each escaped, and what stands around it.
pub const RECORD_BYTES_MAX: usize = 1_024;

const FORMAT: u64 = 1;
/// 8 digits and a space.
const SUM_BYTES: usize = 9;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A revocation was added.
    Revoke(Revocation),
    /// The revocations of a subject were taken back.
    Lift(Subject),
}

/// Why a line is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Its sum is not that of its text: it was torn or changed.
    #[error("its sum is not that of its text")]
    Sum,
    /// Of a later version.
    #[error("it is of a later format than 1: a newer version of the server wrote it")]
    Format,
    /// Its sum is right, and what it says makes no sense.
    #[error("its sum is right, but it names no revocation that can be")]
    Content,
}

impl Record {
    /// The line, with its end.
    pub fn encode(&self) -> String {
        let mut record = Map::new();
        record.insert("format".into(), FORMAT.into());
        match self {
            Record::Revoke(revocation) => {
                record.insert("revoke".into(), subject_value(revocation.subject()));
                if let Some(issued_before_seconds) = revocation.issued_before_seconds() {
                    record.insert("issued_before_seconds".into(), issued_before_seconds.into());
                }
                record.insert("until_seconds".into(), revocation.until_seconds().into());
            }
            Record::Lift(subject) => drop(record.insert("lift".into(), subject_value(subject))),
        }
        let text = Value::Object(record).to_string();
        format!("{:08x} {text}\n", crc32c::crc32c(text.as_bytes()))
    }

    /// What a line says, which comes without its end.
    ///
    /// # Errors
    /// When its sum is wrong, it is of a later format, or it says nothing that can be.
    pub fn decode(line: &[u8]) -> Result<Self, RecordFault> {
        let (sum, text) = line.split_at_checked(SUM_BYTES).ok_or(RecordFault::Sum)?;
        let wanted = format!("{:08x} ", crc32c::crc32c(text));
        if line.len() > RECORD_BYTES_MAX || sum != wanted.as_bytes() {
            return Err(RecordFault::Sum);
        }
        let record = json::object(text).ok_or(RecordFault::Content)?;
        match record.get("format") {
            Some(Json::Unsigned(FORMAT)) => read(&record).ok_or(RecordFault::Content),
            Some(Json::Unsigned(format)) if *format > FORMAT => Err(RecordFault::Format),
            _ => Err(RecordFault::Content),
        }
    }
}

fn read(record: &Object) -> Option<Record> {
    const NAMES: [&str; 5] = ["format", "revoke", "lift", "issued_before_seconds", "until_seconds"];
    if !record.keys().all(|name| NAMES.contains(&name.as_str())) {
        return None;
    }
    let seconds = |name: &str| match record.get(name) {
        None => Some(None),
        Some(Json::Unsigned(seconds)) => Some(Some(*seconds)),
        Some(_) => None,
    };
    let (issued_before_seconds, until_seconds) = (seconds("issued_before_seconds")?, seconds("until_seconds")?);
    match (record.get("revoke"), record.get("lift")) {
        (Some(subject), None) => {
            let revocation = Revocation::new(read_subject(subject)?, issued_before_seconds, until_seconds?);
            revocation.ok().map(Record::Revoke)
        }
        (None, Some(subject)) if issued_before_seconds.is_none() && until_seconds.is_none() => {
            read_subject(subject).map(Record::Lift)
        }
        _ => None,
    }
}

fn subject_value(subject: &Subject) -> Value {
    let (name, text) = match subject {
        Subject::User(user) => ("user", user.as_str().to_owned()),
        Subject::Session(session) => ("session", session.to_string()),
        Subject::Token(token) => ("token", token.to_string()),
        Subject::Address(range) => ("address", range.to_string()),
    };
    Value::Object(Map::from_iter([(name.to_owned(), Value::String(text))]))
}

fn read_subject(value: &Json) -> Option<Subject> {
    let Json::Object(object) = value else { return None };
    let (name, text) = object.iter().next().filter(|_| object.len() == 1)?;
    let text = text.text()?;
    match name.as_str() {
        "user" => UserName::new(text).ok().map(Subject::User),
        "session" => Some(Subject::Session(Arc::from(text))).filter(|subject| subject.check().is_ok()),
        "token" => Some(Subject::Token(Arc::from(text))).filter(|subject| subject.check().is_ok()),
        "address" => text.parse().ok().map(Subject::Address),
        _ => None,
    }
}

/// What a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// Its records, in the order in which they were written.
    pub records: Vec<Record>,
    /// Bytes from its beginning that are good; what is behind them was torn, was never acknowledged, and is to be cut
    /// off before anything is appended.
    pub good_bytes: usize,
}

/// A line that was acknowledged cannot be read: who was revoked by it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the revocations is damaged: {fault}")]
pub struct DamagedLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: RecordFault,
}

/// Reads a file as it was found. Only its last line can be torn, since a line is synced before the next is written; then its end
/// is missing, or some of it is zeros, which is what a file holds where nothing was written. Otherwise it was acknowledged.
///
/// # Errors
/// When a line is damaged and not torn, or one whose sum is right makes no sense.
pub fn read_file(bytes: &[u8]) -> Result<Records, DamagedLine> {
    let (mut records, mut good_bytes) = (Vec::new(), 0);
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let whole = line.strip_suffix(b"\n");
        let is_last = good_bytes + line.len() == bytes.len();
        match whole.map_or(Err(RecordFault::Sum), Record::decode) {
            Ok(record) => records.push(record),
            Err(RecordFault::Sum) if is_last && (whole.is_none() || line.contains(&0)) => break,
            Err(fault) => return Err(DamagedLine { line: index + 1, fault }),
        }
        good_bytes += line.len();
    }
    Ok(Records { records, good_bytes })
}
