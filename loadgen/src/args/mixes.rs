//! The command lines of mixes and of merging.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args as ClapArgs;

/// Runs the parts of a mix at the same time, each as processes of its own, with their figures and their verification. The
/// file says in TOML what the command line would: flags at its head for all parts, then `[[part]]` with `scenario`, and, if
/// wanted, `name`, `processes`, `after_s` and the scenario's flags. loadgen/mix.toml is an example.
#[derive(Debug, ClapArgs)]
pub struct Mixed {
    /// The mix
    #[arg(value_name = "MIX.toml")]
    pub file: PathBuf,
    /// The server's address, whatever the file says
    #[arg(long, value_name = "ADDR")]
    pub server: Option<SocketAddr>,
    /// The server's process, whatever the file says
    #[arg(long)]
    pub pid: Option<u32>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// Adds up what --json printed in several processes, or on several machines: histograms and rates add, and all must be
/// verified. Sheets of one name become one; those of a mix are merged part by part.
#[derive(Debug, ClapArgs)]
pub struct Merge {
    /// What --json printed
    #[arg(value_name = "FILE.json", required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: Output,
}

/// Where figures go.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct Output {
    /// Print the figures as JSON on stdout instead of the table
    #[arg(long)]
    pub json: bool,
    /// Write a page that shows the runs: one HTML file
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}
