//! The containers `registries.conf` file, version 2: what a name stands for and where it is really pulled from.
//!
//! Format: containers-registries.conf(5).

mod file;
mod load;
mod short_names;

use crate::{Error, Reference};
use std::collections::BTreeMap;
use std::path::Path;

/// Which pulls a mirror serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PullFromMirror {
    /// All.
    #[default]
    All,
    /// Only references with a digest.
    DigestOnly,
    /// Only references without one.
    TagOnly,
}

/// What to do with a name without a registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ShortNameMode {
    /// Refuse when it is ambiguous and nobody can be asked.
    Enforcing,
    /// Ask, else try all.
    #[default]
    Permissive,
    /// Try all.
    Disabled,
}

/// A `[[registry.mirror]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorRule {
    /// What replaces the prefix.
    pub location: String,
    /// Plain HTTP, or TLS without verification.
    pub insecure: bool,
    /// Which pulls it serves.
    pub pull: PullFromMirror,
}

/// A `[[registry]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryRule {
    /// What references it applies to: `host`, `host/namespace`, `*.example.com`.
    pub prefix: String,
    /// What replaces the prefix; `None` for a wildcard that only sets flags.
    pub location: Option<String>,
    /// Plain HTTP, or TLS without verification.
    pub insecure: bool,
    /// Nothing may be pulled from here.
    pub blocked: bool,
    /// Tried first, in this order.
    pub mirrors: Vec<MirrorRule>,
}

/// A place to pull a reference from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PullSource {
    /// The reference as this place knows it.
    pub reference: Reference,
    /// Plain HTTP, or TLS without verification.
    pub insecure: bool,
    /// Not the registry itself, so another place may know what this one does not.
    pub mirror: bool,
}

/// A whole file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegistriesConf {
    /// The registries, in the file's order.
    pub registries: Vec<RegistryRule>,
    /// `unqualified-search-registries`.
    pub search: Vec<String>,
    /// `short-name-mode`.
    pub short_name_mode: ShortNameMode,
    /// `[aliases]`: short name to full name.
    pub aliases: BTreeMap<String, String>,
}

impl RegistriesConf {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or as [`RegistriesConf::parse`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        Ok(load::parse(path)?.conf)
    }

    /// Reads all files that the settings name: the main one, drop-ins, recorded aliases.
    ///
    /// # Errors
    /// As [`RegistriesConf::load`].
    pub fn of(options: &crate::ClientOptions) -> Result<Self, Error> {
        load::load(options)
    }

    /// Parses a file's text; `path` is for messages.
    ///
    /// # Errors
    /// Not TOML, the older version 1 format, or values without a meaning; with the line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let parsed = file::parse(text).map_err(|problem| problem.at(path))?;
        Ok(parsed.conf)
    }

    /// Where to pull a reference from: mirrors first, the registry itself last.
    ///
    /// # Errors
    /// The reference is blocked, or a location makes no valid reference with it.
    pub fn sources(&self, reference: &Reference) -> Result<Vec<PullSource>, Error> {
        let full = reference.to_string();
        let Some((rule, matched)) = self.rule_for(&full) else {
            return Ok(vec![PullSource {
                reference: reference.clone(),
                insecure: false,
                mirror: false,
            }]);
        };
        if rule.blocked {
            return Err(Error::Blocked {
                reference: full,
                prefix: rule.prefix.clone(),
            });
        }
        let rest = &full[matched..];
        let mut sources = Vec::new();
        for mirror in &rule.mirrors {
            let serves = match mirror.pull {
                PullFromMirror::All => true,
                PullFromMirror::DigestOnly => reference.digest.is_some(),
                PullFromMirror::TagOnly => reference.digest.is_none(),
            };
            if serves {
                sources.push(PullSource {
                    reference: Reference::parse(&format!("{}{rest}", mirror.location))?,
                    insecure: mirror.insecure,
                    mirror: true,
                });
            }
        }
        let itself = match &rule.location {
            Some(location) => Reference::parse(&format!("{location}{rest}"))?,
            None => reference.clone(),
        };
        sources.push(PullSource {
            reference: itself,
            insecure: rule.insecure,
            mirror: false,
        });
        Ok(sources)
    }

    /// The rule with the longest matching prefix, and how much of the reference it matches.
    fn rule_for(&self, full: &str) -> Option<(&RegistryRule, usize)> {
        let mut best: Option<(&RegistryRule, usize)> = None;
        for rule in &self.registries {
            let Some(matched) = match_prefix(full, &rule.prefix) else {
                continue;
            };
            if best.is_none_or(|(known, _)| rule.prefix.len() > known.prefix.len()) {
                best = Some((rule, matched));
            }
        }
        best
    }
}

/// How many bytes of the reference a prefix covers. It ends at a component's end; `*.` stands for any subdomain.
fn match_prefix(full: &str, prefix: &str) -> Option<usize> {
    let end = match prefix.strip_prefix('*') {
        Some(suffix) => {
            let start = full.find(suffix)?;
            if full[..start].contains('/') {
                return None;
            }
            start + suffix.len()
        }
        None => {
            full.strip_prefix(prefix)?;
            prefix.len()
        }
    };
    match full.as_bytes().get(end) {
        None | Some(b'/' | b':' | b'@') => Some(end),
        Some(_) => None,
    }
}
