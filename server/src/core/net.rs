//! The sockets of one core and the log's appends on a ring: a few accepts at a time, one receive and one send in
//! flight a socket, one append in flight, and one submit a turn. Knows bytes and slots; not what they mean.
//!
//! ```text
//!  accept ─▶ Accepted ─▶ Received* ─▶ Ended
//!               send ─▶ (Waits ─▶ GoesOn*) ─▶ Sent | Broken        close ─▶ Closed: the slot may come again
//!  append ─▶ Appended*
//! ```
//!
//! Invariants:
//! - A socket's slot is its place in the ring's table of descriptors, and its place in every table of the core.
//! - The bytes of a send or an append stay here until its completion, so the kernel never reads freed memory.
//! - A turn brings at most one buffer of one socket: a receive is armed again when its buffer was read, and only while the
//!   owner wants more. No multishot ones: those of a peer that sends faster than a core reads go on by themselves until
//!   the buffers of all are full, and cannot be cancelled meanwhile, since they wait in the kernel's list of work.
//! - A slot is closed only when nothing of it is in flight, so no completion ever meets the next user of the slot.

pub mod append;
pub mod buffers;
pub mod pace;
pub mod peers;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;
use std::sync::Arc;

use banter_chat::fanout::Sending;
use banter_chat::table::Table;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use append::{Append, Appended};
use buffers::{BUFFER_BYTES, BUFFER_GROUP, BufferRing, Received};
use peers::PeerPlaces;

use crate::core::mesh::Bell;

/// Entries of the submission queue. A turn with more operations submits in parts.
const SUBMISSIONS: u32 = 1_024;
/// Entries of the completion queue; above them the kernel keeps completions aside.
const COMPLETIONS: u32 = 8_192;

/// Times that one submit enters the kernel at most. Each hands over [`HANDED_OVER_MAX`] events that wait for this thread;
/// with thousands of sockets busy, a post would wait behind all others so few a turn.
const ENTERS_A_TURN: usize = 32;
/// Events that wait for this thread that one call hands over (`IO_LOCAL_TW_DEFAULT_MAX`). Of those it leaves behind the
/// kernel says nothing, so a call that hands over so many is followed by another.
const HANDED_OVER_MAX: usize = 20;

/// What happened to sockets.
#[derive(Debug)]
pub enum NetEvent {
    /// A connection from that address has that slot now.
    Accepted(u32, IpAddr),
    /// No connection could be taken: try again later ([`Net::accept`]).
    AcceptFailed(io::Error),
    /// Bytes came; give the buffer back.
    Received(u32, Received),
    /// No more bytes will come: the peer ended its side, or the connection broke.
    Ended(u32),
    /// A send found no room in the socket, and waits for the peer to take what is there.
    Waits(u32),
    /// The peer took something, so that a send which waited went on.
    GoesOn(u32),
    /// So many bytes of the socket were not taken by the peer ([`Net::look`]).
    Looked(u32, u32),
    /// All of a send is with the kernel.
    Sent(u32),
    /// A send failed: the connection is broken.
    Broken(u32),
    /// The slot is nobody's.
    Closed(u32),
    /// The append got that far.
    Appended(Appended),
}

/// The ring and what is in flight on it.
pub struct Net {
    /// Dropped first: it ends everything that points into the fields below.
    ring: IoUring,
    /// Lent out while bytes are read ([`Net::with_bytes`]).
    buffers: Option<BufferRing>,
    sockets: Table<Socket>,
    listener: Option<TcpListener>,
    /// Accepts in flight.
    accepts: u32,
    peers: PeerPlaces,
    append: Option<Append>,
    bell: Option<Arc<Bell>>,
    /// When the ring wakes by itself, on the caller's clock in milliseconds.
    wakes_ms: Option<u64>,
    timeout: Box<Timespec>,
    /// Sockets whose receives ended in this turn.
    unarmed: Vec<u32>,
    /// Those that were looked at and not taken.
    completions: Vec<(u64, i32, u32)>,
}

#[derive(Default)]
struct Socket {
    sending: Option<Sending>,
    sent_bytes: u32,
    /// The send found no room.
    is_waiting: bool,
    /// A receive is armed in the kernel.
    is_receiving: bool,
    /// The owner wants bytes.
    is_wanted: bool,
    /// The last receive left something behind.
    has_more: bool,
    is_closing: bool,
    /// Shutdowns in flight. The kernel runs them on a thread of its own, and looks the slot up only there: one that is
    /// late would meet the next connection.
    shutdowns: u8,
    /// The close itself is on its way.
    is_last: bool,
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Operation {
    Accept,
    Receive,
    Send,
    Cancel,
    Shutdown,
    Close,
    Timeout,
    Append,
    Bell,
    Look,
}

impl Operation {
    const ALL: [Operation; 10] = [
        Operation::Accept,
        Operation::Receive,
        Operation::Send,
        Operation::Cancel,
        Operation::Shutdown,
        Operation::Close,
        Operation::Timeout,
        Operation::Append,
        Operation::Bell,
        Operation::Look,
    ];

