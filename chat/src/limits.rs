//! Every limit of a server: its name, its unit (last in the name) and its default, in one place.
//!
//! The names are the keys of `[limits]` in the configuration and of `limits` in `welcome`.
//! Invariants between them are checked by [`Limits::check`], which the server calls at start.

use banter_access::limit::DryRun;

use crate::pacing::DELIVERY_DELAY_MS_LARGEST;

/// What a server allows itself and its peers. `0` means "none" where the field says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one frame or message from a peer, without its header.
    pub frame_bytes_max: u32,
    /// Connections of the whole server; 0 = as many as descriptors allow.
    pub connections_max: u32,
    /// Connections of the whole server that have not said yet who they are; 0 = none.
    pub connections_unproved_max: u32,
    /// Connections of the whole server that are guests; 0 = none.
    pub guests_max: u32,
    /// Connections of one address (IPv6: a /64) over the whole server; 0 = none.
    pub connections_per_ip_max: u32,
    /// Connections of one user over the whole server: one more ends its oldest; 0 = none.
    pub connections_per_user_max: u32,
    /// New connections a second of one address, with a burst of one second's worth; 0 = none.
    pub connects_per_second_per_ip_max: u32,
    /// Tokens a minute of one address that prove nothing; then it is shut out for a minute. 0 = none.
    pub auth_failures_per_minute_per_ip_max: u32,
    /// Rooms of the whole server that exist at one time.
    pub rooms_max: u32,
    /// Rooms that one connection may have joined at a time.
    pub rooms_per_connection_max: u32,
    /// Posts a second of one connection, with a burst of one second's worth; 0 = none, since what a connection may have
    /// under way bounds them.
    pub posts_per_second_max: u32,
    /// Posts a second of a guest's connection, beside the limit for all, with a burst of one second's worth; 0 = none.
    pub guest_posts_per_second_max: u32,
    /// Signals a second of one connection, with a burst of one second's worth; 0 = none.
    pub signals_per_second_max: u32,
    /// Signals a second that a room passes on, with a burst of one second's worth; more are lost, and counted; 0 = none.
    pub signals_per_room_per_second_max: u32,
    /// Joins a second of one connection, with a burst of one second's worth; 0 = none. A leave needs a join before it.
    pub joins_per_second_max: u32,
    /// Fetches a second of one connection, with a burst of one second's worth; 0 = none.
    pub fetches_per_second_max: u32,
    /// Asks for members a second of one connection, with a burst of one second's worth; 0 = none.
    pub members_per_second_max: u32,
    /// Requests of one connection that one turn of its core takes; the others wait for the next.
    pub requests_per_turn_max: u32,
    /// Milliseconds from accept to the end of the handshake (for a native client: to its preamble).
    pub handshake_timeout_ms: u32,
    /// Milliseconds without a byte from a peer until it is closed; it is pinged at half of it. 0 = none.
    pub idle_timeout_ms: u32,
    /// Milliseconds that bytes may wait for a peer that takes none of them, until it is closed; 0 = for ever.
    pub send_timeout_ms: u32,
    /// Milliseconds from the first byte of a message of a peer to its last; 0 = for ever.
    pub message_timeout_ms: u32,
    /// Bytes that came from one connection and are kept until it is read again; it is not received from meanwhile, and a
    /// peer of which the kernel brings more all the same is closed.
    pub held_bytes_max: u32,
    /// Bytes that may wait for one connection before it stops being read and its subscriptions fall behind.
    pub outbox_bytes_max: u32,
    /// Members above which a room's presence tells counts only.
    pub presence_members_max: u32,
    /// Milliseconds between two counts-only presence events of a room.
    pub presence_interval_ms: u32,
    /// Milliseconds between two tellings of who came and went in a room: what happens meanwhile is told together.
    pub presence_delay_ms_max: u32,
    /// Sends that one turn of a core begins; what is left over goes out in the next, and small rooms first. A send takes
    /// some 4 µs, so that whoever else wants something of the core waits for some 100 µs.
    pub sends_per_turn_max: u32,
    /// Milliseconds that a room's messages wait for company at most, while the core is under pressure; 0 = never.
    pub delivery_delay_ms_max: u32,
    /// Microseconds that a core looks for something to do before it sleeps, while its waits are short; 0 = never.
    pub idle_spin_us_max: u32,
    /// Messages that one `fetch` may ask for.
    pub fetch_messages_max: u32,
    /// Messages that a room in `memory` keeps for resume, catch-up and `fetch`; 0 = as many as the next limit allows.
    pub history_messages_max: u32,
    /// Bytes of history that one core keeps in memory over all its rooms; the oldest go first.
    pub history_bytes_per_core_max: u64,
    /// Newest keyed posts of each user in a room whose keys are remembered, those within `dedupe_window_ms`.
    pub dedupe_keys_per_author_max: u32,
    /// Bytes of remembered keys over all rooms of a core; the oldest go first.
    pub dedupe_bytes_per_core_max: u64,
    /// Milliseconds that the key of a post is remembered. The log keeps what is younger, whatever its other limits say.
    pub dedupe_window_ms: u32,
    /// Bytes of a segment of the log, in whole pages of 4,096.
    pub log_segment_bytes: u32,
    /// Bytes of messages that one commit of a core's log takes; what came beyond them is the next.
    pub log_commit_bytes_max: u32,
    /// Bytes of messages of one core that wait for a commit; posts to logged rooms above them are refused.
    pub log_waiting_bytes_max: u64,
    /// Bytes that the log leaves free on its disk; below them posts to logged rooms are refused with `log_full`.
    pub log_free_bytes_min: u64,
    /// Reads of the log that one core has under way; what is asked beyond them waits.
    pub log_reads_max: u32,
    /// Bytes of pages of the log's files that a core keeps in memory, for the next who reads them.
    pub log_cache_bytes_per_core_max: u64,
    /// Bytes of the log, over all cores, above which its oldest segments go; 0 = none.
    pub retention_bytes: u64,
    /// Hours after which a segment of the log goes, counted from its newest message; 0 = none.
    pub retention_hours: u32,
    /// Bytes of history that one turn of a core hands to readers that catch up.
    pub catch_up_bytes_per_turn_max: u32,
    /// Bytes of newest frames that a room keeps ready to send on a core, for each wire form.
    pub run_bytes_max: u32,
    /// Bytes of newest frames over all rooms of a core; above it each room keeps its newest chunk only.
    pub run_bytes_per_core_max: u64,
    /// Parcels that one lane between two cores holds.
    pub lane_parcels_max: u32,
    /// Milliseconds that a stopping server takes at most to deliver and close.
    pub drain_timeout_ms: u32,
    /// Which of them only count.
    pub dry_run: DryRun,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            frame_bytes_max: 64 * 1024,
            connections_max: 0,
            connections_unproved_max: 0,
            guests_max: 0,
            connections_per_ip_max: 0,
            connections_per_user_max: 0,
            connects_per_second_per_ip_max: 0,
            auth_failures_per_minute_per_ip_max: 20,
            rooms_max: 1_000_000,
            rooms_per_connection_max: 256,
            posts_per_second_max: 0,
            guest_posts_per_second_max: 5,
            signals_per_second_max: 100,
            signals_per_room_per_second_max: 1_000,
            joins_per_second_max: 500,
            fetches_per_second_max: 500,
            members_per_second_max: 100,
            requests_per_turn_max: 64,
            handshake_timeout_ms: 5_000,
            idle_timeout_ms: 60_000,
            send_timeout_ms: 30_000,
            message_timeout_ms: 30_000,
            held_bytes_max: 256 * 1024,
            outbox_bytes_max: 256 * 1024,
            presence_members_max: 1_000,
            presence_interval_ms: 1_000,
            presence_delay_ms_max: 100,
            sends_per_turn_max: 24,
            delivery_delay_ms_max: 20,
            idle_spin_us_max: 50,
            fetch_messages_max: 1_000,
            history_messages_max: 0,
            history_bytes_per_core_max: 256 * 1024 * 1024,
            dedupe_keys_per_author_max: 256,
            dedupe_bytes_per_core_max: 128 * 1024 * 1024,
            dedupe_window_ms: 300_000,
            log_segment_bytes: 64 * 1024 * 1024,
            log_commit_bytes_max: 1024 * 1024,
            log_waiting_bytes_max: 64 * 1024 * 1024,
            log_free_bytes_min: 64 * 1024 * 1024,
            log_reads_max: 32,
            log_cache_bytes_per_core_max: 8 * 1024 * 1024,
            retention_bytes: 0,
            retention_hours: 0,
            catch_up_bytes_per_turn_max: 32 * 1024,
            run_bytes_max: 512 * 1024,
            run_bytes_per_core_max: 128 * 1024 * 1024,
            lane_parcels_max: 4_096,
            drain_timeout_ms: 10_000,
            dry_run: DryRun::default(),
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
        for (name, value) in
            [("send_timeout_ms", self.send_timeout_ms), ("message_timeout_ms", self.message_timeout_ms)]
        {
            if value != 0 {
                within(name, value.into(), 100, 86_400_000)?;
            }
        }
        // What the kernel hands over behind the word that nothing more is wanted still fits.
        within("held_bytes_max", self.held_bytes_max.into(), 128 * 1024, 1 << 30)?;
        within("requests_per_turn_max", self.requests_per_turn_max.into(), 1, u16::MAX.into())?;
        within("sends_per_turn_max", self.sends_per_turn_max.into(), 1, 1 << 20)?;
        within("delivery_delay_ms_max", self.delivery_delay_ms_max.into(), 0, DELIVERY_DELAY_MS_LARGEST.into())?;
        within("idle_spin_us_max", self.idle_spin_us_max.into(), 0, 1_000)?;
        // A page holds at least one whole message, and an outbox at least a page.
        within("outbox_bytes_max", self.outbox_bytes_max.into(), u64::from(self.frame_bytes_max) * 2, 1 << 30)?;
        within("presence_interval_ms", self.presence_interval_ms.into(), 10, 600_000)?;
        within("presence_delay_ms_max", self.presence_delay_ms_max.into(), 0, 600_000)?;
        within("fetch_messages_max", self.fetch_messages_max.into(), 1, 100_000)?;
        within("history_messages_max", self.history_messages_max.into(), 0, 1 << 30)?;
        within(
            "history_bytes_per_core_max",
            self.history_bytes_per_core_max,
            u64::from(self.frame_bytes_max) * 2,
            1 << 42,
        )?;
        within("dedupe_keys_per_author_max", self.dedupe_keys_per_author_max.into(), 1, 1 << 20)?;
        within("dedupe_bytes_per_core_max", self.dedupe_bytes_per_core_max, 1 << 10, 1 << 42)?;
        within("dedupe_window_ms", self.dedupe_window_ms.into(), 1_000, 86_400_000)?;
        // A commit holds at least one whole message, with what the log and the frame put around it.
        let message_bytes_max = u64::from(self.frame_bytes_max) + 4_096;
        within("log_commit_bytes_max", self.log_commit_bytes_max.into(), message_bytes_max, 64 * 1024 * 1024)?;
        // A segment holds its header and at least two commits.
        let commit_bytes_max = u64::from(self.log_commit_bytes_max) + 8_192;
        within("log_segment_bytes", self.log_segment_bytes.into(), 4_096 + 2 * commit_bytes_max, 1 << 30)?;
        if !self.log_segment_bytes.is_multiple_of(4_096) {
            let must = format!("log_segment_bytes must be a multiple of 4096, and is {}", self.log_segment_bytes);
            return Err(LimitFault { name: "log_segment_bytes", must });
        }
        within("log_waiting_bytes_max", self.log_waiting_bytes_max, message_bytes_max, 1 << 42)?;
        within("log_free_bytes_min", self.log_free_bytes_min, 0, 1 << 42)?;
        within("log_reads_max", self.log_reads_max.into(), 1, 1_024)?;
        within("log_cache_bytes_per_core_max", self.log_cache_bytes_per_core_max, 0, 1 << 40)?;
        within("catch_up_bytes_per_turn_max", self.catch_up_bytes_per_turn_max.into(), 4_096, 1 << 30)?;
        within("run_bytes_max", self.run_bytes_max.into(), 4_096, 1 << 30)?;
        within("run_bytes_per_core_max", self.run_bytes_per_core_max, 1 << 20, 1 << 42)?;
        within("lane_parcels_max", self.lane_parcels_max.into(), 16, 1 << 20)?;
        within("drain_timeout_ms", self.drain_timeout_ms.into(), 100, 600_000)?;
        Ok(())
    }
}
