//! Takes archives into the store: OCI layouts and what `docker save` writes, old and new, plain or compressed (gzip,
//! bzip2, xz, zstd), as a stream; and OCI layouts in folders.
//!
//! An archive is not trusted: names are only keys, never paths; documents are limited in size, blobs are checked
//! against their digests, layers are read through once before anything gets a name.

use crate::Error;
use crate::build::image::{self, Flavour, Image};
use crate::build::layout::{IMAGE_NAME, Layout, REF_NAME};
use crate::build::manifest::{self, CONFIG_LIMIT, Config, Desc, Document, MANIFEST_LIMIT};
use crate::build::normalised;
use crate::copy::archive;
use crate::layer;
use crate::output::Loaded;
use crate::output::images::{self, Member};
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use store::{ImageRef, Store};

/// Entries of an archive that are read at most.
const MAX_ENTRIES: usize = 100_000;
/// Links inside old Docker archives that are followed.
const MAX_LINKS: usize = 8;

/// What an archive holds: small documents by name, all files as blobs of the store, links.
#[derive(Default)]
struct Unpacked {
    files: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

/// An image to be tagged: names as far as the archive gives them.
struct Found {
    desc: Desc,
    names: Vec<String>,
}

pub(crate) fn load(
    space: &Space,
    archive: &mut dyn Read,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, Error> {
    let store = space.store();
    let unpacked = unpack(store, archive)?;
    let found = if unpacked.files.contains_key("index.json") {
        from_layout(store, &unpacked)?
    } else if unpacked.files.contains_key("manifest.json") {
        from_docker(space, &unpacked)?
    } else {
        return Err(bad(
            "it holds neither index.json nor manifest.json: not an image archive",
        ));
    };
    finish(space, found, platform)
}

/// An OCI layout in a folder.
pub(crate) fn load_folder(
    space: &Space,
    dir: &Path,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, Error> {
    let layout = Layout::open(dir)?;
    let mut found = Vec::new();
    for entry in layout.index()?.manifests {
        take(space.store(), &layout, &entry, 0)?;
        found.push(Found {
            names: names_of(&entry),
            desc: Desc {
                annotations: BTreeMap::new(),
                ..entry
            },
        });
    }
    finish(space, merged(found), platform)
}

fn bad(reason: &str) -> Error {
    Error::Image {
        subject: "image archive".to_owned(),
        reason: reason.to_owned(),
    }
}

/// Reads the whole stream; every file becomes a blob, unnamed yet and so swept by the next prune if nothing comes of it.
fn unpack(store: &Store, archive: &mut dyn Read) -> Result<Unpacked, Error> {
    let fail = |source| Error::Io {
        op: "read",
        path: "the image archive".into(),
        source,
    };
    let mut input = BufReader::with_capacity(256 << 10, archive);
    if input.fill_buf().map_err(fail)?.is_empty() {
        return Err(bad("it is empty"));
    }
    let scratch = store.scratch()?;
    let plain = archive::plain(input, scratch.path().join("archive"))?;
    let plain = plain.ok_or_else(|| bad("its compression cannot be understood"))?;
    let mut unpacked = Unpacked::default();
    let mut tar = tar::Archive::new(plain);
    for (count, entry) in tar.entries().map_err(fail)?.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(bad("it has too many entries"));
        }
        let mut entry = entry.map_err(fail)?;
        let name = clean(&entry.path_bytes())?;
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let mut writer = store.blob_writer()?;
            let size = entry.size();
            let copied = std::io::copy(&mut entry, &mut writer).map_err(fail)?;
            if copied != size {
                return Err(bad("it ends in the middle of a file"));
            }
            writer.flush().map_err(fail)?;
            let blob = writer.commit(None)?;
            unpacked.files.insert(name, blob);
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            let target = if kind.is_symlink() {
                beside(&name, &target)
            } else {
                target
            };
            let target = clean(target.as_bytes())?;
            unpacked.links.insert(name, target);
        }
    }
    Ok(unpacked)
}

/// A name without `./`; names that leave the archive are refused.
fn clean(name: &[u8]) -> Result<String, Error> {
    let text =
        std::str::from_utf8(name).map_err(|_| bad("it has an entry whose name is not UTF-8"))?;
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts
                    .pop()
                    .ok_or_else(|| bad(&format!("entry {text:?} leads out of it")))?;
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// A link target relative to the folder of the link.
fn beside(name: &str, target: &str) -> String {
    match name.rsplit_once('/') {
        Some((folder, _)) if !target.starts_with('/') => format!("{folder}/{target}"),
        _ => target.to_owned(),
    }
}

impl Unpacked {
    fn file(&self, name: &str) -> Result<&(Digest, u64), Error> {
        let mut name = clean(name.as_bytes())?;
        for _ in 0..MAX_LINKS {
            if let Some(file) = self.files.get(&name) {
                return Ok(file);
            }
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => break,
            }
        }
        Err(bad(&format!("{name} is missing from it")))
    }

    fn document(&self, store: &Store, name: &str, limit: u64) -> Result<Vec<u8>, Error> {
        Ok(store.read_blob(&self.file(name)?.0, limit)?)
    }
}

