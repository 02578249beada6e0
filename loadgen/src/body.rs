//! A body that says which post it belongs to, so that nobody need keep the bodies to check them.
//!
//! It is a JSON text: 16 hex digits of a number (the token), then a filler that every body of the run shares.

/// Hex digits of the token.
const TOKEN_BYTES: usize = 16;
/// The smallest body: the token and its quotes.
pub const PAYLOAD_BYTES_MIN: usize = TOKEN_BYTES + 2;

/// A body with room for the token.
#[derive(Clone, Debug)]
pub struct Template(Vec<u8>);

impl Template {
    /// For bodies of that size, quotes included.
    pub fn new(payload_bytes: usize) -> Self {
        let filler = b"the quick brown fox jumps over the lazy dog; ";
        let mut body = vec![b'"'];
        body.extend_from_slice(&[b'0'; TOKEN_BYTES]);
        body.extend(filler.iter().cycle().take(payload_bytes.saturating_sub(PAYLOAD_BYTES_MIN)));
        body.push(b'"');
        Template(body)
    }

    /// The body of that token.
    pub fn write(&mut self, token: u64) -> &[u8] {
        for (index, digit) in self.0[1..=TOKEN_BYTES].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(token >> (60 - 4 * index)) as usize & 0xF];
        }
        &self.0
    }

    /// The token of a body; `None` where it is not as long, or has other bytes than one that was written.
    #[inline]
    pub fn read(&self, body: &[u8]) -> Option<u64> {
        let filler = 1 + TOKEN_BYTES..;
        if body.len() != self.0.len() || body[0] != b'"' || body[filler.clone()] != self.0[filler] {
            return None;
        }
        read_hex(&body[1..=TOKEN_BYTES])
    }
}

#[inline]
fn read_hex(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    for &digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u64::from(value);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_any_other_filler_is_seen() {
        let mut template = Template::new(40);
        for token in [0, 1, 0x0123_4567_89AB_CDEF, u64::MAX] {
            let body = template.write(token).to_vec();
            assert_eq!((body.len(), template.read(&body)), (40, Some(token)));
            assert!(serde_json::from_slice::<&str>(&body).is_ok());
            for index in [0, 17, 39] {
                let mut bad = body.clone();
                bad[index] ^= 1;
                assert_eq!(template.read(&bad), None, "byte {index}");
            }
            assert_eq!(template.read(&body[..39]), None);
        }
        assert_eq!(template.read(b""), None);
        assert_eq!(template.read(&[b'"'; 40]), None);
    }
}
