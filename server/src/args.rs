//! The command line: flags, their help, and what the program is to do.

use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use banter_chat::limits::Limits;
use banter_chat::policy::Durability;
use banter_protocol::origin::AllowedOrigin;
use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "cluster")]
use crate::cluster_tool::ClusterLine;
use crate::config::{
    Config, ConfigFault, CoreChoice, DEFAULT_DATA, DEFAULT_LISTEN, DEFAULT_LOG, Given, LIMITS, Place, Settings,
    parse_durability, parse_listen, parse_log,
};
use crate::ctl_tool::CtlLine;
use crate::host::{self, HostFault};
use crate::init_tool::InitTask;
use crate::key_tool::KeyTask;
use crate::log_tool::LogTask;
use crate::program_tool::ProgramTask;
use crate::token_tool::TokenLine;

/// What the program is to do.
#[derive(Debug)]
pub enum Command {
    /// Serve by this, which comes from there.
    Run(Box<Config>, Box<Sources>),
    /// Check, write out or copy a log.
    Log(LogTask),
    /// Make a token, or look at one.
    Token(Box<TokenLine>),
    /// Speak to a running server.
    Ctl(Box<CtlLine>),
    /// Make keys.
    Key(KeyTask),
    /// Make a folder for a start.
    Init(InitTask),
    /// Check or try a program of rooms.
    Program(ProgramTask),
    /// Make a cluster's streams, or say how a cluster is.
    #[cfg(feature = "cluster")]
    Cluster(Box<ClusterLine>),
    /// Write this to stdout and end.
    Print(String),
}

/// Where a configuration comes from, so that it can be read again.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// What the command line said.
    flags: Settings,
    /// The file that it named.
    file: Option<PathBuf>,
}

impl Sources {
    /// Reads them again: the file as it is now, and the command line as it was.
    ///
    /// # Errors
    /// The file cannot be read, or what it says does not hold.
    pub fn read(&self) -> Result<Config, ArgsError> {
        self.read_with(host::allowed_cpus)
    }

    /// The file that the command line named.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn read_with(&self, allowed_cpus: impl FnOnce() -> Result<Vec<usize>, HostFault>) -> Result<Config, ArgsError> {
        let file = self.file.as_deref().map_or_else(|| Ok(Settings::default()), Settings::read)?;
        Ok(self.flags.clone().over(file).resolve(&allowed_cpus()?)?)
    }
}

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// The command line does not hold.
    #[error("{0}")]
    Usage(String),
    /// The configuration does not hold.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The host does not tell which CPUs there are.
    #[error(transparent)]
    Host(#[from] HostFault),
}

impl ArgsError {
    /// The process's exit code: 2 for the command line, 78 (`EX_CONFIG`) for the rest.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            ArgsError::Usage(_) => 2,
            ArgsError::Config(_) | ArgsError::Host(_) => host::EXIT_CONFIG,
        }
    }
}

/// Banter: a realtime chat server.
#[derive(Parser)]
#[command(
    name = "banter",
    bin_name = "banter",
    version,
    override_usage = "banter [OPTIONS], or banter init|key|token|log|ctl|program|cluster --help",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_help = "The flags up to --log are also keys of the file. Every limit is a flag too\n\
                  (--connections-max COUNT) and a key of [limits]: --help-limits lists them, each\n\
                  with its unit and default."
)]
struct Flags {
    #[arg(long, value_name = "ADDR", value_parser = parse_listen,
        help = format!("IP address and port; port 0 takes a free one\n[default: {DEFAULT_LISTEN}]"))]
    listen: Option<SocketAddr>,

    #[arg(long, value_name = "DIR", help = format!("Data folder, made if needed [default: {DEFAULT_DATA}]"))]
    data: Option<PathBuf>,

    #[arg(
        long,
        value_name = "N|LIST",
        help = "CPUs to run on: a count (2), or a list (0,1 or 0-3;\n[0] is CPU 0 alone) [default: all]"
    )]
    cores: Option<CoreChoice>,

    #[arg(long, value_name = "LEVEL", value_parser = parse_durability,
        help = format!("memory, written or synced [default: {}]", Durability::default().name()))]
    durability: Option<Durability>,

    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help = "Other web pages let in: https://a.com,http://b or *"
    )]
    origins: Option<Vec<AllowedOrigin>>,

    #[arg(long, value_name = "FILTER", value_parser = parse_log,
        help = format!("error to trace, or by target [default: {DEFAULT_LOG}]"))]
    log: Option<String>,

    #[arg(long, value_name = "FILE", help = "Read a TOML file; a flag beats the file")]
    config: Option<PathBuf>,

    #[arg(long, help = "Print the configuration in effect as such a file")]
    print_config: bool,

    #[arg(long, help = "Let in anybody at an address that others reach")]
    open: bool,

    #[arg(long, help = "Start over damage in the log: new epochs begin")]
    accept_corruption: bool,

    #[arg(long, help = "List every limit")]
    help_limits: bool,

    #[command(subcommand)]
    tool: Option<Tool>,
}

