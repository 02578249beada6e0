//! The random numbers of a call: xoshiro256++ over a seed of 64 bits, so that one seed gives one row of numbers everywhere.

/// A row of numbers.
pub struct Random([u64; 4]);

impl Random {
    /// From a seed, stretched by splitmix64 as its authors say.
    pub fn new(mut seed: u64) -> Self {
        Random(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    fn next(&mut self) -> u64 {
        let state = &mut self.0;
        let result = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// At least 0, below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of those from `first` to `last`, each as likely as the others to within a part in 2^11 of their number.
    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        let count = last.wrapping_sub(first) as u64;
        let Some(count) = count.checked_add(1) else { return self.next() as i64 };
        // The high half of a product: without the bias of a remainder that the low bits have.
        first.wrapping_add(((u128::from(self.next()) * u128::from(count)) >> 64) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_row_and_numbers_stay_between_their_ends() {
        let row = |seed| {
            let mut random = Random::new(seed);
            [(); 4].map(|()| random.next())
        };
        assert_eq!(row(1), row(1));
        assert_ne!(row(1), row(2));
        let mut random = Random::new(7);
        let mut seen = [0; 6];
        for _ in 0..6_000 {
            seen[(random.between(1, 6) - 1) as usize] += 1;
            assert!((0.0..1.0).contains(&random.fraction()));
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
        assert_eq!(random.between(-3, -3), -3);
        random.between(i64::MIN, i64::MAX);
    }
}
