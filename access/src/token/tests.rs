//! What RFC 8725 and RFC 7519 ask for, a test each.

use super::*;
use crate::guest::guest_name;
use crate::mint::{ClaimsToMint, SigningKey, mint, mint_raw};
use crate::pattern::Pattern;
use crate::rights::Rights;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

pub(crate) const RSA: &str = include_str!("../../tests/keys/rsa2048-a.pem");
pub(crate) const RSA_PUBLIC: &str = include_str!("../../tests/keys/rsa2048-a.pub.pem");
pub(crate) const P256: &str = include_str!("../../tests/keys/p256-a.pem");
pub(crate) const P256_PUBLIC: &str = include_str!("../../tests/keys/p256-a.pub.pem");
pub(crate) const P256_OTHER: &str = include_str!("../../tests/keys/p256-b.pem");
pub(crate) const ED25519: &str = include_str!("../../tests/keys/ed25519-a.pem");
pub(crate) const ED25519_PUBLIC: &str = include_str!("../../tests/keys/ed25519-a.pub.pem");
pub(crate) const ED25519_OTHER: &str = include_str!("../../tests/keys/ed25519-b.pem");
pub(crate) const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const HEADER: &str = r#"{"alg":"EdDSA"}"#;

pub(crate) fn private(algorithm: Algorithm) -> SigningKey {
    match algorithm {
        Algorithm::Rs256 => SigningKey::from_pem(RSA).unwrap(),
        Algorithm::Es256 => SigningKey::from_pem(P256).unwrap(),
        Algorithm::EdDsa => SigningKey::from_pem(ED25519).unwrap(),
        Algorithm::Hs256 => SigningKey::from_secret(SECRET).unwrap(),
    }
}

pub(crate) fn public(algorithm: Algorithm) -> Keys {
    let mut keys = Keys::new();
    match algorithm {
        Algorithm::Rs256 => keys.add_pem(RSA_PUBLIC).unwrap(),
        Algorithm::Es256 => keys.add_pem(P256_PUBLIC).unwrap(),
        Algorithm::EdDsa => keys.add_pem(ED25519_PUBLIC).unwrap(),
        Algorithm::Hs256 => keys.add_secret(SECRET, None).unwrap(),
    }
    keys
}

pub(super) fn claims() -> ClaimsToMint {
    ClaimsToMint::new("ann", NOW - 10, NOW + 900)
}

/// The verdict on a header and a payload that were signed with the Ed25519 key.
pub(super) fn verdict_with(header: &str, payload: &str, rules: &Rules) -> Result<Proof, Refusal> {
    let token = mint_raw(&private(Algorithm::EdDsa), header, payload).unwrap();
    judge(&token, &public(Algorithm::EdDsa), rules, NOW)
}

pub(super) fn of_header(header: &str) -> Result<Proof, Refusal> {
    verdict_with(header, &payload(""), &Rules::default())
}

fn of_claims(more: &str) -> Result<Proof, Refusal> {
    verdict_with(HEADER, &payload(more), &Rules::default())
}

