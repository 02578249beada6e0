//! Who comes to a core: whether it may come in, what is kept of those that may not until they were told, and how many have
//! not said yet who they are.
//!
//! Invariants:
//! - A connection is judged once by the address that it is for: its own, or the one that a trusted proxy names. The address
//!   of a trusted proxy is nobody's.
//! - Of those that are turned away at most [`UNWELCOME_MAX`] are told why at a time; others are closed without a word.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use banter_access::gate::{Gate, GateLimits, Proxies, Refused};
use banter_access::limit::{DryRun, Limit, LimitCounts};
use banter_access::revocation::{Revocation, RevocationsFull};
use banter_chat::address::Now;
use banter_chat::limits::Limits;
use banter_protocol::forwarded::forwarded_for;
use banter_protocol::http::HttpRequest;
use banter_protocol::proxy::ProxyFault;

use crate::core::blocked::Blocked;
use crate::core::http::Unwelcome;
use crate::core::rare_line::RareLine;

/// Connections of a core that are turned away and still told so; beyond them they are closed without a word.
pub const UNWELCOME_MAX: usize = 256;
/// When to try again where the server has all the connections that it may have, in milliseconds.
const SERVER_RETRY_AFTER_MS: u64 = 1_000;

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// For whom it is.
    pub visitor: IpAddr,
    /// Why it gets no further.
    pub unwelcome: Option<Unwelcome>,
    /// Whether it was counted just now.
    pub is_counted: bool,
}

/// The arrivals of one core.
pub struct Arrivals {
    gate: Gate,
    says_header: bool,
    dry_run: DryRun,
    unproved_max: u32,
    unproved: u32,
    /// Why, by slot, of those that are still to be told.
    unwelcome: BTreeMap<u32, Unwelcome>,
    line: RareLine,
    header_line: RareLine,
    blocked: Blocked,
    now: Now,
}

impl Arrivals {
    /// Nobody is there. A core has its share of every limit, rounded up.
    pub fn new(limits: &Limits, proxies: &Proxies, cores: u16) -> Self {
        let mut arrivals = Arrivals {
            gate: Gate::new(GateLimits::default(), proxies.trusted.clone()),
            says_header: proxies.say_header,
            dry_run: DryRun::default(),
            unproved_max: 0,
            unproved: 0,
            unwelcome: BTreeMap::new(),
            line: RareLine::default(),
            header_line: RareLine::default(),
            blocked: Blocked::default(),
            now: Now::default(),
        };
        arrivals.follow(limits, proxies, cores);
        arrivals
    }

    /// Goes by other limits and other proxies from now on. Who is there stays.
    pub fn follow(&mut self, limits: &Limits, proxies: &Proxies, cores: u16) {
        let by_address = GateLimits {
            connections_per_ip_max: limits.connections_per_ip_max,
            connects_per_second_per_ip_max: limits.connects_per_second_per_ip_max,
            auth_failures_per_minute_per_ip_max: limits.auth_failures_per_minute_per_ip_max,
        };
        self.gate.set_limits(by_address.share(cores));
        self.gate.set_trusted(proxies.trusted.clone());
        self.says_header = proxies.say_header;
        self.unproved_max = limits.connections_unproved_max.div_ceil(cores.max(1).into());
        self.dry_run = limits.dry_run;
    }

    /// Meets a request that comes from there: whom it is for, and whether it gets any further.
    pub fn meet(&mut self, slot: u32, address: IpAddr, request: &HttpRequest<'_>, counts: &mut LimitCounts) -> Arrived {
        let named = self.visitor(address, request);
        let mut arrived =
            Arrived { visitor: named.unwrap_or(address), unwelcome: self.unwelcome(slot), is_counted: false };
        if named.is_some() && arrived.unwelcome.is_none() {
            match self.judge(arrived.visitor, counts) {
                Ok(is_counted) => arrived.is_counted = is_counted,
                Err(why) => arrived.unwelcome = Some(why),
            }
        }
        if request.upgrade.is_some() && arrived.unwelcome.is_none() {
            arrived.unwelcome = self.may_prove(arrived.visitor, counts).err();
        }
        arrived
    }

    /// A turn begins.
    pub fn begin_turn(&mut self, now: Now) {
        self.now = now;
    }

    /// A range of addresses is revoked. Says whether that is new.
    ///
    /// # Errors
    /// When there are as many revocations as there may be.
    pub fn revoke(&mut self, revocation: &Revocation) -> Result<bool, RevocationsFull> {
        self.blocked.add(revocation, self.now.unix_ms / 1_000)
    }

    /// What is revoked, for those who are there.
    pub fn blocked_mut(&mut self) -> &mut Blocked {
        &mut self.blocked
    }

    /// Whether there is still somebody to be looked at.
    pub fn is_walking(&self) -> bool {
        self.blocked.is_walking()
    }

