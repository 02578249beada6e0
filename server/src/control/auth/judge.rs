//! What tokens are judged by, and what it remembers of those that were good, so that who comes back costs a hash.
//!
//! Invariants:
//! - Only what was judged good is remembered, and is good only until it ends: a refusal is always judged anew, and so is what
//!   has ended.
//! - What is remembered goes with the keys and rules that it was judged by: each judge remembers for itself.
//! - Revocations are judged behind it, on the cores, so that a token which is remembered is refused like any other.

use std::collections::HashMap;
use std::sync::Arc;

use banter_access::keys::Keys;
use banter_access::proof::Proof;
use banter_access::token::{self, Refusal, Rules};
use banter_chat::proving::NotProved;

use super::{AuthFault, read_keys};
use crate::config::TokenAuth;
use crate::control::jwks::JwksDesk;

/// Tokens that are remembered at most, of all cores. One takes some 50 bytes of a table; its proof is the connection's own, and
/// some 130 bytes more only when that has gone.
pub const VERDICTS_MAX: usize = 65_536;

/// The first half of a token's BLAKE3 hash: nothing in memory gives the token back. Who would be taken for somebody else has to
/// find a second text for the hash of a token that a key has signed, which 128 bits keep as far away as a key does.
type TokenHash = [u8; 16];

fn hash_of(token: &str) -> TokenHash {
    let hash = blake3::hash(token.as_bytes());
    std::array::from_fn(|at| hash.as_bytes()[at])
}

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
    pub fn judge(&mut self, token: &str, now_seconds: u64) -> Result<Arc<Proof>, NotProved> {
        let hash = hash_of(token);
        if let Some(proof) = self.good.find(&hash)
            && !proof.is_expired(now_seconds, self.rules.leeway_seconds)
        {
            return Ok(proof);
        }
        match token::judge(token, &self.keys, &self.rules, now_seconds) {
            Ok(proof) => {
                let proof = Arc::new(proof);
                self.good.remember(hash, proof.clone());
                Ok(proof)
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

/// Tokens that were judged good, in two generations: the newer one becomes the older one when it is full, and what the older one
/// held and nobody has asked for since is forgotten.
#[derive(Default)]
struct Good {
    verdicts_max: usize,
    newer: HashMap<TokenHash, Arc<Proof>>,
    older: HashMap<TokenHash, Arc<Proof>>,
}

impl Good {
    fn find(&mut self, hash: &TokenHash) -> Option<Arc<Proof>> {
        if let Some(proof) = self.newer.get(hash) {
            return Some(proof.clone());
        }
        let proof = self.older.remove(hash)?;
        self.remember(*hash, proof.clone());
        Some(proof)
    }

    fn remember(&mut self, hash: TokenHash, proof: Arc<Proof>) {
        if self.newer.len() >= self.verdicts_max / 2 {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(hash, proof);
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
        assert!(judge.good.newer.is_empty() && judge.good.older.is_empty());
        assert!(judge.judge(&token, 1_000).is_ok());
    }

    #[test]
    fn above_the_bound_those_go_that_nobody_asked_for_longest() {
        let mut judge = judge(4);
        let tokens = ["ann", "bob", "cid", "dan", "eve"].map(|user| token(user, 2_000));
        let [ann, bob, cid, dan, eve] = &tokens;
        for token in [ann, bob, cid, ann, dan, eve] {
            assert!(judge.judge(token, 1_000).is_ok());
            assert!(judge.good.newer.len() + judge.good.older.len() <= 4);
        }
        let remembered = tokens.iter().map(|token| is_remembered(&mut judge, token));
        assert_eq!(remembered.collect::<Vec<_>>(), [true, false, false, true, true]);
        // The same one again takes no second place.
        let mut judge = self::judge(4);
        (0..5).for_each(|_| assert!(judge.judge(ann, 1_000).is_ok()));
        assert_eq!((judge.good.newer.len(), judge.good.older.len()), (1, 0));
    }

    #[test]
    fn who_comes_back_shares_the_proof_of_the_first_time() {
        let (mut judge, token) = (judge(4), token("ann", 2_000));
        let (first, again) = (judge.judge(&token, 1_000).unwrap(), judge.judge(&token, 1_000).unwrap());
        assert!(Arc::ptr_eq(&first, &again));
    }
}
