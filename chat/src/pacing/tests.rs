//! Tests of the waiting of rooms.

use super::*;

const FULL: u32 = FULL_PERMILLE;

fn pacing(busy_permille: u32) -> Pacing {
    let mut pacing = Pacing::new(DeliveryDelays::new(vec![(RoomPattern::new("game-*"), 0)], 20));
    pacing.set_busy(busy_permille);
    pacing
}

fn came(now_ms: u64) -> Came {
    Came { room: 3, bytes: 200, readers: 100, now_ms }
}

/// A room in which something came, and was let go when it was due.
fn wait_through(pacing: &mut Pacing, pace: &mut RoomPace, now_ms: u64, company: bool) {
    assert!(pacing.waits("lobby", pace, came(now_ms)));
    if company {
        assert!(pacing.waits("lobby", pace, came(now_ms + 1)));
    }
    assert_eq!(pacing.due(now_ms + 19), None);
    assert_eq!(pacing.due(now_ms + 20), Some(3));
    pacing.goes(pace, 3);
    assert_eq!((pacing.due(u64::MAX), pacing.next_due()), (None, None));
}

#[test]
fn a_core_with_time_to_spare_never_waits_and_under_pressure_the_wait_grows_smoothly() {
    assert!(!pacing(FREE_PERMILLE).waits("lobby", &mut RoomPace::default(), came(0)));
    let delays: Vec<u32> = (0..=1_000).map(|permille| delay_ms(permille, 20)).collect();
    assert!(delays.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] - pair[0] <= 1));
    assert_eq!((delays[FREE_PERMILLE as usize], delays[500], delays[750], delays[1_000]), (0, 10, 20, 20));
}

#[test]
fn what_waits_goes_when_it_is_due_whatever_comes_meanwhile() {
    let (mut pacing, mut pace) = (pacing(FULL), RoomPace::default());
    assert!(pacing.waits("lobby", &mut pace, came(100)));
    assert!((101..120).all(|now_ms| pacing.waits("lobby", &mut pace, came(now_ms))));
    assert_eq!(pacing.next_due(), Some(120));
    assert!(!pacing.waits("lobby", &mut pace, came(120)), "a late turn takes it along");
    assert!(!pace.is_waiting() && pacing.next_due().is_none());
}

#[test]
fn small_rooms_rooms_without_a_delay_and_large_messages_wait_never() {
    let mut pacing = pacing(FULL);
    let pace = &mut RoomPace::default();
    assert!(!pacing.waits("lobby", pace, Came { readers: READERS_MIN - 1, ..came(0) }));
    assert!(!pacing.waits("lobby", pace, Came { bytes: WAITING_BYTES_MAX, ..came(0) }));
    assert!(!pacing.waits("game-7", &mut RoomPace::default(), came(0)));
}

#[test]
fn a_core_with_some_time_to_spare_waits_for_less_company() {
    for (busy_permille, wanted) in [(400, 1), (600, 2), (700, 4)] {
        let (mut pacing, mut pace) = (pacing(busy_permille), RoomPace::default());
        let came_before_it_went = (0..20).take_while(|_| pacing.waits("lobby", &mut pace, came(7))).count();
        assert_eq!(came_before_it_went, wanted, "busy {busy_permille}");
        assert_eq!(pacing.next_due(), None);
    }
}

#[test]
fn what_fills_a_send_goes_at_once() {
    let (mut pacing, mut pace) = (pacing(FULL), RoomPace::default());
    assert!(pacing.waits("lobby", &mut pace, Came { bytes: WAITING_BYTES_MAX - 1, ..came(0) }));
    assert!(!pacing.waits("lobby", &mut pace, Came { bytes: 1, ..came(1) }));
    assert_eq!(pacing.next_due(), None);
}

#[test]
fn where_waiting_brings_nothing_it_is_tried_less_and_less_and_company_makes_good() {
    let (mut pacing, mut pace) = (pacing(FULL), RoomPace::default());
    for tries in 1..=8_u32 {
        wait_through(&mut pacing, &mut pace, 1_000 * u64::from(tries), false);
        let passes = 1_u32 << tries.min(u32::from(ALONE_MAX));
        let passed = (0..passes).filter(|_| !pacing.waits("lobby", &mut pace, came(0))).count();
        assert_eq!(passed as u32, passes);
    }
    wait_through(&mut pacing, &mut pace, 50_000, true);
    wait_through(&mut pacing, &mut pace, 51_000, false);
}

#[test]
fn what_comes_to_a_room_that_goes_at_once_is_company_too() {
    let (mut pacing, mut pace) = (pacing(FULL), RoomPace::default());
    assert!(pacing.waits("lobby", &mut pace, came(0)));
    pacing.passes(&mut pace, came(1));
    assert_eq!((pacing.next_due(), pace.passes), (None, 0));
}

#[test]
fn other_delays_hold_from_the_next_message_on() {
    let (mut pacing, mut pace) = (pacing(FULL), RoomPace::default());
    wait_through(&mut pacing, &mut pace, 0, true);
    pacing.set_delays(DeliveryDelays::default());
    assert!(!pacing.waits("lobby", &mut pace, came(100)));
    pacing.set_delays(DeliveryDelays::new(Vec::new(), DELIVERY_DELAY_MS_LARGEST + 1));
    assert!(pacing.waits("lobby", &mut pace, came(200)));
    assert_eq!(pacing.next_due(), Some(200 + u64::from(DELIVERY_DELAY_MS_LARGEST)));
}

#[test]
fn the_busy_share_is_a_mean_over_a_tenth_of_a_second() {
    let mut share = BusyShare::default();
    (0..1_000).for_each(|_| share.passed(300, 700));
    assert!((299..=301).contains(&share.permille()), "{}", share.permille());
    share.passed(5_000, 0);
    assert!(share.permille() < 340, "one long turn is no pressure: {}", share.permille());
    (0..100).for_each(|_| share.passed(10_000, 0));
    assert!(share.permille() > 990);
    share.passed(0, 0);
    share.passed(0, 10_000_000);
    assert!(share.permille() < 20, "a long sleep is a rest");
}

/// Ten rooms of a hundred readers, 200 messages a second each; a send takes 4 µs. What the core is busy for by delay is what it sends,
/// and what it sends falls as messages are sent together.
#[test]
fn delay_and_pressure_settle_and_do_not_swing() {
    let (mut share, mut seen) = (BusyShare::default(), Vec::new());
    for step in 0..400 {
        let delay_ms = f64::from(delay_ms(share.permille(), 20));
        let together = 1.0 + (delay_ms / 5.0).floor();
        let busy_us = (10_000.0 * 0.85 / together) as u64;
        share.passed(busy_us, 10_000 - busy_us.min(10_000));
        if step >= 200 {
            seen.push(share.permille());
        }
    }
    let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
    assert!(most - least <= 60, "{least} to {most}");
    assert!((300..=550).contains(least), "{least} to {most}");
}
