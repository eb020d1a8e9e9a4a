//! The files that a build leaves for whoever started it, as `docker buildx build` writes them: `--metadata-file`,
//! `--iidfile`.

use crate::error::Failure;
use executor::build::BuildResult;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes those that were asked for. `warnings` are the build's, where the environment wants them in the metadata.
pub fn write(
    iidfile: Option<&Path>,
    metadata_file: Option<&Path>,
    result: &BuildResult,
    warnings: Option<Vec<Value>>,
) -> Result<(), Failure> {
    if let (Some(path), Some(id)) = (iidfile, &result.image_id) {
        write_file(path, id.as_bytes())?;
    }
    if let Some(path) = metadata_file {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::Other(format!("could not write {}: {error}", path.display()))
        };
        let build = build_ref().map_err(|error| failed(&error))?;
        let text = text(result, warnings.unwrap_or_default(), build);
        write_file(path, &text.map_err(|error| failed(&error))?)?;
    }
    Ok(())
}

/// Keys and their order are buildx's.
#[derive(Serialize)]
struct Metadata {
    #[serde(rename = "buildx.build.ref")]
    build: String,
    #[serde(
        rename = "buildx.build.warnings",
        skip_serializing_if = "Vec::is_empty"
    )]
    warnings: Vec<Value>,
    #[serde(
        rename = "containerimage.config.digest",
        skip_serializing_if = "Option::is_none"
    )]
    config: Option<String>,
    #[serde(
        rename = "containerimage.descriptor",
        skip_serializing_if = "Option::is_none"
    )]
    descriptor: Option<Descriptor>,
    #[serde(
        rename = "containerimage.digest",
        skip_serializing_if = "Option::is_none"
    )]
    digest: Option<String>,
    #[serde(rename = "image.name", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// With its fields in the order of the image specification's.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

#[derive(Serialize, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    os_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

fn text(
    result: &BuildResult,
    warnings: Vec<Value>,
    build: String,
) -> Result<Vec<u8>, serde_json::Error> {
    let descriptor = result.descriptor.clone().map(serde_json::from_value);
    let names = (!result.names.is_empty()).then(|| result.names.join(","));
    serde_json::to_vec_pretty(&Metadata {
        build,
        warnings,
        config: result.config_digest.clone(),
        descriptor: descriptor.transpose()?,
        digest: result.digest.clone(),
        name: names,
    })
}

/// `BUILDER/NODE/ID`; the id is as long as buildx's, and of the same letters.
fn build_ref() -> std::io::Result<String> {
    const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut random = [0; 25];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    if filled < random.len() {
        return Err(std::io::Error::other(
            "the system has too little randomness",
        ));
    }
    let id: String = random
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect();
    Ok(format!("kiln/kiln/{id}"))
}

/// Writes a temporary file and renames it, so that no reader sees half of it.
pub(super) fn write_file(path: &Path, data: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::Other(format!("could not write {}: {error}", path.display()))
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    std::fs::write(&temporary, data).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(|error| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_in_the_order_of_buildx() {
        let result = BuildResult {
            digest: Some("sha256:d".to_owned()),
            config_digest: Some("sha256:c".to_owned()),
            descriptor: Some(json!({
                "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
                "annotations": {"b": "2", "a": "1"},
                "mediaType": "m", "size": 5, "digest": "sha256:d",
            })),
            names: vec![
                "docker.io/library/a:1".to_owned(),
                "b.example/c:2".to_owned(),
            ],
            ..BuildResult::default()
        };
        let text = text(&result, vec![json!({"level": 1})], "kiln/kiln/x".to_owned()).unwrap();
        let expected = r#"{
  "buildx.build.ref": "kiln/kiln/x",
  "buildx.build.warnings": [
    {
      "level": 1
    }
  ],
  "containerimage.config.digest": "sha256:c",
  "containerimage.descriptor": {
    "mediaType": "m",
    "digest": "sha256:d",
    "size": 5,
    "annotations": {
      "a": "1",
      "b": "2"
    },
    "platform": {
      "architecture": "arm",
      "os": "linux",
      "variant": "v7"
    }
  },
  "containerimage.digest": "sha256:d",
  "image.name": "docker.io/library/a:1,b.example/c:2"
}"#;
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_build_without_an_image_has_a_reference_only() {
        let text = text(
            &BuildResult::default(),
            Vec::new(),
            "kiln/kiln/x".to_owned(),
        )
        .unwrap();
        assert_eq!(text, b"{\n  \"buildx.build.ref\": \"kiln/kiln/x\"\n}");
        let build = build_ref().unwrap();
        let id = build.strip_prefix("kiln/kiln/").unwrap();
        assert!(
            id.len() == 25
                && id
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
        );
        assert_ne!(build, build_ref().unwrap());
    }
}
