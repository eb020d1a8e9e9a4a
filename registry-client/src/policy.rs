//! containers-policy.json(5), as far as it forbids pulls: what is to be rejected is. Signatures are not verified; where
//! the policy asks for them, that is said.

use crate::{Error, Reference};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// Transports whose scopes are registries and repositories.
const TRANSPORT: &str = "docker";

#[derive(Debug, Deserialize)]
pub(crate) struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: HashMap<String, HashMap<String, Vec<Requirement>>>,
}

#[derive(Debug, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

impl Policy {
    /// Reads a file.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::ConfigRead {
            path: path.to_owned(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|error| Error::Config {
            path: path.to_owned(),
            line: error.line(),
            reason: error.to_string(),
        })
    }

    /// Refuses what the policy rejects.
    pub(crate) fn check(&self, reference: &Reference) -> Result<(), Error> {
        let requirements = self.requirements(reference);
        // No requirement at all can be met by nothing.
        if requirements.is_empty() || requirements.iter().any(|one| one.kind == "reject") {
            return Err(Error::Rejected {
                reference: reference.to_string(),
            });
        }
        if let Some(signed) = requirements
            .iter()
            .find(|one| one.kind != "insecureAcceptAnything")
        {
            tracing::warn!(
                reference = reference.to_string(),
                requirement = signed.kind,
                "signatures that policy.json asks for are not verified"
            );
        }
        Ok(())
    }

    /// Those of the narrowest scope that the reference is in.
    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let Some(scopes) = self.transports.get(TRANSPORT) else {
            return &self.default;
        };
        let name = reference.name();
        let mut candidates = vec![reference.to_string()];
        if let Some(tag) = &reference.tag {
            candidates.push(format!("{name}:{tag}"));
        }
        let mut rest = name.as_str();
        loop {
            candidates.push(rest.to_owned());
            match rest.rsplit_once('/') {
                Some((shorter, _)) => rest = shorter,
                None => break,
            }
        }
        let mut host = reference.registry.as_str();
        while let Some((_, wider)) = host.split_once('.') {
            candidates.push(format!("*.{wider}"));
            host = wider;
        }
        candidates.push(String::new());
        let found = candidates.iter().find_map(|scope| scopes.get(scope));
        found.unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_scope_decides() {
        let policy: Policy = serde_json::from_str(
            r#"{
                "default": [{"type": "insecureAcceptAnything"}],
                "transports": {
                    "docker": {
                        "docker.io": [{"type": "reject"}],
                        "docker.io/library/busybox": [{"type": "insecureAcceptAnything"}],
                        "docker.io/library/busybox:bad": [{"type": "reject"}],
                        "*.example.com": [{"type": "reject"}],
                        "signed.org": [{"type": "signedBy", "keyType": "GPGKeys"}],
                        "empty.org": []
                    },
                    "docker-daemon": {"": [{"type": "reject"}]}
                }
            }"#,
        )
        .unwrap();
        for (name, allowed) in [
            ("busybox", true),
            ("busybox:bad", false),
            ("alpine", false),
            ("a.b.example.com/x", false),
            ("example.com/x", true),
            ("signed.org/x", true),
            ("empty.org/x", false),
            ("localhost:5000/x", true),
        ] {
            let checked = policy.check(&Reference::parse(name).unwrap());
            assert_eq!(checked.is_ok(), allowed, "{name}");
        }
    }
}
