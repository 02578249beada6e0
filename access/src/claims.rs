//! The claims of a token, read strictly, and only behind its signature.
//!
//! A claim that is absent is one thing, and a claim that is there in a wrong form another: the latter is always an
//! error. (CVE-2026-25537: an `exp` of a wrong type counted as absent, and the token never ended.)
//!
//! | claim | form |
//! |---|---|
//! | [`Rules::user_claim`] (`sub`) | string, a user's name, never beginning with `~` |
//! | `exp`, `iat` | required; integers of seconds since 1970, before the year 10,000 |
//! | `nbf` | such an integer |
//! | `iss` | string |
//! | `aud` | string, or array of strings |
//! | `jti`, `sid` | string of 1 to 255 bytes without control characters |
//! | [`Rules::rooms_claim`] (`banter.rooms`) | object of at most 64 patterns, each with a right's name or a list of them |
//! | `banter.posts_per_second` | integer from 1 to 65,535 |
//!
//! Names and meanings of the registered ones: RFC 7519, 4.1; `sid`: OpenID Connect Front-Channel Logout 1.0, 3.
//! Other claims are not looked at, except that no name may stand twice.

use std::fmt;
use std::str::FromStr;

use banter_protocol::ids::UserName;

use crate::guest::{PROGRAM_PREFIX, is_guest};
use crate::json::{self, Json, Object};
use crate::pattern::{Pattern, PatternFault};
use crate::rights::{Rights, UnknownRight};
use crate::token::{Refusal, Rules};

/// Most patterns in a token.
pub const ROOMS_MAX: usize = 64;
/// Longest `jti` and `sid`, in bytes of UTF-8.
pub const ID_BYTES_MAX: usize = 255;
/// Latest time that a claim may name, in seconds since 1970: the end of the year 9999. Milliseconds are beyond it.
pub const TIME_SECONDS_MAX: u64 = 253_402_300_799;
/// Longest claim path, in bytes.
pub const CLAIM_PATH_BYTES_MAX: usize = 256;
/// Most names in a claim path.
pub const CLAIM_PATH_NAMES_MAX: usize = 8;

/// Where a claim stands: names, from the outermost object to the innermost.
///
/// Its text has dots between the names: `banter.rooms` is the claim `rooms` in the claim `banter`. Two things say that
/// a dot belongs to a name. `\.` is a dot, and `\\` a backslash. And if the text begins with `http://` or `https://`,
/// as claims with a namespace do, then every dot before its last `/` does: `https://example.com/claims.uid` is the claim
/// `uid` in the claim `https://example.com/claims`. (So a claim whose name ends in a dotted part behind the last `/`
/// is written with `\.`: `https://example.com/v1\.2`.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPath {
    text: Box<str>,
    names: Box<[Box<str>]>,
}

/// Why a claim path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimPathFault {
    /// A name without a character, or no name at all.
    #[error("a name in it is empty: names stand with one dot between them, and \\. is a dot in a name")]
    EmptyName,
    /// More than 256 bytes, or more than 8 names.
    #[error("it is longer than 256 bytes or 8 names")]
    TooLong,
    /// A backslash before something else than a dot or a backslash.
    #[error("a backslash stands only before a dot or a backslash")]
    Backslash,
}

impl FromStr for ClaimPath {
    type Err = ClaimPathFault;

    fn from_str(text: &str) -> Result<Self, ClaimPathFault> {
        if text.len() > CLAIM_PATH_BYTES_MAX {
            return Err(ClaimPathFault::TooLong);
        }
        let is_url = text.starts_with("https://") || text.starts_with("http://");
        let split_from = if is_url { text.rfind('/').unwrap_or(0) } else { 0 };
        let (mut names, mut name) = (Vec::new(), String::new());
        let mut characters = text.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, escaped @ ('.' | '\\'))) => name.push(escaped),
                    _ => return Err(ClaimPathFault::Backslash),
                },
                '.' if at >= split_from => names.push(std::mem::take(&mut name).into_boxed_str()),
                _ => name.push(character),
            }
        }
        names.push(name.into());
        if names.iter().any(|name| name.is_empty()) {
            return Err(ClaimPathFault::EmptyName);
        }
        if names.len() > CLAIM_PATH_NAMES_MAX {
            return Err(ClaimPathFault::TooLong);
        }
        Ok(ClaimPath { text: text.into(), names: names.into() })
    }
}

impl ClaimPath {
    /// `sub`: where the user's name stands if nothing else is said (RFC 7519, 4.1.2).
    pub fn subject() -> Self {
        Self::of(&["sub"])
    }

    /// `banter.rooms`: where patterns and rights stand if nothing else is said.
    pub fn rooms() -> Self {
        Self::of(&["banter", "rooms"])
    }

    /// `banter.posts_per_second`.
    pub(crate) fn posts_per_second() -> Self {
        Self::of(&["banter", "posts_per_second"])
    }

