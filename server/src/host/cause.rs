//! Why the host refuses, and the exact way to mend it: pure judgements over what it tells about itself.

use std::io;

use super::{Container, Facts, HostCause, HostFault};

/// Bytes that one core locks at most: the executor refuses to start below it, and its rings, the sockets' ring and
/// their provided buffers fit in it.
pub const MEMLOCK_BYTES_PER_CORE: u64 = 512 * 1024;
/// Descriptors that the server needs besides its connections, whatever its cores: standard streams, the lock, the log's
/// folder, signals, control connections.
pub const DESCRIPTORS_SHARED: u64 = 64;
/// Descriptors that one core needs besides its connections: four rings, eventfds, listener, spare, log segments.
pub const DESCRIPTORS_PER_CORE: u64 = 32;

/// What the server needs of the kernel, and since when it is there, newest last.
const KERNEL_NEEDS: [((u32, u32), &str); 3] = [
    ((5, 19), "provided buffer rings and multishot accept"),
    ((6, 0), "multishot receive and SINGLE_ISSUER"),
    ((6, 1), "DEFER_TASKRUN"),
];

/// The system calls that a filter must let through.
const RING_CALLS: &str = "io_uring_setup, io_uring_enter and io_uring_register";

pub(super) fn fault(cause: HostCause, doing: &str, found: String, fix: String) -> HostFault {
    HostFault { cause, doing: doing.to_owned(), found, fix }
}

