//! What a token is to allow: actions on resources, as token services name them (`repository:library/busybox:pull`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Longest text taken from a challenge, in bytes.
const TEXT_LIMIT: usize = 4096;
/// Most resources of one token.
const RESOURCE_LIMIT: usize = 32;

/// Resources (`repository:library/busybox`) and the actions on each.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// Reads scopes with blanks between them; what has another form is left out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        if text.len() > TEXT_LIMIT {
            return scopes;
        }
        for scope in text.split_ascii_whitespace() {
            // Names of repositories may have a host with a port.
            let Some((resource, actions)) = scope.rsplit_once(':') else {
                continue;
            };
            let actions = actions.split(',').filter(|action| !action.is_empty());
            let actions: BTreeSet<String> = actions.map(str::to_owned).collect();
            if !resource.contains(':') || actions.is_empty() || scopes.0.len() >= RESOURCE_LIMIT {
                continue;
            }
            scopes
                .0
                .entry(resource.to_owned())
                .or_default()
                .extend(actions);
        }
        scopes
    }

    /// Adds what the other allows.
    pub(crate) fn merge(&mut self, other: Self) {
        for (resource, actions) in other.0 {
            self.0.entry(resource).or_default().extend(actions);
        }
    }

    /// One text a resource.
    pub(crate) fn each(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing would be changed with it.
    pub(crate) fn only_reads(&self) -> bool {
        self.0.values().flatten().all(|action| action == "pull")
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.each().collect();
        f.write_str(&all.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_merged() {
        let cases = [
            ("repository:a:pull", "", "repository:a:pull"),
            (
                "repository:a:pull",
                "repository:a:push,pull",
                "repository:a:pull,push",
            ),
            (
                "repository:b:pull,push repository:a:pull",
                "repository:c/d:pull",
                "repository:a:pull repository:b:pull,push repository:c/d:pull",
            ),
            ("registry:catalog:*", "", "registry:catalog:*"),
            ("repository:h:5000/a:pull", "", "repository:h:5000/a:pull"),
            ("", "nonsense a: :b repository:x:,", ""),
        ];
        for (own, other, expected) in cases {
            let mut scopes = Scopes::parse(own);
            scopes.merge(Scopes::parse(other));
            assert_eq!(scopes.to_string(), expected);
        }
        let long = "repository:a:pull ".repeat(1000);
        assert!(Scopes::parse(&long).is_empty());
        assert!(Scopes::parse("repository:a:pull").only_reads());
        assert!(!Scopes::parse("repository:a:pull,push").only_reads());
    }
}
