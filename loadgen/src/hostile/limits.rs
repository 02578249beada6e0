//! What the limits of a server add up to: the memory that hostile connections may cost it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kinds::hello;
use crate::args::{Target, Wire};
use crate::fault::LoadFault;
use crate::identities::Identities;
use crate::scan::{self, Raw};
use crate::wire::Writer;

/// The longest wait for `welcome`.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a core keeps for all of its connections together.
const CORE_LIMITS: [&str; 4] =
    ["history_bytes_per_core_max", "run_bytes_per_core_max", "dedupe_bytes_per_core_max", "log_waiting_bytes_max"];

/// The limits that a server tells, by name.
pub type Limits = BTreeMap<String, u64>;

#[derive(Deserialize)]
struct Welcome {
    limits: Limits,
}

/// Connects, and asks a server for its limits.
///
/// # Errors
/// When it does not tell them.
pub fn ask(target: &Target) -> Result<Limits, LoadFault> {
    let (server, identities) = (target.server, Identities::of(target, "limits", 1)?);
    let fault = |error| LoadFault::Connect { server, error };
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).map_err(fault)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(fault)?;
    stream.write_all(&hello(server, &identities, 0)).map_err(fault)?;
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).map_err(fault)?;
        if read == 0 {
            return Err(fault(io::ErrorKind::UnexpectedEof.into()));
        }
        bytes.extend_from_slice(&piece[..read]);
        if let Some(limits) = read_welcome(&bytes)? {
            return Ok(limits);
        }
    }
}

/// The limits of `welcome`, the first text behind the upgrade; `None` when it is not whole.
fn read_welcome(bytes: &[u8]) -> Result<Option<Limits>, LoadFault> {
    let bad = |what| LoadFault::BadBytes { connection: 0, what };
    let Some(mut used) = Writer::new(Wire::Json).read_upgrade(bytes).map_err(LoadFault::Upgrade)? else {
        return Ok(None);
    };
    while let Some((raw, frame_bytes)) = scan::cut(Wire::Json, &bytes[used..]).map_err(|fault| bad(fault.0))? {
        if let Raw::Json(text) = raw {
            let welcome: Welcome = serde_json::from_slice(text)
                .map_err(|error| bad(format!("no welcome ({error}): {}", String::from_utf8_lossy(text))))?;
            return Ok(Some(welcome.limits));
        }
        used += frame_bytes;
    }
    Ok(None)
}

/// A summand, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The limit, or how it is worked out.
    pub name: &'static str,
    /// So much.
    pub bytes: u64,
}

/// A sum of limits. Names end in their unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Bound {
    pub connections: u64,
    pub connection_parts: Vec<Part>,
    pub connection_bytes: u64,
    pub connections_bytes: u64,
    pub cores: u64,
    pub core_parts: Vec<Part>,
    pub cores_bytes: u64,
    pub sum_bytes: u64,
}

impl Bound {
    /// Of so many connections and cores. A limit that the server does not tell adds nothing.
    pub fn of(limits: &Limits, connections: u64, cores: u64) -> Self {
        let connection_parts = connection_parts(limits);
        let core_part = |name| Part { name, bytes: limit(limits, name) };
        let core_parts: Vec<Part> = CORE_LIMITS.map(core_part).into();
        let sum = |parts: &[Part]| parts.iter().map(|part| part.bytes).sum::<u64>();
        let connection_bytes = sum(&connection_parts);
        let (connections_bytes, cores_bytes) = (connection_bytes * connections, sum(&core_parts) * cores);
        let sum_bytes = connections_bytes + cores_bytes;
        Bound {
            connections,
            connection_parts,
            connection_bytes,
            connections_bytes,
            cores,
            core_parts,
            cores_bytes,
            sum_bytes,
        }
    }
}

fn limit(limits: &Limits, name: &str) -> u64 {
    limits.get(name).copied().unwrap_or(0)
}

/// What waits for it, the answer that was promised when it was last read, what is held of it, and the message that it
/// has not ended.
fn connection_parts(limits: &Limits) -> Vec<Part> {
    let (outbox, frame) = (limit(limits, "outbox_bytes_max"), limit(limits, "frame_bytes_max"));
    // A page has an eighth of the outbox, or one message; as JSON it is up to twice as long.
    let answer = 2 * frame.max(outbox / 8);
    vec![
        Part { name: "outbox_bytes_max", bytes: outbox },
        Part { name: "one answer: 2 x max(frame_bytes_max, outbox_bytes_max / 8)", bytes: answer },
        Part { name: "held_bytes_max", bytes: limit(limits, "held_bytes_max") },
        Part { name: "frame_bytes_max", bytes: frame },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use banter_protocol::http::write_upgrade_response;
    use banter_protocol::websocket::{FrameKind, write_frame_header};

    fn limits() -> Limits {
        let of = |(name, bytes): (&str, u64)| (name.to_owned(), bytes);
        [("outbox_bytes_max", 1600), ("frame_bytes_max", 100), ("held_bytes_max", 50), ("log_waiting_bytes_max", 7)]
            .map(of)
            .into()
    }

    #[test]
    fn a_bound_is_the_sum_of_what_each_connection_and_each_core_may_have() {
        let bound = Bound::of(&limits(), 10, 2);
        assert_eq!(bound.connection_bytes, 1600 + 2 * 200 + 50 + 100);
        assert_eq!((bound.connections_bytes, bound.cores_bytes), (21_500, 14));
        assert_eq!(bound.sum_bytes, 21_514);
    }

    #[test]
    fn a_welcome_is_read_when_it_is_whole_and_another_answer_is_a_fault() {
        let mut upgrade = Vec::new();
        write_upgrade_response(&mut upgrade, "dGhlIHNhbXBsZSBub25jZQ==", Some("banter.json.v1"));
        let answered = |text: &str| {
            let mut bytes = upgrade.clone();
            write_frame_header(&mut bytes, FrameKind::Ping, 0);
            write_frame_header(&mut bytes, FrameKind::Text, text.len());
            bytes.extend_from_slice(text.as_bytes());
            bytes
        };
        let whole = answered(r#"{"type":"welcome","limits":{"held_bytes_max":5}}"#);
        for end in 0..whole.len() {
            assert!(matches!(read_welcome(&whole[..end]), Ok(None)), "cut at {end}");
        }
        assert_eq!(read_welcome(&whole).unwrap(), Some([("held_bytes_max".to_owned(), 5)].into()));
        assert!(read_welcome(&answered(r#"{"type":"error","code":"overloaded"}"#)).is_err());
    }
}
