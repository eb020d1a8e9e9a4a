//! Names of platforms, and which image of an index fits.

use planner::Error;
use planner::platform::Platform;

fn parse(text: &str) -> Result<Platform, Error> {
    Platform::parse(text, &Platform::new("linux", "amd64", ""))
}

#[test]
fn names_are_normalised() {
    let cases = [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("LINUX/X86-64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v5", "linux/arm/v5"),
        ("macos/arm64", "darwin/arm64"),
        ("arm64", "linux/arm64"),
        ("arm", "linux/arm/v7"),
        ("freebsd", "freebsd/amd64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("linux/riscv64", "linux/riscv64"),
        ("linux()/amd64", "linux/amd64"),
        ("linux/arm/v8", "linux/arm/v8"),
        ("linux/arm/8", "linux/arm/v8"),
    ];
    for (text, expected) in cases {
        let platform = parse(text).expect(text);
        assert_eq!(platform.to_string(), expected, "{text}");
        assert_eq!(
            parse(expected).expect(expected),
            platform,
            "{text}: its own name means the same"
        );
    }
}

#[test]
fn bad_names_are_refused() {
    for (text, says) in [
        (
            "",
            r#""" is an invalid OS component of "": OSAndVersion specifier component must match "^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.-]*)\\))?$""#,
        ),
        ("/", r#""" is an invalid OS component of "/""#),
        (
            "linux/",
            r#""" is an invalid component of "linux/": platform specifier component must match "^[A-Za-z0-9_.-]+$""#,
        ),
        ("linux//v7", r#""" is an invalid component of "linux//v7""#),
        (
            "linux/arm/v7/x",
            r#""linux/arm/v7/x": cannot parse platform specifier"#,
        ),
        (
            "klingon",
            r#""klingon": unknown operating system or architecture"#,
        ),
        ("linux/am d64", r#""am d64" is an invalid component"#),
        (
            "windows(10/amd64",
            r#""windows(10" is an invalid OS component"#,
        ),
        ("lin*ux", r#""lin*ux": wildcards not yet supported"#),
    ] {
        let error = parse(text).expect_err(text);
        assert!(
            matches!(&error, Error::InvalidPlatform { platform, .. } if platform == text),
            "{text}: {error}"
        );
        let message = error.to_string();
        assert!(message.starts_with(says), "{message}");
        assert!(message.ends_with(": invalid argument"), "{message}");
    }
}

#[test]
fn platforms_match_whatever_their_spelling() {
    let cases = [
        ("linux/amd64", "linux/amd64", true),
        ("linux/arm64", "linux/arm64/v8", true),
        ("linux/arm", "linux/arm/v7", true),
        ("linux/arm/v6", "linux/arm/v7", false),
        ("linux/amd64", "windows/amd64", false),
        ("windows(1)/amd64", "windows(2)/amd64", false),
        ("windows(1)/amd64", "windows/amd64", true),
    ];
    for (a, b, expected) in cases {
        assert_eq!(
            parse(a).expect(a).matches(&parse(b).expect(b)),
            expected,
            "{a} {b}"
        );
    }
}

#[test]
fn the_best_image_of_an_index_is_chosen() {
    let cases: [(&str, &[&str], Option<usize>); 11] = [
        ("linux/amd64", &["linux/arm64", "linux/amd64"], Some(1)),
        ("linux/amd64", &["linux/amd64/v2", "linux/386"], Some(1)),
        (
            "linux/amd64/v3",
            &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
            Some(1),
        ),
        ("linux/amd64/v3", &["linux/386", "linux/amd64"], Some(1)),
        ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
        ("linux/arm/v6", &["linux/arm/v7"], None),
        ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
        ("linux/arm64", &["linux/amd64", "linux/arm/v7"], Some(1)),
        ("linux/riscv64", &["linux/amd64"], None),
        ("linux/amd64", &["linux/amd64", "linux/amd64"], Some(0)),
        (
            "windows(2)/amd64",
            &["windows(1)/amd64", "windows/amd64", "windows(2)/amd64"],
            Some(2),
        ),
    ];
    for (wanted, candidates, expected) in cases {
        let candidates: Vec<Platform> = candidates
            .iter()
            .map(|text| parse(text).expect(text))
            .collect();
        assert_eq!(
            parse(wanted).expect(wanted).best_match(&candidates),
            expected,
            "{wanted} of {candidates:?}"
        );
    }
}