    fn user_data(self, slot: u32) -> u64 {
        ((self as u64) << 32) | u64::from(slot)
    }
}

impl Net {
    /// A ring with room for that many sockets. The bell's rings wake it, and while [`Net::set_waking`] says so it wakes
    /// the bell's executor.
    ///
    /// # Errors
    /// What the kernel says; [`crate::host::ring_fault`] explains it.
    pub fn new(listener: TcpListener, sockets_max: u32, bell: Option<Arc<Bell>>) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        ring.submitter().register_files_sparse(sockets_max)?;
        let buffers = BufferRing::register(&ring)?;
        if let Some(bell) = &bell {
            ring.submitter().register_eventfd(bell.for_executor().as_raw_fd())?;
        }
        let mut net = Net {
            ring,
            buffers: Some(buffers),
            sockets: Table::default(),
            listener: Some(listener),
            accepts: 0,
            peers: PeerPlaces::default(),
            append: None,
            bell,
            wakes_ms: None,
            timeout: Box::default(),
            unarmed: Vec::new(),
            completions: Vec::new(),
        };
        net.set_waking(false);
        net.hear_bell();
        Ok(net)
    }

    /// Polls the bell, each of whose rings is an event of its own: nothing is read from it.
    fn hear_bell(&mut self) {
        if let Some(bell) = &self.bell {
            let poll = opcode::PollAdd::new(Fd(bell.for_ring().as_raw_fd()), libc::POLLIN as u32).multi(true).build();
            self.push(poll.user_data(Operation::Bell.user_data(0)));
        }
    }

    /// Begins that many accepts, if the listener is open. Single ones and no multishot one, which takes all that are there,
    /// so that the kernel hands their requests over ahead of live posts.
    pub fn accept(&mut self, more: u32) {
        let Some(listener) = self.listener.as_ref().map(AsRawFd::as_raw_fd) else { return };
        for _ in 0..more {
            let peer = self.peers.take();
            let accept = opcode::Accept::new(Fd(listener), peer.address, peer.bytes)
                .file_index(Some(DestinationSlot::auto_target()))
                .build();
            self.accepts += 1;
            self.push(accept.user_data(Operation::Accept.user_data(peer.place)));
        }
    }

    /// Accepts in flight.
    pub fn accepts(&self) -> u32 {
        self.accepts
    }

    /// Takes no more connections; those in the kernel's queue are reset.
    pub fn stop_accepting(&mut self) {
        for place in self.peers.all() {
            let cancel = opcode::AsyncCancel::new(Operation::Accept.user_data(place)).build();
            self.push(cancel.user_data(Operation::Cancel.user_data(0)));
        }
        self.listener = None;
    }

    /// Sends; at most one at a time a socket.
    pub fn send(&mut self, slot: u32, sending: Sending) {
        let Some(socket) = self.sockets.get_mut(slot as usize) else { return };
        debug_assert!(socket.sending.is_none(), "one send at a time");
        if socket.is_closing {
            return;
        }
        socket.sending = Some(sending);
        socket.sent_bytes = 0;
        socket.is_waiting = false;
        self.push_send(slot);
    }

    fn push_send(&mut self, slot: u32) {
        let socket = &self.sockets[slot as usize];
        let Some(sending) = &socket.sending else { return };
        let rest = &sending.bytes()[socket.sent_bytes as usize..];
        // Tried without waiting first, and never with WAITALL: so it is seen that a send waits, and that it goes on.
        let waiting = if socket.is_waiting { 0 } else { libc::MSG_DONTWAIT };
        let send = opcode::Send::new(Fixed(slot), rest.as_ptr(), rest.len() as u32)
            .flags(waiting | libc::MSG_NOSIGNAL)
            .build();
        self.push(send.user_data(Operation::Send.user_data(slot)));
    }

