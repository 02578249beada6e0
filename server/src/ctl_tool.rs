//! `banter ctl`: speaks to a running server over the unix socket of its interface for backends. So does `banter program load` and `top`.
//!
//! ```text
//!  arguments ─▶ the socket's path (--socket, or [admin] of the configuration) ─▶ client (one request) ─▶ shown (for people)
//! ```
//!
//! Whoever may open the socket may do everything, so no key is asked for. What can be done is what docs/api.md has; an answer is read
//! as JSON and not as this version's own types, so that a server of another version is spoken to as well.

mod client;
mod shown;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use banter_protocol::ids::{RoomName, UserName};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use self::client::{Client, Method, Request, segment};
use crate::config::{ConfigFault, Settings};
use crate::host::EXIT_CONFIG;
use crate::token_tool::parse_seconds;
use crate::wall_clock;

/// The exit code of what the server refuses.
const EXIT_REFUSED: u8 = 1;
/// The exit code where no server answers, as `sysexits.h` has it (`EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// The exit code where this user may not (`EX_NOPERM`).
const EXIT_DENIED: u8 = 77;
/// The configuration that is read where no other is named, as `banter init` makes it.
const CONFIG_HERE: &str = "banter.toml";
/// Entries of one answer of a list.
const PAGE: &str = "limit=1000";

/// Whom to speak to, what to do, and how to say what came of it.
#[derive(Clone, Debug, Args)]
pub struct CtlLine {
    #[command(flatten)]
    whom: Whom,
    #[command(subcommand)]
    task: CtlTask,
}

/// Whom to speak to, and how to say what came of it.
#[derive(Clone, Debug, Args)]
pub struct Whom {
    /// The server's socket [default: as configured]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The server's configuration [default: ./banter.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say it as JSON, of a list a line an entry
    #[arg(long, global = true)]
    json: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
enum CtlTask {
    /// The server at a glance
    Status,
    /// Rooms in memory, whose names begin so
    Rooms {
        #[arg(value_name = "PREFIX", default_value = "")]
        prefix: String,
    },
    /// One room
    Room {
        #[arg(value_name = "NAME", value_parser = parse_room)]
        room: RoomName,
    },
    /// Who reads a room
    Members {
        #[arg(value_name = "ROOM", value_parser = parse_room)]
        room: RoomName,
    },
    /// A user's connections
    User {
        #[arg(value_name = "NAME", value_parser = parse_user)]
        user: UserName,
    },
    /// Take a user out of a room, who may join again
    Kick {
        #[arg(value_name = "ROOM", value_parser = parse_room)]
        room: RoomName,
        #[arg(value_name = "USER", value_parser = parse_user)]
        user: UserName,
    },
    /// Close a user's connections, which may come again
    Disconnect {
        #[arg(value_name = "USER", value_parser = parse_user)]
        user: UserName,
    },
    /// Take tokens or addresses in no more, and close who came with them
    Revoke {
        #[command(flatten)]
        named: Named,
        /// Only tokens made in that second since 1970 or before, or `now`
        #[arg(long, value_name = "SECONDS|now", value_parser = parse_issued)]
        issued_before: Option<Moment>,
        /// When it ends: a second since 1970, or a time from now like 7d
        #[arg(long, value_name = "SECONDS|TIME", value_parser = parse_until)]
        until: Option<Moment>,
    },
    /// What is revoked
    Revocations,
    /// Take a revocation back
    Lift {
        #[command(flatten)]
        named: Named,
    },
    /// Read the configuration again, as SIGHUP does
    Reload,
    /// Stop in order, as SIGTERM does
    Drain,
    /// What is logged, or have the server log that until a reload
    LogLevel {
        #[arg(value_name = "FILTER")]
        filter: Option<String>,
    },
    /// `banter program load`.
    #[command(skip)]
    LoadProgram { program: String },
    /// `banter program top`.
    #[command(skip)]
    DearestRooms,
}

/// Whom a revocation names.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct Named {
    /// Every token of a user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Every token of a login session (sid)
    #[arg(long, value_name = "SID")]
    session: Option<String>,
    /// One token (its jti, not the token itself)
    #[arg(long, value_name = "JTI")]
    token: Option<String>,
    /// Who comes from an address or a range, like 203.0.113.0/24
    #[arg(long, value_name = "CIDR")]
    address: Option<String>,
}

/// A moment, as the line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Seconds since 1970.
    At(u64),
    /// Seconds from now.
    In(u64),
}

impl Moment {
    fn unix_seconds(self) -> u64 {
        match self {
            Moment::At(seconds) => seconds,
            Moment::In(seconds) => (wall_clock::unix_ms() / 1_000).saturating_add(seconds),
        }
    }
}

