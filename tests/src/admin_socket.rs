//! Asks the interface for backends over its unix socket, where a test wants neither curl nor a key.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::server_process::PATIENCE;

/// What the server said.
pub struct Told {
    /// The status.
    pub status: u16,
    /// The lines before the body, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Told {
    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Asks; null for no body.
///
/// # Panics
/// When the server does not answer.
#[must_use]
pub fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> Told {
    let mut stream = UnixStream::connect(socket).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: banter\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).expect("the server takes bytes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Told { status, head: head.to_lowercase(), body: body.to_owned() }
}
