//! Keys that check signatures: from PEM, JWK, JWKS or a secret, each with the one algorithm that it is for.
//!
//! | key | algorithm (RFC 7518, 3; RFC 8037, 3.1) |
//! |---|---|
//! | RSA of 2,048 to 8,192 bits | RS256 |
//! | P-256 | ES256 |
//! | Ed25519 | EdDSA |
//! | secret of at least 32 bytes | HS256 |
//!
//! The signature itself is checked by `jsonwebtoken` on `aws-lc-rs`. Its provider is named here and not looked up in
//! the process, so that a feature which is missing, or switched on twice, is an error of the compiler and no panic at
//! the first token.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use pkcs8::ObjectIdentifier;
use pkcs8::der::asn1::UintRef;
use pkcs8::der::{Decode, Reader, SliceReader};
use pkcs8::spki::SubjectPublicKeyInfoRef;

use crate::json::{self, Json, Object};
use crate::token::Refusal;

/// Most keys in a set.
pub const KEYS_MAX: usize = 64;
/// Most keys that one token is tried with where its `kid` picks none: what it costs is paid before it is believed.
pub const KEYS_TRIED_MAX: usize = 4;
/// Longest PEM, JWK or JWKS, in bytes.
pub const KEY_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Shortest secret, in bytes: the output of SHA-256 (RFC 7518, 3.2).
pub const SECRET_BYTES_MIN: usize = 32;
/// Shortest RSA modulus, in bits (RFC 7518, 3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Longest RSA modulus, in bits: beyond it the library checks nothing, and a check would be slow.
pub const RSA_BITS_MAX: usize = 8_192;

const P256_BYTES: usize = 32;
const ED25519_BYTES: usize = 32;
const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const OID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const OID_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// How a token is signed. A key is for exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
}

impl Algorithm {
    /// Every one.
    pub const ALL: [Algorithm; 4] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256];

    /// Its name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Hs256 => "HS256",
        }
    }

    /// The algorithm of that name, letter by letter.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    pub(crate) fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }

    /// Of a private or public key's identifier and parameters (RFC 3279, 2.3; RFC 5480, 2.1.1; RFC 8410, 3).
    pub(crate) fn of_identifier(oid: ObjectIdentifier, curve: Option<ObjectIdentifier>) -> Result<Self, KeyFault> {
        match oid {
            OID_RSA => Ok(Algorithm::Rs256),
            OID_EC if curve == Some(OID_P256) => Ok(Algorithm::Es256),
            OID_EC => Err(KeyFault::Curve),
            OID_ED25519 => Ok(Algorithm::EdDsa),
            _ => Err(KeyFault::Kind),
        }
    }
}

/// Why a key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Neither PEM nor JSON.
    #[error("it is no PEM (-----BEGIN PUBLIC KEY-----), no JWK and no JWKS")]
    Form,
    /// Longer than 64 KiB.
    #[error("it has more than {KEY_TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// A private key.
    #[error("it is a private key, which this server must not have: openssl pkey -in KEY -pubout gives the public one")]
    Private,
    /// A PEM of another kind, such as a certificate.
    #[error("its PEM is not a PUBLIC KEY (SPKI): openssl x509 -pubkey -noout, or openssl rsa -RSAPublicKey_in -pubout")]
    Label,
    /// No RSA, EC or Ed25519 key.
    #[error("its kind is not one of RSA, EC (P-256) and OKP (Ed25519)")]
    Kind,
    /// Another curve.
    #[error("its curve is not P-256 or Ed25519")]
    Curve,
    /// Numbers that are missing or have the wrong length.
    #[error("its numbers are missing, or not as long as they must be, or not base64url without padding")]
    Numbers,
    /// An RSA key that is too short or too long.
    #[error("its RSA modulus has {bits} bits, and 2048 to 8192 are allowed")]
    RsaBits {
        /// The modulus's length, in bits.
        bits: usize,
    },
    /// A symmetric key where only public keys are taken.
    #[error("it is a symmetric key (oct): a secret is only taken from secret_file or secret_env")]
    Symmetric,
    /// For encryption, or for another algorithm.
    #[error("its use, key_ops or alg says that it is not for signatures of the algorithm of its kind")]
    Purpose,
    /// A secret that is too short.
    #[error("the secret has {bytes} bytes, and at least 32 are needed: openssl rand -base64 48")]
    SecretTooShort {
        /// Its length.
        bytes: usize,
    },
    /// More than 64 keys.
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
    /// A set in which no key can be used.
    #[error("none of its keys can be used")]
    NoneUsable,
}

