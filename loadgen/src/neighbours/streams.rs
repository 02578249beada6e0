//! What is checked where a server numbers nothing: each member gets every post of its room once, and the posts of each
//! publisher in their order.
//!
//! A publisher's posts are a stream that is numbered here, from 1 on. Each member of its room reads that stream, and must
//! find one number behind the other. In which order two publishers' posts come is the server's to choose.

use crate::args::{Plan, Wire};
use crate::fault::LoadFault;
use crate::load::Load;
use crate::verify::Verifier;

/// Readings of streams that are kept in mind: members times publishers of each room (about 130 MB).
pub const READINGS_MAX: u64 = 16 << 20;

/// Whether a plan's readings can be kept in mind.
///
/// # Errors
/// When they are too many.
pub fn check(wire: Wire, plan: &Plan) -> Result<(), LoadFault> {
    let readings = u64::from(plan.rooms).saturating_mul(u64::from(plan.members) * u64::from(plan.publishers));
    if wire.neighbour().is_some() && readings > READINGS_MAX {
        return Err(LoadFault::Readings { readings, readings_max: READINGS_MAX, wire: wire.name() });
    }
    Ok(())
}

/// A load that is checked by streams, where its server is a neighbour.
pub fn follow(wire: Wire, plan: &Plan, load: Load) -> Load {
    let [rooms, members, publishers] = [plan.rooms, plan.members, plan.publishers].map(|count| count as usize);
    if wire.neighbour().is_some() { load.in_streams(Streams::new(rooms, members, publishers)) } else { load }
}

/// The streams of all rooms.
#[derive(Clone, Debug)]
pub struct Streams {
    members: usize,
    publishers: usize,
    /// What each stream has carried.
    posted: Vec<u64>,
}

impl Streams {
    /// Of rooms with so many members, of whom the first so many post.
    pub fn new(rooms: usize, members: usize, publishers: usize) -> Self {
        Streams { members, publishers, posted: vec![0; rooms * publishers] }
    }

    /// The check of every reading, of which each has yet to read the first.
    pub fn verifier(&self) -> Verifier {
        let mut verifier = Verifier::of_publishers(self.posted.len() / self.publishers, self.members, self.publishers);
        (0..self.posted.len() * self.members).for_each(|reading| verifier.joined(reading, 0));
        verifier
    }

    fn stream(&self, publisher: usize) -> usize {
        publisher / self.members * self.publishers + publisher % self.members
    }

    /// The number of a publisher's next post.
    pub fn next(&mut self, publisher: usize) -> u64 {
        let stream = self.stream(publisher);
        self.posted[stream] += 1;
        self.posted[stream]
    }

    /// Which reading it is when a member gets a publisher's post. Both are of one room.
    #[inline]
    pub fn reading(&self, member: usize, publisher: usize) -> usize {
        self.stream(publisher) * self.members + member % self.members
    }

    /// The end: what has not come now is missing.
    pub fn finish(&self, verifier: &mut Verifier) {
        verifier.finish(&self.posted, &vec![0; self.posted.len()], 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Broken;

    /// Two rooms of three members, of whom the first two post: 3 and 4 in the second room.
    fn read(posts: &[usize], readings: &[(usize, usize, u64)]) -> (Broken, Vec<String>) {
        let mut streams = Streams::new(2, 3, 2);
        let mut verifier = streams.verifier();
        for &publisher in posts {
            streams.next(publisher);
        }
        for &(member, publisher, number) in readings {
            verifier.message(streams.reading(member, publisher), number);
        }
        streams.finish(&mut verifier);
        (verifier.broken, verifier.described)
    }

    #[test]
    fn publishers_may_come_in_any_order_but_each_in_its_own() {
        let all = [(3, 3, 1), (3, 4, 1), (4, 4, 1), (4, 3, 1), (5, 3, 1), (5, 4, 1)];
        let (broken, _) = read(&[3, 4], &all);
        assert!(broken.is_nothing(), "{broken:?}");
        let swapped = [(3, 3, 2), (3, 3, 1), (4, 3, 1), (4, 3, 2), (5, 3, 1), (5, 3, 2)];
        let (broken, _) = read(&[3, 3], &swapped);
        assert_eq!((broken.holes, broken.repeats_or_reorders), (1, 1));
    }

    #[test]
    fn a_repeat_and_a_missing_one_are_seen_and_named_by_member_and_publisher() {
        let (broken, described) = read(&[4], &[(3, 4, 1), (3, 4, 1), (4, 4, 1)]);
        assert_eq!((broken.repeats_or_reorders, broken.missing), (1, 1));
        assert!(described[0].contains("member 3") && described[0].contains("publisher 4"), "{described:?}");
        assert!(described[1].contains("member 5") && described[1].contains("publisher 4"), "{described:?}");
    }

    #[test]
    fn readings_that_are_too_many_are_refused() {
        use crate::args::{Args, Job};
        let checked = |line: &str| {
            let args = <Args as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
            let Job::Fanout(job) = args.job else { panic!() };
            check(job.target.wire, &job.plan())
        };
        let many = "x fanout --rooms 1000000 --members 5 --publishers 5";
        assert!(checked(&format!("{many} --wire nats")).unwrap_err().to_string().contains("--publishers"));
        assert!(checked(&format!("{many} --wire json")).is_ok());
        assert!(checked("x fanout --rooms 1000 --members 5 --publishers 5 --wire nats").is_ok());
    }

    #[test]
    fn no_two_readings_are_one() {
        let streams = Streams::new(2, 3, 2);
        let pairs = (0..6).flat_map(|member| (0..2).map(move |nth| (member, member / 3 * 3 + nth)));
        let mut found: Vec<_> = pairs.map(|(member, publisher)| streams.reading(member, publisher)).collect();
        found.sort_unstable();
        assert_eq!(found, (0..12).collect::<Vec<_>>());
    }
}