    /// Whether nobody may be here from that address. A proxy's own is nobody's: it may still say for whom it is.
    pub fn is_blocked(&self, address: IpAddr) -> bool {
        self.blocked.holds(address, self.now.unix_ms / 1_000) && !self.is_proxy(address)
    }

    /// Whether the address is a proxy that speaks for others.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.gate.is_trusted(address)
    }

    /// Whether what comes from there begins with a PROXY header.
    pub fn says_header(&self, address: IpAddr) -> bool {
        self.says_header && self.is_proxy(address)
    }

    /// For whom a request is that comes from there, where that is somebody else.
    fn visitor(&self, address: IpAddr, request: &HttpRequest<'_>) -> Option<IpAddr> {
        let named = || forwarded_for(request.raw_values("x-forwarded-for"), |address| self.is_proxy(address));
        if self.is_proxy(address) { named() } else { None }
    }

    /// The server has as many connections as it may have.
    ///
    /// # Errors
    /// Unless that is only counted.
    pub fn is_full(&self, counts: &mut LimitCounts) -> Result<(), Unwelcome> {
        self.server_limit(Limit::Connections, counts)
    }

    /// A connection that has not said who it is takes its place; [`Arrivals::proved`] gives it back.
    ///
    /// # Errors
    /// When there is none.
    pub fn take_place(&mut self, counts: &mut LimitCounts) -> Result<(), Unwelcome> {
        if self.unproved_max != 0 && self.unproved >= self.unproved_max {
            self.server_limit(Limit::ConnectionsUnproved, counts)?;
        }
        self.unproved += 1;
        Ok(())
    }

    /// A connection that took a place has said who it is, or is gone.
    pub fn proved(&mut self) {
        self.unproved = self.unproved.saturating_sub(1);
    }

    fn server_limit(&self, limit: Limit, counts: &mut LimitCounts) -> Result<(), Unwelcome> {
        if counts.refuses(limit, self.dry_run) {
            return Err(Unwelcome::Limited(Refused { limit, retry_after_ms: SERVER_RETRY_AFTER_MS }));
        }
        Ok(())
    }

    /// Judges a visitor. Says whether it was counted: then [`Arrivals::leave`] must follow once.
    ///
    /// # Errors
    /// Why it is turned away.
    pub fn judge(&mut self, visitor: IpAddr, counts: &mut LimitCounts) -> Result<bool, Unwelcome> {
        if self.is_blocked(visitor) {
            return Err(Unwelcome::Revoked);
        }
        let entered = self.gate.enter(visitor, self.now.monotonic_ms, self.dry_run, counts);
        entered.map_err(|refused| self.told(visitor, refused))
    }

    /// Judges a visitor that wants to show a token.
    ///
    /// # Errors
    /// When its address is shut out.
    pub fn may_prove(&mut self, visitor: IpAddr, counts: &mut LimitCounts) -> Result<(), Unwelcome> {
        let judged = self.gate.may_prove(visitor, self.now.monotonic_ms, self.dry_run, counts);
        judged.map_err(|refused| self.told(visitor, refused))
    }

    /// Says in the log now and then that somebody is refused.
    fn told(&mut self, visitor: IpAddr, refused: Refused) -> Unwelcome {
        if let Some(untold) = self.line.due(Instant::now()) {
            let limit = refused.limit.name();
            tracing::warn!(address = %visitor, limit, untold, "connections of an address are refused");
        }
        Unwelcome::Limited(refused)
    }

    /// A connection began as no connection from there should: now and then the log says so, since it is the proxy's setting
    /// or the server's that is wrong, and its visitors see only that nothing comes.
    pub fn not_as_said(&mut self, address: IpAddr, fault: ProxyFault) {
        if let Some(untold) = self.header_line.due(Instant::now()) {
            tracing::warn!(%address, untold, "a connection was refused: {fault}");
        }
    }

    /// A connection that was counted has gone.
    pub fn leave(&mut self, visitor: IpAddr) {
        self.gate.leave(visitor);
    }

    /// A token of the visitor proved nothing.
    pub fn failed(&mut self, visitor: IpAddr) {
        self.gate.failed(visitor, self.now.monotonic_ms);
    }

    /// Keeps why a connection is turned away, until it has said how to tell it. `false`: there are too many.
    #[must_use]
    pub fn turn_away(&mut self, slot: u32, why: Unwelcome) -> bool {
        let has_room = self.unwelcome.len() < UNWELCOME_MAX;
        if has_room {
            self.unwelcome.insert(slot, why);
        }
        has_room
    }

    /// Why the connection in that slot is turned away.
    pub fn unwelcome(&self, slot: u32) -> Option<Unwelcome> {
        self.unwelcome.get(&slot).copied()
    }

    /// The slot is nobody's.
    pub fn forget(&mut self, slot: u32) {
        self.unwelcome.remove(&slot);
    }
}
