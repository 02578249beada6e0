use super::*;

const KIND: SlotsKind = SlotsKind { magic: *b"BANTEREX", format: 1 };
/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("small")
    }

    fn make(&self, content: &[u8]) -> Slots {
        Slots::make(&self.path(), KIND, |_| content.to_vec()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// What counts in a file of these bytes.
    fn content_of(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        fs::write(self.path(), bytes).unwrap();
        match Slots::open(&self.path(), KIND).unwrap() {
            Found::Whole(_, content) => Some(content),
            Found::Lost(_) => None,
            Found::Nothing => panic!("it is there"),
        }
    }
}

fn content(fill: u8, bytes: usize) -> Vec<u8> {
    vec![fill; bytes]
}

#[test]
fn the_last_of_many_writes_is_what_counts_and_the_file_never_grows() {
    let place = Place::new();
    assert!(matches!(Slots::open(&place.path(), KIND), Ok(Found::Nothing)));
    let mut slots = place.make(b"first");
    assert!(!draft_of(&place.path()).exists());
    for number in 0..20_u8 {
        slots.write(&content(number, usize::from(number) * 200)).unwrap();
        let Ok(Found::Whole(opened, found)) = Slots::open(&place.path(), KIND) else { panic!("{number}") };
        assert_eq!(found, content(number, usize::from(number) * 200));
        // Whoever opens it goes on where the last one was.
        slots = opened;
        assert_eq!(place.bytes().len(), SLOTS * SLOT_BYTES);
    }
}

#[test]
fn a_write_needs_no_new_block_of_the_disk() {
    let place = Place(tempfile::tempdir_in(".").unwrap());
    let mut slots = place.make(b"first");
    let blocks = || fs::metadata(place.path()).unwrap().blocks();
    let before = blocks();
    assert!(before * 512 >= (SLOTS * SLOT_BYTES) as u64, "all of it is on the disk from the start");
    (0..5).for_each(|number| slots.write(&content(number, CONTENT_BYTES_MAX)).unwrap());
    assert_eq!(blocks(), before);
}

#[test]
fn a_write_that_is_torn_at_any_sector_leaves_what_counted_before() {
    let place = Place::new();
    for (first, second) in [(10, 900), (2_000, 10), (CONTENT_BYTES_MAX, CONTENT_BYTES_MAX)] {
        let mut slots = place.make(&content(1, first));
        slots.write(&content(2, first)).unwrap();
        let before = place.bytes();
        slots.write(&content(3, second)).unwrap();
        let after = place.bytes();
        // One slot after the other; any of its sectors may have come, in any order.
        let (one, other) = (0..SLOT_BYTES, SLOT_BYTES..2 * SLOT_BYTES);
        let order = if slots.newest.unwrap().slot == 0 { [one, other] } else { [other, one] };
        let mut began = before.clone();
        for (is_second, slot) in order.into_iter().enumerate() {
            let sectors: Vec<usize> =
                slot.clone().step_by(SECTOR_BYTES).filter(|&at| differs(&before, &after, at)).collect();
            for chosen in 0..1_u32 << sectors.len() {
                let mut torn = began.clone();
                let came = sectors.iter().enumerate().filter(|(bit, _)| chosen & (1 << bit) != 0);
                came.for_each(|(_, &at)| torn[at..at + SECTOR_BYTES].copy_from_slice(&after[at..at + SECTOR_BYTES]));
                // What lies behind the content counts for nothing.
                let written = slot.start..slot.start + HEADER_BYTES + second;
                let is_whole = is_second == 1 || torn[written.clone()] == after[written];
                let expected = if is_whole { content(3, second) } else { content(2, first) };
                assert!(place.content_of(&torn) == Some(expected), "{chosen:b} of {sectors:?}");
            }
            began[slot.clone()].copy_from_slice(&after[slot]);
        }
    }
}

fn differs(before: &[u8], after: &[u8], at: usize) -> bool {
    before[at..at + SECTOR_BYTES] != after[at..at + SECTOR_BYTES]
}

#[test]
fn every_flipped_bit_and_every_slot_that_rots_leaves_the_newest() {
    let place = Place::new();
    let mut slots = place.make(b"older");
    slots.write(b"newer").unwrap();
    let whole = place.bytes();
    for slot in 0..SLOTS {
        let mut rotten = whole.clone();
        rotten[slot * SLOT_BYTES..(slot + 1) * SLOT_BYTES].fill(7);
        assert_eq!(place.content_of(&rotten).as_deref(), Some(&b"newer"[..]), "slot {slot}");
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(place.content_of(&flipped).as_deref(), Some(&b"newer"[..]), "bit {bit}");
    }
}

#[test]
fn a_file_with_no_whole_slot_is_lost_and_the_next_write_mends_it() {
    let place = Place::new();
    let mut slots = place.make(b"older");
    slots.write(b"newer").unwrap();
    let mut both = place.bytes();
    [30, 1].into_iter().for_each(|at| both[at] ^= 1);
    both[SLOT_BYTES + 26] ^= 1;
    let lost = [both, vec![], vec![0; SLOTS * SLOT_BYTES], vec![0xff; SLOTS * SLOT_BYTES], b"epoch 12\n".to_vec()];
    for bytes in lost {
        assert_eq!(place.content_of(&bytes), None);
        let Ok(Found::Lost(mut slots)) = Slots::open(&place.path(), KIND) else { panic!("lost") };
        slots.write(b"mended").unwrap();
        slots.write(b"and again").unwrap();
        assert_eq!(place.content_of(&place.bytes()).as_deref(), Some(&b"and again"[..]));
    }
}

#[test]
fn the_higher_counter_counts_wherever_it_lies() {
    let place = Place::new();
    let slot = |counter, content: &[u8]| encode(KIND, counter, content).unwrap();
    assert_eq!(place.content_of(&[slot(7, b"a"), slot(8, b"b")].concat()).as_deref(), Some(&b"b"[..]));
    assert_eq!(place.content_of(&[slot(9, b"a"), slot(8, b"b")].concat()).as_deref(), Some(&b"a"[..]));
    assert_eq!(place.content_of(&[slot(1 << 40, b"a"), slot(8, b"b")].concat()).as_deref(), Some(&b"a"[..]));
    for length in [0, 1, SLOT_BYTES, SLOT_BYTES + 100, 2 * SLOT_BYTES - 1] {
        let both = [slot(3, b"a"), slot(3, b"a")].concat();
        assert_eq!(place.content_of(&both[..length]), None, "cut off at {length}: nobody knows what was there");
    }
}

#[test]
fn a_write_that_fails_leaves_what_counted_and_may_be_tried_again() {
    let place = Place::new();
    let mut slots = place.make(b"first");
    let path = place.path();
    slots.file = File::open(&path).unwrap();
    assert!(slots.write(b"no").is_err(), "it is open for reading only");
    assert_eq!(place.content_of(&place.bytes()).as_deref(), Some(&b"first"[..]));
    slots.file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert!(slots.write(&content(1, CONTENT_BYTES_MAX + 1)).is_err(), "no slot holds that");
    slots.write(b"yes").unwrap();
    assert_eq!(place.content_of(&place.bytes()).as_deref(), Some(&b"yes"[..]));
}

#[test]
fn a_later_format_is_no_loss_and_another_kind_of_file_is() {
    let place = Place::new();
    Slots::make(&place.path(), SlotsKind { format: 2, ..KIND }, |_| b"later".to_vec()).unwrap();
    let opened = Slots::open(&place.path(), KIND);
    assert!(matches!(opened, Err(SlotsFault::Later { format: 2, known: 1 })), "{opened:?}");
    let other = SlotsKind { magic: *b"BANTEROT", ..KIND };
    assert!(matches!(Slots::open(&place.path(), other), Ok(Found::Lost(_))));
}

#[test]
fn making_one_replaces_what_was_there_in_one_step_and_fails_without_a_trace() {
    let place = Place::new();
    place.make(b"first");
    place.make(b"second");
    assert_eq!(place.content_of(&place.bytes()).as_deref(), Some(&b"second"[..]));
    assert!(Slots::make(&place.path(), KIND, |_| content(0, CONTENT_BYTES_MAX + 1)).is_err());
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1);
    assert_eq!(place.content_of(&place.bytes()).as_deref(), Some(&b"second"[..]));
}

#[test]
fn the_identity_stays_with_the_file_and_a_copy_has_another() {
    let place = Place::new();
    let mut told = FileIdentity::default();
    let mut slots = Slots::make(&place.path(), KIND, |identity| {
        told = identity;
        Vec::new()
    })
    .unwrap();
    slots.write(b"more").unwrap();
    assert_eq!(slots.identity().unwrap(), told, "known before the file has its name");
    let copy = place.0.path().join("copy");
    fs::copy(place.path(), &copy).unwrap();
    let Ok(Found::Whole(copied, content)) = Slots::open(&copy, KIND) else { panic!("a copy is whole") };
    assert_eq!(content, b"more");
    assert_ne!(copied.identity().unwrap(), told);
}
