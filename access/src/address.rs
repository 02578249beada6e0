//! Addresses as access is judged by them: ranges (CIDR), and the source that one limit is for.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Whom a limit by address is for: an IPv4 address, or an IPv6 /64, which is what one subscriber is given (RFC 6177).
/// An IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2) is that IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 address.
    V4(u32),
    /// The upper 64 bits of an IPv6 address.
    V6(u64),
}

impl Source {
    /// Whom the address belongs to.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address.to_bits()),
            IpAddr::V6(address) => Source::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// Why a range of addresses is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrFault {
    /// No address, or no address and prefix length.
    #[error("it must be an address, or an address and a prefix length like 10.0.0.0/8 or 2001:db8::/32")]
    Form,
    /// A prefix longer than an address.
    #[error("the prefix length must be from 0 to {bits_max}")]
    PrefixTooLong {
        /// 32 or 128.
        bits_max: u8,
    },
    /// The address has bits behind the prefix: either it or the length is not what was meant.
    #[error("the address has bits behind its prefix of {prefix_bits} bits: that range begins at {begins}")]
    BitsBehindPrefix {
        /// The prefix's length, in bits.
        prefix_bits: u8,
        /// The range's first address.
        begins: IpAddr,
    },
}

/// A range of addresses (RFC 4632, RFC 4291): one address, or all that share a prefix. One of IPv4 addresses mapped
/// into IPv6 is the range of those IPv4 addresses; no other range of IPv6 holds an IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    family: Family,
    prefix_bits: u8,
    begins: u128,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// Bits of the prefix in which IPv4 addresses are mapped.
const MAPPED_BITS: u8 = 96;

impl Cidr {
    /// The addresses that share the first `prefix_bits` bits with that one.
    ///
    /// # Errors
    /// When the prefix is longer than the address, or the address has bits behind it.
    pub fn new(address: IpAddr, prefix_bits: u8) -> Result<Self, CidrFault> {
        let written = Self::family_and_bits(address).0;
        if prefix_bits > written.bits() {
            return Err(CidrFault::PrefixTooLong { bits_max: written.bits() });
        }
        let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
        let (address, prefix_bits) = match prefix_bits.checked_sub(MAPPED_BITS) {
            Some(rest) if mapped => (address.to_canonical(), rest),
            _ => (address, prefix_bits),
        };
        let (family, bits) = Self::family_and_bits(address);
        let range = Self::around(family, bits, prefix_bits);
        if range.begins == bits {
            Ok(range)
        } else {
            Err(CidrFault::BitsBehindPrefix { prefix_bits, begins: range.first() })
        }
    }

    /// The range of that address alone.
    pub fn single(address: IpAddr) -> Self {
        let (family, begins) = Self::family_and_bits(address.to_canonical());
        Cidr { family, prefix_bits: family.bits(), begins }
    }

    /// The range of that length that holds the address; none if no prefix of its family is that long.
    pub(crate) fn holding(address: IpAddr, prefix_bits: u8) -> Option<Self> {
        let (family, bits) = Self::family_and_bits(address.to_canonical());
        (prefix_bits <= family.bits()).then(|| Self::around(family, bits, prefix_bits))
    }

    /// Whether the address is in it.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::holding(address, self.prefix_bits) == Some(self)
    }

    /// Bits that its addresses share.
    pub fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    /// Its first address.
    pub fn first(self) -> IpAddr {
        match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(self.begins as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(self.begins)),
        }
    }

    fn family_and_bits(address: IpAddr) -> (Family, u128) {
        match address {
            IpAddr::V4(address) => (Family::V4, address.to_bits().into()),
            IpAddr::V6(address) => (Family::V6, address.to_bits()),
        }
    }

    fn around(family: Family, bits: u128, prefix_bits: u8) -> Self {
        let free_bits = u32::from(family.bits() - prefix_bits);
        let mask = u128::MAX.checked_shl(free_bits).unwrap_or(0);
        Cidr { family, prefix_bits, begins: bits & mask }
    }
}

impl FromStr for Cidr {
    type Err = CidrFault;

    fn from_str(text: &str) -> Result<Self, CidrFault> {
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::single).map_err(|_| CidrFault::Form);
        };
        let address = address.parse().map_err(|_| CidrFault::Form)?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CidrFault::Form);
        }
        // Three digits may be above 255, which is above every length too.
        Self::new(address, length.parse().unwrap_or(u8::MAX))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_bits == self.family.bits() {
            write!(formatter, "{}", self.first())
        } else {
            write!(formatter, "{}/{}", self.first(), self.prefix_bits)
        }
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Cidr({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn holds(text: &str, address: &str) -> bool {
        range(text).contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_what_shares_its_prefix() {
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0") && holds("0.0.0.0/0", "9.9.9.9"));
        assert!(holds("2001:db8::/32", "2001:db8:ffff::1") && !holds("2001:db8::/32", "2001:db9::"));
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.8") && holds("::1", "::1"));
        assert!(holds("::/0", "::1") && holds("192.0.2.6/31", "192.0.2.7"));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3") && holds("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert_eq!(range("::ffff:10.0.0.0/104"), range("10.0.0.0/8"));
        assert_eq!(range("::ffff:192.0.2.7"), range("192.0.2.7"));
        assert_eq!(range("::ffff:0:0/96").to_string(), "0.0.0.0/0");
        assert!(!holds("::/0", "10.1.2.3") && !holds("::/0", "::ffff:10.1.2.3") && !holds("0.0.0.0/0", "::1"));
    }

    #[test]
    fn a_range_that_is_none_is_refused_with_its_reason() {
        let fault = |text: &str| text.parse::<Cidr>().unwrap_err();
        for text in ["", "/", "10.0.0.0/", "10.0.0/8", "10.0.0.0/ 8", "10.0.0.0/+8", "10.0.0.0/-1", "x/8", "::1/0128"] {
            assert_eq!(fault(text), CidrFault::Form, "{text}");
        }
        assert_eq!(fault("10.0.0.0/33"), CidrFault::PrefixTooLong { bits_max: 32 });
        assert_eq!(fault("10.0.0.0/999"), CidrFault::PrefixTooLong { bits_max: 32 });
        assert_eq!(fault("::/129"), CidrFault::PrefixTooLong { bits_max: 128 });
        assert!(fault("10.1.2.3/8").to_string().ends_with("that range begins at 10.0.0.0"));
        assert!(matches!(fault("::ffff:0:0/95"), CidrFault::BitsBehindPrefix { .. }));
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_a_64() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_ne!(source("0.0.0.0"), source("::"));
    }

    proptest! {
        #[test]
        fn a_range_comes_back_from_its_text(bits in any::<u128>(), prefix_bits in 0_u8..=128, v4 in any::<bool>()) {
            let address = if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            };
            if let Some(range) = Cidr::holding(address, prefix_bits) {
                prop_assert_eq!(range.to_string().parse(), Ok(range));
                prop_assert!(range.contains(address) && range.contains(range.first()));
            }
        }

        #[test]
        fn any_text_is_judged_without_a_panic(text in "[0-9a-f:./]{0,45}") {
            let _ = text.parse::<Cidr>();
        }
    }
}