/// A key of a set that was left out, which others beside it do not suffer from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its `kid`.
    pub kid: Option<Box<str>>,
    /// Why.
    pub fault: KeyFault,
}

#[derive(Clone, Debug)]
struct Key {
    kid: Option<Box<str>>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Key {
    fn verifies(&self, message: &[u8], signature: &Vec<u8>) -> bool {
        let verifier = (DEFAULT_PROVIDER.verifier_factory)(&self.algorithm.of_library(), &self.key);
        verifier.is_ok_and(|verifier| verifier.verify(message, signature).is_ok())
    }
}

/// The keys of a server: those of files, of a JWKS, and a secret, together.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    keys: Vec<Key>,
}

impl Keys {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// How many have no `kid`, of the algorithm that has the most of those: tokens are tried with [`KEYS_TRIED_MAX`] of them.
    pub fn without_kid(&self) -> usize {
        let of = |algorithm: Algorithm| {
            self.keys.iter().filter(|key| key.kid.is_none() && key.algorithm == algorithm).count()
        };
        Algorithm::ALL.into_iter().map(of).max().unwrap_or(0)
    }

    /// Whether there is none, so that no token is good.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether there is one of that `kid`. Where there is none, a JWKS may have a newer one.
    pub fn has_kid(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Adds a shared secret, for HS256. Whoever knows it makes tokens.
    ///
    /// # Errors
    /// When it has fewer than 32 bytes, or there are 64 keys already.
    pub fn add_secret(&mut self, secret: &[u8], kid: Option<&str>) -> Result<(), KeyFault> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyFault::SecretTooShort { bytes: secret.len() });
        }
        self.add(Key { kid: kid.map(Box::from), algorithm: Algorithm::Hs256, key: DecodingKey::from_secret(secret) })
    }

    /// Adds what a key file holds: one or several SPKI PEMs, a JWK, or a JWKS. All of it or nothing, but for keys of a
    /// JWKS that cannot be used, which are told.
    ///
    /// # Errors
    /// When it is none of those, longer than 64 KiB, or holds a key that is refused.
    pub fn add_text(&mut self, text: &str) -> Result<Vec<LeftOut>, KeyFault> {
        if text.trim_start().starts_with('{') {
            let object = object(text)?;
            if object.contains_key("keys") { self.add_set(&object) } else { self.add_object(&object).map(|()| vec![]) }
        } else {
            self.add_pem(text).map(|()| vec![])
        }
    }

    /// Adds one or several public keys in PEM (SPKI: RFC 5280, 4.1.2.7; RFC 7468, 13). All of them or none.
    ///
    /// # Errors
    /// When it is longer than 64 KiB, holds no PEM, or one of another kind.
    pub fn add_pem(&mut self, text: &str) -> Result<(), KeyFault> {
        let keys = pem_blocks(text)?.into_iter().map(|(label, der)| pem_key(label, &der));
        self.add_all(keys.collect::<Result<_, _>>()?)
    }

    /// Adds a public key as JWK (RFC 7517).
    ///
    /// # Errors
    /// When it is longer than 64 KiB, no JSON object, or a key that is refused; a symmetric one always is.
    pub fn add_jwk(&mut self, text: &str) -> Result<(), KeyFault> {
        self.add_object(&object(text)?)
    }

    /// Adds the usable public keys of a JWKS (RFC 7517, 5), and says which are not: encryption keys and curves that are
    /// not known stand beside others in many. It never yields a symmetric key.
    ///
    /// # Errors
    /// When it is longer than 64 KiB or no JWKS, when none of its keys can be used, or when they are too many.
    pub fn add_jwks(&mut self, text: &str) -> Result<Vec<LeftOut>, KeyFault> {
        self.add_set(&object(text)?)
    }

    fn add_object(&mut self, object: &Object) -> Result<(), KeyFault> {
        self.add(jwk_key(object)?)
    }

    fn add_set(&mut self, set: &Object) -> Result<Vec<LeftOut>, KeyFault> {
        let Some(Json::List(list)) = set.get("keys") else { return Err(KeyFault::Form) };
        if list.len() > KEYS_MAX {
            return Err(KeyFault::TooMany);
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for item in list {
            let Json::Object(object) = item else { return Err(KeyFault::Form) };
            match jwk_key(object) {
                Ok(key) => keys.push(key),
                Err(fault) => left_out.push(LeftOut { kid: kid(object), fault }),
            }
        }
        if keys.is_empty() {
            return Err(KeyFault::NoneUsable);
        }
        self.add_all(keys).map(|()| left_out)
    }

    fn add(&mut self, key: Key) -> Result<(), KeyFault> {
        self.add_all(vec![key])
    }

    fn add_all(&mut self, keys: Vec<Key>) -> Result<(), KeyFault> {
        if self.keys.len() + keys.len() > KEYS_MAX {
            return Err(KeyFault::TooMany);
        }
        self.keys.extend(keys);
        Ok(())
    }

    /// Whether one of the keys that the header may mean made the signature.
    ///
    /// A `kid` picks the keys of that name; if there are none, those without a name are meant. Of these only keys whose
    /// own algorithm the header names are tried, the first four: the header can rule a key out, and never says how a
    /// key is used.
    pub(crate) fn check(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> Result<(), Refusal> {
        let is_known = kid.is_some_and(|kid| self.has_kid(kid));
        let is_meant = |key: &&Key| match kid {
            Some(kid) if is_known => key.kid.as_deref() == Some(kid),
            Some(_) => key.kid.is_none(),
            None => true,
        };
        let mut meant = self.keys.iter().filter(is_meant).peekable();
        if meant.peek().is_none() {
            return Err(Refusal::KeyUnknown);
        }
        let mut tried = meant.filter(|key| key.algorithm == algorithm).take(KEYS_TRIED_MAX).peekable();
        let has_fitting = tried.peek().is_some();
        if tried.any(|key| key.verifies(message, signature)) {
            return Ok(());
        }
        // A name that no key has, where keys have names: a newer set may have it.
        let has_names = self.keys.iter().any(|key| key.kid.is_some());
        Err(match kid {
            Some(_) if !is_known && has_names => Refusal::KeyUnknown,
            _ if !has_fitting => Refusal::Algorithm,
            _ => Refusal::Signature,
        })
    }
}

fn object(text: &str) -> Result<Object, KeyFault> {
    if text.len() > KEY_TEXT_BYTES_MAX {
        return Err(KeyFault::TooLong);
    }
    json::object(text.as_bytes()).ok_or(KeyFault::Form)
}

const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_END: &str = "-----END ";

/// The PEM blocks of a text (RFC 7468), each with its label; what stands between them is not looked at.
pub(crate) fn pem_blocks(text: &str) -> Result<Vec<(&str, Vec<u8>)>, KeyFault> {
    if text.len() > KEY_TEXT_BYTES_MAX {
        return Err(KeyFault::TooLong);
    }
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, begun)) = rest.split_once(PEM_BEGIN) {
        let (label, begun) = begun.split_once("-----").ok_or(KeyFault::Form)?;
        let (body, behind) = begun.split_once(PEM_END).ok_or(KeyFault::Form)?;
        rest = behind.strip_prefix(label).and_then(|rest| rest.strip_prefix("-----")).ok_or(KeyFault::Form)?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = base64::prelude::BASE64_STANDARD.decode(body).map_err(|_| KeyFault::Form)?;
        blocks.push((label, der));
    }
    if blocks.is_empty() { Err(KeyFault::Form) } else { Ok(blocks) }
}

