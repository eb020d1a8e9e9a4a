//! Deterministic content: the same bytes on every machine, of kinds that compress differently.

use std::io::Write as _;
use std::path::Path;

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

const WORDS: [&str; 32] = [
    "the", "of", "and", "to", "in", "is", "layer", "image", "build", "cache", "manifest", "config",
    "blob", "digest", "step", "stage", "copy", "run", "user", "label", "path", "index", "linux",
    "root", "upper", "merge", "sha256", "tar", "entry", "header", "mode", "link",
];

/// What a file holds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Incompressible.
    Random,
    /// Words.
    Words,
    /// Lines of a log: times, numbers, a few messages.
    Log,
    /// Records of small integers, as programs hold them.
    Records,
}

/// All kinds, in the order that files take them.
pub const KINDS: [Kind; 4] = [Kind::Random, Kind::Words, Kind::Log, Kind::Records];

/// Incompressible bytes that no other seed gives.
pub fn random(seed: u64, length: usize) -> Vec<u8> {
    bytes(Kind::Random, seed, length)
}

/// Bytes of a kind.
pub fn bytes(kind: Kind, seed: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut out = Vec::with_capacity(length + 256);
    while out.len() < length {
        match kind {
            Kind::Random => out.extend(numbers.next().to_le_bytes()),
            Kind::Words => {
                out.extend(WORDS[numbers.below(WORDS.len())].as_bytes());
                out.push(b' ');
            }
            Kind::Log => {
                let (time, id) = (numbers.below(86_400_000), numbers.below(100_000));
                let (a, b) = (numbers.below(WORDS.len()), numbers.below(WORDS.len()));
                // Writing to memory does not fail.
                let _ = writeln!(
                    out,
                    "2026-01-01T{time:08} INFO request {id} of {} took {} us in {}",
                    WORDS[a],
                    numbers.below(5000),
                    WORDS[b]
                );
            }
            Kind::Records => {
                let small = numbers.below(200) as u32;
                out.extend(small.to_le_bytes());
                out.extend([0x48, 0x8b, (small % 7) as u8, 0]);
                out.extend((numbers.below(1 << 14) as u32).to_le_bytes());
            }
        }
    }
    out.truncate(length);
    out
}

/// Writes `count` files of one size in folders of 200, taking the kinds in turn.
pub fn write(dir: &Path, count: usize, size: impl Fn(usize) -> usize) -> Result<(), String> {
    for number in 0..count {
        let folder = dir.join(format!("d{:03}", number / 200));
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let content = bytes(KINDS[number % 4], number as u64, size(number));
        std::fs::write(folder.join(format!("f{number:05}")), content)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_compress_as_they_should() {
        let ratio = |kind| {
            let data = bytes(kind, 1, 1 << 20);
            assert_eq!(data, bytes(kind, 1, 1 << 20));
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            out.write_all(&data).unwrap();
            out.finish().unwrap().len() * 100 / data.len()
        };
        let ratios = KINDS.map(ratio);
        assert!(ratios[0] >= 100, "{ratios:?}");
        assert!(
            ratios[1..].iter().all(|ratio| (10..60).contains(ratio)),
            "{ratios:?}"
        );
    }
}
