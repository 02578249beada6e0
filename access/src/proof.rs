//! What a connection keeps of a token that was judged: who it is, until when, and what it may do, in few bytes.

use std::fmt;

use banter_protocol::ids::UserName;

use crate::claims::Claims;
use crate::pattern::PatternRef;
use crate::rights::Rights;

/// Rights and a length before each pattern in the packed part.
const GRANT_HEAD_BYTES: usize = 3;

/// A judged token: 56 bytes here, the user's name, and one piece of memory with the session, the token's id and the
/// patterns. At most [`TOKEN_BYTES_MAX`](crate::token::TOKEN_BYTES_MAX) and a little, whatever the token says.
///
/// With a user of 3 bytes, ids of 22 bytes each and 3 patterns it is 192 bytes in all, as the allocator gives them; with
/// UUIDs of 36 bytes for all three 256, of which 64 are the user's name, which the session has anyway
/// (`cargo test -p banter-access --lib an_ordinary -- --nocapture`).
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    user: UserName,
    /// The session's text, the token's id, then for each pattern its rights (2 bytes), its length, its text.
    packed: Box<[u8]>,
    expires_seconds: u64,
    issued_seconds: u64,
    posts_per_second: u16,
    session_bytes: u8,
    token_id_bytes: u8,
}

const _: () = assert!(size_of::<Proof>() <= 56, "kept by every connection that is proved");

impl Proof {
    /// Of claims that were judged. None if a text is longer than its claim allows.
    pub(crate) fn new(claims: Claims) -> Option<Self> {
        let session = claims.session.as_deref().unwrap_or_default();
        let token_id = claims.token_id.as_deref().unwrap_or_default();
        let grants_bytes: usize = claims.rooms.iter().map(|(room, _)| GRANT_HEAD_BYTES + room.as_str().len()).sum();
        let mut packed = Vec::with_capacity(session.len() + token_id.len() + grants_bytes);
        packed.extend_from_slice(session.as_bytes());
        packed.extend_from_slice(token_id.as_bytes());
        for (pattern, rights) in &claims.rooms {
            packed.extend_from_slice(&rights.bits().to_le_bytes());
            packed.push(pattern.as_str().len().try_into().ok()?);
            packed.extend_from_slice(pattern.as_str().as_bytes());
        }
        Some(Proof {
            session_bytes: session.len().try_into().ok()?,
            token_id_bytes: token_id.len().try_into().ok()?,
            packed: packed.into(),
            user: claims.user,
            expires_seconds: claims.expires_seconds,
            issued_seconds: claims.issued_seconds,
            posts_per_second: claims.posts_per_second.unwrap_or(0),
        })
    }

    /// Who it is.
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// `exp`: the second since 1970 at which it ends, without leeway.
    pub fn expires_seconds(&self) -> u64 {
        self.expires_seconds
    }

    /// `iat`: the second since 1970 at which it was made.
    pub fn issued_seconds(&self) -> u64 {
        self.issued_seconds
    }

    /// `sid`: the login session that it belongs to, at most 255 bytes.
    pub fn session(&self) -> Option<&str> {
        self.text(0, self.session_bytes)
    }

    /// `jti`: the token's own id, at most 255 bytes.
    pub fn token_id(&self) -> Option<&str> {
        self.text(self.session_bytes.into(), self.token_id_bytes)
    }

    /// `banter.posts_per_second`: what the token allows, 1 to 65,535.
    pub fn posts_per_second(&self) -> Option<u16> {
        (self.posts_per_second > 0).then_some(self.posts_per_second)
    }

    /// Whether it has ended: at `exp` and the leeway, in seconds (RFC 7519, 4.1.4).
    pub fn is_expired(&self, now_seconds: u64, leeway_seconds: u64) -> bool {
        now_seconds >= self.expires_seconds.saturating_add(leeway_seconds)
    }

    /// What it gives in the room: the rights of every pattern that names it, united.
    pub fn rights(&self, room: &str) -> Rights {
        let named = self.grants().filter(|(pattern, _)| pattern.matches(room, self.user.as_str()));
        named.fold(Rights::NONE, |rights, (_, more)| rights | more)
    }

    /// The patterns, each with its rights; at most 64.
    pub fn grants(&self) -> impl Iterator<Item = (PatternRef<'_>, Rights)> {
        let behind_texts = usize::from(self.session_bytes) + usize::from(self.token_id_bytes);
        let mut rest = self.packed.get(behind_texts..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (&[low, high, bytes], behind) = rest.split_first_chunk::<GRANT_HEAD_BYTES>()?;
            let (pattern, behind) = behind.split_at_checked(bytes.into())?;
            rest = behind;
            let pattern = std::str::from_utf8(pattern).ok()?;
            Some((PatternRef::kept(pattern), Rights::from_bits(u16::from_le_bytes([low, high]))))
        })
    }

    /// Bytes that it takes beyond itself, without what the allocator adds: the packed part, and the user's name with
    /// the two counts before it, which a session that keeps the name shares.
    pub fn boxed_bytes(&self) -> usize {
        self.packed.len() + 2 * size_of::<usize>() + self.user.as_str().len()
    }

    fn text(&self, start: usize, bytes: u8) -> Option<&str> {
        let text = self.packed.get(start..start + usize::from(bytes))?;
        if text.is_empty() { None } else { std::str::from_utf8(text).ok() }
    }
}

