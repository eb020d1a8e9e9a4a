//! Names of `--build-context`: how they are compared with image references and stage names.
//!
//! It does not check that a name is a valid reference.

/// The short form of an image reference that names of contexts are compared by: no default registry, no `library/`, no
/// `:latest`. A tag and a digest stay.
#[must_use]
pub fn familiar(name: &str) -> &str {
    let name = ["index.docker.io/", "docker.io/"]
        .iter()
        .find_map(|host| name.strip_prefix(host))
        .unwrap_or(name);
    let name = name
        .strip_prefix("library/")
        .filter(|rest| !rest.contains('/'))
        .unwrap_or(name);
    name.strip_suffix(":latest").unwrap_or(name)
}

/// Whether a name can never be replaced: the empty base, and the main context.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    ["scratch", "context"]
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
}

/// Splits `NAME::OS/ARCH`, the form of a context for one platform, into the two.
#[must_use]
pub fn split_platform(name: &str) -> (&str, Option<&str>) {
    match name.split_once("::") {
        Some((name, platform)) => (name, Some(platform)),
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        for (name, short) in [
            ("busybox", "busybox"),
            ("busybox:latest", "busybox"),
            ("busybox:1", "busybox:1"),
            ("busybox:V1", "busybox:V1"),
            ("docker.io/library/busybox:latest", "busybox"),
            ("index.docker.io/library/busybox", "busybox"),
            ("library/busybox", "busybox"),
            ("docker.io/a/b", "a/b"),
            ("library/a/b", "library/a/b"),
            ("localhost:5000/library/a", "localhost:5000/library/a"),
            ("quay.io/a/b:latest", "quay.io/a/b"),
        ] {
            assert_eq!(familiar(name), short, "{name}");
        }
    }
}
