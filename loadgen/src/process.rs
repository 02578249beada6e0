//! What the kernel says of a process and of itself: CPU time, waits for a CPU, resident memory, socket and slab memory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use serde::Serialize;

use crate::fault::LoadFault;
use crate::sys;

/// Bytes of a page, as /proc/net/sockstat counts.
const PAGE_BYTES: u64 = 4096;

/// CPU time of a process so far.
///
/// # Errors
/// When there is no such process.
pub fn cpu_of(pid: u32) -> Result<Duration, LoadFault> {
    sys::cpu_of(pid).map_err(|error| LoadFault::Process { pid, error })
}

/// Resident memory of a process in bytes, read without the walk over all its pages that [`Memory::of`] takes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes_of(pid: u32) -> Result<u64, LoadFault> {
    let fault = |error| LoadFault::Process { pid, error };
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).map_err(fault)?;
    resident_bytes(&statm).ok_or_else(|| fault(io::Error::new(io::ErrorKind::InvalidData, "/proc has no such figure")))
}

/// `5120 1280 900 …`: pages in all, pages that are resident.
fn resident_bytes(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(PAGE_BYTES)
}

/// How long the threads of a process were ready to run and had no CPU, so far: what other programs took from it. `None`
/// where the kernel does not count it.
pub fn waited_of(pid: u32) -> Option<Duration> {
    let threads = threads_of(pid)?;
    let waits = threads.filter_map(|thread| waited(&fs::read_to_string(thread.join("schedstat")).ok()?));
    waits.reduce(|sum, wait| sum + wait)
}

/// `10157760232 13512152166 19472`: nanoseconds on a CPU, nanoseconds of waiting for one, turns.
fn waited(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_whitespace().nth(1)?.parse().ok()?))
}

fn threads_of(pid: u32) -> Option<impl Iterator<Item = PathBuf>> {
    Some(fs::read_dir(format!("/proc/{pid}/task")).ok()?.filter_map(|entry| Some(entry.ok()?.path())))
}

/// The kernel's softirq threads on the CPUs that threads of a process are pinned to. After a long submit the kernel
/// finishes some receives there, and charges no process; so it is told apart from the process's own time.
#[derive(Clone, Debug, Default)]
pub struct SoftirqThreads(Vec<u32>);

impl SoftirqThreads {
    /// Those beside a process; none where a container hides them or nothing is pinned.
    pub fn beside(pid: u32) -> Self {
        let Some(threads) = threads_of(pid) else { return SoftirqThreads::default() };
        let pinned = |thread: PathBuf| pinned_to(&fs::read_to_string(thread.join("status")).ok()?);
        let names: BTreeSet<String> = threads.filter_map(pinned).map(|cpu| format!("ksoftirqd/{cpu}")).collect();
        let Ok(entries) = fs::read_dir("/proc") else { return SoftirqThreads::default() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let name_of = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        SoftirqThreads(pids.filter(|pid| !names.is_empty() && names.contains(name_of(pid).trim())).collect())
    }

    /// Their CPU time so far; `None` where there are none.
    pub fn cpu(&self) -> Option<Duration> {
        self.0.iter().filter_map(|&pid| sys::cpu_of(pid).ok()).reduce(|sum, cpu| sum + cpu)
    }
}

/// The only CPU that a thread may run on, of its /proc status.
fn pinned_to(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().parse().ok()
}

/// Memory of a process and of the kernel, at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// VmRSS of the process: all that is resident.
    pub resident: u64,
    /// The part of it that is backed by no file.
    pub anonymous: u64,
    /// The kernel's slab, of the whole host: sockets, files, epoll entries live there.
    pub kernel_slab: u64,
    /// Pages of the kernel's TCP buffers, of the whole host.
    pub kernel_tcp: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// When there is no such process, or it is another user's.
    pub fn of(pid: u32) -> Result<Self, LoadFault> {
        let fault = |error| LoadFault::Process { pid, error };
        let read = |path: &str| fs::read_to_string(path).map_err(fault);
        let status = read(&format!("/proc/{pid}/status"))?;
        let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
        Self::parse(&status, &rollup, &read("/proc/meminfo")?, &read("/proc/net/sockstat")?)
            .ok_or_else(|| fault(io::Error::new(io::ErrorKind::InvalidData, "/proc has no such figure")))
    }

