//! Something that is known of some Sessions, and forgotten of all of them at once.

#![forbid(unsafe_code)]

#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    round: u32,
    value: u32,
}

/// A number for each slot of a Session that was given one in this round.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    stamps: Vec<Stamp>,
    round: u32,
}

impl Stamps {
    /// Another round: no Session has a number.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.stamps.fill(Stamp::default());
            self.round = 1;
        }
    }

    pub(super) fn set(&mut self, index: u32, value: u32) {
        let index = index as usize;
        if index >= self.stamps.len() {
            self.stamps
                .resize((index + 1).next_power_of_two(), Stamp::default());
        }
        self.stamps[index] = Stamp {
            round: self.round,
            value,
        };
    }

    pub(super) fn get(&self, index: u32) -> Option<u32> {
        let stamp = self.stamps.get(index as usize)?;
        (stamp.round == self.round).then_some(stamp.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_in_another_round_is_forgotten_after_any_number_of_them() {
        let mut stamps = Stamps::default();
        stamps.begin();
        stamps.set(5, 7);
        assert_eq!([4, 5, 6].map(|it| stamps.get(it)), [None, Some(7), None]);
        stamps.begin();
        assert_eq!(stamps.get(5), None);
        // The round in which it was said comes again.
        stamps.set(5, 8);
        stamps.round = u32::MAX;
        stamps.begin();
        stamps.begin();
        assert_eq!(stamps.get(5), None);
    }
}
