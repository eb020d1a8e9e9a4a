//! Cuts files where their content says, so that an insertion moves no cut but those next to it (FastCDC by Xia et al.:
//! a gear hash, a strict mask before the wanted length and a loose one after it).
//!
//! Cuts are part of the format: other lengths or another table make other chunks, and all that was exported is exported
//! once more.

use std::io::{self, Read};

/// Shortest chunk, unless the file ends.
const SHORTEST: usize = 32 << 10;
/// Wanted length.
const WANTED: usize = 128 << 10;
/// Longest chunk.
pub(super) const LONGEST: usize = 512 << 10;
/// Bits of the hash that must be zero before and after the wanted length: two more and two less than 17. They are the
/// upper ones, on which the most bytes have had an influence.
const STRICT: u64 = !0 << (64 - 19);
const LOOSE: u64 = !0 << (64 - 15);
/// Bytes read ahead.
const BUFFER: usize = 2 * LONGEST;

/// One number for each byte (splitmix64).
static GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let (mut at, mut state) = (0, 0u64);
    while at < 256 {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
}

/// Length of the first chunk of `data`, of which there is more than [`LONGEST`] unless it is all.
fn cut(data: &[u8]) -> usize {
    let end = data.len().min(LONGEST);
    let mut hash = 0u64;
    for (at, byte) in data.iter().enumerate().take(end).skip(SHORTEST) {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        let mask = if at < WANTED { STRICT } else { LOOSE };
        if hash & mask == 0 {
            return at + 1;
        }
    }
    end
}

/// The chunks of a file.
#[derive(Debug)]
pub(super) struct Chunks<R> {
    from: R,
    buffer: Vec<u8>,
    at: usize,
    is_end: bool,
}

impl<R: Read> Chunks<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            at: 0,
            is_end: false,
        }
    }

    /// The next one; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.is_end && self.buffer.len() - self.at < LONGEST {
            self.buffer.drain(..self.at);
            self.at = 0;
            let room = (BUFFER - self.buffer.len()) as u64;
            let got = self
                .from
                .by_ref()
                .take(room)
                .read_to_end(&mut self.buffer)?;
            self.is_end = (got as u64) < room;
        }
        let left = &self.buffer[self.at..];
        if left.is_empty() {
            return Ok(None);
        }
        let length = cut(left);
        let start = self.at;
        self.at += length;
        Ok(Some(&self.buffer[start..self.at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 7u64;
        let next = |_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        (0..bytes).map(next).collect()
    }

    fn chunks(data: &[u8]) -> Vec<Vec<u8>> {
        let mut chunks = Chunks::new(data);
        let mut all = Vec::new();
        while let Some(chunk) = chunks.next().unwrap() {
            all.push(chunk.to_vec());
        }
        all
    }

    #[test]
    fn chunks_are_the_file_and_within_bounds() {
        for length in [0, 1, SHORTEST, LONGEST + 1, BUFFER, 5_000_000] {
            for data in [noise(length), vec![0; length]] {
                let all = chunks(&data);
                assert_eq!(all.concat(), data);
                let bounded = |chunk: &Vec<u8>| (SHORTEST..=LONGEST).contains(&chunk.len());
                assert!(all.iter().rev().skip(1).all(bounded));
            }
        }
        let lengths = chunks(&noise(20_000_000)).len();
        assert!((80..300).contains(&lengths), "{lengths}");
    }

    #[test]
    fn an_insertion_changes_the_chunks_around_it() {
        let before = noise(5_000_000);
        let mut after = before.clone();
        after.splice(2_000_000..2_000_000, *b"inserted");
        let known: std::collections::HashSet<_> = chunks(&before).into_iter().collect();
        let new = chunks(&after)
            .iter()
            .filter(|chunk| !known.contains(*chunk))
            .count();
        assert!((1..=4).contains(&new), "{new}");
    }
}
