//! End to end: an ext4 that is stopped under load, as by a power cut, still holds what was acknowledged.

use banter_tests::loop_disk::LoopDisk;
use banter_tests::power_cut::run;
use banter_tests::trial::Setup;

/// Any number more by the program `power-cut`.
const ROUNDS: usize = 4;
const DISK_MIB: u64 = 512;

#[test]
fn a_power_cut_under_load_loses_nothing_acknowledged() {
    match LoopDisk::make(DISK_MIB) {
        Ok(mut disk) => run(Setup::new("synced", 51), ROUNDS, &mut disk, |_| {}).assert_clean(),
        Err(error) => eprintln!("SKIPPED: no ext4 on a loop device here: {error}"),
    }
}
