//! Any ignore file parses or is refused with a line of it; what decides about a path is one of its lines.
#![no_main]

use executor::context::IgnoreRules;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, path) = input;
    let lines = u32::try_from(text.lines().count())
        .unwrap_or(u32::MAX)
        .max(1);
    match IgnoreRules::parse(text) {
        Ok(rules) => {
            let path = path.trim_matches('/');
            let ignored = rules.is_ignored(path);
            let decided = rules.deciding_line(path);
            assert!(!rules.is_empty() || !ignored);
            assert!(decided.is_none_or(|line| (1..=lines).contains(&line)));
            if ignored {
                assert!(decided.is_some(), "an ignored path has a rule");
            }
        }
        Err(executor::Error::Ignore { line, .. }) => assert!((1..=lines).contains(&line)),
        Err(other) => panic!("{other}"),
    }
});
