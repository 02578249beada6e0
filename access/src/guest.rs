//! Names that the server gives to guests: `~g` and letters from random bytes that the caller brings.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use banter_protocol::ids::UserName;

/// What a guest's name begins with, and no other user's ever does: tokens that name such a user are refused.
pub const GUEST_PREFIX: char = '~';
/// What the name of a program of rooms begins with: nobody comes in under one.
pub const PROGRAM_PREFIX: char = '@';
/// Fewest random bytes of a name: 32 bits, 6 letters.
pub const GUEST_RANDOM_BYTES_MIN: usize = 4;
/// Most random bytes of a name: 160 bits, 32 letters.
pub const GUEST_RANDOM_BYTES_MAX: usize = 20;

/// Random bytes that all names of a server's run are made from.
pub const GUEST_SEED_BYTES: usize = 32;
/// Bytes of a digest that a name is made from: 60 bits of them in 12 letters, so that among a million guests two share a name
/// once in two million times.
const NAME_BYTES: usize = 8;

/// The alphabet of RFC 4648, 6 (base32) in lower case: no 0, 1, 8 or 9, which are read as letters.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Why no name is made: the caller brought too few or too many random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a guest's name is made of 4 to 20 random bytes, and not of {bytes}")]
pub struct GuestFault {
    /// How many it brought.
    pub bytes: usize,
}

/// Whether it is a guest's name.
pub fn is_guest(user: &str) -> bool {
    user.starts_with(GUEST_PREFIX)
}

/// A guest's name: `~g` and 5 bits of the random bytes a letter; what is left over is not used.
///
/// # Errors
/// With fewer than 4 or more than 20 random bytes.
pub fn guest_name(random: &[u8]) -> Result<UserName, GuestFault> {
    let fault = GuestFault { bytes: random.len() };
    if !(GUEST_RANDOM_BYTES_MIN..=GUEST_RANDOM_BYTES_MAX).contains(&random.len()) {
        return Err(fault);
    }
    let mut name = format!("{GUEST_PREFIX}g");
    let (mut waiting, mut bits) = (0_u32, 0_u32);
    for &byte in random {
        waiting = (waiting << 8 | u32::from(byte)) & 0xfff;
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            let letter = waiting >> bits & 31;
            name.push(char::from(ALPHABET.get(letter as usize).copied().unwrap_or(b'a')));
        }
    }
    UserName::new(&name).map_err(|_| fault)
}

/// What the names of guests are made from, so that nobody but the server knows the next one: random bytes, taken once for a run,
/// and a number for each guest. It shows itself nowhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GuestSeed([u8; GUEST_SEED_BYTES]);

impl GuestSeed {
    /// Of random bytes.
    pub fn new(random: [u8; GUEST_SEED_BYTES]) -> Self {
        GuestSeed(random)
    }

    /// The name of the guest with that number, which no other guest of the run may have.
    ///
    /// # Errors
    /// Never, since a name always has the same number of bytes.
    pub fn name(&self, number: u128) -> Result<UserName, GuestFault> {
        let mut context = Context::new(&SHA256);
        context.update(&self.0);
        context.update(&number.to_be_bytes());
        let digest = context.finish();
        guest_name(digest.as_ref().get(..NAME_BYTES).unwrap_or_default())
    }
}

impl fmt::Debug for GuestSeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GuestSeed")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_guest_has_a_name_of_its_own_and_another_in_the_next_run() {
        let names = |seed: u8| -> Vec<UserName> {
            (0..10_000).map(|number| GuestSeed::new([seed; 32]).name(number << 32).unwrap()).collect()
        };
        let (first, second) = (names(1), names(2));
        assert!(first.iter().all(|name| is_guest(name.as_str()) && name.as_str().len() == 14), "{:?}", first[0]);
        assert_eq!(first, names(1));
        assert_eq!(first.iter().chain(&second).collect::<BTreeSet<_>>().len(), 20_000);
        assert_eq!(format!("{:?}", GuestSeed::new([7; 32])), "GuestSeed");
    }

    #[test]
    fn a_guests_name_is_base32_of_its_random_bytes() {
        // The vectors of RFC 4648, 10, as far as whole letters go.
        assert_eq!(guest_name(b"foob").unwrap().as_str(), "~gmzxw6y");
        assert_eq!(guest_name(b"fooba").unwrap().as_str(), "~gmzxw6ytb");
        assert_eq!(guest_name(&[255; 20]).unwrap().as_str().len(), 34);
        assert_eq!(guest_name(&[0; 4]).unwrap().as_str(), "~gaaaaaa");
    }

    #[test]
    fn a_guest_is_known_by_its_first_character() {
        assert!(is_guest(guest_name(&[7; 5]).unwrap().as_str()));
        assert!(!is_guest("g~") && !is_guest(""));
    }

    #[test]
    fn too_few_and_too_many_random_bytes_make_no_name() {
        assert_eq!(guest_name(&[0; 3]), Err(GuestFault { bytes: 3 }));
        assert_eq!(guest_name(&[0; 21]), Err(GuestFault { bytes: 21 }));
    }
}
