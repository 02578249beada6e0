//! Every form of a key that is taken, and every one that is refused.

use super::*;
use crate::mint::{ClaimsToMint, SigningKey, mint};
use crate::token::tests::{
    ED25519, ED25519_PUBLIC, P256, P256_OTHER, P256_PUBLIC, RSA, RSA_PUBLIC, SECRET, private, public,
};
use crate::token::{Rules, judge};

const P384_PUBLIC: &str = include_str!("../../tests/keys/p384-a.pub.pem");
const RSA_1024_PUBLIC: &str = include_str!("../../tests/keys/rsa1024-a.pub.pem");
const P256_EXPLICIT_PUBLIC: &str = include_str!("../../tests/keys/p256-explicit.pub.pem");

fn takes(keys: &Keys, key: &SigningKey) -> bool {
    let token = mint(key, &ClaimsToMint::new("ann", 1_000, 2_000)).unwrap();
    judge(&token, keys, &Rules::default(), 1_500).is_ok()
}

fn pem_fault(text: &str) -> KeyFault {
    Keys::new().add_pem(text).unwrap_err()
}

fn jwk_fault(text: &str) -> KeyFault {
    Keys::new().add_jwk(text).unwrap_err()
}

fn jwk(algorithm: Algorithm) -> String {
    private(algorithm).public_jwk().unwrap().unwrap()
}