/// What the program does besides serving. The usage names it, so that the help stays within a screen.
#[derive(Subcommand)]
enum Tool {
    /// Checks a log, writes its messages out, or copies it
    #[command(hide = true, disable_help_subcommand = true)]
    Log {
        #[command(subcommand)]
        task: LogTask,
    },
    /// Makes a token, for trying things and for scripts
    #[command(
        hide = true,
        after_help = "Rights: read, write, signal, presence, history; member is all of these. Without --room only \
                      what `users`\nof [[rooms]] gives holds. Exit code: 0 made, 2 wrong arguments, 78 the key cannot be \
                      had."
    )]
    Token(Box<TokenLine>),
    /// Speaks to a running server: looks at it, and does what its backends may
    #[command(hide = true, disable_help_subcommand = true)]
    Ctl(Box<CtlLine>),
    /// Makes keys
    #[command(hide = true, disable_help_subcommand = true)]
    Key {
        #[command(subcommand)]
        task: KeyTask,
    },
    /// Makes a configuration for production and a key pair, and says what to do next
    #[command(
        hide = true,
        after_help = "Nothing is ever overwritten. Exit code: 0 made, 2 wrong arguments, 78 it cannot be made."
    )]
    Init(InitTask),
    /// Checks a program of rooms, tries it on messages, has a server read it again
    #[command(hide = true, disable_help_subcommand = true)]
    Program {
        #[command(subcommand)]
        task: ProgramTask,
    },
    /// Makes a cluster's streams, says how all of it is, and moves rooms into it and out of it
    #[cfg(feature = "cluster")]
    #[command(hide = true, disable_help_subcommand = true)]
    Cluster(Box<ClusterLine>),
}

/// A limit's flag, in the order of [`LIMITS`]: its name with dashes.
static LIMIT_FLAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| LIMITS.iter().map(|limit| limit.name.replace('_', "-")).collect());

/// Reads the command line, its program name first, and the file that it names.
///
/// # Errors
/// Why the program cannot start, with an exit code.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, ArgsError> {
    parse_with(args, host::allowed_cpus)
}

fn parse_with(
    args: impl IntoIterator<Item = OsString>,
    allowed_cpus: impl FnOnce() -> Result<Vec<usize>, HostFault>,
) -> Result<Command, ArgsError> {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return answer(&error),
    };
    let mut flags = Flags::from_arg_matches(&matches).map_err(|error| ArgsError::Usage(usage_text(&error)))?;
    match flags.tool.take() {
        Some(Tool::Log { task }) => return Ok(Command::Log(task)),
        Some(Tool::Token(line)) => return Ok(Command::Token(line)),
        Some(Tool::Key { task }) => return Ok(Command::Key(task)),
        Some(Tool::Ctl(line)) => return Ok(Command::Ctl(line)),
        Some(Tool::Init(task)) => return Ok(Command::Init(task)),
        Some(Tool::Program { task }) => return Ok(Command::Program(task)),
        #[cfg(feature = "cluster")]
        Some(Tool::Cluster(line)) => return Ok(Command::Cluster(line)),
        None => {}
    }
    if flags.help_limits {
        return Ok(Command::Print(limits_help()));
    }
    let (print, file) = (flags.print_config, flags.config.take());
    let sources = Sources { flags: flags.settings(&matches), file };
    let config = sources.read_with(allowed_cpus)?;
    Ok(if print { Command::Print(config.to_toml()?) } else { Command::Run(Box::new(config), Box::new(sources)) })
}

