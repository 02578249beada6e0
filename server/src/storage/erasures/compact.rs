//! What is kept of a list that is full: of each erasure one record once it is done, and none of one that a later one does too.
//!
//! Nothing is forgotten that a backup could bring back: a later erasure of all that a user said in a room, or of all of the room,
//! that reaches as far, erases whatever the earlier one would.

use std::collections::BTreeMap;

use banter_log::erasure::{Bound, Erasure};
use banter_protocol::ids::{RoomName, Sequence, UserName};

use super::content::Said;
use super::{List, Listed, Wanted};
use crate::storage::slots::FileIdentity;

/// Room, and user or all.
type Whose<'l> = (&'l RoomName, Option<&'l UserName>);

/// The records to be kept, as they concern the folder of that identity.
pub(super) fn kept(list: &List, folder: FileIdentity) -> Vec<Said> {
    let mut wholes: BTreeMap<Whose<'_>, Bound> = BTreeMap::new();
    let mut kept = Vec::new();
    // The newest first: those before it are done by it.
    for listed in list.all.values().rev() {
        if listed.done.is_some() && is_covered(&listed.erasure, &wholes) {
            continue;
        }
        let erasure = &listed.erasure;
        if listed.done.is_some() && erasure.first <= Sequence(1) && erasure.last == Sequence(u64::MAX) {
            wholes.insert((&erasure.room, erasure.user.as_ref()), erasure.bound);
        }
        kept.extend(records_of(listed, folder).into_iter().rev());
    }
    kept.reverse();
    kept
}

fn is_covered(erasure: &Erasure, wholes: &BTreeMap<Whose<'_>, Bound>) -> bool {
    let reaches = |whole: &Bound| whole.within(erasure.bound) == erasure.bound;
    let of = |user| wholes.get(&(&erasure.room, user)).is_some_and(reaches);
    of(None) || erasure.user.as_ref().is_some_and(|user| of(Some(user)))
}

fn records_of(listed: &Listed, folder: FileIdentity) -> Vec<Said> {
    let &Listed { ref erasure, at_ms, through_segment, done } = listed;
    let Erasure { number, ref room, ref user, first, last, bound } = *erasure;
    let wanted = Wanted { room: room.clone(), user: user.clone(), first, last, bound };
    match (done, through_segment) {
        (Some(ended), _) => vec![Said::Finished { number, at_ms, wanted, folder, ended }],
        (None, Some(through_segment)) => {
            vec![Said::Asked { number, at_ms, wanted }, Said::Bound { number, folder, bound, through_segment }]
        }
        (None, None) => vec![Said::Asked { number, at_ms, wanted }],
    }
}
