//! The registries.conf format, version 2.

use registry_client::{Error, PullFromMirror, Reference, RegistriesConf, ShortNameMode};
use std::path::Path;

const CONF: &str = r#"
unqualified-search-registries = ["docker.io", "quay.io"]
short-name-mode = "enforcing"
credential-helpers = ["containers-auth.json"]

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"

[[registry]]
prefix = "example.com/foo"
location = "internal.example:5000/bar"
insecure = true

[[registry.mirror]]
location = "mirror-one.example/x/"
insecure = true

[[registry.mirror]]
location = "mirror-two.example"
pull-from-mirror = "digest-only"

[[registry.mirror]]
location = "mirror-three.example"
pull-from-mirror = "tag-only"

[[registry]]
location = "example.com"

[[registry]]
prefix = "example.com/foo/bad"
blocked = true

[[registry]]
prefix = "*.corp.example"
insecure = true

[[registry]]
prefix = "*.wild.example/team"
location = "flat.example/all"

[[registry]]
location = "docker.io"
mirror-by-digest-only = true
[[registry.mirror]]
location = "localhost:5001"
"#;

const SHA: &str = "sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b";

fn parse(text: &str) -> Result<RegistriesConf, Error> {
    RegistriesConf::parse(text, Path::new("/etc/r.conf"))
}

fn sources(conf: &RegistriesConf, text: &str) -> Vec<String> {
    let reference = Reference::parse(text).unwrap();
    let sources = conf.sources(&reference).unwrap();
    let show = |source: &registry_client::PullSource| {
        let kind = if source.mirror { "mirror " } else { "" };
        let insecure = if source.insecure { " insecure" } else { "" };
        format!("{kind}{}{insecure}", source.reference)
    };
    sources.iter().map(show).collect()
}

#[test]
fn references_are_rewritten() {
    let conf = parse(CONF).unwrap();
    let pinned = format!("example.com/foo/app@{SHA}");
    let hub = format!("busybox:1@{SHA}");
    let cases: &[(&str, &[&str])] = &[
        ("other.example/a", &["other.example/a:latest"]),
        (
            "example.com/foo/app:1",
            &[
                "mirror mirror-one.example/x/app:1 insecure",
                "mirror mirror-three.example/app:1",
                "internal.example:5000/bar/app:1 insecure",
            ],
        ),
        (
            &pinned,
            &[
                &format!("mirror mirror-one.example/x/app@{SHA} insecure"),
                &format!("mirror mirror-two.example/app@{SHA}"),
                &format!("internal.example:5000/bar/app@{SHA} insecure"),
            ],
        ),
        // A prefix ends where a component ends.
        ("example.com/foobar", &["example.com/foobar:latest"]),
        ("example.com.evil/foo", &["example.com.evil/foo:latest"]),
        ("a.corp.example/x", &["a.corp.example/x:latest insecure"]),
        (
            "a.b.corp.example:80/x",
            &["a.b.corp.example:80/x:latest insecure"],
        ),
        ("corp.example/x", &["corp.example/x:latest"]),
        (
            "other.example/a.corp.example/x",
            &["other.example/a.corp.example/x:latest"],
        ),
        ("r.wild.example/team/app", &["flat.example/all/app:latest"]),
        (
            "r.wild.example/teams/app",
            &["r.wild.example/teams/app:latest"],
        ),
        ("busybox", &["docker.io/library/busybox:latest"]),
        (
            &hub,
            &[
                &format!("mirror localhost:5001/library/busybox:1@{SHA}"),
                &format!("docker.io/library/busybox:1@{SHA}"),
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(sources(&conf, text), *expected, "{text}");
    }
}

#[test]
fn blocked_is_refused_by_the_longest_prefix() {
    let conf = parse(CONF).unwrap();
    let reference = Reference::parse("example.com/foo/bad/app:2").unwrap();
    let error = conf.sources(&reference).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not pull example.com/foo/bad/app:2: example.com/foo/bad is blocked in registries.conf"
    );
}

#[test]
fn everything_is_read() {
    let conf = parse(CONF).unwrap();
    assert_eq!(conf.search, ["docker.io", "quay.io"]);
    assert_eq!(conf.short_name_mode, ShortNameMode::Enforcing);
    assert_eq!(conf.aliases["fedora"], "registry.fedoraproject.org/fedora");
    let hub = conf.registries.last().unwrap();
    assert_eq!(hub.mirrors[0].pull, PullFromMirror::DigestOnly);
    assert_eq!(parse("").unwrap(), RegistriesConf::default());
}

#[test]
fn complaints_name_file_and_line() {
    let cases = [
        ("a = [\n1,\n", "/etc/r.conf:"),
        (
            "\n[[registry]]\nlocation = 3\n",
            "/etc/r.conf:3: invalid type: integer",
        ),
        (
            "\n[registries.search]\nregistries = [\"a\"]\n",
            "/etc/r.conf:2: this is the version 1 format",
        ),
        (
            "[[registry]]\ninsecure = true\n",
            "/etc/r.conf:1: a [[registry]] needs a prefix or a location",
        ),
        (
            "[[registry]]\nlocation = \"https://a.b\"\n",
            "/etc/r.conf:2: bad location \"https://a.b\"",
        ),
        ("[[registry]]\nlocation = \"a b\"\n", "white space"),
        (
            "[[registry]]\nprefix = \"a.*.b\"\nlocation = \"x\"\n",
            "a wildcard is only allowed",
        ),
        (
            "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\n",
            "/etc/r.conf:3: a [[registry.mirror]] needs a location",
        ),
        (
            "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation = \"b\"\npull-from-mirror = \"x\"\n",
            "/etc/r.conf:5: bad pull-from-mirror \"x\"",
        ),
        (
            "[[registry]]\nlocation = \"a\"\n\n[[registry]]\nlocation = \"a\"\nblocked = true\n",
            "/etc/r.conf:4: registry a is defined twice with different values of blocked",
        ),
        (
            "short-name-mode = \"maybe\"\n",
            "/etc/r.conf:1: bad short-name-mode \"maybe\"",
        ),
        (
            "\n[aliases]\nx = \"y\"\n",
            "/etc/r.conf:3: bad alias target \"y\"",
        ),
    ];
    for (text, expected) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = RegistriesConf::load(Path::new("/nonexistent/r.conf")).unwrap_err();
    assert_eq!(error.to_string(), "could not read /nonexistent/r.conf");
}

proptest::proptest! {
    #[test]
    fn never_panics(
        text in "((\\[\\[registry(\\.mirror)?\\]\\]|prefix|location|insecure|aliases|=|\"[a-z*./:]{0,8}\"|true|\n|\\PC) ?){0,12}",
        name in "[a-z.]{1,8}/[a-z/]{1,8}",
    ) {
        if let Ok(conf) = parse(&text)
            && let Ok(reference) = Reference::parse(&name)
        {
            let _ = conf.sources(&reference);
        }
    }
}
