//! What a log keeps of a room: frames that have a place in its history, and its state, which has none.

use std::borrow::Cow;

use rkyv::Archive;
use rkyv::api::low;
use rkyv::rancor::Failure;

use super::viewed::{Views, as_viewed, is_viewed, read_viewed, write_viewed};
use super::{archive, read_event, read_message_payload, write, write_event, write_message};
use crate::event::{Event, Message};
use crate::fault::PeerFault;
use crate::features::Features;
use crate::frame::{Frame, FrameHeader, FrameKind, Frames, HEADER_BYTES, KIND_OFFSET};
use crate::ids::{Epoch, Sequence};

/// Something that has a place in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept<'a> {
    /// What a person said, and what some classes of readers are shown instead of its body.
    Message(Message<'a>, Views<'a>),
    /// Something else: an edit, a deletion, a role.
    Change(Change<'a>),
    /// A message that was erased. Readers are told a gap of one.
    Erased {
        /// The room.
        room: &'a str,
        /// The history.
        epoch: Epoch,
        /// The place.
        sequence: Sequence,
    },
}

/// A numbered change of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The history.
    pub epoch: Epoch,
    /// The place in it.
    pub sequence: Sequence,
    /// Clock of the room's log, milliseconds since 1970.
    pub time_ms: u64,
    /// The room.
    pub room: &'a str,
    /// Who changed it.
    pub user: &'a str,
    /// The place that it is about; 0: none.
    pub target: Sequence,
    /// Which kind of change.
    pub what: u8,
    /// What it says.
    pub body: &'a [u8],
}

/// The state of a room; the newest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State<'a> {
    /// The history that it belongs to.
    pub epoch: Epoch,
    /// The newest place in it when it was written.
    pub sequence: Sequence,
    /// Clock of the room's log, milliseconds since 1970.
    pub time_ms: u64,
    /// The room.
    pub room: &'a str,
    /// What it says.
    pub body: &'a [u8],
}

impl<'a> Kept<'a> {
    /// The room.
    pub fn room(&self) -> &'a str {
        match self {
            Kept::Message(message, _) => message.room,
            Kept::Change(change) => change.room,
            Kept::Erased { room, .. } => room,
        }
    }

    /// The history.
    pub fn epoch(&self) -> Epoch {
        match self {
            Kept::Message(message, _) => message.epoch,
            Kept::Change(change) => change.epoch,
            Kept::Erased { epoch, .. } => *epoch,
        }
    }

    /// The place.
    pub fn sequence(&self) -> Sequence {
        match self {
            Kept::Message(message, _) => message.sequence,
            Kept::Change(change) => change.sequence,
            Kept::Erased { sequence, .. } => *sequence,
        }
    }

    /// When it was said, milliseconds since 1970; 0 where that was erased too.
    pub fn time_ms(&self) -> u64 {
        match self {
            Kept::Message(message, _) => message.time_ms,
            Kept::Change(change) => change.time_ms,
            Kept::Erased { .. } => 0,
        }
    }

    /// What readers are told that do not know what it is.
    pub fn as_gap(&self) -> Event<'a> {
        Event::Gap { room: self.room(), epoch: self.epoch(), from: self.sequence(), to: self.sequence() }
    }

    /// The same under another epoch.
    pub fn under(self, epoch: Epoch) -> Self {
        match self {
            Kept::Message(message, views) => Kept::Message(Message { epoch, ..message }, views),
            Kept::Change(change) => Kept::Change(Change { epoch, ..change }),
            Kept::Erased { room, sequence, .. } => Kept::Erased { room, epoch, sequence },
        }
    }
}

/// Reads what a whole frame keeps, header and all.
///
/// # Errors
/// When it is no whole frame, or of a kind that has no place in a history.
pub fn read_kept(bytes: &[u8]) -> Result<Kept<'_>, PeerFault> {
    let (frame, used) = Frame::read(bytes, u32::MAX)?;
    if used != bytes.len() {
        return Err(PeerFault::Archive);
    }
    match frame.kind {
        FrameKind::Message => Ok(Kept::Message(read_message_payload(frame.payload)?, Views::default())),
        FrameKind::Viewed => read_viewed(frame.payload).map(|(message, views)| Kept::Message(message, views)),
        FrameKind::Change => read_change(frame.payload).map(Kept::Change),
        FrameKind::Gap => match read_event(frame)? {
            Event::Gap { room, epoch, from, to } if from == to => Ok(Kept::Erased { room, epoch, sequence: from }),
            _ => Err(PeerFault::Archive),
        },
        _ => Err(PeerFault::Archive),
    }
}

