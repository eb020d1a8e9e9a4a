//! `kiln imagetools`.

use super::connect::{Connection, connect};
use super::{print, print_line};
use crate::args::{ImagetoolsArgs, ImagetoolsCommand, ImagetoolsCreateArgs, ImagetoolsInspectArgs};
use crate::build_spec::annotation;
use crate::environment::Environment;
use crate::error::Failure;
use crate::template::{Schema, Template};
use executor::tools::{Combine, CombineSource, RemoteImage, ordered, reindented};
use registry_client::Reference;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

/// Runs a subcommand.
pub fn run(args: &ImagetoolsArgs, environment: &Environment) -> Result<(), Failure> {
    match &args.command {
        ImagetoolsCommand::Create(args) => create(args, environment),
        ImagetoolsCommand::Inspect(args) => inspect(args, environment),
    }
}

fn create(args: &ImagetoolsCreateArgs, environment: &Environment) -> Result<(), Failure> {
    let request = request(args)?;
    let connection = connect(&args.registry, environment)?;
    let remote = &connection.remote;
    if args.dry_run {
        let made = request.dry_run(remote);
        let made = made.map_err(|error| connection.failed(error))?;
        print_line(&String::from_utf8_lossy(&made.bytes));
        return Ok(());
    }
    let started = Instant::now();
    let is_told = !matches!(args.progress.as_str(), "none" | "quiet");
    let tell = |line: &str| {
        if is_told {
            let _ = writeln!(std::io::stderr(), "#1 {line}");
        }
    };
    let names: Vec<&str> = args.tags.iter().map(String::as_str).collect();
    tell(&format!("[internal] pushing {}", names.join(", ")));
    let say = |line: &str| tell(&format!("{:.3} {line}", started.elapsed().as_secs_f64()));
    let made = request
        .run(remote, &say)
        .map_err(|error| connection.failed(error))?;
    tell(&format!("DONE {:.1}s", started.elapsed().as_secs_f64()));
    if let Some(path) = &args.metadata_file {
        let names: Vec<String> = request.tags.iter().map(ToString::to_string).collect();
        let metadata = json!({
            "containerimage.descriptor": made.descriptor,
            "containerimage.digest": made.digest,
            "image.name": names.join(","),
        });
        std::fs::write(path, ordered(&metadata)).map_err(|error| {
            Failure::Other(format!("could not write {}: {error}", path.display()))
        })?;
    }
    Ok(())
}

fn request(args: &ImagetoolsCreateArgs) -> Result<Combine, Failure> {
    let failed = |error: executor::Error| Failure::from_error(&error);
    let mut sources = Vec::new();
    for path in &args.files {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::Other(format!("could not read {}: {error}", path.display()))
        })?;
        sources.push(CombineSource::parse(&text).map_err(failed)?);
    }
    for text in &args.sources {
        sources.push(CombineSource::parse(text).map_err(failed)?);
    }
    let tags = args.tags.iter().map(|text| {
        let tag = Reference::parse(text).map_err(|error| Failure::from_error(&error))?;
        match tag.digest {
            Some(_) => Err(Failure::Usage(format!(
                "invalid tag {text:?}: a new image cannot be given a digest"
            ))),
            None => Ok(tag),
        }
    });
    let annotations: Vec<Vec<_>> = args
        .annotations
        .iter()
        .map(|text| annotation::parse(text))
        .collect::<Result<_, _>>()?;
    let tags = tags.collect::<Result<Vec<_>, Failure>>()?;
    if args.append && tags.is_empty() {
        return Err(Failure::Other("must specify a tag to append to".to_owned()));
    }
    Ok(Combine {
        tags,
        sources,
        annotations: annotations.concat(),
        append: args.append,
        prefer_index: args.prefer_index,
        platforms: super::platforms(&args.platform)?,
        join: args.join.clone(),
    })
}

fn inspect(args: &ImagetoolsInspectArgs, environment: &Environment) -> Result<(), Failure> {
    let connection = connect(&args.registry, environment)?;
    let read = RemoteImage::read(&connection.remote, &args.name);
    let image = read.map_err(|error| connection.failed(error))?;
    if args.raw {
        print(&String::from_utf8_lossy(image.bytes()));
        return Ok(());
    }
    match args.format.as_deref() {
        None => print(&described(&image)),
        Some(format) => print(&formatted(&image, format, &connection)?),
    }
    Ok(())
}

/// Labels and values, the labels padded to the widest of their block.
fn block(rows: &[(&str, &str)], indent: &str, out: &mut String) -> usize {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 2;
    for (label, value) in rows {
        let label = format!("{label}:");
        let _ = writeln!(out, "{indent}{label:width$}{value}");
    }
    indent.len() + width
}

