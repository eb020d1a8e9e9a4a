//! Any text is a Git repository's name or not, without a panic; what is one stays one, and shows no password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use planner::git_url::{GitUrl, masked, redacted, redacted_words};
use planner::source::HttpSource;

fuzz_target!(|text: &str| {
    assert_eq!(masked(text).len(), text.len());
    let _ = (redacted(text), redacted_words(text), HttpSource::name_in_url(text));
    let Ok(Some(git)) = GitUrl::parse(text) else {
        return;
    };
    assert!(!git.remote.contains(['\n', '\0']));
    if !git.looks_local {
        let again = GitUrl::parse(&git.remote).expect("no query is left").expect("it is still one");
        assert_eq!(again.remote, git.remote);
    }
    if let Ok(source) = git.source(None, None) {
        assert!(source.subdir.split('/').all(|part| part != ".."));
    }
});
