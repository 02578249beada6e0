//! The limits by address: how many connections one has, how fast new ones come, and how often it proved nothing.
//!
//! # Invariants
//!
//! - Loopback and trusted proxies have no limit: behind a proxy that is not trusted everybody is one address, and who
//!   shares it with a flood would be shut out with it.
//! - An address that was counted in is counted out once, so that a count is never below the connections that it stands for.
//! - What an address makes grow is bounded: counts by the connections there are, each bucket's table by [`SOURCES_MAX`]. Who
//!   is not in a full table of failures is not shut out for what others did.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::address::{Cidr, Source};
use crate::bucket::{Buckets, Rate, Wait};
use crate::limit::{DryRun, Limit, LimitCounts};

/// Addresses of one core that each table of buckets knows at a time, about 6 MB of them.
pub const SOURCES_MAX: usize = 65_536;
/// When to try again where an address has all the connections that it may have, in milliseconds: nobody knows when one ends.
const CONNECTIONS_RETRY_AFTER_MS: u64 = 5_000;

/// Which proxies speak for others, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Those whose word counts.
    pub trusted: Arc<[Cidr]>,
    /// They say it in a PROXY header, ahead of everything else.
    pub say_header: bool,
}

/// What a core allows of failures at least, however many cores share the limit: a client tries three times a connection.
const FAILURES_SHARE_MIN: u32 = 5;

/// How much of everything an address may have; 0 = as much as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateLimits {
    /// Connections at a time.
    pub connections_per_ip_max: u32,
    /// New connections a second, with a burst of one second's worth.
    pub connects_per_second_per_ip_max: u32,
    /// Tokens a minute that prove nothing; with the last one the address is shut out for a minute.
    pub auth_failures_per_minute_per_ip_max: u32,
}

impl GateLimits {
    /// What one of so many cores allows: its share, rounded up, so that no limit becomes none.
    #[must_use]
    pub fn share(self, cores: u16) -> Self {
        let share = |limit: u32| limit.div_ceil(u32::from(cores.max(1)));
        let failures = self.auth_failures_per_minute_per_ip_max;
        GateLimits {
            connections_per_ip_max: share(self.connections_per_ip_max),
            connects_per_second_per_ip_max: share(self.connects_per_second_per_ip_max),
            // One client with an old token must not shut out everybody who comes from its address.
            auth_failures_per_minute_per_ip_max: share(failures).max(failures.min(FAILURES_SHARE_MIN)),
        }
    }
}

/// Why somebody does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// By which limit.
    pub limit: Limit,
    /// After how many milliseconds to try again.
    pub retry_after_ms: u64,
}

/// What one core knows of addresses.
#[derive(Debug)]
pub struct Gate {
    limits: GateLimits,
    trusted: Arc<[Cidr]>,
    /// Connections of each address that has some.
    open: BTreeMap<Source, u32>,
    connects: Option<Buckets>,
    failures: Option<Buckets>,
    /// Those that failed too often: an empty bucket that fills in a minute.
    shut: Buckets,
}

impl Gate {
    /// Nobody is there.
    pub fn new(limits: GateLimits, trusted: Arc<[Cidr]>) -> Self {
        let shut = Buckets::new(Rate::in_a_minute(NonZeroU32::MIN), SOURCES_MAX);
        let mut gate = Gate {
            limits: GateLimits::default(),
            trusted,
            open: BTreeMap::new(),
            connects: None,
            failures: None,
            shut,
        };
        gate.set_limits(limits);
        gate
    }

    /// Other limits from now on. Who is there stays.
    pub fn set_limits(&mut self, limits: GateLimits) {
        self.limits = limits;
        set_rate(&mut self.connects, limits.connects_per_second_per_ip_max, Rate::in_a_second);
        set_rate(&mut self.failures, limits.auth_failures_per_minute_per_ip_max, Rate::in_a_minute);
    }

    /// Other proxies from now on.
    pub fn set_trusted(&mut self, trusted: Arc<[Cidr]>) {
        self.trusted = trusted;
    }

