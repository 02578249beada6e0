//! The system calls that std has no safe form of: epoll, pinning, the descriptor limit, CPU clocks.
//!
//! All unsafe code of the load generator is here. A function wraps one call and checks its result.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// What a descriptor is ready for, and the number it was registered under.
pub(crate) struct Ready {
    pub(crate) number: usize,
    pub(crate) is_readable: bool,
    pub(crate) is_writable: bool,
}

/// An epoll instance; level-triggered.
pub(crate) struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
    found: usize,
}

impl Epoll {
    /// One whose waits report `ready_max` ready descriptors at most.
    pub(crate) fn new(ready_max: usize) -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Epoll { descriptor, events: vec![libc::epoll_event { events: 0, u64: 0 }; ready_max], found: 0 })
    }

    pub(crate) fn add(&self, what: BorrowedFd<'_>, number: usize, wants_write: bool) -> io::Result<()> {
        self.add_for(what, number, true, wants_write)
    }

    /// Registers a descriptor that need not be read; that it ended is reported all the same.
    pub(crate) fn add_for(&self, what: BorrowedFd<'_>, number: usize, reads: bool, writes: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, what, number, events_of(reads, writes))
    }

    pub(crate) fn change(&self, what: BorrowedFd<'_>, number: usize, wants_write: bool) -> io::Result<()> {
        self.change_for(what, number, true, wants_write)
    }

    pub(crate) fn change_for(&self, what: BorrowedFd<'_>, number: usize, reads: bool, writes: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, what, number, events_of(reads, writes))
    }

    /// Reports nothing of a descriptor any more.
    pub(crate) fn remove(&self, what: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, what, 0, 0)
    }

    fn control(&self, how: libc::c_int, what: BorrowedFd<'_>, number: usize, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: number as u64 };
        // SAFETY: the pointer is to a live event, which the kernel only reads; both descriptors are open.
        check(unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), how, what.as_raw_fd(), &mut event) }).map(drop)
    }

    /// Waits for something to be ready, at most so long. Says how much there is for [`Epoll::ready`].
    pub(crate) fn wait(&mut self, patience: Duration) -> io::Result<usize> {
        let timeout = libc::timespec {
            tv_sec: patience.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        // SAFETY: the events and the timeout are live, the length is that of the events, and there is no signal mask.
        let found = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.descriptor.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        self.found = match usize::try_from(found) {
            Ok(found) => found,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(self.found)
    }

    /// One of those that the last wait found.
    pub(crate) fn ready(&self, index: usize) -> Ready {
        let event = self.events[..self.found][index];
        let bits = event.events as i32;
        Ready {
            number: event.u64 as usize,
            // An error or a hang-up shows in what a read answers.
            is_readable: bits & (libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP) != 0,
            is_writable: bits & libc::EPOLLOUT != 0,
        }
    }
}

fn events_of(reads: bool, writes: bool) -> u32 {
    let wanted = |is_wanted: bool, event: libc::c_int| if is_wanted { event as u32 } else { 0 };
    wanted(reads, libc::EPOLLIN) | wanted(writes, libc::EPOLLOUT)
}

/// Ties the calling thread, the only one, to a CPU; and asks for timers to the microsecond.
pub(crate) fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a cpu_set_t is integers only, for which all zeros is a value: the empty set.
    let mut set: libc::cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `cpu` is below CPU_SETSIZE, the number of places in the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer is to a live set of the size given, which the kernel only reads.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) }).map(drop)
}

/// Lets the kernel delay this thread's timers by one microsecond only, not by its usual fifty; and has it clear memory 4
/// KiB at a time, not a huge page of 2 MiB, which takes milliseconds in the midst of a run.
pub(crate) fn hold_still() -> io::Result<()> {
    const SLACK_NS: libc::c_ulong = 1_000;
    // SAFETY: this option takes a number and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS) })?;
    let (yes, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: this option takes numbers and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, yes, unused, unused, unused) }).map(drop)
}

/// Raises the soft limit of descriptors to the hard one, and says how many that is.
pub(crate) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit, which the kernel fills.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit, which the kernel only reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// User and system CPU time of this process.
pub(crate) fn own_cpu() -> io::Result<Duration> {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// User and system CPU time of a process, all its threads and those that have ended, to the nanosecond. It is what
/// utime + stime of /proc/PID/stat count in hundredths of a second.
pub(crate) fn cpu_of(pid: u32) -> io::Result<Duration> {
    /// Linux gives out none above it; a clock's id has no room for more, and libc does not check.
    const PID_MAX: u32 = 1 << 22;
    if pid == 0 || pid > PID_MAX {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let mut id: libc::clockid_t = 0;
    // SAFETY: the pointer is to a live clockid_t, which libc fills.
    match unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut id) } {
        0 => clock(id),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn clock(id: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec, which the kernel fills.
    check(unsafe { libc::clock_gettime(id, &mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
