//! The hosts of a run: network namespaces on one bridge, whose links can be cut one way, or loopback where there can be none.
//!
//! ```text
//!  clients (this namespace) ── bridge ─┬─ veth ─ host 0
//!                                      ├─ veth ─ host 1
//!                                      └─ …
//! ```
//!
//! A cut drops packets where they arrive, silently, as a broken link does: nobody is told. Where there is no `iptables`,
//! a route into a black hole drops them where they leave.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Names begin with it and this process's id, so that another run can tell what a killed one has left.
const PREFIX: &str = "bnm";
/// The bridge's place in the network, which is where the clients are.
const BRIDGE: u8 = 254;

/// The hosts, by number. Dropping it takes them away.
pub struct Network {
    hosts: usize,
    /// The second and third byte of all addresses, by this process's id: several runs get along on one machine.
    net: [u8; 2],
    /// Why there are no namespaces.
    lack: Option<String>,
    has_iptables: bool,
}

impl Network {
    /// Makes that many hosts, on loopback where this machine or this user can make no namespaces.
    pub fn make(hosts: usize) -> Self {
        let id = std::process::id();
        let mut network = Network {
            hosts,
            net: [128 + (id >> 8) as u8 % 127, id as u8],
            lack: None,
            has_iptables: Command::new("iptables").arg("--version").output().is_ok(),
        };
        sweep();
        if let Err(lack) = network.try_make() {
            network.take_away();
            network.lack = Some(lack);
        }
        network
    }

    /// Why all hosts are on loopback, where they are: no link can be cut then.
    pub fn lack(&self) -> Option<&str> {
        self.lack.as_deref()
    }

    /// A host's address.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        let first = if self.lack.is_some() { 127 } else { 10 };
        Ipv4Addr::new(first, self.net[0], self.net[1], host as u8 + 1)
    }

    /// The words that run a program on a host, in their own place; it ends with the thread that starts it.
    pub fn within(&self, host: usize) -> Vec<String> {
        let ends_too = ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned);
        // Only the network is the host's own: with a mount namespace too, no disk could be unmounted.
        let inside = ["nsenter".to_owned(), format!("--net=/run/netns/{}", self.name(host))];
        if self.lack.is_some() { ends_too.into() } else { ends_too.into_iter().chain(inside).collect() }
    }

    /// Nothing that one host sends to another arrives any more.
    ///
    /// # Panics
    /// When the kernel does not take that.
    pub fn cut(&self, from: usize, to: usize) {
        let (from_address, to_address) = (self.address(from).to_string(), self.address(to).to_string());
        let done = if self.has_iptables {
            self.on(to, &["iptables", "-w", "-A", "INPUT", "-s", &from_address, "-j", "DROP"])
        } else {
            self.on(from, &["ip", "route", "add", "blackhole", &to_address])
        };
        done.expect("a link can be cut");
    }

    /// Mends that cut.
    ///
    /// # Panics
    /// When there is none.
    pub fn mend(&self, from: usize, to: usize) {
        let (from_address, to_address) = (self.address(from).to_string(), self.address(to).to_string());
        let done = if self.has_iptables {
            self.on(to, &["iptables", "-w", "-D", "INPUT", "-s", &from_address, "-j", "DROP"])
        } else {
            self.on(from, &["ip", "route", "del", "blackhole", &to_address])
        };
        done.expect("a cut can be mended");
    }

    fn name(&self, host: usize) -> String {
        format!("{PREFIX}{}-{host}", std::process::id())
    }

    fn bridge(&self) -> String {
        format!("{PREFIX}{}", std::process::id())
    }

    fn try_make(&self) -> Result<(), String> {
        if !Path::new("/usr/bin/nsenter").exists() {
            return Err("there is no nsenter".to_owned());
        }
        let (bridge, [b, c]) = (self.bridge(), self.net);
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["address", "add", &format!("10.{b}.{c}.{BRIDGE}/24"), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        (0..self.hosts).try_for_each(|host| self.make_host(host, &bridge))
    }

    fn make_host(&self, host: usize, bridge: &str) -> Result<(), String> {
        let (name, outer) = (self.name(host), format!("{}v{host}", self.bridge()));
        ip(&["netns", "add", &name])?;
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        ip(&["link", "set", &outer, "master", bridge, "up"])?;
        ip(&["-n", &name, "address", "add", &format!("{}/24", self.address(host)), "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])
    }

    fn on(&self, host: usize, words: &[&str]) -> Result<(), String> {
        run(Command::new("nsenter").arg(format!("--net=/run/netns/{}", self.name(host))).args(words))
    }

    fn take_away(&self) {
        (0..self.hosts).for_each(|host| drop(ip(&["netns", "delete", &self.name(host)])));
        let _ = ip(&["link", "delete", &self.bridge()]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if self.lack.is_none() {
            self.take_away();
        }
    }
}

/// Takes away what runs have left that were killed.
fn sweep() {
    let names = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    for name in names("/run/netns").iter().filter(|name| is_left(name)) {
        let _ = ip(&["netns", "delete", name]);
    }
    for name in names("/sys/class/net").iter().filter(|name| is_left(name)) {
        let _ = ip(&["link", "delete", name]);
    }
}

/// Whether that is a name by a run whose process is gone.
fn is_left(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else { return false };
    let id: String = rest.chars().take_while(char::is_ascii_digit).collect();
    !id.is_empty() && !Path::new("/proc").join(id).exists()
}

fn ip(words: &[&str]) -> Result<(), String> {
    run(Command::new("ip").args(words))
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}