    fn of(names: &[&str]) -> Self {
        ClaimPath { text: names.join(".").into(), names: names.iter().map(|&name| name.into()).collect() }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its names, the outermost first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    fn find<'a>(&self, claims: &'a Object) -> Result<Option<&'a Json>, ClaimFault> {
        find(self.names(), claims)
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// What stands at the end of the names; none if one of them is absent.
fn find<'a, 'n>(names: impl Iterator<Item = &'n str>, claims: &'a Object) -> Result<Option<&'a Json>, ClaimFault> {
    let (mut object, mut found) = (Some(claims), None);
    for name in names {
        let Some(value) = object.ok_or(ClaimFault::NotObject)?.get(name) else { return Ok(None) };
        found = Some(value);
        object = match value {
            Json::Object(inner) => Some(inner),
            _ => None,
        };
    }
    Ok(found)
}

/// Which claim is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClaimName {
    /// The user's.
    User,
    /// `exp`.
    Expires,
    /// `iat`.
    Issued,
    /// `nbf`.
    NotBefore,
    /// `iss`.
    Issuer,
    /// `aud`.
    Audience,
    /// `jti`.
    TokenId,
    /// `sid`.
    Session,
    /// Patterns and rights.
    Rooms,
    /// `banter.posts_per_second`.
    PostsPerSecond,
}

impl fmt::Display for ClaimName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ClaimName::User => "the claim with the user's name (user_claim)",
            ClaimName::Expires => "exp",
            ClaimName::Issued => "iat",
            ClaimName::NotBefore => "nbf",
            ClaimName::Issuer => "iss",
            ClaimName::Audience => "aud",
            ClaimName::TokenId => "jti",
            ClaimName::Session => "sid",
            ClaimName::Rooms => "the claim with rooms and rights (rooms_claim)",
            ClaimName::PostsPerSecond => "banter.posts_per_second",
        })
    }
}

/// What is wrong with a claim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimFault {
    /// It is required and not there.
    #[error("is missing")]
    Missing,
    /// On the way to it stands something that is no object.
    #[error("stands in something that is no object")]
    NotObject,
    /// No string.
    #[error("must be a string")]
    NotText,
    /// No string and no array of strings.
    #[error("must be a string or an array of strings")]
    NotTexts,
    /// No whole number of seconds since 1970: a float, a string, a negative number.
    #[error("must be a whole number of seconds since 1970, without quotes, point or exponent")]
    NotSeconds,
    /// Beyond the year 9999, as milliseconds are.
    #[error("is beyond the year 9999: it must be seconds since 1970, not milliseconds")]
    BeyondTime,
    /// No whole number from 1 to 65,535.
    #[error("must be a whole number from 1 to 65535")]
    NotRate,
    /// It breaks the rules of users' names.
    #[error("must be a user's name of 1 to 64 bytes without control characters")]
    UserName,
    /// It begins as guests' names do.
    #[error("must not begin with ~, as only guests' names do")]
    GuestName,
    /// It begins as the names of rooms' programs do.
    #[error("must not begin with @, as only programs' names do")]
    ProgramName,
    /// It breaks the rules of ids.
    #[error("must be 1 to 255 bytes without control characters")]
    Id,
    /// No object of patterns and rights.
    #[error("must be an object of room patterns, each with a right's name or a list of rights' names")]
    NotRooms,
    /// More than 64 patterns.
    #[error("has more than 64 patterns: give the rest in tokens for rooms")]
    TooManyRooms,
    /// A pattern that breaks the rules.
    #[error("has the pattern {pattern:?}: {fault}")]
    Pattern {
        /// Its first 128 characters.
        pattern: Box<str>,
        /// The rule.
        fault: PatternFault,
    },
    /// A right that is none.
    #[error("has a right that is none: {0}")]
    Right(#[from] UnknownRight),
}

/// What a token claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who it is.
    pub user: UserName,
    /// `exp`, in seconds since 1970.
    pub expires_seconds: u64,
    /// `iat`, in seconds since 1970.
    pub issued_seconds: u64,
    /// `nbf`, in seconds since 1970.
    pub not_before_seconds: Option<u64>,
    /// `iss`.
    pub issuer: Option<Box<str>>,
    /// `aud`, a string as a list of one.
    pub audiences: Option<Vec<Box<str>>>,
    /// `jti`.
    pub token_id: Option<Box<str>>,
    /// `sid`.
    pub session: Option<Box<str>>,
    /// Patterns with their rights, none of them twice.
    pub rooms: Vec<(Pattern, Rights)>,
    /// `banter.posts_per_second`.
    pub posts_per_second: Option<u16>,
}

