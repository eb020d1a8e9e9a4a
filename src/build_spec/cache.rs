//! `--cache-from`, `--cache-to`: `type=...,key=value...`, or a reference alone, which is of type registry.

use super::{csv, usage};
use crate::error::Failure;
use executor::push::Packing;
use executor::request::{CacheExport, CacheImport, CacheMode, CacheMounts, CacheTarget};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Type and attributes of one cache.
struct Entry {
    kind: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

/// The caches to read; with the registries among them that need no certificate.
pub fn imports(raw: &[String]) -> Result<(Vec<CacheImport>, Vec<String>), Failure> {
    let (mut imports, mut insecure) = (Vec::new(), Vec::new());
    for entry in entries("--cache-from", raw)? {
        let import = entry.import(&mut insecure)?;
        if !imports.contains(&import) {
            imports.push(import);
        }
    }
    Ok((imports, insecure))
}

/// The caches to write, an inline one among them where the build argument asks for it; with the registries among them
/// that need no certificate.
pub fn exports(raw: &[String], inline: bool) -> Result<(Vec<CacheExport>, Vec<String>), Failure> {
    let (mut exports, mut insecure): (Vec<CacheExport>, _) = (Vec::new(), Vec::new());
    for entry in entries("--cache-to", raw)? {
        let export = entry.export(&mut insecure)?;
        if !exports.contains(&export) {
            exports.push(export);
        }
    }
    let has_inline = |export: &CacheExport| export.target == CacheTarget::Inline;
    if inline && !exports.iter().any(has_inline) {
        exports.push(CacheExport::new(CacheTarget::Inline));
    }
    Ok((exports, insecure))
}

/// Which cache mounts travel. `all` and `none` stand alone.
pub fn mounts(raw: &[String]) -> Result<CacheMounts, Failure> {
    let (mut ids, mut words) = (Vec::new(), Vec::new());
    for text in raw {
        let fields = csv::fields(text).map_err(|reason| {
            usage(format!(
                "invalid value {text:?} for '--cache-mounts': {reason}"
            ))
        })?;
        for field in fields.into_iter().filter(|field| !field.is_empty()) {
            match field.as_str() {
                "all" => words.push(CacheMounts::All),
                "none" => words.push(CacheMounts::None),
                _ => ids.push(field),
            }
        }
    }
    match words.pop() {
        None if ids.is_empty() => Ok(CacheMounts::None),
        None => Ok(CacheMounts::Ids(ids)),
        Some(word) if ids.is_empty() && words.iter().all(|other| *other == word) => Ok(word),
        Some(_) => Err(usage(
            "invalid value for '--cache-mounts': all and none stand alone".to_owned(),
        )),
    }
}

fn entries(flag: &str, raw: &[String]) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for text in raw.iter().filter(|text| !text.is_empty()) {
        let invalid =
            |reason: String| usage(format!("invalid value {text:?} for '{flag}': {reason}"));
        let fields = csv::fields(text).map_err(invalid)?;
        // References alone: each is a cache of its own.
        if !text.contains('=') {
            entries.extend(fields.into_iter().map(|reference| Entry {
                kind: "registry".to_owned(),
                attributes: BTreeMap::from([("ref".to_owned(), reference)]),
                text: text.clone(),
            }));
            continue;
        }
        let (mut kind, mut attributes) = (None, BTreeMap::new());
        for field in fields {
            let Some((key, value)) = field.split_once('=') else {
                return Err(invalid(format!("invalid value {field}")));
            };
            match key.to_lowercase().as_str() {
                "type" => kind = Some(value.to_owned()),
                key => drop(attributes.insert(key.to_owned(), value.to_owned())),
            }
        }
        let kind = kind.filter(|kind| !kind.is_empty());
        entries.push(Entry {
            kind: kind.ok_or_else(|| invalid(format!("type required for {text:?}")))?,
            attributes,
            text: text.clone(),
        });
    }
    Ok(entries)
}

