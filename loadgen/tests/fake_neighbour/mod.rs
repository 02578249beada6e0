//! A server in a few lines that is not Banter, of each wire, honest or not, for runs of the real binary against it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use banter_protocol::http::write_upgrade_response;
use banter_protocol::ingress::{Incoming, Ingress};
use banter_protocol::websocket::{self, FrameKind};

/// What the server does wrong with the fifth post of a room, and only to the room's last member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// It never comes.
    Drops,
    /// It comes twice.
    Repeats,
    /// It comes behind the sixth.
    Reorders,
    /// Its last byte is another one.
    Alters,
    /// Whoever wants to join is refused.
    Refuses,
}

const FLAWED: u64 = 5;

#[derive(Default)]
struct Room {
    posts: u64,
    members: Vec<TcpStream>,
    held: Vec<u8>,
}

type Rooms = Arc<Mutex<HashMap<String, Room>>>;

/// What a client asks.
enum Asked {
    Join(String),
    Post(String, Vec<u8>),
    /// An answer is due, and nothing else.
    Answer(&'static [u8]),
    Nothing,
}

/// What is not whole yet is `None`; else how many bytes it took.
type Taken = Option<(Asked, usize)>;

/// Serves until the process ends.
pub fn start(wire: &'static str, flaw: Flaw) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, rooms) = (listener.local_addr().unwrap(), Rooms::default());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let rooms = rooms.clone();
            std::thread::spawn(move || serve(wire, flaw, &rooms, stream.unwrap()));
        }
    });
    address
}

fn serve(wire: &str, flaw: Flaw, rooms: &Rooms, mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    if wire == "nats" {
        stream.write_all(b"INFO {\"server_id\":\"fake\"}\r\n").unwrap();
    }
    let (mut kept, mut buffer, mut room) = (Vec::new(), [0; 65_536], None);
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        kept.extend_from_slice(&buffer[..read]);
        while let Some((asked, used)) = take(wire, &mut kept, room.as_ref()) {
            kept.drain(..used);
            match asked {
                Asked::Join(name) => {
                    let member = stream.try_clone().unwrap();
                    // Under one lock: whoever is told that it is a member gets the very next post, and not before.
                    let mut rooms = rooms.lock().unwrap();
                    // The refusal may find nobody who reads it any more.
                    let _ = stream.write_all(&if flaw == Flaw::Refuses { refused(wire) } else { joined(wire, &name) });
                    rooms.entry(name.clone()).or_default().members.push(member);
                    room = Some(name);
                }
                Asked::Post(name, body) => post(wire, flaw, rooms.lock().unwrap().entry(name).or_default(), &body),
                Asked::Answer(answer) => stream.write_all(answer).unwrap(),
                Asked::Nothing => {}
            }
        }
    }
}

fn post(wire: &str, flaw: Flaw, room: &mut Room, body: &[u8]) {
    room.posts += 1;
    let frame = delivery(wire, "load-0", body);
    let last = room.members.len() - 1;
    for (index, mut member) in room.members.iter().enumerate() {
        let frames = match (flaw, room.posts) {
            (Flaw::Drops, FLAWED) if index == last => Vec::new(),
            (Flaw::Repeats, FLAWED) if index == last => frame.repeat(2),
            (Flaw::Reorders, FLAWED) if index == last => {
                room.held = frame.clone();
                Vec::new()
            }
            (Flaw::Alters, FLAWED) if index == last => {
                let altered = [&body[..body.len() - 1], b"!"].concat();
                delivery(wire, "load-0", &altered)
            }
            _ if index == last => [frame.clone(), std::mem::take(&mut room.held)].concat(),
            _ => frame.clone(),
        };
        // A client that has seen the fault is gone.
        let _ = member.write_all(&frames);
    }
}

fn delivery(wire: &str, room: &str, body: &[u8]) -> Vec<u8> {
    let (mut frame, bytes) = (Vec::new(), body.len());
    match wire {
        "nats" => write!(frame, "MSG {room} 1 {bytes}\r\n").unwrap(),
        "redis" => write!(frame, ">3\r\n$7\r\nmessage\r\n${}\r\n{room}\r\n${bytes}\r\n", room.len()).unwrap(),
        "mqtt" => {
            let length = 2 + room.len() + bytes;
            frame.extend_from_slice(&[0x30, length as u8 | 0x80, (length >> 7) as u8, 0, room.len() as u8]);
            frame.extend_from_slice(room.as_bytes());
        }
        _ => websocket::write_frame_header(&mut frame, FrameKind::Binary, bytes),
    }
    frame.extend_from_slice(body);
    if matches!(wire, "nats" | "redis") {
        frame.extend_from_slice(b"\r\n");
    }
    frame
}

