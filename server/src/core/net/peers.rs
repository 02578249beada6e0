//! Who connects: a place for the peer's address beside each accept in flight, which the kernel fills.
//!
//! Invariant: a place belongs to one accept from [`PeerPlaces::take`] until its completion is given back with
//! [`PeerPlaces::read`], and never moves, so the kernel writes nobody else's address and no freed memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use banter_chat::table::Table;

/// Bytes of the longest address that a TCP socket has (`sockaddr_in6`).
const ADDRESS_BYTES: usize = 28;
const FAMILY_V4: u16 = libc::AF_INET as u16;
const FAMILY_V6: u16 = libc::AF_INET6 as u16;

/// What the kernel is given of one accept.
#[derive(Debug)]
#[repr(C, align(4))]
struct PeerPlace {
    address: [u8; ADDRESS_BYTES],
    /// Bytes that there are, and then those that the address has.
    bytes: libc::socklen_t,
}

impl PeerPlace {
    const EMPTY: PeerPlace = PeerPlace { address: [0; ADDRESS_BYTES], bytes: ADDRESS_BYTES as libc::socklen_t };

    /// The address, as [`IpAddr::to_canonical`] has it; `::` where the kernel said none.
    fn read(&self) -> IpAddr {
        let [family_low, family_high, _, _, a, b, c, d, v6 @ ..] = &self.address;
        match u16::from_ne_bytes([*family_low, *family_high]) {
            FAMILY_V4 => Ipv4Addr::new(*a, *b, *c, *d).into(),
            FAMILY_V6 => {
                let mut address = [0; 16];
                address.copy_from_slice(&v6[..16]);
                IpAddr::from(address).to_canonical()
            }
            _ => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// The places of a ring.
#[derive(Debug, Default)]
pub struct PeerPlaces {
    places: Table<PeerPlace>,
    free: Vec<u32>,
}

/// Where an accept puts its peer's address.
pub struct Taken {
    /// Which place it is.
    pub place: u32,
    /// For the address.
    pub address: *mut libc::sockaddr,
    /// For its length in bytes.
    pub bytes: *mut libc::socklen_t,
}

impl PeerPlaces {
    /// A place for another accept.
    pub fn take(&mut self) -> Taken {
        if self.free.is_empty() {
            let before = self.places.len();
            self.places.grow_to_hold(before, || PeerPlace::EMPTY);
            self.free.extend((before as u32..self.places.len() as u32).rev());
        }
        let place = self.free.pop().unwrap_or_default();
        let entry = &mut self.places[place as usize];
        *entry = PeerPlace::EMPTY;
        Taken { place, address: entry.address.as_mut_ptr().cast(), bytes: &raw mut entry.bytes }
    }

    /// The address that an accept brought; its place is free again.
    pub fn read(&mut self, place: u32) -> IpAddr {
        self.free.push(place);
        self.places[place as usize].read()
    }

    /// Every place, in use or not.
    pub fn all(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.places.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(family: u16, rest: &[u8]) -> IpAddr {
        let mut place = PeerPlace::EMPTY;
        place.address[..2].copy_from_slice(&family.to_ne_bytes());
        place.address[2..2 + rest.len()].copy_from_slice(rest);
        place.read()
    }

    #[test]
    fn an_address_is_read_as_the_kernel_writes_it() {
        assert_eq!(placed(FAMILY_V4, &[0x1e, 0xc6, 192, 0, 2, 7]), IpAddr::from([192, 0, 2, 7]));
        let v6: Ipv6Addr = "2001:db8::1:2".parse().unwrap();
        let v6_rest = |address: Ipv6Addr| [&[0x1e, 0xc6, 0, 0, 0, 0][..], &address.octets(), &[9, 0, 0, 0]].concat();
        assert_eq!(placed(FAMILY_V6, &v6_rest(v6)), v6);
        let mapped = Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped();
        assert_eq!(placed(FAMILY_V6, &v6_rest(mapped)), IpAddr::from([192, 0, 2, 7]), "one client has one address");
        assert_eq!(placed(0, &[1; 26]), Ipv6Addr::UNSPECIFIED);
    }

    #[test]
    fn places_in_use_are_distinct_and_come_again() {
        let mut places = PeerPlaces::default();
        let mut taken: Vec<u32> = (0..200).map(|_| places.take().place).collect();
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 200);
        let before = places.all().count();
        for place in taken {
            places.read(place);
        }
        for _ in 0..200 {
            places.take();
        }
        assert_eq!(places.all().count(), before);
    }
}