impl Entry {
    fn invalid(&self, reason: &str) -> Failure {
        usage(format!("invalid cache {:?}: {reason}", self.text))
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.attributes
            .remove(key)
            .filter(|value| !value.is_empty())
    }

    fn boolean(&mut self, key: &str, default: bool) -> Result<bool, Failure> {
        match self.take(key).as_deref() {
            None => Ok(default),
            Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(value) => Err(self.invalid(&format!(
                "failed to parse {key}: {value:?} is neither true nor false"
            ))),
        }
    }

    /// `ref`, and whether its registry needs no certificate.
    fn reference(&mut self, insecure: &mut Vec<String>) -> Result<String, Failure> {
        let Some(text) = self.take("ref") else {
            return Err(self.invalid("missing ref"));
        };
        let reference = executor::request::reference(&text)
            .map_err(|error| self.invalid(&crate::render::chain(&error)))?;
        if self.boolean("registry.insecure", false)?
            && let Some((registry, _)) = reference.split_once('/')
        {
            insecure.push(registry.to_owned());
        }
        Ok(reference)
    }

    /// Refuses types that are somewhere else's, saying what there is.
    fn unknown(&self, role: &str) -> Failure {
        match self.kind.as_str() {
            "gha" | "s3" | "azblob" => self.invalid(&format!(
                "cache {role} type={} is not supported: use type=registry (any registry, such as ghcr.io), or type=local with a folder that your CI keeps",
                self.kind
            )),
            kind => self.invalid(&format!(
                "unknown cache {role}: {kind:?} (expected registry, local or inline)"
            )),
        }
    }

    fn nothing_left(self) -> Result<(), Failure> {
        let Some(key) = self.attributes.keys().next() else {
            return Ok(());
        };
        Err(self.invalid(&format!("unknown key {key:?} for type={}", self.kind)))
    }

    fn import(mut self, insecure: &mut Vec<String>) -> Result<CacheImport, Failure> {
        let import = match self.kind.as_str() {
            "registry" => CacheImport::Registry {
                reference: self.reference(insecure)?,
            },
            "local" => {
                let src = self.take("src");
                CacheImport::Local {
                    src: src
                        .map(PathBuf::from)
                        .ok_or_else(|| self.invalid("local cache importer requires src"))?,
                    tag: self.take("tag"),
                    digest: self.take("digest"),
                }
            }
            "inline" => {
                return Err(self.invalid(
                    "an inline cache is read from its image: use type=registry,ref=IMAGE",
                ));
            }
            _ => return Err(self.unknown("importer")),
        };
        // What only an exporter reads is often copied along.
        for key in EXPORT_ONLY {
            self.attributes.remove(key);
        }
        self.nothing_left()?;
        Ok(import)
    }

    fn export(mut self, insecure: &mut Vec<String>) -> Result<CacheExport, Failure> {
        let target = match self.kind.as_str() {
            "registry" => CacheTarget::Registry {
                reference: self.reference(insecure)?,
            },
            "local" => {
                let dest = self.take("dest");
                CacheTarget::Local {
                    dest: dest
                        .map(PathBuf::from)
                        .ok_or_else(|| self.invalid("local cache exporter requires dest"))?,
                    tag: self.take("tag").unwrap_or_else(|| "latest".to_owned()),
                }
            }
            "inline" => CacheTarget::Inline,
            _ => return Err(self.unknown("exporter")),
        };
        let mut export = CacheExport::new(target);
        self.settings(&mut export)?;
        self.nothing_left()?;
        Ok(export)
    }

