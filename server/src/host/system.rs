//! The few calls of the kernel that the host check cannot make in safe Rust.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use io_uring::IoUring;

/// A limit of this process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resource {
    /// Descriptors.
    Descriptors,
    /// Bytes of locked memory.
    LockedMemory,
}

/// A soft limit that was raised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raised {
    pub before: u64,
    pub after: u64,
}

/// Raises a soft limit to the hard one, which every process may; `u64::MAX` = no limit.
pub(super) fn raise_to_hard(resource: Resource) -> io::Result<Raised> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    prlimit(resource, None, Some(&mut limit))?;
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    if limit.rlim_cur != limit.rlim_max {
        prlimit(resource, Some(&raised), None)?;
    }
    Ok(Raised { before: limit.rlim_cur, after: raised.rlim_cur })
}

fn prlimit(resource: Resource, new: Option<&libc::rlimit>, old: Option<&mut libc::rlimit>) -> io::Result<()> {
    let resource = match resource {
        Resource::Descriptors => libc::RLIMIT_NOFILE,
        Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
    };
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let old = old.map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: each pointer is null, which the call allows, or comes from a reference that outlives the call.
    match unsafe { libc::prlimit(0, resource, new, old) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The CPUs that the calling thread may run on, ascending.
pub(super) fn allowed_cpus() -> io::Result<Vec<usize>> {
    // 8,192 CPUs, the most that Linux can be built for; libc's own set holds 1,024.
    let mut mask = [0_u64; 128];
    // SAFETY: the kernel writes at most the size it is told, and it is told the mask's.
    let length = unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr()) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_allowed = |cpu: &usize| mask[cpu / 64] >> (cpu % 64) & 1 == 1;
    Ok((0..mask.len() * 64).filter(is_allowed).collect())
}

/// The calling thread no longer takes a CPU from another the moment that it has something to do; its share of it is the same.
pub(super) fn run_in_batches() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the pointer is to a live sched_param, which the kernel only reads.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A new eventfd.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers a provided buffer ring with a ring that dies here: that the kernel takes it is all there is to learn.
pub(super) fn try_buffer_ring(ring: IoUring) -> io::Result<()> {
    /// Aligned to the largest page of any Linux, which the kernel asks for.
    #[repr(C, align(65536))]
    struct Entries([[u64; 2]; 8]);
    let entries = Box::new(Entries([[0; 2]; 8]));
    let address = ptr::from_ref(&*entries).addr() as u64;
    // SAFETY: the eight entries lie at this address until `entries` is dropped, which is after `ring`; no buffer is
    // ever put into them and no request is ever made of the ring.
    let result = unsafe { ring.submitter().register_buf_ring_with_flags(address, 8, 0, 0) };
    drop(ring);
    drop(entries);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_is_raised_to_the_hard_one() {
        let first = raise_to_hard(Resource::Descriptors).unwrap();
        let second = raise_to_hard(Resource::Descriptors).unwrap();
        assert!(first.before <= first.after);
        assert_eq!((second.before, second.after), (first.after, first.after));
        assert!(raise_to_hard(Resource::LockedMemory).is_ok());
    }

    #[test]
    fn an_eventfd_can_be_made() {
        assert!(eventfd().is_ok());
    }
}
