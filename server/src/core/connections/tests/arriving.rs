//! Who comes in, by the address that a connection is for: what is counted, given back, and told.

use banter_access::address::Cidr;
use banter_access::gate::Proxies;
use banter_access::limit::Limit;

use super::*;
use crate::core::arrivals::UNWELCOME_MAX;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const BOB: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

fn one_a_piece() -> Limits {
    Limits { connections_per_ip_max: 1, ..Limits::default() }
}

fn behind(limits: Limits, say_header: bool) -> Rig {
    let trusted = [Cidr::single(PROXY)].into();
    Rig::behind(limits, Entrance { proxies: Proxies { trusted, say_header }, cores: 1, ..Entrance::default() })
}

fn accept(rig: &mut Rig, slot: u32, from: IpAddr) -> bool {
    rig.connections.accepted(slot, from, 0, &mut rig.net);
    rig.connections.arrivals.unwelcome(slot).is_none() && rig.connections.stage(slot) == Stage::Handshake
}

fn refused(rig: &Rig, limit: Limit) -> u64 {
    rig.connections.counters.limits.refused(limit)
}

#[test]
fn who_has_gone_gives_its_place_back_once() {
    let mut rig = Rig::new(one_a_piece());
    assert!(accept(&mut rig, 0, ANN) && !accept(&mut rig, 1, ANN) && accept(&mut rig, 2, BOB));
    rig.connections.closed(1);
    assert!(!accept(&mut rig, 1, ANN), "one that was turned away had none");
    rig.connections.closed(0);
    rig.connections.closed(1);
    assert!(accept(&mut rig, 0, ANN) && !accept(&mut rig, 1, ANN));
}

#[test]
fn behind_a_header_the_visitor_is_judged_and_known() {
    let mut rig = behind(one_a_piece(), true);
    let header = |visitor: IpAddr| format!("PROXY TCP4 {visitor} 198.51.100.1 1 2\r\n").into_bytes();
    for slot in 0..3 {
        assert!(accept(&mut rig, slot, PROXY), "the proxy itself is nobody");
    }
    rig.receive(0, &header(ANN));
    rig.receive(1, &[header(ANN), PREAMBLE.to_vec()].concat());
    rig.receive(2, &header(BOB));
    assert_eq!(rig.connections.address(rig.connections.id(0)), Some(ANN));
    assert_eq!((rig.connections.stage(1), refused(&rig, Limit::ConnectionsPerIp)), (Stage::LastWords, 1));
    assert!(rig.connections.arrivals.unwelcome(2).is_none());
    rig.connections.closed(0);
    assert!(accept(&mut rig, 0, PROXY));
    rig.receive(0, &header(ANN));
    assert!(rig.connections.arrivals.unwelcome(0).is_none(), "the visitor's place is free");
}

#[test]
fn a_proxy_that_says_unknown_is_itself_and_has_no_limit() {
    let mut rig = behind(one_a_piece(), true);
    for slot in 0..4 {
        accept(&mut rig, slot, PROXY);
        rig.receive(slot, b"PROXY UNKNOWN\r\n");
        rig.receive(slot, UPGRADE);
        assert_eq!(rig.connections.stage(slot), Stage::Open);
        assert_eq!(rig.connections.address(rig.connections.id(slot)), Some(PROXY));
    }
}

#[test]
fn a_proxy_that_speaks_http_names_the_visitor_in_its_request() {
    let mut rig = behind(one_a_piece(), false);
    let upgrade = String::from_utf8_lossy(UPGRADE).replace("Host: h", "Host: h\r\nX-Forwarded-For: 192.0.2.1");
    let stages = [Stage::Open, Stage::LastWords].map(|expected| {
        let slot = u32::from(expected == Stage::LastWords);
        accept(&mut rig, slot, PROXY);
        rig.receive(slot, upgrade.as_bytes());
        (rig.connections.stage(slot), expected)
    });
    assert!(stages.iter().all(|(stage, expected)| stage == expected), "{stages:?}");
    assert_eq!(rig.connections.address(rig.connections.id(0)), Some(ANN));
    // Of who is no proxy it is not believed.
    assert!(accept(&mut rig, 2, BOB));
    rig.receive(2, upgrade.as_bytes());
    assert_eq!((rig.connections.stage(2), rig.connections.address_of(2)), (Stage::Open, BOB));
}

#[test]
fn a_place_of_the_unproved_is_given_back_by_hello_by_a_refusal_and_by_going() {
    let mut rig = Rig::new(Limits { connections_unproved_max: 2, connections_per_ip_max: 3, ..Limits::default() });
    rig.greeted(0);
    rig.greeted(1);
    assert!(accept(&mut rig, 2, ANN));
    assert!(!accept(&mut rig, 3, ANN), "its address has all that it may");
    assert!(accept(&mut rig, 4, BOB), "one that was turned away has none");
    assert!(!accept(&mut rig, 5, BOB));
    assert_eq!(refused(&rig, Limit::ConnectionsUnproved), 1);
    rig.connections.closed(2);
    assert!(accept(&mut rig, 2, ANN));
}

#[test]
fn so_many_are_told_why_and_the_others_are_closed() {
    let mut rig = Rig::new(one_a_piece());
    accept(&mut rig, 0, ANN);
    let many = UNWELCOME_MAX as u32 + 10;
    let told = (1..=many).filter(|&slot| !accept(&mut rig, slot, ANN)).count();
    assert_eq!(told, many as usize);
    let is_closing = |rig: &Rig, slot| rig.connections.stage(slot) == Stage::Closing;
    assert_eq!((1..=many).filter(|&slot| is_closing(&rig, slot)).count(), 10);
    rig.connections.closed(1);
    accept(&mut rig, 1, ANN);
    assert!(!is_closing(&rig, 1), "one place to be told is free");
    assert_eq!(refused(&rig, Limit::ConnectionsPerIp), u64::from(many) + 1);
}
