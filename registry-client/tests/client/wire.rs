//! What registries send, of any kind: read or refused, never a panic, and safe to show.

use proptest::prelude::*;
use registry_client::wire::Part;

/// Text that is nearly what a reader wants.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "<",
        ">",
        ";",
        ",",
        "=",
        "\"",
        "rel",
        "next",
        "bytes",
        "0",
        "-",
        "9",
        "/",
        "{",
        "}",
        "[",
        "]",
        ":",
        "errors",
        "code",
        "message",
        "detail",
        "https",
        "http",
        "//",
        "@",
        "?",
        "#",
        "Bearer ",
        "realm",
        "18446744073709551615",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        " ",
        "\u{1b}",
        "\u{202e}",
        "schemaVersion",
        "manifests",
        "digest",
        "sha256:",
        "\\",
        "\\u0000",
        "é",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..40)
        .prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn anything_is_read_or_refused(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), nearly()]) {
        for part in Part::ALL {
            let Some(read) = part.read(&bytes) else {
                continue;
            };
            match part {
                Part::Errors => {
                    let steers = |c: char| c.is_control() || c == '\u{202e}';
                    prop_assert!(!read.contains(steers), "{:?}", read);
                }
                Part::Location => prop_assert!(read.starts_with("https://"), "{}", read),
                Part::Range => prop_assert!(read != "0"),
                _ => {}
            }
        }
    }

    #[test]
    fn error_bodies_are_bounded(message in ".{0,900}", count in 0..20_usize) {
        let entry = serde_json::json!({"code": message, "message": message, "detail": [message]});
        let body = serde_json::json!({"errors": vec![entry; count]}).to_string();
        let read = Part::Errors.read(body.as_bytes()).unwrap();
        prop_assert!(read.chars().count() < 8 * 1000);
    }
}

#[test]
fn deep_json_is_refused() {
    for open in ["[", "{\"manifests\":", "{\"errors\":["] {
        let text = open.repeat(500_000);
        for part in [Part::Manifest, Part::Descriptors] {
            assert_eq!(part.read(text.as_bytes()), None);
        }
        assert!(Part::Errors.read(text.as_bytes()).unwrap().len() < 2000);
    }
}

#[test]
fn what_is_read_is_what_was_meant() {
    let cases = [
        (Part::Range, "0-99", Some("100")),
        (Part::ContentRange, "bytes 5-9/10", Some("5")),
        (
            Part::RetryAfter,
            "Sun, 06 Nov 1994 08:49:47 GMT",
            Some("10"),
        ),
        (Part::Link, "</v2/x>; rel=next", Some("/v2/x")),
        (
            Part::Challenges,
            "Bearer realm=\"x\", Basic",
            Some("Bearer Basic"),
        ),
        (Part::Location, "http://elsewhere.example/x", None),
        (
            Part::Location,
            "/x?_state=abc",
            Some(
                "https://registry.example/x?_state=abc https://registry.example/x?_state=REDACTED /x",
            ),
        ),
        (
            Part::Errors,
            r#"{"errors":[{"code":"DENIED","message":"no"}]}"#,
            Some("DENIED: no"),
        ),
        (Part::Manifest, "{}", None),
    ];
    for (part, text, expected) in cases {
        assert_eq!(
            part.read(text.as_bytes()).as_deref(),
            expected,
            "{part:?} {text}"
        );
    }
}