fn from_layout(store: &Store, unpacked: &Unpacked) -> Result<Vec<Found>, Error> {
    let bytes = unpacked.document(store, "index.json", MANIFEST_LIMIT)?;
    let Document::Index(index) = Document::parse("index.json", &bytes)? else {
        return Err(bad("its index.json is not an index"));
    };
    for (name, (digest, _)) in &unpacked.files {
        let is_other = name
            .strip_prefix("blobs/sha256/")
            .is_some_and(|hex| digest.digest() != hex);
        if is_other {
            return Err(bad(&format!(
                "{name} is corrupt: its content has digest {digest}"
            )));
        }
    }
    let found = index.manifests.into_iter().map(|entry| Found {
        names: names_of(&entry),
        desc: Desc {
            annotations: BTreeMap::new(),
            ..entry
        },
    });
    Ok(merged(found.collect()))
}

/// Names in an entry's annotations that can be normalised; a tag alone names nothing.
fn names_of(entry: &Desc) -> Vec<String> {
    let whole = entry.annotations.get(IMAGE_NAME);
    let short = entry
        .annotations
        .get(REF_NAME)
        .filter(|name| name.contains(['/', ':']));
    whole
        .or(short)
        .and_then(|name| normalised(name).ok())
        .into_iter()
        .collect()
}

fn merged(found: Vec<Found>) -> Vec<Found> {
    let mut merged: Vec<Found> = Vec::new();
    for image in found {
        match merged
            .iter_mut()
            .find(|other| other.desc.digest == image.desc.digest)
        {
            Some(other) => other.names.extend(image.names),
            None => merged.push(image),
        }
    }
    merged
}

/// One element of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Docker archives without an OCI index: configs and layers under any name. A manifest is made for each image.
fn from_docker(space: &Space, unpacked: &Unpacked) -> Result<Vec<Found>, Error> {
    let store = space.store();
    let bytes = unpacked.document(store, "manifest.json", MANIFEST_LIMIT)?;
    let listed: Vec<DockerImage> = serde_json::from_slice(&bytes)
        .map_err(|e| bad(&format!("its manifest.json cannot be understood: {e}")))?;
    let mut found = Vec::new();
    for listed in listed {
        let config_bytes = unpacked.document(store, &listed.config, CONFIG_LIMIT)?;
        let config = Config::parse(&listed.config, &config_bytes)?;
        let files = listed.layers.unwrap_or_default();
        if files.len() != config.diff_ids.len() {
            return Err(bad(&format!(
                "{} has {} layers, its config {}",
                listed.config,
                files.len(),
                config.diff_ids.len()
            )));
        }
        let mut layers = Vec::new();
        for file in &files {
            let (digest, size) = unpacked.file(file)?;
            layers.push(Desc::new(layer_type(store, digest)?, digest, *size));
        }
        let (config_digest, _) = unpacked.file(&listed.config)?.clone();
        let image = Image {
            platform: config.platform(),
            layers: Vec::new(),
            base_layers: 0,
            config: config_bytes,
            config_digest,
            created: None,
            annotations: BTreeMap::new(),
            rewritten: None,
        };
        let (desc, bytes) = image.manifest(layers, Flavour::Oci);
        store.put_blob(&bytes)?;
        let names = listed.repo_tags.unwrap_or_default();
        let names = names
            .iter()
            .map(|name| normalised(name))
            .collect::<Result<_, _>>()?;
        found.push(Found { desc, names });
    }
    Ok(merged(found))
}

/// The media type of a layer by its first bytes.
fn layer_type(store: &Store, digest: &Digest) -> Result<&'static str, Error> {
    let path = store.blob_path(digest);
    let fail = |source| Error::Io {
        op: "read",
        path: path.clone(),
        source,
    };
    let mut start = [0; 4];
    let mut file = std::fs::File::open(&path).map_err(fail)?;
    let read = file.read(&mut start).map_err(fail)?;
    Ok(match &start[..read] {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => manifest::OCI_LAYER,
    })
}

/// Copies what an entry of a folder's index leads to.
fn take(store: &Store, layout: &Layout, entry: &Desc, depth: usize) -> Result<(), Error> {
    if depth > 4 {
        return Err(bad("its indexes are nested too deep"));
    }
    let bytes = layout.blob(entry, MANIFEST_LIMIT)?;
    store.put_blob(&bytes)?;
    match Document::parse(&entry.digest, &bytes)? {
        Document::Index(index) => {
            for entry in &index.manifests {
                if layout.path_of(entry.digest()?.as_ref()).exists() {
                    take(store, layout, entry, depth + 1)?;
                }
            }
        }
        Document::Manifest(manifest) => {
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let (digest, path) = (blob.digest()?, layout.path_of(&blob.digest));
                if store.blob_size(&digest).is_some() {
                    continue;
                }
                let fail = |source| Error::Io {
                    op: "read",
                    path: path.clone(),
                    source,
                };
                let mut writer = store.blob_writer()?;
                let mut file = std::fs::File::open(&path).map_err(fail)?;
                std::io::copy(&mut file, &mut writer).map_err(fail)?;
                writer.commit(Some((&digest, Some(blob.size))))?;
            }
        }
    }
    Ok(())
}