fn read_change(payload: &[u8]) -> Result<Change<'_>, PeerFault> {
    let change = access!(ChangeArchive, payload).map_err(|_| PeerFault::Archive)?;
    Ok(Change {
        epoch: Epoch(change.epoch.into()),
        sequence: Sequence(change.sequence.into()),
        time_ms: change.time_ms.into(),
        room: &change.room,
        user: &change.user,
        target: Sequence(change.target.into()),
        what: change.what,
        body: &change.body,
    })
}

/// Reads the state of a whole frame, header and all.
///
/// # Errors
/// When it is no whole frame, or not a valid state's.
pub fn read_state(bytes: &[u8]) -> Result<State<'_>, PeerFault> {
    match Frame::read(bytes, u32::MAX)? {
        (Frame { kind: FrameKind::State, payload }, used) if used == bytes.len() => {
            let state = access!(StateArchive, payload).map_err(|_| PeerFault::Archive)?;
            let (epoch, sequence) = (Epoch(state.epoch.into()), Sequence(state.sequence.into()));
            Ok(State { epoch, sequence, time_ms: state.time_ms.into(), room: &state.room, body: &state.body })
        }
        _ => Err(PeerFault::Archive),
    }
}

/// The frames of a page as readers are told them who agreed on these features: a change that none of them tells is a gap of
/// one, and a message with views has the body that it has without any. A state is nobody's to read.
///
/// # Errors
/// When they are no whole frames of what has a place.
pub fn as_told(frames: &[u8], agreed: Features) -> Result<Cow<'_, [u8]>, PeerFault> {
    as_told_with(frames, |change| agreed.tell(change.what))
}

