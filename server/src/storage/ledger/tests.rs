use super::*;

const BOOT: Option<BootId> = Some(BootId(77));
const IDENTITY: FileIdentity = FileIdentity { inode: 5, born_ns: 6 };

fn ledger() -> Ledger {
    Ledger {
        last: Some(LastRun { run: 7, is_closed: true, boot: BOOT }),
        written_break: Some(Break { run: 3, epoch: Epoch(40), every_level: false }),
        all_break: Some(Break { run: 2, epoch: Epoch(30), every_level: true }),
        blank: Epoch(35),
        dropped: Epoch(33),
        newest_segment: 12,
        levels: Levels { hash: u64::MAX, epoch: Epoch(6) },
        identity: IDENTITY,
        is_moved: true,
    }
}

fn start() -> Start {
    Start { run: 900, boot: BOOT, levels_hash: u64::MAX, newest_run: Some(7), identity: IDENTITY }
}

fn open(folder: &Path) -> Ledger {
    match LedgerFile::open(folder).unwrap() {
        Found::Whole(file) => file.ledger,
        other => panic!("{other:?}"),
    }
}

/// One that is where it was, and whose last run ended like that.
fn behind(is_closed: bool, boot: Option<BootId>) -> Ledger {
    Ledger { last: Some(LastRun { run: 7, is_closed, boot }), is_moved: false, ..ledger() }
}

#[test]
fn a_ledger_comes_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(LedgerFile::open(folder.path()), Ok(Found::Nothing)));
    for ledger in [Ledger::default(), ledger()] {
        assert_eq!(Ledger::decode(&ledger.encode()), Some(ledger.clone()));
        assert_eq!(ledger.encode().len(), CONTENT_BYTES);
        let file = LedgerFile::make(folder.path(), ledger.clone()).unwrap();
        let read = open(folder.path());
        assert_eq!(read, *file.ledger());
        assert_eq!(read, Ledger { identity: file.slots.identity().unwrap(), ..ledger });
    }
    assert_eq!(Ledger::decode(&[0; CONTENT_BYTES - 1]), None);
}

#[test]
fn a_lost_ledger_is_kept_aside_and_what_is_said_anew_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    fs::write(&path, "banter-log 1\n").unwrap();
    let found = LedgerFile::open(folder.path()).unwrap();
    assert_eq!(found.ledger(), Ledger::default());
    found.write(folder.path(), ledger()).unwrap();
    assert_eq!(open(folder.path()).last, ledger().last);
    assert_eq!(fs::read_to_string(path.with_extension("damaged")).unwrap(), "banter-log 1\n");
}

#[test]
fn only_another_boot_behind_an_open_run_means_a_power_cut_and_an_unknown_boot_is_another() {
    let doubt = |is_closed, before, now| behind(is_closed, before).begin(&Start { boot: now, ..start() });
    let other = Some(BootId(78));
    assert_eq!(doubt(true, BOOT, BOOT), None);
    assert_eq!(doubt(true, BOOT, other), None);
    assert_eq!(doubt(true, None, None), None);
    assert_eq!(doubt(false, BOOT, BOOT), None, "the process died, and the kernel did not");
    for (before, now) in [(BOOT, other), (BOOT, None), (None, BOOT), (None, None)] {
        assert_eq!(doubt(false, before, now), Some(Doubt::WentDown(7)), "{before:?} {now:?}");
    }
}

#[test]
fn a_boot_that_does_not_read_is_unknown() {
    assert_eq!(boot_of("3f2a0000-0000-0000-0000-000000000001\n"), Some(BootId(0x3f2a << 112 | 1)));
    for text in ["", "\n", "another", "00000000-0000-0000-0000-000000000000", "3f2a0000-0000-0000-0000-00000000000"] {
        assert_eq!(boot_of(text), None, "{text}");
    }
}

#[test]
fn a_power_cut_breaks_what_was_written_and_a_copy_or_a_loss_breaks_everything() {
    let mut cut = behind(false, None);
    cut.begin(&start());
    assert_eq!(cut.written_break, Some(Break { run: 7, epoch: Epoch(900), every_level: false }));
    assert_eq!(cut.all_break, ledger().all_break);
    assert_eq!(cut.blank(), Blank { synced: Epoch(35), written: Epoch(900) });
    let others = [
        (Doubt::Copied, behind(true, BOOT), Start { identity: FileIdentity { inode: 4, ..IDENTITY }, ..start() }),
        (Doubt::Copied, behind(true, BOOT), Start { identity: FileIdentity { born_ns: 4, ..IDENTITY }, ..start() }),
        (Doubt::Older(7), behind(true, BOOT), Start { newest_run: Some(8), ..start() }),
        (Doubt::Lost, Ledger::default(), start()),
    ];
    for (doubt, mut ledger, start) in others {
        assert_eq!(ledger.begin(&start), Some(doubt));
        assert_eq!(ledger.all_break, Some(Break { run: 899, epoch: Epoch(900), every_level: true }));
        assert_eq!(ledger.blank(), Blank { synced: Epoch(900), written: Epoch(900) });
    }
}