/// Puts the image of one platform in the place of one with several.
fn choose(store: &Store, image: &mut Found, platform: &Platform) -> Result<(), Error> {
    let members = images::members(store, &image.desc.digest()?)?;
    let platforms: Vec<Platform> = members.iter().map(Member::platform).collect();
    let Some(position) = platform.best_match(&platforms) else {
        let name = image.names.first().unwrap_or(&image.desc.digest);
        return Err(Error::Request(format!(
            "image with reference {name} was found but does not provide the specified platform ({platform})"
        )));
    };
    image.desc = members[position].desc.clone();
    Ok(())
}

/// Checks every layer of every image, then sets all names.
fn finish(
    space: &Space,
    mut found: Vec<Found>,
    platform: Option<&Platform>,
) -> Result<Vec<Loaded>, Error> {
    let store = space.store();
    if found.is_empty() {
        return Err(bad("it holds no image"));
    }
    if let Some(platform) = platform {
        for image in &mut found {
            choose(store, image, platform)?;
        }
    }
    for image in &found {
        let members = images::members(store, &image.desc.digest()?)?;
        if members.is_empty() {
            return Err(bad(&format!(
                "it holds no part of the image {}",
                image.desc.digest
            )));
        }
        for member in &members {
            check(space, member)?;
        }
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let tagged = image::rfc3339(i64::try_from(now.as_secs()).unwrap_or_default());
    let mut set = Vec::new();
    for image in &found {
        let digest = image.desc.digest()?;
        let size = store.blob_size(&digest).unwrap_or(image.desc.size);
        let descriptor = Desc {
            size,
            media_type: document_type(store, &digest)?,
            ..image.desc.clone()
        }
        .to_oci()?;
        let nameless = [String::new()];
        let names = if image.names.is_empty() {
            &nameless[..]
        } else {
            &image.names
        };
        for name in names {
            let reference = ImageRef {
                name: name.clone(),
                descriptor: descriptor.clone(),
                tagged: tagged.clone(),
            };
            store.tag(&reference)?;
            set.push(Loaded {
                name: name.clone(),
                id: images::summary(store, &reference)?.id,
            });
        }
    }
    Ok(set)
}

fn document_type(store: &Store, digest: &Digest) -> Result<String, Error> {
    let bytes = store.read_blob(digest, MANIFEST_LIMIT)?;
    Ok(Document::parse(digest.as_ref(), &bytes)?
        .media_type()
        .to_owned())
}

/// Checks the layers of an image that is in the store already.
pub(crate) fn check_image(space: &Space, root: &Digest) -> Result<(), Error> {
    let members = images::members(space.store(), root)?;
    members.iter().try_for_each(|member| check(space, member))
}

fn check(space: &Space, member: &images::Member) -> Result<(), Error> {
    let (layers, diff_ids) = (&member.manifest.layers, &member.config.diff_ids);
    if layers.len() != diff_ids.len() {
        return Err(bad(&format!(
            "{} has {} layers, its config {}",
            member.desc.digest,
            layers.len(),
            diff_ids.len()
        )));
    }
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let (digest, diff_id) = (layer.digest()?, manifest::digest(diff_id)?);
        match space.store().blob_size(&digest) {
            None => return Err(bad(&format!("layer {digest} is missing from it"))),
            Some(size) if size != layer.size => {
                return Err(bad(&format!(
                    "layer {digest} has {size} bytes instead of {}",
                    layer.size
                )));
            }
            Some(_) => {}
        }
        // Before the store learns that this blob is that layer: a lie must not spoil a layer that others use.
        let actual = diff_id_of(space.store(), &digest)?;
        if actual != diff_id {
            return Err(bad(&format!(
                "layer {digest} is corrupt: unpacked it has digest {actual} instead of {diff_id}"
            )));
        }
        layer::register_blob(space, &diff_id, &layer.to_oci()?)?;
        layer::readable(space, &diff_id)?;
    }
    Ok(())
}

/// Digest of a layer's tar, whatever it is compressed with.
fn diff_id_of(store: &Store, digest: &Digest) -> Result<Digest, Error> {
    use sha2::{Digest as _, Sha256};
    let fail = |source| Error::Io {
        op: "unpack",
        path: store.blob_path(digest),
        source,
    };
    let kind = layer_type(store, digest)?;
    let blob = BufReader::with_capacity(256 << 10, store.open_blob(digest)?);
    let mut plain: Box<dyn Read> = if kind.ends_with("gzip") {
        Box::new(flate2::bufread::MultiGzDecoder::new(blob))
    } else if kind.ends_with("zstd") {
        Box::new(zstd::Decoder::with_buffer(blob).map_err(fail)?)
    } else {
        Box::new(blob)
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = plain.read(&mut buffer).map_err(fail)?;
        if read == 0 {
            return Ok(manifest::digest_of_hash(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}
