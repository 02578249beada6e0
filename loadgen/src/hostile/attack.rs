//! The hostile connections of a run: opens them, says what their scripts say, and opens anew those that are ended.
//!
//! Invariants:
//! - A turn does at most `ACTS_A_TURN_MAX` acts and serves `READY_MAX` sockets, so that the honest connections beside
//!   it are looked at within some tens of microseconds.
//! - An act that was not done in time is not made up for: a flood never comes in a burst because this program was late.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::SockRef;

use super::kinds::{DRIP_INTERVAL, Script, Tempo};
use super::skim::{Skim, Told};
use crate::fault::{LoadFault, host};
use crate::fleet::begin_to_connect;
use crate::sys::{Epoll, Ready};

/// Things said, or connections begun, in one turn: about 30 us of work.
const ACTS_A_TURN_MAX: usize = 4;
/// Sockets that one turn reads or writes.
const READY_MAX: usize = 4;
/// Bytes that one read takes at most.
const READ_BYTES_MAX: usize = 32 << 10;
/// Acts are saved up for so long at most.
const SAVED_MAX: Duration = Duration::from_millis(2);

/// What the hostile connections did, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Deeds {
    /// Connections that were made.
    pub connects: u64,
    /// Things that were said behind the opening of a connection.
    pub acts: u64,
    /// Bytes that the sockets took.
    pub bytes_out: u64,
    /// Bytes that were read.
    pub bytes_in: u64,
    /// Answers that were read.
    pub answers: u64,
    /// Refusals that were read.
    pub refusals: u64,
    /// Connections that the server ended.
    pub ended: u64,
}

/// How many acts may be done now.
#[derive(Clone, Copy, Debug)]
struct Pace {
    acts_per_s: f64,
    saved: f64,
    at: Instant,
}

impl Pace {
    /// Tops up, and says how many acts are allowed.
    fn allowed(&mut self, now: Instant) -> usize {
        let saved_max = (self.acts_per_s * SAVED_MAX.as_secs_f64()).max(1.0);
        self.saved = (self.saved + self.acts_per_s * (now - self.at).as_secs_f64()).min(saved_max);
        self.at = now;
        self.saved as usize
    }

    fn take(&mut self) {
        self.saved -= 1.0;
    }
}

/// An open connection.
struct Line {
    stream: TcpStream,
    unwritten: Vec<u8>,
    skim: Skim,
    wants_write: bool,
    /// Its opening was taken.
    is_open: bool,
    /// It said something and was not answered.
    is_waiting: bool,
}

struct Attacker {
    line: Option<Line>,
    /// What it says next.
    next: usize,
    /// When it says more, where it takes its time.
    due_at: Instant,
    /// It is among those that are asked in turn.
    is_queued: bool,
}

/// See the module.
pub struct Attack {
    server: SocketAddr,
    /// Attacker N follows script N, modulo their number.
    scripts: Vec<Script>,
    attackers: Vec<Attacker>,
    /// Those that have something to do, in turn.
    queue: VecDeque<usize>,
    epoll: Epoll,
    pace: Pace,
    buffer: Box<[u8]>,
    /// What was done so far.
    pub deeds: Deeds,
}

impl Attack {
    /// So many connections that follow the scripts in turn, with at most so many acts a second in all.
    ///
    /// # Errors
    /// When the host gives no epoll.
    pub fn new(server: SocketAddr, scripts: Vec<Script>, count: usize, acts_per_s: u64) -> Result<Self, LoadFault> {
        let now = Instant::now();
        let attacker = |_| Attacker { line: None, next: 0, due_at: now, is_queued: true };
        Ok(Attack {
            server,
            scripts,
            attackers: (0..count).map(attacker).collect(),
            queue: (0..count).collect(),
            epoll: Epoll::new(READY_MAX).map_err(host("making an epoll"))?,
            pace: Pace { acts_per_s: acts_per_s as f64, saved: 0.0, at: now },
            buffer: vec![0; READ_BYTES_MAX].into(),
            deeds: Deeds::default(),
        })
    }

    /// Does what is due, and reads and writes the sockets that are ready. Says how much there was to do.
    ///
    /// # Errors
    /// When this host refuses it a socket; not when the server does.
    pub fn turn(&mut self, now: Instant) -> Result<usize, LoadFault> {
        let mut done = 0;
        for _ in 0..self.pace.allowed(now).min(ACTS_A_TURN_MAX).min(self.queue.len()) {
            let Some(number) = self.queue.pop_front() else { break };
            self.attackers[number].is_queued = false;
            if self.act(number, now)? {
                self.pace.take();
                done += 1;
            }
        }
        let found = self.epoll.wait(Duration::ZERO).map_err(host("waiting for sockets"))?;
        for index in 0..found {
            let ready = self.epoll.ready(index);
            self.serve(ready)?;
        }
        Ok(done + found)
    }

    fn script(&self, number: usize) -> &Script {
        &self.scripts[number % self.scripts.len()]
    }

    fn queue(&mut self, number: usize) {
        if !std::mem::replace(&mut self.attackers[number].is_queued, true) {
            self.queue.push_back(number);
        }
    }

