//! Servers that are not Banter: what a member says to each, and what each says, so that the same jobs drive them all.
//!
//! All of them take a post and bring it to whom it is for, and promise nothing more: no number, no acknowledgement, no
//! history. So [`streams`] numbers what each publisher posts, and the members are held to those numbers.
//!
//! | neighbour | joins | posts | a delivery |
//! |---|---|---|---|
//! | [`nats`] | `SUB` | `PUB` | `MSG` |
//! | [`redis`] | `SUBSCRIBE` behind `HELLO 3` | `PUBLISH` on the same connection | a push |
//! | [`mqtt`] | SUBSCRIBE, QoS 0 | PUBLISH, QoS 0 | PUBLISH |
//! | [`plain`] | `GET /room/NAME`, upgraded | a binary message | a binary message |

pub mod mqtt;
pub mod nats;
pub mod plain;
pub mod redis;
pub mod streams;

use std::net::SocketAddr;

use crate::args::{Complete, Job, Pace, Target, Wire};
use crate::fault::LoadFault;
use crate::scan::{ScanFault, Seen};

/// The longest line that is taken from a server: NATS tells much of itself in its first.
pub(crate) const LINE_BYTES_MAX: usize = 32 << 10;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// NATS core.
    Nats,
    /// Redis.
    Redis,
    /// A broker of MQTT 3.1.1.
    Mqtt,
    /// Any server that holds to the plain convention.
    Plain,
}

impl Wire {
    /// Whose it is, where it is not Banter's.
    #[inline]
    pub fn neighbour(self) -> Option<Neighbour> {
        match self {
            Wire::Json | Wire::Native | Wire::WsRkyv => None,
            Wire::Nats => Some(Neighbour::Nats),
            Wire::Redis => Some(Neighbour::Redis),
            Wire::Mqtt => Some(Neighbour::Mqtt),
            Wire::Plain => Some(Neighbour::Plain),
        }
    }
}

