//! Chance that comes from a seed: the same seed makes the same choices on every machine and in every release.

/// SplitMix64 (Steele, Lea and Flood 2014): one word of state, and good enough to choose test inputs.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// Chance from that seed.
    pub fn new(seed: u64) -> Self {
        Seeded(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        // The high half of a wide product: no division, and its bias is far below what a test could see.
        ((u128::from(self.number()) * end as u128) >> 64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// That many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number() as u8).collect()
    }

    /// Cuts something of that length into parts, and gives the length of each: now single bytes, now large parts.
    pub fn parts(&mut self, length: usize) -> Vec<usize> {
        let largest = *self.pick(&[1, 3, 16, 200, 5_000, length.max(1)]);
        let mut left = length;
        let mut parts = Vec::new();
        while left > 0 {
            let part = (1 + self.below(largest)).min(left);
            parts.push(part);
            left -= part;
        }
        parts
    }
}

/// A seed that is another each time, for a program that prints it.
///
/// # Panics
/// When the clock is before 1970.
pub fn any_seed() -> u64 {
    let time = std::time::UNIX_EPOCH.elapsed().expect("a clock behind 1970").as_nanos() as u64;
    // Short enough to be typed again.
    Seeded::new(time ^ u64::from(std::process::id())).number() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_choices_forever() {
        // The first numbers of the reference implementation from seed 1234567.
        let mut seeded = Seeded::new(1_234_567);
        assert_eq!([seeded.number(), seeded.number()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn choices_stay_within_their_bounds() {
        let mut seeded = Seeded::new(1);
        for end in 1..200 {
            assert!(seeded.below(end) < end);
            assert_eq!(seeded.parts(end).iter().sum::<usize>(), end);
        }
        assert!(seeded.parts(0).is_empty());
    }
}