fn as_told_with(frames: &[u8], is_told: impl Fn(&Change<'_>) -> bool) -> Result<Cow<'_, [u8]>, PeerFault> {
    let is_of_log = |frame: &[u8]| {
        let kind = frame.get(KIND_OFFSET);
        kind == Some(&(FrameKind::Change as u8)) || kind == Some(&(FrameKind::State as u8)) || is_viewed(frame)
    };
    if !Frames(frames).flatten().any(is_of_log) {
        return Ok(Cow::Borrowed(frames));
    }
    let mut told = Vec::with_capacity(frames.len());
    for frame in Frames(frames) {
        let frame = frame?;
        match is_of_log(frame).then(|| read_kept(frame)).transpose()? {
            Some(Kept::Change(change)) if is_told(&change) => told.extend_from_slice(frame),
            Some(Kept::Message(..)) => told.extend_from_slice(&as_viewed(frame, None)?),
            Some(kept) => write_event(&kept.as_gap(), &mut told),
            None => told.extend_from_slice(frame),
        }
    }
    Ok(Cow::Owned(told))
}

/// Appends the frame of what has a place.
pub fn write_kept(kept: &Kept<'_>, out: &mut Vec<u8>) {
    match *kept {
        Kept::Message(ref message, views) if views.is_empty() => write_message(message, out),
        Kept::Message(ref message, views) => write_viewed(message, views, out),
        Kept::Change(ref change) => write_change(change, out),
        Kept::Erased { room, epoch, sequence } => {
            write_event(&Event::Gap { room, epoch, from: sequence, to: sequence }, out);
        }
    }
}

/// What stands in the place of a message that was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone<'a> {
    /// The room.
    pub room: &'a str,
    /// The history.
    pub epoch: Epoch,
    /// The place.
    pub sequence: Sequence,
    /// When what was erased was said, milliseconds since 1970: files of the log grow old by it.
    pub time_ms: u64,
}

/// Bytes of a tombstone's time.
const TIME_BYTES: usize = 8;

/// Appends the frame of an erased message with exactly that many bytes, so that it takes the place of the message's own.
/// What there is too many lies ahead of the archive, whose root is at the end; the first of it is the time. `false`: it does
/// not fit, and nothing was appended; in the place of a message it always does.
pub fn write_erased(tombstone: &Tombstone<'_>, frame_bytes: usize, out: &mut Vec<u8>) -> bool {
    let &Tombstone { room, epoch, sequence, time_ms } = tombstone;
    let start = out.len();
    write_event(&Event::Gap { room, epoch, from: sequence, to: sequence }, out);
    let archive = out.split_off(start + HEADER_BYTES);
    let padding = frame_bytes.checked_sub(HEADER_BYTES + archive.len()).filter(|&padding| padding >= TIME_BYTES);
    let payload_bytes = padding.and_then(|padding| u32::try_from(padding + archive.len()).ok());
    let Some((padding, payload_bytes)) = padding.zip(payload_bytes) else {
        out.truncate(start);
        return false;
    };
    out.truncate(start);
    out.extend_from_slice(&FrameHeader { payload_bytes, kind: FrameKind::Gap }.to_bytes());
    out.extend_from_slice(&time_ms.to_le_bytes());
    out.resize(out.len() + padding - TIME_BYTES, 0);
    out.extend_from_slice(&archive);
    true
}

/// When the message was said that the frame stands for, if it is one of [`write_erased`]; milliseconds since 1970.
pub fn erased_ms(frame: &[u8]) -> Option<u64> {
    let Ok(Kept::Erased { room, .. }) = read_kept(frame) else { return None };
    let ahead = frame.len().checked_sub(HEADER_BYTES + size_of::<archive::ArchivedGap>() + room.len())?;
    let time = frame.get(HEADER_BYTES..HEADER_BYTES + TIME_BYTES).filter(|_| ahead >= TIME_BYTES)?;
    time.try_into().ok().map(u64::from_le_bytes)
}

/// Appends a change's frame.
pub fn write_change(change: &Change<'_>, out: &mut Vec<u8>) {
    let &Change { epoch, sequence, time_ms, room, user, target, what, body } = change;
    let (epoch, sequence, target) = (epoch.0, sequence.0, target.0);
    write(FrameKind::Change, &archive::ChangeArchive { epoch, sequence, time_ms, room, user, target, body, what }, out);
}

/// Appends a state's frame.
pub fn write_state(state: &State<'_>, out: &mut Vec<u8>) {
    let &State { epoch, sequence, time_ms, room, body } = state;
    let (epoch, sequence) = (epoch.0, sequence.0);
    write(FrameKind::State, &archive::StateArchive { epoch, sequence, time_ms, room, body }, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Body, BodyFormat};

    fn frame(kept: &Kept<'_>) -> Vec<u8> {
        let mut frame = Vec::new();
        write_kept(kept, &mut frame);
        frame
    }

    fn all() -> [Kept<'static>; 3] {
        let (epoch, sequence, room, user) = (Epoch(3), Sequence(9), "lobby", "ann");
        let body = Body { format: BodyFormat::Bytes, bytes: b"hi" };
        [
            Kept::Message(Message { epoch, sequence, time_ms: 7, room, user, key: Some("k"), body }, Views::default()),
            Kept::Change(Change { epoch, sequence, time_ms: 7, room, user, target: Sequence(4), what: 1, body: b"x" }),
            Kept::Erased { room, epoch, sequence },
        ]
    }

    #[test]
    fn what_is_kept_comes_back_and_goes_on_under_another_epoch() {
        for kept in all() {
            assert_eq!(read_kept(&frame(&kept)), Ok(kept));
            let there = kept.under(Epoch(5));
            assert_eq!((there.room(), there.epoch(), there.sequence()), ("lobby", Epoch(5), Sequence(9)));
            assert_eq!(read_kept(&frame(&there)), Ok(there));
        }
    }

    #[test]
    fn a_state_comes_back_and_has_no_place_in_a_history() {
        let state = State { epoch: Epoch(3), sequence: Sequence(4), time_ms: 8, room: "lobby", body: b"state" };
        let mut frame = Vec::new();
        write_state(&state, &mut frame);
        assert_eq!(read_state(&frame), Ok(state));
        assert_eq!(read_kept(&frame), Err(PeerFault::Archive));
        assert_eq!(as_told(&frame, Features::NONE), Err(PeerFault::Archive), "and is told to nobody");
    }

    #[test]
    fn a_page_tells_a_change_as_a_gap_of_one_and_leaves_the_rest_alone() {
        let [message, change, erased] = all().map(|kept| frame(&kept));
        let plain = [&message[..], &erased].concat();
        assert!(matches!(as_told(&plain, Features::NONE), Ok(Cow::Borrowed(told)) if told == plain));
        let told = as_told(&[&message[..], &change, &erased].concat(), Features::NONE).unwrap().into_owned();
        assert_eq!(told, [&message[..], &erased, &erased].concat(), "in the same place");
        assert!(
            as_told(&change[..9], Features::NONE).is_ok_and(|told| told.len() == 9),
            "whole frames are the caller's"
        );
    }

    #[test]
    fn a_change_goes_as_it_is_to_whoever_agreed_on_what_tells_it_and_a_state_to_nobody() {
        let [message, change, erased] = all().map(|kept| frame(&kept));
        let page = [&message[..], &change, &erased, &change].concat();
        assert_eq!(as_told_with(&page, |change| change.what == 1).as_deref(), Ok(&page[..]));
        let told = as_told_with(&page, |change| change.what == 2).unwrap().into_owned();
        assert_eq!(told, [&message[..], &erased, &erased, &erased].concat());
        let mut state = Vec::new();
        let said = State { epoch: Epoch(3), sequence: Sequence(4), time_ms: 8, room: "lobby", body: b"state" };
        write_state(&said, &mut state);
        assert_eq!(as_told_with(&[page, state].concat(), |_| true), Err(PeerFault::Archive));
    }

    #[test]
    fn an_erased_message_of_any_length_is_read_with_its_time_and_one_that_is_too_short_is_none() {
        let room = "a room with a name";
        let tombstone = Tombstone { room, epoch: Epoch(3), sequence: Sequence(9), time_ms: 1_700_000_000_123 };
        let erased = Kept::Erased { room, epoch: Epoch(3), sequence: Sequence(9) };
        let short = frame(&erased).len() + TIME_BYTES;
        for bytes in 0..short + 2_000 {
            let mut out = b"before".to_vec();
            assert_eq!(write_erased(&tombstone, bytes, &mut out), bytes >= short, "{bytes}");
            let frame = out.strip_prefix(b"before").unwrap();
            if bytes >= short {
                assert_eq!((frame.len(), read_kept(frame)), (bytes, Ok(erased)));
                assert_eq!(erased_ms(frame), Some(tombstone.time_ms));
            } else {
                assert!(frame.is_empty());
            }
        }
        assert_eq!(erased_ms(&frame(&erased)), None, "a gap as readers are told it has no time");
    }

    #[test]
    fn an_erased_message_fits_in_the_place_of_the_shortest_message_and_change() {
        let (epoch, sequence) = (Epoch(1), Sequence(1));
        let body = Body { format: BodyFormat::Bytes, bytes: b"" };
        let message = Message { epoch, sequence, time_ms: 0, room: "r", user: "u", key: None, body };
        let change =
            Change { epoch, sequence, time_ms: 0, room: "r", user: "u", target: Sequence(0), what: 0, body: b"" };
        for kept in [Kept::Message(message, Views::default()), Kept::Change(change)] {
            let tombstone = Tombstone { room: "r", epoch, sequence, time_ms: 0 };
            assert!(write_erased(&tombstone, frame(&kept).len(), &mut Vec::new()));
        }
    }

    #[test]
    fn a_gap_of_more_than_one_is_no_erased_message() {
        let mut frame = Vec::new();
        let gap = Event::Gap { room: "r", epoch: Epoch(1), from: Sequence(1), to: Sequence(2) };
        write_event(&gap, &mut frame);
        assert_eq!(read_kept(&frame), Err(PeerFault::Archive));
    }
}
