//! Keys of credential files: which registry, and which part of it, a key means.
//!
//! Clients have written host names, URLs with the API's version and, since Podman, names of repositories.

/// What Docker's registry is called in files of credentials and by credential helpers.
pub(super) const DOCKER_SERVER: &str = "https://index.docker.io/v1/";

/// A key taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Key<'a> {
    host: String,
    /// Repository or a part of its name before a `/`; empty for all of the registry.
    path: &'a str,
}

/// How well a key fits a repository; greater is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fit {
    /// A key for another part of the registry. Docker's client takes it all the same.
    Elsewhere,
    /// A key of the whole registry, spelled in another way.
    Registry,
    /// The registry's name as it is looked for.
    Exact,
    /// So many bytes of the repository's name.
    Path(usize),
}

impl<'a> Key<'a> {
    pub(super) fn parse(key: &'a str) -> Self {
        let key = key.trim();
        let url = ["https://", "http://"]
            .iter()
            .find_map(|scheme| key.strip_prefix(scheme));
        let (host, path) = url
            .unwrap_or(key)
            .split_once('/')
            .unwrap_or((url.unwrap_or(key), ""));
        let path = path.trim_matches('/');
        let version =
            ["v1", "v2"].contains(&path) || path.starts_with("v1/") || path.starts_with("v2/");
        Self {
            host: canonical_host(host),
            path: if url.is_some() || version { "" } else { path },
        }
    }

    /// `None` for another registry.
    pub(super) fn fit(&self, spelled: &str, host: &str, repository: &str) -> Option<Fit> {
        if self.host != canonical_host(host) {
            return None;
        }
        if self.path.is_empty() {
            return Some(if spelled == host {
                Fit::Exact
            } else {
                Fit::Registry
            });
        }
        let rest = repository.strip_prefix(self.path);
        match rest {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                Some(Fit::Path(self.path.len()))
            }
            _ => Some(Fit::Elsewhere),
        }
    }

    /// Whether both keys mean the same.
    pub(super) fn same(&self, other: &Key<'_>) -> bool {
        self.host == other.host && self.path == other.path
    }
}

/// One name for all of Docker's registry; others in lower case.
pub(crate) fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => {
            "docker.io".to_owned()
        }
        _ => host,
    }
}

/// A registry's name as credential helpers know it.
pub(super) fn server_name(host: &str) -> String {
    match canonical_host(host).as_str() {
        "docker.io" => DOCKER_SERVER.to_owned(),
        _ => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn historic_forms() {
        let cases = [
            ("r.example", Some(Fit::Exact)),
            ("R.example", Some(Fit::Registry)),
            ("r.example/", Some(Fit::Registry)),
            ("https://r.example", Some(Fit::Registry)),
            ("https://r.example/v1/", Some(Fit::Registry)),
            ("http://r.example/v2/", Some(Fit::Registry)),
            ("https://r.example/anything", Some(Fit::Registry)),
            ("r.example/v1", Some(Fit::Registry)),
            ("r.example/v1/", Some(Fit::Registry)),
            ("r.example/team", Some(Fit::Path(4))),
            ("r.example/team/app", Some(Fit::Path(8))),
            ("r.example/tea", Some(Fit::Elsewhere)),
            ("r.example/team/app/x", Some(Fit::Elsewhere)),
            ("r.example:443", None),
            ("other.example", None),
            ("", None),
        ];
        for (key, fit) in cases {
            let found = Key::parse(key).fit(key, "r.example", "team/app");
            assert_eq!(found, fit, "{key}");
        }
        for key in [
            "docker.io",
            "index.docker.io",
            "https://index.docker.io/v1/",
            "index.docker.io/v1/",
            "https://registry-1.docker.io/v2/",
        ] {
            for host in ["docker.io", "registry-1.docker.io"] {
                let found = Key::parse(key).fit(key, host, "library/busybox");
                assert!(found >= Some(Fit::Registry), "{key} {host}");
            }
        }
        assert_eq!(server_name("registry-1.docker.io"), DOCKER_SERVER);
        assert_eq!(server_name("r.example:5000"), "r.example:5000");
        assert!(Fit::Path(3) > Fit::Exact && Fit::Path(4) > Fit::Path(3));
    }
}