    /// Whether the address is a proxy whose word counts.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|range| range.contains(address))
    }

    /// Whether no limit holds for it.
    fn is_exempt(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.is_trusted(address)
    }

    /// A connection comes. Says whether it was counted: then [`Gate::leave`] must follow once.
    ///
    /// # Errors
    /// When it must not come in; it is not counted then.
    pub fn enter(
        &mut self,
        address: IpAddr,
        now_ms: u64,
        dry_run: DryRun,
        counts: &mut LimitCounts,
    ) -> Result<bool, Refused> {
        if self.is_exempt(address) {
            return Ok(false);
        }
        let source = Source::of(address);
        for judged in [self.has_place(source), self.take_connect(source, now_ms)] {
            if let Err(refused) = judged
                && counts.refuses(refused.limit, dry_run)
            {
                return Err(refused);
            }
        }
        // Without the limit nobody asks for the count, and it takes memory by the addresses there are.
        let is_counted = self.limits.connections_per_ip_max != 0;
        if is_counted {
            *self.open.entry(source).or_default() += 1;
        }
        Ok(is_counted)
    }

    /// A connection that was counted has gone.
    pub fn leave(&mut self, address: IpAddr) {
        let source = Source::of(address);
        if let Some(count) = self.open.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.open.remove(&source);
            }
        }
    }

    /// A token of that address proves nothing. With too many of them the address is shut out for a minute.
    pub fn failed(&mut self, address: IpAddr, now_ms: u64) {
        if self.is_exempt(address) {
            return;
        }
        let Some(failures) = &mut self.failures else { return };
        let source = Source::of(address);
        // What the bucket of others holds says nothing about this one.
        let is_last = match failures.take(source, 1, now_ms) {
            Ok(()) => matches!(failures.ask(source, 1, now_ms), Err(Wait { shared: false, .. })),
            Err(Wait { shared, .. }) => !shared,
        };
        if is_last {
            let _ = self.shut.take(source, 1, now_ms);
        }
    }

    /// Judges an address that wants to show a token.
    ///
    /// # Errors
    /// When it is shut out.
    pub fn may_prove(
        &self,
        address: IpAddr,
        now_ms: u64,
        dry_run: DryRun,
        counts: &mut LimitCounts,
    ) -> Result<(), Refused> {
        match self.shut.ask(Source::of(address), 1, now_ms) {
            Err(Wait { retry_after_ms, shared: false }) if counts.refuses(Limit::AuthFailuresPerIp, dry_run) => {
                Err(Refused { limit: Limit::AuthFailuresPerIp, retry_after_ms })
            }
            _ => Ok(()),
        }
    }

    fn has_place(&self, source: Source) -> Result<(), Refused> {
        let open = self.open.get(&source).copied().unwrap_or(0);
        match self.limits.connections_per_ip_max {
            max if max != 0 && open >= max => {
                Err(Refused { limit: Limit::ConnectionsPerIp, retry_after_ms: CONNECTIONS_RETRY_AFTER_MS })
            }
            _ => Ok(()),
        }
    }

    fn take_connect(&mut self, source: Source, now_ms: u64) -> Result<(), Refused> {
        let Some(connects) = &mut self.connects else { return Ok(()) };
        let refused = |wait: Wait| Refused { limit: Limit::ConnectsPerIp, retry_after_ms: wait.retry_after_ms };
        connects.take(source, 1, now_ms).map_err(refused)
    }
}

