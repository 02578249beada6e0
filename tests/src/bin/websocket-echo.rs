//! Echoes WebSocket messages over the server's own codec and data plane, so that the Autobahn suite can be pointed at it.
//!
//! `cargo run --release -p banter-tests --bin websocket-echo -- --port 9001`, then
//! `scripts/autobahn.sh`, which does both.

use std::collections::HashMap;
use std::net::TcpListener;
use std::process::ExitCode;

use banter_chat::fanout::Sending;
use banter_protocol::http::{Head, parse_head, write_upgrade_response};
use banter_protocol::websocket::{FrameKind, Incoming, Role, WebSocketReader, write_close, write_frame_header};
use banter_server::core::net::{Net, NetEvent};

/// Autobahn's largest messages have 16 MiB.
const MESSAGE_BYTES_MAX: u64 = 32 * 1024 * 1024;
const SOCKETS_MAX: u32 = 64;

#[derive(Default)]
struct Echo {
    head: Vec<u8>,
    reader: Option<WebSocketReader>,
    outbox: Vec<u8>,
    is_closing: bool,
    is_finished: bool,
}

impl Echo {
    /// Reads bytes and writes their echo.
    fn read(&mut self, bytes: &mut [u8]) {
        match &mut self.reader {
            Some(_) => self.read_frames(bytes),
            None => self.read_head(bytes),
        }
    }

    fn read_head(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
        let mut head = std::mem::take(&mut self.head);
        match parse_head(&head) {
            Ok(Head::Partial) => self.head = head,
            Ok(Head::Complete { consumed, request }) if request.upgrade.is_some() => {
                if let Some(upgrade) = request.upgrade {
                    write_upgrade_response(&mut self.outbox, upgrade.key, None);
                }
                self.reader = Some(WebSocketReader::new(Role::Server, MESSAGE_BYTES_MAX));
                self.read_frames(&mut head[consumed..]);
            }
            _ => self.is_closing = true,
        }
    }

    fn read_frames(&mut self, mut bytes: &mut [u8]) {
        let Some(reader) = &mut self.reader else { return };
        while !bytes.is_empty() && !self.is_closing {
            match reader.read(bytes) {
                Err(fault) => {
                    write_close(&mut self.outbox, fault.close_code(), &fault.to_string());
                    self.is_closing = true;
                }
                Ok((used, incoming)) => {
                    self.is_closing = incoming.is_some_and(|incoming| echo(&incoming, &mut self.outbox));
                    bytes = &mut bytes[used..];
                }
            }
        }
        reader.release();
    }
}

/// Writes the echo of one incoming; true behind a close.
fn echo(incoming: &Incoming<'_>, outbox: &mut Vec<u8>) -> bool {
    let (kind, payload) = match incoming {
        Incoming::Text(text) => (FrameKind::Text, text.as_bytes()),
        Incoming::Binary(bytes) => (FrameKind::Binary, *bytes),
        Incoming::Ping(payload) => (FrameKind::Pong, *payload),
        Incoming::Pong(_) => return false,
        Incoming::Close { code, .. } => {
            write_close(outbox, code.unwrap_or(1000), "");
            return true;
        }
    };
    write_frame_header(outbox, kind, payload.len());
    outbox.extend_from_slice(payload);
    false
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let port = match args.as_slice() {
        [_, flag, port] if flag == "--port" => port.parse::<u16>().ok(),
        _ => None,
    };
    let Some(port) = port else {
        eprintln!("usage: websocket-echo --port PORT");
        return ExitCode::from(2);
    };
    match serve(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("websocket-echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening on {}", listener.local_addr()?);
    let mut net = Net::new(listener, SOCKETS_MAX, None)?;
    net.accept(1);
    let mut echoes: HashMap<u32, Echo> = HashMap::new();
    let mut events = Vec::new();
    loop {
        net.submit_and_wait()?;
        net.reap(&mut events);
        for event in events.drain(..) {
            let slot = match event {
                NetEvent::Accepted(slot, _) => {
                    net.accept(1);
                    echoes.insert(slot, Echo::default());
                    continue;
                }
                NetEvent::Received(slot, received) => {
                    let echo = echoes.entry(slot).or_default();
                    net.with_bytes(received, |bytes, _| echo.read(bytes));
                    slot
                }
                NetEvent::Ended(slot) | NetEvent::Broken(slot) => {
                    net.close(slot);
                    continue;
                }
                NetEvent::Closed(slot) => {
                    echoes.remove(&slot);
                    continue;
                }
                NetEvent::Sent(slot) => slot,
                NetEvent::Waits(_) | NetEvent::GoesOn(_) | NetEvent::Looked(..) => continue,
                NetEvent::AcceptFailed(error) => return Err(error),
                NetEvent::Appended(_) => continue,
            };
            let Some(echo) = echoes.get_mut(&slot) else { continue };
            if net.is_sending(slot) {
                continue;
            }
            if !echo.outbox.is_empty() {
                net.send(slot, Sending::Copied(std::mem::take(&mut echo.outbox)));
            } else if echo.is_closing && !echo.is_finished {
                echo.is_finished = true;
                net.finish(slot);
            }
        }
        net.receive_again();
    }
}