/// Why it is not done, and how to mend that.
#[derive(Debug, thiserror::Error)]
enum CtlFault {
    #[error(transparent)]
    Config(#[from] ConfigFault),
    #[error(
        "which server? Say --config FILE with its configuration, or --socket PATH; there is no {CONFIG_HERE} in this folder"
    )]
    NoPlace,
    #[error(
        "{file} names no socket: say socket = \"/run/banter/admin.sock\" in [admin] there, and start the server anew", file = .0.display()
    )]
    NoSocket(PathBuf),
    #[error(
        "there is no socket at {path}: is the server running, and was it started with this path as socket in [admin]?{hint}",
        path = .path.display()
    )]
    Missing { path: PathBuf, hint: &'static str },
    #[error(
        "you may not open {path}: it is for the user alone that the server runs as. Try it as that user, like sudo -u banter banter ctl …",
        path = .0.display()
    )]
    Denied(PathBuf),
    #[error("nobody listens at {path}: the server that made it has ended. Start it, or name the socket of another", path = .0.display())]
    Deaf(PathBuf),
    #[error("cannot speak to the server at {path}: {error}", path = .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("what listens at {path} does not answer as a server does: {why}", path = .path.display())]
    NoAnswer { path: PathBuf, why: String },
    #[error("this server has no {0}: it is of another version than this program")]
    Unknown(String),
    #[error("{code}: {message}")]
    Refused { code: String, message: String },
    #[error("cannot write what the server says: {0}")]
    Stdout(io::Error),
}

impl CtlFault {
    fn exit_code(&self) -> u8 {
        match self {
            CtlFault::Config(_) | CtlFault::NoPlace | CtlFault::NoSocket(_) => EXIT_CONFIG,
            CtlFault::Denied(_) => EXIT_DENIED,
            CtlFault::Refused { .. } | CtlFault::Unknown(_) | CtlFault::Stdout(_) => EXIT_REFUSED,
            CtlFault::Missing { .. } | CtlFault::Deaf(_) | CtlFault::Io { .. } | CtlFault::NoAnswer { .. } => {
                EXIT_UNAVAILABLE
            }
        }
    }
}

/// Does it, and says on stdout what came of it.
pub fn run(line: &CtlLine) -> ExitCode {
    match done(line) {
        Ok(()) => ExitCode::SUCCESS,
        // Who has closed the pipe has read enough.
        Err(CtlFault::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}

/// Has a running server read a program again, and says on stdout what came of it.
pub fn load_program(whom: &Whom, program: &str) -> ExitCode {
    run(&CtlLine { whom: whom.clone(), task: CtlTask::LoadProgram { program: program.to_owned() } })
}

/// Says on stdout in which rooms of a running server programs take the most.
pub fn dearest_rooms(whom: &Whom) -> ExitCode {
    run(&CtlLine { whom: whom.clone(), task: CtlTask::DearestRooms })
}

fn done(line: &CtlLine) -> Result<(), CtlFault> {
    let client = Client::new(socket_path(&line.whom)?)?;
    if let CtlTask::Rooms { .. } | CtlTask::Members { .. } | CtlTask::Revocations | CtlTask::DearestRooms = line.task {
        return list(line, &client);
    }
    let answer = client.ask(&request(&line.task))?;
    let text = if line.whom.json { format!("{answer}\n") } else { shown::answer(&line.task, &answer) };
    say(&text)
}

/// A list comes in parts, and is said as they come.
fn list(line: &CtlLine, client: &Client) -> Result<(), CtlFault> {
    let (mut next, mut is_first) = (None, true);
    let mut is_empty = true;
    loop {
        let answer = client.ask(&list_request(&line.task, next.as_ref()))?;
        let entries = entries(&line.task, &answer);
        is_empty &= entries.is_empty();
        let text = match line.whom.json {
            true => entries.iter().map(|entry| format!("{entry}\n")).collect(),
            false => shown::list(&line.task, entries, is_first),
        };
        say(&text)?;
        match answer.get("next") {
            Some(more) if !more.is_null() && Some(more) != next.as_ref() => next = Some(more.clone()),
            _ => break,
        }
        is_first = false;
    }
    if is_empty && !line.whom.json {
        // Not on stdout, where a program would take it for an entry.
        eprintln!("banter: {}", shown::nothing(&line.task));
    }
    Ok(())
}

fn say(text: &str) -> Result<(), CtlFault> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CtlFault::Stdout)
}

