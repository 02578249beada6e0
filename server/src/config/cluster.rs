//! `[cluster]`: several machines that serve one set of rooms, on a NATS JetStream that keeps what is acknowledged.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::Document;
use super::{ConfigFault, Given, Table};

/// The keys of `[cluster]`.
pub(super) const CLUSTER_KEYS: [&str; 14] = [
    "name",
    "node",
    "addresses",
    "engine",
    "engine_credentials",
    "engine_certificate_authority",
    "engine_monitoring",
    "append_bytes_max",
    "append_timeout_ms",
    "dead_after_ms",
    "hold_ms",
    "segment_bytes",
    "engine_cache_bytes",
    "unproved_engine",
];

const MUST_CLUSTER: &str = "must be a table: [cluster]";
const MUST_NAME: &str = "must be 1 to 32 letters, digits, - and _";
const MUST_ADDRESSES: &str =
    "must be a list of at most 8 addresses as clients reach this node, like [\"chat-1.example.com:7878\"]";
const MUST_ENGINE: &str = "must be a list of NATS servers, like [\"nats://10.0.0.1:4222\", \"nats://10.0.0.2:4222\"]";
const MUST_MONITORING: &str =
    "must be a list with the monitoring address of every NATS server, like [\"http://10.0.0.1:8222\"]";
const MUST_PATH: &str = "must be the path of a file, as a string";
/// Addresses of a node at most.
const ADDRESSES_MAX: usize = 8;
/// Bytes of an address at most.
const ADDRESS_BYTES_MAX: usize = 256;

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The cluster's name, the same on every node.
    pub name: String,
    /// This node's name; none: the host's.
    pub node: Option<String>,
    /// Where clients reach this node; none: where it listens.
    pub addresses: Vec<String>,
    /// The NATS servers.
    pub engine: Vec<String>,
    /// A credentials file for them.
    pub engine_credentials: Option<PathBuf>,
    /// A file with who signed their certificates; none: whom the system trusts.
    pub engine_certificate_authority: Option<PathBuf>,
    /// The monitoring address of each.
    pub engine_monitoring: Vec<String>,
    /// Bytes of messages that one append takes.
    pub append_bytes_max: u32,
    /// How long an append is waited for, in milliseconds.
    pub append_timeout_ms: u32,
    /// A node that was not heard for so long is dead, in milliseconds.
    pub dead_after_ms: u32,
    /// How long a post waits for its append before it is told that its outcome is unknown, in milliseconds.
    pub hold_ms: u32,
    /// Bytes of a segment of a partition.
    pub segment_bytes: u32,
    /// Bytes that are kept in memory of what was read of the engine.
    pub engine_cache_bytes: u64,
    /// Start on an engine that does not prove itself.
    pub unproved_engine: bool,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            name: String::new(),
            node: None,
            addresses: Vec::new(),
            engine: Vec::new(),
            engine_credentials: None,
            engine_certificate_authority: None,
            engine_monitoring: Vec::new(),
            append_bytes_max: 256 << 10,
            append_timeout_ms: 500,
            dead_after_ms: 2_000,
            hold_ms: 2_000,
            segment_bytes: 4 << 20,
            engine_cache_bytes: 64 << 20,
            unproved_engine: false,
        }
    }
}

