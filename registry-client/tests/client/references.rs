//! Reference grammar and normalisation.

use proptest::prelude::*;
use registry_client::{Error, Reference};

const SHA: &str = "sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";
const SHA512: &str = "sha512:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

/// A table, so length is no complexity.
#[test]
#[allow(clippy::too_many_lines)]
fn g08_valid_references_are_normalised() {
    let pinned = format!("busybox@{SHA}");
    let pinned_full = format!("docker.io/library/busybox@{SHA}");
    let both = format!("busybox:1.36@{SHA}");
    let both_full = format!("docker.io/library/busybox:1.36@{SHA}");
    let long = format!("localhost:5000/a@{SHA512}");
    let deep = format!("x/{}", "a".repeat(253));
    let deep_full = format!("docker.io/{deep}:latest");
    let deep_familiar = format!("{deep}:latest");
    let tag = format!("a:{}", "t".repeat(128));
    let tag_full = format!("docker.io/library/{tag}");
    // Text, full form, familiar form.
    let cases: &[(&str, &str, &str)] = &[
        (
            "busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        ),
        (
            "busybox:1.36",
            "docker.io/library/busybox:1.36",
            "busybox:1.36",
        ),
        (&pinned, &pinned_full, &pinned),
        (&both, &both_full, &both),
        (
            "library/busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        ),
        (
            "docker.io/busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
        ),
        (
            "index.docker.io/busybox:1",
            "docker.io/library/busybox:1",
            "busybox:1",
        ),
        ("index.docker.io/a/b", "docker.io/a/b:latest", "a/b:latest"),
        (
            "docker.io/library/a/b",
            "docker.io/library/a/b:latest",
            "library/a/b:latest",
        ),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("a/b/c/d", "docker.io/a/b/c/d:latest", "a/b/c/d:latest"),
        (
            "localhost/app",
            "localhost/app:latest",
            "localhost/app:latest",
        ),
        (
            "localhost",
            "docker.io/library/localhost:latest",
            "localhost:latest",
        ),
        (
            "localhost:5000",
            "docker.io/library/localhost:5000",
            "localhost:5000",
        ),
        (
            "localhost:5000/app",
            "localhost:5000/app:latest",
            "localhost:5000/app:latest",
        ),
        (
            "127.0.0.1:5000/a/b:t",
            "127.0.0.1:5000/a/b:t",
            "127.0.0.1:5000/a/b:t",
        ),
        (
            "[::1]:5000/app",
            "[::1]:5000/app:latest",
            "[::1]:5000/app:latest",
        ),
        ("[fc00::1]/app:x", "[fc00::1]/app:x", "[fc00::1]/app:x"),
        ("ghcr.io/o/r:v1", "ghcr.io/o/r:v1", "ghcr.io/o/r:v1"),
        ("host:80/app", "host:80/app:latest", "host:80/app:latest"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        (
            "my-host.example/app",
            "my-host.example/app:latest",
            "my-host.example/app:latest",
        ),
        (
            "x/a.b_c__d-e---f",
            "docker.io/x/a.b_c__d-e---f:latest",
            "x/a.b_c__d-e---f:latest",
        ),
        (
            "app:Mixed_Case-1.0",
            "docker.io/library/app:Mixed_Case-1.0",
            "app:Mixed_Case-1.0",
        ),
        ("app:_x", "docker.io/library/app:_x", "app:_x"),
        (&long, &long, &long),
        (&deep, &deep_full, &deep_familiar),
        (&tag, &tag_full, &tag),
    ];
    for (text, full, familiar) in cases {
        let parsed = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(parsed.to_string(), *full, "{text}");
        assert_eq!(parsed.familiar(), *familiar, "{text}");
        assert_eq!(Reference::parse(full).unwrap(), parsed, "{text}: full form");
        assert_eq!(
            Reference::parse(familiar).unwrap(),
            parsed,
            "{text}: familiar form"
        );
    }
}

#[test]
fn g08_invalid_references_say_why() {
    let id = "6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";
    let long = format!("x/{}", "a".repeat(254));
    let tag = format!("a:{}", "t".repeat(129));
    let cases: &[(&str, &str)] = &[
        ("", "it is empty"),
        (id, "64-byte hexadecimal"),
        ("Busybox", "must be lowercase"),
        ("library/Busybox:1", "must be lowercase"),
        ("a//b", "empty component"),
        ("/a", "empty component"),
        ("a/", "empty component"),
        ("a:", "bad tag"),
        (":a", "the repository is empty"),
        ("@sha256:aa", "bad digest"),
        ("a@", "bad digest"),
        ("a@sha256:abc", "bad digest"),
        (
            "a@sha256:6C3C624B58DBBCD3C0DD82B4C53F04194D1247C6EEBDAAB7C610CF7D66709B3B",
            "bad digest",
        ),
        (
            "a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "unsupported digest algorithm",
        ),
        ("a:b:c", "bad tag"),
        ("a:-x", "bad tag"),
        ("a:x y", "bad tag"),
        ("a b", "bad repository component"),
        ("-a", "bad repository component"),
        ("a-", "bad repository component"),
        ("a..b", "bad repository component"),
        ("a___b", "bad repository component"),
        ("a._b", "bad repository component"),
        ("ä", "bad repository component"),
        ("host:port/a", "the port is not a number"),
        ("host:/a", "the port is not a number"),
        ("-host.x/a", "not a host name"),
        ("host..x/a", "not a host name"),
        ("host_a.x/a", "not a host name"),
        ("user@host.x/a", "not a host name"),
        ("https://host.x/a", "the port is not a number"),
        ("[::1/a", "not closed"),
        ("[::x]:1/a", "not an IPv6 address"),
        ("[::1]x:1/a", "text after the IPv6 address"),
        ("host.x/", "the repository is empty"),
        (&long, "longer than 255"),
        (&tag, "longer than 128"),
    ];
    for (text, reason) in cases {
        match Reference::parse(text) {
            Err(error @ Error::Reference { .. }) => {
                assert!(error.to_string().contains(reason), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_digest_can_be_added() {
    let digest = crate::support::digest(SHA);
    let pinned = Reference::parse("alpine:3").unwrap().with_digest(&digest);
    assert_eq!(pinned.familiar(), format!("alpine:3@{SHA}"));
    assert_eq!(pinned.name(), "docker.io/library/alpine");
}

proptest! {
    #[test]
    fn g08_never_panics_and_round_trips(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}|\\PC{0,40}") {
        if let Ok(parsed) = Reference::parse(&text) {
            prop_assert_eq!(&Reference::parse(&parsed.to_string()).unwrap(), &parsed);
            prop_assert_eq!(&Reference::parse(&parsed.familiar()).unwrap(), &parsed);
        }
    }
}
