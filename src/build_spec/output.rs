//! `--output`: `type=...,key=value...`, a bare folder (files), or `-` (a tar on standard output).

use super::load_target::LoadKeys;
use super::{csv, usage};
use crate::error::Failure;
use executor::request::{DeleteScope, OutputDest, OutputKind, OutputRequest};
use std::path::{Component, Path, PathBuf};

/// Parses one `--output`; with where it is to be loaded when that is what it asks for.
pub fn parse(text: &str) -> Result<(OutputRequest, Option<LoadKeys>), Failure> {
    let invalid = |reason: &str| usage(format!("invalid value {text:?} for '--output': {reason}"));
    let fields = csv::fields(text).map_err(|reason| invalid(&reason))?;
    if let [only] = fields.as_slice()
        && !only.contains('=')
    {
        return Ok((bare(only), None));
    }
    let pairs = csv::pairs(text).map_err(|reason| invalid(&reason))?;
    let kind_name = pairs
        .iter()
        .find(|(key, _)| key == "type")
        .and_then(|(_, value)| value.as_deref())
        .ok_or_else(|| invalid("type is required"))?;
    let mut output = OutputRequest {
        kind: kind(kind_name).map_err(|reason| invalid(&reason))?,
        ..OutputRequest::default()
    };
    output.image.push = kind_name == "registry";
    let mut load = LoadKeys::default();
    for (key, value) in &pairs {
        let Some(value) = value else {
            return Err(invalid(&format!("field {key:?} must be key=value")));
        };
        applies(output.kind, key).map_err(|reason| invalid(&reason))?;
        match key.as_str() {
            "to" => load.to = Some(value.clone()),
            "context" => load.context = Some(value.clone()),
            "namespace" => load.namespace = Some(value.clone()),
            _ => {}
        }
        set(&mut output, key, value).map_err(|reason| invalid(&reason))?;
    }
    let needs_dest = output.kind == OutputKind::Local
        || (matches!(output.kind, OutputKind::Oci | OutputKind::Docker) && !output.tar);
    match &output.dest {
        None if needs_dest => {
            return Err(invalid(&format!(
                "dest is required for {kind_name} exporter"
            )));
        }
        Some(OutputDest::Stdout) if needs_dest => {
            return Err(invalid("a folder cannot be written to standard output"));
        }
        None if matches!(output.kind, OutputKind::Tar | OutputKind::Oci) => {
            output.dest = Some(OutputDest::Stdout);
        }
        None if output.kind == OutputKind::Docker => {
            output.kind = OutputKind::Image;
            return Ok((output, Some(load)));
        }
        _ => {}
    }
    if load != LoadKeys::default() {
        return Err(invalid(
            "dest cannot be given together with to, context or namespace",
        ));
    }
    Ok((output, None))
}

/// Refuses combinations that cannot work together.
pub fn check(outputs: &[OutputRequest]) -> Result<(), Failure> {
    let on_stdout = outputs
        .iter()
        .filter(|output| output.dest == Some(OutputDest::Stdout))
        .count();
    if on_stdout > 1 {
        return Err(usage("only one output can go to standard output"));
    }
    for output in outputs {
        let Some(OutputDest::Path(path)) = &output.dest else {
            continue;
        };
        let is_folder = output.kind == OutputKind::Local || !output.tar;
        if !is_folder && path.is_dir() {
            return Err(cannot_create(path, "it is a folder"));
        }
        // Folders on the way are made, but not out of files.
        let above = path.ancestors().skip(1).find(|above| above.exists());
        if let Some(above) = above.filter(|above| !above.is_dir()) {
            let reason = format!("{} is not a folder", above.display());
            return Err(cannot_create(path, &reason));
        }
        if is_folder && path.exists() && !path.is_dir() {
            return Err(cannot_create(
                path,
                "it is a file, and a folder is to be written",
            ));
        }
    }
    Ok(())
}

