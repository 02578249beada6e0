//! The machine that a run was made on, for people who were not there.

use std::fs;

use serde::{Deserialize, Serialize};

/// What a machine says of itself. Empty or 0 where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The processor's model.
    pub cpu: String,
    /// Logical processors.
    pub cores: usize,
    /// Main memory.
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// How TCP controls congestion here.
    pub congestion_control: String,
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        Host {
            name: read("/proc/sys/kernel/hostname"),
            cpu: field(&cpuinfo, "model name").unwrap_or_default(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: kibibytes(&meminfo).unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease"),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }

    /// In one line.
    pub fn describe(&self) -> String {
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        let Host { name, cpu, cores, kernel, congestion_control, .. } = self;
        format!("{name}: {cores} x {cpu}, {gibibytes:.1} GiB, Linux {kernel}, TCP {congestion_control}")
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start().strip_prefix(':')?.trim().to_owned())
}

fn kibibytes(meminfo: &str) -> Option<u64> {
    let total = field(meminfo, "MemTotal")?;
    Some(total.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The command that a process was started with; empty where it cannot be read.
pub fn command_of(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_what_it_is() {
        let here = Host::here();
        assert!(here.cores > 0 && here.memory_bytes > 0 && !here.kernel.is_empty());
        assert!(here.describe().contains(&here.kernel));
        assert!(command_of(std::process::id()).contains("banter_loadgen"));
        assert_eq!(command_of(u32::MAX / 4), "");
    }

    #[test]
    fn fields_are_found_in_the_kernels_texts() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 1\nmodel name\t: AMD EPYC\n";
        assert_eq!(field(cpuinfo, "model name"), Some("AMD EPYC".into()));
        assert_eq!(kibibytes("MemTotal:       24736256 kB"), Some(24_736_256 << 10));
        assert_eq!(kibibytes(""), None);
    }
}
