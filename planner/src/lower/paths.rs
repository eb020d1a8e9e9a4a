//! Paths in images: slash-separated, cleaned as Go's `path` package does, without looking at any file system.

/// The shortest equal path; `.` for the empty one. `..` at the root of an absolute path is dropped.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// `path` seen from `dir`, cleaned; absolute when `dir` is.
pub(super) fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') {
        clean(path)
    } else {
        clean(&format!("{dir}/{path}"))
    }
}

/// The last part; `/` for the root.
pub(super) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((_, last)) => last,
        None if trimmed.is_empty() && !path.is_empty() => "/",
        None => trimmed,
    }
}

/// The destination of COPY and ADD, absolute: a directory (trailing `/`, `.`, nothing at all) ends in a slash.
pub(super) fn destination(dir: &str, dest: &str) -> String {
    let is_dir = dest.is_empty() || dest == "." || dest.ends_with('/') || dest.ends_with("/.");
    let mut path = join(dir, dest);
    if is_dir && path != "/" {
        path.push('/');
    }
    path
}

/// The working directory that WORKDIR gives: an absolute path stays as written, as BuildKit leaves it.
pub(super) fn workdir(current: &str, path: &str) -> String {
    let current = if current.is_empty() { "/" } else { current };
    match path {
        "" => current.to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => join(&join("/", current), relative),
    }
}

/// A path as a pattern that matches it alone.
pub(super) fn escape_pattern(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{base, clean, destination, escape_pattern, workdir};

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("", "."),
            ("/", "/"),
            ("a//b/./c/", "a/b/c"),
            ("/a/../../b", "/b"),
            ("../a/..", ".."),
            ("a/../..", ".."),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn destinations_keep_what_says_directory() {
        for (dir, dest, expected) in [
            ("/", "/out", "/out"),
            ("/", "/out/", "/out/"),
            ("/", "/out/.", "/out/"),
            ("/", ".", "/"),
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "./", "/w/"),
            ("/w/", "x", "/w/x"),
            ("/w", "../x/", "/x/"),
            ("/w", "/", "/"),
        ] {
            assert_eq!(destination(dir, dest), expected, "{dir} {dest}");
        }
    }

    #[test]
    fn working_directories_chain() {
        for (current, path, expected) in [
            ("", "a", "/a"),
            ("/a", "b/c/", "/a/b/c"),
            ("/a/b", "..", "/a"),
            ("/a", "/w/", "/w/"),
            ("/a", "", "/a"),
            ("rel", "x", "/rel/x"),
        ] {
            assert_eq!(workdir(current, path), expected, "{current} {path}");
        }
    }

    #[test]
    fn last_parts_and_patterns() {
        for (path, expected) in [("/a/b", "b"), ("b/", "b"), ("/", "/"), ("", "")] {
            assert_eq!(base(path), expected, "{path}");
        }
        assert_eq!(escape_pattern("/a[1]*?\\"), "/a\\[1]\\*\\?\\\\");
    }
}
