//! `kiln inspect`: what `docker image inspect` prints, or with `--raw` the documents as they are stored.

use super::{images::familiar, platform, print, print_line};
use crate::args::InspectArgs;
use crate::error::Failure;
use crate::render;
use crate::template::{FieldKind, Schema, Template};
use executor::output::Inspected;
use executor::space::Space;
use serde::Serialize;
use serde_json::{Value, json};

/// Fields that Go has as maps, lists and texts, so that they may be missing.
const SCHEMA: Schema = Schema {
    type_name: "",
    fields: &[
        ("Annotations", FieldKind::Map),
        ("Cmd", FieldKind::List),
        ("DockerVersion", FieldKind::Text),
        ("Entrypoint", FieldKind::List),
        ("Env", FieldKind::List),
        ("ExposedPorts", FieldKind::Map),
        ("Healthcheck", FieldKind::Pointer),
        ("Labels", FieldKind::Map),
        ("OnBuild", FieldKind::List),
        ("Shell", FieldKind::List),
        ("StopSignal", FieldKind::Text),
        ("Test", FieldKind::List),
        ("User", FieldKind::Text),
        ("OsVersion", FieldKind::Text),
        ("Variant", FieldKind::Text),
        ("Volumes", FieldKind::Map),
        ("WorkingDir", FieldKind::Text),
        ("annotations", FieldKind::Map),
    ],
    open: false,
};

/// Prints a JSON array with one object an image, or what a template makes of each. What is not there is told after the
/// others.
pub fn run(args: &InspectArgs, space: &Space) -> Result<(), Failure> {
    let platform = platform(args.platform.as_deref())?;
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let template = match format {
        None | Some("json") => None,
        Some(text) => Some(Template::parse(text)?),
    };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for name in &args.images {
        match executor::output::inspect(space, name, platform.as_ref()) {
            Ok(image) => found.push(image),
            Err(error) => failures.push(render::chain(&error)),
        }
    }
    let json_error = |error: serde_json::Error| Failure::from_error(&error);
    if let Some(template) = template {
        for image in &found {
            let shown = if args.raw {
                raw(image)
            } else {
                serde_json::to_value(Shown::of(image)).map_err(json_error)?
            };
            print(&format!("{}\n", template.render(&shown, &SCHEMA)?));
        }
    } else if args.raw {
        let found: Vec<Value> = found.iter().map(raw).collect();
        print_json(&found, format.is_some()).map_err(json_error)?;
    } else {
        let found: Vec<Shown<'_>> = found.iter().map(Shown::of).collect();
        print_json(&found, format.is_some()).map_err(json_error)?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(failures.join("\nERROR: ")))
}

fn print_json<T: Serialize>(found: &[T], compact: bool) -> Result<(), serde_json::Error> {
    let text = if compact {
        serde_json::to_string(found)?
    } else {
        let mut text = Vec::new();
        let four = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, four);
        found.serialize(&mut serializer)?;
        String::from_utf8_lossy(&text).into_owned()
    };
    print_line(&text);
    Ok(())
}

fn raw(image: &Inspected) -> Value {
    json!({
        "name": image.name,
        "digest": image.digest,
        "tagged": image.tagged,
        "manifest_digest": image.manifest_digest,
        "id": image.id,
        "manifest": image.manifest,
        "config": image.config,
    })
}

/// An image as Docker's API shows it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    id: &'a str,
    repo_tags: Vec<&'a str>,
    repo_digests: &'a [String],
    parent: &'static str,
    comment: &'a str,
    created: &'a str,
    docker_version: &'a str,
    author: &'a str,
    config: Value,
    architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    size: u64,
    #[serde(rename = "RootFS")]
    root_fs: RootFs<'a>,
    metadata: Metadata<'a>,
    descriptor: Value,
    /// Not Docker's: what an image for several platforms holds.
    platforms: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs<'a> {
    r#type: &'a str,
    layers: &'a [Value],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata<'a> {
    last_tag_time: &'a str,
}

impl<'a> Shown<'a> {
    fn of(image: &'a Inspected) -> Self {
        let text = |key: &str| image.config[key].as_str().unwrap_or_default();
        let history = image.config["history"].as_array();
        let last = history.and_then(|entries| entries.last());
        let comment = match text("comment") {
            "" => last.and_then(|entry| entry["comment"].as_str()),
            own => Some(own),
        };
        let layers = image.config["rootfs"]["diff_ids"].as_array();
        let config = &image.config["config"];
        Self {
            id: &image.id,
            repo_tags: image.names.iter().map(|name| familiar(name)).collect(),
            repo_digests: &image.repo_digests,
            parent: "",
            comment: comment.unwrap_or_default(),
            created: text("created"),
            docker_version: text("docker_version"),
            author: text("author"),
            config: if config.is_object() {
                config.clone()
            } else {
                json!({})
            },
            architecture: text("architecture"),
            variant: text("variant"),
            os: text("os"),
            os_version: text("os.version"),
            size: image.layer_sizes.iter().sum(),
            root_fs: RootFs {
                r#type: image.config["rootfs"]["type"].as_str().unwrap_or("layers"),
                layers: layers.map_or(&[], Vec::as_slice),
            },
            metadata: Metadata {
                last_tag_time: &image.tagged,
            },
            descriptor: json!({
                "mediaType": image.media_type,
                "digest": image.digest,
                "size": image.document_size,
            }),
            platforms: &image.platforms,
        }
    }
}
