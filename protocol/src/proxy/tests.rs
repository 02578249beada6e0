//! Headers of proxies: the examples of the specification, what is refused, and any bytes at all.

use proptest::prelude::*;

use super::*;

/// The specification's example of a line (section 2.1), and the longest line of each family there.
const LINE: &[u8] = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
const LONGEST_V4: &[u8] = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n";
const LONGEST_V6: &[u8] =
    b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
    65535 65535\r\n";
const LONGEST_UNKNOWN: &[u8] = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

/// A header of version 2 as section 2.2 lays it out.
fn binary(version_command: u8, family_transport: u8, rest: &[u8]) -> Vec<u8> {
    let fixed = [version_command, family_transport];
    [START_V2, &fixed, &(rest.len() as u16).to_be_bytes(), rest].concat()
}

fn v4(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[172, 19, 0, 3], &42_578_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
}

fn v6(source: &str) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().expect(source);
    [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0xa6, 0x52, 0, 80]].concat()
}

/// The source of a header that is whole, with a client's bytes behind it; every shorter part of it is partial.
fn source(header: &[u8]) -> Option<IpAddr> {
    for cut in 0..header.len() {
        assert_eq!(parse_proxy_header(&header[..cut]), Ok(ProxyHeader::Partial), "cut at {cut}");
    }
    let with_client = [header, b"GET / HTTP/1.1\r\n"].concat();
    match parse_proxy_header(&with_client) {
        Ok(ProxyHeader::Complete { consumed, source }) if consumed == header.len() => source,
        other => panic!("{other:?} of {header:?}"),
    }
}

fn fault(header: &[u8]) -> ProxyFault {
    parse_proxy_header(header).expect_err("a header that is none")
}

