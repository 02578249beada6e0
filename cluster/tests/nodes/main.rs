//! Nodes with their real journals on an engine in memory, by seed: crashes, zombies, leader changes, cuts, late appends. What was
//! acknowledged stays, at its place, for whoever owns the partition.

#[path = "../common/mod.rs"]
mod common;
mod world;

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

use banter_cluster::engine::Partition;
use banter_cluster::node::{Input, Node};
use banter_cluster::partition;
use banter_cluster::store::Stage;
use banter_log::journal::State;
use banter_log::segment::Class;
use world::{Machine, PARTITIONS, PartitionAt, World};

fn run(seed: u64, flips: bool) -> World {
    let nodes = 2 + (seed % 2) as usize;
    let mut world = World::new(seed, nodes, 64 << 20);
    world.flips = flips;
    let end_ms = 6_000 + (seed % 7) * 6_000;
    while world.engine.now_ms < end_ms {
        world.step();
        world.work();
        if world.chance.is_per_mille(2) {
            world.harm();
        }
    }
    world.comes_to_rest();
    world
}

/// Runs seeds on all CPUs: `SEEDS` of them, from `SEED` on. What is added up: acknowledged posts, times that a node served, broken partitions.
fn run_seeds(usual: u64, flips: bool) -> (u64, [u64; 3]) {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let (first, seeds) = (number("SEED").unwrap_or(0), number("SEEDS").unwrap_or(usual));
    let next = AtomicU64::new(first);
    let sums = [0; 3].map(AtomicU64::new);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            let world = std::panic::catch_unwind(|| run(seed, flips));
            let world = world.unwrap_or_else(|_| panic!("seed {seed}: run again with SEED={seed} SEEDS=1"));
            let counts = [world.truth.acknowledged_count, world.serves, world.broken];
            sums.iter().zip(counts).for_each(|(sum, count)| _ = sum.fetch_add(count, Ordering::Relaxed));
            if (seed + 1 - first).is_multiple_of(500) {
                eprintln!("{} of {seeds} seeds", seed + 1 - first);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    (seeds, sums.map(AtomicU64::into_inner))
}

#[test]
fn what_was_acknowledged_stays_whoever_owns_the_partition() {
    let (seeds, [acknowledged, serves, _]) = run_seeds(1_000, false);
    println!("{seeds} seeds: {acknowledged} acknowledged, {serves} times an owner");
    assert!(acknowledged > 100 * seeds && serves > seeds);
}

#[test]
fn what_a_damaged_disk_of_the_engine_answers_is_never_shown() {
    let (seeds, [acknowledged, serves, broken]) = run_seeds(1_000, true);
    println!("{seeds} seeds: {acknowledged} acknowledged, {serves} times an owner, {broken} times damage was told");
    assert!(acknowledged > 100 * seeds && serves > seeds);
    assert!(broken > 0 || seeds < 20, "no damage was met");
}

#[test]
fn what_is_forgotten_makes_room_in_streams_that_were_full() {
    let mut world = World::new(1, 2, 2 << 20);
    let fills = |world: &mut World| {
        let is_full = |at: &PartitionAt| at.journal.state(Class::SERVER) == State::Full;
        let all_full = |machine: &Machine| {
            machine.partitions.len() == usize::from(PARTITIONS) && machine.partitions.values().all(is_full)
        };
        let until_ms = world.engine.now_ms + 300_000;
        while !world.machines.iter().any(all_full) {
            assert!(world.engine.now_ms < until_ms, "the streams do not become full");
            world.step();
            world.work();
        }
        world.truth.acknowledged_count
    };
    let once = fills(&mut world);
    let full = |world: &World| world.machines[world.owners()[0]].node.as_ref().expect("a node").full().count();
    assert!(once > 0 && full(&world) == usize::from(PARTITIONS), "each is told");
    for _ in 0..3 {
        // The second half with nothing written behind the first one's checkpoint.
        for half in [2, 1] {
            let owner = world.owners()[0];
            for partition in 0..PARTITIONS {
                let node = world.machines[owner].node.as_ref().expect("a node");
                let kept = node.segments(Partition(partition)).filter(|segment| segment.stage == Stage::Kept);
                let segments: Vec<u64> = kept.map(|segment| segment.header.id).collect();
                let count = segments.len().div_ceil(half);
                world.truth.has_forgotten = true;
                let segments = segments.into_iter().take(count).collect();
                world.tell(owner, Input::Forget(Partition(partition), segments));
            }
            let until_ms = world.engine.now_ms + 30_000;
            while world.engine.now_ms < until_ms {
                world.step();
            }
        }
        for partition in 0..PARTITIONS {
            let bytes = world.engine.bytes(Partition(partition));
            assert!(bytes < 512 << 10, "what was forgotten is still there: {bytes} bytes");
        }
        assert_eq!(full(&world), 0, "none is told any more");
        let before = world.truth.acknowledged_count;
        assert!(fills(&mut world) > before + once / 2, "what was forgotten makes no room");
    }
}

/// Until that is so, within so long.
fn steps_until(world: &mut World, within_ms: u64, what: &str, is: impl Fn(&World) -> bool) {
    let until_ms = world.engine.now_ms + within_ms;
    while !is(world) {
        assert!(world.engine.now_ms < until_ms, "not within {within_ms} ms: {what}: {}", world.told());
        world.step();
    }
}

/// Partitions that are open at the node that serves.
fn open_count(world: &World) -> usize {
    let serving = world.owners().first().and_then(|&owner| world.machines[owner].node.as_ref());
    let is_open = |state: &partition::State| matches!(state, partition::State::Open { .. });
    serving.map_or(0, |node: &Node| node.partitions().filter(is_open).count())
}

#[test]
fn a_stream_without_a_leader_keeps_its_own_rooms_waiting_and_no_others() {
    let mut world = World::new(1, 2, 64 << 20);
    world.engine.change_leader(0, 20_000);
    steps_until(&mut world, 10_000, "the others are served", |world| open_count(world) > 0);
    assert_eq!(open_count(&world), usize::from(PARTITIONS) - 1);
    steps_until(&mut world, 20_000, "its own are served once it has one", |world| {
        open_count(world) == usize::from(PARTITIONS)
    });
    assert_eq!(world.serves, 1, "by the same node, and without a break");
}

#[test]
fn a_partition_whose_stream_lacked_something_is_served_once_it_is_there() {
    let mut world = in_use(1);
    // One that no checkpoint covers yet.
    let last = world.engine.last(Partition(0));
    world.engine.hidden.insert((Partition(0), last - 1));
    let owner = world.owners()[0];
    world.crash(owner);
    steps_until(&mut world, 30_000, "the others are served", |world| open_count(world) > 0);
    assert_eq!((open_count(&world), world.broken), (usize::from(PARTITIONS) - 1, 1));
    world.engine.hidden.clear();
    steps_until(&mut world, 15_000, "it is tried again", |world| open_count(world) == usize::from(PARTITIONS));
    world.comes_to_rest();
}

#[test]
fn what_a_node_could_not_give_up_for_want_of_a_leader_keeps_it_from_serving_nothing_else_again() {
    let mut world = World::new(1, 2, 64 << 20);
    steps_until(&mut world, 10_000, "all are served", |world| open_count(world) == usize::from(PARTITIONS));
    let (first, second) = (world.owners()[0], 1 - world.owners()[0]);
    world.stop(first, 8_000);
    steps_until(&mut world, 7_000, "the other has them", |world| world.owners().contains(&second));
    world.engine.change_leader(0, 90_000);
    steps_until(&mut world, 30_000, "the one that stood still gives them up", |world| world.owners() == [second]);
    world.crash(second);
    steps_until(&mut world, 30_000, "it serves again", |world| {
        world.owners() == [first] && open_count(world) == usize::from(PARTITIONS) - 1
    });
    steps_until(&mut world, 90_000, "and that one too, in the end", |world| {
        open_count(world) == usize::from(PARTITIONS)
    });
}

/// All are served, and something was posted.
fn in_use(seed: u64) -> World {
    let mut world = World::new(seed, 2, 64 << 20);
    world.flips = true;
    steps_until(&mut world, 10_000, "all are served", |world| open_count(world) == usize::from(PARTITIONS));
    for _ in 0..2_000 {
        world.step();
        world.work();
    }
    world
}

#[test]
fn a_stream_that_was_purged_or_made_anew_by_hand_costs_its_own_rooms_and_no_others() {
    for harm in [
        |world: &mut World| world.engine.purge_all(Partition(0)),
        |world: &mut World| world.engine.make_anew(Partition(0)),
    ] {
        let mut world = in_use(1);
        let owner = world.owners()[0];
        harm(&mut world);
        world.crash(owner);
        steps_until(&mut world, 30_000, "the others are served", |world| {
            open_count(world) == usize::from(PARTITIONS) - 1 && world.broken == 1
        });
    }
}

#[test]
fn what_an_owner_forgot_right_before_its_death_makes_room_at_the_next_one() {
    let mut world = World::new(1, 2, 2 << 20);
    steps_until(&mut world, 10_000, "all are served", |world| open_count(world) == usize::from(PARTITIONS));
    let is_full = |at: &PartitionAt| at.journal.state(Class::SERVER) == State::Full;
    let any_full = |world: &World| world.machines.iter().flat_map(|it| it.partitions.values()).any(is_full);
    while !any_full(&world) {
        world.step();
        world.work();
    }
    let first = world.owners()[0];
    let full = world.machines[first].partitions.iter().find(|(_, at)| is_full(at)).map(|(number, _)| *number);
    let partition = Partition(full.expect("one is full"));
    // One who takes over what is full writes nothing, so that nothing but what goes makes a checkpoint due.
    world.crash(first);
    let owner = 1 - first;
    steps_until(&mut world, 10_000, "the other serves", |world| open_count(world) == usize::from(PARTITIONS));
    world.start(first);
    for _ in 0..10_000 {
        world.step();
    }
    let segments = |world: &World| {
        let node = world.machines[owner].node.as_ref().expect("a node");
        let kept = node.segments(partition).filter(|segment| segment.stage == Stage::Kept && !segment.is_forgotten);
        kept.map(|segment| segment.header.id).collect::<Vec<u64>>()
    };
    let forgotten = segments(&world);
    world.truth.has_forgotten = true;
    world.tell(owner, Input::Forget(partition, forgotten.clone()));
    steps_until(&mut world, 1_000, "it is said", |world| {
        let there = segments(world);
        !forgotten.iter().any(|segment| there.contains(segment))
    });
    world.crash(owner);
    steps_until(&mut world, 60_000, "the next one makes room", |world| world.engine.bytes(partition) < 512 << 10);
    world.comes_to_rest();
}

#[test]
fn where_the_engine_takes_no_index_segments_stop_beginning_before_memory_is_full_of_them() {
    let mut world = World::new(1, 2, 64 << 20);
    steps_until(&mut world, 10_000, "all are served", |world| open_count(world) == usize::from(PARTITIONS));
    world.engine.takes_objects = false;
    let is_full = |at: &PartitionAt| at.journal.state(Class::SERVER) == State::Full;
    let fills = |world: &mut World| {
        let until_ms = world.engine.now_ms + 200_000;
        while !world.machines.iter().any(|machine| machine.partitions.values().any(is_full)) {
            assert!(world.engine.now_ms < until_ms, "nothing holds them");
            world.step();
            world.work();
        }
    };
    fills(&mut world);
    let stream_bytes: u64 = (0..PARTITIONS).map(|number| world.engine.bytes(Partition(number))).sum();
    assert!(stream_bytes < 32 << 20, "the streams have room, and {stream_bytes} bytes were written");
    world.engine.takes_objects = true;
    steps_until(&mut world, 30_000, "posts go on", |world| {
        !world.machines.iter().any(|machine| machine.partitions.values().any(is_full))
    });
    world.comes_to_rest();
}