/// What a whole frame of a neighbour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A body that somebody posted to the room.
    Message(&'a [u8]),
    /// The connection is taken.
    Welcome,
    /// The room is joined.
    Joined,
    /// The server wants a sign of life.
    Ping,
    /// A refusal in the server's words.
    Refused(&'a [u8]),
    /// The same, as a number.
    RefusedWith {
        /// What was refused.
        what: &'static str,
        /// The protocol's code of why.
        code: u8,
    },
    /// Nothing that matters.
    Other,
}

/// What a frame says, in the terms of every wire.
#[inline]
pub(crate) fn seen(said: Said<'_>) -> Seen<'_> {
    match said {
        Said::Message(body) => Seen::Message { sequence: 0, body },
        Said::Welcome => Seen::Welcome,
        Said::Joined => Seen::Joined { epoch: 0, sequence: 0 },
        Said::Ping => Seen::Ping(&[]),
        Said::Refused(words) => refused("error", String::from_utf8_lossy(words).into_owned()),
        Said::RefusedWith { what, code } => refused(what, format!("code {code}")),
        Said::Other => Seen::Other,
    }
}

fn refused(code: &str, message: String) -> Seen<'static> {
    Seen::Refused { code: code.into(), message }
}

impl Neighbour {
    /// The frame at the front of `bytes` and how many bytes it takes; `None` when it is not whole yet. A plain server
    /// speaks WebSocket, which is cut as that of Banter.
    ///
    /// # Errors
    /// When no more bytes could make it a frame.
    #[inline]
    pub(crate) fn cut(self, bytes: &[u8]) -> Result<Option<(Said<'_>, usize)>, ScanFault> {
        match self {
            Neighbour::Nats => nats::cut(bytes),
            Neighbour::Redis => redis::cut(bytes),
            Neighbour::Mqtt => mqtt::cut(bytes),
            Neighbour::Plain => Ok(None),
        }
    }

    /// Appends what opens a connection and joins a room.
    pub(crate) fn join(self, server: SocketAddr, user: &str, room: &str, out: &mut Vec<u8>) {
        match self {
            Neighbour::Nats => nats::join(user, room, out),
            Neighbour::Redis => redis::join(room, out),
            Neighbour::Mqtt => mqtt::join(user, room, out),
            Neighbour::Plain => plain::join(server, room, out),
        }
    }

    /// Appends a post.
    pub(crate) fn post(self, room: &str, body: &[u8], out: &mut Vec<u8>) {
        match self {
            Neighbour::Nats => nats::post(room, body, out),
            Neighbour::Redis => redis::post(room, body, out),
            Neighbour::Mqtt => mqtt::post(room, body, out),
            Neighbour::Plain => plain::post(body, out),
        }
    }

    /// Appends a sign of life.
    pub(crate) fn pong(self, payload: &[u8], out: &mut Vec<u8>) {
        match self {
            Neighbour::Nats => out.extend_from_slice(nats::PONG),
            Neighbour::Plain => plain::pong(payload, out),
            // Neither asks for one: Redis has no such thing, and a client of MQTT may say that it sends none.
            Neighbour::Redis | Neighbour::Mqtt => {}
        }
    }
}

/// Whether what the arguments ask for is there at all on their wire.
///
/// # Errors
/// When it is not.
pub fn check(job: &Job) -> Result<(), LoadFault> {
    let only_banter = |target: &Target, what| match target.wire.neighbour() {
        Some(_) => Err(lacks(target.wire, what)),
        None => Ok(()),
    };
    match job {
        Job::Fanout(job) => check_fanout(&job.target, job.plan().pace),
        Job::Pingpong(job) => check_fanout(&job.target, job.plan().pace),
        Job::Giant(job) => check_fanout(&job.target, job.plan().pace),
        Job::Rooms(job) => {
            if job.plan().rooms_each > 1 {
                only_banter(&job.target, "connections in several rooms here: say --rooms-each 1")?;
            }
            check_fanout(&job.target, job.plan().pace)
        }
        Job::Idle(job) => check_options(&job.target),
        Job::Storm(job) => only_banter(&job.target, "history: storm is for Banter's wires"),
        Job::Stalled(job) => only_banter(&job.target, "history: stalled is for Banter's wires"),
        Job::Churn(job) => only_banter(&job.target, "answers to joins and leaves: churn is for Banter's wires"),
        Job::History(job) => only_banter(&job.target, "history: it is for Banter's wires"),
        Job::Soak(job) => only_banter(&job.target, "history: soak is for Banter's wires"),
        // A mix is of runs that are checked themselves.
        Job::Run(_) | Job::Merge(_) => Ok(()),
        Job::Resume(job) => only_banter(&job.target, "history: resume is for Banter's wires"),
        Job::Hostile(job) => only_banter(&job.target, "such limits: hostile is for Banter's wires"),
    }
}

fn check_fanout(target: &Target, pace: Pace) -> Result<(), LoadFault> {
    if target.wire.neighbour().is_some() && matches!(pace, Pace::Closed { complete: Complete::Ack, .. }) {
        return Err(lacks(target.wire, "acknowledgements: --complete takes all or echo there"));
    }
    check_options(target)
}

fn check_options(target: &Target) -> Result<(), LoadFault> {
    let asked = [
        (target.keyed, "keys: leave out --keyed"),
        (target.secret_file.is_some(), "tokens: leave out --secret-file"),
        (target.users.is_some(), "users that share connections: leave out --users"),
    ];
    match asked.into_iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) if target.wire.neighbour().is_some() => Err(lacks(target.wire, what)),
        _ => Ok(()),
    }
}

fn lacks(wire: Wire, what: &'static str) -> LoadFault {
    LoadFault::Lacks { wire: wire.name(), what }
}

/// What is in front of the first line end, and where the next line begins; `None` when there is no end yet.
///
/// # Errors
/// When the line is too long.
#[inline]
pub(crate) fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, ScanFault> {
    match bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), end + 1))),
        None if bytes.len() >= LINE_BYTES_MAX => fault("the server sent a line without an end", bytes),
        None => Ok(None),
    }
}