/// Whether the kernel is new enough. One that hides its version is left to the probe.
pub(super) fn check_kernel(facts: &Facts) -> Result<(), HostFault> {
    let Some(version) = facts.kernel_version() else { return Ok(()) };
    let missing: Vec<_> = KERNEL_NEEDS
        .iter()
        .filter(|(since, _)| version < *since)
        .map(|((major, minor), what)| format!("{what} (since {major}.{minor})"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(fault(
        HostCause::Kernel,
        "checking the kernel",
        format!("Linux {} has no {}", facts.kernel, missing.join(", no ")),
        "run Linux 6.1 or newer (Debian 12, Ubuntu 24.04, RHEL 10, or the distribution's newer kernel package)"
            .to_owned(),
    ))
}

/// Whether enough memory may be locked for so many cores.
pub(super) fn check_memlock(cores: usize, facts: &Facts) -> Result<(), HostFault> {
    let needed = memlock_needed(cores, facts);
    if facts.memlock_bytes >= needed {
        return Ok(());
    }
    let or = if needed > MEMLOCK_BYTES_PER_CORE { "; or use fewer --cores" } else { "" };
    Err(fault(
        HostCause::LockedMemory,
        "checking how much memory may be locked",
        format!("{} bytes, and io_uring on {cores} cores needs {needed}", facts.memlock_bytes),
        memlock_fix(needed, facts.container) + or,
    ))
}

/// The executor wants its part even where nothing is charged. Rings themselves are charged again from Linux 6.14 on
/// (seen on 6.18; not since 5.12), so kernels between need no more than that, however many cores there are.
fn memlock_needed(cores: usize, facts: &Facts) -> u64 {
    let charged = !facts.memlock_free && facts.kernel_version().is_none_or(|version| version >= (6, 14));
    if charged { MEMLOCK_BYTES_PER_CORE * cores as u64 } else { MEMLOCK_BYTES_PER_CORE }
}

fn memlock_fix(bytes: u64, container: Option<Container>) -> String {
    let kib = bytes.div_ceil(1024);
    let shell = format!(
        "in a shell as root `ulimit -l {kib}`, for a user `USER - memlock {kib}` in /etc/security/limits.conf \
         and a new login"
    );
    limit_fix("memlock", "LimitMEMLOCK", bytes, &shell, container)
}

/// The ways to a higher limit, the likeliest first. A container that shows may not be what sets it, so no way is left
/// out.
fn limit_fix(ulimit: &str, unit: &str, value: u64, shell: &str, container: Option<Container>) -> String {
    let run = |tool: &str| format!("`{tool} run --ulimit {ulimit}={value}:{value}`; ");
    let first = match container {
        Some(Container::Docker) => run("docker"),
        Some(Container::Podman) => run("podman"),
        Some(Container::Kubernetes) => {
            format!("raise the container runtime's limit on the node (containerd.service: {unit}={value}); ")
        }
        Some(Container::Other) | None => String::new(),
    };
    format!("{first}{shell}; in a systemd unit {unit}={value}")
}

/// Descriptors that the server needs for itself.
pub(super) fn descriptors_reserved(cores: usize) -> u64 {
    DESCRIPTORS_SHARED + DESCRIPTORS_PER_CORE * cores as u64
}

/// Whether the connections that are promised fit. A ring's table of registered descriptors is bound by the same limit
/// as the process's own, and one core may be handed every connection: so it is the whole number that must fit below
/// it.
pub(super) fn check_descriptors(
    descriptors: u64,
    connections_max: u32,
    cores: usize,
    facts: &Facts,
) -> Result<(), HostFault> {
    let reserved = descriptors_reserved(cores);
    // Without a promise one connection is what makes it a server.
    let needed = reserved + u64::from(connections_max.max(1));
    if descriptors >= needed {
        return Ok(());
    }
    let wanted = match connections_max {
        0 => format!("the server itself needs {needed} on {cores} cores"),
        _ => format!("connections_max = {connections_max} and {reserved} for the server itself need {needed}"),
    };
    let instead = descriptors.saturating_sub(reserved);
    let or =
        if connections_max > 0 && instead > 0 { format!("; or --connections-max {instead}") } else { String::new() };
    Err(fault(
        HostCause::Descriptors,
        "checking how many descriptors this process may have",
        format!("{descriptors} is the hard limit, and {wanted}"),
        descriptors_fix(needed, facts) + &or,
    ))
}

fn descriptors_fix(needed: u64, facts: &Facts) -> String {
    // The kernel's own ceiling stands above every process's limit.
    let ceiling = match facts.nr_open {
        Some(nr_open) if nr_open < needed => format!("`sudo sysctl -w fs.nr_open={needed}` on the host, and then "),
        _ => String::new(),
    };
    let shell = format!(
        "in a shell as root `ulimit -n {needed}`, for a user `USER - nofile {needed}` in \
         /etc/security/limits.conf and a new login"
    );
    ceiling + &limit_fix("nofile", "LimitNOFILE", needed, &shell, facts.container)
}

/// The fault of a limit that cannot be read or raised, which only a sandbox brings about.
pub(super) fn limit_unreadable(error: &io::Error) -> HostFault {
    fault(
        HostCause::Policy,
        "raising this process's soft limits to its hard ones",
        error.to_string(),
        "allow the system call prlimit64 in the sandbox around this process".to_owned(),
    )
}

/// Judges a refused call of io_uring.
pub(super) fn diagnose(doing: &str, errno: i32, facts: &Facts) -> HostFault {
    match errno {
        libc::EPERM | libc::EACCES => forbidden(doing, errno, facts),
        libc::ENOSYS => absent(doing, facts),
        libc::ENOMEM => fault(
            HostCause::LockedMemory,
            doing,
            format!("too little memory may be locked ({} bytes; ENOMEM)", facts.memlock_bytes),
            memlock_fix(facts.memlock_bytes.saturating_mul(2).max(8 * 1024 * 1024), facts.container)
                + "; other processes of the same user count too",
        ),
        libc::EMFILE | libc::ENFILE => fault(
            HostCause::Descriptors,
            doing,
            format!("no descriptor is left ({})", io::Error::from_raw_os_error(errno)),
            if errno == libc::ENFILE {
                "the whole host is out of them: find who holds them (`lsof`), or `sudo sysctl -w fs.file-max=N`"
                    .to_owned()
            } else {
                descriptors_fix(4_096, facts)
            },
        ),
        libc::EINVAL => fault(
            HostCause::Kernel,
            doing,
            format!("Linux {} does not know what is asked of it (EINVAL)", facts.kernel),
            "run an unmodified Linux 6.1 or newer: this one calls itself so, or hides its version, and lacks a part"
                .to_owned(),
        ),
        _ => fault(
            HostCause::Unknown,
            doing,
            io::Error::from_raw_os_error(errno).to_string(),
            "look for the reason in `dmesg`, and please report it: the server does not know this one".to_owned(),
        ),
    }
}

/// EPERM: the sysctl says so itself, a seccomp filter shows in the process's status, the rest is a security module.
fn forbidden(doing: &str, errno: i32, facts: &Facts) -> HostFault {
    let on_host = if facts.container.is_some() { ", on the host: it holds for its containers too" } else { "" };
    let allow = "`sudo sysctl -w kernel.io_uring_disabled=0` (to keep it: the line `kernel.io_uring_disabled = 0` in \
                 /etc/sysctl.d/60-banter.conf)";
    match facts.io_uring_disabled {
        Some(2) => fault(
            HostCause::Sysctl,
            doing,
            "io_uring is switched off for every process (kernel.io_uring_disabled = 2)".to_owned(),
            format!("{allow}{on_host}"),
        ),
        Some(1) => fault(
            HostCause::Sysctl,
            doing,
            format!(
                "io_uring is switched off for unprivileged processes (kernel.io_uring_disabled = 1), {}",
                group(facts)
            ),
            format!("{}; or {allow}{on_host}", group_fix(facts)),
        ),
        _ if facts.seccomp => filtered(doing, "EPERM", facts),
        _ => fault(
            HostCause::Policy,
            doing,
            format!("forbidden, though neither sysctl nor seccomp does it ({})", io::Error::from_raw_os_error(errno)),
            "a security module (SELinux, AppArmor) or sandbox refuses io_uring to this process: \
             `ausearch -m avc -ts recent` or `dmesg | grep -i denied` names the rule to change"
                .to_owned(),
        ),
    }
}

fn group(facts: &Facts) -> String {
    match facts.io_uring_group {
        Some(gid) if gid >= 0 => {
            format!("and this one is not in the group that is let in (kernel.io_uring_group = {gid})")
        }
        _ => "and no group is let in (kernel.io_uring_group = -1)".to_owned(),
    }
}

fn group_fix(facts: &Facts) -> String {
    match facts.io_uring_group {
        Some(gid) if gid >= 0 => {
            format!(
                "start the server in group {gid} (`sudo usermod -aG \"$(getent group {gid} | cut -d: -f1)\" USER` and \
                 a new login; in a systemd unit SupplementaryGroups={gid})"
            )
        }
        _ => "let the server's group in: `sudo sysctl -w kernel.io_uring_group=$(id -g USER)`".to_owned(),
    }
}

/// A seccomp filter: where it is set is where it is opened. Docker's default one answers EPERM, Podman's ENOSYS.
fn filtered(doing: &str, errno_name: &str, facts: &Facts) -> HostFault {
    let run = |tool: &str| {
        format!(
            "`{tool} run --security-opt seccomp=PROFILE.json` with {tool}'s default profile plus {RING_CALLS}, \
             or, with no filter at all, `--security-opt seccomp=unconfined`"
        )
    };
    let (whose, fix) = match facts.container {
        Some(Container::Docker) => ("Docker's", run("docker")),
        Some(Container::Podman) => ("Podman's", run("podman")),
        Some(Container::Kubernetes) => (
            "the pod's",
            format!(
                "in the pod's securityContext a seccompProfile of `type: Localhost` whose file allows {RING_CALLS}, \
                 or `type: Unconfined`"
            ),
        ),
        Some(Container::Other) => ("the container's", format!("allow {RING_CALLS} in the container's seccomp profile")),
        None => (
            "this process's",
            format!(
                "in a systemd unit `SystemCallFilter=@aio` beside what is there; in another sandbox allow {RING_CALLS}"
            ),
        ),
    };
    fault(HostCause::Seccomp, doing, format!("{whose} seccomp filter forbids io_uring ({errno_name})"), fix)
}

/// ENOSYS: the sysctl exists only where io_uring is built in, so beside a filter it convicts the filter.
fn absent(doing: &str, facts: &Facts) -> HostFault {
    if facts.seccomp {
        return filtered(doing, "ENOSYS", facts);
    }
    fault(
        HostCause::Kernel,
        doing,
        format!("Linux {} has no io_uring (ENOSYS)", facts.kernel),
        "run a kernel built with CONFIG_IO_URING=y, as every distribution's is; gVisor and WSL 1 have none".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOING: &str = "making an io_uring";

    fn facts() -> Facts {
        Facts { kernel: "6.8.0".to_owned(), io_uring_disabled: Some(0), memlock_bytes: 8 << 20, ..Facts::default() }
    }

    fn in_container(container: Container) -> Facts {
        Facts { container: Some(container), ..facts() }
    }

    #[test]
    fn an_old_kernel_is_told_what_it_lacks() {
        let of = |kernel: &str| check_kernel(&Facts { kernel: kernel.to_owned(), ..facts() });
        assert_eq!(of("6.1.0"), Ok(()));
        assert_eq!(of("7.0-rc1"), Ok(()));
        assert_eq!(of("unknown"), Ok(()));
        let fault = of("6.0.9").unwrap_err();
        assert_eq!(
            (fault.cause, fault.found.as_str()),
            (HostCause::Kernel, "Linux 6.0.9 has no DEFER_TASKRUN (since 6.1)")
        );
        let fault = of("5.15.0-91-generic").unwrap_err();
        assert!(fault.found.contains("provided buffer rings") && fault.found.contains("no multishot receive"));
        assert!(fault.fix.contains("6.1 or newer"));
    }

    #[test]
    fn a_sysctl_that_switches_io_uring_off_is_named_with_its_cure() {
        let fault = diagnose(DOING, libc::EPERM, &Facts { io_uring_disabled: Some(2), seccomp: true, ..facts() });
        assert_eq!(fault.cause, HostCause::Sysctl);
        assert!(fault.found.contains("kernel.io_uring_disabled = 2"));
        assert!(
            fault.fix.starts_with("`sudo sysctl -w kernel.io_uring_disabled=0`") && !fault.fix.contains("on the host")
        );
        let docker = Facts { io_uring_disabled: Some(2), ..in_container(Container::Docker) };
        assert!(diagnose(DOING, libc::EPERM, &docker).fix.contains("on the host"));
    }

    #[test]
    fn the_sysctl_for_unprivileged_processes_offers_its_group() {
        let of = |group| {
            diagnose(DOING, libc::EPERM, &Facts { io_uring_disabled: Some(1), io_uring_group: group, ..facts() })
        };
        let fault = of(Some(998));
        assert_eq!(fault.cause, HostCause::Sysctl);
        assert!(fault.found.contains("kernel.io_uring_group = 998") && fault.fix.contains("SupplementaryGroups=998"));
        for none in [Some(-1), None] {
            let fault = of(none);
            assert!(
                fault.found.contains("no group is let in") && fault.fix.contains("kernel.io_uring_group=$(id -g USER)")
            );
            assert!(fault.fix.contains("kernel.io_uring_disabled=0"));
        }
    }

    #[test]
    fn a_seccomp_filter_is_mended_where_it_is_set() {
        for (container, says) in [
            (Some(Container::Docker), "`docker run --security-opt seccomp=PROFILE.json`"),
            (Some(Container::Podman), "`podman run --security-opt seccomp=PROFILE.json`"),
            (Some(Container::Kubernetes), "seccompProfile"),
            (Some(Container::Other), "container's seccomp profile"),
            (None, "SystemCallFilter=@aio"),
        ] {
            for (errno, name) in [(libc::EPERM, "(EPERM)"), (libc::ENOSYS, "(ENOSYS)")] {
                let fault = diagnose(DOING, errno, &Facts { seccomp: true, container, ..facts() });
                assert_eq!(fault.cause, HostCause::Seccomp, "{fault}");
                assert!(fault.fix.contains(says) && fault.found.ends_with(name), "{fault}");
            }
        }
    }

    #[test]
    fn a_container_without_a_filter_is_not_blamed_for_one() {
        let fault = diagnose(DOING, libc::EPERM, &in_container(Container::Docker));
        assert_eq!(fault.cause, HostCause::Policy);
        assert!(fault.fix.contains("SELinux"));
        let fault =
            diagnose(DOING, libc::ENOSYS, &Facts { io_uring_disabled: None, ..in_container(Container::Docker) });
        assert_eq!(fault.cause, HostCause::Kernel);
        assert!(fault.fix.contains("CONFIG_IO_URING"));
    }

    #[test]
    fn other_errors_of_a_ring_have_their_own_cause() {
        for (errno, cause, says) in [
            (libc::ENOMEM, HostCause::LockedMemory, "LimitMEMLOCK=16777216"),
            (libc::EMFILE, HostCause::Descriptors, "LimitNOFILE=4096"),
            (libc::ENFILE, HostCause::Descriptors, "fs.file-max"),
            (libc::EINVAL, HostCause::Kernel, "6.1 or newer"),
            (libc::EIO, HostCause::Unknown, "dmesg"),
        ] {
            let fault = diagnose(DOING, errno, &facts());
            assert_eq!(fault.cause, cause);
            assert!(fault.fix.contains(says) && fault.doing == DOING, "{fault}");
        }
    }

    #[test]
    fn locked_memory_is_counted_for_each_core_only_where_rings_are_charged() {
        let of = |kernel: &str, memlock_free| Facts { kernel: kernel.to_owned(), memlock_free, ..facts() };
        assert_eq!(memlock_needed(4, &of("6.18.0", false)), 4 * MEMLOCK_BYTES_PER_CORE);
        assert_eq!(memlock_needed(4, &of("", false)), 4 * MEMLOCK_BYTES_PER_CORE);
        assert_eq!(memlock_needed(4, &of("6.18.0", true)), MEMLOCK_BYTES_PER_CORE);
        assert_eq!(memlock_needed(4, &of("6.1.0", false)), MEMLOCK_BYTES_PER_CORE);
    }

    #[test]
    fn too_little_lockable_memory_says_the_number_for_every_way_to_start() {
        let short = |container| Facts { kernel: "6.18.0".to_owned(), memlock_bytes: 65_536, container, ..facts() };
        let fault = check_memlock(2, &short(None)).unwrap_err();
        assert_eq!(fault.cause, HostCause::LockedMemory);
        assert_eq!(fault.found, "65536 bytes, and io_uring on 2 cores needs 1048576");
        for says in ["`ulimit -l 1024`", "LimitMEMLOCK=1048576", "fewer --cores"] {
            assert!(fault.fix.contains(says), "{fault}");
        }
        assert!(!check_memlock(1, &short(None)).unwrap_err().fix.contains("fewer"));
        let fix = |container| check_memlock(2, &short(Some(container))).unwrap_err().fix;
        assert!(fix(Container::Docker).contains("docker run --ulimit memlock=1048576:1048576"));
        assert!(fix(Container::Podman).contains("podman run --ulimit memlock=1048576:1048576"));
        assert!(fix(Container::Kubernetes).contains("on the node"));
        assert_eq!(check_memlock(2, &Facts { memlock_bytes: 1_048_576, ..short(None) }), Ok(()));
        assert_eq!(check_memlock(64, &Facts { memlock_bytes: u64::MAX, ..short(None) }), Ok(()));
    }

    #[test]
    fn promised_connections_must_fit_beside_the_servers_own_descriptors() {
        assert_eq!(check_descriptors(20_000, 0, 2, &facts()), Ok(()));
        assert_eq!(check_descriptors(20_000, 19_872, 2, &facts()), Ok(()));
        let fault = check_descriptors(20_000, 19_873, 2, &facts()).unwrap_err();
        assert_eq!(fault.cause, HostCause::Descriptors);
        assert_eq!(
            fault.found,
            "20000 is the hard limit, and connections_max = 19873 and 128 for the server itself need 20001"
        );
        for says in ["`ulimit -n 20001`", "LimitNOFILE=20001", "--connections-max 19872"] {
            assert!(fault.fix.contains(says), "{fault}");
        }
    }

    #[test]
    fn descriptors_that_do_not_even_carry_the_server_are_refused() {
        let fault = check_descriptors(64, 0, 2, &facts()).unwrap_err();
        assert!(fault.found.ends_with("the server itself needs 129 on 2 cores"), "{fault}");
        assert!(!fault.fix.contains("--connections-max"));
        assert!(!check_descriptors(64, 10, 2, &facts()).unwrap_err().fix.contains("--connections-max"));
    }

    #[test]
    fn descriptors_are_mended_where_the_limit_is_set() {
        let fix = |facts: &Facts| check_descriptors(1_024, 2_000_000, 1, facts).unwrap_err().fix;
        let ceiling = Facts { nr_open: Some(1_048_576), ..facts() };
        assert!(fix(&ceiling).starts_with(
            "`sudo sysctl -w fs.nr_open=2000096` on the host, and then in a shell as root `ulimit -n 2000096`"
        ));
        assert!(fix(&in_container(Container::Docker)).starts_with("`docker run --ulimit nofile=2000096:2000096`"));
        assert!(fix(&in_container(Container::Podman)).starts_with("`podman run --ulimit nofile=2000096:2000096`"));
        assert!(fix(&in_container(Container::Kubernetes)).contains("on the node"));
    }
}
