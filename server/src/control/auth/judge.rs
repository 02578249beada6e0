//! What tokens are judged by, and what it remembers of those that were good, so that who comes back costs a hash.
//!
//! Invariants:
//! - Only what was judged good is remembered, and only until it ends: a refusal is always judged anew, and so is what has ended.
//! - What is remembered goes with the keys and rules that it was judged by: each judge remembers for itself.
//! - Revocations are judged behind it, on the cores, so that a token which is remembered is refused like any other.

use std::collections::{BTreeSet, HashMap};

use banter_access::keys::Keys;
use banter_access::proof::Proof;
use banter_access::token::{self, Refusal, Rules};
use banter_chat::proving::NotProved;

use super::{AuthFault, read_keys};
use crate::config::TokenAuth;
use crate::control::jwks::JwksDesk;

/// Tokens that are remembered at most, of all cores; above it the one goes that ends first. One takes some 400 bytes: its proof,
/// and its hash in a table and in a tree.
pub const VERDICTS_MAX: usize = 65_536;

/// The BLAKE3 hash of a token: nothing in memory gives the token back.
type TokenHash = [u8; blake3::OUT_LEN];

/// What the configuration itself says: its keys, and what a token must say.
#[derive(Clone, Default)]
pub struct OwnKeys {
    keys: Keys,
    rules: Rules,
}

impl OwnKeys {
    /// Reads the keys that the configuration names.
    ///
    /// # Errors
    /// One cannot be read, or is none.
    pub fn read(auth: &TokenAuth) -> Result<Self, AuthFault> {
        Ok(OwnKeys { keys: read_keys(auth)?, rules: auth.rules.clone() })
    }
}

/// Keys and rules, and the tokens that they took.
pub struct Judge {
    keys: Keys,
    rules: Rules,
    /// The address that some of the keys come from, and the version of those.
    jwks: Option<(JwksDesk, u64)>,
    good: Good,
}

impl Judge {
    /// By these keys and rules, and with so many tokens remembered at most.
    #[must_use]
    pub fn new(keys: Keys, rules: Rules, verdicts_max: usize) -> Self {
        Judge { keys, rules, jwks: None, good: Good { verdicts_max, ..Good::default() } }
    }

    /// By the configuration's keys, and those that are known of the address.
    #[must_use]
    pub fn of(own: &OwnKeys, jwks: Option<&JwksDesk>) -> Self {
        let OwnKeys { mut keys, rules } = own.clone();
        let jwks = jwks.map(|desk| (desk.clone(), desk.add_to(&mut keys)));
        Judge { jwks, ..Judge::new(keys, rules, VERDICTS_MAX) }
    }

    /// How many keys it has.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Judges a token at that second since 1970.
    ///
    /// # Errors
    /// Why it proves nothing.
    pub fn judge(&mut self, token: &str, now_seconds: u64) -> Result<Box<Proof>, NotProved> {
        let hash = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(proof) = self.good.find(&hash)
            && !proof.is_expired(now_seconds, self.rules.leeway_seconds)
        {
            return Ok(Box::new(proof.clone()));
        }
        match token::judge(token, &self.keys, &self.rules, now_seconds) {
            Ok(proof) => {
                self.good.remember(hash, proof.clone());
                Ok(Box::new(proof))
            }
            Err(refusal) => Err(self.refused(token, &refusal)),
        }
    }

    fn refused(&self, token: &str, refusal: &Refusal) -> NotProved {
        match refusal {
            Refusal::Expired { .. } => NotProved::Expired(refusal.to_string()),
            Refusal::KeyUnknown | Refusal::Signature | Refusal::Algorithm if self.may_have(token) => {
                NotProved::Unavailable
            }
            _ => NotProved::Refused(refusal.to_string()),
        }
    }

    /// Whether the key that a token needs may come from the address.
    fn may_have(&self, token: &str) -> bool {
        let kid = token::unknown_kid(token, &self.keys);
        self.jwks.as_ref().is_some_and(|(desk, version)| desk.may_have(kid.as_deref(), *version))
    }
}

/// Tokens that were judged good. Both hold the same hashes.
#[derive(Default)]
struct Good {
    verdicts_max: usize,
    proofs: HashMap<TokenHash, Proof>,
    /// By their ends, in seconds since 1970.
    ends: BTreeSet<(u64, TokenHash)>,
}

impl Good {
    fn find(&self, hash: &TokenHash) -> Option<&Proof> {
        self.proofs.get(hash)
    }

