//! A fast DEFLATE encoder (RFC 1951) for blocks of up to a few MiB: bytes in, one complete stream out.
//!
//! Its matches come from buckets of the newest places with equal hashes, each bucket one word. The result depends on
//! the input only. It does no framing and has no levels: for those there is libdeflate.

mod huffman;

use huffman::{Bits, Codes};

/// Name of what this makes: another one for each change of the bytes.
pub(super) const VERSION: u32 = 2;

/// Bits of hashes of the long and the short table.
const LONG_BITS: u32 = 14;
const SHORT_BITS: u32 = 14;
/// Farthest match.
const WINDOW: usize = 32 << 10;
/// Shortest match looked for, and longest there is.
const SHORTEST: usize = 4;
const LONGEST: usize = 258;
/// Bytes that long and short matches have in common at least: the long ones are worth most, the short ones are taken
/// where there is none of them.
const LONG: u32 = 8;
const SHORT: u32 = 4;
/// Places of a bucket that are tried, of four that it has.
const TRIED: usize = 3;
/// Within matches every so many places can be found later.
const STEP: usize = 2;
/// After so many bytes without a match places are skipped, the more the longer there was none.
const PATIENCE: u32 = 6;
/// And so many at a time at most: matches that begin again are noticed.
const FASTEST: usize = 127;
/// Sequences of one block, and the bytes it covers at most.
const SEQUENCES: usize = 24 << 10;
const COVERED: usize = 256 << 10;
/// The last bytes of the input are not looked at: words are read whole.
const TAIL: usize = 16;

/// Literals and the match behind them; length 0 ends a block.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    literals: u32,
    length: u16,
    distance: u16,
}

/// An encoder's memory, used again for each input.
#[derive(Debug)]
pub(super) struct Fast {
    long: Box<[u64; 1 << LONG_BITS]>,
    short: Box<[u16; 1 << SHORT_BITS]>,
    sequences: Vec<Sequence>,
}

/// A match found: how long, how far back.
#[derive(Clone, Copy, Debug)]
struct Match {
    length: usize,
    distance: usize,
}

impl Sequence {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a block's bytes, 258 and 32 KiB are the most"
    )]
    fn new(literals: usize, found: Match) -> Self {
        Self {
            literals: literals as u32,
            length: found.length as u16,
            distance: found.distance as u16,
        }
    }
}

