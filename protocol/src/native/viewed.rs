//! A message that some classes of readers are shown another body of: how a log keeps it, and what each class is told.
//!
//! Views lie one after another: a byte for the length of the class's name, the name, four for the length of the body
//! (little-endian), the body, which is a JSON value.
//!
//! Invariant: no reader is sent the frame itself. Whoever has no class, or one that the message has no view for, is told the message
//! with the body that it has without any.

use std::borrow::Cow;

use rkyv::Archive;
use rkyv::api::low;
use rkyv::rancor::Failure;

use super::{archive, message_archive, message_of, write, write_message};
use crate::event::Message;
use crate::fault::PeerFault;
use crate::frame::{Frame, FrameKind, Frames, KIND_OFFSET};
use crate::request::{Body, BodyFormat};

/// Views of a message at most.
pub const VIEWS_MAX: usize = 16;
/// Bytes of a class's name at most.
pub const CLASS_BYTES_MAX: usize = 64;
/// Bytes of a view beside its class's name and its body.
pub const VIEW_OVERHEAD_BYTES: usize = 1 + BODY_LENGTH_BYTES;
const BODY_LENGTH_BYTES: usize = 4;

/// The bodies that a message has for classes of readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Views<'a>(&'a [u8]);

impl<'a> Views<'a> {
    /// Those that lie in the bytes.
    ///
    /// # Errors
    /// They are no views, or there is none or too many of them.
    pub fn read(bytes: &'a [u8]) -> Result<Self, PeerFault> {
        let (mut rest, mut count) = (bytes, 0);
        while !rest.is_empty() {
            (_, _, rest) = split(rest).ok_or(PeerFault::Archive)?;
            count += 1;
        }
        if (1..=VIEWS_MAX).contains(&count) { Ok(Views(bytes)) } else { Err(PeerFault::Archive) }
    }

    /// Appends one. `false`, and nothing is appended: the class has no name, or one that is too long, or the body is.
    pub fn write(class: &str, body: &[u8], out: &mut Vec<u8>) -> bool {
        let (Ok(class_bytes), Ok(body_bytes)) = (u8::try_from(class.len()), u32::try_from(body.len())) else {
            return false;
        };
        if !(1..=CLASS_BYTES_MAX).contains(&class.len()) {
            return false;
        }
        out.push(class_bytes);
        out.extend_from_slice(class.as_bytes());
        out.extend_from_slice(&body_bytes.to_le_bytes());
        out.extend_from_slice(body);
        true
    }

    /// Each class and its body.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (class, body, behind) = split(rest)?;
            rest = behind;
            Some((class, body))
        })
    }

    /// The body for a class.
    pub fn of(self, class: &str) -> Option<&'a [u8]> {
        self.iter().find(|&(there, _)| there == class).map(|(_, body)| body)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (&class_bytes, rest) = bytes.split_first()?;
    let (class, rest) = rest.split_at_checked(class_bytes.into())?;
    let (body_bytes, rest) = rest.split_first_chunk::<BODY_LENGTH_BYTES>()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*body_bytes) as usize)?;
    let class = std::str::from_utf8(class).ok().filter(|class| (1..=CLASS_BYTES_MAX).contains(&class.len()))?;
    Some((class, body, rest))
}

/// Appends the frame of a message with views, as a log keeps it.
pub fn write_viewed(message: &Message<'_>, views: Views<'_>, out: &mut Vec<u8>) {
    let viewed = archive::ViewedArchive { message: message_archive(message), views: views.0 };
    write(FrameKind::Viewed, &viewed, out);
}

pub(super) fn read_viewed(payload: &[u8]) -> Result<(Message<'_>, Views<'_>), PeerFault> {
    let viewed = access!(ViewedArchive, payload).map_err(|_| PeerFault::Archive)?;
    Ok((message_of(&viewed.message, BodyFormat::from_number)?, Views::read(&viewed.views)?))
}

/// Frames of a history as a reader of that class is told them: a message with views has the body that the class has. All
/// others are as they were.
///
/// # Errors
/// When they are no whole frames, or a message with views is not valid.
pub fn as_viewed<'f>(frames: &'f [u8], class: Option<&str>) -> Result<Cow<'f, [u8]>, PeerFault> {
    if !Frames(frames).flatten().any(is_viewed) {
        return Ok(Cow::Borrowed(frames));
    }
    let mut told = Vec::with_capacity(frames.len());
    for frame in Frames(frames) {
        let frame = frame?;
        if is_viewed(frame) {
            write_message(&viewed_by(frame, class)?, &mut told);
        } else {
            told.extend_from_slice(frame);
        }
    }
    Ok(Cow::Owned(told))
}