impl Flags {
    fn settings(self, matches: &ArgMatches) -> Settings {
        let limits = LIMITS.iter().zip(LIMIT_FLAGS.iter()).filter_map(|(limit, flag)| {
            let value = *matches.get_one::<u64>(limit.name)?;
            Some((limit.name, Given { value, place: Place::Flag(format!("--{flag}")) }))
        });
        Settings {
            listen: given(self.listen, "--listen"),
            data: given(self.data, "--data"),
            cores: given(self.cores, "--cores"),
            durability: given(self.durability, "--durability"),
            origins: given(self.origins, "--origins"),
            page: None,
            proxy_protocol: None,
            trusted_proxies: None,
            limits_dry_run: None,
            log: given(self.log, "--log"),
            log_format: None,
            limits: limits.collect(),
            rooms: Vec::new(),
            auth: None,
            admin: None,
            cluster: None,
            programs: Vec::new(),
            program_limits: None,
            accept_corruption: self.accept_corruption,
            is_open: self.open,
        }
    }
}

fn given<T>(value: Option<T>, flag: &str) -> Option<Given<T>> {
    value.map(|value| Given { value, place: Place::Flag(flag.to_owned()) })
}

fn command() -> clap::Command {
    let limits = LIMITS.iter().zip(LIMIT_FLAGS.iter()).map(|(limit, flag)| {
        Arg::new(limit.name)
            .long(flag.as_str())
            .value_name(limit.unit)
            .help(limit.about)
            .value_parser(RangedU64ValueParser::<u64>::new().range(0..=limit.largest))
            .hide(true)
    });
    Flags::command().args(limits)
}

/// Help and version come from clap as errors.
fn answer(error: &clap::Error) -> Result<Command, ArgsError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Command::Print(error.render().to_string())),
        _ => Err(ArgsError::Usage(usage_text(error))),
    }
}

/// The error without clap's own prefix, since the caller writes the program's name before it.
fn usage_text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()
}

