//! How often the allocator is asked for a message in steady state: a count, so the same in every run. One test, since it is that of
//! the process.
//!
//! When it fails: `dhat-heap.json` beside it says where they are made (<https://nnethercote.github.io/dh_view/dh_view.html>).

use banter_benches::hot::rooms::Posts;
use banter_chat::policy::Durability;
use banter_protocol::wire::WireForm;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Posts that are counted.
const POSTS: u64 = 500;
/// Members of the large room.
const MEMBERS: u32 = 101;
/// What comes by bytes or by time: chunks of runs, segments, tables that grow. In all posts and all their deliveries.
const SELDOM: u64 = 50;

/// A post in memory: what serde_json remembers of a nested body while it checks it, the body on its way to the room's core, its frame,
/// and the bytes of its answer.
const IN_MEMORY: u64 = 4;
/// One with a commit of its own: beside these the commit's block and header, its list of entries, what is in flight, and what is asked
/// of the disk and was answered.
const SYNCED: u64 = 10;

#[test]
fn a_delivery_allocates_nothing_and_a_post_no_more_than_is_said() {
    let _profiler = dhat::Profiler::builder().testing().build();
    for form in WireForm::ALL {
        for (durability, of_a_post) in [(Durability::Memory, IN_MEMORY), (Durability::Synced, SYNCED)] {
            for members in [1, MEMBERS] {
                let made = allocations(form, durability, members);
                println!("{form:?}, {}, {members} members: {made} allocations in {POSTS} posts", durability.name());
                // With a hundred times the deliveries it is the same.
                dhat::assert!(made <= POSTS * of_a_post + SELDOM, "{made} allocations");
            }
        }
    }
}

fn allocations(form: WireForm, durability: Durability, members: u32) -> u64 {
    let mut posts = Posts::new(form, durability, members, false);
    let before = dhat::HeapStats::get().total_blocks;
    (0..POSTS).for_each(|_| posts.post());
    dhat::HeapStats::get().total_blocks - before
}
