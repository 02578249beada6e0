//! Segments as values; a start on a right clock, and what passes then.

use banter_log::segment::SegmentHeader;

use super::super::ages::{BELIEVED_BEHIND_MS, settle};
use super::*;

const MINUTE_MS: u64 = 60_000;
const NOW_MS: u64 = 1_700_000_000_000;
const BYTES: u64 = 100;
const RUN: u64 = 9;
const SHORT: Class = Class { hours: 3, bytes: 0 };

const HEADER: SegmentHeader =
    SegmentHeader { id: 1, nonce: 1, core: 0, class: Class::SERVER, run: RUN, made_unix_ms: 5, file_bytes: BYTES };

/// A sealed segment of this run, that many hours old.
fn sealed(id: u64, hours: u64) -> Held {
    let newest_ms = NOW_MS - hours * HOUR_MS;
    let header = SegmentHeader { id, made_unix_ms: newest_ms - MINUTE_MS, ..HEADER };
    Held { header, file_bytes: BYTES, newest_ms: Some(newest_ms) }
}

/// One that has been written for so many hours.
fn written(id: u64, hours: u64) -> Held {
    Held { newest_ms: None, ..sealed(id, hours) }
}

fn of(class: Class, held: Held) -> Held {
    Held { header: SegmentHeader { class, ..held.header }, ..held }
}

fn planned(held: &[Held], server: Class) -> (Vec<u64>, Vec<u64>) {
    let ages = Ages::new(RUN, NOW_MS, NOW_MS, &[]);
    let Plan { cut, leave } = plan(held.iter().copied(), Rules { server, window_ms: 60_000 }, &ages);
    (cut, leave.iter().map(|leave| leave.segment).collect())
}

/// What is asked of the cores.
fn asked(held: &[Held], server: Class) -> Vec<Leave> {
    let ages = Ages::new(RUN, NOW_MS, NOW_MS, &[]);
    plan(held.iter().copied(), Rules { server, window_ms: 60_000 }, &ages).leave
}

const NOTHING: (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());

#[test]
fn by_bytes_the_oldest_go_until_it_is_enough() {
    let held = [1, 2, 3, 4, 5].map(|id| sealed(id, 9));
    assert_eq!(planned(&held, Class { hours: 0, bytes: 3 * BYTES }), (vec![1, 2], vec![]));
    assert_eq!(planned(&held, Class { hours: 0, bytes: 5 * BYTES }), NOTHING);
    assert_eq!(planned(&held, Class::SERVER), NOTHING, "without a limit everything stays");
}

#[test]
fn by_age_it_stops_at_the_first_that_is_young() {
    let held = [sealed(1, 9), sealed(2, 5), sealed(3, 1), sealed(4, 9)];
    assert_eq!(planned(&held, SHORT), (vec![1, 2], vec![]));
}

#[test]
fn each_class_goes_by_its_own_rule_and_order() {
    let class = Class { bytes: 10 * BYTES, ..SHORT };
    let held = [of(class, sealed(1, 4)), sealed(2, 9), of(class, sealed(3, 1)), sealed(4, 9), of(class, sealed(5, 4))];
    assert_eq!(planned(&held, Class::SERVER), (vec![1], vec![]));
    assert_eq!(planned(&held, Class { hours: 0, bytes: BYTES }), (vec![2, 1], vec![]));
}

#[test]
fn where_a_class_names_no_limit_that_of_the_server_holds_for_its_own_files() {
    let large = Class { hours: 0, bytes: 10 * BYTES };
    let held = [
        of(large, sealed(1, 9)),
        sealed(2, 1),
        of(large, sealed(3, 1)),
        of(SHORT, sealed(4, 1)),
        of(SHORT, sealed(5, 1)),
    ];
    assert_eq!(planned(&held, Class { hours: 5, bytes: 0 }), (vec![1], vec![]));
    assert_eq!(planned(&held, Class { hours: 0, bytes: BYTES }), (vec![4], vec![]), "each by what it has itself");
}

#[test]
fn nothing_within_the_dedupe_window_goes_nor_what_is_behind_it() {
    let mut held = [sealed(1, 9), sealed(2, 9), sealed(3, 9)];
    held[1].newest_ms = Some(NOW_MS - 30_000);
    assert_eq!(planned(&held, Class { hours: 1, bytes: 1 }), (vec![1], vec![]));
}

#[test]
fn what_is_written_in_the_midst_is_left_before_anything_behind_it_goes() {
    let held = [sealed(1, 9), written(2, 0), sealed(3, 9), written(4, 0), sealed(5, 0), written(6, 0)];
    assert_eq!(planned(&held, SHORT), (vec![1], vec![2]));
    assert_eq!(
        planned(&[sealed(1, 9), written(2, 0), sealed(3, 1)], SHORT),
        (vec![1], vec![]),
        "nobody waits behind it"
    );
    assert_eq!(planned(&[written(1, 0), written(2, 0)], Class { hours: 0, bytes: 1 }), NOTHING);
}