    fn parse(status: &str, rollup: &str, meminfo: &str, sockstat: &str) -> Option<Self> {
        Some(Memory {
            resident: kibibytes(status, "VmRSS:")?,
            anonymous: kibibytes(rollup, "Anonymous:")?,
            kernel_slab: kibibytes(meminfo, "Slab:")?,
            kernel_tcp: tcp_pages(sockstat)? * PAGE_BYTES,
        })
    }

    /// How much each grew since then; negative where it shrank.
    pub fn growth_since(&self, then: &Memory) -> Growth {
        let grown = |now: u64, then: u64| now as i64 - then as i64;
        Growth {
            resident: grown(self.resident, then.resident),
            anonymous: grown(self.anonymous, then.anonymous),
            kernel_slab: grown(self.kernel_slab, then.kernel_slab),
            kernel_tcp: grown(self.kernel_tcp, then.kernel_tcp),
        }
    }
}

/// How much memory grew, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "as in Memory")]
pub struct Growth {
    pub resident: i64,
    pub anonymous: i64,
    pub kernel_slab: i64,
    pub kernel_tcp: i64,
}

/// The number behind a name in a file of lines like `VmRSS:   1234 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// `TCP: inuse 7 orphan 0 tw 0 alloc 9 mem 3`: the number behind `mem`.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_the_kernels_texts() {
        let memory = Memory::parse(
            "Name:\tbanter\nVmHWM:\t  999 kB\nVmRSS:\t   52 kB\n",
            "5500-7fff ---p 00000000 00:00 0 [rollup]\nRss:  52 kB\nAnonymous:            40 kB\n",
            "MemTotal: 1 kB\nSlab:    3 kB\nSReclaimable: 1 kB\n",
            "sockets: used 9\nTCP: inuse 7 orphan 0 tw 0 alloc 9 mem 3\nUDP: inuse 0 mem 0\n",
        );
        let expected = Memory { resident: 52 << 10, anonymous: 40 << 10, kernel_slab: 3 << 10, kernel_tcp: 3 << 12 };
        assert_eq!(memory, Some(expected));
        assert_eq!(Memory::parse("", "", "", ""), None);
        let shrunk = Memory { resident: 50 << 10, ..expected };
        assert_eq!(shrunk.growth_since(&expected), Growth { resident: -2048, ..Growth::default() });
    }

    #[test]
    fn waits_and_pinned_threads_are_found_in_the_kernels_texts() {
        assert_eq!(waited("10157760232 13512152166 19472\n"), Some(Duration::from_nanos(13_512_152_166)));
        assert_eq!(waited(""), None);
        assert_eq!(pinned_to("Name:\tpump\nCpus_allowed:\t1\nCpus_allowed_list:\t0\n"), Some(0));
        assert_eq!(pinned_to("Cpus_allowed_list:\t0-1\n"), None);
        assert_eq!(waited_of(u32::MAX / 4), None);
        assert_eq!(SoftirqThreads::beside(u32::MAX / 4).cpu(), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let pid = std::process::id();
        assert!(Memory::of(pid).unwrap().resident > 0);
        assert!(resident_bytes_of(pid).unwrap() > 0);
        assert_eq!((resident_bytes("9 2 1\n"), resident_bytes("9")), (Some(2 * PAGE_BYTES), None));
        let before = cpu_of(pid).unwrap();
        let mut number = 1u64;
        while cpu_of(pid).unwrap() <= before {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(Memory::of(u32::MAX / 4).is_err());
        assert!(cpu_of(u32::MAX / 4).is_err());
    }
}
