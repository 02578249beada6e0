//! Every limit of what waits here, with its unit.

use std::time::Duration;

/// How long one try to reach one address may take: the socket, TLS, and the server's first word. A server that was stopped
/// still has its sockets taken by the kernel, so this is what moves on to the next one.
pub const TRY_MAX: Duration = Duration::from_secs(2);
/// How long a connection is silent before the server is asked for a sign; the third one without an answer ends the connection.
/// So a server that was stopped, or whose host lost its power, is left within about 3 of these.
pub const SIGN_EVERY: Duration = Duration::from_secs(1);
/// How long is waited between two rounds of tries at most.
pub const RETRY_AFTER_MAX: Duration = Duration::from_millis(500);
/// Asks that wait for their answer at most; above it an ask is answered at once, as if nothing came.
pub const ASKS_MAX: usize = 4_096;
/// What the client library holds for the socket at most, in messages; see [`crate::Engine`] on what may be sent late.
pub const OUTBOX_MESSAGES_MAX: usize = 16;
/// Replies and beats that the library holds for us at most, of each: what all asks make that may wait at once. They are taken as soon
/// as the thread comes to it; what is above is dropped, and an ask that it belonged to has an answer that says so.
pub const INBOX_MESSAGES_MAX: usize = ASKS_MAX + READS_MAX * (READ_MESSAGES_MAX as usize + 1);
/// Answers that wait to be taken while a beat is still put behind them; above it a beat is dropped, and the next one tells as much.
pub const BEATS_BEHIND_MAX: usize = 1_024;
/// How long a stream's ends are waited for.
pub const TAIL_MAX: Duration = Duration::from_secs(1);
/// How long the messages of one read are waited for; then what came is given.
pub const READ_MAX: Duration = Duration::from_secs(2);
/// Bytes that one read asks for at most.
pub const READ_BYTES_MAX: u32 = 8 << 20;
/// Messages that one read asks for at most.
pub const READ_MESSAGES_MAX: u32 = 256;
/// Reads that are under way at most; the others wait for their turn, and their time runs meanwhile. So what reads hold is bounded too:
/// this many times [`READ_BYTES_MAX`], and a message more of each.
pub const READS_MAX: usize = 16;
/// How long putting, finding or removing an object, and forgetting the beginning of a stream, is waited for.
pub const OBJECT_MAX: Duration = Duration::from_secs(5);
/// How long an answer about streams and servers is waited for, until it is asked once more: making a stream takes an election, and a
/// list of streams some of which nobody leads comes after 4 s.
pub const CARE_MAX: Duration = Duration::from_secs(5);
/// How often it is asked: whoever leads JetStream answers, and nobody says so while they elect one.
pub const CARE_TRIES: usize = 2;
/// How often a stream is made that finds no place since a server counts as offline: one that is busy is so taken for a moment.
pub const OFFLINE_TRIES: usize = 10;
/// How long is waited between two of these tries.
pub const OFFLINE_PAUSE: Duration = Duration::from_secs(1);
/// How long a server's monitoring address is waited for.
pub const MONITORING_MAX: Duration = Duration::from_secs(3);
/// Bytes of what a server's monitoring address says, at most.
pub const MONITORING_BYTES_MAX: usize = 1 << 20;