impl Claims {
    /// Reads them from the payload of a token whose signature was checked.
    ///
    /// # Errors
    /// [`Refusal::WrongForm`] if the payload is no JSON object without doubled names; [`Refusal::Claim`] with the first
    /// claim that is in a wrong form, or missing. It judges no times, issuer or audience.
    pub fn read(payload: &[u8], rules: &Rules) -> Result<Self, Refusal> {
        let claims = json::object(payload).ok_or(Refusal::WrongForm)?;
        let at = |name: &'static str| claims.get(name);
        let user = rules.user_claim.find(&claims).and_then(|value| user(value.ok_or(ClaimFault::Missing)?));
        let rooms = rules.rooms_claim.find(&claims).and_then(|value| value.map_or(Ok(Vec::new()), rooms));
        let rate = ClaimPath::posts_per_second().find(&claims).and_then(|value| maybe(value, rate));
        Ok(Claims {
            user: user.map_err(of(ClaimName::User))?,
            expires_seconds: required(at("exp"), seconds).map_err(of(ClaimName::Expires))?,
            issued_seconds: required(at("iat"), seconds).map_err(of(ClaimName::Issued))?,
            not_before_seconds: maybe(at("nbf"), seconds).map_err(of(ClaimName::NotBefore))?,
            issuer: maybe(at("iss"), text).map_err(of(ClaimName::Issuer))?,
            audiences: maybe(at("aud"), texts).map_err(of(ClaimName::Audience))?,
            token_id: maybe(at("jti"), id).map_err(of(ClaimName::TokenId))?,
            session: maybe(at("sid"), id).map_err(of(ClaimName::Session))?,
            rooms: rooms.map_err(of(ClaimName::Rooms))?,
            posts_per_second: rate.map_err(of(ClaimName::PostsPerSecond))?,
        })
    }
}

fn of(claim: ClaimName) -> impl FnOnce(ClaimFault) -> Refusal {
    move |fault| Refusal::Claim { claim, fault }
}

type Read<T> = fn(&Json) -> Result<T, ClaimFault>;

fn required<T>(value: Option<&Json>, read: Read<T>) -> Result<T, ClaimFault> {
    read(value.ok_or(ClaimFault::Missing)?)
}

fn maybe<T>(value: Option<&Json>, read: Read<T>) -> Result<Option<T>, ClaimFault> {
    value.map(read).transpose()
}

fn seconds(value: &Json) -> Result<u64, ClaimFault> {
    match value {
        Json::Unsigned(seconds) if *seconds <= TIME_SECONDS_MAX => Ok(*seconds),
        Json::Unsigned(_) => Err(ClaimFault::BeyondTime),
        _ => Err(ClaimFault::NotSeconds),
    }
}

fn rate(value: &Json) -> Result<u16, ClaimFault> {
    match value {
        Json::Unsigned(rate) => u16::try_from(*rate).ok().filter(|&rate| rate > 0).ok_or(ClaimFault::NotRate),
        _ => Err(ClaimFault::NotRate),
    }
}

fn text(value: &Json) -> Result<Box<str>, ClaimFault> {
    value.text().map(Box::from).ok_or(ClaimFault::NotText)
}

fn texts(value: &Json) -> Result<Vec<Box<str>>, ClaimFault> {
    match value {
        Json::Text(one) => Ok(vec![one.as_str().into()]),
        Json::List(many) => many.iter().map(|one| text(one).map_err(|_| ClaimFault::NotTexts)).collect(),
        _ => Err(ClaimFault::NotTexts),
    }
}

fn user(value: &Json) -> Result<UserName, ClaimFault> {
    let name = value.text().ok_or(ClaimFault::NotText)?;
    if is_guest(name) {
        return Err(ClaimFault::GuestName);
    }
    if name.starts_with(PROGRAM_PREFIX) {
        return Err(ClaimFault::ProgramName);
    }
    UserName::new(name).map_err(|_| ClaimFault::UserName)
}

fn id(value: &Json) -> Result<Box<str>, ClaimFault> {
    let id = value.text().ok_or(ClaimFault::NotText)?;
    if is_id(id) { Ok(id.into()) } else { Err(ClaimFault::Id) }
}

/// Whether it keeps the rules of `jti` and `sid`.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control)
}

fn rooms(value: &Json) -> Result<Vec<(Pattern, Rights)>, ClaimFault> {
    let Json::Object(rooms) = value else { return Err(ClaimFault::NotRooms) };
    if rooms.len() > ROOMS_MAX {
        return Err(ClaimFault::TooManyRooms);
    }
    rooms.iter().map(|(pattern, rights)| Ok((room_pattern(pattern)?, room_rights(rights)?))).collect()
}

fn room_pattern(text: &str) -> Result<Pattern, ClaimFault> {
    let told = || text.chars().take(128).collect();
    Pattern::new(text).map_err(|fault| ClaimFault::Pattern { pattern: told(), fault })
}

fn room_rights(value: &Json) -> Result<Rights, ClaimFault> {
    match value {
        Json::Text(name) => Ok(Rights::from_name(name)?),
        Json::List(names) => names.iter().try_fold(Rights::NONE, |rights, name| {
            Ok(rights | Rights::from_name(name.text().ok_or(ClaimFault::NotRooms)?)?)
        }),
        _ => Err(ClaimFault::NotRooms),
    }
}

#[cfg(test)]
mod tests;
