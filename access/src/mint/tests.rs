//! What is made here is taken there; what cannot be made says why.

use super::*;
use crate::keys::Keys;
use crate::token::tests::{ED25519, P256, RSA, RSA_PUBLIC, SECRET, private, public};
use crate::token::{Rules, judge};

#[test]
fn a_private_keys_public_jwk_checks_its_tokens() {
    for algorithm in Algorithm::ALL {
        let key = private(algorithm).with_kid("k-1");
        let Some(jwk) = key.public_jwk().unwrap() else {
            assert_eq!(algorithm, Algorithm::Hs256, "a secret has no public key");
            continue;
        };
        let mut keys = Keys::new();
        keys.add_jwk(&jwk).unwrap();
        let token = mint(&key, &ClaimsToMint::new("ann", 1_000, 2_000)).unwrap();
        assert!(judge(&token, &keys, &Rules::default(), 1_500).is_ok(), "{jwk}");
        assert!(judge(&token, &public(algorithm), &Rules::default(), 1_500).is_ok());
        assert_eq!(key.algorithm(), algorithm);
        assert!(!jwk.contains("\"d\""));
    }
}

#[test]
fn a_key_that_cannot_sign_is_refused_with_its_reason() {
    assert_eq!(SigningKey::from_pem("no key").unwrap_err(), MintFault::Key(KeyFault::Form));
    assert_eq!(SigningKey::from_pem(RSA_PUBLIC).unwrap_err(), MintFault::KeyForm);
    assert_eq!(SigningKey::from_pem(&format!("{P256}{ED25519}")).unwrap_err(), MintFault::KeyForm);
    assert_eq!(SigningKey::from_pem(&RSA.replace("PRIVATE", "RSA PRIVATE")).unwrap_err(), MintFault::KeyForm);
    assert_eq!(SigningKey::from_pkcs8(b"no key").unwrap_err(), MintFault::KeyForm);
    let p384 = include_str!("../../tests/keys/p384-a.pem");
    assert_eq!(SigningKey::from_pem(p384).unwrap_err(), MintFault::Key(KeyFault::Curve));
    let short = SigningKey::from_secret(&SECRET[..31]).unwrap_err();
    assert_eq!(short, MintFault::Key(KeyFault::SecretTooShort { bytes: 31 }));
    // The library has its own floor for RSA keys that sign.
    let weak = SigningKey::from_pem(include_str!("../../tests/keys/rsa1024-a.pem")).unwrap();
    let fault = mint(&weak, &ClaimsToMint::new("ann", 1, 2)).unwrap_err();
    assert!(matches!(fault, MintFault::Signing(_)), "{fault}");
    assert!(weak.public_jwk().is_err());
}

#[test]
fn two_claims_have_no_one_place() {
    let mut claims = ClaimsToMint::new("ann", 1, 2);
    claims.user_claim = "exp".parse().unwrap();
    let fault = mint(&private(Algorithm::Hs256), &claims).unwrap_err();
    assert_eq!(fault, MintFault::ClaimPlace { path: "exp".into() });
    claims.user_claim = "iat.user".parse().unwrap();
    assert!(matches!(mint(&private(Algorithm::Hs256), &claims), Err(MintFault::ClaimPlace { .. })));
}

#[test]
fn no_token_is_made_that_no_server_takes_for_its_length() {
    let mut claims = ClaimsToMint::new("ann", 1, 2);
    claims.session = Some("s".repeat(4_000));
    let fault = mint(&private(Algorithm::Hs256), &claims).unwrap_err();
    assert!(matches!(fault, MintFault::TooLong { bytes } if bytes > 4_096), "{fault}");
}

#[test]
fn every_claim_is_written() {
    let mut claims = ClaimsToMint::new("ann", 1, 2);
    claims.not_before_seconds = Some(1);
    claims.issuer = Some("i".into());
    claims.audience = Some("a".into());
    claims.token_id = Some("t".into());
    claims.session = Some("s".into());
    claims.rooms = vec![(Pattern::new("lobby").unwrap(), Rights::READ | Rights::WRITE)];
    claims.posts_per_second = Some(5);
    assert_eq!(
        Value::Object(claims.payload().unwrap()),
        serde_json::json!({
            "sub": "ann", "iat": 1, "exp": 2, "nbf": 1, "iss": "i", "aud": "a", "jti": "t", "sid": "s",
            "banter": { "rooms": { "lobby": ["read", "write"] }, "posts_per_second": 5 },
        })
    );
}