fn pem_key(label: &str, der: &[u8]) -> Result<Key, KeyFault> {
    match label {
        "PUBLIC KEY" => {}
        label if label.ends_with("PRIVATE KEY") => return Err(KeyFault::Private),
        _ => return Err(KeyFault::Label),
    }
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyFault::Form)?;
    let curve = info.algorithm.parameters_oid().ok();
    let algorithm = Algorithm::of_identifier(info.algorithm.oid, curve)?;
    let bytes = info.subject_public_key.as_bytes().ok_or(KeyFault::Numbers)?;
    let key = match algorithm {
        Algorithm::Rs256 => {
            let (modulus, exponent) = rsa_numbers(bytes).map_err(|_| KeyFault::Numbers)?;
            rsa_key(modulus, exponent)?
        }
        Algorithm::Es256 => ec_key(bytes)?,
        _ => ed_key(bytes)?,
    };
    Ok(Key { kid: None, algorithm, key })
}

/// `RSAPublicKey` of RFC 8017, A.1.1.
fn rsa_numbers(der: &[u8]) -> pkcs8::der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(der)?;
    let numbers = reader.sequence(|inner| -> pkcs8::der::Result<_> {
        Ok((UintRef::decode(inner)?.as_bytes(), UintRef::decode(inner)?.as_bytes()))
    })?;
    reader.finish()?;
    Ok(numbers)
}

