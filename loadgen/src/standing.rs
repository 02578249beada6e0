//! Whether a figure is the server's, or this program's own: what is said of a run in which this program was too slow.

use std::time::Duration;

use crate::measure::{AllLatencies, Latencies, Moment};

/// Of a core: above it this program may be what held the server back.
pub const OWN_CPU_SHARE_MAX: f64 = 0.9;
/// Fewer say nothing of one in a hundred.
const LATE_COUNT_MIN: u64 = 100;
/// A post in a hundred, or a look at the sockets, may be so late without a word.
pub const LATE_P99_US_MAX: f64 = 1000.0;
/// Or so late, as a share of the 99th percentile that was measured.
pub const LATE_P99_SHARE_MAX: f64 = 0.1;

/// Why figures are not the server's alone; empty: they are.
pub fn limits_of(window: &Moment, latencies: &AllLatencies, looks_away: Option<&Latencies>) -> Vec<String> {
    let measured_us = latencies.delivered.quantile_us(0.99);
    let late = late(&latencies.late, measured_us, "it sent one post in a hundred");
    let away = looks_away.and_then(|looks| late_look(looks, measured_us));
    full_core(window).into_iter().chain(late).chain(away).collect()
}

/// Its core was full, of its own work or of others' that kept it waiting, and fuller than the server's with its own.
pub fn full_core(window: &Moment) -> Option<String> {
    let share = |time: Duration| time.as_secs_f64() / window.at.as_secs_f64().max(f64::MIN_POSITIVE);
    let (own, waited) = (share(window.own_cpu), share(window.own_disturbed().unwrap_or_default()));
    let server = window.server_cpu.map(share);
    let is_full = own + waited > OWN_CPU_SHARE_MAX && server.is_none_or(|server| own + waited > server);
    is_full.then(|| {
        let server = server.map_or("not measured".into(), |server| format!("{:.0} %", server * 100.0));
        let [own, waited, bound] = [own, waited, OWN_CPU_SHARE_MAX].map(|share| share * 100.0);
        let waited = if waited < 1.0 { String::new() } else { format!(" and waited for it for {waited:.0} %") };
        format!("the load generator used {own:.0} % of its core{waited}, where {bound:.0} % is the bound (the server: {server})")
    })
}

fn late(latencies: &Latencies, measured_us: f64, what: &str) -> Option<String> {
    let late_us = latencies.quantile_us(0.99);
    let is_late = latencies.len() >= LATE_COUNT_MIN && late_us > LATE_P99_US_MAX.max(LATE_P99_SHARE_MAX * measured_us);
    is_late.then(|| {
        format!(
            "the load generator was late: {what} {:.2} ms or more after its time, where {:.2} ms is the bound",
            late_us / 1e3,
            LATE_P99_US_MAX.max(LATE_P99_SHARE_MAX * measured_us) / 1e3
        )
    })
}

fn late_look(looks_away: &Latencies, measured_us: f64) -> Option<String> {
    late(looks_away, measured_us, "one look in a hundred at the live sockets came")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latencies(us: u64) -> Latencies {
        let mut latencies = Latencies::default();
        (0..LATE_COUNT_MIN).for_each(|_| latencies.record(Duration::from_micros(us)));
        latencies
    }

    fn window(own_ms: u64, server_ms: Option<u64>) -> Moment {
        let (at, own_cpu) = (Duration::from_secs(1), Duration::from_millis(own_ms));
        Moment { at, own_cpu, server_cpu: server_ms.map(Duration::from_millis), ..Moment::default() }
    }

    fn limits(window: &Moment, late_us: u64, delivered_us: u64, away_us: Option<u64>) -> Vec<String> {
        let (late, delivered) = (latencies(late_us), latencies(delivered_us));
        let all = AllLatencies { late, delivered, ..AllLatencies::default() };
        limits_of(window, &all, away_us.map(latencies).as_ref())
    }

    #[test]
    fn a_full_core_says_so_with_both_shares() {
        let found = limits(&window(950, Some(600)), 1, 5000, None);
        assert!(found.len() == 1 && found[0].contains("95 %") && found[0].contains("60 %"), "{found:?}");
        assert!(limits(&window(950, Some(990)), 1, 5000, None).is_empty(), "the server was fuller");
        assert!(limits(&window(950, None), 1, 5000, None)[0].contains("not measured"));
        let waiting = Moment { own_waited: Some(Duration::from_millis(800)), ..window(150, Some(140)) };
        assert!(limits(&waiting, 1, 5000, None)[0].contains("waited for it for 80 %"));
    }

    #[test]
    fn lateness_counts_where_it_shows_in_what_was_measured() {
        let idle = window(100, Some(100));
        assert!(limits(&idle, 900, 1000, None).is_empty(), "below the bound");
        assert!(limits(&idle, 2000, 30_000, None).is_empty(), "a fifteenth of what was measured");
        assert!(limits(&idle, 4000, 30_000, None)[0].contains("one post in a hundred"));
        assert!(limits(&idle, 1, 1000, Some(1500))[0].contains("one look in a hundred"));
    }
}
