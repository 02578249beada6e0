//! What the host tells about itself: the evidence by which a refused call is judged.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The bit of CAP_IPC_LOCK, whose holders are not charged for locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// What runs the container around this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// A pod of Kubernetes.
    Kubernetes,
    /// Something else: LXC, systemd-nspawn, a bare containerd.
    Other,
}

impl fmt::Display for Container {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Container::Docker => "Docker",
            Container::Podman => "Podman",
            Container::Kubernetes => "Kubernetes",
            Container::Other => "a container",
        })
    }
}

/// What the host tells about itself. What it does not tell is `None`, zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The kernel's release, as `uname -r`.
    pub kernel: String,
    /// `kernel.io_uring_disabled`; absent before 6.6 and where io_uring is not built in.
    pub io_uring_disabled: Option<u32>,
    /// `kernel.io_uring_group`: the group that level 1 still lets in; -1 = none.
    pub io_uring_group: Option<i64>,
    /// Whether a seccomp filter is on this process.
    pub seccomp: bool,
    /// The container around it.
    pub container: Option<Container>,
    /// Whether locked memory is charged to it at all.
    pub memlock_free: bool,
    /// Bytes it may lock.
    pub memlock_bytes: u64,
    /// `fs.nr_open`: the most descriptors that any process can be given.
    pub nr_open: Option<u64>,
}

impl Facts {
    /// Asks this host. `memlock_bytes` is left to whoever reads the limits.
    #[must_use]
    pub fn read() -> Facts {
        Facts::read_below(Path::new("/"), std::env::var_os("KUBERNETES_SERVICE_HOST").is_some())
    }

    fn read_below(root: &Path, in_pod: bool) -> Facts {
        let text = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let status = text("proc/self/status");
        let capabilities = field::<Hex>(&status, "CapEff:").map_or(0, |hex| hex.0);
        Facts {
            kernel: text("proc/sys/kernel/osrelease").trim().to_owned(),
            io_uring_disabled: text("proc/sys/kernel/io_uring_disabled").trim().parse().ok(),
            io_uring_group: text("proc/sys/kernel/io_uring_group").trim().parse().ok(),
            seccomp: field::<u32>(&status, "Seccomp:") == Some(2),
            container: container(root, in_pod, &text("proc/self/cgroup")),
            memlock_free: capabilities >> CAP_IPC_LOCK & 1 == 1 && is_first_user_namespace(&text("proc/self/uid_map")),
            memlock_bytes: 0,
            nr_open: text("proc/sys/fs/nr_open").trim().parse().ok(),
        }
    }

    /// The kernel's version, if its release has one.
    #[must_use]
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut parts = self.kernel.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// A number in hexadecimal.
struct Hex(u64);

impl FromStr for Hex {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Hex)
    }
}

fn field<T: FromStr>(status: &str, name: &str) -> Option<T> {
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// Only there do capabilities lift the charge: the root of a rootless container is charged like anybody.
fn is_first_user_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn container(root: &Path, in_pod: bool, cgroup: &str) -> Option<Container> {
    let exists = |path: &str| root.join(path).exists();
    let within = |names: &[&str]| names.iter().any(|name| cgroup.contains(name));
    // A pod may be run by Docker or Podman, and the pod is where it is mended: so it is asked first.
    if in_pod || within(&["kubepods"]) {
        Some(Container::Kubernetes)
    } else if exists("run/.containerenv") || within(&["libpod"]) {
        Some(Container::Podman)
    } else if exists(".dockerenv") || within(&["docker"]) {
        Some(Container::Docker)
    } else if exists("run/systemd/container") || within(&["/lxc", "containerd", "machine.slice"]) {
        Some(Container::Other)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::TestFolder;
    use super::*;

    fn host(name: &str, files: &[(&str, &str)]) -> (TestFolder, Facts) {
        let folder = TestFolder::new(&format!("facts-{name}"));
        for (path, text) in files {
            let path = folder.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let facts = Facts::read_below(&folder.0, false);
        (folder, facts)
    }

    #[test]
    fn a_host_that_tells_all_is_read() {
        let (_folder, facts) = host(
            "all",
            &[
                ("proc/sys/kernel/osrelease", "6.8.0-45-generic\n"),
                ("proc/sys/kernel/io_uring_disabled", "1\n"),
                ("proc/sys/kernel/io_uring_group", "-1\n"),
                ("proc/sys/fs/nr_open", "1048576\n"),
                ("proc/self/status", "Name:\tbanter\nCapEff:\t000001ffffffffff\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
                ("proc/self/uid_map", "         0          0 4294967295\n"),
            ],
        );
        let expected = Facts {
            kernel: "6.8.0-45-generic".to_owned(),
            io_uring_disabled: Some(1),
            io_uring_group: Some(-1),
            seccomp: true,
            container: None,
            memlock_free: true,
            memlock_bytes: 0,
            nr_open: Some(1_048_576),
        };
        assert_eq!(facts, expected);
        assert_eq!(facts.kernel_version(), Some((6, 8)));
    }

    #[test]
    fn a_host_that_tells_nothing_is_no_fault() {
        let (_folder, facts) = host("nothing", &[]);
        assert_eq!(facts, Facts::default());
        assert_eq!(facts.kernel_version(), None);
    }

    #[test]
    fn root_of_a_rootless_container_is_charged_for_locked_memory() {
        let (_folder, facts) = host(
            "rootless",
            &[("proc/self/status", "CapEff:\t000001ffffffffff\n"), ("proc/self/uid_map", "0 1000 1\n1 100000 65536\n")],
        );
        assert!(!facts.memlock_free);
        let (_folder, facts) = host(
            "no-capability",
            &[("proc/self/status", "CapEff:\t0000000000000000\n"), ("proc/self/uid_map", "0 0 4294967295\n")],
        );
        assert!(!facts.memlock_free);
    }

    #[test]
    fn containers_are_told_apart() {
        let of = |name, files: &[(&str, &str)]| host(name, files).1.container;
        assert_eq!(of("docker", &[(".dockerenv", "")]), Some(Container::Docker));
        assert_eq!(of("docker-v1", &[("proc/self/cgroup", "1:cpu:/docker/0123\n")]), Some(Container::Docker));
        assert_eq!(of("podman", &[("run/.containerenv", "")]), Some(Container::Podman));
        assert_eq!(
            of("pod", &[(".dockerenv", ""), ("proc/self/cgroup", "0::/kubepods.slice/x\n")]),
            Some(Container::Kubernetes)
        );
        assert_eq!(of("nspawn", &[("run/systemd/container", "systemd-nspawn")]), Some(Container::Other));
        assert_eq!(of("bare", &[("proc/self/cgroup", "0::/user.slice\n")]), None);
        assert_eq!(container(Path::new("/nonexistent"), true, ""), Some(Container::Kubernetes));
    }

    #[test]
    fn a_release_gives_its_version() {
        let version = |kernel: &str| Facts { kernel: kernel.to_owned(), ..Facts::default() }.kernel_version();
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.14.0-427.el9.x86_64"), Some((5, 14)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version("banana"), None);
    }
}