#[test]
fn lines_of_the_specification_are_read() {
    assert_eq!(source(LINE), Some(address("192.168.0.1")));
    assert_eq!((LONGEST_V4.len(), source(LONGEST_V4)), (56, Some(address("255.255.255.255"))));
    let v6 = Some(address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
    assert_eq!((LONGEST_V6.len(), source(LONGEST_V6)), (104, v6));
    assert_eq!(source(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!((LONGEST_UNKNOWN.len(), source(LONGEST_UNKNOWN)), (LINE_BYTES_MAX, None));
    assert_eq!(source(b"PROXY TCP6 2001:DB8::1 ::1 0 1\r\n"), Some(address("2001:db8::1")));
    assert_eq!(
        source(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 1\r\n"),
        Some(address("192.0.2.7")),
        "one client, one address"
    );
}

#[test]
fn headers_of_the_second_version_are_read() {
    // As HAProxy sends it for 172.19.0.1:42578 to 172.19.0.3:80.
    let sent = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c\xac\x13\x00\x01\xac\x13\x00\x03\xa6\x52\x00\x50";
    assert_eq!(source(sent), Some(address("172.19.0.1")));
    assert_eq!(binary(0x21, 0x11, &v4([172, 19, 0, 1])), sent);
    assert_eq!(source(&binary(0x21, 0x21, &v6("2001:db8::7"))), Some(address("2001:db8::7")));
    assert_eq!(source(&binary(0x21, 0x21, &v6("::ffff:192.0.2.7"))), Some(address("192.0.2.7")));
    assert_eq!(source(&binary(0x21, 0x31, &[b'/'; 216])), None, "a UNIX socket has no address");
    assert_eq!(source(&binary(0x21, 0x00, b"whatever")), None);
}

#[test]
fn a_proxy_that_speaks_for_itself_has_no_source_whatever_it_says_of_addresses() {
    for rest in [&b""[..], &v4([192, 0, 2, 7])] {
        for family_transport in [0x00, 0x11, 0x21, 0xff] {
            assert_eq!(source(&binary(0x20, family_transport, rest)), None);
        }
    }
}

#[test]
fn what_is_added_behind_the_addresses_is_passed_over_up_to_the_limit() {
    let added = |bytes: usize| binary(0x21, 0x11, &[v4([192, 0, 2, 7]), vec![0; bytes]].concat());
    let most = PROXY_BYTES_MAX - FIXED_BYTES_V2 - 12;
    assert_eq!(source(&added(9)), Some(address("192.0.2.7")));
    assert_eq!(source(&added(most)), Some(address("192.0.2.7")));
    assert_eq!(fault(&added(most + 1)), ProxyFault::TooLarge);
    assert_eq!(fault(&added(most + 1)[..FIXED_BYTES_V2]), ProxyFault::TooLarge, "told by its length alone");
}

#[test]
fn a_line_that_is_not_exactly_one_is_refused() {
    for (line, says) in [
        ("PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        ("PROXY UNKNOWNX\r\n", "family"),
        ("PROXY \r\n", "family"),
        ("PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", "addresses"),
        ("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", "addresses"),
        ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "addresses"),
        ("PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", "addresses"),
        ("PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n", "addresses"),
        ("PROXY TCP4 192.0.2.1\r\n", "addresses"),
        ("PROXY TCP6 fe80::1%1 ::1 1 2\r\n", "addresses"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", "ports"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "ports"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "ports"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "ports"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "ports"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n\r\n", "ports"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rGET / HTTP/1.1\r\n", "ports"),
    ] {
        assert!(fault(line.as_bytes()).to_string().contains(says), "{line:?}: {}", fault(line.as_bytes()));
    }
    assert_eq!(fault(b"PROXY TCP4 \xff\r\n"), ProxyFault::Malformed("no text"));
    let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
    assert_eq!(parse_proxy_header(&endless[..LINE_BYTES_MAX - 1]), Ok(ProxyHeader::Partial));
    assert!(fault(&endless[..LINE_BYTES_MAX]).to_string().contains("107"));
}

#[test]
fn a_second_version_that_is_not_as_it_must_be_is_refused() {
    for version_command in [0x00, 0x11, 0x22, 0x2f, 0x31] {
        assert!(
            fault(&binary(version_command, 0x11, &v4([1; 4]))).to_string().contains("version"),
            "{version_command:#x}"
        );
    }
    for family_transport in [0x01, 0x10, 0x12, 0x13, 0x20, 0x22, 0x30, 0x32, 0x41, 0xff] {
        let fault = fault(&binary(0x21, family_transport, &[0; 300]));
        assert!(fault.to_string().contains("family"), "{family_transport:#x}");
    }
    for (family_transport, bytes) in [(0x11, 12), (0x21, 36), (0x31, 216)] {
        assert!(fault(&binary(0x21, family_transport, &vec![0; bytes - 1])).to_string().contains("too short"));
        source(&binary(0x21, family_transport, &vec![0; bytes]));
    }
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for start in [START_V1, START_V2] {
        for at in 0..start.len() {
            let mut bytes = start[..=at].to_vec();
            bytes[at] ^= 0x20;
            assert_eq!(fault(&bytes), ProxyFault::Missing, "byte {at}");
        }
    }
    assert_eq!(fault(b"GET / HTTP/1.1\r\n"), ProxyFault::Missing);
    assert_eq!(fault(&crate::frame::PREAMBLE), ProxyFault::Missing);
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_however_they_are_cut(
        version in 0_u8..4, bytes in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(),
    ) {
        let start = [&b""[..], START_V1, START_V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"][usize::from(version)];
        let bytes = [start, &bytes].concat();
        let cut = at.index(bytes.len() + 1);
        match parse_proxy_header(&bytes[..cut]) {
            Ok(ProxyHeader::Partial) => {}
            decided => prop_assert_eq!(decided, parse_proxy_header(&bytes), "more bytes change nothing"),
        }
    }

    #[test]
    fn what_a_proxy_writes_is_read_back(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), ports in any::<(u16, u16)>()) {
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        let line = format!("PROXY TCP4 {v4} {v4} {} {}\r\n", ports.0, ports.1);
        prop_assert_eq!(source(line.as_bytes()), Some(v4.into()));
        let line = format!("PROXY TCP6 {v6} {v6} {} {}\r\n", ports.0, ports.1);
        prop_assert_eq!(source(line.as_bytes()), Some(IpAddr::V6(v6).to_canonical()));
        let octets = [&v6.octets()[..], &v6.octets(), &ports.0.to_be_bytes(), &ports.1.to_be_bytes()].concat();
        prop_assert_eq!(source(&binary(0x21, 0x21, &octets)), Some(IpAddr::V6(v6).to_canonical()));
    }
}
