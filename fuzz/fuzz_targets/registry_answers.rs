//! Whatever a registry sends is read or refused, without a panic; what is read can be shown to people and is bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_client::wire::Part;

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let part = Part::ALL[usize::from(*first) % Part::ALL.len()];
    let Some(read) = part.read(rest) else {
        return;
    };
    match part {
        Part::Errors => {
            assert!(!read.contains(|c: char| c.is_control()));
            assert!(read.chars().count() < 8 * 1000);
        }
        Part::Location => assert!(read.starts_with("https://")),
        Part::Link => assert!(rest.windows(read.len().max(1)).any(|part| part == read.as_bytes()) || read.is_empty()),
        Part::Range => assert!(read != "0"),
        _ => {}
    }
});
