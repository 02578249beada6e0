//! Making tokens: for `banter token`, and for tests of what judges them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::jwk::EllipticCurve;
use pkcs8::PrivateKeyInfoRef;
use serde_json::{Map, Value};

use crate::claims::ClaimPath;
use crate::keys::{Algorithm, KeyFault, SECRET_BYTES_MIN, pem_blocks};
use crate::pattern::Pattern;
use crate::rights::Rights;
use crate::token::TOKEN_BYTES_MAX;

/// Why no token, or no key to make one, is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintFault {
    /// A key in another form.
    #[error(
        "the key must be one PEM of PKCS #8 (-----BEGIN PRIVATE KEY-----): openssl pkcs8 -topk8 -nocrypt -in KEY makes one"
    )]
    KeyForm,
    /// A key that is not taken.
    #[error("the key is not taken: {0}")]
    Key(#[from] KeyFault),
    /// The library refused the key, or could not sign.
    #[error("it could not be signed: {0}")]
    Signing(Box<str>),
    /// Two claims are to stand in one place.
    #[error("the claim {path} has no place: something else stands there, or on the way to it")]
    ClaimPlace {
        /// Which one.
        path: Box<str>,
    },
    /// More than 4,096 bytes.
    #[error("the token would have {bytes} bytes, and no server takes more than {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// A key that makes tokens, with its one algorithm. Its `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct SigningKey {
    algorithm: Algorithm,
    kid: Option<Box<str>>,
    key: EncodingKey,
}

