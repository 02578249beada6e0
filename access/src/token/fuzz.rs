//! Whatever anybody changes in a token, it is refused, and nothing ends the judge; and what a verdict costs.

use proptest::prelude::*;

use super::tests::{
    ED25519_PUBLIC, HEADER, NOW, P256_PUBLIC, RSA_PUBLIC, SECRET, claims, of_header, payload, private, public,
    verdict_with,
};
use super::*;
use crate::mint::mint;
use crate::pattern::Pattern;
use crate::rights::Rights;

/// xorshift64*: enough to change tokens by, and replayable by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below.max(1)
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    for algorithm in Algorithm::ALL {
        let (token, keys) = (mint(&private(algorithm), &claims()).unwrap(), public(algorithm));
        for at in 0..token.len() {
            for bit in 0..8 {
                let mut bytes = token.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                if let Ok(changed) = String::from_utf8(bytes) {
                    assert!(judge(&changed, &keys, &Rules::default(), NOW).is_err(), "{algorithm:?} {at} {bit}");
                }
            }
        }
    }
}

/// `ACCESS_FUZZ_SEED` replays one, `ACCESS_FUZZ_ROUNDS` makes it longer.
#[test]
fn no_changed_token_is_taken_and_none_ends_the_judge() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ACCESS_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64 | 1
    });
    let rounds = number("ACCESS_FUZZ_ROUNDS").unwrap_or(20_000);
    println!("ACCESS_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let mut all = Keys::new();
    for pem in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        all.add_pem(pem).unwrap();
    }
    all.add_secret(SECRET, None).unwrap();
    let tokens = Algorithm::ALL.map(|algorithm| mint(&private(algorithm), &claims()).unwrap());
    for _ in 0..rounds {
        let token = &tokens[random.next(4)];
        let changed = changed(token, &tokens[random.next(4)], &mut random);
        if let Ok(text) = String::from_utf8(changed) {
            let taken = judge(&text, &all, &Rules::default(), NOW).is_ok();
            assert!(!taken || tokens.contains(&text), "seed {seed}: {text}");
        }
    }
    // Behind the signature: whatever a maker of tokens writes.
    for _ in 0..rounds / 10 {
        let written = payload(r#","aud":"x","banter":{"rooms":{"a":["read"]},"posts_per_second":5},"sid":"s"}"#);
        let written = String::from_utf8_lossy(&self::changed(&written, HEADER, &mut random)).into_owned();
        let _ = verdict_with(HEADER, &written, &Rules::default());
        let header = String::from_utf8_lossy(&self::changed(HEADER, &written, &mut random)).into_owned();
        let _ = of_header(&header);
    }
}

fn changed(text: &str, other: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.next(4) {
        let (at, other_at) = (random.next(bytes.len()), random.next(other.len()));
        match random.next(7) {
            0 => bytes[at] ^= 1 << random.next(8),
            1 => bytes.truncate(at.max(1)),
            2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, b".{}\"=A-_\0\xff,:[]"[random.next(14)]),
            4 => bytes.splice(at.., other.bytes().skip(other_at)).for_each(drop),
            5 => bytes.extend_from_within(at..),
            _ => {
                let with = other_at % bytes.len();
                bytes.swap(at, with);
            }
        }
        if bytes.is_empty() {
            bytes.push(b'.');
        }
    }
    bytes
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in ".*", header in ".*", payload in ".*") {
        let _ = judge(&text, &public(Algorithm::Hs256), &Rules::default(), NOW);
        let _ = verdict_with(&header, &payload, &Rules::default());
    }
}

/// What a verdict costs: `cargo test --release -p banter-access --lib cost -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn the_cost_of_a_verdict() {
    let mut claims = claims();
    claims.session = Some("2dVYl4yzR0mQk1xF7oTg3A".into());
    claims.token_id = claims.session.clone();
    claims.rooms =
        ["lobby", "team-7-*", "inbox-{user}"].map(|text| (Pattern::new(text).unwrap(), Rights::MEMBER)).into();
    for algorithm in Algorithm::ALL {
        let (token, keys) = (mint(&private(algorithm), &claims).unwrap(), public(algorithm));
        let mut rounds: Vec<f64> = (0..9)
            .map(|_| {
                let begun = std::time::Instant::now();
                for _ in 0..500 {
                    std::hint::black_box(judge(std::hint::black_box(&token), &keys, &Rules::default(), NOW)).unwrap();
                }
                begun.elapsed().as_secs_f64() * 1e6 / 500.0
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("{} {} bytes: {:.1} us (least {:.1})", algorithm.name(), token.len(), rounds[4], rounds[0]);
    }
    let proof =
        judge(&mint(&private(Algorithm::Hs256), &claims).unwrap(), &public(Algorithm::Hs256), &Rules::default(), NOW);
    let (proof, begun) = (proof.unwrap(), std::time::Instant::now());
    for _ in 0..100_000 {
        std::hint::black_box(proof.rights(std::hint::black_box("team-7-lobby")));
    }
    println!("rights of 3 patterns in a room: {:.0} ns", begun.elapsed().as_secs_f64() * 1e9 / 1e5);
}
