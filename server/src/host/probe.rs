//! Whether io_uring is here, and whole: a small ring like the server's own is made and asked.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode};

use super::cause::{diagnose, fault};
use super::{Facts, HostCause, HostFault, system};

/// What the server and the executors below it submit. Multishot forms of these and the flags of a ring have no bit of
/// their own in a probe: the ring's flags are tried, and the kernel's version stands for the rest.
const OPERATIONS: [(&str, u8); 20] = [
    ("Accept", opcode::Accept::CODE),
    ("Recv", opcode::Recv::CODE),
    ("Send", opcode::Send::CODE),
    ("AsyncCancel", opcode::AsyncCancel::CODE),
    ("Close", opcode::Close::CODE),
    ("Shutdown", opcode::Shutdown::CODE),
    ("PollAdd", opcode::PollAdd::CODE),
    ("PollRemove", opcode::PollRemove::CODE),
    ("Read", opcode::Read::CODE),
    ("Write", opcode::Write::CODE),
    ("ReadFixed", opcode::ReadFixed::CODE),
    ("WriteFixed", opcode::WriteFixed::CODE),
    ("Fsync", opcode::Fsync::CODE),
    ("Fallocate", opcode::Fallocate::CODE),
    ("OpenAt", opcode::OpenAt::CODE),
    ("Statx", opcode::Statx::CODE),
    ("Timeout", opcode::Timeout::CODE),
    ("TimeoutRemove", opcode::TimeoutRemove::CODE),
    ("LinkTimeout", opcode::LinkTimeout::CODE),
    ("Nop", opcode::Nop::CODE),
];

/// Registered descriptors asked for on trial.
const TRIAL_DESCRIPTORS: u32 = 16;

/// Makes a ring as the server will, and tries on it all that the server relies on.
pub(super) fn check_ring(facts: &Facts) -> Result<(), HostFault> {
    let explain =
        |doing: &'static str| move |error: io::Error| diagnose(doing, error.raw_os_error().unwrap_or_default(), facts);
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .map_err(explain("making an io_uring with SINGLE_ISSUER and DEFER_TASKRUN"))?;
    let submitter = ring.submitter();
    submitter.submit().map_err(explain("entering an io_uring"))?;

    let mut probe = Probe::new();
    submitter.register_probe(&mut probe).map_err(explain("asking io_uring for its operations"))?;
    check_operations(|code| probe.is_supported(code), facts)?;

    let eventfd = system::eventfd().map_err(explain("making an eventfd"))?;
    submitter.register_eventfd(eventfd.as_raw_fd()).map_err(explain("registering an eventfd with an io_uring"))?;
    submitter
        .register_files_sparse(TRIAL_DESCRIPTORS)
        .map_err(explain("registering a table of descriptors with an io_uring"))?;
    system::try_buffer_ring(ring).map_err(explain("registering a provided buffer ring with an io_uring"))
}

fn check_operations(is_supported: impl Fn(u8) -> bool, facts: &Facts) -> Result<(), HostFault> {
    let missing: Vec<_> = OPERATIONS.iter().filter(|(_, code)| !is_supported(*code)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(fault(
        HostCause::Kernel,
        "asking io_uring for its operations",
        format!("Linux {} does not have {}", facts.kernel, missing.join(", ")),
        "run an unmodified Linux 6.1 or newer".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_operation_is_named() {
        let facts = Facts { kernel: "6.8.0".to_owned(), ..Facts::default() };
        assert_eq!(check_operations(|_| true, &facts), Ok(()));
        let lacks = [opcode::Recv::CODE, opcode::Fsync::CODE];
        let fault = check_operations(|code| !lacks.contains(&code), &facts).unwrap_err();
        assert_eq!((fault.cause, fault.found.as_str()), (HostCause::Kernel, "Linux 6.8.0 does not have Recv, Fsync"));
    }

    /// Hosts differ: where io_uring is refused the refusal must at least be explained.
    #[test]
    fn this_host_passes_or_is_told_why_not() {
        if let Err(fault) = check_ring(&Facts::read()) {
            eprintln!("this host cannot run the server: {fault}");
            assert_ne!(fault.cause, HostCause::Unknown);
        }
    }
}