/// Without the texts that revocations name, so that it can stand in a log.
impl fmt::Debug for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Proof")
            .field("user", &self.user)
            .field("issued_seconds", &self.issued_seconds)
            .field("expires_seconds", &self.expires_seconds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pattern::Pattern;

    pub(crate) fn claims(user: &str, grants: &[(&str, Rights)]) -> Claims {
        let rooms = grants.iter().map(|&(pattern, rights)| (Pattern::new(pattern).unwrap(), rights)).collect();
        Claims {
            user: UserName::new(user).unwrap(),
            expires_seconds: 2_000,
            issued_seconds: 1_000,
            not_before_seconds: None,
            issuer: None,
            audiences: None,
            token_id: None,
            session: None,
            rooms,
            posts_per_second: None,
        }
    }

    pub(crate) fn proof(user: &str, grants: &[(&str, Rights)]) -> Proof {
        Proof::new(claims(user, grants)).unwrap()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let mut given = claims("ann", &[("lobby", Rights::READ), ("team-*", Rights::MODERATOR), ("*", Rights::NONE)]);
        given.session = Some("s-1".into());
        given.token_id = Some("t-22".into());
        given.posts_per_second = Some(u16::MAX);
        let proof = Proof::new(given.clone()).unwrap();
        assert_eq!((proof.session(), proof.token_id()), (Some("s-1"), Some("t-22")));
        assert_eq!((proof.issued_seconds(), proof.expires_seconds()), (1_000, 2_000));
        assert_eq!(proof.posts_per_second(), Some(u16::MAX));
        let grants: Vec<_> = proof.grants().map(|(pattern, rights)| (pattern.as_str().to_owned(), rights)).collect();
        let wanted: Vec<_> =
            given.rooms.iter().map(|(pattern, rights)| (pattern.as_str().to_owned(), *rights)).collect();
        assert_eq!(grants, wanted);
        assert_eq!(format!("{proof:?}"), "Proof { user: \"ann\", issued_seconds: 1000, expires_seconds: 2000, .. }");
    }

    #[test]
    fn what_was_not_said_is_none() {
        let proof = proof("ann", &[]);
        assert_eq!((proof.session(), proof.token_id(), proof.posts_per_second()), (None, None, None));
        assert_eq!((proof.grants().count(), proof.rights("lobby")), (0, Rights::NONE));
    }

    #[test]
    fn rights_of_all_patterns_that_name_the_room_are_united() {
        let proof = proof("ann", &[("*", Rights::READ), ("team-*", Rights::WRITE), ("team-7", Rights::SIGNAL)]);
        assert_eq!(proof.rights("team-7"), Rights::READ | Rights::WRITE | Rights::SIGNAL);
        assert_eq!(proof.rights("team-8"), Rights::READ | Rights::WRITE);
        assert_eq!(proof.rights("lobby"), Rights::READ);
    }

    #[test]
    fn it_has_ended_at_its_end_and_the_leeway() {
        let proof = proof("ann", &[]);
        assert!(!proof.is_expired(2_004, 5) && proof.is_expired(2_005, 5) && proof.is_expired(2_000, 0));
        assert!(proof.is_expired(u64::MAX, u64::MAX) || proof.expires_seconds() < u64::MAX);
    }

    #[test]
    fn an_ordinary_token_is_kept_in_200_bytes() {
        // As malloc gives them: 8 bytes before each piece, all in steps of 16.
        let allocated = |bytes: usize| (bytes + 8).next_multiple_of(16).max(32);
        let measure = |user: &str, id: &str| {
            let mut given =
                claims(user, &[("lobby", Rights::READ), ("team-7-*", Rights::MEMBER), ("inbox-{user}", Rights::ALL)]);
            given.session = Some(id.into());
            given.token_id = Some(id.into());
            let proof = Proof::new(given).unwrap();
            let name = 2 * size_of::<usize>() + user.len();
            (
                size_of::<Proof>() + proof.boxed_bytes(),
                allocated(size_of::<Proof>()) + allocated(name) + allocated(proof.boxed_bytes() - name),
            )
        };
        let ordinary = measure("ann", "2dVYl4yzR0mQk1xF7oTg3A");
        let uuids = measure(&"u".repeat(36), &"i".repeat(36));
        println!("bytes, and as allocated: ordinary {ordinary:?}, every id a UUID {uuids:?}");
        assert!(ordinary.1 <= 200, "{ordinary:?}");
        assert!(uuids.1 <= 256, "{uuids:?}");
    }
}
