//! Every limit of a server: its name, its unit (last in the name) and its default, in one place.
//!
//! The names are the keys of `[limits]` in the configuration and of `limits` in `welcome`.
//! Invariants between them are checked by [`Limits::check`], which the server calls at start.

/// What a server allows itself and its peers. `0` means "none" where the field says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame or message from a peer, without its header.
    pub frame_bytes_max: u32,
    /// Connections of the whole server; 0 = as many as descriptors allow.
    pub connections_max: u32,
    /// Rooms of the whole server that exist at one time.
    pub rooms_max: u32,
    /// Rooms that one connection may have joined at a time.
    pub rooms_per_connection_max: u32,
    /// Posts and signals a second of one connection, with a burst of one second's worth; 0 = none.
    pub posts_per_second_max: u32,
    /// Milliseconds from accept to the end of the handshake (for a native client: to its preamble).
    pub handshake_timeout_ms: u32,
    /// Milliseconds without a byte from a peer until it is closed; it is pinged at half of it. 0 = none.
    pub idle_timeout_ms: u32,
    /// Bytes that may wait for one connection before it stops being read and its subscriptions fall behind.
    pub outbox_bytes_max: u32,
    /// Members above which a room's presence tells counts only.
    pub presence_members_max: u32,
    /// Milliseconds between two counts-only presence events of a room.
    pub presence_interval_ms: u32,
    /// Messages that one `fetch` may ask for.
    pub fetch_messages_max: u32,
    /// Messages that a room keeps for resume, catch-up and `fetch`.
    pub history_messages_max: u32,
    /// Bytes of history that one core keeps over all its rooms; the oldest go first.
    pub history_bytes_per_core_max: u64,
    /// Newest keyed posts of a room whose keys are remembered.
    pub dedupe_keys_max: u32,
    /// Bytes of newest frames that a room keeps ready to send on a core, for each wire form.
    pub run_bytes_max: u32,
    /// Bytes of newest frames over all rooms of a core; above it each room keeps its newest chunk only.
    pub run_bytes_per_core_max: u64,
    /// Parcels that one lane between two cores holds.
    pub lane_parcels_max: u32,
    /// Milliseconds that a stopping server takes at most to deliver and close.
    pub drain_timeout_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame_bytes_max: 64 * 1024,
            connections_max: 0,
            rooms_max: 1_000_000,
            rooms_per_connection_max: 256,
            posts_per_second_max: 0,
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 60_000,
            outbox_bytes_max: 256 * 1024,
            presence_members_max: 1_000,
            presence_interval_ms: 1_000,
            fetch_messages_max: 1_000,
            history_messages_max: 10_000,
            history_bytes_per_core_max: 256 * 1024 * 1024,
            dedupe_keys_max: 1_000,
            run_bytes_max: 256 * 1024,
            run_bytes_per_core_max: 128 * 1024 * 1024,
            lane_parcels_max: 4_096,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Two limits that contradict each other, or one outside its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitFault {
    /// The limit's name, as in the configuration.
    pub name: &'static str,
    /// What must hold.
    pub must: String,
}

impl Limits {
    /// Says which limit is outside its range.
    ///
    /// # Errors
    /// The first limit that breaks a rule, with the rule.
    pub fn check(&self) -> Result<(), LimitFault> {
        let within = |name, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(LimitFault { name, must: format!("{name} must be between {low} and {high}, and is {value}") })
            }
        };
        within("frame_bytes_max", self.frame_bytes_max.into(), 1_024, 16 * 1024 * 1024)?;
        within("rooms_max", self.rooms_max.into(), 1, 100_000_000)?;
        within("rooms_per_connection_max", self.rooms_per_connection_max.into(), 1, 65_536)?;
        within("handshake_timeout_ms", self.handshake_timeout_ms.into(), 100, 600_000)?;
        if self.idle_timeout_ms != 0 {
            within("idle_timeout_ms", self.idle_timeout_ms.into(), 1_000, 86_400_000)?;
        }
        // A page holds at least one whole message, and an outbox at least a page.
        within("outbox_bytes_max", self.outbox_bytes_max.into(), u64::from(self.frame_bytes_max) * 2, 1 << 30)?;
        within("presence_interval_ms", self.presence_interval_ms.into(), 10, 600_000)?;
        within("fetch_messages_max", self.fetch_messages_max.into(), 1, 100_000)?;
        within("history_messages_max", self.history_messages_max.into(), 1, 1 << 30)?;
        within(
            "history_bytes_per_core_max",
            self.history_bytes_per_core_max,
            u64::from(self.frame_bytes_max) * 2,
            1 << 42,
        )?;
        within("dedupe_keys_max", self.dedupe_keys_max.into(), 1, 1 << 24)?;
        within("run_bytes_max", self.run_bytes_max.into(), 4_096, 1 << 30)?;
        within("run_bytes_per_core_max", self.run_bytes_per_core_max, 1 << 20, 1 << 42)?;
        within("lane_parcels_max", self.lane_parcels_max.into(), 16, 1 << 20)?;
        within("drain_timeout_ms", self.drain_timeout_ms.into(), 100, 600_000)?;
        Ok(())
    }
}
