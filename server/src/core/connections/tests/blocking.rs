//! Addresses that are revoked while connections from there are open, and before others come.

use banter_access::address::Cidr;
use banter_access::gate::Proxies;
use banter_access::revocation::{Revocation, Subject};

use super::*;
use banter_chat::turn::ENDS_A_TURN;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const BOB: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));
const YEAR_2100: u64 = 4_102_444_800;

fn subject(range: &str) -> Subject {
    Subject::Address(range.parse().expect(range))
}

fn revoke(rig: &mut Rig, range: &str) {
    let revocation = Revocation::new(subject(range), None, YEAR_2100).expect("a revocation");
    assert_eq!(rig.connections.revoke(&revocation), Ok(true));
}

/// Whether a WebSocket was told `revoked`, and closed with 4403.
fn was_told(rig: &Rig, slot: u32) -> bool {
    let sent = rig.sent.iter().filter(|(sent_to, _)| *sent_to == slot).flat_map(|(_, bytes)| bytes.clone());
    let sent: Vec<u8> = sent.collect();
    rig.count(slot, r#""code":"revoked""#) == 1 && sent.windows(2).any(|code| code == 4_403_u16.to_be_bytes())
}

#[test]
fn who_is_there_from_a_revoked_range_is_told_and_ended_and_others_stay() {
    let mut rig = Rig::new(Limits::default());
    (0..3).for_each(|slot| rig.greeted(slot));
    rig.greeted_from(3, BOB);
    rig.connections.accepted(4, ANN, 0, &mut rig.net);
    revoke(&mut rig, "192.0.2.0/24");
    assert!(rig.connections.has_backlog(), "a core at rest looks for them at once");
    rig.turn();
    (0..3).for_each(|slot| rig.take(slot));
    rig.turn();
    let are_there: Vec<bool> = (0..4).map(|slot| rig.is_there(slot)).collect();
    assert_eq!(are_there, [false, false, false, true]);
    assert!((0..3).all(|slot| was_told(&rig, slot)) && !was_told(&rig, 3));
    assert_eq!(rig.connections.stage(4), Stage::Closing, "who has said nothing yet is not told");
    assert_eq!((rig.connections.counters.revoked_connections, rig.connections.has_backlog()), (4, false));
}

#[test]
fn who_came_behind_a_revocation_is_told_why_although_the_walk_meets_it() {
    let mut rig = Rig::new(Limits::default());
    rig.greeted_from(3, BOB);
    revoke(&mut rig, "192.0.2.1");
    rig.connections.accepted(0, ANN, 0, &mut rig.net);
    rig.connections.accepted(1, ANN, 0, &mut rig.net);
    rig.receive(1, UPGRADE);
    assert!(rig.connections.has_backlog());
    rig.turn();
    assert!(!rig.connections.has_backlog(), "it met both");
    rig.receive(0, UPGRADE);
    assert_eq!((rig.connections.stage(0), rig.connections.stage(1)), (Stage::LastWords, Stage::LastWords));
}

#[test]
fn nobody_comes_in_from_a_revoked_address_until_it_is_lifted() {
    let mut rig = Rig::new(Limits::default());
    revoke(&mut rig, "192.0.2.1");
    for (slot, first) in [(0, UPGRADE), (1, &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..]), (2, &PREAMBLE)] {
        rig.connections.accepted(slot, ANN, 0, &mut rig.net);
        rig.receive(slot, first);
        assert_eq!(rig.connections.stage(slot), Stage::LastWords, "{slot}");
    }
    rig.greeted_from(3, BOB);
    assert!(rig.is_there(3));
    assert_eq!(rig.connections.lift(&subject("192.0.2.1")), 1);
    rig.greeted(4);
    assert!(rig.is_there(4));
}

#[test]
fn what_ends_of_itself_holds_until_then() {
    let mut rig = Rig::new(Limits::default());
    let revocation = Revocation::new(subject("192.0.2.1"), None, 10).expect("a revocation");
    assert_eq!(rig.connections.revoke(&revocation), Ok(true));
    let is_refused = |rig: &mut Rig, unix_ms| {
        rig.connections.begin_turn(Now { unix_ms, ..Now::default() });
        rig.connections.accepted(0, ANN, 0, &mut rig.net);
        rig.connections.arrivals.unwelcome(0).is_some()
    };
    assert!(is_refused(&mut rig, 9_999));
    rig.connections.closed(0);
    assert!(!is_refused(&mut rig, 10_000));
}

#[test]
fn behind_a_proxy_the_visitor_is_revoked_and_the_proxy_never() {
    let trusted: std::sync::Arc<[Cidr]> = [Cidr::single(PROXY)].into();
    let entrance = Entrance { proxies: Proxies { trusted, say_header: false }, cores: 1, ..Entrance::default() };
    let mut rig = Rig::behind(Limits::default(), entrance);
    let upgrade = |visitor: IpAddr| {
        let head =
            String::from_utf8_lossy(UPGRADE).replace("Host: h", &format!("Host: h\r\nX-Forwarded-For: {visitor}"));
        head.into_bytes()
    };
    let visits = |rig: &mut Rig, slot: u32, visitor: IpAddr| {
        rig.connections.accepted(slot, PROXY, 0, &mut rig.net);
        rig.receive(slot, &upgrade(visitor));
        rig.connections.stage(slot)
    };
    assert_eq!((visits(&mut rig, 0, ANN), visits(&mut rig, 1, BOB)), (Stage::Open, Stage::Open));
    revoke(&mut rig, "192.0.2.1");
    revoke(&mut rig, "10.0.0.0/8");
    rig.turn();
    rig.turn();
    assert_eq!((rig.is_there(0), rig.is_there(1)), (false, true));
    assert_eq!((visits(&mut rig, 2, ANN), visits(&mut rig, 3, BOB)), (Stage::LastWords, Stage::Open));
}

#[test]
fn a_crowd_is_ended_some_a_turn() {
    let mut rig = Rig::new(Limits::default());
    let crowd = 3 * ENDS_A_TURN as u32;
    (0..crowd).for_each(|slot| rig.greeted(slot));
    revoke(&mut rig, "192.0.2.0/24");
    for turn in 1..=3 {
        assert!(rig.connections.has_backlog());
        rig.turn();
        let left = (0..crowd).filter(|&slot| rig.is_there(slot)).count();
        assert_eq!(left, (3 - turn) * ENDS_A_TURN);
    }
}