impl Cluster {
    /// As the file says it.
    pub(super) fn to_toml(&self) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        let list = |texts: &[String]| texts.iter().map(|one| text(one)).collect::<Vec<_>>().join(", ");
        let mut out = format!("\n[cluster]\nname = {}\n", text(&self.name));
        out.extend(self.node.as_ref().map(|node| format!("node = {}\n", text(node))));
        out.push_str(&format!("addresses = [{}]\nengine = [{}]\n", list(&self.addresses), list(&self.engine)));
        let files = [
            ("engine_credentials", &self.engine_credentials),
            ("engine_certificate_authority", &self.engine_certificate_authority),
        ];
        for (key, path) in files {
            out.extend(path.as_ref().map(|path| format!("{key} = {}\n", text(&path.to_string_lossy()))));
        }
        out.push_str(&format!(
            "engine_monitoring = [{}]\nappend_bytes_max = {}\nappend_timeout_ms = {}\ndead_after_ms = {}\nhold_ms = {}\n\
             segment_bytes = {}\nengine_cache_bytes = {}\nunproved_engine = {}\n",
            list(&self.engine_monitoring),
            self.append_bytes_max,
            self.append_timeout_ms,
            self.dead_after_ms,
            self.hold_ms,
            self.segment_bytes,
            self.engine_cache_bytes,
            self.unproved_engine,
        ));
        out
    }

    /// The key whose value is out of its bounds, and what it must be.
    fn out_of_bounds(&self) -> Option<(&'static str, String)> {
        let within = |key, value: u64, least: u64, most: u64| {
            let must = || format!("{key} must be between {least} and {most}, and is {value}");
            (!(least..=most).contains(&value)).then(|| (key, must()))
        };
        within("append_bytes_max", self.append_bytes_max.into(), 4 << 10, 32 << 20)
            .or_else(|| within("append_timeout_ms", self.append_timeout_ms.into(), 50, 60_000))
            .or_else(|| within("dead_after_ms", self.dead_after_ms.into(), 1_500, 60_000))
            .or_else(|| within("hold_ms", self.hold_ms.into(), 100, 60_000))
            .or_else(|| within("segment_bytes", self.segment_bytes.into(), 64 << 10, 1 << 30))
            .or_else(|| within("engine_cache_bytes", self.engine_cache_bytes, 1 << 20, 1 << 40))
    }
}

impl Document<'_> {
    /// `[cluster]`.
    pub(super) fn cluster(&self, value: &Spanned<DeValue<'_>>) -> Result<Given<Cluster>, ConfigFault> {
        let table = value.get_ref().as_table().ok_or_else(|| self.wrong("cluster", value, MUST_CLUSTER))?;
        let place = self.place(&value.span());
        let cluster = self.cluster_keys(table)?;
        let fault = |what: String| ConfigFault::Table { place: place.clone(), what };
        if cluster.name.is_empty() {
            return Err(fault("[cluster] needs a name, the same on every node: name = \"chat\"".to_owned()));
        }
        if cluster.engine.is_empty() {
            return Err(fault(format!("[cluster] needs the NATS servers: engine {MUST_ENGINE}")));
        }
        if cluster.engine_monitoring.is_empty() && !cluster.unproved_engine {
            return Err(fault(format!(
                "[cluster] cannot have the engine prove itself without engine_monitoring, which {MUST_MONITORING}"
            )));
        }
        if let Some((_, must)) = cluster.out_of_bounds() {
            return Err(ConfigFault::Table { place, what: format!("[cluster] {must}") });
        }
        Ok(Given { value: cluster, place })
    }

    fn cluster_keys(&self, table: &DeTable<'_>) -> Result<Cluster, ConfigFault> {
        let mut cluster = Cluster::default();
        let number =
            |key: &'static str, value| self.number(key, value, u32::MAX.into()).map(|given| given.value as u32);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "name" => cluster.name = self.text_value("name", value, MUST_NAME, parse_name)?.value,
                "node" => cluster.node = Some(self.text_value("node", value, MUST_NAME, parse_node)?.value),
                "addresses" => {
                    let given = self.list("addresses", value, MUST_ADDRESSES, parse_address)?;
                    if given.value.len() > ADDRESSES_MAX {
                        return Err(self.wrong("addresses", value, MUST_ADDRESSES));
                    }
                    cluster.addresses = given.value;
                }
                "engine" => cluster.engine = self.list("engine", value, MUST_ENGINE, parse_text)?.value,
                "engine_credentials" => {
                    cluster.engine_credentials =
                        Some(self.text_value("engine_credentials", value, MUST_PATH, parse_path)?.value);
                }
                "engine_certificate_authority" => {
                    let given = self.text_value("engine_certificate_authority", value, MUST_PATH, parse_path)?;
                    cluster.engine_certificate_authority = Some(given.value);
                }
                "engine_monitoring" => {
                    cluster.engine_monitoring =
                        self.list("engine_monitoring", value, MUST_MONITORING, parse_monitoring)?.value;
                }
                "append_bytes_max" => cluster.append_bytes_max = number("append_bytes_max", value)?,
                "append_timeout_ms" => cluster.append_timeout_ms = number("append_timeout_ms", value)?,
                "dead_after_ms" => cluster.dead_after_ms = number("dead_after_ms", value)?,
                "hold_ms" => cluster.hold_ms = number("hold_ms", value)?,
                "segment_bytes" => cluster.segment_bytes = number("segment_bytes", value)?,
                "engine_cache_bytes" => {
                    cluster.engine_cache_bytes = self.number("engine_cache_bytes", value, u64::MAX)?.value;
                }
                "unproved_engine" => cluster.unproved_engine = self.boolean("unproved_engine", value)?.value,
                unknown => return Err(self.unknown_key(&key.span(), unknown, Table::Cluster)),
            }
        }
        Ok(cluster)
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_name = (1..=32).contains(&text.len()) && text.bytes().all(is_fit);
    is_name.then(|| text.to_owned()).ok_or_else(|| MUST_NAME.to_owned())
}