pub(super) fn payload(more: &str) -> String {
    format!(r#"{{"sub":"ann","iat":{},"exp":{}{more}}}"#, NOW - 10, NOW + 900)
}

fn of_minted(claims: &ClaimsToMint, rules: &Rules) -> Result<Proof, Refusal> {
    judge(&mint(&private(Algorithm::EdDsa), claims).unwrap(), &public(Algorithm::EdDsa), rules, NOW)
}

fn part(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

#[test]
fn a_token_of_every_algorithm_is_taken_and_says_what_it_said() {
    for algorithm in Algorithm::ALL {
        let mut claims = claims();
        claims.session = Some("s-1".into());
        claims.token_id = Some("t-1".into());
        claims.rooms = vec![(Pattern::new("team-*").unwrap(), Rights::MEMBER)];
        claims.posts_per_second = Some(5);
        let token = mint(&private(algorithm), &claims).unwrap();
        let proof = judge(&token, &public(algorithm), &Rules::default(), NOW).unwrap();
        assert_eq!(proof.user().as_str(), "ann");
        assert_eq!((proof.issued_seconds(), proof.expires_seconds()), (NOW - 10, NOW + 900));
        assert_eq!((proof.session(), proof.token_id()), (Some("s-1"), Some("t-1")));
        assert_eq!((proof.rights("team-7"), proof.rights("lobby")), (Rights::MEMBER, Rights::NONE));
        assert_eq!(proof.posts_per_second(), Some(5));
    }
}

#[test]
fn rfc8725_3_1_a_key_is_used_with_its_own_algorithm_only() {
    for signed in Algorithm::ALL {
        for named in Algorithm::ALL.into_iter().filter(|&named| named != signed) {
            let header = format!(r#"{{"alg":"{}"}}"#, named.name());
            let token = mint_raw(&private(signed), &header, &payload("")).unwrap();
            assert_eq!(judge(&token, &public(signed), &Rules::default(), NOW), Err(Refusal::Algorithm));
        }
    }
    for name in ["RS512", "PS256", "ES384", "HS512", "Ed25519", "rs256", "", "EdDSA "] {
        assert_eq!(of_header(&format!(r#"{{"alg":"{name}"}}"#)), Err(Refusal::Algorithm), "{name}");
    }
}

#[test]
fn rfc8725_2_1_a_public_key_is_no_secret() {
    // The classic: HS256 with the text of the public key, which everybody has, as the secret.
    let forger = SigningKey::from_secret(RSA_PUBLIC.as_bytes()).unwrap();
    let token = mint(&forger, &claims()).unwrap();
    assert_eq!(judge(&token, &public(Algorithm::Rs256), &Rules::default(), NOW), Err(Refusal::Algorithm));
    let mut keys = public(Algorithm::Rs256);
    keys.add_secret(SECRET, None).unwrap();
    assert_eq!(judge(&token, &keys, &Rules::default(), NOW), Err(Refusal::Signature));
}

#[test]
fn rfc8725_3_2_none_is_no_algorithm() {
    for name in ["none", "None", "NONE", "nOnE"] {
        let unsigned = format!("{}.{}.", part(&format!(r#"{{"alg":"{name}"}}"#)), part(&payload("")));
        for algorithm in Algorithm::ALL {
            assert_eq!(judge(&unsigned, &public(algorithm), &Rules::default(), NOW), Err(Refusal::Algorithm));
        }
        assert_eq!(of_header(&format!(r#"{{"alg":"{name}"}}"#)), Err(Refusal::Algorithm));
    }
}

#[test]
fn rfc8725_3_3_every_signature_is_checked() {
    for (algorithm, other) in [(Algorithm::EdDsa, ED25519_OTHER), (Algorithm::Es256, P256_OTHER)] {
        let token = mint(&SigningKey::from_pem(other).unwrap(), &claims()).unwrap();
        assert_eq!(judge(&token, &public(algorithm), &Rules::default(), NOW), Err(Refusal::Signature));
    }
    let other = SigningKey::from_secret(b"another secret of at least thirty-two bytes").unwrap();
    let token = mint(&other, &claims()).unwrap();
    assert_eq!(judge(&token, &public(Algorithm::Hs256), &Rules::default(), NOW), Err(Refusal::Signature));
    for algorithm in Algorithm::ALL {
        let token = mint(&private(algorithm), &claims()).unwrap();
        let (message, signature) = token.rsplit_once('.').unwrap();
        for wrong in ["", "AA", &signature[..signature.len() - 4], &format!("{signature}AAAA")] {
            let verdict = judge(&format!("{message}.{wrong}"), &public(algorithm), &Rules::default(), NOW);
            assert!(matches!(verdict, Err(Refusal::Signature | Refusal::WrongForm)), "{algorithm:?} {wrong}");
        }
    }
}

#[test]
fn rfc8725_3_3_an_encrypted_token_is_refused() {
    assert_eq!(judge("a.b.c.d.e", &Keys::new(), &Rules::default(), NOW), Err(Refusal::Encrypted));
}

#[test]
fn rfc8725_3_6_compression_is_refused() {
    assert_eq!(of_header(r#"{"alg":"EdDSA","zip":"DEF"}"#), Err(Refusal::HeaderName { name: "zip" }));
}

#[test]
fn rfc8725_3_8_the_issuer_is_that_of_the_rules() {
    let rules = Rules { issuer: Some("https://id.example.com".into()), ..Rules::default() };
    let issued_by = |issuer: Option<&str>| ClaimsToMint { issuer: issuer.map(str::to_owned), ..claims() };
    assert!(of_minted(&issued_by(Some("https://id.example.com")), &rules).is_ok());
    for issuer in [None, Some("https://id.example.com/"), Some(""), Some("HTTPS://id.example.com")] {
        assert_eq!(of_minted(&issued_by(issuer), &rules), Err(Refusal::Issuer), "{issuer:?}");
    }
    assert!(of_minted(&issued_by(Some("anybody")), &Rules::default()).is_ok());
}

#[test]
fn rfc8725_3_9_the_audience_is_that_of_the_rules() {
    let rules = Rules { audience: Some("banter".into()), ..Rules::default() };
    let verdict = |more: &str| verdict_with(HEADER, &payload(more), &rules);
    assert!(verdict(r#","aud":"banter""#).is_ok() && verdict(r#","aud":["other","banter"]"#).is_ok());
    for more in ["", r#","aud":"other""#, r#","aud":[]"#, r#","aud":["other"]"#, r#","aud":"banter2""#] {
        assert_eq!(verdict(more), Err(Refusal::Audience), "{more}");
    }
}

#[test]
fn rfc7519_4_1_3_an_audience_that_nobody_asked_for_is_somebody_else() {
    assert_eq!(of_claims(r#","aud":"banter""#), Err(Refusal::AudienceUnasked));
    assert_eq!(of_claims(r#","aud":[]"#), Err(Refusal::AudienceUnasked));
}

#[test]
fn rfc8725_3_10_a_kid_only_picks_among_the_keys_that_are_here() {
    let mut keys = Keys::new();
    let jwk = |pem, kid: &str| {
        let key = SigningKey::from_pem(pem).unwrap().with_kid(kid);
        (key.public_jwk().unwrap().unwrap(), key)
    };
    let ((one_public, one), (two_public, two)) = (jwk(ED25519, "one"), jwk(ED25519_OTHER, "two"));
    keys.add_jwk(&one_public).unwrap();
    keys.add_jwk(&two_public).unwrap();
    let verdict = |key: &SigningKey| judge(&mint(key, &claims()).unwrap(), &keys, &Rules::default(), NOW);
    assert!(verdict(&one).is_ok() && verdict(&two).is_ok());
    assert_eq!(verdict(&one.clone().with_kid("two")), Err(Refusal::Signature), "the key of that name did not make it");
    for kid in ["three", "", "../../dev/null", "' OR 1=1 --", "one "] {
        assert_eq!(verdict(&one.clone().with_kid(kid)), Err(Refusal::KeyUnknown), "{kid}");
    }
    assert!(verdict(&SigningKey::from_pem(ED25519).unwrap()).is_ok(), "without a kid all are tried");
    for kid in ["7", "null", "[]", "{}", "true"] {
        let header = format!(r#"{{"alg":"EdDSA","kid":{kid}}}"#);
        assert_eq!(of_header(&header), Err(Refusal::WrongForm), "{kid}");
    }
}

#[test]
fn rfc8725_3_10_a_token_brings_no_key_of_its_own() {
    let jwk = private(Algorithm::EdDsa).public_jwk().unwrap().unwrap();
    for (name, value) in [
        ("jku", r#""https://evil.example/jwks""#),
        ("x5u", r#""https://evil.example/x5u""#),
        ("x5c", r#"["MIIB"]"#),
        ("jwk", &jwk),
        ("jku", "null"),
    ] {
        let header = format!(r#"{{"alg":"EdDSA","{name}":{value}}}"#);
        assert_eq!(of_header(&header).unwrap_err().name(), "header", "{name}");
    }
}

#[test]
fn rfc7515_4_1_11_what_must_be_understood_is_not() {
    for value in [r#"["b64"]"#, r#"["exp"]"#, "[]", "null"] {
        let header = format!(r#"{{"alg":"EdDSA","b64":false,"crit":{value}}}"#);
        assert_eq!(of_header(&header), Err(Refusal::HeaderName { name: "crit" }), "{value}");
    }
}

#[test]
fn rfc8725_3_11_a_type_is_that_of_an_access_token() {
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT"] {
        assert!(of_header(&format!(r#"{{"alg":"EdDSA","typ":"{typ}"}}"#)).is_ok(), "{typ}");
    }
    assert!(of_header(HEADER).is_ok());
    for typ in [r#""dpop+jwt""#, r#""logout+jwt""#, r#""""#, "7", "null", r#""JWT ""#, r#"["JWT"]"#] {
        assert_eq!(of_header(&format!(r#"{{"alg":"EdDSA","typ":{typ}}}"#)), Err(Refusal::Type), "{typ}");
    }
}

#[test]
fn rfc8725_3_12_an_identity_provider_says_who_until_when_and_since_when() {
    for (payload, claim) in [
        (format!(r#"{{"sub":"ann","iat":{NOW}}}"#), ClaimName::Expires),
        (format!(r#"{{"sub":"ann","exp":{}}}"#, NOW + 9), ClaimName::Issued),
        (format!(r#"{{"iat":{NOW},"exp":{}}}"#, NOW + 9), ClaimName::User),
    ] {
        let verdict = verdict_with(HEADER, &payload, &Rules::default());
        assert_eq!(verdict, Err(Refusal::Claim { claim, fault: ClaimFault::Missing }), "{payload}");
    }
}

#[test]
fn an_end_has_its_leeway_and_no_more() {
    let ends = |at: u64| of_minted(&ClaimsToMint { expires_seconds: at, ..claims() }, &Rules::default());
    assert!(ends(NOW + 1).is_ok() && ends(NOW).is_ok() && ends(NOW - 4).is_ok());
    assert_eq!(ends(NOW - 5), Err(Refusal::Expired { ago_seconds: 5 }));
    let strict = Rules { leeway_seconds: 0, ..Rules::default() };
    let verdict = of_minted(&ClaimsToMint { expires_seconds: NOW, ..claims() }, &strict);
    assert_eq!(verdict, Err(Refusal::Expired { ago_seconds: 0 }), "RFC 7519, 4.1.4: on or after");
}

#[test]
fn a_beginning_has_its_leeway_and_no_more() {
    let begins = |at| of_minted(&ClaimsToMint { not_before_seconds: Some(at), ..claims() }, &Rules::default());
    assert!(begins(NOW).is_ok() && begins(NOW + 5).is_ok() && begins(0).is_ok());
    assert_eq!(begins(NOW + 6), Err(Refusal::NotYetValid { in_seconds: 6 }));
    let issued = |at| of_minted(&ClaimsToMint { issued_seconds: at, ..claims() }, &Rules::default());
    assert!(issued(NOW + 5).is_ok());
    assert_eq!(issued(NOW + 6), Err(Refusal::IssuedAhead { by_seconds: 6 }));
}

#[test]
fn a_lifetime_has_its_limit() {
    let lives = |issued_seconds, expires_seconds| {
        of_minted(&ClaimsToMint { issued_seconds, expires_seconds, ..claims() }, &Rules::default())
    };
    let refused = Err(Refusal::Lifetime { seconds_max: 86_400 });
    assert!(lives(NOW, NOW + 86_400).is_ok());
    assert_eq!(lives(NOW, NOW + 86_401), refused);
    assert_eq!(lives(0, NOW + 10), refused);
    assert_eq!(lives(NOW, NOW), refused, "nor is it none");
    assert_eq!(lives(NOW + 3, NOW + 1), refused);
    assert_eq!(of_claims("").map(|proof| proof.issued_seconds()), Ok(NOW - 10));
}

#[test]
fn times_at_the_ends_of_numbers_do_no_harm() {
    let rules = Rules { leeway_seconds: u64::MAX, lifetime_seconds_max: u64::MAX, ..Rules::default() };
    let token = mint(&private(Algorithm::Hs256), &claims()).unwrap();
    for now in [0, NOW, u64::MAX] {
        for rules in [&rules, &Rules::default()] {
            let _ = judge(&token, &public(Algorithm::Hs256), rules, now);
        }
    }
    assert!(matches!(
        judge(&token, &public(Algorithm::Hs256), &Rules::default(), u64::MAX),
        Err(Refusal::Expired { .. })
    ));
}

#[test]
fn cve_2026_25537_a_time_in_a_wrong_form_is_never_an_absent_one() {
    let rest = |name: &str| match name {
        "exp" => format!(r#""sub":"ann","iat":{}"#, NOW - 10),
        "iat" => format!(r#""sub":"ann","exp":{}"#, NOW + 900),
        _ => format!(r#""sub":"ann","iat":{},"exp":{}"#, NOW - 10, NOW + 900),
    };
    for name in ["exp", "iat", "nbf"] {
        for (value, fault) in [
            ("null", ClaimFault::NotSeconds),
            ("true", ClaimFault::NotSeconds),
            (r#""1800000900""#, ClaimFault::NotSeconds),
            ("1800000900.0", ClaimFault::NotSeconds),
            ("1.8e9", ClaimFault::NotSeconds),
            ("-1", ClaimFault::NotSeconds),
            ("[1800000900]", ClaimFault::NotSeconds),
            ("{}", ClaimFault::NotSeconds),
            ("99999999999999999999", ClaimFault::NotSeconds),
            ("1800000900000", ClaimFault::BeyondTime),
            ("18446744073709551615", ClaimFault::BeyondTime),
        ] {
            let payload = format!(r#"{{{},"{name}":{value}}}"#, rest(name));
            let verdict = verdict_with(HEADER, &payload, &Rules::default());
            let Err(Refusal::Claim { fault: given, .. }) = verdict else { panic!("{name} {value}: {verdict:?}") };
            assert_eq!(given, fault, "{name} {value}");
        }
    }
}

#[test]
fn a_name_that_stands_twice_is_refused_in_header_and_claims() {
    assert_eq!(of_header(r#"{"alg":"EdDSA","alg":"EdDSA"}"#), Err(Refusal::WrongForm));
    assert_eq!(of_claims(r#","sub":"bob""#), Err(Refusal::WrongForm));
    assert_eq!(of_claims(r#","x":{"a":1,"a":1}"#), Err(Refusal::WrongForm));
    assert_eq!(of_claims(r#","banter":{"rooms":{"a":"member","a":[]}}"#), Err(Refusal::WrongForm));
}

#[test]
fn nobody_becomes_a_guest_by_a_token() {
    for name in ["~gabcdef", "~", guest_name(&[1; 5]).unwrap().as_str()] {
        let verdict = of_minted(&ClaimsToMint::new(name, NOW, NOW + 9), &Rules::default());
        assert_eq!(verdict, Err(Refusal::Claim { claim: ClaimName::User, fault: ClaimFault::GuestName }));
    }
}

#[test]
fn only_base64url_without_padding_in_three_parts_is_a_token() {
    let token = mint(&private(Algorithm::Hs256), &claims()).unwrap();
    let verdict = |token: &str| judge(token, &public(Algorithm::Hs256), &Rules::default(), NOW);
    assert!(verdict(&token).is_ok());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let standard = base64::prelude::BASE64_STANDARD.encode(BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap());
    for wrong in [
        format!("{token}="),
        format!("{message}.{standard}"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{message}.{signature}."),
        message.to_owned(),
        format!(".{token}"),
        "..".to_owned(),
        "a.b".to_owned(),
        String::new(),
        "ü.ü.ü".to_owned(),
        token.replace('.', " "),
    ] {
        assert_eq!(verdict(&wrong), Err(Refusal::WrongForm), "{wrong}");
    }
    // 256 bits end within a letter: what is behind them is refused, so that a token has one text.
    let last = signature.chars().last().unwrap();
    let twins = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".chars().filter(|&twin| twin != last);
    for twin in twins {
        let verdict = verdict(&format!("{message}.{}{twin}", &signature[..signature.len() - 1]));
        assert!(matches!(verdict, Err(Refusal::WrongForm | Refusal::Signature)), "{twin}");
    }
}

#[test]
fn a_token_has_its_limit_in_bytes() {
    let verdict = |token: &str| judge(token, &public(Algorithm::Hs256), &Rules::default(), NOW);
    assert_eq!(verdict(&"a".repeat(4_096)), Err(Refusal::WrongForm));
    assert_eq!(verdict(&"a".repeat(4_097)), Err(Refusal::TooLong));
    let padded = |bytes: usize| {
        mint_raw(
            &private(Algorithm::Hs256),
            r#"{"alg":"HS256"}"#,
            &payload(&format!(r#","x":"{}""#, "x".repeat(bytes))),
        )
    };
    let fitting = (2_900..3_100).map(|bytes| padded(bytes).unwrap()).rfind(|token| token.len() <= TOKEN_BYTES_MAX);
    assert!(verdict(&fitting.unwrap()).is_ok());
}

#[test]
fn a_header_that_is_no_object_with_an_alg_is_refused() {
    for header in
        ["", "[]", "null", "7", "{", r#"{"typ":"JWT"}"#, r#"{"alg":7}"#, r#"{"alg":null}"#, "{\"alg\":\"\u{1}\"}"]
    {
        assert_eq!(of_header(header), Err(Refusal::WrongForm), "{header}");
    }
    assert!(of_header(r#"{"alg":"EdDSA","x5t":"abc","cty":"x","unknown":[1]}"#).is_ok(), "others are not looked at");
}

#[test]
fn without_a_kid_at_most_four_keys_are_tried() {
    let mut keys = Keys::new();
    for filler in 0..3_u8 {
        keys.add_secret(&[filler; 32], None).unwrap();
    }
    keys.add_pem(P256_PUBLIC).unwrap();
    keys.add_secret(SECRET, None).unwrap();
    let token = mint(&private(Algorithm::Hs256), &claims()).unwrap();
    assert!(judge(&token, &keys, &Rules::default(), NOW).is_ok(), "the fourth; keys of other kinds are not tried");
    let mut more = Keys::new();
    for filler in 0..4_u8 {
        more.add_secret(&[filler; 32], None).unwrap();
    }
    more.add_secret(SECRET, None).unwrap();
    assert_eq!(judge(&token, &more, &Rules::default(), NOW), Err(Refusal::Signature), "the fifth");
}

#[test]
fn a_kid_that_no_key_has_means_the_keys_without_one() {
    let token = mint(&private(Algorithm::EdDsa).with_kid("backend-1"), &claims()).unwrap();
    assert!(judge(&token, &public(Algorithm::EdDsa), &Rules::default(), NOW).is_ok());
    let mut mixed = public(Algorithm::EdDsa);
    let other = SigningKey::from_pem(P256_OTHER).unwrap().with_kid("provider");
    mixed.add_jwk(&other.public_jwk().unwrap().unwrap()).unwrap();
    assert!(judge(&token, &mixed, &Rules::default(), NOW).is_ok());
    // A name that a newer set may have, so that asking for it is worth it.
    let newer = mint(&SigningKey::from_pem(ED25519_OTHER).unwrap().with_kid("newer"), &claims()).unwrap();
    assert_eq!(judge(&newer, &mixed, &Rules::default(), NOW), Err(Refusal::KeyUnknown));
    assert_eq!(unknown_kid(&newer, &mixed).as_deref(), Some("newer"));
    assert_eq!(unknown_kid(&mint(&other, &claims()).unwrap(), &mixed), None);
    assert_eq!(unknown_kid("a.b.c", &mixed), None);
    assert_eq!(judge(&newer, &public(Algorithm::EdDsa), &Rules::default(), NOW), Err(Refusal::Signature));
    assert_eq!(judge(&token, &Keys::new(), &Rules::default(), NOW), Err(Refusal::KeyUnknown));
}

#[test]
fn nothing_is_said_of_claims_before_the_signature_is_checked() {
    let forged = format!("{}.{}.AAAA", part(HEADER), part(r#"{"exp":"never"}"#));
    assert_eq!(judge(&forged, &public(Algorithm::EdDsa), &Rules::default(), NOW), Err(Refusal::Signature));
    let forged = format!("{}.{}.AAAA", part(HEADER), part("no json"));
    assert_eq!(judge(&forged, &public(Algorithm::EdDsa), &Rules::default(), NOW), Err(Refusal::Signature));
    assert_eq!(verdict_with(HEADER, "no json", &Rules::default()), Err(Refusal::WrongForm));
}

#[test]
fn claims_are_found_where_the_rules_say() {
    let rules = Rules {
        user_claim: "https://example.com/claims.uid".parse().unwrap(),
        rooms_claim: "chat.rights".parse().unwrap(),
        ..Rules::default()
    };
    let mut claims = claims();
    claims.user_claim = rules.user_claim.clone();
    claims.rooms_claim = rules.rooms_claim.clone();
    claims.rooms = vec![(Pattern::new("*").unwrap(), Rights::READ)];
    let proof = of_minted(&claims, &rules).unwrap();
    assert_eq!((proof.user().as_str(), proof.rights("lobby")), ("ann", Rights::READ));
    let verdict = of_minted(&claims, &Rules::default());
    assert_eq!(verdict, Err(Refusal::Claim { claim: ClaimName::User, fault: ClaimFault::Missing }));
}

#[test]
fn every_refusal_has_a_name_and_no_message_holds_the_token() {
    let token = mint(&private(Algorithm::Hs256), &claims()).unwrap();
    let name = "x";
    let claim = Refusal::Claim { claim: ClaimName::Rooms, fault: ClaimFault::NotRooms };
    for refusal in [
        Refusal::TooLong,
        Refusal::WrongForm,
        Refusal::Encrypted,
        Refusal::HeaderName { name },
        Refusal::Type,
        Refusal::Algorithm,
        Refusal::KeyUnknown,
        Refusal::Signature,
        Refusal::Expired { ago_seconds: 7 },
        Refusal::NotYetValid { in_seconds: 7 },
        Refusal::IssuedAhead { by_seconds: 7 },
        Refusal::Lifetime { seconds_max: 7 },
        Refusal::Issuer,
        Refusal::Audience,
        Refusal::AudienceUnasked,
        claim,
    ] {
        assert!(Refusal::NAMES.contains(&refusal.name()), "{refusal:?}");
        assert!(refusal.to_string().len() > 20);
        assert!(token.split('.').all(|part| !refusal.to_string().contains(part)));
    }
    let keys = public(Algorithm::Hs256);
    assert!(!format!("{keys:?}").contains("secret of at least"), "nor does a set of keys show its secret");
    assert!(!format!("{:?}", private(Algorithm::Hs256)).contains("secret of at least"));
}