/// A number of decimal digits; 9 at most, which cannot overflow.
#[inline]
pub(crate) fn digits(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    text.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + usize::from(byte - b'0')))
}

#[cold]
pub(crate) fn fault<T>(what: &str, bytes: &[u8]) -> Result<T, ScanFault> {
    const SHOWN_BYTES: usize = 60;
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    Err(ScanFault(format!("{what}: \"{}\"", shown.escape_ascii())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    /// All frames of a stream that comes in two parts, cut at every byte.
    pub(crate) fn says_the_same_in_any_two_parts(neighbour: Neighbour, stream: &[u8], expected: &[Said<'_>]) {
        for cut_at in 0..=stream.len() {
            let (mut found, mut kept) = (Vec::new(), Vec::new());
            for part in [&stream[..cut_at], &stream[cut_at..]] {
                kept.extend_from_slice(part);
                let mut used = 0;
                while let Some((said, bytes)) = neighbour.cut(&kept[used..]).unwrap() {
                    found.push(format!("{said:?}"));
                    used += bytes;
                }
                kept.drain(..used);
            }
            assert!(kept.is_empty(), "cut at {cut_at}");
            let expected: Vec<_> = expected.iter().map(|said| format!("{said:?}")).collect();
            assert_eq!(found, expected, "cut at {cut_at}");
        }
    }

    /// Whatever the bytes are, the parser answers, and takes no more than there is; a frame that it takes is never empty.
    pub(crate) fn takes_any_bytes(neighbour: Neighbour, stream: &[u8]) {
        let mut state = 1u32;
        for _ in 0..20_000 {
            let mut bytes = stream.to_vec();
            for _ in 0..4 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let place = (state >> 8) as usize % bytes.len();
                bytes[place] = (state >> 24) as u8;
            }
            let mut used = 0;
            while let Ok(Some((_, taken))) = neighbour.cut(&bytes[used..]) {
                assert!(taken > 0 && used + taken <= bytes.len());
                used += taken;
            }
        }
    }

    fn refusal(line: &str) -> String {
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        check(&args.job).map_or_else(|fault| fault.to_string(), |()| String::new())
    }

    #[test]
    fn what_a_neighbour_lacks_is_said_before_anything_is_opened() {
        for wire in ["nats", "redis", "mqtt", "plain"] {
            for (asked, named) in [
                ("fanout --complete ack", "--complete"),
                ("fanout --keyed", "--keyed"),
                ("pingpong --secret-file s", "--secret-file"),
                ("idle --users 3", "--users"),
                ("resume", "history"),
                ("hostile", "limits"),
            ] {
                let said = refusal(&format!("x {asked} --wire {wire}"));
                assert!(said.contains(named) && said.contains(wire), "{asked}: {said}");
            }
            for job in ["fanout --complete echo", "fanout --rate 5", "fanout", "pingpong", "idle"] {
                assert_eq!(refusal(&format!("x {job} --wire {wire}")), "");
            }
        }
        assert_eq!(refusal("x fanout --complete ack --keyed --wire json"), "");
    }

    #[test]
    fn a_line_ends_or_is_too_long() {
        assert_eq!(line(b"a b\r\nc"), Ok(Some((&b"a b"[..], 5))));
        assert_eq!(line(b"a b\nc"), Ok(Some((&b"a b"[..], 4))));
        assert_eq!(line(b"a b\r"), Ok(None));
        assert_eq!(line(&[b'x'; LINE_BYTES_MAX - 1]), Ok(None));
        assert!(line(&[b'x'; LINE_BYTES_MAX]).is_err());
    }

    #[test]
    fn digits_are_digits_and_few() {
        assert_eq!((digits(b"0"), digits(b"128"), digits(b"999999999")), (Some(0), Some(128), Some(999_999_999)));
        for bad in [&b""[..], b"-1", b"1x", b"1234567890"] {
            assert_eq!(digits(bad), None);
        }
    }
}
