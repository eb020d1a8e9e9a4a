//! From TOML text to checked rules, with a line for every complaint.
//!
//! Does no I/O and matches no references.

use super::{MirrorRule, PullFromMirror, RegistriesConf, RegistryRule, ShortNameMode};
use crate::Error;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;

/// A complaint about the text.
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) reason: String,
}

impl Problem {
    pub(super) fn at(self, path: &Path) -> Error {
        Error::Config {
            path: path.to_owned(),
            line: self.line,
            reason: self.reason,
        }
    }
}

/// A file, and which of its single settings it has: a later file changes only what it names.
pub(super) struct Parsed {
    pub(super) conf: RegistriesConf,
    pub(super) has_search: bool,
    pub(super) has_mode: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<Spanned<String>>>,
    short_name_mode: Option<Spanned<String>>,
    #[serde(default)]
    registry: Vec<Spanned<Registry>>,
    #[serde(default)]
    aliases: BTreeMap<String, Spanned<String>>,
    /// Version 1 had a table of this name.
    registries: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    prefix: Option<Spanned<String>>,
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Spanned<Mirror>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Spanned<String>>,
}

/// Keys that are known; others are most likely typing errors, which would otherwise pass in silence.
const TOP_KEYS: [&str; 6] = [
    "unqualified-search-registries",
    "short-name-mode",
    "registry",
    "aliases",
    "credential-helpers",
    "additional-layer-store-auth-helper",
];
const REGISTRY_KEYS: [&str; 6] = [
    "prefix",
    "location",
    "insecure",
    "blocked",
    "mirror-by-digest-only",
    "mirror",
];
const MIRROR_KEYS: [&str; 3] = ["location", "insecure", "pull-from-mirror"];

