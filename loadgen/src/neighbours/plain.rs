//! The plain convention, for any WebSocket server: the path `/room/NAME` joins, a binary message is a post, and every
//! member of the room gets it, who posted it too.
//!
//! A server has the member in its room before it serves anything that comes behind its answer to the upgrade; so that
//! answer says that the room is joined. What comes is cut where Banter's WebSocket is: in [`scan`](crate::scan).

use std::io::Write;
use std::net::SocketAddr;

use banter_protocol::websocket::{FrameKind, write_masked_frame};

use crate::wire::{MASK, UPGRADE_KEY};

/// Appends the upgrade request that joins a room.
pub fn join(server: SocketAddr, room: &str, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "GET /room/{room} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {UPGRADE_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
}

/// Appends a post.
pub fn post(body: &[u8], out: &mut Vec<u8>) {
    write_masked_frame(out, FrameKind::Binary, MASK, body);
}

/// Appends a sign of life.
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    write_masked_frame(out, FrameKind::Pong, MASK, payload);
}