/// Where the server listens.
fn socket_path(whom: &Whom) -> Result<PathBuf, CtlFault> {
    if let Some(socket) = &whom.socket {
        return Ok(socket.clone());
    }
    let file = match &whom.config {
        Some(file) => file.as_path(),
        None if Path::new(CONFIG_HERE).exists() => Path::new(CONFIG_HERE),
        None => return Err(CtlFault::NoPlace),
    };
    let admin = Settings::read(file)?.admin;
    admin.and_then(|admin| admin.value.socket).ok_or_else(|| CtlFault::NoSocket(file.to_owned()))
}

fn request(task: &CtlTask) -> Request {
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    match task {
        CtlTask::Status => Request::new(get, "/v1/status"),
        CtlTask::Room { room } => Request::new(get, format!("/v1/rooms/{}", segment(room.as_str()))),
        CtlTask::User { user } => Request::new(get, format!("/v1/users/{}", segment(user.as_str()))),
        CtlTask::Kick { room, user } => {
            let (room, user) = (segment(room.as_str()), segment(user.as_str()));
            Request::new(delete, format!("/v1/rooms/{room}/members/{user}"))
        }
        CtlTask::Disconnect { user } => Request::new(post, format!("/v1/users/{}/disconnect", segment(user.as_str()))),
        CtlTask::Revoke { named, issued_before, until } => {
            let mut body: Map<String, Value> =
                named.said().map(|(key, value)| (key.to_owned(), value.into())).collect();
            let moments = [("issued_before", issued_before), ("until", until)];
            body.extend(
                moments
                    .into_iter()
                    .filter_map(|(key, moment)| Some((key.to_owned(), moment.as_ref()?.unix_seconds().into()))),
            );
            Request::new(post, "/v1/revocations").with(&body.into())
        }
        CtlTask::Lift { named } => {
            let query: Vec<String> = named.said().map(|(key, value)| format!("{key}={}", segment(value))).collect();
            Request::new(delete, format!("/v1/revocations?{}", query.join("&")))
        }
        CtlTask::Reload => Request::new(post, "/v1/reload"),
        CtlTask::Drain => Request::new(post, "/v1/drain"),
        CtlTask::LogLevel { filter: None } => Request::new(get, "/v1/log-level"),
        CtlTask::LogLevel { filter: Some(filter) } => {
            Request::new(post, "/v1/log-level").with(&json!({ "filter": filter }))
        }
        CtlTask::LoadProgram { program } => Request::new(post, format!("/v1/programs/{}/load", segment(program))),
        list => list_request(list, None),
    }
}

/// One part of a list: the first, or that behind `next`.
fn list_request(task: &CtlTask, next: Option<&Value>) -> Request {
    let next = |key: &str| match next {
        Some(Value::String(text)) => format!("&{key}={}", segment(text)),
        Some(next) => format!("&{key}={next}"),
        None => String::new(),
    };
    match task {
        CtlTask::Rooms { prefix } => {
            Request::new(Method::GET, format!("/v1/rooms?{PAGE}&prefix={}{}", segment(prefix), next("cursor")))
        }
        CtlTask::Members { room } => {
            let room = segment(room.as_str());
            Request::new(Method::GET, format!("/v1/rooms/{room}/members?{PAGE}{}", next("after")))
        }
        CtlTask::DearestRooms => Request::new(Method::GET, "/v1/programs/top"),
        _ => Request::new(Method::GET, format!("/v1/revocations?{}", next("cursor").trim_start_matches('&'))),
    }
}

/// The entries of one part of a list.
fn entries<'a>(task: &CtlTask, answer: &'a Value) -> &'a [Value] {
    let key = match task {
        CtlTask::Rooms { .. } | CtlTask::DearestRooms => "rooms",
        CtlTask::Members { .. } => "users",
        _ => "revocations",
    };
    answer.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

