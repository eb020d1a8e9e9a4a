//! Blocks of a DEFLATE stream: Huffman codes for what was counted, and the bits of sequences in them.
//!
//! Finds no matches.

use super::Sequence;

/// Longest code of literals, lengths and distances; longest code of code lengths.
const LONGEST_CODE: usize = 15;
const LONGEST_LENGTH_CODE: usize = 7;
const LITERALS: usize = 286;
const DISTANCES: usize = 30;
const END: usize = 256;
/// In which order the lengths of the code length code are sent (RFC 1951 section 3.2.7).
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// Most bytes of one stored block.
const STORED: usize = 65535;

/// Symbol, extra bits and their number for each length from 3.
const LENGTHS: [(u16, u8, u8); 256] = lengths();

#[expect(clippy::cast_possible_truncation, reason = "all values are small")]
const fn lengths() -> [(u16, u8, u8); 256] {
    let mut table = [(0, 0, 0); 256];
    let mut at = 0;
    while at < 256 {
        table[at] = if at == 255 {
            (285, 0, 0)
        } else if at < 4 {
            (257 + at as u16, 0, 0)
        } else {
            let high = at.ilog2();
            let extra = high - 2;
            let symbol = 257 + 4 * (extra + 1) + ((at >> extra) as u32 & 3);
            (symbol as u16, extra as u8, (at & ((1 << extra) - 1)) as u8)
        };
        at += 1;
    }
    table
}

/// Symbol, number of extra bits, extra bits of a distance.
#[inline]
fn distance_symbol(distance: u16) -> (usize, u32, u64) {
    let value = u32::from(distance) - 1;
    if value < 4 {
        return (value as usize, 0, 0);
    }
    let high = value.ilog2();
    let extra = high - 1;
    let symbol = 2 * high + (value >> extra & 1);
    (
        symbol as usize,
        extra,
        u64::from(value & ((1 << extra) - 1)),
    )
}

/// Writes bits, the lowest first.
pub(super) struct Bits<'a> {
    out: &'a mut [u8],
    at: usize,
    word: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// There must be room for all that is written, and a word.
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Self {
            out,
            at: 0,
            word: 0,
            count: 0,
        }
    }

    /// No more than 56 bits between two [`Bits::flush`].
    #[inline]
    fn add(&mut self, bits: u64, count: u32) {
        self.word |= bits << self.count;
        self.count += count;
    }

    #[inline]
    fn flush(&mut self) {
        self.out[self.at..self.at + 8].copy_from_slice(&self.word.to_le_bytes());
        let bytes = self.count / 8;
        self.at += bytes as usize;
        self.word >>= bytes * 8;
        self.count &= 7;
    }

    fn put(&mut self, bits: u64, count: u32) {
        self.add(bits, count);
        self.flush();
    }

    /// The number of bytes written.
    pub(super) fn finish(mut self) -> usize {
        self.add(0, 7);
        self.flush();
        self.at
    }

    fn stored(&mut self, bytes: &[u8], is_last: bool) {
        let mut pieces = bytes.chunks(STORED).peekable();
        while let Some(piece) = pieces.next() {
            let last = is_last && pieces.peek().is_none();
            self.put(u64::from(last), 3);
            self.put(0, (8 - self.count) % 8);
            let length = piece.len() as u64;
            self.put(length | (length ^ 0xffff) << 16, 32);
            self.out[self.at..self.at + piece.len()].copy_from_slice(piece);
            self.at += piece.len();
        }
    }
}

/// Counts of a block, and its codes.
pub(super) struct Codes {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
}

impl Default for Codes {
    fn default() -> Self {
        Self {
            literals: [0; LITERALS],
            distances: [0; DISTANCES],
        }
    }
}

/// Code and its length, per symbol.
type Code = (u16, u8);

impl Codes {
    #[inline]
    pub(super) fn count(&mut self, literals: &[u8], sequence: Sequence) {
        self.count_literals(literals);
        let length = usize::from(sequence.length - 3) & 255;
        self.literals[usize::from(LENGTHS[length].0)] += 1;
        self.distances[distance_symbol(sequence.distance).0] += 1;
    }

    #[inline]
    pub(super) fn count_literals(&mut self, literals: &[u8]) {
        for literal in literals {
            self.literals[usize::from(*literal)] += 1;
        }
    }

