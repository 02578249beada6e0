//! How long the hot scenarios take: `cargo bench -p banter-benches --bench hot`, with a part of a name behind it for some.
//!
//! What each decides is said where it is made (`benches/src/hot`) and in `benches/README.md`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use banter_benches::hot::{lanes, scenarios};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::thread::{CpuSet, sched_setaffinity};

// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// All scenarios that one thread does by itself.
fn of_one_core(criterion: &mut Criterion) {
    for scenario in scenarios() {
        let mut group = criterion.benchmark_group(scenario.question);
        group.throughput(Throughput::Elements(scenario.operations));
        let mut call = None;
        group.bench_function(scenario.name, |bencher| {
            bencher.iter(call.get_or_insert_with(scenario.begin));
        });
        group.finish();
    }
}

/// A parcel to a core that looks for it, and one back: what a hop takes with its way through the caches. Decides from how
/// few readers on another core on a parcel of their own is worth it.
fn between_cores(criterion: &mut Criterion) {
    let [mut here, mut there] = lanes::two_cores();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin_to(1);
            while !ends.load(Ordering::Relaxed) {
                while let Some(parcel) = there.up_in.pop() {
                    there.up_out.push(parcel);
                    there.bell.ring();
                }
                std::hint::spin_loop();
            }
        });
        pin_to(0);
        let mut group = criterion.benchmark_group("lanes");
        group.throughput(Throughput::Elements(2));
        group.bench_function("hop-between-cores", |bencher| {
            bencher.iter_custom(|rounds| {
                let mut parcel = lanes::parcel();
                let begun_at = Instant::now();
                for _ in 0..rounds {
                    here.up_out.push(parcel);
                    here.bell.ring();
                    parcel = loop {
                        match here.up_in.pop() {
                            Some(parcel) => break parcel,
                            None => std::hint::spin_loop(),
                        }
                    };
                }
                begun_at.elapsed()
            });
        });
        group.finish();
        ends.store(true, Ordering::Relaxed);
    });
}

/// On a machine with one CPU the two take turns, and the figure says nothing.
fn pin_to(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    let _ = sched_setaffinity(None, &cpus);
}

criterion_group!(hot, of_one_core, between_cores);
criterion_main!(hot);