/// A host's name has dots.
fn parse_node(text: &str) -> Result<String, String> {
    let is_fit = |char: char| !char.is_control();
    let is_name = (1..=64).contains(&text.len()) && text.chars().all(is_fit);
    is_name.then(|| text.to_owned()).ok_or_else(|| "must be a name of 1 to 64 characters".to_owned())
}

fn parse_address(text: &str) -> Result<String, String> {
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    // A host and its port, and one that others can reach: every address of a host is none from outside.
    let is_nowhere = text.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    let is_odd = text.contains(char::is_whitespace) || text.contains('/') || is_nowhere;
    let is_fit = text.len() <= ADDRESS_BYTES_MAX && has_port && !is_odd;
    is_fit.then(|| text.to_owned()).ok_or_else(|| MUST_ADDRESSES.to_owned())
}

fn parse_monitoring(text: &str) -> Result<String, String> {
    let is_url = ["http://", "https://"].iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
    if is_url { Ok(text.to_owned()) } else { Err(MUST_MONITORING.to_owned()) }
}

fn parse_text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err(MUST_PATH.to_owned()) } else { Ok(text.into()) }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::super::tests::{config, fault, settings};

    const LEAST: &str = "[cluster]\nname = 'chat'\nengine = ['nats://a:4222']\nengine_monitoring = ['http://a:8222']\n";

    #[test]
    fn a_printed_cluster_gives_itself_back() {
        let text = format!(
            "{LEAST}node = 'a.b'\naddresses = ['chat-1:7878', '[::1]:7878']\nengine_credentials = 'x.creds'\n\
             engine_certificate_authority = 'ca.pem'\nappend_bytes_max = 65536\nappend_timeout_ms = 100\n\
             dead_after_ms = 3000\nhold_ms = 500\nsegment_bytes = 1048576\nengine_cache_bytes = 2097152\nunproved_engine = true"
        );
        for text in [LEAST, &text] {
            let first = config(text).unwrap();
            assert!(first.cluster.is_some());
            assert_eq!(config(&first.to_toml().unwrap()).unwrap(), first);
        }
        assert_eq!(config("").unwrap().cluster, None);
    }

    #[test]
    fn what_is_missing_or_out_of_bounds_is_said_with_its_cure() {
        for (text, says) in [
            ("cluster = 3", "cluster must be a table"),
            ("[cluster]\nengine = ['nats://a:4222']", "needs a name"),
            ("[cluster]\nname = 'a b'", "name must be 1 to 32 letters"),
            ("[cluster]\nname = 'chat'", "needs the NATS servers"),
            ("[cluster]\nname = 'chat'\nengine = ['nats://a:4222']", "cannot have the engine prove itself"),
            ("[cluster]\nnames = 'chat'", "did you mean \"name\"?"),
            ("[cluster]\naddresses = ['chat']", "addresses must be a list"),
            ("[cluster]\naddresses = ['http://chat:1']", "addresses must be a list"),
            ("[cluster]\naddresses = ['0.0.0.0:1']", "addresses must be a list"),
            ("[cluster]\nengine_monitoring = ['127.0.0.1:8222']", "engine_monitoring must be a list"),
            ("[cluster]\nnode = ''", "must be a name of 1 to 64 characters"),
        ] {
            assert!(fault(text).contains(says), "{text}: {}", fault(text));
        }
        let everywhere = format!("listen = '0.0.0.0:1'\n{LEAST}");
        let settings = Settings { is_open: true, ..settings(&everywhere).unwrap() };
        let nowhere = settings.resolve(&[0]).unwrap_err().to_string();
        assert!(nowhere.contains("cannot tell clients where this node is"), "{nowhere}");
        for key in
            ["append_bytes_max", "append_timeout_ms", "dead_after_ms", "hold_ms", "segment_bytes", "engine_cache_bytes"]
        {
            assert!(fault(&format!("{LEAST}{key} = 1")).contains(&format!("{key} must be between")), "{key}");
        }
    }
}
