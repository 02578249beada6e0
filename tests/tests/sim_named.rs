//! Seeds with a name: the smallest in which each kind of fault happens, and those that once showed a mistake.

use banter_tests::sim::{Plan, run_caught};

/// What happens in a seed that happened in none before it. `sim --seeds 20000` says these; where the world changes, others
/// are the smallest, and take the place of these.
const FIRST_SEEN: &[(u64, &[&str])] = &[
    (0, &["segment cut whose index cannot be read"]),
    (
        1,
        &[
            "wall clock stepped",
            "token renewed",
            "user revoked",
            "join refused for a right",
            "disconnected",
            "post refused for a right",
            "closed as revoked",
            "token or session revoked",
        ],
    ),
    (
        2,
        &[
            "segment of a class of its own",
            "hours without a server",
            "room changed its class",
            "room came back to a class",
            "hours passed",
            "read came to nothing",
            "newest slot of the ledger torn",
            "read failed",
            "index mended",
            "newest slot of the epoch file torn or rotten",
            "epoch file damaged",
            "epoch file missing",
            "keyed post refused for a read that failed",
        ],
    ),
    (4, &["more epochs"]),
    (8, &["wall clock stepped at a restart", "all of a class dropped", "read brought a wrong bit", "ledger damaged"]),
    (9, &["removed for a right", "replaced by a newer connection"]),
    (
        10,
        &[
            "older slot of the ledger torn",
            "newest slot of the ledger rotten",
            "room changed its level",
            "older slot of the epoch file torn",
            "ledger missing",
        ],
    ),
    (13, &["kicked out of a room"]),
    (16, &["ledger of a copy", "older slot of the epoch file rotten"]),
    (22, &["segment rotten", "damage found by a reader"]),
    (
        24,
        &[
            "start refused",
            "proved block of an unsealed segment rotten",
            "segment cut by the plan",
            "segment left by the plan",
        ],
    ),
    (27, &["older slot of the ledger rotten"]),
    (37, &["keyed post made again behind a start"]),
    (39, &["token for a room ended"]),
    (41, &["token for a room was revoked"]),
    (42, &["table of an older segment unreadable", "index made again"]),
    (43, &["followed block rotten"]),
    (123, &["duplicate of an earlier run"]),
];

/// What went wrong there once.
const MENDED: &[(u64, u16, &str)] = &[
    (975, 1, "a synced room got a new epoch, since a power cut and a change of levels counted as something dropped"),
    (
        1_258,
        2,
        "a page before a place was empty and said that there was more, since its segment was cut while it was read",
    ),
    (2_060, 3, "small pages of a deep room took longer than the world waited"),
    (
        10_382,
        3,
        "a later start counted what an earlier one had left out behind a power cut, and lost what is before it",
    ),
    (
        15_966,
        1,
        "a block that a full disk had refused lay whole behind its segment's end: walked without its index, it cut the room off",
    ),
    (
        24_629,
        3,
        "what a power cut left, without the index and the ledger that said so, hid what its room has before it",
    ),
    (
        55_504,
        2,
        "what a power cut left behind a room's class, without the index that said so, hid what the room has in the class it left",
    ),
];

fn run(seed: u64, cores: u16, what: &str) -> banter_tests::sim::coverage::Coverage {
    run_caught(Plan::of(seed, cores)).unwrap_or_else(|fault| panic!("{what}: {fault}"))
}

#[test]
fn every_kind_of_fault_happens_in_the_seed_that_is_named_for_it_and_is_stood() {
    for &(seed, kinds) in FIRST_SEEN {
        let seen = run(seed, (seed % 3) as u16 + 1, kinds[0]);
        for kind in kinds {
            assert!(seen.0.get(kind).is_some_and(|&times| times > 0), "seed {seed} does not see {kind:?} any more");
        }
    }
}

#[test]
fn what_went_wrong_in_a_seed_does_not_again() {
    MENDED.iter().for_each(|&(seed, cores, what)| drop(run(seed, cores, what)));
}
