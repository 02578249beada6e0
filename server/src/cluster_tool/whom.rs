//! Which cluster is meant, and how to its NATS servers: flags, over `[cluster]` of a file.

use std::path::{Path, PathBuf};

use banter_chat::limits::Limits;
use banter_engine::EngineConfig;
use clap::Args;

use super::ToolFault;
use crate::cluster::starting::{append_bytes_max, engine_config};
use crate::config::{Cluster, Settings};

/// The configuration that is read where no other is named, as `banter init` makes it.
const CONFIG_HERE: &str = "banter.toml";

/// Which cluster.
#[derive(Clone, Debug, Args)]
pub(super) struct Whom {
    /// A node's configuration, of which [cluster] is read [default: ./banter.toml]
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The cluster's name
    #[arg(long, global = true, help_heading = "Which cluster")]
    name: Option<String>,
    /// NATS servers: nats://host:4222,… or tls://host:4222,…
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "URL,…", value_delimiter = ',')]
    engine: Vec<String>,
    /// The monitoring address of each: http://host:8222,…
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "URL,…", value_delimiter = ',')]
    monitoring: Vec<String>,
    /// A credentials file for them
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "FILE")]
    credentials: Option<PathBuf>,
    /// A PEM file of who signed their certificates
    #[arg(long, global = true, help_heading = "Which cluster", value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
}

/// Where the engine is, and what it has to take.
#[derive(Debug)]
pub(super) struct Told {
    /// For the connection.
    pub(super) engine: EngineConfig,
    /// The monitoring address of each server.
    pub(super) monitoring: Vec<String>,
    /// Bytes of the longest message that a node appends.
    pub(super) append_bytes_max: u64,
    /// What to write behind `banter cluster …` to mean the same cluster again.
    pub(super) flags: String,
}

impl Whom {
    /// Which cluster that is.
    pub(super) fn engine(&self) -> Result<Told, ToolFault> {
        let (cluster, frame_bytes_max) = self.cluster()?;
        let cluster = self.over(cluster);
        if cluster.name.is_empty() || cluster.engine.is_empty() {
            let what = format!(
                "which cluster? Say --config FILE with a node's configuration, or --name NAME --engine nats://host:4222,…; there is \
                 no {CONFIG_HERE} in this folder that names one in [cluster]"
            );
            return Err(ToolFault::Unsaid(what));
        }
        Ok(Told {
            engine: engine_config(&cluster),
            append_bytes_max: append_bytes_max(frame_bytes_max, &cluster),
            flags: self.flags(&cluster),
            monitoring: cluster.engine_monitoring,
        })
    }

    /// What a file says. A node's other keys are its own business: they may hold on its host alone.
    fn cluster(&self) -> Result<(Cluster, u32), ToolFault> {
        let usual = Limits::default().frame_bytes_max;
        let is_said = self.name.is_some() && !self.engine.is_empty();
        let file = match &self.config {
            Some(file) => file.as_path(),
            None if !is_said && Path::new(CONFIG_HERE).exists() => Path::new(CONFIG_HERE),
            None => return Ok((Cluster::default(), usual)),
        };
        let settings = Settings::read(file)?;
        let frame_bytes_max = settings.limits.get("frame_bytes_max").and_then(|given| u32::try_from(given.value).ok());
        let cluster = settings.cluster.map(|given| given.value).unwrap_or_default();
        Ok((cluster, frame_bytes_max.unwrap_or(usual)))
    }

    fn over(&self, mut cluster: Cluster) -> Cluster {
        if let Some(name) = &self.name {
            cluster.name.clone_from(name);
        }
        if !self.engine.is_empty() {
            cluster.engine.clone_from(&self.engine);
        }
        if !self.monitoring.is_empty() {
            cluster.engine_monitoring.clone_from(&self.monitoring);
        }
        cluster.engine_credentials = self.credentials.clone().or(cluster.engine_credentials);
        cluster.engine_certificate_authority =
            self.certificate_authority.clone().or(cluster.engine_certificate_authority);
        cluster
    }

    /// Only what is no secret: an address may hold a password.
    fn flags(&self, cluster: &Cluster) -> String {
        match &self.config {
            Some(file) => format!(" --config {}", file.display()),
            None if self.name.is_some() => format!(" --name {} --engine … --monitoring …", cluster.name),
            None => String::new(),
        }
    }
}

impl Told {
    /// The monitoring addresses, without which a server says nothing of itself.
    pub(super) fn needs_monitoring(&self) -> Result<(), ToolFault> {
        if self.monitoring.is_empty() {
            let what = "which servers are to be looked at? Say --monitoring http://host:8222,… with the monitoring address of every \
                        NATS server, or engine_monitoring in [cluster]";
            return Err(ToolFault::Unsaid(what.to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        whom: Whom,
    }

    fn told(args: &[&str]) -> Result<Told, ToolFault> {
        Line::try_parse_from([&["cluster"], args].concat()).unwrap().whom.engine()
    }

    #[test]
    fn flags_beat_the_file_and_are_enough_without_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        let text = "listen = '0.0.0.0:7878'\n[limits]\nframe_bytes_max = 2000000\n[cluster]\nname = 'chat'\n\
                    engine = ['nats://a:4222']\nengine_monitoring = ['http://a:8222']";
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let of_file = told(&["--config", file]).unwrap();
        assert_eq!((&*of_file.engine.cluster, &*of_file.monitoring), ("chat", &["http://a:8222".to_owned()][..]));
        assert!(of_file.append_bytes_max > 2_000_000 && of_file.flags.contains(file));
        let over = told(&["--config", file, "--name", "other", "--engine", "nats://b:1,nats://c:2"]).unwrap();
        assert_eq!((&*over.engine.cluster, over.engine.servers.len(), over.monitoring.len()), ("other", 2, 1));
        let alone = told(&["--name", "chat", "--engine", "nats://user:secret@b:1"]).unwrap();
        assert!(!alone.flags.contains("secret"), "{}", alone.flags);
        assert!(alone.needs_monitoring().unwrap_err().to_string().contains("--monitoring"));
    }

    #[test]
    fn whoever_names_none_is_told_how() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("banter.toml");
        std::fs::write(&file, "listen = '127.0.0.1:0'").unwrap();
        let fault = told(&["--config", file.to_str().unwrap()]).unwrap_err();
        assert!(fault.to_string().contains("--name NAME") && fault.exit_code() == 78, "{fault}");
    }
}
