//! Any text parses without a panic, and every place lies in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let raw = parser::tree::parse(text);
    for node in &raw.nodes {
        for span in node
            .args
            .iter()
            .map(|arg| arg.span)
            .chain([node.span, node.keyword_span])
        {
            assert!(text.get(span.start as usize..span.end as usize).is_some());
        }
    }
    for found in parser::parse(text).diagnostics {
        if let Some(span) = found.span {
            assert!(text.get(span.start as usize..span.end as usize).is_some());
        }
    }
    let _ = parser::parse_trigger(text);
    let _ = parser::mount::parse(text, &|value| Ok(value.to_owned()));
    let _ = parser::port::parse(text);
    let _ = parser::value::duration(text);
});
