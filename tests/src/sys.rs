//! The one system call of the tests that no library wraps: stopping a file system as a power cut would.

use std::fs::File;
use std::io;

use rustix::ioctl::{Setter, ioctl};

/// `FS_IOC_SHUTDOWN`, in ext4 `EXT4_IOC_SHUTDOWN`: `_IOR('X', 125, __u32)`, and the kernel reads it all the same.
const SHUTDOWN: u32 = 0x8004_587d;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: what the journal has not yet committed is lost.
const NO_LOG_FLUSH: u32 = 2;

/// Stops the file system that a folder is on, without writing anything more. Only unmounting helps it.
///
/// # Errors
/// Where the file system cannot, or this process may not.
pub fn shut_down_file_system(folder: &File) -> io::Result<()> {
    // SAFETY: the kernel reads a `__u32` at the pointer for this opcode and writes nothing, on any file system that
    // knows it; others answer ENOTTY. `Setter` points it at a `u32` that lives through the call.
    unsafe { ioctl(folder, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }.map_err(io::Error::from)
}