fn word(input: &[u8], at: usize) -> u64 {
    input[at..]
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
fn hash(word: u64, bytes: u32, bits: u32) -> usize {
    ((word << (64 - 8 * bytes)).wrapping_mul(0x9E37_79B1_85EB_CA87) >> (64 - bits)) as usize
}

/// Length of what is equal at two places.
fn equal(input: &[u8], behind: usize, at: usize) -> usize {
    let most = LONGEST.min(input.len() - at);
    let mut length = 0;
    while length + 8 <= most {
        let differing = word(input, behind + length) ^ word(input, at + length);
        if differing != 0 {
            return length + differing.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    while length < most && input[behind + length] == input[at + length] {
        length += 1;
    }
    length
}

impl Fast {
    pub(super) fn new() -> Self {
        Self {
            long: vec![0; 1 << LONG_BITS]
                .into_boxed_slice()
                .try_into()
                .expect("BUG: the length is the one given"),
            short: vec![0; 1 << SHORT_BITS]
                .into_boxed_slice()
                .try_into()
                .expect("BUG: the length is the one given"),
            sequences: Vec::with_capacity(SEQUENCES + 1),
        }
    }

    /// Most bytes that an input of this length can become.
    pub(super) fn bound(length: usize) -> usize {
        // A block never is longer than stored; each has a head, and words are written whole.
        length + (length / (32 << 10) + length / SEQUENCES + 4) * 16 + 4096
    }

    /// Encodes `input` into `out`, which has room for [`Fast::bound`]; gives the number of bytes.
    pub(super) fn encode(&mut self, input: &[u8], out: &mut [u8]) -> usize {
        self.long.fill(0);
        self.short.fill(0);
        let mut bits = Bits::new(out);
        let mut codes = Codes::default();
        let mut at = 0;
        loop {
            let start = at;
            at = self.parse(input, start, &mut codes);
            let is_last = at == input.len();
            codes.write(&mut bits, &input[start..at], &self.sequences, is_last);
            if is_last {
                break;
            }
        }
        bits.finish()
    }

    /// Finds the sequences of the next block; gives its end.
    fn parse(&mut self, input: &[u8], start: usize, codes: &mut Codes) -> usize {
        self.sequences.clear();
        let end = input.len();
        let limit = end.saturating_sub(TAIL);
        let stop = limit.min(start + COVERED - LONGEST - 1);
        let (mut at, mut anchor) = (start, start);
        while at < stop && self.sequences.len() < SEQUENCES {
            let Some(found) = self.search(input, at) else {
                at += 1 + ((at - anchor) >> PATIENCE).min(FASTEST);
                continue;
            };
            let sequence = Sequence::new(at - anchor, found);
            codes.count(&input[anchor..at], sequence);
            self.sequences.push(sequence);
            let next = at + found.length;
            let mut insert = at + 1;
            while insert < next.min(limit) {
                self.insert(input, insert);
                insert += STEP;
            }
            at = next;
            anchor = next;
        }
        // What is left of a block that ends before its time is looked at in the next one.
        let at = if at >= limit { end } else { at };
        codes.count_literals(&input[anchor..at]);
        let end = Match {
            length: 0,
            distance: 0,
        };
        self.sequences.push(Sequence::new(at - anchor, end));
        at
    }

    fn insert(&mut self, input: &[u8], at: usize) {
        let word = word(input, at);
        let bucket = &mut self.long[hash(word, LONG, LONG_BITS)];
        *bucket = *bucket << 16 | low(at);
    }

    /// The longest match there is to be found; notes the place.
    #[inline]
    fn search(&mut self, input: &[u8], at: usize) -> Option<Match> {
        let here = word(input, at);
        let bucket = &mut self.long[hash(here, LONG, LONG_BITS)];
        let mut places = *bucket;
        *bucket = places << 16 | low(at);
        let short = &mut self.short[hash(here, SHORT, SHORT_BITS)];
        let place = std::mem::replace(short, low16(at));
        let mut best = Match {
            length: SHORTEST - 1,
            distance: 0,
        };
        for _ in 0..TRIED {
            let place = low16_of(places);
            places >>= 16;
            best = better(input, (place, at), here, best);
        }
        if best.distance == 0 {
            best = better(input, (place, at), here, best);
        }
        (best.distance != 0).then_some(best)
    }
}

/// The lowest bits of a place: all that is kept of it, as no match is farther away. What they say is always checked.
#[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
fn low16(place: usize) -> u16 {
    place as u16
}

#[expect(clippy::cast_possible_truncation, reason = "the bits that are wanted")]
fn low16_of(places: u64) -> u16 {
    places as u16
}

fn low(place: usize) -> u64 {
    u64::from(low16(place))
}

/// The match with what is at a kept place, if it is longer than the best so far.
#[inline]
fn better(input: &[u8], (place, at): (u16, usize), here: u64, best: Match) -> Match {
    let distance = usize::from(low16(at).wrapping_sub(place));
    if distance == 0 || distance > WINDOW.min(at) {
        return best;
    }
    let differing = word(input, at - distance) ^ here;
    let length = if differing == 0 {
        equal(input, at - distance, at)
    } else {
        differing.trailing_zeros() as usize / 8
    };
    if length > best.length {
        return Match { length, distance };
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn encode(fast: &mut Fast, input: &[u8]) -> Vec<u8> {
        let mut out = vec![0xff; Fast::bound(input.len())];
        let size = fast.encode(input, &mut out);
        out.truncate(size);
        out
    }

    fn round(fast: &mut Fast, input: &[u8]) -> usize {
        let packed = encode(fast, input);
        let mut out = Vec::new();
        let mut reader = flate2::bufread::DeflateDecoder::new(packed.as_slice());
        reader.read_to_end(&mut out).unwrap();
        assert!(out == input, "{} bytes", input.len());
        assert_eq!(reader.total_in(), packed.len() as u64, "no byte too many");
        let mut out = vec![0; input.len()];
        let mut other = libdeflater::Decompressor::new();
        assert_eq!(other.deflate_decompress(&packed, &mut out), Ok(input.len()));
        assert!(out == input, "{} bytes", input.len());
        packed.len()
    }

    /// Numbers without order.
    fn noise(seed: u64) -> impl Iterator<Item = u64> {
        let step = |state: &u64| {
            Some(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            )
        };
        std::iter::successors(Some(seed), step)
            .skip(1)
            .map(|state| state >> 33)
    }

    fn byte(number: u64) -> u8 {
        u8::try_from(number & 0xff).unwrap()
    }

    #[test]
    fn all_lengths() {
        let mut fast = Fast::new();
        let random: Vec<u8> = noise(1).map(byte).take(700).collect();
        for length in 0..random.len() {
            round(&mut fast, &random[..length]);
            round(&mut fast, &vec![7; length]);
            let period = length % 37 + 1;
            let periodic: Vec<u8> = random[..period]
                .iter()
                .copied()
                .cycle()
                .take(length)
                .collect();
            round(&mut fast, &periodic);
        }
    }

    #[test]
    fn every_distance_and_match_length() {
        let mut fast = Fast::new();
        for (number, distance) in [
            1, 2, 3, 4, 5, 8, 24, 25, 256, 257, 4096, 4097, 24_577, 32_767, 32_768, 32_769, 65_536,
        ]
        .into_iter()
        .enumerate()
        {
            let seed: Vec<u8> = noise(number as u64).map(byte).take(distance).collect();
            for more in [8, 10, 11, 66, 67, 257, 258, 259, 600] {
                let mut input: Vec<u8> =
                    seed.iter().copied().cycle().take(distance + more).collect();
                input.extend(noise(99).map(byte).take(40));
                let size = round(&mut fast, &input);
                let found = distance > 256 && distance <= WINDOW && more > 60;
                assert!(
                    !found || size < input.len() + 40,
                    "{distance} {more} {size}"
                );
            }
        }
    }

    /// Counts as unlike as these would have codes longer than there may be.
    #[test]
    fn very_unlike_counts() {
        let mut input = Vec::new();
        let (mut count, mut next) = (1_usize, 1_usize);
        for symbol in 0..26 {
            input.extend(std::iter::repeat_n(symbol * 9, count));
            (count, next) = (next, count + next);
        }
        let mut order: Vec<(u64, u8)> = noise(5).zip(input).collect();
        order.sort_unstable();
        let shuffled: Vec<u8> = order.into_iter().map(|(_, byte)| byte).collect();
        round(&mut Fast::new(), &shuffled);
        round(&mut Fast::new(), &shuffled[..40_000]);
    }

    #[test]
    fn mixtures_in_many_blocks_and_no_memory_of_them() {
        let mut fast = Fast::new();
        let mut input = Vec::new();
        let mut kinds = noise(11);
        while input.len() < 1_500_000 {
            let (kind, length) = (
                kinds.next().unwrap() % 4,
                kinds.next().unwrap() as usize % 90_000,
            );
            let seed = kinds.next().unwrap();
            match kind {
                0 => input.extend(noise(seed).map(byte).take(length)),
                1 => input.extend(noise(seed).map(|n| byte(n) & 3).take(length)),
                2 => input.extend(std::iter::repeat_n(byte(seed), length)),
                _ => input.extend_from_within(input.len().saturating_sub(length)..),
            }
        }
        let first = encode(&mut Fast::new(), &input);
        assert_eq!(round(&mut fast, &input), first.len());
        assert!(
            first == encode(&mut fast, &input),
            "what was encoded before makes no difference"
        );
        round(&mut fast, &vec![0; 3 << 20]);
    }
}