/// Turns byte offsets into lines.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn at(&self, offset: usize) -> usize {
        let end = offset.min(self.0.len());
        1 + self.0.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    fn problem(&self, span: &Range<usize>, reason: impl Into<String>) -> Problem {
        Problem {
            line: self.at(span.start),
            reason: reason.into(),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Parsed, Problem> {
    let lines = Lines(text);
    let file: File = toml::from_str(text).map_err(|error| Problem {
        line: lines.at(error.span().map_or(0, |span| span.start)),
        reason: error.message().replace('\n', ", "),
    })?;
    if let Some(old) = &file.registries {
        return Err(lines.problem(
            &old.span(),
            "this is the version 1 format ([registries.search] and the like); \
             write unqualified-search-registries and [[registry]] tables",
        ));
    }
    warn_of_unknown_keys(text);

    let mut conf = RegistriesConf {
        short_name_mode: short_name_mode(&lines, file.short_name_mode.as_ref())?,
        ..RegistriesConf::default()
    };
    for search in file.unqualified_search_registries.iter().flatten() {
        conf.search.push(location(&lines, search)?);
    }
    for (short, full) in &file.aliases {
        conf.aliases
            .insert(short.clone(), alias(&lines, short, full)?);
    }
    for registry in &file.registry {
        let rule = rule(&lines, registry)?;
        check_conflicts(&conf.registries, &rule)
            .map_err(|reason| lines.problem(&registry.span(), reason))?;
        conf.registries.push(rule);
    }
    Ok(Parsed {
        conf,
        has_search: file.unqualified_search_registries.is_some(),
        has_mode: file.short_name_mode.is_some(),
    })
}

fn rule(lines: &Lines<'_>, registry: &Spanned<Registry>) -> Result<RegistryRule, Problem> {
    let entry = registry.as_ref();
    let given = |field: &Option<Spanned<String>>| {
        let filled = field.as_ref().filter(|text| !text.as_ref().is_empty());
        filled.map(|text| location(lines, text)).transpose()
    };
    let prefix = given(&entry.prefix)?;
    let mut target = given(&entry.location)?;
    let Some(prefix) = prefix.or_else(|| target.clone()) else {
        return Err(lines.problem(
            &registry.span(),
            "a [[registry]] needs a prefix or a location",
        ));
    };
    let wildcard = prefix.starts_with("*.");
    if prefix.contains('*') && (!wildcard || prefix[1..].contains('*')) {
        return Err(lines.problem(
            &registry.span(),
            format!("bad prefix {prefix:?}: a wildcard is only allowed as a leading \"*.\""),
        ));
    }
    if target.is_none() && !wildcard {
        target = Some(prefix.clone());
    }
    if target.as_ref().is_some_and(|target| target.contains('*')) {
        return Err(lines.problem(&registry.span(), "a location cannot have a wildcard"));
    }
    let mut mirrors = Vec::new();
    for mirror in &entry.mirror {
        mirrors.push(mirror_rule(lines, entry, mirror)?);
    }
    Ok(RegistryRule {
        prefix,
        location: target,
        insecure: entry.insecure,
        blocked: entry.blocked,
        mirrors,
    })
}

fn mirror_rule(
    lines: &Lines<'_>,
    registry: &Registry,
    mirror: &Spanned<Mirror>,
) -> Result<MirrorRule, Problem> {
    let entry = mirror.as_ref();
    let Some(target) = &entry.location else {
        return Err(lines.problem(&mirror.span(), "a [[registry.mirror]] needs a location"));
    };
    let pull = match &entry.pull_from_mirror {
        None if registry.mirror_by_digest_only => PullFromMirror::DigestOnly,
        None => PullFromMirror::All,
        Some(text) if registry.mirror_by_digest_only => {
            return Err(lines.problem(
                &text.span(),
                "pull-from-mirror cannot be set beside mirror-by-digest-only",
            ));
        }
        Some(text) => match text.as_ref().as_str() {
            "" | "all" => PullFromMirror::All,
            "digest-only" => PullFromMirror::DigestOnly,
            "tag-only" => PullFromMirror::TagOnly,
            other => {
                let reason = format!(
                    "bad pull-from-mirror {other:?}: it is one of all, digest-only, tag-only"
                );
                return Err(lines.problem(&text.span(), reason));
            }
        },
    };
    Ok(MirrorRule {
        location: location(lines, target)?,
        insecure: entry.insecure,
        pull,
    })
}

/// A host with an optional port and path; never a URL.
fn location(lines: &Lines<'_>, text: &Spanned<String>) -> Result<String, Problem> {
    let value = text.as_ref().trim_end_matches('/');
    let bad = |reason: &str| {
        Err(lines.problem(
            &text.span(),
            format!("bad location {:?}: {reason}", text.as_ref()),
        ))
    };
    if value.contains("://") {
        return bad("it must not be a URL, only HOST[:PORT][/PATH]");
    }
    if value.is_empty() {
        return bad("it is empty");
    }
    if value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return bad("it has white space");
    }
    Ok(value.to_owned())
}

fn alias(lines: &Lines<'_>, short: &str, full: &Spanned<String>) -> Result<String, Problem> {
    let bad = |reason: String| Err(lines.problem(&full.span(), reason));
    if short.contains([':', '@', '.']) && !short.contains('/') {
        return bad(format!(
            "bad alias {short:?}: it must be a short name without tag or digest"
        ));
    }
    let value = full.as_ref();
    if value.is_empty() {
        return Ok(String::new());
    }
    match crate::Reference::parse(value) {
        Ok(parsed) if value.starts_with(&parsed.name()) => Ok(value.clone()),
        Ok(_) => bad(format!(
            "bad alias target {value:?}: it must name a registry"
        )),
        Err(error) => bad(error.to_string()),
    }
}

fn short_name_mode(
    lines: &Lines<'_>,
    mode: Option<&Spanned<String>>,
) -> Result<ShortNameMode, Problem> {
    let Some(mode) = mode else {
        return Ok(ShortNameMode::default());
    };
    match mode.as_ref().to_ascii_lowercase().as_str() {
        "enforcing" => Ok(ShortNameMode::Enforcing),
        "" | "permissive" => Ok(ShortNameMode::Permissive),
        "disabled" => Ok(ShortNameMode::Disabled),
        other => {
            let reason = format!(
                "bad short-name-mode {other:?}: it is one of enforcing, permissive, disabled"
            );
            Err(lines.problem(&mode.span(), reason))
        }
    }
}

/// The same prefix twice is harmless only when both say the same about safety.
fn check_conflicts(known: &[RegistryRule], rule: &RegistryRule) -> Result<(), String> {
    let Some(other) = known.iter().find(|other| other.prefix == rule.prefix) else {
        return Ok(());
    };
    let setting = if other.insecure != rule.insecure {
        "insecure"
    } else if other.blocked != rule.blocked {
        "blocked"
    } else {
        return Ok(());
    };
    Err(format!(
        "registry {} is defined twice with different values of {setting}",
        rule.prefix
    ))
}

fn warn_of_unknown_keys(text: &str) {
    let Ok(table) = text.parse::<toml::Table>() else {
        return;
    };
    warn_keys("the file", &table, &TOP_KEYS);
    for registry in tables(&table, "registry") {
        warn_keys("[[registry]]", registry, &REGISTRY_KEYS);
        for mirror in tables(registry, "mirror") {
            warn_keys("[[registry.mirror]]", mirror, &MIRROR_KEYS);
        }
    }
}

fn tables<'a>(table: &'a toml::Table, key: &str) -> impl Iterator<Item = &'a toml::Table> {
    let entries = table.get(key).and_then(toml::Value::as_array);
    entries
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_table)
}

fn warn_keys(place: &str, table: &toml::Table, known: &[&str]) {
    for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
        tracing::warn!(key = key.as_str(), place, "unknown key in registries.conf");
    }
}