    /// Writes a block of what was counted, and forgets the counts.
    pub(super) fn write(
        &mut self,
        bits: &mut Bits<'_>,
        bytes: &[u8],
        sequences: &[Sequence],
        is_last: bool,
    ) {
        self.literals[END] += 1;
        let mut literal_codes = [(0, 0); LITERALS];
        let mut distance_codes = [(0, 0); DISTANCES];
        assign(&self.literals, LONGEST_CODE, &mut literal_codes);
        assign(&self.distances, LONGEST_CODE, &mut distance_codes);
        let head = Head::of(&literal_codes, &distance_codes);
        let size = head.size + self.size(&literal_codes, &distance_codes);
        *self = Self::default();
        // A stored block has 3 bits, what is left of their byte, and 4 bytes of length.
        if size / 8 >= bytes.len() as u64 && !bytes.is_empty() {
            bits.stored(bytes, is_last);
            return;
        }
        head.write(bits, is_last);
        body(bits, bytes, sequences, &literal_codes, &distance_codes);
    }

    /// Bits of the block without its head.
    fn size(&self, literal_codes: &[Code; LITERALS], distance_codes: &[Code; DISTANCES]) -> u64 {
        let mut size = 0;
        for (symbol, (count, code)) in self.literals.iter().zip(literal_codes).enumerate() {
            let extra = match symbol {
                265..285 => (symbol as u64 - 261) / 4,
                _ => 0,
            };
            size += u64::from(*count) * (u64::from(code.1) + extra);
        }
        for (symbol, (count, code)) in self.distances.iter().zip(distance_codes).enumerate() {
            let extra = (symbol as u64 / 2).saturating_sub(1);
            size += u64::from(*count) * (u64::from(code.1) + extra);
        }
        size
    }
}

fn body(
    bits: &mut Bits<'_>,
    bytes: &[u8],
    sequences: &[Sequence],
    literal_codes: &[Code; LITERALS],
    distance_codes: &[Code; DISTANCES],
) {
    // Code and extra bits of each length at once.
    let mut length_codes = [(0_u32, 0_u32); 256];
    for (slot, (symbol, extra, value)) in length_codes.iter_mut().zip(LENGTHS) {
        let (code, size) = literal_codes[usize::from(symbol)];
        *slot = (
            u32::from(code) | u32::from(value) << size,
            u32::from(size) + u32::from(extra),
        );
    }
    let mut at = 0;
    for sequence in sequences {
        let literals = &bytes[at..at + sequence.literals as usize];
        for three in literals.chunks(3) {
            for literal in three {
                let (code, size) = literal_codes[usize::from(*literal)];
                bits.add(u64::from(code), u32::from(size));
            }
            bits.flush();
        }
        if sequence.length == 0 {
            break;
        }
        let (code, size) = length_codes[usize::from(sequence.length - 3) & 255];
        bits.add(u64::from(code), size);
        let (symbol, extra, value) = distance_symbol(sequence.distance);
        let (code, size) = distance_codes[symbol];
        bits.add(u64::from(code), u32::from(size));
        bits.add(value, extra);
        bits.flush();
        at += literals.len() + usize::from(sequence.length);
    }
    let (code, size) = literal_codes[END];
    bits.put(u64::from(code), u32::from(size));
}

/// The head of a block with codes of its own.
struct Head {
    literals: usize,
    distances: usize,
    lengths: usize,
    /// Symbols of the code length code, and extra bits.
    symbols: Vec<(u8, u8, u8)>,
    codes: [Code; 19],
    /// All of it in bits.
    size: u64,
}

impl Head {
    fn of(literal_codes: &[Code; LITERALS], distance_codes: &[Code; DISTANCES]) -> Self {
        let used = |codes: &[Code]| {
            codes
                .iter()
                .rposition(|code| code.1 != 0)
                .map_or(0, |at| at + 1)
        };
        let literals = used(literal_codes).max(257);
        let distances = used(distance_codes).max(1);
        let all: Vec<u8> = literal_codes[..literals]
            .iter()
            .chain(&distance_codes[..distances])
            .map(|code| code.1)
            .collect();
        let symbols = run_lengths(&all);
        let mut counts = [0; 19];
        for (symbol, ..) in &symbols {
            counts[usize::from(*symbol)] += 1;
        }
        let mut codes = [(0, 0); 19];
        assign(&counts, LONGEST_LENGTH_CODE, &mut codes);
        let lengths = ORDER
            .iter()
            .rposition(|symbol| codes[*symbol].1 != 0)
            .map_or(4, |at| (at + 1).max(4));
        let mut size = 17 + 3 * lengths as u64;
        for (symbol, extra, _) in &symbols {
            size += u64::from(codes[usize::from(*symbol)].1) + u64::from(*extra);
        }
        Self {
            literals,
            distances,
            lengths,
            symbols,
            codes,
            size,
        }
    }

