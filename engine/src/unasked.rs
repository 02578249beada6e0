//! The answer of an ask that is not sent.

use banter_cluster::engine::{Answer, Ask, Unasked};

/// As if nothing came; a beat has no answer.
pub(crate) fn unasked(ask: &Ask) -> Option<Answer> {
    Some(match *ask {
        Ask::Append { ticket, .. } => Answer::Silent { ticket },
        Ask::Tail { ticket, .. } => Answer::Tail { ticket, tail: None },
        Ask::Read { ticket, .. } => Answer::Read { ticket, messages: None },
        Ask::Purge { ticket, .. } | Ask::Put { ticket, .. } | Ask::Remove { ticket, .. } => {
            Answer::Done { ticket, is_done: false }
        }
        Ask::Get { ticket, .. } => Answer::Object { ticket, object: Err(Unasked) },
        Ask::Beat { .. } => return None,
    })
}
