//! Inputs from inputs: a seeded sequence of small damages.

/// Longest input. Everything that has a limit has it below this, or says so from a length field.
const SIZE_MAX: usize = 8192;
/// Bytes at the edges of what lengths, flags and text are made of.
const INTERESTING: [u8; 16] = [
    0x00, 0x01, 0x02, 0x7d, 0x7e, 0x7f, 0x80, 0x81, 0xc2, 0xff, b' ', b'\n', b'\r', b'#', b'+',
    b'/',
];

pub struct Mutator<'a> {
    state: u64,
    words: &'a [&'a [u8]],
}

impl<'a> Mutator<'a> {
    pub fn new(seed: u64, words: &'a [&'a [u8]]) -> Self {
        Self { state: seed, words }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// One of `kept`, damaged once or some times.
    pub fn mutate(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let mut input = kept[self.below(kept.len())].clone();
        for _ in 0..1 + self.below(4) {
            self.damage(&mut input, kept);
        }
        input.truncate(SIZE_MAX);
        input
    }

    fn damage(&mut self, input: &mut Vec<u8>, kept: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let until = at + self.below(input.len() - at + 1);
        match self.below(12) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = INTERESTING[self.below(INTERESTING.len())],
            2 if at < input.len() => input[at] = self.next() as u8,
            // Lengths are often off by one.
            3 if at < input.len() => input[at] = input[at].wrapping_add(1),
            4 if at < input.len() => input[at] = input[at].wrapping_sub(1),
            5 => input.insert(at, INTERESTING[self.below(INTERESTING.len())]),
            6 => drop(input.drain(at..until)),
            7 => {
                let part = input[at..until].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, part);
            }
            8 => input.truncate(at),
            9 => {
                // The start of this one, the end of another.
                let other = &kept[self.below(kept.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                let end = if self.below(2) == 0 { at } else { until };
                input.splice(at..end, word.iter().copied());
            }
            _ => input.push(self.next() as u8),
        }
    }
}