    /// Asks how many bytes in the socket the peer has not taken. [`NetEvent::Looked`] follows, from Linux 6.7 on.
    pub fn look(&mut self, slot: u32) {
        if self.sockets.get(slot as usize).is_some_and(|socket| !socket.is_closing) {
            // Done as it is submitted, so it is over before a close.
            let look = opcode::UringCmd16::new(Fixed(slot), SOCKET_UNTAKEN_BYTES).build();
            self.push(look.user_data(Operation::Look.user_data(slot)));
        }
    }

    /// Whether a send is in flight.
    pub fn is_sending(&self, slot: u32) -> bool {
        self.sockets.get(slot as usize).is_some_and(|socket| socket.sending.is_some())
    }

    /// Reads no more for now. The receive that is in flight may still bring a buffer.
    pub fn pause(&mut self, slot: u32) {
        if let Some(socket) = self.sockets.get_mut(slot as usize) {
            socket.is_wanted = false;
        }
    }

    /// Reads.
    pub fn resume(&mut self, slot: u32) {
        let Some(socket) = self.sockets.get_mut(slot as usize) else { return };
        socket.is_wanted = true;
        self.receive(slot);
    }

    fn receive(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        if socket.is_wanted && !socket.is_receiving && !socket.is_closing {
            socket.is_receiving = true;
            // Where nothing is there it is not tried, but waited for.
            let first = if socket.has_more { 0 } else { POLL_FIRST };
            let receive = opcode::Recv::new(Fixed(slot), null_mut(), BUFFER_BYTES as u32)
                .buf_group(BUFFER_GROUP)
                .ioprio(first)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            self.push(receive.user_data(Operation::Receive.user_data(slot)));
        }
    }

    /// Tells the peer that nothing more comes, and still reads.
    pub fn finish(&mut self, slot: u32) {
        // Behind a close it would meet the next connection.
        if self.sockets.get(slot as usize).is_some_and(|socket| !socket.is_closing) {
            self.shutdown(slot, libc::SHUT_WR);
        }
    }

    fn shutdown(&mut self, slot: u32, how: i32) {
        self.sockets[slot as usize].shutdowns += 1;
        let shutdown = opcode::Shutdown::new(Fixed(slot), how).build();
        self.push(shutdown.user_data(Operation::Shutdown.user_data(slot)));
    }

    /// Ends a connection, whatever is in flight. [`NetEvent::Closed`] follows.
    pub fn close(&mut self, slot: u32) {
        let Some(socket) = self.sockets.get_mut(slot as usize) else { return };
        if socket.is_closing {
            return;
        }
        socket.is_closing = true;
        if socket.is_receiving || socket.sending.is_some() {
            self.shutdown(slot, libc::SHUT_RDWR);
        }
        self.close_if_quiet(slot);
    }

    fn close_if_quiet(&mut self, slot: u32) {
        let socket = &mut self.sockets[slot as usize];
        let is_quiet = !socket.is_receiving && socket.sending.is_none() && socket.shutdowns == 0;
        if socket.is_closing && is_quiet && !socket.is_last {
            socket.is_last = true;
            let close = opcode::Close::new(Fixed(slot)).build();
            self.push(close.user_data(Operation::Close.user_data(slot)));
        }
    }

    /// Appends to the log; at most one at a time. [`NetEvent::Appended`] follows, as often as its reach says.
    pub fn append(&mut self, append: Append) {
        debug_assert!(self.append.is_none(), "one append at a time");
        self.append = Some(append);
        self.push_append();
        // At once: a write that is submitted with sends behind it goes to the disk when all of them are done. An error
        // here shows again at the turn's own submit.
        let _ = self.ring.submit();
    }

    fn push_append(&mut self) {
        match self.append.as_ref().and_then(Append::entry) {
            Some(entry) => self.push(entry.user_data(Operation::Append.user_data(0))),
            None => self.append = None,
        }
    }

    /// Whether an append is in flight.
    pub fn is_appending(&self) -> bool {
        self.append.is_some()
    }

    /// Wakes the ring at that time at the latest (on the caller's clock, which says `now_ms`).
    pub fn wake_at(&mut self, due_ms: u64, now_ms: u64) {
        if self.wakes_ms.is_some_and(|wakes_ms| wakes_ms <= due_ms) {
            return;
        }
        let is_set = self.wakes_ms.replace(due_ms).is_some();
        *self.timeout = Timespec::from(std::time::Duration::from_millis(due_ms.saturating_sub(now_ms).max(1)));
        let own = Operation::Timeout.user_data(0);
        if is_set {
            // Moved, and not another one beside it: of those there would be no end. One that has just gone off wakes anyway.
            let update = opcode::TimeoutUpdate::new(own, &raw const *self.timeout).build();
            self.push(update.user_data(Operation::Cancel.user_data(0)));
        } else {
            let timeout = opcode::Timeout::new(&raw const *self.timeout).build();
            self.push(timeout.user_data(own));
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: what an entry points to lives until its completion: bytes of sends in `sockets`, the block in
            // `append`, addresses of peers in `peers` (which never moves them), the timeout in its box (copied at submit), buffers in `buffers`; all of them outlive the ring,
            // which is dropped first, after what was in flight has ended or its memory was given up (`drop`).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: what is queued goes first. An error here shows again at the turn's own submit.
            let _ = self.ring.submit();
        }
    }

