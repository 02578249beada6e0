//! The host check: whether this machine can carry the server, and if not, what exactly to change.
//!
//! It runs once, before anything else starts, and it acts where it may: limits are raised to what the process is
//! allowed, the data folder is made and locked. Everything it cannot mend is a [`HostFault`], which ends the process
//! with [`EXIT_CONFIG`] and says what was being done, what was found and how to mend it.
//!
//! The causes of a refused io_uring look alike to a program (EPERM, ENOSYS, ENOMEM); `cause` judges them by what else
//! the host tells about itself, as pure functions over [`Facts`].

mod cause;
mod epoch;
mod facts;
mod folder;
mod probe;
mod system;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

pub use cause::{DESCRIPTORS_PER_CORE, DESCRIPTORS_SHARED, MEMLOCK_BYTES_PER_CORE};
pub use epoch::{EPOCH_MAX, EpochFile, Reserved, epoch_by_clock};
pub use facts::{Container, Facts};
pub use folder::{KILLED_PAUSE, KILLED_WAIT_MAX, claim_to_read};

use crate::config::Config;
use system::Resource;

/// The exit code of a host or a configuration that does not fit: `EX_CONFIG` of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// What kind of thing is wrong with the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostCause {
    /// The kernel lacks something.
    Kernel,
    /// `kernel.io_uring_disabled` forbids io_uring.
    Sysctl,
    /// A seccomp filter forbids it.
    Seccomp,
    /// Something else forbids it: SELinux, AppArmor, a sandbox.
    Policy,
    /// Too little memory may be locked.
    LockedMemory,
    /// Too few descriptors.
    Descriptors,
    /// The CPUs cannot be learnt.
    Cpus,
    /// The data folder cannot be used.
    Folder,
    /// Another server has the data folder.
    FolderInUse,
    /// The epoch floor cannot be kept.
    Epoch,
    /// Something this check does not know.
    Unknown,
}

/// A host that cannot carry the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFault {
    /// What kind of thing is wrong.
    pub cause: HostCause,
    /// What was being done.
    pub doing: String,
    /// What was found.
    pub found: String,
    /// How to mend it.
    pub fix: String,
}

impl HostFault {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        EXIT_CONFIG
    }
}

impl fmt::Display for HostFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}\n  to mend it: {}", self.doing, self.found, self.fix)
    }
}

impl std::error::Error for HostFault {}

/// A host that can carry the server: what to log, and what to hold.
#[derive(Debug)]
pub struct HostReport {
    /// The kernel's release.
    pub kernel: String,
    /// The container around the process, if one shows.
    pub container: Option<Container>,
    /// The CPUs to run on.
    pub cores: Vec<usize>,
    /// Descriptors this process might have when it started; `u64::MAX` = no limit.
    pub descriptors_before: u64,
    /// Descriptors it may have now. No ring's table of registered descriptors may be larger.
    pub descriptors: u64,
    /// Bytes it may lock now; `u64::MAX` = no limit.
    pub memlock_bytes: u64,
    /// The lock on the data folder: hold it for the life of the process.
    pub lock: File,
}

impl HostReport {
    /// Connections that fit beside the server's own descriptors, even if all of them come to one core.
    #[must_use]
    pub fn connections_max(&self) -> u64 {
        self.descriptors.saturating_sub(cause::descriptors_reserved(self.cores.len()))
    }
}

impl fmt::Display for HostReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |value: u64| if value == u64::MAX { "unlimited".to_owned() } else { value.to_string() };
        write!(
            out,
            "Linux {}, cores {:?}, descriptors {} (were {}), lockable bytes {}",
            self.kernel,
            self.cores,
            limit(self.descriptors),
            limit(self.descriptors_before),
            limit(self.memlock_bytes)
        )?;
        self.container.map_or(Ok(()), |container| write!(out, ", in {container}"))
    }
}

/// Makes the host ready for `config` as far as the process may, and checks that it is.
///
/// # Errors
/// The first thing that does not fit, with the way to mend it.
pub fn check(config: &Config) -> Result<HostReport, HostFault> {
    let raise = |resource| system::raise_to_hard(resource).map_err(|error| cause::limit_unreadable(&error));
    // The limits come first: a ring is charged against both.
    let descriptors = raise(Resource::Descriptors)?;
    let memlock = raise(Resource::LockedMemory)?;
    let facts = Facts { memlock_bytes: memlock.after, ..Facts::read() };

    cause::check_kernel(&facts)?;
    cause::check_memlock(config.cores.len(), &facts)?;
    cause::check_descriptors(descriptors.after, config.limits.connections_max, config.cores.len(), &facts)?;
    probe::check_ring(&facts)?;
    let lock = folder::claim(&config.data)?;

    Ok(HostReport {
        kernel: facts.kernel,
        container: facts.container,
        cores: config.cores.clone(),
        descriptors_before: descriptors.before,
        descriptors: descriptors.after,
        memlock_bytes: memlock.after,
        lock,
    })
}