    /// Connects or says the next thing. False when it is too early for that.
    fn act(&mut self, number: usize, now: Instant) -> Result<bool, LoadFault> {
        let script = &self.scripts[number % self.scripts.len()];
        let attacker = &mut self.attackers[number];
        let Some(line) = &mut attacker.line else { return self.connect(number).map(|()| true) };
        if script.tempo == Tempo::Drip && now < attacker.due_at {
            self.queue(number);
            return Ok(false);
        }
        let Some(said) = script.says.get(attacker.next) else { return Ok(false) };
        line.unwritten.extend_from_slice(said);
        line.is_waiting = true;
        attacker.next = (attacker.next + 1) % script.says.len();
        attacker.due_at = now + DRIP_INTERVAL;
        self.deeds.acts += 1;
        self.flush(number)?;
        Ok(true)
    }

    fn connect(&mut self, number: usize) -> Result<(), LoadFault> {
        let opening = self.script(number).opening(number);
        let reads = self.script(number).reads;
        let Ok(stream) = begin_to_connect(self.server, number) else {
            self.deeds.ended += 1;
            self.queue(number);
            return Ok(());
        };
        // Ended by a reset: what closes in order keeps its port for a minute, and a flood of them has none left.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(host("setting a socket's linger"))?;
        self.epoll.add_for(stream.as_fd(), number, reads, true).map_err(host("registering a socket"))?;
        let (skim, wants_write) = (Skim::default(), true);
        let line = Line { stream, unwritten: opening, skim, wants_write, is_open: false, is_waiting: false };
        let attacker = &mut self.attackers[number];
        (attacker.line, attacker.next) = (Some(line), 0);
        Ok(())
    }

    fn serve(&mut self, ready: Ready) -> Result<(), LoadFault> {
        let Ready { number, is_readable, is_writable } = ready;
        if is_readable {
            // Of one that does not read only its end is reported.
            if self.script(number).reads { self.read(number) } else { self.end(number) }
        }
        if is_writable && self.attackers[number].line.is_some() {
            self.flush(number)?;
        }
        Ok(())
    }

    /// Writes what the socket takes; the rest goes when it takes more.
    fn flush(&mut self, number: usize) -> Result<(), LoadFault> {
        let Some(line) = &mut self.attackers[number].line else { return Ok(()) };
        while !line.unwritten.is_empty() {
            match line.stream.write(&line.unwritten) {
                Ok(bytes) => {
                    self.deeds.bytes_out += bytes as u64;
                    line.unwritten.drain(..bytes);
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(_) => {
                    self.end(number);
                    return Ok(());
                }
            }
        }
        self.want_write(number)?;
        self.go_on(number);
        Ok(())
    }

    fn want_write(&mut self, number: usize) -> Result<(), LoadFault> {
        let reads = self.script(number).reads;
        let Some(line) = &mut self.attackers[number].line else { return Ok(()) };
        let wants_write = !line.unwritten.is_empty();
        if std::mem::replace(&mut line.wants_write, wants_write) != wants_write {
            let changed = self.epoll.change_for(line.stream.as_fd(), number, reads, wants_write);
            changed.map_err(host("changing a socket's registration"))?;
        }
        Ok(())
    }

    /// All that it said was taken: it says more now, or later, or never.
    fn go_on(&mut self, number: usize) {
        let tempo = self.script(number).tempo;
        let Some(line) = &mut self.attackers[number].line else { return };
        if !line.unwritten.is_empty() {
            return;
        }
        if !std::mem::replace(&mut line.is_open, true) {
            self.deeds.connects += 1;
            if tempo == Tempo::Closes {
                self.attackers[number].line = None;
            }
            self.queue(number);
        } else if matches!(tempo, Tempo::Flood | Tempo::Drip) {
            self.queue(number);
        }
    }

    fn read(&mut self, number: usize) {
        let Some(line) = &mut self.attackers[number].line else { return };
        let read = match line.stream.read(&mut self.buffer) {
            Ok(bytes) if bytes > 0 => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            _ => return self.end(number),
        };
        let deeds = &mut self.deeds;
        deeds.bytes_in += read as u64;
        let before = deeds.answers + deeds.refusals;
        line.skim.read(&self.buffer[..read], |told| match told {
            Told::Answer => deeds.answers += 1,
            Told::Refusal => deeds.refusals += 1,
            Told::Other => {}
        });
        let was_answered = deeds.answers + deeds.refusals > before && std::mem::take(&mut line.is_waiting);
        if was_answered && self.script(number).tempo == Tempo::AsAnswered {
            self.queue(number);
        }
    }

    /// The server ended it: it comes back.
    fn end(&mut self, number: usize) {
        self.attackers[number].line = None;
        self.deeds.ended += 1;
        self.queue(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_keeps_its_rate_and_makes_up_for_nothing() {
        let start = Instant::now();
        let mut pace = Pace { acts_per_s: 10_000.0, saved: 0.0, at: start };
        assert_eq!(pace.allowed(start + Duration::from_micros(1050)), 10);
        pace.take();
        assert_eq!(pace.allowed(start + Duration::from_micros(1050)), 9);
        assert_eq!(pace.allowed(start + Duration::from_secs(9)), 20, "what two milliseconds save up");
        let mut slow = Pace { acts_per_s: 1.0, saved: 0.0, at: start };
        assert_eq!(slow.allowed(start + Duration::from_millis(999)), 0);
        assert_eq!(slow.allowed(start + Duration::from_millis(1001)), 1, "a slow pace comes to an act too");
    }
}