    /// Submits what is queued, and lets the kernel finish what it has.
    ///
    /// # Errors
    /// What the kernel says, but for "busy" and "interrupted", which the next turn settles.
    pub fn submit(&mut self) -> io::Result<()> {
        let mut is_more_likely = false;
        for _ in 0..ENTERS_A_TURN {
            let (queued, has_work) = {
                let submission = self.ring.submission();
                (submission.len() as u32, has_work(&submission))
            };
            if queued == 0 && !has_work && !is_more_likely {
                return Ok(());
            }
            let before = self.ring.completion().len();
            // SAFETY: no argument is a pointer, and what the queued entries point to lives as `push` says.
            let submitted = unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) };
            settle(submitted)?;
            is_more_likely = self.ring.completion().len() >= before + HANDED_OVER_MAX;
        }
        Ok(())
    }

    /// Submits what is queued and sleeps until there is something to reap.
    ///
    /// # Errors
    /// As [`Net::submit`].
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        settle(self.ring.submitter().submit_with_args(1, &SubmitArgs::new()))
    }

    /// Whether there is something to reap, or the kernel waits for a submit to hand it over.
    pub fn is_busy(&mut self) -> bool {
        !self.completions.is_empty() || !self.ring.completion().is_empty() || has_work(&self.ring.submission())
    }

    /// Whether the bell's executor is woken by completions: only while the core sleeps there.
    pub fn set_waking(&mut self, waking: bool) {
        let completions = self.ring.completion();
        if waking { completions.enable_eventfd() } else { completions.disable_eventfd() }
    }

    /// Takes what happened since the last time.
    pub fn reap(&mut self, events: &mut Vec<NetEvent>) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        for (user_data, result, flags) in completions.drain(..) {
            self.complete(user_data, result, flags, events);
        }
        self.completions = completions;
    }

    /// Takes what happened since the last time, if it is nothing but sends that went out whole; otherwise all of it is left for
    /// [`Net::reap`].
    pub fn reap_sent(&mut self, events: &mut Vec<NetEvent>) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        if completions.iter().all(|&(user_data, result, _)| self.is_whole_send(user_data, result)) {
            for (user_data, result, flags) in completions.drain(..) {
                self.complete(user_data, result, flags, events);
            }
        }
        self.completions = completions;
    }

    fn is_whole_send(&self, user_data: u64, result: i32) -> bool {
        let slot = user_data as u32;
        if user_data != Operation::Send.user_data(slot) {
            return false;
        }
        let Some(socket) = self.sockets.get(slot as usize) else { return false };
        let rest = socket.sending.as_ref().map(|sending| sending.bytes().len() - socket.sent_bytes as usize);
        !socket.is_closing && !socket.is_waiting && rest.is_some_and(|rest| usize::try_from(result) == Ok(rest))
    }

    fn complete(&mut self, user_data: u64, result: i32, flags: u32, events: &mut Vec<NetEvent>) {
        let slot = user_data as u32;
        match Operation::ALL.get((user_data >> 32) as usize) {
            Some(Operation::Accept) => self.accepted(slot, result, events),
            Some(Operation::Receive) => self.received(slot, result, flags, events),
            Some(Operation::Send) => self.sent(slot, result, events),
            Some(Operation::Close) => {
                self.sockets[slot as usize] = Socket::default();
                events.push(NetEvent::Closed(slot));
            }
            Some(Operation::Timeout) => self.wakes_ms = None,
            Some(Operation::Bell) if !cqueue::more(flags) => self.hear_bell(),
            Some(Operation::Append) => {
                events.extend(self.append.as_mut().and_then(|append| append.complete(result)).map(NetEvent::Appended));
                self.push_append();
            }
            Some(Operation::Shutdown) => {
                let socket = &mut self.sockets[slot as usize];
                socket.shutdowns = socket.shutdowns.saturating_sub(1);
                self.close_if_quiet(slot);
            }
            Some(Operation::Look) => events.extend(u32::try_from(result).map(|bytes| NetEvent::Looked(slot, bytes))),
            Some(Operation::Bell | Operation::Cancel) | None => {}
        }
    }

    fn accepted(&mut self, place: u32, result: i32, events: &mut Vec<NetEvent>) {
        self.accepts -= 1;
        let peer = self.peers.read(place);
        if result < 0 {
            if self.listener.is_some() {
                events.push(NetEvent::AcceptFailed(io::Error::from_raw_os_error(-result)));
            }
            return;
        }
        let slot = result as u32;
        self.sockets.grow_to_hold(slot as usize, Socket::default);
        self.sockets[slot as usize] = Socket { is_wanted: true, ..Socket::default() };
        self.receive(slot);
        events.push(NetEvent::Accepted(slot, peer));
    }

    fn received(&mut self, slot: u32, result: i32, flags: u32, events: &mut Vec<NetEvent>) {
        let received = cqueue::buffer_select(flags).map(|buffer| Received::new(buffer, result.max(0) as u32));
        let socket = &mut self.sockets[slot as usize];
        socket.is_receiving = false;
        socket.has_more = cqueue::sock_nonempty(flags);
        match received {
            Some(received) if socket.is_closing || result <= 0 => self.with_bytes(received, |_, _| {}),
            Some(received) => events.push(NetEvent::Received(slot, received)),
            None => {}
        }
        let socket = &self.sockets[slot as usize];
        if socket.is_closing {
            self.close_if_quiet(slot);
        } else if result == 0 || (result < 0 && !matches!(-result, libc::ENOBUFS | libc::ECANCELED | libc::EINTR)) {
            events.push(NetEvent::Ended(slot));
        } else {
            // Again when the buffers that came in this turn are back.
            self.unarmed.push(slot);
        }
    }

    /// Arms the receives that ended and are wanted again. Once a turn, behind the reaping.
    pub fn receive_again(&mut self) {
        let mut unarmed = std::mem::take(&mut self.unarmed);
        for slot in unarmed.drain(..) {
            self.receive(slot);
        }
        self.unarmed = unarmed;
    }

    fn sent(&mut self, slot: u32, result: i32, events: &mut Vec<NetEvent>) {
        let socket = &mut self.sockets[slot as usize];
        let Some(sending) = &socket.sending else { return };
        socket.sent_bytes += result.max(0) as u32;
        let rest = sending.bytes().len() - (socket.sent_bytes as usize).min(sending.bytes().len());
        if socket.is_waiting && result > 0 {
            events.push(NetEvent::GoesOn(slot));
        }
        if socket.is_closing {
            socket.sending = None;
            self.close_if_quiet(slot);
        } else if rest == 0 {
            socket.sending = None;
            events.push(NetEvent::Sent(slot));
        } else if result > 0 || matches!(-result, libc::EINTR | libc::EAGAIN) {
            if !std::mem::replace(&mut socket.is_waiting, true) {
                events.push(NetEvent::Waits(slot));
            }
            self.push_send(slot);
        } else {
            socket.sending = None;
            events.push(NetEvent::Broken(slot));
        }
    }

    /// Lends the bytes of a [`NetEvent::Received`], and gives their buffer back to the kernel.
    pub fn with_bytes(&mut self, received: Received, read: impl FnOnce(&mut [u8], &mut Net)) {
        let Some(mut buffers) = self.buffers.take() else { return };
        read(buffers.bytes_mut(&received), self);
        buffers.give_back(received);
        self.buffers = Some(buffers);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // What is in flight points into this struct: the kernel ends it before the memory goes. An error here means
        // that there was nothing.
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        // A disk's write cannot be cancelled: its memory stays the kernel's, rather than be written with another's bytes.
        std::mem::forget(self.append.take());
    }
}

/// From the kernel's interface: wait until there is something to receive, and try only then (`IORING_RECVSEND_POLL_FIRST`).
const POLL_FIRST: u16 = 1;

/// From the kernel's interface: how many bytes of a socket are not acknowledged (`SOCKET_URING_OP_SIOCOUTQ`).
const SOCKET_UNTAKEN_BYTES: u32 = 1;

/// From the kernel's interface: hand over completions that wait for this thread.
const ENTER_GETEVENTS: u32 = 1;

/// Whether the kernel has completions that only a call hands over.
fn has_work(submission: &squeue::SubmissionQueue<'_>) -> bool {
    submission.taskrun() || submission.cq_overflow()
}

fn settle(submitted: io::Result<usize>) -> io::Result<()> {
    match submitted {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN)) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
