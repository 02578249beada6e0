//! The disk keeps what was synced and nothing else, through the kernel and with O_DIRECT.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

use super::*;

const O_DIRECT: i32 = 0o40_000;

/// A block as O_DIRECT wants it: aligned like its length.
#[repr(align(4096))]
struct Block<const BYTES: usize = 4_096>([u8; BYTES]);

fn block(byte: u8) -> Box<Block> {
    Box::new(Block([byte; 4_096]))
}

/// Runs a test on a disk and a folder on it, or says that it cannot.
fn with_disk(test: impl FnOnce(&FuseDisk, &Path)) {
    with_disk_aimed(Aim::Files(|name| name.starts_with("segment")), test);
}

fn with_disk_aimed(aim: Aim, test: impl FnOnce(&FuseDisk, &Path)) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    match FuseDisk::mount(folder.path(), aim) {
        Ok(disk) => test(&disk, &disk.make_folder("data")),
        Err(error) => eprintln!("SKIPPED: no FUSE here: {error}"),
    }
}

fn direct(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(O_DIRECT).open(path).expect("O_DIRECT is taken")
}

fn cut(disk: &FuseDisk) {
    disk.power_cut();
    disk.power_on();
}

#[test]
fn what_was_synced_is_found_again_and_what_was_not_is_gone() {
    with_disk(|disk, data| {
        let path = data.join("segment");
        let file = direct(&path);
        file.write_all_at(&block(1).0, 0).expect("written");
        file.sync_data().expect("synced");
        File::open(data).and_then(|folder| folder.sync_all()).expect("the folder is synced");
        file.write_all_at(&block(2).0, 4_096).expect("written");
        assert_eq!(fs::read(&path).expect("there").len(), 8_192);
        cut(disk);
        assert_eq!(fs::read(&path).expect("there"), [1; 4_096]);
        assert!(file.write_all_at(&block(3).0, 0).is_err(), "it was opened before the cut");
    });
}

#[test]
fn an_entry_is_found_again_only_when_its_folder_was_synced() {
    with_disk(|disk, data| {
        let folder = File::open(data).expect("a folder");
        let [old, new, other] = ["old", "new", "other"].map(|name| data.join(name));
        fs::write(&old, "x").expect("written");
        File::open(&old).and_then(|file| file.sync_all()).expect("synced");
        folder.sync_all().expect("synced");
        fs::rename(&old, &new).expect("renamed");
        fs::write(&other, "y").expect("written");
        cut(disk);
        assert_eq!(fs::read(&old).expect("the rename was not durable"), b"x");
        assert!(!new.exists() && !other.exists());
        fs::remove_file(&old).expect("removed");
        cut(disk);
        assert_eq!(fs::read(&old).expect("the removal was not durable"), b"x");
        fs::rename(&old, &new).expect("renamed");
        File::open(data).and_then(|folder| folder.sync_all()).expect("synced");
        cut(disk);
        assert!(new.exists() && !old.exists());
    });
}

#[test]
fn what_a_failed_sync_left_no_later_sync_makes_durable() {
    with_disk(|disk, data| {
        let path = data.join("segment");
        let file = direct(&path);
        file.write_all_at(&block(1).0, 0).expect("written");
        disk.fail_next_fsync_eio();
        assert_eq!(file.sync_data().expect_err("it was to fail").raw_os_error(), Some(5));
        assert!(disk.fired().is_some());
        file.write_all_at(&block(2).0, 4_096).expect("written");
        file.sync_data().expect("the next one succeeds");
        File::open(data).and_then(|folder| folder.sync_all()).expect("synced");
        cut(disk);
        assert_eq!(fs::read(&path).expect("there"), [[0; 4_096], [2; 4_096]].concat());
    });
}

#[test]
fn writes_fail_and_fall_short_once() {
    with_disk(|disk, data| {
        let (file, other) = (direct(&data.join("segment")), direct(&data.join("other")));
        disk.fail_next_write_eio();
        other.write_all_at(&block(1).0, 0).expect("no fault is for it");
        assert_eq!(file.write_at(&block(1).0, 0).expect_err("it was to fail").raw_os_error(), Some(5));
        assert_eq!(file.write_at(&block(1).0, 0).expect("once"), 4_096);
        disk.short_next_write();
        let two = Box::new(Block([1; 8_192]));
        assert_eq!(file.write_at(&two.0, 0).expect("written"), 4_096);
        assert_eq!(file.write_at(&two.0[4_096..], 4_096).expect_err("io_uring's own attempt").raw_os_error(), Some(5));
        assert_eq!(file.write_at(&two.0, 0).expect("once"), 8_192);
    });
}