impl Named {
    fn said(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all =
            [("user", &self.user), ("session", &self.session), ("token", &self.token), ("address", &self.address)];
        all.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

fn parse_room(text: &str) -> Result<RoomName, String> {
    RoomName::new(text).map_err(|fault| format!("no room can have this name: {fault}"))
}

fn parse_user(text: &str) -> Result<UserName, String> {
    UserName::new(text).map_err(|fault| format!("no user can have this name: {fault}"))
}

fn parse_issued(text: &str) -> Result<Moment, String> {
    if text == "now" {
        return Ok(Moment::In(0));
    }
    text.parse().map(Moment::At).map_err(|_| "it must be a second since 1970, or now".to_owned())
}

fn parse_until(text: &str) -> Result<Moment, String> {
    let must = |_| "it must be a second since 1970, or a number and a unit: 90s, 15m, 1h or 7d".to_owned();
    text.parse().map(Moment::At).or_else(|_| parse_seconds(text).map(Moment::In)).map_err(must)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        line: CtlLine,
    }

    fn line(args: &[&str]) -> CtlLine {
        Line::try_parse_from([&["ctl"], args].concat()).unwrap_or_else(|fault| panic!("{fault}")).line
    }

    fn asked(args: &[&str]) -> String {
        let Request { method, path, body } = request(&line(args).task);
        format!("{method} {path} {}", body.unwrap_or_default()).trim_end().to_owned()
    }

    #[test]
    fn each_task_is_one_request_and_names_are_one_piece_of_its_path() {
        for (args, request) in [
            (&["status"][..], "GET /v1/status"),
            (&["rooms", "a&b="], "GET /v1/rooms?limit=1000&prefix=a%26b%3D"),
            (&["room", "a/b?c"], "GET /v1/rooms/a%2Fb%3Fc"),
            (&["room", ".."], "GET /v1/rooms/%2E%2E"),
            (&["kick", "grüße", "a b"], "DELETE /v1/rooms/gr%C3%BC%C3%9Fe/members/a%20b"),
            (&["user", "ann"], "GET /v1/users/ann"),
            (&["disconnect", "ann"], "POST /v1/users/ann/disconnect"),
            (&["revoke", "--user", "a\"b", "--until", "9"], r#"POST /v1/revocations {"until":9,"user":"a\"b"}"#),
            (&["lift", "--address", "203.0.113.0/24"], "DELETE /v1/revocations?address=203%2E0%2E113%2E0%2F24"),
            (&["reload"], "POST /v1/reload"),
            (&["drain"], "POST /v1/drain"),
            (&["log-level"], "GET /v1/log-level"),
            (&["log-level", "info,a=debug"], r#"POST /v1/log-level {"filter":"info,a=debug"}"#),
        ] {
            assert_eq!(asked(args), request);
        }
    }

    #[test]
    fn a_list_goes_on_behind_what_the_server_said() {
        let path = |args: &[&str], next| list_request(&line(args).task, Some(&next)).path;
        assert_eq!(path(&["rooms"], json!(7)), "/v1/rooms?limit=1000&prefix=&cursor=7");
        assert_eq!(path(&["members", "lobby"], json!("a&b")), "/v1/rooms/lobby/members?limit=1000&after=a%26b");
        assert_eq!(path(&["revocations"], json!(1_000)), "/v1/revocations?cursor=1000");
        assert_eq!(request(&line(&["revocations"]).task).path, "/v1/revocations?");
    }

    #[test]
    fn what_is_asked_of_programs_is_one_request_each_and_no_word_of_this_command() {
        let load = CtlTask::LoadProgram { program: "a/../b".to_owned() };
        let asked = [load, CtlTask::DearestRooms].map(|task| request(&task)).map(|asked| (asked.method, asked.path));
        let path = "/v1/programs/a%2F%2E%2E%2Fb/load".to_owned();
        assert_eq!(asked, [(Method::POST, path), (Method::GET, "/v1/programs/top".to_owned())]);
        assert!(Line::try_parse_from(["ctl", "load-program", "a"]).is_err());
    }

    #[test]
    fn moments_are_seconds_since_1970_or_times_from_now() {
        assert_eq!(
            (parse_until("1700000000"), parse_until("7d")),
            (Ok(Moment::At(1_700_000_000)), Ok(Moment::In(604_800)))
        );
        assert_eq!((parse_issued("now"), parse_issued("5")), (Ok(Moment::In(0)), Ok(Moment::At(5))));
        assert!(parse_until("tomorrow").is_err() && parse_issued("1h").is_err());
        let now = wall_clock::unix_ms() / 1_000;
        assert!((now + 60..now + 70).contains(&Moment::In(60).unix_seconds()));
    }

    #[test]
    fn the_socket_is_the_one_that_is_named_or_the_configurations() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("banter.toml");
        let file = file.to_str().unwrap();
        assert_eq!(socket_path(&line(&["--socket", "s", "status"]).whom).unwrap(), Path::new("s"));
        std::fs::write(file, "[admin]\nsocket = '/run/a.sock'").unwrap();
        assert_eq!(socket_path(&line(&["status", "--config", file]).whom).unwrap(), Path::new("/run/a.sock"));
        for (text, says) in [("", "names no socket"), ("[admin]\nsockt = 'a'", "did you mean \"socket\"?")] {
            std::fs::write(file, text).unwrap();
            let fault = socket_path(&line(&["status", "--config", file]).whom).unwrap_err();
            assert!(fault.to_string().contains(says) && fault.exit_code() == EXIT_CONFIG, "{fault}");
        }
    }
}
