//! A token is judged: its form, its key, its signature, its claims, in this order (RFC 7515, RFC 7519, RFC 8725).
//!
//! What RFC 8725 asks for, and where it is kept:
//!
//! - 3.1, 3.2: the key decides the algorithm, one a key; `none` is none ([`crate::keys`]).
//! - 3.3: one signature, no nesting; a token of five parts (JWE) is refused.
//! - 3.4: lengths of keys are checked when they come in; points on curves by the library.
//! - 3.5: a secret has at least 32 bytes. 3.6: nothing is decompressed (`zip` is refused).
//! - 3.8, 3.9: `iss` and `aud` must be those of the rules; an `aud` that nobody asked for is refused as well.
//! - 3.10: `kid` only picks among the keys that are here, and `jku`, `x5u`, `jwk`, `x5c` are refused.
//! - 3.11: `typ` is absent, `JWT` or `at+jwt`; 3.12: `exp` and `iat` are required, and the user's name.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::claims::{ClaimFault, ClaimName, ClaimPath, Claims};
use crate::json::{self, Json};
use crate::keys::{Algorithm, Keys};
use crate::proof::Proof;

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4_096;
/// Leeway for clocks that differ, if nothing else is said, in seconds.
pub const LEEWAY_SECONDS: u64 = 5;
/// Longest time from `iat` to `exp`, if nothing else is said, in seconds: a day.
pub const LIFETIME_SECONDS_MAX: u64 = 24 * 60 * 60;

/// Names in a header that are refused wherever they stand: extensions that must be understood (RFC 7515, 4.1.11),
/// compression (RFC 7516, 4.1.3), and keys that a token would bring itself (RFC 7515, 4.1.2, 4.1.3, 4.1.5, 4.1.6).
const REFUSED_NAMES: [&str; 6] = ["crit", "zip", "jku", "jwk", "x5u", "x5c"];

/// What a server asks of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `iss` must be this, letter by letter.
    pub issuer: Option<Box<str>>,
    /// `aud` must be this or hold it. If none is given, a token with an `aud` is refused: it is for somebody else (RFC
    /// 7519, 4.1.3).
    pub audience: Option<Box<str>>,
    /// Longest time from `iat` to `exp`, in seconds.
    pub lifetime_seconds_max: u64,
    /// By how much clocks may differ, in seconds.
    pub leeway_seconds: u64,
    /// Where the user's name stands.
    pub user_claim: ClaimPath,
    /// Where patterns and rights stand.
    pub rooms_claim: ClaimPath,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            issuer: None,
            audience: None,
            lifetime_seconds_max: LIFETIME_SECONDS_MAX,
            leeway_seconds: LEEWAY_SECONDS,
            user_claim: ClaimPath::subject(),
            rooms_claim: ClaimPath::rooms(),
        }
    }
}

/// Why a token is refused. No message holds the token, or anything of it that was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than 4,096 bytes.
    #[error("the token has more than {TOKEN_BYTES_MAX} bytes: give rights for many rooms in tokens for rooms")]
    TooLong,
    /// Not three parts of base64url with JSON objects in the first two.
    #[error("this is no token: three parts of base64url without padding, the first two JSON without doubled names")]
    WrongForm,
    /// Five parts.
    #[error("the token is encrypted (JWE), and only signed ones (JWS) are taken")]
    Encrypted,
    /// A header with a name that is refused.
    #[error("the token's header has {name}, which is refused: make the token without it")]
    HeaderName {
        /// The name.
        name: &'static str,
    },
    /// Another `typ`.
    #[error("the token's header has a typ that is neither JWT nor at+jwt: it is made for something else")]
    Type,
    /// An algorithm that is not that of the key, or none.
    #[error(
        "the token's alg is not that of the key: RSA keys are for RS256, P-256 for ES256, Ed25519 for EdDSA, secrets for HS256"
    )]
    Algorithm,
    /// No key that it may mean.
    #[error("no key of this server has the token's kid, or it has no key at all: look at keys and jwks_url in [auth]")]
    KeyUnknown,
    /// None of the keys made the signature.
    #[error("the token's signature was not made with a key of this server, or the token was changed")]
    Signature,
    /// It has ended.
    #[error("the token ended {ago_seconds} s ago (exp)")]
    Expired {
        /// Since when, in seconds, without leeway.
        ago_seconds: u64,
    },
    /// It does not hold yet.
    #[error("the token holds from {in_seconds} s from now (nbf): compare the clocks of its maker and this server")]
    NotYetValid {
        /// When it will, in seconds.
        in_seconds: u64,
    },
    /// It was made in the future.
    #[error("the token was made {by_seconds} s in the future (iat): compare the clocks of its maker and this server")]
    IssuedAhead {
        /// By how much, in seconds.
        by_seconds: u64,
    },
    /// It holds for too long, or ends before it was made.
    #[error("the token's exp must be behind its iat, and by at most {seconds_max} s (lifetime_hours_max in [auth])")]
    Lifetime {
        /// The longest time, in seconds.
        seconds_max: u64,
    },
    /// Another issuer.
    #[error("the token's iss is not the issuer of [auth]")]
    Issuer,
    /// For others.
    #[error("the token's aud is not the audience of [auth]")]
    Audience,
    /// An `aud`, and none was asked for.
    #[error("the token has an aud, so it is for somebody: name it as audience in [auth] if that is this server")]
    AudienceUnasked,
    /// A claim that is missing or in a wrong form.
    #[error("the token's claim is refused: {claim} {fault}")]
    Claim {
        /// Which one.
        claim: ClaimName,
        /// Why.
        fault: ClaimFault,
    },
}