#[test]
fn reads_fail_where_they_are_aimed_at_as_often_as_was_said() {
    with_disk(|disk, data| {
        let [segment, index] = ["segment-1.log", "segment-1.index"].map(|name| direct(&data.join(name)));
        for file in [&segment, &index] {
            file.write_all_at(&block(1).0, 0).expect("written");
            file.write_all_at(&block(2).0, 4_096).expect("written");
        }
        let reads = |file: &File, offset| {
            let mut page = block(0);
            file.read_at(&mut page.0, offset).map(|bytes| (bytes, page.0[0]))
        };
        let fails = |file: &File, offset| reads(file, offset).is_err_and(|error| error.raw_os_error() == Some(5));
        disk.fail_reads(ReadFault { times: Some(2), ..ReadFault::of(LogFiles::Segments) });
        assert_eq!(reads(&index, 0).expect("no fault is for it"), (4_096, 1));
        assert!(fails(&segment, 0) && fails(&segment, 4_096));
        assert_eq!(reads(&segment, 0).expect("twice"), (4_096, 1));
        disk.fail_reads(ReadFault { offset: Some(5_000), ..ReadFault::of(LogFiles::Sealed) });
        for file in [&segment, &index] {
            assert_eq!(reads(file, 0).expect("another page"), (4_096, 1));
            assert!((0..3).all(|_| fails(file, 4_096)), "for ever");
            assert_eq!(reads(file, 8_192).expect("nothing is behind the end"), (0, 0));
        }
        assert_eq!(disk.reads_failed(), 8);
        disk.mend_reads();
        assert_eq!(reads(&segment, 4_096).expect("mended"), (4_096, 2));
    });
}

#[test]
fn a_full_disk_refuses_growth_until_there_is_space() {
    with_disk(|disk, data| {
        let file = direct(&data.join("segment"));
        file.write_all_at(&block(1).0, 0).expect("written");
        disk.full_after(4_096);
        file.write_all_at(&block(1).0, 4_096).expect("the last block");
        assert_eq!(file.write_at(&block(1).0, 8_192).expect_err("full").raw_os_error(), Some(28));
        file.write_all_at(&block(2).0, 0).expect("what is there can be written over");
        fs::remove_file(data.join("segment")).expect("removed");
        direct(&data.join("other")).write_all_at(&block(1).0, 4_096).expect("there is space");
    });
}

#[test]
fn a_torn_cut_keeps_some_of_what_was_not_synced() {
    with_disk(|disk, data| {
        let path = data.join("segment");
        let file = direct(&path);
        file.set_len(40_960).expect("a length");
        file.sync_all().expect("synced");
        File::open(data).and_then(|folder| folder.sync_all()).expect("synced");
        for at in 0..10 {
            file.write_all_at(&block(1).0, at * 4_096).expect("written");
        }
        disk.power_cut_torn(&mut Seeded::new(1));
        disk.power_on();
        let kept = fs::read(&path).expect("there").iter().filter(|&&byte| byte == 1).count();
        assert!(kept % 512 == 0 && (5_120..35_840).contains(&kept), "{kept}");
    });
}

#[test]
fn faults_aimed_at_writes_leave_all_others_alone() {
    with_disk_aimed(Aim::Writes(|bytes| bytes.starts_with(&[1])), |disk, data| {
        let file = direct(&data.join("image"));
        disk.fail_next_fsync_eio();
        file.sync_data().expect("nothing is to be synced");
        file.write_all_at(&block(2).0, 0).expect("written");
        file.write_all_at(&block(1).0, 4_096).expect("written");
        file.sync_data().expect("not only writes that are aimed at are to be synced");
        file.write_all_at(&block(1).0, 4_096).expect("written");
        assert_eq!(file.sync_data().expect_err("it was to fail").raw_os_error(), Some(5));
        disk.fail_next_write_eio();
        file.write_all_at(&block(2).0, 0).expect("no fault is for it");
        assert_eq!(file.write_at(&block(1).0, 0).expect_err("it was to fail").raw_os_error(), Some(5));
    });
}