#[test]
fn a_copy_that_was_marked_as_moved_goes_on_once() {
    let mut ledger = ledger();
    let elsewhere = Start { identity: FileIdentity { inode: 4, ..IDENTITY }, ..start() };
    assert_eq!(ledger.begin(&elsewhere), None);
    assert_eq!(ledger.begin(&Start { run: 901, ..elsewhere }), Some(Doubt::Copied), "the mark is used up");
}

#[test]
fn a_mark_is_written_to_a_whole_ledger_only() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!mark_moved(folder.path()).unwrap());
    LedgerFile::make(folder.path(), behind(true, BOOT)).unwrap();
    let before = open(folder.path());
    assert!(mark_moved(folder.path()).unwrap());
    assert_eq!(open(folder.path()), Ledger { is_moved: true, ..before });
}

#[test]
fn rooms_without_a_message_get_an_epoch_when_the_log_is_made_and_keep_it() {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.begin(&Start { newest_run: None, ..start() }), None);
    assert_eq!(ledger.blank(), Blank { synced: Epoch(900), written: Epoch(900) });
    ledger.identity = IDENTITY;
    assert_eq!(ledger.begin(&Start { run: 950, newest_run: Some(900), ..start() }), None);
    assert_eq!(ledger.blank(), Blank { synced: Epoch(900), written: Epoch(900) });
    assert_eq!(ledger.levels, Levels { hash: u64::MAX, epoch: Epoch(900) });
    assert_eq!(ledger.begin(&Start { run: 960, newest_run: Some(950), levels_hash: 3, ..start() }), None);
    assert_eq!(ledger.levels, Levels { hash: 3, epoch: Epoch(960) }, "other rooms are logged now");
}

#[test]
fn what_is_changed_while_the_server_runs_is_on_the_disk_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = LedgerFile::make(folder.path(), behind(false, BOOT)).unwrap();
    file.raise_blank(Epoch(50)).unwrap();
    file.raise_blank(Epoch(45)).unwrap();
    assert_eq!(open(folder.path()).blank, Epoch(50), "it only rises");
    for is_whole in [true, false] {
        file.end(is_whole, 9).unwrap();
        assert_eq!(open(folder.path()).last.map(|last| last.is_closed), Some(is_whole));
    }
}

#[test]
fn a_run_whose_sync_failed_ends_as_behind_a_power_cut_on_the_same_boot_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = LedgerFile::make(folder.path(), behind(false, BOOT)).unwrap();
    let unlost = || LedgerFile::open(folder.path()).unwrap().unlost_run(BOOT);
    assert_eq!(unlost(), Some(7));
    file.forget_boot().unwrap();
    assert_eq!(unlost(), None);
    file.end(false, 9).unwrap();
    let mut ledger = open(folder.path());
    let identity = ledger.identity;
    assert_eq!(ledger.begin(&Start { identity, ..start() }), Some(Doubt::WentDown(7)));
}

#[test]
fn nothing_is_known_to_be_unlost_of_another_boot_unless_all_was_on_the_disk_nor_of_a_copy() {
    let folder = tempfile::tempdir().unwrap();
    let unlost = |ledger, boot| {
        LedgerFile::make(folder.path(), ledger).unwrap();
        LedgerFile::open(folder.path()).unwrap().unlost_run(boot)
    };
    let other = Some(BootId(78));
    assert_eq!([BOOT, other, None].map(|boot| unlost(behind(false, BOOT), boot)), [Some(7), None, None]);
    assert_eq!([BOOT, other, None].map(|boot| unlost(behind(true, None), boot)), [Some(7); 3]);
    LedgerFile::make(folder.path(), behind(false, BOOT)).unwrap();
    let path = folder.path().join(FILE);
    fs::copy(&path, path.with_extension("copy")).unwrap();
    fs::rename(path.with_extension("copy"), &path).unwrap();
    assert_eq!(LedgerFile::open(folder.path()).unwrap().unlost_run(BOOT), None, "what a copy lacks was not lost here");
}

#[test]
fn the_largest_number_is_found_wherever_it_stands() {
    let all = |number: u64| {
        let there = |every_level| Some(Break { run: 1, epoch: Epoch(number), every_level });
        [
            Ledger { last: Some(LastRun { run: number, is_closed: true, boot: None }), ..Ledger::default() },
            Ledger { written_break: there(false), ..Ledger::default() },
            Ledger { all_break: there(true), ..Ledger::default() },
            Ledger { blank: Epoch(number), ..Ledger::default() },
            Ledger { levels: Levels { hash: u64::MAX, epoch: Epoch(number) }, ..Ledger::default() },
        ]
    };
    assert!(all(99).iter().all(|ledger| ledger.largest() == 99));
    assert_eq!(Ledger::default().largest(), 0);
}

#[test]
fn a_ledger_lies_in_these_bytes() {
    let ledger =
        Ledger { last: Some(LastRun { run: 7, is_closed: true, boot: Some(BootId(1 << 120 | 2)) }), ..ledger() };
    let mut bytes = vec![7, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 2];
    bytes.resize(31, 0);
    bytes.push(1);
    for number in [3, 40, 2, 30, 35, u64::MAX, 6, 5, 6, 33, 12] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    assert_eq!(ledger.encode(), bytes, "a change of format takes another number in `KIND`");
}
