//! `banter token`: makes a token, and a link to the page with it; or looks at one (`inspect`).

mod inspect;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use banter_access::claims::{ClaimPath, ROOMS_MAX};
use banter_access::grants::idle_grants;
use banter_access::guest::is_guest;
use banter_access::mint::{ClaimsToMint, MintFault, SigningKey, mint};
use banter_access::pattern::{Pattern, PatternRef};
use banter_access::rights::Rights;
use banter_access::token::LIFETIME_SECONDS_MAX;
use banter_protocol::ids::UserName;
use clap::{Args, Subcommand};

use crate::config::LIFETIME_HOURS_LARGEST;
use crate::control::auth::{AuthFault, read_secret};
use crate::host::EXIT_CONFIG;
use crate::wall_clock;

/// The exit code of arguments that do not hold.
const EXIT_USAGE: u8 = 2;
/// Seconds that a token holds unless told otherwise: an hour.
const TTL_SECONDS: u64 = 3_600;

pub use inspect::InspectTask;

/// What to do with tokens: make one, if nothing else is said.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, disable_help_subcommand = true)]
pub struct TokenLine {
    #[command(subcommand)]
    tool: Option<TokenTool>,
    #[command(flatten)]
    task: Option<TokenTask>,
}

/// What to do with tokens besides making one.
#[derive(Clone, Debug, Subcommand)]
enum TokenTool {
    /// Says what a token claims, which key takes it, and why a server would refuse it
    #[command(
        after_help = "Exit code: 0 it would be taken, 1 it would be refused, 2 wrong arguments, 78 the configuration or a key \
                            cannot be had.\nNo server has to run, and whether a token was revoked is not known here."
    )]
    Inspect(InspectTask),
}