fn limits_help() -> String {
    let defaults = Limits::default();
    let flags: Vec<_> = LIMITS.iter().zip(LIMIT_FLAGS.iter()).map(|(l, flag)| format!("--{flag} {}", l.unit)).collect();
    let width = flags.iter().map(String::len).max().unwrap_or_default();
    let mut out = String::from("Limits: flags, and with \"_\" for \"-\" keys of [limits] in the file; with defaults\n");
    for (limit, flag) in LIMITS.iter().zip(&flags) {
        let _ = writeln!(out, "  {flag:<width$}  {:>9}  {}", (limit.read)(&defaults), limit.about);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, ArgsError> {
        let args = std::iter::once("banter").chain(line.split_whitespace()).map(OsString::from);
        parse_with(args, || Ok(vec![0, 1, 2]))
    }

    fn config(line: &str) -> Config {
        match parse_line(line) {
            Ok(Command::Run(config, _)) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn printed(line: &str) -> String {
        match parse_line(line) {
            Ok(Command::Print(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(line: &str) -> ArgsError {
        parse_line(line).expect_err(line)
    }

    /// A file that is gone with the test.
    struct File(PathBuf);

    impl File {
        fn with(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("banter-args-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).expect("a file in the temporary folder");
            File(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn clap_finds_no_fault_in_the_flags() {
        command().debug_assert();
    }

    #[test]
    fn no_flag_gives_the_defaults() {
        let config = config("");
        assert_eq!(config.listen, DEFAULT_LISTEN);
        assert_eq!(config.cores, [0, 1, 2]);
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = File::with("beats", "cores = 1\nlog = 'warn'\n[limits]\nrooms_max = 2\nfetch_messages_max = 3");
        let config = config(&format!("--config {} --cores 0,2 --rooms-max 9", file.0.display()));
        assert_eq!((config.cores, config.log.as_str()), (vec![0, 2], "warn"));
        assert_eq!((config.limits.rooms_max, config.limits.fetch_messages_max), (9, 3));
    }

    #[test]
    fn rooms_come_from_the_file_and_what_they_leave_out_from_a_flag_too() {
        let file = File::with("rooms", "durability = 'synced'\n[[rooms]]\nmatch = 'a'\nretention_hours = 3");
        let config = config(&format!("--config {} --durability written", file.0.display()));
        assert_eq!((config.durability, config.rooms.otherwise.durability), (Durability::Written, Durability::Written));
        let policy = config.rooms.of("a");
        assert_eq!((policy.durability, policy.class.hours), (Durability::Written, 3));
    }

    #[test]
    fn accepting_corruption_is_for_one_start_and_no_key() {
        assert!(config("--accept-corruption").accept_corruption && !config("").accept_corruption);
        assert!(!printed("--accept-corruption --print-config").contains("corruption"));
        let file = File::with("corruption", "accept_corruption = true");
        assert!(error(&format!("--config {}", file.0.display())).to_string().contains("unknown key"));
    }

    #[test]
    fn an_address_that_others_reach_is_for_tokens_or_said_to_be_open() {
        for listen in ["0.0.0.0:7878", "[::]:7878", "192.0.2.1:1"] {
            let error = error(&format!("--listen {listen}"));
            assert_eq!(error.exit_code(), 78);
            for says in [listen, "--listen", "mode = \"token\"", "127.0.0.1", "--open"] {
                assert!(error.to_string().contains(says), "{says}: {error}");
            }
            assert_eq!(config(&format!("--listen {listen} --open")).listen.to_string(), listen);
        }
        let file = File::with("token", "listen = '0.0.0.0:1'\n[auth]\nmode = 'token'\nsecret_file = 's'");
        assert_eq!(config(&format!("--config {}", file.0.display())).listen.to_string(), "0.0.0.0:1");
        assert_eq!(config("--listen [::1]:5").listen.to_string(), "[::1]:5");
    }

    #[test]
    fn every_level_is_a_flag() {
        for level in Durability::ALL {
            assert_eq!(config(&format!("--durability {}", level.name())).durability, level);
        }
    }

    #[test]
    fn every_limit_is_a_flag() {
        for (limit, flag) in LIMITS.iter().zip(LIMIT_FLAGS.iter()) {
            // A segment is made of whole pages.
            let step = if limit.name == "log_segment_bytes" { 4_096 } else { 1 };
            let value = (limit.read)(&Limits::default()).max(20) + step;
            assert_eq!((limit.read)(&config(&format!("--{flag} {value}")).limits), value, "{flag}");
        }
    }

    #[test]
    fn a_printed_configuration_can_be_fed_back() {
        let flags = "--listen [::1]:9 --data d --cores 1, --log debug --rooms-max 5 --origins *,https://a.com";
        let file = File::with("fed-back", &printed(&format!("{flags} --print-config")));
        assert_eq!(config(&format!("--config {}", file.0.display())), config(flags));
    }

    #[test]
    fn help_fits_one_screen_and_points_at_the_limits() {
        for flag in ["-h", "--help"] {
            let help = printed(flag);
            assert!(help.lines().count() <= 24, "{help}");
            assert!(help.lines().all(|line| line.len() <= 80), "{help}");
            for says in ["--listen <ADDR>", "127.0.0.1:7878", "--cores <N|LIST>", "[0] is CPU 0 alone", "--help-limits"]
            {
                assert!(help.contains(says), "{says}: {help}");
            }
            assert!(!help.contains("--lane-parcels-max"), "{help}");
        }
    }

    #[test]
    fn help_limits_lists_every_limit_with_unit_and_default() {
        let help = printed("--help-limits");
        assert!(help.lines().count() <= LIMITS.len() + 2 && help.lines().all(|line| line.len() <= 110), "{help}");
        for (limit, flag) in LIMITS.iter().zip(LIMIT_FLAGS.iter()) {
            let line = help.lines().find(|line| line.contains(&format!("--{flag} {}", limit.unit))).expect(flag);
            assert!(line.contains(&(limit.read)(&Limits::default()).to_string()) && line.contains(limit.about));
        }
    }

    #[test]
    fn the_log_is_read_by_a_subcommand() {
        let task = |line: &str| match parse_line(line) {
            Ok(Command::Log(task)) => task,
            other => panic!("{line}: {other:?}"),
        };
        assert!(matches!(task("log check d --json"), LogTask::Check { dir, json: true } if dir == Path::new("d")));
        assert!(matches!(task("log check d"), LogTask::Check { json: false, .. }));
        assert!(matches!(task("log dump d"), LogTask::Dump { room: None, .. }));
        assert!(matches!(task("log dump d --room a"), LogTask::Dump { room: Some(room), .. } if room.as_str() == "a"));
        let too_long = error(&format!("log dump d --room {}", "x".repeat(129)));
        assert!(too_long.exit_code() == 2 && too_long.to_string().contains("at most 128"), "{too_long}");
    }

    #[test]
    fn a_running_server_is_spoken_to_by_a_subcommand_whose_help_fits_a_screen() {
        for flag in ["-h", "--help"] {
            let help = printed(&format!("ctl {flag}"));
            assert!(help.lines().count() <= 24 && help.lines().all(|line| line.len() <= 80), "{help}");
        }
        for line in [
            "ctl status",
            "ctl --json rooms game-",
            "ctl rooms --socket s",
            "ctl revoke --user ann --until 7d",
            "ctl log-level",
        ] {
            assert!(matches!(parse_line(line), Ok(Command::Ctl(_))), "{line}");
        }
        for line in [
            "ctl",
            "ctl revoke",
            "ctl revoke --user a --token t",
            "ctl lift",
            "ctl kick lobby",
            "ctl revoke --user a --until soon",
        ] {
            assert_eq!(error(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn what_is_done_with_programs_is_a_subcommand_whose_help_fits_a_screen() {
        for flag in ["-h", "--help"] {
            let help = printed(&format!("program {flag}"));
            assert!(help.lines().count() <= 24 && help.lines().all(|line| line.len() <= 80), "{help}");
            for task in ["check", "test", "types", "load", "top"] {
                assert!(help.contains(&format!("\n  {task} ")), "{help}");
            }
        }
        for line in
            ["program load dice", "program load dice --config f --json", "program top --socket s", "program top"]
        {
            assert!(matches!(parse_line(line), Ok(Command::Program(_))), "{line}");
        }
        for line in ["program", "program load", "program load a b", "program top a"] {
            assert_eq!(error(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_version_is_printed() {
        assert_eq!(printed("--version"), format!("banter {}\n", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn a_wrong_flag_is_a_usage_error_that_names_the_nearest() {
        let error = error("--conections-max 3");
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.starts_with("unexpected argument '--conections-max'"), "{text}");
        assert!(text.contains("'--connections-max'"), "{text}");
    }

    #[test]
    fn a_wrong_value_is_a_usage_error_that_says_what_it_must_be() {
        for (line, says) in [
            ("--listen localhost", "must be an IP address and a port"),
            ("--cores two", "must be a count (2)"),
            ("--durability disk", "must be \"memory\", \"written\" or \"synced\""),
            ("--log a=loud", "must be a log filter"),
            ("--origins https://a.com,b.com", "must be \"*\" or an origin like"),
            ("--rooms-max 4294967296", "not in 0..=4294967295"),
            ("--rooms-max many", "'--rooms-max <COUNT>'"),
            ("--data", "a value is required for '--data <DIR>'"),
            ("--cores 1 --cores 2", "cannot be used multiple times"),
            ("extra", "unrecognized subcommand 'extra'"),
            ("log", "Usage: banter log <COMMAND>"),
            ("log check", "<DIR>"),
            ("log dump d --room", "a value is required for '--room <NAME>'"),
            ("--cores 1 log check d", "cannot be used"),
        ] {
            let error = error(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_had_names_the_flag_and_exits_with_78() {
        for (line, says) in [
            ("--cores 9", "cores asks for 9 CPUs, and this process may run on 3: [0, 1, 2] (from --cores)"),
            ("--cores 7,", "cores names CPU 7"),
            ("--lane-parcels-max 1", "and is 1 (from --lane-parcels-max)"),
            ("--config /nonexistent", "cannot read the configuration /nonexistent"),
        ] {
            let error = error(line);
            assert_eq!(error.exit_code(), 78, "{line}");
            assert!(error.to_string().contains(says), "{line}: {error}");
        }
    }
}