/// Refuses a path that no file can be written to, before the work is done.
pub fn check_file(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(cannot_create(path, "it is a folder"));
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => Err(cannot_create(
            path,
            &format!("{} is not a folder", parent.display()),
        )),
        _ => Ok(()),
    }
}

fn cannot_create(path: &Path, reason: &str) -> Failure {
    Failure::Other(format!("could not create {}: {reason}", path.display()))
}

fn bare(text: &str) -> OutputRequest {
    if text == "-" {
        return OutputRequest {
            kind: OutputKind::Tar,
            dest: Some(OutputDest::Stdout),
            ..OutputRequest::default()
        };
    }
    OutputRequest {
        kind: OutputKind::Local,
        dest: Some(OutputDest::Path(PathBuf::from(text))),
        ..OutputRequest::default()
    }
}

fn kind(name: &str) -> Result<OutputKind, String> {
    match name {
        "local" => Ok(OutputKind::Local),
        "tar" => Ok(OutputKind::Tar),
        "oci" => Ok(OutputKind::Oci),
        "docker" => Ok(OutputKind::Docker),
        "image" | "registry" => Ok(OutputKind::Image),
        "cacheonly" => Ok(OutputKind::CacheOnly),
        _ => Err(format!(
            "unknown type {name:?}: expected local, tar, oci, docker, image, registry or cacheonly"
        )),
    }
}

/// Refuses keys that a type has no use for: what they ask for would not happen.
fn applies(kind: OutputKind, key: &str) -> Result<(), String> {
    let of_trees = matches!(key, "platform-split" | "attestation-prefix" | "mode");
    let fits = match key {
        "type" => true,
        _ if kind == OutputKind::CacheOnly => false,
        "dest" | "source-date-epoch" => true,
        "mode" => kind == OutputKind::Local,
        "context" | "to" | "namespace" => kind == OutputKind::Docker,
        "push"
        | "push-by-digest"
        | "registry.insecure"
        | "unpack"
        | "store"
        | "dangling-name-prefix"
        | "name-canonical" => kind == OutputKind::Image,
        _ => of_trees == matches!(kind, OutputKind::Local | OutputKind::Tar),
    };
    if fits {
        return Ok(());
    }
    Err(format!("key {key:?} has no meaning for this type"))
}

fn set(output: &mut OutputRequest, key: &str, value: &str) -> Result<(), String> {
    match key {
        "type" | "to" | "context" | "namespace" => {}
        "mode" => match value {
            "copy" => output.delete = None,
            "delete" => output.delete = Some(DeleteScope::Anywhere),
            _ => {
                return Err(format!(
                    "invalid local exporter mode {value:?}: expected copy or delete"
                ));
            }
        },
        "platform-split" => output.platform_split = Some(boolean(key, value)?),
        "attestation-prefix" => {
            return Err(
                "attestation-prefix is not supported yet: there are no attestations".to_owned(),
            );
        }
        "prefer-nondist-layers" if boolean(key, value)? => {
            return Err(
                "prefer-nondist-layers is not supported: all layers are in the output".to_owned(),
            );
        }
        // The form of attestations, and what became of build info in BuildKit too.
        "oci-artifact" | "prefer-nondist-layers" | "buildinfo" | "buildinfo-attrs" => {}
        "dest" if value == "-" => output.dest = Some(OutputDest::Stdout),
        "dest" if value.is_empty() => return Err("dest is empty".to_owned()),
        "dest" => output.dest = Some(OutputDest::Path(PathBuf::from(value))),
        "name" => output.names = value.split(',').map(str::trim).map(str::to_owned).collect(),
        "compression" => match value {
            "uncompressed" | "gzip" | "estargz" | "zstd" => {
                output.compression = Some(value.to_owned());
            }
            _ => {
                return Err(format!(
                    "unsupported compression type {value:?}: expected uncompressed, gzip, estargz or zstd"
                ));
            }
        },
        "compression-level" => {
            let level = value
                .parse()
                .map_err(|_| format!("compression-level {value:?} is not a number"))?;
            output.compression_level = Some(level);
        }
        "force-compression" => output.force_compression = boolean(key, value)?,
        "rewrite-timestamp" => output.rewrite_timestamp = Some(boolean(key, value)?),
        "oci-mediatypes" => output.oci_mediatypes = boolean(key, value)?,
        "tar" => output.tar = boolean(key, value)?,
        "push" => output.image.push = boolean(key, value)?,
        "push-by-digest" => output.image.push_by_digest = boolean(key, value)?,
        "registry.insecure" => output.image.insecure = boolean(key, value)?,
        "unpack" => output.image.unpack = boolean(key, value)?,
        "store" => output.image.store = Some(boolean(key, value)?),
        "dangling-name-prefix" => output.image.dangling_prefix = Some(value.to_owned()),
        // An image of the store is found under any name with its digest; a registry has it so too.
        "name-canonical" => drop(boolean(key, value)?),
        "compatibility-version" => {
            return Err(
                "compatibility-version is not supported: images are made in one way only"
                    .to_owned(),
            );
        }
        "source-date-epoch" => output.epoch = Some(super::epoch::seconds(value)?),
        _ => match super::annotation::output_key(key, value) {
            Some(annotation) => output.annotations.push(annotation?),
            None => return Err(format!("unknown key {key:?}")),
        },
    }
    Ok(())
}