impl SigningKey {
    /// Of a shared secret: HS256.
    ///
    /// # Errors
    /// When it has fewer than 32 bytes.
    pub fn from_secret(secret: &[u8]) -> Result<Self, MintFault> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyFault::SecretTooShort { bytes: secret.len() }.into());
        }
        Ok(SigningKey { algorithm: Algorithm::Hs256, kid: None, key: EncodingKey::from_secret(secret) })
    }

    /// Of a private key in PEM (PKCS #8: RFC 5208, RFC 5958; RFC 7468, 10): RS256, ES256 or EdDSA by its kind.
    ///
    /// # Errors
    /// When it is not exactly one such PEM, or of another kind.
    pub fn from_pem(text: &str) -> Result<Self, MintFault> {
        let blocks = pem_blocks(text)?;
        let [("PRIVATE KEY", der)] = blocks.as_slice() else { return Err(MintFault::KeyForm) };
        Self::from_pkcs8(der)
    }

    /// Of a private key in PKCS #8, as DER.
    ///
    /// # Errors
    /// When it is none, or of another kind.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, MintFault> {
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| MintFault::KeyForm)?;
        let algorithm = Algorithm::of_identifier(info.algorithm.oid, info.algorithm.parameters_oid().ok())?;
        let key = match algorithm {
            Algorithm::Rs256 => EncodingKey::from_rsa_der(info.private_key.as_bytes()),
            Algorithm::Es256 => EncodingKey::from_ec_der(der),
            _ => EncodingKey::from_ed_der(der),
        };
        Ok(SigningKey { algorithm, kid: None, key })
    }

    /// The same, whose tokens name it so.
    #[must_use]
    pub fn with_kid(self, kid: &str) -> Self {
        SigningKey { kid: Some(kid.into()), ..self }
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public key as JWK (RFC 7517), which a server checks its tokens with; none for a secret.
    ///
    /// # Errors
    /// When the library takes the key for broken.
    pub fn public_jwk(&self) -> Result<Option<String>, MintFault> {
        let (tools, bytes) = (&DEFAULT_PROVIDER.key_utils, self.key.as_bytes());
        let mut jwk = match self.algorithm {
            Algorithm::Hs256 => return Ok(None),
            Algorithm::Rs256 => {
                let (n, e) = (tools.rsa_pub_components_from_private_key)(bytes).map_err(signing)?;
                numbers("RSA", None, &[("n", &n), ("e", &e)])
            }
            Algorithm::Es256 => {
                let library = self.algorithm.of_library();
                let (_, x, y) = (tools.ec_pub_components_from_private_key)(bytes, library).map_err(signing)?;
                numbers("EC", Some("P-256"), &[("x", &x), ("y", &y)])
            }
            Algorithm::EdDsa => {
                let curve = EllipticCurve::Ed25519;
                let x = (tools.ed_pub_components_from_private_key)(bytes, &curve).map_err(signing)?;
                numbers("OKP", Some("Ed25519"), &[("x", &x)])
            }
        };
        jwk.insert("use".into(), "sig".into());
        jwk.insert("alg".into(), self.algorithm.name().into());
        if let Some(kid) = &self.kid {
            jwk.insert("kid".into(), (**kid).into());
        }
        Ok(Some(Value::Object(jwk).to_string()))
    }

    fn sign(&self, message: &str) -> Result<String, MintFault> {
        let signer = (DEFAULT_PROVIDER.signer_factory)(&self.algorithm.of_library(), &self.key).map_err(signing)?;
        let signature = signer.try_sign(message.as_bytes()).map_err(|fault| MintFault::Signing(told(&fault)))?;
        Ok(BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

fn signing(fault: jsonwebtoken::errors::Error) -> MintFault {
    MintFault::Signing(told(&fault))
}

fn told(fault: &impl ToString) -> Box<str> {
    fault.to_string().into()
}

fn numbers(kind: &str, curve: Option<&str>, numbers: &[(&str, &[u8])]) -> Map<String, Value> {
    let mut jwk = Map::new();
    jwk.insert("kty".into(), kind.into());
    if let Some(curve) = curve {
        jwk.insert("crv".into(), curve.into());
    }
    for (name, number) in numbers {
        jwk.insert((*name).into(), BASE64_URL_SAFE_NO_PAD.encode(number).into());
    }
    jwk
}

/// What a token is to claim. Nothing is judged here: what a server would refuse can be made, to see it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsToMint {
    /// Who it is.
    pub user: String,
    /// `iat`, in seconds since 1970.
    pub issued_seconds: u64,
    /// `exp`, in seconds since 1970.
    pub expires_seconds: u64,
    /// `nbf`, in seconds since 1970.
    pub not_before_seconds: Option<u64>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
    /// `jti`.
    pub token_id: Option<String>,
    /// `sid`.
    pub session: Option<String>,
    /// Patterns and rights; without any there is no such claim.
    pub rooms: Vec<(Pattern, Rights)>,
    /// `banter.posts_per_second`.
    pub posts_per_second: Option<u16>,
    /// Where the user's name is to stand.
    pub user_claim: ClaimPath,
    /// Where patterns and rights are to stand.
    pub rooms_claim: ClaimPath,
}

impl ClaimsToMint {
    /// Of that user, from one second to another since 1970, and nothing else.
    pub fn new(user: &str, issued_seconds: u64, expires_seconds: u64) -> Self {
        ClaimsToMint {
            user: user.to_owned(),
            issued_seconds,
            expires_seconds,
            not_before_seconds: None,
            issuer: None,
            audience: None,
            token_id: None,
            session: None,
            rooms: Vec::new(),
            posts_per_second: None,
            user_claim: ClaimPath::subject(),
            rooms_claim: ClaimPath::rooms(),
        }
    }

    fn payload(&self) -> Result<Map<String, Value>, MintFault> {
        let mut claims = Map::new();
        claims.insert("iat".into(), self.issued_seconds.into());
        claims.insert("exp".into(), self.expires_seconds.into());
        if let Some(begins) = self.not_before_seconds {
            claims.insert("nbf".into(), begins.into());
        }
        let texts = [("iss", &self.issuer), ("aud", &self.audience), ("jti", &self.token_id), ("sid", &self.session)];
        for (name, text) in texts {
            if let Some(text) = text {
                claims.insert(name.into(), text.as_str().into());
            }
        }
        put(&mut claims, &self.user_claim, self.user.as_str().into())?;
        if !self.rooms.is_empty() {
            put(&mut claims, &self.rooms_claim, Value::Object(self.rooms.iter().map(grant).collect()))?;
        }
        if let Some(rate) = self.posts_per_second {
            put(&mut claims, &ClaimPath::posts_per_second(), rate.into())?;
        }
        Ok(claims)
    }
}

fn grant((pattern, rights): &(Pattern, Rights)) -> (String, Value) {
    (pattern.as_str().to_owned(), rights.names().collect::<Vec<_>>().into())
}

/// Puts a claim in its place, with the objects around it.
fn put(claims: &mut Map<String, Value>, path: &ClaimPath, value: Value) -> Result<(), MintFault> {
    let fault = || MintFault::ClaimPlace { path: path.as_str().into() };
    let (mut object, mut names) = (claims, path.names().peekable());
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return if object.insert(name.to_owned(), value).is_none() { Ok(()) } else { Err(fault()) };
        }
        let inner = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
        object = inner.as_object_mut().ok_or_else(fault)?;
    }
    Err(fault())
}

/// Makes a token in compact form, with the key's algorithm, `typ` JWT, and the key's `kid`.
///
/// # Errors
/// When the library cannot sign with the key, two claims are to stand in one place, or it is longer than 4,096 bytes.
pub fn mint(key: &SigningKey, claims: &ClaimsToMint) -> Result<String, MintFault> {
    let mut header = Map::new();
    header.insert("alg".into(), key.algorithm.name().into());
    header.insert("typ".into(), "JWT".into());
    if let Some(kid) = &key.kid {
        header.insert("kid".into(), (**kid).into());
    }
    let token = mint_raw(key, &Value::Object(header).to_string(), &Value::Object(claims.payload()?).to_string())?;
    if token.len() > TOKEN_BYTES_MAX { Err(MintFault::TooLong { bytes: token.len() }) } else { Ok(token) }
}

/// Signs a header and a payload as they are.
///
/// # Errors
/// When the library cannot sign with the key.
pub fn mint_raw(key: &SigningKey, header: &str, payload: &str) -> Result<String, MintFault> {
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", part(header), part(payload));
    let signature = key.sign(&message)?;
    Ok(format!("{message}.{signature}"))
}

#[cfg(test)]
mod tests;
