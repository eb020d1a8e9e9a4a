//! Any word expands or fails without a panic, whatever the options.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parser::expand::{self, Options, Scope};

/// Half of the names are set, to values that themselves look like words.
struct Env;

impl Scope for Env {
    fn get(&self, name: &str) -> Option<String> {
        name.len()
            .is_multiple_of(2)
            .then(|| format!("${name} * \\ "))
    }
}

fuzz_target!(|input: (u8, &str)| {
    let (bits, text) = input;
    let options = Options {
        raw_quotes: bits & 1 != 0,
        raw_escapes: bits & 2 != 0,
        skip_unset_env: bits & 4 != 0,
        skip_process_quotes: bits & 8 != 0,
    };
    let escape = if bits & 16 != 0 { '`' } else { '\\' };
    let one = expand::word(text, escape, &Env, options);
    let many = expand::words(text, escape, &Env, options);
    assert_eq!(one.is_ok(), many.is_ok());
});