    fn write(&self, bits: &mut Bits<'_>, is_last: bool) {
        bits.put(u64::from(is_last) | 2 << 1, 3);
        bits.put(self.literals as u64 - 257, 5);
        bits.put(self.distances as u64 - 1, 5);
        bits.put(self.lengths as u64 - 4, 4);
        for symbol in &ORDER[..self.lengths] {
            bits.put(u64::from(self.codes[*symbol].1), 3);
        }
        for (symbol, extra, value) in &self.symbols {
            let (code, size) = self.codes[usize::from(*symbol)];
            bits.put(u64::from(code), u32::from(size));
            bits.put(u64::from(*value), u32::from(*extra));
        }
    }
}

/// Code lengths with runs shortened: symbol, extra bits, their value.
#[expect(clippy::cast_possible_truncation, reason = "runs are at most 138 long")]
fn run_lengths(all: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut symbols = Vec::with_capacity(all.len());
    let mut rest = all;
    while let [first, ..] = rest {
        let run = rest.iter().take_while(|length| *length == first).count();
        rest = &rest[run..];
        let mut left = run;
        if *first == 0 {
            while left >= 11 {
                let some = left.min(138);
                symbols.push((18, 7, (some - 11) as u8));
                left -= some;
            }
            if left >= 3 {
                symbols.push((17, 3, (left - 3) as u8));
                left = 0;
            }
        } else {
            symbols.push((*first, 0, 0));
            left -= 1;
            while left >= 3 {
                let some = left.min(6);
                symbols.push((16, 2, (some - 3) as u8));
                left -= some;
            }
        }
        symbols.extend(std::iter::repeat_n((*first, 0, 0), left));
    }
    symbols
}

/// Gives each symbol that occurs a code of at most `longest` bits; two symbols at least have one, because
/// not all readers take a code of one.
fn assign<const N: usize>(counts: &[u32; N], longest: usize, codes: &mut [Code; N]) {
    let mut used: Vec<(u32, usize)> = counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count != 0)
        .map(|(symbol, count)| (*count, symbol))
        .collect();
    let unused = (0..2).filter(|symbol| counts[*symbol] == 0);
    used.extend(
        unused
            .take(2_usize.saturating_sub(used.len()))
            .map(|symbol| (1, symbol)),
    );
    used.sort_unstable();
    let counts: Vec<u32> = used.iter().map(|(count, _)| *count).collect();
    let per_length = per_length(&counts, longest);
    // The rarest symbols have the longest codes.
    let mut rarest = used.iter();
    for (length, count) in per_length.iter().enumerate().rev() {
        for (_, symbol) in rarest.by_ref().take(*count as usize) {
            codes[*symbol].1 = length as u8;
        }
    }
    let mut next = [0_u32; LONGEST_CODE + 2];
    for length in 1..=longest {
        next[length + 1] = (next[length] + per_length[length]) << 1;
    }
    for code in codes.iter_mut().filter(|code| code.1 != 0) {
        let value = &mut next[usize::from(code.1)];
        code.0 = (*value as u16).reverse_bits() >> (16 - u32::from(code.1));
        *value += 1;
    }
}

/// How many codes have each length, for counts in ascending order.
fn per_length(counts: &[u32], longest: usize) -> [u32; LONGEST_CODE + 1] {
    let leaves = counts.len();
    // Nodes in the order of their making: their weights never fall, so the two lightest are at two fronts.
    let mut weights = Vec::with_capacity(leaves);
    let mut parents = vec![0_usize; 2 * leaves];
    let (mut leaf, mut node) = (0, 0);
    for made in 0..leaves - 1 {
        let mut sum = 0_u64;
        for _ in 0..2 {
            let takes_leaf = leaf < leaves
                && (node == weights.len() || u64::from(counts[leaf]) <= weights[node]);
            if takes_leaf {
                sum += u64::from(counts[leaf]);
                parents[leaf] = leaves + made;
                leaf += 1;
            } else {
                sum += weights[node];
                parents[leaves + node] = leaves + made;
                node += 1;
            }
        }
        weights.push(sum);
    }
    let mut depths = vec![0_usize; 2 * leaves - 1];
    let mut per_length = [0; LONGEST_CODE + 1];
    for at in (0..2 * leaves - 2).rev() {
        depths[at] = depths[parents[at]] + 1;
        if at < leaves {
            per_length[depths[at].min(longest)] += 1;
        }
    }
    // Codes cut short take too much room: others make it by growing.
    let mut room: u32 = (1..=longest)
        .map(|length| per_length[length] << (longest - length))
        .sum();
    while room > 1 << longest {
        per_length[longest] -= 1;
        let shorter = (1..longest)
            .rev()
            .find(|length| per_length[*length] != 0)
            .expect("BUG: not all codes are the longest");
        per_length[shorter] -= 1;
        per_length[shorter + 1] += 2;
        room -= 1;
    }
    per_length
}