/// Has the calling thread wait for its turn on a CPU instead of taking it from a core's thread the moment that it is woken: in a storm
/// of new connections cores' threads share their CPUs with it. Where that is not allowed it goes on as it was.
pub(crate) fn yield_to_cores() {
    let _ = system::run_in_batches();
}

/// The CPUs that this process may run on, ascending and never empty.
///
/// # Errors
/// The kernel does not tell.
pub fn allowed_cpus() -> Result<Vec<usize>, HostFault> {
    let fault = |found: String| HostFault {
        cause: HostCause::Cpus,
        doing: "asking for the CPUs this process may run on".to_owned(),
        found,
        fix: "allow the system call sched_getaffinity in the sandbox around this process".to_owned(),
    };
    match system::allowed_cpus() {
        Ok(cpus) if !cpus.is_empty() => Ok(cpus),
        Ok(_) => Err(fault("the kernel names none".to_owned())),
        Err(error) => Err(fault(error.to_string())),
    }
}

/// Explains an error of a ring that failed after the check, while the server starts (locked memory runs out late).
#[must_use]
pub fn ring_fault(doing: &str, error: &io::Error) -> HostFault {
    let memlock_bytes = system::raise_to_hard(Resource::LockedMemory).map_or(0, |memlock| memlock.after);
    cause::diagnose(doing, error.raw_os_error().unwrap_or_default(), &Facts { memlock_bytes, ..Facts::read() })
}

/// A fault of a path, whose usual causes have a usual cure.
fn path_fault(cause: HostCause, doing: &str, path: &Path, error: &io::Error) -> HostFault {
    let path = path.display();
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => "give the server's user the right to write there or in the folder above \
                                            (chown, chmod), or choose another folder with --data DIR"
            .to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it writable (in a container a volume; in a systemd unit ReadWritePaths= or StateDirectory=), \
             or choose another folder with --data DIR"
                .to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!("free some space (`df -h {path}`)"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => {
            format!("something else stands at or above {path}: move it away, or choose another folder with --data DIR")
        }
        _ => {
            "see whether the disk and its mount are well (`dmesg`), or choose another folder with --data DIR".to_owned()
        }
    };
    HostFault { cause, doing: format!("{doing} {path}"), found: error.to_string(), fix }
}

/// A folder of its own for a test, gone with it.
#[cfg(test)]
pub(crate) struct TestFolder(pub(crate) std::path::PathBuf);

#[cfg(test)]
impl TestFolder {
    pub(crate) fn new(name: &str) -> TestFolder {
        let path = std::env::temp_dir().join(format!("banter-host-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
        TestFolder(path)
    }
}

#[cfg(test)]
impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_was_done_what_was_found_and_the_fix() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        let fault = path_fault(HostCause::Folder, "making the data folder", Path::new("/srv/x"), &error);
        let text = fault.to_string();
        assert!(text.starts_with("making the data folder /srv/x: permission denied\n  to mend it: give"), "{text}");
        assert_eq!(fault.exit_code(), 78);
    }

    #[test]
    fn every_common_fault_of_a_path_has_its_own_fix() {
        let fix = |kind: io::ErrorKind| {
            path_fault(HostCause::Folder, "making", Path::new("/srv/x"), &io::Error::from(kind)).fix
        };
        assert!(fix(io::ErrorKind::ReadOnlyFilesystem).contains("ReadWritePaths="));
        assert!(fix(io::ErrorKind::StorageFull).contains("df -h /srv/x"));
        assert!(fix(io::ErrorKind::NotADirectory).contains("something else stands at"));
        assert!(fix(io::ErrorKind::Other).contains("dmesg"));
    }

    #[test]
    fn a_ring_that_fails_late_is_explained_too() {
        let fault = ring_fault("making the sockets' ring", &io::Error::from_raw_os_error(libc::ENOMEM));
        assert_eq!((fault.cause, fault.doing.as_str()), (HostCause::LockedMemory, "making the sockets' ring"));
    }

    #[test]
    fn this_process_may_run_somewhere() {
        let cpus = allowed_cpus().unwrap();
        assert!(cpus.is_sorted() && !cpus.is_empty());
    }

    #[test]
    fn a_report_names_the_container_and_an_absent_limit() {
        let folder = TestFolder::new("report");
        let report = HostReport {
            kernel: "6.18.0".to_owned(),
            container: Some(Container::Podman),
            cores: vec![0, 1],
            descriptors_before: 1_024,
            descriptors: 20_000,
            memlock_bytes: u64::MAX,
            lock: folder::claim(&folder.0).unwrap(),
        };
        assert_eq!(
            report.to_string(),
            "Linux 6.18.0, cores [0, 1], descriptors 20000 (were 1024), lockable bytes unlimited, in Podman"
        );
        assert_eq!(report.connections_max(), 20_000 - 64 - 2 * 32);
    }
}
