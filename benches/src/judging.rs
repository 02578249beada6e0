//! What the verdict over a token takes, by algorithm, and what it takes when the token comes again.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banter_access::keys::{Algorithm, Keys};
use banter_access::mint::{ClaimsToMint, MintFault, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_access::token::Rules;
use banter_loadgen::measure::Latencies;
use banter_loadgen::report::Quantiles;
use banter_server::control::auth::Judge;
use clap::Parser;
use serde::Serialize;

/// How long a token of the bench lasts.
const LIFETIME_SECONDS: u64 = 3_600;
/// The keys that the tests sign with: anybody has them.
const RSA_2048: &str = include_str!("../../access/tests/keys/rsa2048-a.pem");
const P256: &str = include_str!("../../access/tests/keys/p256-a.pem");
const ED25519: &str = include_str!("../../access/tests/keys/ed25519-a.pem");
const SECRET: &[u8] = b"a secret of more than thirty-two bytes, for benches";
/// What tokens give in rooms, as an application's do.
const ROOMS: [&str; 3] = ["lobby", "inbox-{user}", "team-7-*"];

/// Judges tokens one after another, as the server's thread does, and says how long each verdict took.
#[derive(Debug, Parser)]
#[command(name = "access-judge", version)]
pub struct Args {
    /// Different tokens of each algorithm, in turn
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub tokens: u32,
    /// Seconds for each algorithm, and again for tokens that come again
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// The verdicts over the tokens of one algorithm.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Judged {
    pub algorithm: &'static str,
    pub token_bytes: usize,
    /// Each judged by its signature.
    pub verdict_us: Quantiles,
    /// Each remembered from before.
    pub again_us: Quantiles,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Report {
    pub tokens: u32,
    pub algorithms: Vec<Judged>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:<10}{:>8}{:>10}{:>10}{:>10}{:>12}{:>10}",
            "us", "bytes", "mean", "p50", "p99", "again, mean", "p99"
        )?;
        for Judged { algorithm, token_bytes, verdict_us, again_us } in &self.algorithms {
            let Quantiles { mean, p50, p99, .. } = verdict_us;
            write!(out, "\n{algorithm:<10}{token_bytes:>8}{mean:>10.2}{p50:>10.2}{p99:>10.2}")?;
            write!(out, "{:>12.2}{:>10.2}", again_us.mean, again_us.p99)?;
        }
        Ok(())
    }
}

/// Judges them.
///
/// # Errors
/// When a key makes no token, or a token is not taken.
pub fn run(args: &Args) -> Result<Report, String> {
    report(args.tokens, Duration::from_secs(args.seconds))
}

fn report(tokens: u32, time: Duration) -> Result<Report, String> {
    let algorithms = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa, Algorithm::Hs256];
    let judged = algorithms.map(|algorithm| judged(algorithm, tokens, time));
    Ok(Report { tokens, algorithms: judged.into_iter().collect::<Result<_, _>>()? })
}

fn judged(algorithm: Algorithm, tokens: u32, time: Duration) -> Result<Judged, String> {
    let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let key = signing_key(algorithm).map_err(|fault| fault.to_string())?;
    let tokens: Result<Vec<_>, _> = (0..tokens).map(|number| mint(&key, &claims(number, now_seconds))).collect();
    let tokens = tokens.map_err(|fault| fault.to_string())?;
    // One that remembers nothing judges each token as if it had never come.
    let anew = verdicts(&mut judge(&key, 0)?, &tokens, now_seconds, time)?;
    // In two generations, of which each has to hold them all.
    let mut remembering = judge(&key, 2 * tokens.len() + 2)?;
    tokens.iter().try_for_each(|token| take(&mut remembering, token, now_seconds))?;
    let again = verdicts(&mut remembering, &tokens, now_seconds, time)?;
    Ok(Judged {
        algorithm: algorithm.name(),
        token_bytes: tokens.first().map_or(0, String::len),
        verdict_us: Quantiles::of(&anew),
        again_us: Quantiles::of(&again),
    })
}

fn signing_key(algorithm: Algorithm) -> Result<SigningKey, MintFault> {
    match algorithm {
        Algorithm::Rs256 => SigningKey::from_pem(RSA_2048),
        Algorithm::Es256 => SigningKey::from_pem(P256),
        Algorithm::EdDsa => SigningKey::from_pem(ED25519),
        Algorithm::Hs256 => SigningKey::from_secret(SECRET),
    }
}

fn claims(number: u32, now_seconds: u64) -> ClaimsToMint {
    let pattern = |room| Pattern::new(room).map(|pattern| (pattern, Rights::MEMBER));
    let (token_id, session) = (Some(format!("token-{number}")), Some(format!("session-{number}")));
    let rooms = ROOMS.into_iter().flat_map(pattern).collect();
    let claims = ClaimsToMint::new(&format!("user-{number}"), now_seconds, now_seconds + LIFETIME_SECONDS);
    ClaimsToMint { rooms, token_id, session, ..claims }
}

fn judge(key: &SigningKey, verdicts_max: usize) -> Result<Judge, String> {
    let mut keys = Keys::new();
    match key.public_jwk().map_err(|fault| fault.to_string())? {
        Some(jwk) => keys.add_jwk(&jwk),
        None => keys.add_secret(SECRET, None),
    }
    .map_err(|fault| fault.to_string())?;
    Ok(Judge::new(keys, Rules::default(), verdicts_max))
}

fn take(judge: &mut Judge, token: &str, now_seconds: u64) -> Result<(), String> {
    let proof = judge.judge(black_box(token), now_seconds);
    drop(black_box(proof.map_err(|refusal| format!("a token of the bench is not taken: {refusal:?}"))?));
    Ok(())
}

/// How long each verdict takes, until the time is over.
fn verdicts(judge: &mut Judge, tokens: &[String], now_seconds: u64, time: Duration) -> Result<Latencies, String> {
    let (mut latencies, started) = (Latencies::default(), Instant::now());
    let mut begun_at = started;
    for token in tokens.iter().cycle() {
        take(judge, token, now_seconds)?;
        let ended_at = Instant::now();
        latencies.record(ended_at - begun_at);
        if ended_at - started >= time {
            break;
        }
        begun_at = ended_at;
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithms_tokens_are_taken_and_timed_both_ways() {
        let report = report(3, Duration::ZERO).unwrap();
        let names: Vec<_> = report.algorithms.iter().map(|judged| judged.algorithm).collect();
        assert_eq!(names, ["RS256", "ES256", "EdDSA", "HS256"]);
        assert!(report.algorithms.iter().all(|judged| judged.verdict_us.count > 0 && judged.again_us.count > 0));
        assert_eq!(report.to_string().lines().count(), 5);
    }
}
