//! Whatever lies where a cache should be is read or refused, without a panic; what was read and is written again reads the same.
#![no_main]

use executor::wire::Part;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let part = Part::ALL[usize::from(*first) % Part::ALL.len()];
    let Some(read) = part.read(rest) else {
        return;
    };
    let again = match part {
        Part::Records | Part::PlainRecords => Part::Records,
        Part::Memory | Part::PlainMemory => Part::Memory,
        Part::PlainMount | Part::Manifest => return,
    };
    assert_eq!(again.read(&read).as_ref(), Some(&read));
});
