//! Whom a proxy that speaks HTTP speaks for: the addresses of `X-Forwarded-For`, read from the right.
//!
//! Each proxy writes at the right end who connected to it, behind whatever that one wrote, so what stands left of the first
//! address that is no proxy's own may be anything.
//!
//! Invariant: what is believed was written by a trusted proxy. A word that is no address, or no text, ends the reading there, and
//! hides nothing that stands right of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The rightmost address that is not trusted, in canonical form. `values` are the header's lines as they came. Where all are
/// trusted it is the leftmost; none where the rightmost word is no address, or there is none.
pub fn forwarded_for<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut last = None;
    let words = values.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    for word in words.filter(|word| !word.is_empty()) {
        let Some(address) = std::str::from_utf8(word).ok().and_then(parse_address) else { return last };
        last = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    last
}

/// An address as proxies write it: alone, in brackets, or with a port.
fn parse_address(word: &str) -> Option<IpAddr> {
    let bracketed = || word.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || word.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let alone = word.parse::<Ipv4Addr>().map(IpAddr::V4).or_else(|_| word.parse::<Ipv6Addr>().map(IpAddr::V6)).ok();
    alone.or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn visitor(values: &[&str]) -> Option<String> {
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        forwarded_for(values.iter().map(|value| value.as_bytes()), is_trusted).map(|address| address.to_string())
    }

    #[test]
    fn what_is_no_text_hides_nothing_right_of_it() {
        let named = |value: &[u8]| forwarded_for([value].into_iter(), |_| false).map(|address| address.to_string());
        assert_eq!(named(b"\xff, 192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(named(b"192.0.2.1, \xff"), None);
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_visitor() {
        for (values, expected) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["198.51.100.9, 192.0.2.1"], Some("192.0.2.1")),
            (&["192.0.2.1, 10.0.0.1"], Some("192.0.2.1")),
            (&["198.51.100.9,192.0.2.1 ,10.0.0.1,10.0.0.2"], Some("192.0.2.1")),
            (&["198.51.100.9", "192.0.2.1", "10.0.0.1"], Some("192.0.2.1")),
            (&["10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
            (&["2001:DB8::1"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["[2001:db8::1]:443"], Some("2001:db8::1")),
            (&["192.0.2.1:443"], Some("192.0.2.1")),
            (&["::ffff:192.0.2.1"], Some("192.0.2.1")),
            (&["::ffff:192.0.2.1, ::ffff:10.0.0.1"], Some("192.0.2.1")),
            (&[""], None),
            (&[], None),
            (&[" , ,"], None),
        ] {
            assert_eq!(visitor(values).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn what_stands_left_of_a_word_that_is_no_address_is_not_believed() {
        assert_eq!(visitor(&["192.0.2.1, unknown"]), None);
        assert_eq!(visitor(&["192.0.2.1, unknown, 10.0.0.1"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(visitor(&["unknown, 192.0.2.1"]).as_deref(), Some("192.0.2.1"));
        for word in ["192.0.2", "192.0.2.1.", "[192.0.2.1]", "[2001:db8::1", "fe80::1%eth0", "192.0.2.1:", "a:1", "_x"]
        {
            assert_eq!(visitor(&[word]), None, "{word}");
        }
    }

    proptest! {
        #[test]
        fn what_a_visitor_writes_itself_changes_nothing(forged in "[0-9a-f:., \\[\\]]{0,60}") {
            let in_one_line = format!("{forged}, 192.0.2.1");
            for values in [&[&forged, "192.0.2.1, 10.0.0.1"][..], &[&in_one_line]] {
                let found = visitor(values);
                prop_assert_eq!(found.as_deref(), Some("192.0.2.1"));
            }
        }
    }
}