fn jwk_key(jwk: &Object) -> Result<Key, KeyFault> {
    let text = |name: &str| jwk.get(name).and_then(Json::text);
    let kind = text("kty").ok_or(KeyFault::Form)?;
    if kind == "oct" {
        return Err(KeyFault::Symmetric);
    }
    if jwk.contains_key("d") {
        return Err(KeyFault::Private);
    }
    let number = |name: &str| {
        let text = text(name).ok_or(KeyFault::Numbers)?;
        BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::Numbers)
    };
    let (algorithm, key) = match (kind, text("crv")) {
        ("RSA", _) => (Algorithm::Rs256, rsa_key(&number("n")?, &number("e")?)?),
        ("EC", Some("P-256")) => (Algorithm::Es256, ec_key(&point(&number("x")?, &number("y")?)?)?),
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, ed_key(&number("x")?)?),
        ("EC" | "OKP", _) => return Err(KeyFault::Curve),
        _ => return Err(KeyFault::Kind),
    };
    check_purpose(jwk, algorithm)?;
    Ok(Key { kid: kid(jwk), algorithm, key })
}

fn kid(jwk: &Object) -> Option<Box<str>> {
    jwk.get("kid").and_then(Json::text).map(Box::from)
}

/// RFC 7517, 4.2 to 4.4: what a key says that it is for holds.
fn check_purpose(jwk: &Object, algorithm: Algorithm) -> Result<(), KeyFault> {
    let is_one_of = |name: &str, allowed: &[&str]| match jwk.get(name) {
        None => true,
        Some(value) => value.text().is_some_and(|text| allowed.contains(&text)),
    };
    let verifies = match jwk.get("key_ops") {
        None => true,
        Some(Json::List(operations)) => operations.iter().any(|operation| operation.text() == Some("verify")),
        Some(_) => false,
    };
    // RFC 9864 names what EdDSA is on this curve; the header of a token still says EdDSA.
    let names: &[&str] = if algorithm == Algorithm::EdDsa { &["EdDSA", "Ed25519"] } else { &[algorithm.name()] };
    if is_one_of("use", &["sig"]) && is_one_of("alg", names) && verifies { Ok(()) } else { Err(KeyFault::Purpose) }
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<DecodingKey, KeyFault> {
    let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyFault::RsaBits { bits });
    }
    // Odd, and at least 3 (RFC 8017, 3.1); no more than 33 bits, as the library has it.
    let is_exponent = exponent.last().is_some_and(|last| last & 1 == 1) && exponent != [1] && exponent.len() <= 4;
    if !is_exponent || modulus.last().is_none_or(|last| last & 1 == 0) {
        return Err(KeyFault::Numbers);
    }
    Ok(DecodingKey::from_rsa_raw_components(modulus, exponent))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// SEC 1, 2.3.3, uncompressed. RFC 7518, 6.2.1.2 wants both numbers in full length.
fn point(x: &[u8], y: &[u8]) -> Result<Vec<u8>, KeyFault> {
    if x.len() != P256_BYTES || y.len() != P256_BYTES {
        return Err(KeyFault::Numbers);
    }
    Ok([&[4], x, y].concat())
}

/// That a point lies on the curve is judged by the library, at each token: with one that does not, every signature is
/// wrong.
fn ec_key(point: &[u8]) -> Result<DecodingKey, KeyFault> {
    let is_whole = point.len() == 1 + 2 * P256_BYTES && point.first() == Some(&4);
    if is_whole { Ok(DecodingKey::from_ec_der(point)) } else { Err(KeyFault::Numbers) }
}

fn ed_key(bytes: &[u8]) -> Result<DecodingKey, KeyFault> {
    if bytes.len() == ED25519_BYTES { Ok(DecodingKey::from_ed_der(bytes)) } else { Err(KeyFault::Numbers) }
}

#[cfg(test)]
mod tests;