#[test]
fn a_file_may_hold_pems_a_jwk_or_a_jwks() {
    let mut keys = Keys::new();
    assert_eq!(keys.add_text(&format!("# ours\n{RSA_PUBLIC}\n\n{P256_PUBLIC}")), Ok(vec![]));
    assert_eq!(keys.add_text(&format!("\n {}", jwk(Algorithm::EdDsa))), Ok(vec![]));
    assert_eq!(keys.len(), 3);
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        assert!(takes(&keys, &private(algorithm)), "{algorithm:?}");
    }
    let mut keys = Keys::new();
    assert!(keys.is_empty());
    assert_eq!(
        keys.add_text(&format!(r#"{{"keys":[{},{}]}}"#, jwk(Algorithm::Es256), jwk(Algorithm::Rs256))),
        Ok(vec![])
    );
    assert_eq!(keys.len(), 2);
}

#[test]
fn line_ends_of_windows_are_taken() {
    assert!(takes(
        &{
            let mut keys = Keys::new();
            keys.add_pem(&P256_PUBLIC.replace('\n', "\r\n")).unwrap();
            keys
        },
        &private(Algorithm::Es256)
    ));
}

#[test]
fn what_is_no_pem_of_a_public_key_is_refused() {
    for text in [
        "",
        "key",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA",
        "-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
    ] {
        assert_eq!(pem_fault(text), KeyFault::Form, "{text}");
    }
    for text in [RSA, P256, ED25519, "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----"] {
        assert_eq!(pem_fault(text), KeyFault::Private);
    }
    for label in ["CERTIFICATE", "RSA PUBLIC KEY"] {
        let text = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----");
        assert_eq!(pem_fault(&text), KeyFault::Label);
    }
    assert_eq!(pem_fault(&" ".repeat(KEY_TEXT_BYTES_MAX + 1)), KeyFault::TooLong);
    let mut keys = Keys::new();
    assert!(keys.add_pem(&format!("{P256_PUBLIC}{RSA_1024_PUBLIC}")).is_err() && keys.is_empty(), "all or none");
}

#[test]
fn rfc8725_3_4_lengths_and_curves_are_checked_when_a_key_comes_in() {
    assert_eq!(pem_fault(RSA_1024_PUBLIC), KeyFault::RsaBits { bits: 1_024 });
    assert_eq!(pem_fault(P384_PUBLIC), KeyFault::Curve);
    assert_eq!(pem_fault(P256_EXPLICIT_PUBLIC), KeyFault::Curve, "parameters of a key's own (CVE-2020-0601)");
    let p256 = |x: usize, y: usize| {
        let number = |bytes| BASE64_URL_SAFE_NO_PAD.encode(vec![7; bytes]);
        format!(r#"{{"kty":"EC","crv":"P-256","x":"{}","y":"{}"}}"#, number(x), number(y))
    };
    assert_eq!(jwk_fault(&p256(31, 32)), KeyFault::Numbers);
    assert_eq!(jwk_fault(&p256(32, 33)), KeyFault::Numbers);
    assert_eq!(jwk_fault(r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#), KeyFault::Numbers);
    assert_eq!(jwk_fault(r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#), KeyFault::Curve);
    assert_eq!(jwk_fault(r#"{"kty":"EC","x":"AAAA","y":"AAAA"}"#), KeyFault::Curve);
}

#[test]
fn a_point_that_is_on_no_curve_makes_every_signature_wrong() {
    let number = BASE64_URL_SAFE_NO_PAD.encode([7; 32]);
    let mut keys = Keys::new();
    keys.add_jwk(&format!(r#"{{"kty":"EC","crv":"P-256","x":"{number}","y":"{number}"}}"#)).unwrap();
    assert!(!takes(&keys, &private(Algorithm::Es256)));
}

#[test]
fn rsa_numbers_have_their_limits() {
    let rsa = |modulus: &[u8], exponent: &[u8]| {
        let number = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let text = format!(r#"{{"kty":"RSA","n":"{}","e":"{}"}}"#, number(modulus), number(exponent));
        Keys::new().add_jwk(&text)
    };
    let modulus = |bytes: usize, first: u8| {
        let mut modulus = vec![0xff; bytes];
        modulus[0] = first;
        modulus
    };
    assert_eq!(rsa(&modulus(256, 0x80), &[1, 0, 1]), Ok(()));
    assert_eq!(rsa(&modulus(256, 0x7f), &[1, 0, 1]), Err(KeyFault::RsaBits { bits: 2_047 }));
    assert_eq!(rsa(&modulus(257, 0), &[0, 3]), Ok(()), "zeros in front are no bits");
    assert_eq!(rsa(&[0; 300], &[3]), Err(KeyFault::RsaBits { bits: 0 }));
    assert_eq!(rsa(&[], &[3]), Err(KeyFault::RsaBits { bits: 0 }));
    assert_eq!(rsa(&modulus(1_024, 0xff), &[3]), Ok(()));
    assert_eq!(rsa(&modulus(1_025, 1), &[3]), Err(KeyFault::RsaBits { bits: 8_193 }));
    for exponent in [&[1][..], &[2], &[], &[0], &[1, 0, 0], &[1, 1, 1, 1, 1]] {
        assert_eq!(rsa(&modulus(256, 0xff), exponent), Err(KeyFault::Numbers), "{exponent:?}");
    }
    let mut even = modulus(256, 0xff);
    even[255] = 0xfe;
    assert_eq!(rsa(&even, &[3]), Err(KeyFault::Numbers));
}

#[test]
fn rfc7518_3_2_a_secret_is_no_shorter_than_its_hash() {
    let mut keys = Keys::new();
    assert_eq!(keys.add_secret(&SECRET[..31], None), Err(KeyFault::SecretTooShort { bytes: 31 }));
    assert_eq!(keys.add_secret(&SECRET[..32], Some("s")), Ok(()));
    assert!(keys.has_kid("s") && !keys.has_kid("t"));
}

#[test]
fn a_jwks_never_yields_a_symmetric_key() {
    let oct = format!(r#"{{"kty":"oct","k":"{}","kid":"s"}}"#, BASE64_URL_SAFE_NO_PAD.encode(SECRET));
    assert_eq!(jwk_fault(&oct), KeyFault::Symmetric);
    let mut keys = Keys::new();
    let left_out = keys.add_jwks(&format!(r#"{{"keys":[{oct},{}]}}"#, jwk(Algorithm::EdDsa))).unwrap();
    assert_eq!(left_out, [LeftOut { kid: Some("s".into()), fault: KeyFault::Symmetric }]);
    assert!(keys.len() == 1 && !takes(&keys, &private(Algorithm::Hs256)));
    assert_eq!(Keys::new().add_jwks(&format!(r#"{{"keys":[{oct}]}}"#)), Err(KeyFault::NoneUsable));
}

#[test]
fn a_jwks_leaves_out_what_cannot_be_used_and_says_so() {
    let good = SigningKey::from_pem(P256_OTHER).unwrap().with_kid("good");
    let set = format!(
        r#"{{"keys":[{},
            {{"kty":"EC","crv":"P-384","kid":"p384","x":"AA","y":"AA"}},
            {{"kty":"RSA","kid":"enc","use":"enc","n":"{}","e":"AQAB"}},
            {{"kty":"PQ","kid":"new"}}, {{"kid":"none"}}]}}"#,
        good.public_jwk().unwrap().unwrap(),
        BASE64_URL_SAFE_NO_PAD.encode([0xff; 256]),
    );
    let mut keys = Keys::new();
    let left_out = keys.add_jwks(&set).unwrap();
    let left_out: Vec<_> = left_out.iter().map(|left| (left.kid.as_deref().unwrap(), left.fault)).collect();
    let wanted =
        [("p384", KeyFault::Curve), ("enc", KeyFault::Purpose), ("new", KeyFault::Kind), ("none", KeyFault::Form)];
    assert_eq!(left_out, wanted);
    assert!(takes(&keys, &good));
}

#[test]
fn what_a_key_says_that_it_is_for_holds() {
    let with = |more: &str| jwk(Algorithm::EdDsa).replace(r#","use":"sig""#, "").replace(r#""alg":"EdDSA","#, more);
    for more in ["", r#""use":"sig","#, r#""alg":"Ed25519","#, r#""key_ops":["verify"],"#] {
        assert_eq!(Keys::new().add_jwk(&with(more)), Ok(()), "{more}");
    }
    for more in
        [r#""use":"enc","#, r#""use":7,"#, r#""alg":"RS256","#, r#""key_ops":["sign"],"#, r#""key_ops":"verify","#]
    {
        assert_eq!(jwk_fault(&with(more)), KeyFault::Purpose, "{more}");
    }
    assert_eq!(jwk_fault(&with(r#""d":"AAAA","#)), KeyFault::Private);
}

#[test]
fn what_is_no_jwk_or_jwks_is_refused() {
    for text in ["", "[]", "{", "null", "{}", r#"{"kty":7}"#, r#"{"kty":"RSA","kty":"RSA"}"#] {
        assert_eq!(jwk_fault(text), KeyFault::Form, "{text}");
    }
    assert_eq!(jwk_fault(r#"{"kty":"RSA","n":"!!","e":"AQAB"}"#), KeyFault::Numbers);
    assert_eq!(jwk_fault(r#"{"kty":"RSA","e":"AQAB"}"#), KeyFault::Numbers);
    for text in ["{}", r#"{"keys":7}"#, r#"{"keys":[7]}"#] {
        assert_eq!(Keys::new().add_jwks(text), Err(KeyFault::Form), "{text}");
    }
    assert_eq!(Keys::new().add_jwks(r#"{"keys":[]}"#), Err(KeyFault::NoneUsable));
    assert_eq!(Keys::new().add_jwks(&" ".repeat(KEY_TEXT_BYTES_MAX + 1)), Err(KeyFault::TooLong));
}

#[test]
fn keys_are_counted() {
    let mut keys = Keys::new();
    let set = format!(r#"{{"keys":[{}]}}"#, vec![jwk(Algorithm::EdDsa); KEYS_MAX].join(","));
    assert_eq!(keys.add_jwks(&set), Ok(vec![]));
    assert_eq!(keys.add_pem(ED25519_PUBLIC), Err(KeyFault::TooMany));
    let more = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; KEYS_MAX + 1].join(","));
    assert_eq!(Keys::new().add_jwks(&more), Err(KeyFault::TooMany));
}

#[test]
fn every_fault_says_what_to_do() {
    assert!(KeyFault::Private.to_string().contains("-pubout"));
    assert!(KeyFault::SecretTooShort { bytes: 3 }.to_string().contains("at least 32"));
    assert!(KeyFault::TooLong.to_string().contains("65536"));
    assert_eq!(public(Algorithm::Rs256).len(), 1);
    assert_eq!(pem_blocks(RSA_PUBLIC).unwrap().len(), 1);
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
    }
}