/// Whether a frame is a message with views.
pub fn is_viewed(frame: &[u8]) -> bool {
    frame.get(KIND_OFFSET) == Some(&(FrameKind::Viewed as u8))
}

fn viewed_by<'f>(frame: &'f [u8], class: Option<&str>) -> Result<Message<'f>, PeerFault> {
    let (frame, _) = Frame::read(frame, u32::MAX)?;
    let (message, views) = read_viewed(frame.payload)?;
    let own = class.and_then(|class| views.of(class)).map(|bytes| Body { format: BodyFormat::Json, bytes });
    Ok(Message { body: own.unwrap_or(message.body), ..message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Sequence};
    use crate::native::{Kept, as_told, read_kept};

    fn message(bytes: &[u8]) -> Message<'_> {
        let body = Body { format: BodyFormat::Bytes, bytes };
        let (epoch, sequence) = (Epoch(3), Sequence(9));
        Message { epoch, sequence, time_ms: 7, room: "table", user: "ann", key: Some("k"), body }
    }

    fn views() -> Vec<u8> {
        let mut views = Vec::new();
        assert!(Views::write("red", b"{\"hand\":1}", &mut views) && Views::write("blue", b"2", &mut views));
        views
    }

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_message(&message(bytes), &mut frame);
        frame
    }

    fn viewed() -> Vec<u8> {
        let mut frame = Vec::new();
        write_viewed(&message(b"dealt"), Views::read(&views()).unwrap(), &mut frame);
        frame
    }

    #[test]
    fn a_message_with_views_comes_back_and_goes_on_under_another_epoch() {
        let (frame, views) = (viewed(), views());
        let kept = read_kept(&frame).unwrap();
        assert_eq!(kept, Kept::Message(message(b"dealt"), Views::read(&views).unwrap()));
        let mut again = Vec::new();
        super::super::write_kept(&kept.under(Epoch(4)), &mut again);
        let Ok(Kept::Message(there, seen)) = read_kept(&again) else { panic!("a message") };
        assert_eq!((there.epoch, seen.of("red")), (Epoch(4), Some(&b"{\"hand\":1}"[..])));
    }

    #[test]
    fn each_class_is_told_its_own_body_and_everybody_else_the_one_without() {
        let page = [plain(b"before"), viewed(), plain(b"behind")].concat();
        for (class, body, format) in [
            (Some("red"), &b"{\"hand\":1}"[..], BodyFormat::Json),
            (Some("blue"), b"2", BodyFormat::Json),
            (Some("green"), b"dealt", BodyFormat::Bytes),
            (None, b"dealt", BodyFormat::Bytes),
        ] {
            let told = as_viewed(&page, class).unwrap();
            let told: Vec<_> = Frames(&told).map(|frame| read_kept(frame.unwrap()).unwrap()).collect();
            let bodies = told.iter().map(|kept| match kept {
                Kept::Message(message, views) if views.is_empty() => message.body,
                other => panic!("{other:?}"),
            });
            let body_of = |bytes, format| Body { format, bytes };
            let plain = |bytes| body_of(bytes, BodyFormat::Bytes);
            assert_eq!(bodies.collect::<Vec<_>>(), [plain(b"before"), body_of(body, format), plain(b"behind")]);
        }
        let plain = plain(b"before");
        assert!(matches!(as_viewed(&plain, Some("red")), Ok(Cow::Borrowed(told)) if told == plain));
    }

    #[test]
    fn whoever_asks_for_no_class_is_never_told_a_view() {
        let told = as_told(&viewed(), crate::features::Features::NONE).unwrap().into_owned();
        assert_eq!(told, plain(b"dealt"));
    }

    #[test]
    fn what_is_cut_or_says_too_much_is_no_views() {
        let bytes = views();
        let first = VIEW_OVERHEAD_BYTES + "red".len() + b"{\"hand\":1}".len();
        for end in (0..bytes.len()).filter(|&end| end != first) {
            assert_eq!(Views::read(&bytes[..end]), Err(PeerFault::Archive), "{end}");
        }
        assert!(Views::read(&bytes[..first]).is_ok(), "one of them is some, too");
        let mut many = Vec::new();
        for number in 0..=VIEWS_MAX {
            assert!(Views::write(&number.to_string(), b"1", &mut many));
        }
        assert_eq!(Views::read(&many), Err(PeerFault::Archive));
        assert!(!Views::write("", b"1", &mut many) && !Views::write(&"c".repeat(65), b"1", &mut many));
        assert_eq!(Views::read(&[1, 0xff, 0, 0, 0, 0]), Err(PeerFault::Archive), "a class has a name");
        let mut frame = viewed();
        for at in 8..frame.len() {
            frame[at] ^= 0x40;
            let _ = (read_kept(&frame), as_viewed(&frame, Some("red")));
            frame[at] ^= 0x40;
        }
    }
}