#[test]
fn nothing_is_written_for_longer_than_a_part_of_what_its_class_keeps() {
    let day = Class { hours: 24, bytes: 0 };
    assert_eq!(planned(&[written(1, 5), written(2, 7), written(3, 4)], day), (vec![], vec![2]));
    assert_eq!(planned(&[written(1, 500)], Class { hours: 0, bytes: 5 }), NOTHING);
}

#[test]
fn what_is_asked_says_since_when_it_is_written_for_long_and_when_it_would_go_at_once() {
    let (day, young) = (Class { hours: 24, bytes: 0 }, sealed(9, 0));
    let long_ago_ms = NOW_MS - 6 * HOUR_MS - 1;
    let leave = |segment, first_ms, newest_ms| Leave { segment, first_ms, newest_ms };
    let day_ago_ms = NOW_MS - 24 * HOUR_MS - 1;
    assert_eq!(asked(&[sealed(1, 1), written(2, 7), young], day), [leave(2, long_ago_ms, day_ago_ms)]);
    assert_eq!(asked(&[written(2, 0), sealed(3, 25), young], day), [leave(2, u64::MAX, day_ago_ms)]);
    let bytes = Class { hours: 0, bytes: 2 * BYTES };
    let minute_ago_ms = NOW_MS - MINUTE_MS - 1;
    assert_eq!(asked(&[written(2, 0), sealed(3, 2), young], bytes), [leave(2, u64::MAX, minute_ago_ms)]);
    assert_eq!(asked(&[written(2, 99), young, sealed(10, 0)], bytes), [], "nothing goes behind what is young");
}

#[test]
fn after_two_days_without_a_server_a_day_of_retention_takes_what_is_old_once_the_clock_is_believed() {
    let start_ms = NOW_MS + 48 * HOUR_MS;
    let earlier =
        [sealed(1, 2), sealed(2, 0)].map(|held| Held { header: SegmentHeader { run: RUN - 1, ..held.header }, ..held });
    let found = earlier.map(|held| (held.header, held.newest_ms.unwrap()));
    let mut ages = Ages::new(RUN, start_ms, start_ms, &found);
    let rules = Rules { server: Class { hours: 24, bytes: 0 }, window_ms: 60_000 };
    let mut at = |elapsed_ms| {
        ages.advance(elapsed_ms, start_ms + elapsed_ms);
        plan(earlier.into_iter(), rules, &ages).cut
    };
    assert_eq!(at(BELIEVED_BEHIND_MS - 1), [0; 0], "not within minutes of a start");
    assert_eq!(at(BELIEVED_BEHIND_MS), [1, 2]);
}

#[test]
fn a_message_of_the_future_holds_nothing_behind_it() {
    let header = |id, made_ms| SegmentHeader { id, run: RUN - 1, made_unix_ms: made_ms, ..HEADER };
    let then_ms = NOW_MS - 100 * HOUR_MS;
    let mut found = [
        (header(1, then_ms), NOW_MS + 1_000 * HOUR_MS),
        (header(2, then_ms + 1), then_ms + 90 * HOUR_MS),
        (header(3, then_ms + 2), then_ms + 100 * HOUR_MS),
    ];
    settle(&mut found, NOW_MS);
    let ages = Ages::new(RUN, NOW_MS, NOW_MS, &found);
    let held = found.map(|(header, newest_ms)| Held { header, newest_ms: Some(newest_ms), ..sealed(1, 0) });
    let rules = Rules { server: Class { hours: 5, bytes: 0 }, window_ms: 60_000 };
    assert_eq!(plan(held.into_iter(), rules, &ages).cut, [1, 2]);
}

/// Every log of five segments of two classes, each written or sealed, young or old.
#[test]
fn what_goes_is_a_beginning_of_its_class_and_what_is_left_is_written() {
    let kinds = 8_u64;
    for number in 0..kinds.pow(5) {
        let held: Vec<Held> =
            (0..5_u32).map(|at| (u64::from(at) + 1, number / kinds.pow(at) % kinds)).map(kind).collect();
        for server in [SHORT, Class { hours: 0, bytes: 2 * BYTES }] {
            let (cut, leave) = planned(&held, server);
            for class in [Class::SERVER, OTHER] {
                let of_class = || held.iter().filter(|one| one.header.class == class).map(|one| one.header.id);
                let gone: Vec<u64> = of_class().filter(|id| cut.contains(id)).collect();
                assert!(of_class().zip(&gone).all(|(id, gone)| id == *gone), "{cut:?} of {held:?}");
            }
            let is_sealed = |id: &u64| held[*id as usize - 1].newest_ms.is_some();
            assert!(cut.iter().all(is_sealed) && !leave.iter().any(is_sealed), "{cut:?} {leave:?} of {held:?}");
        }
    }
}

const OTHER: Class = Class { hours: 4, bytes: 0 };

fn kind((id, kind): (u64, u64)) -> Held {
    let hours = if kind & 1 == 0 { 1 } else { 9 };
    let held = if kind & 2 == 0 { sealed(id, hours) } else { written(id, 0) };
    of(if kind & 4 == 0 { Class::SERVER } else { OTHER }, held)
}
