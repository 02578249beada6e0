//! Names that the server gives to guests: `~g` and letters from random bytes that the caller brings.

use banter_protocol::ids::UserName;

/// What a guest's name begins with, and no other user's ever does: tokens that name such a user are refused.
pub const GUEST_PREFIX: char = '~';
/// Fewest random bytes of a name: 32 bits, 6 letters.
pub const GUEST_RANDOM_BYTES_MIN: usize = 4;
/// Most random bytes of a name: 160 bits, 32 letters.
pub const GUEST_RANDOM_BYTES_MAX: usize = 20;

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

#[cfg(test)]
mod tests {
    use super::*;

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
