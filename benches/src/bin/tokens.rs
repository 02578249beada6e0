//! Measures what it takes to judge a token, by algorithm, when it comes for the first time and when it comes again.

use std::hint::black_box;
use std::time::Instant;

use banter_access::keys::Keys;
use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_access::token::Rules;
use banter_server::control::auth::{Judge, VERDICTS_MAX};
use banter_server::key_tool::{KeyKind, KeyPair};
use clap::Parser;

/// When the tokens are made and judged, in seconds since 1970.
const NOW_SECONDS: u64 = 1_790_000_000;

/// How often.
#[derive(Parser)]
struct Flags {
    /// Different tokens of each algorithm
    #[arg(long, default_value_t = 10_000)]
    tokens: u64,
    /// A private key of RSA as PEM of PKCS #8, for RS256: openssl genpkey -algorithm RSA
    #[arg(long)]
    rsa_key: Option<std::path::PathBuf>,
}

fn main() {
    let flags = Flags::parse();
    let pair = |kind| SigningKey::from_pem(KeyPair::make(kind).expect("a key").private_pem()).expect("a key");
    let mut keys = vec![
        SigningKey::from_secret(b"0123456789abcdef0123456789abcdef").expect("a key"),
        pair(KeyKind::Ed25519),
        pair(KeyKind::P256),
    ];
    if let Some(path) = &flags.rsa_key {
        let text = std::fs::read_to_string(path).expect("the key can be read");
        keys.push(SigningKey::from_pem(&text).expect("a key"));
    }
    println!("algorithm  first, µs a token  again, µs a token");
    for key in &keys {
        let [first, again] = measured(key, flags.tokens);
        println!("{:9}  {first:17.2}  {again:17.2}", key.algorithm().name());
    }
}

/// Microseconds a token, the first time and the second.
fn measured(key: &SigningKey, count: u64) -> [f64; 2] {
    let mut keys = Keys::new();
    match key.public_jwk().expect("a key") {
        Some(jwk) => keys.add_jwk(&jwk).expect("a key"),
        None => keys.add_secret(b"0123456789abcdef0123456789abcdef", None).expect("a key"),
    }
    let tokens: Vec<String> = (0..count).map(|number| token(key, number)).collect();
    let mut judge = Judge::new(keys, Rules::default(), VERDICTS_MAX);
    [(); 2].map(|()| {
        let begun = Instant::now();
        for token in &tokens {
            assert!(black_box(judge.judge(token, NOW_SECONDS)).is_ok());
        }
        begun.elapsed().as_secs_f64() * 1e6 / count as f64
    })
}

/// An ordinary token: a user, ids and three patterns.
fn token(key: &SigningKey, number: u64) -> String {
    let grant = |pattern: &str| (Pattern::new(pattern).expect("a pattern"), Rights::MEMBER);
    let claims = ClaimsToMint {
        token_id: Some(format!("token-{number:016}")),
        session: Some(format!("session-{number:014}")),
        rooms: ["lobby", "team-7-*", "inbox-{user}"].map(grant).into(),
        ..ClaimsToMint::new(&format!("user-{number}"), NOW_SECONDS - 60, NOW_SECONDS + 3_600)
    };
    mint(key, &claims).expect("a token")
}