/// Gives buckets another rate; 0 = none, and what they held is forgotten.
fn set_rate(buckets: &mut Option<Buckets>, tokens: u32, rate: fn(NonZeroU32) -> Rate) {
    match (NonZeroU32::new(tokens), buckets.as_mut()) {
        (None, _) => *buckets = None,
        (Some(tokens), Some(buckets)) => buckets.set_rate(rate(tokens)),
        (Some(tokens), None) => *buckets = Some(Buckets::new(rate(tokens), SOURCES_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    fn gate(connections: u32, connects: u32, failures: u32) -> Gate {
        let limits = GateLimits {
            connections_per_ip_max: connections,
            connects_per_second_per_ip_max: connects,
            auth_failures_per_minute_per_ip_max: failures,
        };
        Gate::new(limits, [address("10.0.0.0")].map(|first| Cidr::new(first, 8).unwrap()).into())
    }

    fn enters(gate: &mut Gate, from: &str, now_ms: u64) -> Option<Limit> {
        let entered = gate.enter(address(from), now_ms, DryRun::default(), &mut LimitCounts::default());
        entered.err().map(|refused| refused.limit)
    }

    fn is_shut(gate: &Gate, from: &str, now_ms: u64) -> Option<u64> {
        let judged = gate.may_prove(address(from), now_ms, DryRun::default(), &mut LimitCounts::default());
        judged.err().map(|refused| refused.retry_after_ms)
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_place_again_when_one_goes() {
        let mut gate = gate(2, 0, 0);
        assert_eq!((enters(&mut gate, "192.0.2.1", 0), enters(&mut gate, "::ffff:192.0.2.1", 0)), (None, None));
        assert_eq!(enters(&mut gate, "192.0.2.1", 0), Some(Limit::ConnectionsPerIp));
        assert_eq!(enters(&mut gate, "192.0.2.2", 0), None, "another has its own");
        gate.leave(address("192.0.2.1"));
        assert_eq!(enters(&mut gate, "192.0.2.1", 0), None);
        assert_eq!(enters(&mut gate, "192.0.2.1", 0), Some(Limit::ConnectionsPerIp));
        for _ in 0..5 {
            gate.leave(address("192.0.2.1"));
        }
        assert_eq!(gate.open.len(), 1, "who has none left takes no place");
    }

    #[test]
    fn an_ipv6_address_counts_with_the_others_of_its_64() {
        let mut gate = gate(1, 0, 0);
        assert_eq!(enters(&mut gate, "2001:db8::1", 0), None);
        assert_eq!(enters(&mut gate, "2001:db8::ffff:2", 0), Some(Limit::ConnectionsPerIp));
        assert_eq!(enters(&mut gate, "2001:db8:0:1::1", 0), None);
    }

    #[test]
    fn new_connections_come_at_the_rate_and_a_refused_one_takes_no_place() {
        let mut gate = gate(9, 2, 0);
        assert_eq!((enters(&mut gate, "192.0.2.1", 0), enters(&mut gate, "192.0.2.1", 0)), (None, None));
        let refused = gate.enter(address("192.0.2.1"), 0, DryRun::default(), &mut LimitCounts::default());
        assert_eq!(refused, Err(Refused { limit: Limit::ConnectsPerIp, retry_after_ms: 500 }));
        assert_eq!(gate.open.values().sum::<u32>(), 2);
        assert_eq!(enters(&mut gate, "192.0.2.2", 0), None);
        assert_eq!(
            (enters(&mut gate, "192.0.2.1", 500), enters(&mut gate, "192.0.2.1", 999)),
            (None, Some(Limit::ConnectsPerIp))
        );
    }

    #[test]
    fn loopback_and_trusted_proxies_have_no_limit_and_are_not_counted() {
        let mut gate = gate(1, 1, 1);
        for from in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3"] {
            for _ in 0..10 {
                let entered = gate.enter(address(from), 0, DryRun::default(), &mut LimitCounts::default());
                assert_eq!(entered, Ok(false), "{from}");
                gate.failed(address(from), 0);
                assert_eq!(is_shut(&gate, from, 0), None, "{from}");
            }
        }
        assert!(gate.is_trusted(address("10.1.2.3")) && !gate.is_trusted(address("127.0.0.1")));
    }

    #[test]
    fn who_fails_too_often_is_shut_out_for_a_minute_and_others_are_not() {
        let mut gate = gate(0, 0, 3);
        for _ in 0..2 {
            gate.failed(address("192.0.2.1"), 1_000);
            assert_eq!(is_shut(&gate, "192.0.2.1", 1_000), None);
        }
        gate.failed(address("192.0.2.1"), 1_000);
        assert_eq!(is_shut(&gate, "192.0.2.1", 1_000), Some(60_000));
        assert_eq!((is_shut(&gate, "192.0.2.1", 60_999), is_shut(&gate, "192.0.2.2", 1_000)), (Some(1), None));
        assert_eq!(is_shut(&gate, "192.0.2.1", 61_000), None);
        gate.failed(address("192.0.2.1"), 61_000);
        assert_eq!(is_shut(&gate, "192.0.2.1", 61_000), None, "a minute of quiet, and all is as before");
    }

    #[test]
    fn who_is_not_in_a_full_table_is_not_shut_out_for_what_others_did() {
        let mut gate = gate(0, 0, 1);
        for source in 0..=SOURCES_MAX as u64 + 10 {
            gate.failed(IpAddr::V6(((0x2001_0db8_u128 << 96) | u128::from(source) << 64).into()), 0);
        }
        assert_eq!(is_shut(&gate, "2001:db8::", 0), Some(60_000));
        assert_eq!(is_shut(&gate, "192.0.2.1", 0), None);
    }

    #[test]
    fn a_limit_that_only_counts_lets_everybody_in_and_the_others_still_hold() {
        let mut gate = gate(1, 3, 1);
        let dry_run = DryRun::default().with(Limit::ConnectionsPerIp).with(Limit::AuthFailuresPerIp);
        let mut counts = LimitCounts::default();
        for _ in 0..3 {
            assert_eq!(gate.enter(address("192.0.2.1"), 0, dry_run, &mut counts), Ok(true));
        }
        let refused = gate.enter(address("192.0.2.1"), 0, dry_run, &mut counts).map_err(|refused| refused.limit);
        assert_eq!(refused, Err(Limit::ConnectsPerIp));
        gate.failed(address("192.0.2.1"), 0);
        assert_eq!(gate.may_prove(address("192.0.2.1"), 0, dry_run, &mut counts), Ok(()));
        let counted = [Limit::ConnectionsPerIp, Limit::AuthFailuresPerIp].map(|limit| counts.only_counted(limit));
        assert_eq!((counted, counts.refused(Limit::ConnectsPerIp)), ([3, 1], 1));
    }

    #[test]
    fn limits_that_change_hold_for_who_is_there_and_was_counted() {
        let mut gate = gate(0, 0, 0);
        assert_eq!(enters(&mut gate, "192.0.2.1", 0), None);
        assert!(gate.open.is_empty());
        gate.set_limits(GateLimits { connections_per_ip_max: 9, ..GateLimits::default() });
        for _ in 0..5 {
            assert_eq!(enters(&mut gate, "192.0.2.1", 0), None);
        }
        gate.set_limits(GateLimits { connections_per_ip_max: 5, ..GateLimits::default() });
        assert_eq!(enters(&mut gate, "192.0.2.1", 0), Some(Limit::ConnectionsPerIp));
        gate.set_limits(GateLimits { connects_per_second_per_ip_max: 1, ..GateLimits::default() });
        assert_eq!(
            (enters(&mut gate, "192.0.2.1", 0), enters(&mut gate, "192.0.2.1", 0)),
            (None, Some(Limit::ConnectsPerIp))
        );
        gate.set_trusted([Cidr::single(address("192.0.2.1"))].into());
        assert_eq!(enters(&mut gate, "192.0.2.1", 0), None);
    }

    #[test]
    fn a_share_is_never_none_and_none_stays_none() {
        let limits =
            GateLimits { connections_per_ip_max: 1_000, connects_per_second_per_ip_max: 3, ..GateLimits::default() };
        let expected =
            GateLimits { connections_per_ip_max: 63, connects_per_second_per_ip_max: 1, ..GateLimits::default() };
        assert_eq!((limits.share(16), limits.share(1), limits.share(0)), (expected, limits, limits));
    }

    proptest! {
        #[test]
        fn nobody_has_more_connections_than_the_limit_and_the_count_is_right(
            steps in prop::collection::vec((0_u8..3, any::<bool>()), 1..200),
        ) {
            let mut gate = gate(3, 0, 0);
            let mut open = [0_u32; 3];
            for (who, comes) in steps {
                let (from, open) = (IpAddr::from([192, 0, 2, who]), &mut open[usize::from(who)]);
                if comes {
                    let entered = gate.enter(from, 0, DryRun::default(), &mut LimitCounts::default());
                    prop_assert_eq!(entered.is_ok(), *open < 3);
                    *open += u32::from(entered.is_ok());
                } else if *open > 0 {
                    gate.leave(from);
                    *open -= 1;
                }
                prop_assert_eq!(gate.open.get(&Source::of(from)).copied().unwrap_or(0), *open);
            }
        }
    }
}