    fn remember(&mut self, hash: TokenHash, proof: Proof) {
        self.ends.insert((proof.expires_seconds(), hash));
        self.proofs.insert(hash, proof);
        while self.proofs.len() > self.verdicts_max
            && let Some((_, first)) = self.ends.pop_first()
        {
            self.proofs.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use banter_access::mint::{ClaimsToMint, SigningKey, mint};

    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn judge(verdicts_max: usize) -> Judge {
        let mut keys = Keys::new();
        keys.add_secret(SECRET, None).unwrap();
        Judge::new(keys, Rules::default(), verdicts_max)
    }

    fn token(user: &str, ends: u64) -> String {
        mint(&SigningKey::from_secret(SECRET).unwrap(), &ClaimsToMint::new(user, 1_000, ends)).unwrap()
    }

    /// Whether it is taken where no key can take it any more, so that nothing but memory does.
    fn is_remembered(judge: &mut Judge, token: &str) -> bool {
        let keys = std::mem::take(&mut judge.keys);
        let verdict = judge.judge(token, 1_000);
        judge.keys = keys;
        verdict.is_ok()
    }

    #[test]
    fn a_token_that_was_taken_is_taken_again_without_a_key() {
        let (mut judge, token) = (judge(10), token("ann", 2_000));
        assert!(!is_remembered(&mut judge, &token));
        let first = judge.judge(&token, 1_000).unwrap();
        assert!(is_remembered(&mut judge, &token));
        assert_eq!(judge.judge(&token, 1_500).unwrap(), first);
    }

    #[test]
    fn while_no_key_of_the_address_is_there_nobody_is_told_that_his_token_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let mut own = OwnKeys::default();
        own.keys.add_secret(SECRET, None).unwrap();
        let mut judge = Judge::of(&own, Some(&JwksDesk::open("u", folder.path())));
        assert!(judge.judge(&token("ann", 2_000), 1_000).is_ok(), "a key of its own took it");
        let other = SigningKey::from_secret(b"fedcba9876543210fedcba9876543210").unwrap();
        let claims = ClaimsToMint::new("ann", 1_000, 2_000);
        for key in [other.clone(), other.with_kid("next")] {
            assert_eq!(judge.judge(&mint(&key, &claims).unwrap(), 1_000), Err(NotProved::Unavailable));
        }
        // What no key could mend is refused.
        assert!(matches!(judge.judge("abc", 1_000), Err(NotProved::Refused(_))));
        assert!(matches!(judge.judge(&token("ann", 1_010), 1_100), Err(NotProved::Expired(_))));
    }

    #[test]
    fn what_is_remembered_ends_when_the_token_does() {
        let (mut judge, token) = (judge(10), token("ann", 2_000));
        judge.judge(&token, 1_000).unwrap();
        assert!(judge.judge(&token, 2_004).is_ok(), "within the leeway");
        assert!(matches!(judge.judge(&token, 2_005), Err(NotProved::Expired(why)) if why.contains("ended 5 s ago")));
    }

    #[test]
    fn another_token_and_a_changed_one_are_not_remembered() {
        let (mut judge, ann) = (judge(10), token("ann", 2_000));
        judge.judge(&ann, 1_000).unwrap();
        for other in [token("bob", 2_000), token("ann", 2_001), format!("{ann}A"), ann[..ann.len() - 1].to_owned()] {
            assert!(!is_remembered(&mut judge, &other), "{other}");
        }
    }

    #[test]
    fn a_refusal_is_never_remembered() {
        let (mut judge, token) = (judge(10), token("ann", 2_000));
        assert!(judge.judge(&token, 900).is_err(), "it is made in the future");
        assert!(judge.good.proofs.is_empty() && judge.good.ends.is_empty());
        assert!(judge.judge(&token, 1_000).is_ok());
    }

    #[test]
    fn above_the_bound_who_ends_first_goes_first() {
        let mut judge = judge(2);
        let tokens = [1_900, 1_700, 1_800].map(|ends| token("ann", ends));
        tokens.iter().for_each(|token| assert!(judge.judge(token, 1_000).is_ok()));
        let remembered = tokens.iter().map(|token| is_remembered(&mut judge, token));
        assert_eq!(remembered.collect::<Vec<_>>(), [true, false, true]);
        // The same one again takes no second place.
        (0..5).for_each(|_| assert!(judge.judge(&tokens[1], 1_000).is_ok()));
        assert_eq!((judge.good.proofs.len(), judge.good.ends.len()), (2, 2));
    }
}