/// What the token is to say, and the key that signs it.
#[derive(Clone, Debug, Args)]
pub struct TokenTask {
    /// Who it is for
    #[arg(long, value_name = "NAME", value_parser = parse_user)]
    user: UserName,
    /// Rights in rooms: 'lobby=read,write', 'team-7-*=member', 'inbox-{user}=member'
    #[arg(long = "room", value_name = "PATTERN=RIGHTS", value_parser = parse_grant)]
    rooms: Vec<(Pattern, Rights)>,
    /// How long it holds: 90s, 15m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    ttl: u64,
    /// A file with a secret of at least 32 bytes: HS256
    #[arg(long, value_name = "FILE", required_unless_present = "key", conflicts_with = "key")]
    secret_file: Option<PathBuf>,
    /// A private key, PEM of PKCS #8: RS256, ES256 or EdDSA by its kind
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The key's name, where the server has several
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// iss, as [auth] says it
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// aud, as [auth] says it
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// Posts a second at most
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    posts_per_second: Option<u16>,
    /// Also print a link to the page of the server there, like http://127.0.0.1:7878
    #[arg(long, value_name = "URL")]
    page: Option<String>,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenFault {
    #[error("cannot read {path}: {error}", path = .path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Secret(#[from] AuthFault),
    #[error("no token: {0}")]
    Mint(#[from] MintFault),
    #[error("no token: --room names {0} patterns, and no server takes more than {ROOMS_MAX}")]
    Rooms(usize),
}

/// Does what the line says.
pub fn run(line: &TokenLine) -> ExitCode {
    match (&line.tool, &line.task) {
        (Some(TokenTool::Inspect(task)), _) => inspect::run(task),
        (None, Some(task)) => make(task),
        // The arguments say what is missing before it comes to this.
        (None, None) => ExitCode::from(EXIT_USAGE),
    }
}

/// Makes it, and says it on stdout.
fn make(task: &TokenTask) -> ExitCode {
    match made(task, wall_clock::unix_ms() / 1_000) {
        Ok(token) => {
            warnings(task).iter().for_each(|warning| eprintln!("banter: {warning}"));
            let link = task.page.as_deref().map(|page| link(page, &token));
            let mut out = io::stdout().lock();
            // Who has closed the pipe has read enough.
            let _ = writeln!(out, "{token}").and_then(|()| link.map_or(Ok(()), |link| writeln!(out, "{link}")));
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("banter: {fault}");
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

fn made(task: &TokenTask, now_seconds: u64) -> Result<String, TokenFault> {
    let key = match (&task.secret_file, &task.key) {
        (Some(path), _) => SigningKey::from_secret(&read_secret(path)?)?,
        (None, Some(path)) => {
            let text =
                std::fs::read_to_string(path).map_err(|error| TokenFault::Unreadable { path: path.clone(), error })?;
            SigningKey::from_pem(&text)?
        }
        (None, None) => return Err(MintFault::KeyForm.into()),
    };
    let key = match &task.kid {
        Some(kid) => key.with_kid(kid),
        None => key,
    };
    let rooms = united(&task.rooms);
    if rooms.len() > ROOMS_MAX {
        return Err(TokenFault::Rooms(rooms.len()));
    }
    let claims = ClaimsToMint {
        rooms,
        issuer: task.issuer.clone(),
        audience: task.audience.clone(),
        posts_per_second: task.posts_per_second,
        user_claim: ClaimPath::subject(),
        rooms_claim: ClaimPath::rooms(),
        ..ClaimsToMint::new(task.user.as_str(), now_seconds, now_seconds.saturating_add(task.ttl))
    };
    Ok(mint(&key, &claims)?)
}

/// Each pattern once, with all that is said of it.
fn united(grants: &[(Pattern, Rights)]) -> Vec<(Pattern, Rights)> {
    let mut rooms: Vec<(Pattern, Rights)> = Vec::new();
    for (pattern, rights) in grants {
        match rooms.iter_mut().find(|(other, _)| other == pattern) {
            Some((_, all)) => *all |= *rights,
            None => rooms.push((pattern.clone(), *rights)),
        }
    }
    rooms
}

/// What a server may refuse of the token, and what of it does nothing.
fn warnings(task: &TokenTask) -> Vec<String> {
    let long = (task.ttl > LIFETIME_SECONDS_MAX).then(|| {
        format!(
            "a server takes this token only with lifetime_hours_max = {} or more in [auth]: it holds for longer than the default of \
             {} hours",
            task.ttl.div_ceil(TTL_SECONDS),
            LIFETIME_SECONDS_MAX / TTL_SECONDS
        )
    });
    let rooms = united(&task.rooms);
    let grants: Vec<_> = rooms.iter().map(|(pattern, rights)| (pattern.borrow(), *rights)).collect();
    long.into_iter().chain(idle_warnings(&grants)).collect()
}

/// Grants that do nothing, for people.
fn idle_warnings(grants: &[(PatternRef<'_>, Rights)]) -> Vec<String> {
    let warning = |(pattern, idle): (PatternRef<'_>, Rights)| {
        format!(
            "'{}' has {idle} and not read, which is of no use to who may not join: add read, unless `users` of [[rooms]] gives it",
            pattern.as_str()
        )
    };
    idle_grants(grants).into_iter().map(warning).collect()
}

/// The page takes the token from behind the `#`, which no browser sends to a server.
fn link(page: &str, token: &str) -> String {
    format!("{}/#token={token}", page.trim_end_matches('/'))
}

fn parse_user(text: &str) -> Result<UserName, String> {
    if is_guest(text) {
        return Err("a name that begins with ~ is a guest's, and a server refuses a token that says it".to_owned());
    }
    UserName::new(text).map_err(|fault| format!("no user can have this name: {fault}"))
}

fn parse_grant(text: &str) -> Result<(Pattern, Rights), String> {
    let (pattern, rights) = text.rsplit_once('=').ok_or("it must be like 'lobby=read,write'")?;
    let pattern = Pattern::new(pattern).map_err(|fault| fault.to_string())?;
    let rights = Rights::parse(rights).map_err(|unknown| unknown.to_string())?;
    Ok((pattern, rights))
}

fn parse_ttl(text: &str) -> Result<u64, String> {
    let seconds = parse_seconds(text)?;
    if seconds > LIFETIME_HOURS_LARGEST * TTL_SECONDS {
        let days = LIFETIME_HOURS_LARGEST / 24;
        return Err(format!(
            "no server takes a token that holds for more than {days} days (lifetime_hours_max in [auth])"
        ));
    }
    Ok(seconds)
}

/// A time in seconds, as people write it.
pub(crate) fn parse_seconds(text: &str) -> Result<u64, String> {
    let must = "it must be a number and a unit: 90s, 15m, 1h or 7d";
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(must)?;
    let unit_seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => TTL_SECONDS,
        "d" => 24 * TTL_SECONDS,
        _ => return Err(must.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| must)?;
    number.checked_mul(unit_seconds).filter(|&seconds| seconds > 0).ok_or_else(|| must.to_owned())
}

#[cfg(test)]
mod tests {
    use banter_access::keys::Keys;
    use banter_access::token::{Rules, judge};
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        line: TokenLine,
    }

    fn task(line: &[&str]) -> Result<TokenTask, String> {
        let parsed = Line::try_parse_from([&["token"], line].concat());
        parsed.map(|line| line.line.task.expect("one is to be made")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_says_what_was_asked_and_the_server_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (folder.path().join("secret"), "0123456789abcdef0123456789abcdef");
        std::fs::write(&file, format!("{secret}\n")).unwrap();
        let file = file.to_str().unwrap();
        let line = ["--user", "ann", "--room", "lobby=read,write", "--room", "team-*=member", "--ttl", "15m"];
        let token = made(&task(&[&line[..], &["--secret-file", file]].concat()).unwrap(), 1_000).unwrap();
        let mut keys = Keys::new();
        keys.add_secret(secret.as_bytes(), None).unwrap();
        let proof = judge(&token, &keys, &Rules::default(), 1_000).unwrap();
        assert_eq!((proof.user().as_str(), proof.expires_seconds()), ("ann", 1_900));
        assert_eq!(proof.rights("lobby"), Rights::READ | Rights::WRITE);
        assert_eq!((proof.rights("team-7"), proof.rights("other")), (Rights::MEMBER, Rights::NONE));
        assert_eq!(link("http://127.0.0.1:7878/", "t"), "http://127.0.0.1:7878/#token=t");
    }

    #[test]
    fn what_cannot_be_said_names_what_it_must_be() {
        for (line, says) in [
            (&["--user", "ann"][..], "--secret-file <FILE>"),
            (&["--user", "", "--secret-file", "f"], "no user can have this name"),
            (&["--user", "a", "--secret-file", "f", "--key", "g"], "cannot be used with"),
            (&["--user", "a", "--secret-file", "f", "--room", "lobby"], "like 'lobby=read,write'"),
            (&["--user", "a", "--secret-file", "f", "--room", "lobby=admin"], "admin"),
            (&["--user", "a", "--secret-file", "f", "--room", "a*b=read"], "*"),
            (&["--user", "~a", "--secret-file", "f"], "is a guest's"),
            (&["--user", "a", "--secret-file", "f", "--ttl", "32d"], "more than 31 days"),
            (&["--user", "a", "--secret-file", "f", "--ttl", "1"], "90s, 15m, 1h or 7d"),
            (&["--user", "a", "--secret-file", "f", "--ttl", "0s"], "90s, 15m, 1h or 7d"),
            (&["--user", "a", "--secret-file", "f", "--ttl", "ü"], "90s, 15m, 1h or 7d"),
        ] {
            let fault = task(line).expect_err(&line.join(" "));
            assert!(fault.contains(says), "{line:?}: {fault}");
        }
    }

    #[test]
    fn what_a_server_may_refuse_and_what_does_nothing_is_told() {
        let told = |more: &[&str]| warnings(&task(&[&["--user", "a", "--secret-file", "f"], more].concat()).unwrap());
        let long = told(&["--ttl", "99h"]);
        assert!(long.len() == 1 && long[0].contains("lifetime_hours_max = 99 or more"), "{long:?}");
        let idle = told(&["--room", "lobby=write", "--room", "news=member"]);
        assert!(idle.len() == 1 && idle[0].starts_with("'lobby' has write and not read"), "{idle:?}");
        assert!(told(&["--ttl", "24h", "--room", "lobby=write", "--room", "lobby=read"]).is_empty());
    }

    #[test]
    fn a_room_that_is_named_twice_has_the_rights_of_both_and_no_token_has_more_rooms_than_a_server_takes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
        let rooms = |count: usize| (0..count).flat_map(|number| ["--room".to_owned(), format!("r{number}=read")]);
        let made = |count| {
            let line =
                ["--user", "a", "--secret-file", file.to_str().unwrap(), "--room", "r0=write"].map(str::to_owned);
            let line: Vec<String> = line.into_iter().chain(rooms(count)).collect();
            super::made(&task(&line.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), 1_000)
        };
        assert!(made(ROOMS_MAX + 1).unwrap_err().to_string().contains("names 65 patterns"));
        let mut keys = Keys::new();
        keys.add_secret(b"0123456789abcdef0123456789abcdef", None).unwrap();
        let proof = judge(&made(ROOMS_MAX).unwrap(), &keys, &Rules::default(), 1_000).unwrap();
        assert_eq!(proof.rights("r0"), Rights::READ | Rights::WRITE);
    }
}