const _: () = assert!(size_of::<Refusal>() <= 64, "moved along with every verdict");

impl Refusal {
    /// Its name, to count by; one of [`Refusal::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Refusal::TooLong => "too_long",
            Refusal::WrongForm => "wrong_form",
            Refusal::Encrypted => "encrypted",
            Refusal::HeaderName { .. } => "header",
            Refusal::Type => "type",
            Refusal::Algorithm => "algorithm",
            Refusal::KeyUnknown => "key_unknown",
            Refusal::Signature => "signature",
            Refusal::Expired { .. } => "expired",
            Refusal::NotYetValid { .. } => "not_yet_valid",
            Refusal::IssuedAhead { .. } => "issued_ahead",
            Refusal::Lifetime { .. } => "lifetime",
            Refusal::Issuer => "issuer",
            Refusal::Audience | Refusal::AudienceUnasked => "audience",
            Refusal::Claim { .. } => "claim",
        }
    }

    /// Every name.
    pub const NAMES: [&str; 15] = [
        "too_long",
        "wrong_form",
        "encrypted",
        "header",
        "type",
        "algorithm",
        "key_unknown",
        "signature",
        "expired",
        "not_yet_valid",
        "issued_ahead",
        "lifetime",
        "issuer",
        "audience",
        "claim",
    ];
}

/// Judges a token in compact form (RFC 7515, 7.1) at that second since 1970. What the verdict costs is bounded: 4,096
/// bytes are looked at once, and at most [`KEYS_TRIED_MAX`](crate::keys::KEYS_TRIED_MAX) signatures are checked.
///
/// # Errors
/// With the first reason against it.
pub fn judge(token: &str, keys: &Keys, rules: &Rules, now_seconds: u64) -> Result<Proof, Refusal> {
    let signed = Signed::split(token)?;
    let header = Header::read(&decode(signed.header)?)?;
    let signature = decode(signed.signature)?;
    keys.check(header.algorithm, header.kid.as_deref(), signed.message.as_bytes(), &signature)?;
    let claims = Claims::read(&decode(signed.payload)?, rules)?;
    judge_parties(&claims, rules)?;
    judge_times(&claims, rules, now_seconds)?;
    Proof::new(claims).ok_or(Refusal::WrongForm)
}

/// The parts of a token, as they were written.
struct Signed<'a> {
    message: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Signed<'a> {
    fn split(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        match token.bytes().filter(|&byte| byte == b'.').count() {
            2 => {}
            4 => return Err(Refusal::Encrypted),
            _ => return Err(Refusal::WrongForm),
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::WrongForm)?;
        let (header, payload) = message.split_once('.').ok_or(Refusal::WrongForm)?;
        Ok(Signed { message, header, payload, signature })
    }
}

/// Base64url without padding, and without bits behind the last byte: one text for the same bytes (RFC 7515, 2).
fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::WrongForm)
}

/// What is believed of a header: which key to try.
struct Header {
    algorithm: Algorithm,
    kid: Option<Box<str>>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let header = json::object(bytes).ok_or(Refusal::WrongForm)?;
        if let Some(name) = REFUSED_NAMES.into_iter().find(|&name| header.contains_key(name)) {
            return Err(Refusal::HeaderName { name });
        }
        let is_type = |typ: &str| typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("at+jwt");
        if !header.get("typ").is_none_or(|typ| typ.text().is_some_and(is_type)) {
            return Err(Refusal::Type);
        }
        let name = header.get("alg").and_then(Json::text).ok_or(Refusal::WrongForm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(kid) => Some(kid.text().ok_or(Refusal::WrongForm)?.into()),
        };
        Ok(Header { algorithm: Algorithm::from_name(name).ok_or(Refusal::Algorithm)?, kid })
    }
}

/// The `kid` of a token that may mean a key which is not here yet, so that a JWKS is worth asking again. Nothing else
/// of the token is believed.
pub fn unknown_kid(token: &str, keys: &Keys) -> Option<Box<str>> {
    let header = Header::read(&decode(Signed::split(token).ok()?.header).ok()?).ok()?;
    header.kid.filter(|kid| !keys.has_kid(kid))
}

fn judge_parties(claims: &Claims, rules: &Rules) -> Result<(), Refusal> {
    if rules.issuer.is_some() && rules.issuer != claims.issuer {
        return Err(Refusal::Issuer);
    }
    match (&rules.audience, &claims.audiences) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Refusal::AudienceUnasked),
        (Some(wanted), Some(given)) if given.contains(wanted) => Ok(()),
        (Some(_), _) => Err(Refusal::Audience),
    }
}

fn judge_times(claims: &Claims, rules: &Rules, now_seconds: u64) -> Result<(), Refusal> {
    let latest = now_seconds.saturating_add(rules.leeway_seconds);
    if claims.issued_seconds > latest {
        return Err(Refusal::IssuedAhead { by_seconds: claims.issued_seconds - now_seconds });
    }
    if let Some(begins) = claims.not_before_seconds.filter(|&begins| begins > latest) {
        return Err(Refusal::NotYetValid { in_seconds: begins - now_seconds });
    }
    if now_seconds >= claims.expires_seconds.saturating_add(rules.leeway_seconds) {
        return Err(Refusal::Expired { ago_seconds: now_seconds - claims.expires_seconds });
    }
    match claims.expires_seconds.checked_sub(claims.issued_seconds) {
        Some(1..) if claims.expires_seconds - claims.issued_seconds <= rules.lifetime_seconds_max => Ok(()),
        _ => Err(Refusal::Lifetime { seconds_max: rules.lifetime_seconds_max }),
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(crate) mod tests;