/// As buildx describes an image.
fn described(image: &RemoteImage) -> String {
    let manifest = image.manifest();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut out = String::new();
    let rows = [
        ("Name", &*image.name()),
        ("MediaType", &text(&manifest, "mediaType")),
        ("Digest", &text(&manifest, "digest")),
    ];
    let width = block(&rows, "", &mut out);
    let Some(entries) = manifest["manifests"].as_array() else {
        return out;
    };
    let _ = writeln!(out, "{:width$}\nManifests: ", "");
    let repository = Reference::parse(&image.name()).map_or(String::new(), |name| {
        Reference {
            digest: None,
            ..name
        }
        .to_string()
    });
    for (position, entry) in entries.iter().enumerate() {
        let name = format!("{repository}@{}", text(entry, "digest"));
        let (kind, platform) = (text(entry, "mediaType"), platform(&entry["platform"]));
        let mut rows = vec![("Name", name.as_str()), ("MediaType", &kind)];
        if !platform.is_empty() {
            rows.push(("Platform", &platform));
        }
        let annotations = entry["annotations"].as_object();
        let annotations = annotations.filter(|annotations| !annotations.is_empty());
        if annotations.is_some() {
            rows.push(("Annotations", ""));
        }
        let width = block(&rows, "  ", &mut out);
        for (key, value) in annotations.into_iter().flatten() {
            let _ = writeln!(out, "    {key}: {}", value.as_str().unwrap_or_default());
        }
        if position + 1 < entries.len() {
            let _ = writeln!(out, "{:width$}", "");
        }
    }
    out
}

fn platform(platform: &Value) -> String {
    let parts = ["os", "architecture", "variant"];
    let parts = parts.iter().filter_map(|part| platform[*part].as_str());
    parts
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/")
}

/// A template's text; `{{json .X}}` alone comes indented, as from buildx.
fn formatted(
    image: &RemoteImage,
    format: &str,
    connection: &Connection,
) -> Result<String, Failure> {
    let inner = format
        .trim()
        .strip_prefix("{{")
        .and_then(|rest| rest.strip_suffix("}}"))
        .and_then(|inner| inner.trim().strip_prefix("json "))
        .map(str::trim);
    let configs = if format.contains(".Manifest") && !format.contains(".Image") {
        None
    } else {
        let configs = image.configs(&connection.remote);
        Some(configs.map_err(|error| connection.failed(error))?)
    };
    let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
    let single = configs.as_ref().and_then(|configs| configs.get(""));
    if let (Some(".Image"), Some(config)) = (inner, single) {
        return Ok(reindented(&String::from_utf8_lossy(config), "  "));
    }
    let configs = match (&configs, single) {
        (_, Some(config)) => parsed(config),
        (Some(configs), None) => configs
            .iter()
            .map(|(platform, config)| (platform.clone(), parsed(config)))
            .collect::<Map<_, _>>()
            .into(),
        (None, _) => Value::Null,
    };
    let data = json!({"name": image.name(), "manifest": image.manifest(), "image": configs});
    let shown = match inner {
        Some(".") => Some(&data),
        Some(".Manifest") => Some(&data["manifest"]),
        Some(".Image") => Some(&data["image"]),
        _ => None,
    };
    if let Some(value) = shown {
        return Ok(String::from_utf8_lossy(&ordered(value)).into_owned());
    }
    let template = Template::parse(format)?;
    Ok(template.render(&go_names(&data), &Schema::OPEN)?)
}

/// Fields under the names that they have in templates.
fn go_names(data: &Value) -> Value {
    let mut named = data.clone();
    // Platforms and annotations are keys, not fields.
    for key in ["name", "manifest"] {
        rename(&mut named[key]);
    }
    if let Some(images) = named["image"].as_object_mut() {
        if images.contains_key("rootfs") {
            rename(&mut named["image"]);
        } else {
            images.values_mut().for_each(rename);
        }
    }
    json!({"Name": named["name"], "Manifest": named["manifest"], "Image": named["image"]})
}

/// Gives each field of each object the name that Go has for it; it keeps its old name too.
fn rename(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for inner in map.values_mut() {
                rename(inner);
            }
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                let go = match name.as_str() {
                    "os" => "OS".to_owned(),
                    "os.version" => "OSVersion".to_owned(),
                    "os.features" => "OSFeatures".to_owned(),
                    "urls" => "URLs".to_owned(),
                    "rootfs" => "RootFS".to_owned(),
                    "diff_ids" => "DiffIDs".to_owned(),
                    name => {
                        let mut chars = name.chars();
                        let first = chars.next().map(|c| c.to_ascii_uppercase());
                        first.into_iter().chain(chars).collect()
                    }
                };
                if let Some(value) = map.get(&name).cloned()
                    && !map.contains_key(&go)
                {
                    map.insert(go, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(rename),
        _ => {}
    }
}