    fn settings(&mut self, export: &mut CacheExport) -> Result<(), Failure> {
        export.mode = match self.take("mode").as_deref() {
            None | Some("min") => CacheMode::Min,
            Some("max") => CacheMode::Max,
            Some(mode) => {
                return Err(self.invalid(&format!("invalid cache export mode: {mode}")));
            }
        };
        export.compression = self.take("compression");
        if let Some(level) = self.take("compression-level") {
            let level = level.parse().map_err(|_| {
                self.invalid(&format!("compression-level {level:?} is not a number"))
            })?;
            export.compression_level = Some(level);
        }
        export.force_compression = self.boolean("force-compression", false)?;
        Packing::parse(
            export.compression.as_deref(),
            export.compression_level,
            export.force_compression,
        )
        .map_err(|reason| self.invalid(&reason))?;
        export.oci_mediatypes = self.boolean("oci-mediatypes", true)?;
        let is_given = self.attributes.contains_key("image-manifest");
        export.image_manifest = self.boolean("image-manifest", export.oci_mediatypes)?;
        if is_given && export.image_manifest && !export.oci_mediatypes {
            return Err(self.invalid(
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
            ));
        }
        export.ignore_error = self.boolean("ignore-error", false)?;
        export.reset = self.boolean("reset", false)?;
        Ok(())
    }
}

const EXPORT_ONLY: [&str; 8] = [
    "mode",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "image-manifest",
    "ignore-error",
    "reset",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn export(text: &str) -> CacheExport {
        let found = exports(&[text.to_owned()], false);
        let Ok((mut found, _)) = found else {
            panic!("{text} was refused")
        };
        found.remove(0)
    }

    fn refused(text: &str) -> String {
        let (from, to) = (
            imports(&[text.to_owned()]),
            exports(&[text.to_owned()], false),
        );
        match (from.err(), to.err()) {
            (Some(Failure::Usage(from)), Some(Failure::Usage(to))) => format!("{from}\n{to}"),
            _ => panic!("{text} was taken"),
        }
    }

    #[test]
    fn references_alone_are_registries() {
        let (found, _) = imports(&["a/b,c:x".to_owned(), "a/b".to_owned()])
            .ok()
            .unwrap();
        let names = ["docker.io/a/b:latest", "docker.io/library/c:x"];
        let expected = names.map(|name| CacheImport::Registry {
            reference: name.to_owned(),
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn settings_have_buildkits_defaults() {
        let plain = export("type=registry,ref=x");
        assert_eq!(plain.mode, CacheMode::Min);
        assert!(plain.image_manifest && plain.oci_mediatypes && !plain.ignore_error);
        let docker = export("type=registry,ref=x,oci-mediatypes=false");
        assert!(!docker.image_manifest && !docker.oci_mediatypes);
        let all = export(
            "type=local,dest=d,tag=t,mode=max,compression=zstd,compression-level=9,force-compression=true,ignore-error=1,reset=true",
        );
        assert_eq!(all.mode, CacheMode::Max);
        assert!(all.force_compression && all.ignore_error && all.reset);
        let (found, insecure) = exports(
            &["type=registry,ref=127.0.0.1:5000/c,registry.insecure=true".to_owned()],
            true,
        )
        .ok()
        .unwrap();
        assert_eq!(found[1].target, CacheTarget::Inline);
        assert_eq!(insecure, ["127.0.0.1:5000"]);
    }

    #[test]
    fn ca05_what_is_not_there_is_refused_with_what_is() {
        for kind in ["gha", "s3", "azblob"] {
            let told = refused(&format!("type={kind},scope=x"));
            assert!(
                told.contains("type=registry") && told.contains("type=local"),
                "{told}"
            );
        }
        for (text, says) in [
            ("ref=x", "type required"),
            ("type=nope", "unknown cache"),
            ("type=registry", "missing ref"),
            ("type=registry,ref=UPPER", "invalid"),
            ("type=local", "requires"),
            ("type=registry,ref=x,bogus=1", "unknown key"),
        ] {
            assert!(refused(text).contains(says), "{text}");
        }
        for text in [
            "type=registry,ref=x,mode=most",
            "type=registry,ref=x,compression=lz4",
            "type=registry,ref=x,compression-level=x",
            "type=registry,ref=x,ignore-error=perhaps",
            "type=registry,ref=x,image-manifest=true,oci-mediatypes=false",
        ] {
            assert!(exports(&[text.to_owned()], false).is_err(), "{text}");
        }
    }
}
