//! The system calls that std has no safe form of: pinning, CPU clocks, descriptor limit, epoll, and the ring of sends.
//!
//! All unsafe code of the bench is here. A function that wraps one call checks its result and nothing else.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::args::Descriptors;

/// Ties the calling process (which has one thread yet) to one CPU.
pub fn pin_to_cpu(cpu: u32) -> io::Result<()> {
    // SAFETY: a cpu_set_t is an array of integers, for which all zeros is a value: the empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: CPU_SET indexes the set with bounds checked; the arguments' range ends at 1023, the set's last place.
    unsafe { libc::CPU_SET(cpu as usize, &mut set) };
    // SAFETY: the pointer is to a live set of the size given; the kernel only reads it.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Raises the soft limit of descriptors to the hard one.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the kernel fills.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit, which the kernel only reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

/// User and system CPU of this process, all threads, those of the kernel that work for its ring included.
pub fn process_cpu() -> io::Result<Duration> {
    usage(libc::RUSAGE_SELF)
}

/// User and system CPU of the calling thread.
pub fn thread_cpu() -> io::Result<Duration> {
    usage(libc::RUSAGE_THREAD)
}

fn usage(who: libc::c_int) -> io::Result<Duration> {
    // SAFETY: an rusage is integers only, for which all zeros is a value.
    let mut usage: libc::rusage = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the pointer is to a live rusage, which the kernel fills.
    check(unsafe { libc::getrusage(who, &mut usage) })?;
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    Ok(of(usage.ru_utime) + of(usage.ru_stime))
}

/// CPU of another process, all threads.
pub fn cpu_of(pid: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live clockid_t, which libc fills.
    let errno = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec, which the kernel fills.
    check(unsafe { libc::clock_gettime(clock, &mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Readiness of many sockets, level-triggered.
pub struct Epoll {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// An empty set that reports at most `events_max` sockets at a time.
    pub fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made, and nobody else holds it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; events_max] })
    }

    /// Reports `token` from now on whenever `socket` has bytes or has ended.
    pub fn add(&self, socket: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        // SAFETY: the pointer is to a live event, which the kernel copies.
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Sleeps until something is ready; the tokens of what is.
    pub fn wait(&mut self) -> io::Result<impl Iterator<Item = u64> + '_> {
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        let count = loop {
            // SAFETY: the pointer is to `room` live events, which the kernel fills from the first on.
            match check(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events, room, -1) }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        Ok(self.events[..count as usize].iter().map(|event| event.u64))
    }
}

/// A ring that does nothing but send one payload.
///
/// The payload is `'static`, so that it outlives whatever the kernel still holds of it when the ring goes.
pub struct SendRing {
    ring: IoUring,
    payload: &'static [u8],
    descriptors: Descriptors,
    sockets: Vec<RawFd>,
}

impl SendRing {
    /// A ring for batches of up to `batch_sends`, over sockets that the caller keeps open as long as the ring.
    pub fn new(
        sockets: Vec<RawFd>,
        payload: &'static [u8],
        descriptors: Descriptors,
        batch_sends: u32,
    ) -> io::Result<Self> {
        // submit_all: an entry that fails at once is a completion like any other, not the end of the batch.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .build(batch_sends.next_power_of_two())?;
        if descriptors == Descriptors::Direct {
            ring.submitter().register_files(&sockets)?;
        }
        Ok(Self { ring, payload, descriptors, sockets })
    }

    /// Sends the payload to sockets `first..end` with one submit, and returns once each has been sent whole.
    pub fn send_batch(&mut self, first: usize, end: usize) -> io::Result<()> {
        for index in first..end {
            self.push(index);
        }
        let mut left = end - first;
        while left > 0 {
            match self.ring.submit_and_wait(left) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => drop(other?),
            }
            for completion in self.ring.completion() {
                left -= 1;
                whole(completion.result(), self.payload.len())?;
            }
        }
        Ok(())
    }

    fn push(&mut self, index: usize) {
        let entry = send_entry(self.descriptors, index, self.sockets[index], self.payload);
        // SAFETY: the entry points only at the payload, which is 'static and never written.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("the ring was made for a whole batch, and the last batch has completed");
    }
}

fn send_entry(descriptors: Descriptors, index: usize, socket: RawFd, payload: &[u8]) -> squeue::Entry {
    let (start, length) = (payload.as_ptr(), payload.len() as u32);
    let send = match descriptors {
        Descriptors::Plain => opcode::Send::new(types::Fd(socket), start, length),
        Descriptors::Direct => opcode::Send::new(types::Fixed(index as u32), start, length),
    };
    // MSG_WAITALL: where the socket's buffer is full the kernel waits and goes on, so a completion is a whole payload.
    send.flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL).build().user_data(index as u64)
}

fn whole(result: i32, payload_bytes: usize) -> io::Result<()> {
    match usize::try_from(result) {
        Ok(sent) if sent == payload_bytes => Ok(()),
        Ok(sent) => Err(io::Error::other(format!("a send ended at {sent} of {payload_bytes} bytes"))),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_that_ended_early_or_failed_is_an_error() {
        assert!(whole(200, 200).is_ok());
        assert!(whole(199, 200).is_err());
        assert_eq!(whole(-libc::EPIPE, 200).expect_err("failed").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_own_cpu_clock_and_that_by_pid_tell_the_same_time() {
        let by_usage = process_cpu().expect("own usage");
        let by_pid = cpu_of(std::process::id()).expect("own clock");
        assert!(by_pid.abs_diff(by_usage) < Duration::from_secs(1), "{by_usage:?} and {by_pid:?}");
    }
}