/// Narrows `mode=delete` to what is below the working directory, unless all is allowed; says early what is not.
pub fn scope_deletes(outputs: &mut [OutputRequest], is_allowed: bool) -> Result<(), Failure> {
    for output in outputs {
        let (Some(scope), Some(OutputDest::Path(dest))) = (&mut output.delete, &output.dest) else {
            continue;
        };
        if is_allowed {
            continue;
        }
        let here = std::env::current_dir().and_then(|here| here.canonicalize());
        let here = here.map_err(|error| {
            Failure::Other(format!("could not find the working directory: {error}"))
        })?;
        let real = real_path(&here.join(dest));
        if real == here || !real.starts_with(&here) {
            return Err(usage(format!(
                "mode=delete in {} needs --allow=buildx.local.delete: it is not below the working directory",
                dest.display()
            )));
        }
        *scope = DeleteScope::Below(here);
    }
    Ok(())
}

/// The path without links, as far as it exists. Of what does not exist, `..` takes a component away.
fn real_path(path: &Path) -> PathBuf {
    let mut real = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(real.pop()),
            other => real.push(other),
        }
        if let Ok(found) = real.canonicalize() {
            real = found;
        }
    }
    real
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{key} must be true or false, not {value:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str) -> OutputRequest {
        match parse(text) {
            Ok((output, _)) => output,
            Err(_) => panic!("{text} was refused"),
        }
    }

    #[test]
    fn forms() {
        assert_eq!(ok("out").kind, OutputKind::Local);
        assert_eq!(ok("-").dest, Some(OutputDest::Stdout));
        assert_eq!(ok("type=oci").dest, Some(OutputDest::Stdout));
        assert_eq!(ok("type=docker").kind, OutputKind::Image);
        let layout = ok("type=oci,dest=d,tar=false");
        assert!(!layout.tar && layout.dest == Some(OutputDest::Path("d".into())));
        assert_eq!(ok(r#"type=image,"name=a,b""#).names, ["a", "b"]);
    }

    #[test]
    fn refusals() {
        for bad in [
            "dest=x",
            "type=nope",
            "type=local",
            "type=oci,tar=false",
            "type=oci,dest=-,tar=false",
            "type=oci,bogus=1",
            "type=oci,compression=lz4",
            "type=image,compatibility-version=10",
            "type=local,dest=x,push=true",
            "type=tar,dest",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
