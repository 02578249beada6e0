//! What can be wrong with a configuration, and where.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a file, from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A flag, with its dashes.
    Flag(String),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { path, line } => write!(out, "{}:{line}", path.display()),
            Place::Flag(flag) => out.write_str(flag),
            Place::Default => out.write_str("the default"),
        }
    }
}

/// A table of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// None: the keys outside every table.
    Top,
    /// `[limits]`.
    Limits,
    /// An entry of `[[rooms]]`.
    Rooms,
    /// `[auth]`.
    Auth,
    /// `[admin]`.
    Admin,
    /// `[cluster]`.
    Cluster,
    /// An entry of `[[admin.keys]]`.
    AdminKeys,
    /// An entry of `[[programs]]`.
    Programs,
    /// `grants` of such an entry.
    ProgramGrants,
    /// `[program_limits]`.
    ProgramLimits,
}

impl Table {
    /// Its name with its brackets.
    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Top => "every table",
            Table::Limits => "[limits]",
            Table::Rooms => "[[rooms]]",
            Table::Auth => "[auth]",
            Table::Admin => "[admin]",
            Table::Cluster => "[cluster]",
            Table::AdminKeys => "[[admin.keys]]",
            Table::Programs => "[[programs]]",
            Table::ProgramGrants => "grants",
            Table::ProgramLimits => "[program_limits]",
        }
    }

    /// As it goes behind a key's name.
    pub(super) fn inside(self) -> &'static str {
        match self {
            Table::Top => "",
            Table::Limits => " in [limits]",
            Table::Rooms => " in [[rooms]]",
            Table::Auth => " in [auth]",
            Table::Admin => " in [admin]",
            Table::Cluster => " in [cluster]",
            Table::AdminKeys => " in [[admin.keys]]",
            Table::Programs => " in [[programs]]",
            Table::ProgramGrants => " in grants",
            Table::ProgramLimits => " in [program_limits]",
        }
    }
}

/// A configuration that does not hold, or that this host cannot give.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {error}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{place}: not valid TOML: {what}")]
    Syntax {
        /// The file and the line.
        place: Place,
        /// What the parser says.
        what: String,
    },
    /// A key that means nothing.
    #[error("{place}: unknown key \"{key}\"{}: {hint}", .table.inside())]
    UnknownKey {
        /// The file and the line.
        place: Place,
        /// The key.
        key: String,
        /// Where it stands.
        table: Table,
        /// The nearest known one.
        hint: String,
    },
    /// A value of another type or form than its key wants.
    #[error("{place}: {key} {must}, and is {found}")]
    WrongValue {
        /// The file and the line.
        place: Place,
        /// The key.
        key: String,
        /// What it must be: `must be …`.
        must: String,
        /// What stands there.
        found: String,
    },
    /// A limit outside its range, or two that contradict each other.
    #[error("[limits] {must} (from {place})")]
    Limit {
        /// The rule, with the limit's name and its value.
        must: String,
        /// Where the limit was given.
        place: Place,
    },
    /// CPUs that this process cannot have.
    #[error("cores {what} (from {place})")]
    Cores {
        /// What is wrong.
        what: String,
        /// Where the choice was given.
        place: Place,
    },
    /// A table that as a whole means nothing.
    #[error("{place}: {what}")]
    Table {
        /// The file and the line.
        place: Place,
        /// What is wrong, and how to mend it.
        what: String,
    },
    /// Everybody who reaches the address could be anybody.
    #[error(
        "listen = {listen} ({place}) is an address that others can reach, and whoever comes there is who it says and may \
         read and write every room.\n  three ways out: ask for tokens (mode = \"token\" in [auth]: docs/access.md), listen on \
         127.0.0.1 behind something that lets in whom it knows, or say --open if that is what you want"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
        /// Where it was given.
        place: Place,
    },
    /// A path that TOML cannot say.
    #[error("cannot print the configuration: the data folder's name {0:?} is not UTF-8")]
    PathNotText(PathBuf),
}