/// A server of NATS says nothing to a subscription, and sees at once whether somebody is there.
fn joined(wire: &str, room: &str) -> Vec<u8> {
    match wire {
        "nats" => b"PING\r\n".to_vec(),
        "redis" => format!(">3\r\n$9\r\nsubscribe\r\n${}\r\n{room}\r\n:1\r\n", room.len()).into_bytes(),
        "mqtt" => vec![0x90, 3, 0, 1, 0],
        _ => upgraded(),
    }
}

fn refused(wire: &str) -> Vec<u8> {
    match wire {
        "nats" => b"-ERR 'no place'\r\n".to_vec(),
        "redis" => b"-ERR no place\r\n".to_vec(),
        "mqtt" => vec![0x90, 3, 0, 1, 0x80],
        _ => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nno place".to_vec(),
    }
}

fn upgraded() -> Vec<u8> {
    let mut answer = Vec::new();
    write_upgrade_response(&mut answer, "dGhlIHNhbXBsZSBub25jZQ==", None);
    answer
}

fn take(wire: &str, kept: &mut [u8], room: Option<&String>) -> Taken {
    match wire {
        "nats" => take_nats(kept),
        "redis" => take_redis(kept),
        "mqtt" => take_mqtt(kept),
        _ => take_plain(kept, room),
    }
}

/// A line without its end, and where the next begins.
fn line(bytes: &[u8]) -> Option<(&str, usize)> {
    let end = bytes.windows(2).position(|end| end == b"\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).unwrap(), end + 2))
}

fn take_nats(kept: &[u8]) -> Taken {
    let (head, at) = line(kept)?;
    let words: Vec<&str> = head.split(' ').collect();
    Some(match words[..] {
        ["SUB", room, _] => (Asked::Join(room.into()), at),
        ["PUB", room, bytes] => {
            let end = at + bytes.parse::<usize>().unwrap();
            kept.get(end..end + 2)?;
            (Asked::Post(room.into(), kept[at..end].to_vec()), end + 2)
        }
        ["PING"] => (Asked::Answer(b"PONG\r\n"), at),
        _ => (Asked::Nothing, at),
    })
}

fn take_redis(kept: &[u8]) -> Taken {
    let (count, mut at) = line(kept)?;
    let mut words = Vec::new();
    for _ in 0..count.strip_prefix('*').unwrap().parse().unwrap() {
        let (length, next) = line(&kept[at..])?;
        let begin = at + next;
        at = begin + length.strip_prefix('$').unwrap().parse::<usize>().unwrap() + 2;
        words.push(kept.get(begin..at)?.strip_suffix(b"\r\n").unwrap());
    }
    let text = |word: &[u8]| String::from_utf8(word.to_vec()).unwrap();
    Some(match words[..] {
        [b"HELLO", b"3"] => (Asked::Answer(b"%1\r\n$6\r\nserver\r\n$4\r\nfake\r\n"), at),
        [b"SUBSCRIBE", room] => (Asked::Join(text(room)), at),
        [b"PUBLISH", room, body] => (Asked::Post(text(room), body.to_vec()), at),
        _ => panic!("{}", kept.escape_ascii()),
    })
}

fn take_mqtt(kept: &[u8]) -> Taken {
    let [kind, first, second, ..] = *kept else { return None };
    let (length, at) = match first {
        0..0x80 => (usize::from(first), 2),
        _ => (usize::from(first & 0x7F) | usize::from(second) << 7, 3),
    };
    let (rest, end) = (kept.get(at..at + length)?, at + length);
    let text = |from: usize| {
        let end = from + 2 + usize::from(rest[from + 1]);
        (String::from_utf8(rest[from + 2..end].to_vec()).unwrap(), end)
    };
    Some(match kind {
        0x10 => (Asked::Answer(&[0x20, 2, 0, 0]), end),
        0x82 => (Asked::Join(text(2).0), end),
        0x30 => (Asked::Post(text(0).0, rest[text(0).1..].to_vec()), end),
        _ => panic!("{}", kept.escape_ascii()),
    })
}

fn take_plain(kept: &mut [u8], room: Option<&String>) -> Taken {
    if let Some(room) = room {
        return take_masked(kept).map(|(body, used)| (Asked::Post(room.clone(), body), used));
    }
    match Ingress::new(1 << 16).read(kept).unwrap() {
        (used, Some(Incoming::Http(request))) => {
            let room = request.path.strip_prefix("/room/").unwrap().to_owned();
            assert!(request.upgrade.is_some());
            Some((Asked::Join(room), used))
        }
        _ => None,
    }
}

/// A whole binary frame of a client.
fn take_masked(kept: &[u8]) -> Option<(Vec<u8>, usize)> {
    let [0x82, second, high, low, ..] = *kept else {
        assert!(kept.len() < 4, "{}", kept.escape_ascii());
        return None;
    };
    let (length, at) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes([high, low])), 4),
        short => (usize::from(short), 2),
    };
    let (mask, body) = kept.get(at..at + 4 + length)?.split_at(4);
    let unmasked = body.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    Some((unmasked.collect(), at + 4 + length))
}
