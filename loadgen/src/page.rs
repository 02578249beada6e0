//! A page of history, taken apart: places and bodies, where they lie in the read buffer.

use banter_protocol::event::Event;
use banter_protocol::frame::Frame;
use banter_protocol::native;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::scan::{FRAME_BYTES_MAX, ScanFault};

/// The messages of a page as they came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PageBytes<'a> {
    /// A JSON array of events.
    Json(&'a [u8]),
    /// Native frames, one after another.
    Native(&'a [u8]),
}

/// What a page holds for one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A message.
    Message {
        /// The room's history.
        epoch: u64,
        /// Its place.
        sequence: u64,
        /// Its body as it was posted.
        body: &'a [u8],
    },
    /// It holds nothing that can be told.
    Gap {
        /// The first such place.
        from: u64,
        /// The last.
        to: u64,
    },
}

#[derive(Deserialize)]
struct JsonItem<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    epoch: u64,
    sequence: Option<u64>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    from: Option<u64>,
    to: Option<u64>,
}

impl<'a> PageBytes<'a> {
    /// The items in their order.
    ///
    /// # Errors
    /// When they are no items of a page.
    pub fn items(self) -> Result<Vec<Item<'a>>, ScanFault> {
        match self {
            PageBytes::Json(text) => json_items(text),
            PageBytes::Native(frames) => native_items(frames),
        }
    }
}

fn fault(what: impl ToString) -> ScanFault {
    ScanFault(format!("a page: {}", what.to_string()))
}

fn json_items(text: &[u8]) -> Result<Vec<Item<'_>>, ScanFault> {
    let items: Vec<JsonItem<'_>> = serde_json::from_slice(text).map_err(fault)?;
    items.into_iter().map(json_item).collect()
}

fn json_item(item: JsonItem<'_>) -> Result<Item<'_>, ScanFault> {
    match (item.kind, item.sequence, item.from.zip(item.to)) {
        ("message", Some(sequence), _) => {
            let body = item.body.map_or(&[][..], |body| body.get().as_bytes());
            Ok(Item::Message { epoch: item.epoch, sequence, body })
        }
        ("gap", _, Some((from, to))) => Ok(Item::Gap { from, to }),
        (kind, ..) => Err(fault(format!("an item {kind:?} that is neither message nor gap"))),
    }
}

fn native_items(mut frames: &[u8]) -> Result<Vec<Item<'_>>, ScanFault> {
    let mut items = Vec::new();
    while !frames.is_empty() {
        let (frame, used) = Frame::read(frames, FRAME_BYTES_MAX as u32).map_err(fault)?;
        frames = &frames[used..];
        items.push(match native::read_event(frame).map_err(fault)? {
            Event::Message(message) => {
                Item::Message { epoch: message.epoch.0, sequence: message.sequence.0, body: message.body.bytes }
            }
            Event::Gap { from, to, .. } => Item::Gap { from: from.0, to: to.0 },
            _ => return Err(fault("a frame that is neither message nor gap")),
        });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Wire;
    use crate::scan::{self, Seen};
    use crate::scan_json::Openings;
    use banter_protocol::event::Message;
    use banter_protocol::ids::{Epoch, Sequence};
    use banter_protocol::request::{Body, BodyFormat};
    use banter_protocol::wire::WireForm;

    fn message(sequence: u64) -> Event<'static> {
        let body = Body { format: BodyFormat::Json, bytes: b"\"x\"" };
        let (epoch, sequence) = (Epoch(7), Sequence(sequence));
        Event::Message(Message { epoch, sequence, time_ms: 1, room: "r", user: "u", key: None, body })
    }

    #[test]
    fn a_page_says_the_same_in_every_wire_form() {
        let mut messages = Vec::new();
        let gap = Event::Gap { room: "r", epoch: Epoch(7), from: Sequence(5), to: Sequence(5) };
        [message(4), gap, message(6)].iter().for_each(|event| WireForm::Native.write_event(event, &mut messages));
        let page = Event::Page { id: Some(3), room: "r", epoch: Epoch(7), messages: &messages, more: true };
        let body = b"\"x\"".as_slice();
        let item = |sequence| Item::Message { epoch: 7, sequence, body };
        for (wire, form) in [(Wire::Json, WireForm::Json), (Wire::Native, WireForm::Native)] {
            let mut bytes = Vec::new();
            form.write_event(&page, &mut bytes);
            let (raw, _) = scan::cut(wire, &bytes).unwrap().unwrap();
            let Ok(Seen::Page { id: 3, messages, more: true }) = scan::read(raw, &Openings::default()) else {
                panic!("{wire:?}")
            };
            assert_eq!(messages.items().unwrap(), [item(4), Item::Gap { from: 5, to: 5 }, item(6)], "{wire:?}");
        }
    }

    #[test]
    fn what_is_no_page_is_a_fault() {
        assert!(PageBytes::Json(b"[{}]").items().is_err());
        assert!(PageBytes::Json(br#"[{"type":"message","epoch":1}]"#).items().is_err());
        assert!(PageBytes::Native(&[0xFF; 20]).items().is_err());
    }
}
