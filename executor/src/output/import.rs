//! Images from root file systems: a tar, plain or compressed, becomes the only layer, as it is.

use crate::Error;
use crate::build::image::{Flavour, Image, rfc3339};
use crate::build::manifest::{self, Desc};
use crate::build::normalised;
use crate::copy::archive;
use crate::layer;
use crate::output::Loaded;
use crate::remote::Remote;
use crate::request::BuildRequest;
use crate::source::Sources;
use crate::space::Space;
use parser::{Kind, Severity};
use planner::config::{HistoryEntry, ImageConfig};
use planner::lower::{self, LowerOptions, Lowered};
use planner::platform::Platform;
use planner::scheduler::Cancel;
use planner::source::HttpSource;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use store::ImageRef;

/// What [`import`] makes of a root file system.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// Name of the image.
    pub name: Option<String>,
    /// Dockerfile instructions that set the config.
    pub changes: Vec<String>,
    /// Comment of the image.
    pub message: String,
    /// What it is for.
    pub platform: Platform,
    /// Seconds since the epoch: `created`.
    pub now: i64,
}

/// Makes an image of one layer.
///
/// # Errors
/// Changes that cannot be made, content that is no tar; nothing is named then.
pub fn import(
    space: &Space,
    content: &mut dyn Read,
    options: &ImportOptions,
) -> Result<Loaded, Error> {
    let name = options.name.as_deref().map(normalised).transpose()?;
    let config = changed(options)?;
    let store = space.store();
    let fail = |source| Error::Io {
        op: "read",
        path: "the root file system".into(),
        source,
    };
    let scratch = store.scratch()?;
    let plain = archive::plain(content, scratch.path().join("rootfs"))?;
    let mut plain = plain.ok_or_else(|| {
        Error::Request("the root file system's compression cannot be understood".to_owned())
    })?;
    let mut writer = store.blob_writer()?;
    let copied = std::io::copy(&mut plain, &mut writer).map_err(fail)?;
    if copied == 0 {
        return Err(Error::Request("the root file system is empty".to_owned()));
    }
    writer.flush().map_err(fail)?;
    let (diff_id, size) = writer.commit(None)?;
    let layer = Desc::new(manifest::OCI_LAYER, &diff_id, size);
    layer::adopt(space, &diff_id, &layer.to_oci()?)?;
    layer::readable(space, &diff_id)?;

    let created = rfc3339(options.now);
    let history = HistoryEntry {
        created: Some(created.clone()),
        comment: Some(options.message.clone()),
        ..HistoryEntry::default()
    };
    let mut blob = serde_json::to_value(&config).expect("BUG: a config has string keys only");
    blob["created"] = json!(created);
    blob["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id.to_string()]});
    blob["history"] = json!([history]);
    let config = manifest::bytes_of(&blob);
    let image = Image {
        platform: options.platform.clone(),
        layers: vec![diff_id],
        base_layers: 0,
        config_digest: manifest::digest_of(&config),
        config,
        created: Some(created.clone()),
        annotations: BTreeMap::new(),
        rewritten: None,
    };
    let (desc, bytes) = image.manifest(vec![layer], Flavour::Oci);
    store.put_blob(&image.config)?;
    store.put_blob(&bytes)?;
    let name = name.unwrap_or_default();
    store.tag(&ImageRef {
        name: name.clone(),
        descriptor: desc.to_oci()?,
        tagged: created,
    })?;
    Ok(Loaded {
        name,
        id: image.config_digest.to_string(),
    })
}

/// As [`import`], from a URL.
///
/// # Errors
/// Those of [`import`]; no answer.
pub fn import_url(
    space: &Space,
    remote: &Remote,
    url: &str,
    options: &ImportOptions,
    cancel: &Cancel,
) -> Result<Loaded, Error> {
    let sources = Sources {
        store: space.store(),
        request: &BuildRequest::default(),
        remote,
        cancel,
    };
    let source = HttpSource {
        url: url.to_owned(),
        checksum: None,
        filename: None,
    };
    let file = sources.download(&source, &|_, _| ())?;
    let mut content = space.store().open_blob(&manifest::digest(&file.digest)?)?;
    import(space, &mut content, options)
}

/// The config that the changes make, by way of a Dockerfile that has nothing else.
fn changed(options: &ImportOptions) -> Result<ImageConfig, Error> {
    let text = format!("FROM scratch\n{}\n", options.changes.join("\n"));
    let parsed = parser::parse(&text);
    let errors: Vec<parser::Diagnostic> = parsed
        .diagnostics
        .into_iter()
        .filter(|found| found.severity == Severity::Error)
        .collect();
    if !errors.is_empty() {
        return Err(Error::Dockerfile(errors));
    }
    let dockerfile = parsed.dockerfile;
    if dockerfile.stages.len() != 1 || !dockerfile.global_args.is_empty() {
        return Err(Error::Request(
            "from is not a valid change command".to_owned(),
        ));
    }
    let mut sets_path = false;
    for instruction in &dockerfile.stages[0].instructions {
        if let Kind::Env(pairs) = &instruction.kind {
            sets_path |= pairs.iter().any(|pair| pair.key.value == "PATH");
        }
        let is_change = matches!(
            instruction.kind,
            Kind::Cmd(_)
                | Kind::Entrypoint(_)
                | Kind::Env(_)
                | Kind::Expose(_)
                | Kind::Healthcheck(_)
                | Kind::Label(_)
                | Kind::Onbuild { .. }
                | Kind::Shell(_)
                | Kind::StopSignal(_)
                | Kind::User(_)
                | Kind::Volume(_)
                | Kind::Workdir(_)
        );
        if !is_change {
            let keyword = instruction.info.keyword.to_lowercase();
            let message = format!("{keyword} is not a valid change command");
            return Err(Error::Request(message));
        }
    }
    let lowering = LowerOptions {
        platforms: vec![options.platform.clone()],
        ..LowerOptions::default()
    };
    let lowered = lower::lower(&dockerfile, &lowering, &BTreeMap::new());
    match lowered.map_err(Error::Dockerfile)? {
        Lowered::Plan(plan, _) => {
            let target = plan.targets.into_iter().next();
            let mut config = target.expect("BUG: a plan has a target").config;
            // A stage from scratch begins with a PATH; a root file system need not have these folders.
            if !sets_path && let Some(env) = &mut config.config.env {
                env.retain(|entry| !entry.starts_with("PATH="));
            }
            config.config.env = config.config.env.filter(|env| !env.is_empty());
            Ok(config)
        }
        Lowered::Need(_) => Err(Error::Request(
            "from is not a valid change command".to_owned(),
        )),
    }
}
