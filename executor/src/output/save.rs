//! Images of the store as one archive.

use crate::Error;
use crate::build::image;
use crate::build::manifest::{self, Desc, DescPlatform, Document};
use crate::layer::{self, Compression, Form};
use crate::output::archive::{self, Contents, DockerEntry, Entry};
use crate::output::images::{self, Member};
use crate::output::missing;
use crate::output::{ArchiveFormat, SaveOptions, SaveTarget, find};
use crate::remote::Remote;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use std::collections::{BTreeMap, HashSet};
use store::ImageRef;

/// Indexes inside indexes that are followed.
const MAX_NESTING: usize = 4;

pub(crate) fn save(
    (space, remote): (&Space, &Remote),
    names: &[String],
    options: &SaveOptions,
    target: SaveTarget<'_>,
) -> Result<(), Error> {
    if names.is_empty() {
        return Err(Error::Request("no image is named".to_owned()));
    }
    let mut contents = Contents::default();
    let mut wanted: Vec<(ImageRef, Vec<String>)> = Vec::new();
    for name in names {
        let image = find(space, name)?;
        let known = wanted
            .iter_mut()
            .find(|(other, _)| other.descriptor.digest() == image.descriptor.digest());
        match known {
            Some((_, names)) if !names.contains(&image.name) => names.push(image.name),
            Some(_) => {}
            None => {
                let names = if image.name.is_empty() {
                    Vec::new()
                } else {
                    vec![image.name.clone()]
                };
                wanted.push((image, names));
            }
        }
    }
    for (image, names) in wanted {
        let entry = add((space, remote), &mut contents, &image, names, options)?;
        contents.entries.push(entry);
    }
    match target {
        SaveTarget::Archive(out) => contents.write_tar(space.store(), out, &|_, _| Ok(())),
        SaveTarget::Folder(dir) => contents.write_folder(space.store(), dir, &|_, _| Ok(())),
    }
}

/// Adds an image's blobs. Layers that the store keeps uncompressed are compressed, which changes their descriptors
/// and so the manifest; what has compressed layers only keeps its digest.
fn add(
    (space, remote): (&Space, &Remote),
    contents: &mut Contents,
    image: &ImageRef,
    names: Vec<String>,
    options: &SaveOptions,
) -> Result<Entry, Error> {
    let root = image.descriptor.digest();
    let all = images::members(space.store(), root)?;
    if all.is_empty() {
        return Err(Error::Image {
            subject: root.to_string(),
            reason: "the store holds no part of it".to_owned(),
        });
    }
    let format = options.format;
    let members = chosen(image, all, options)?;
    missing::bring((space, remote), image, &members, Form::Blob)?;
    let (mut descs, mut docker) = (Vec::new(), None);
    for member in &members {
        let layers = layers(space, contents, member, options.compression)?;
        if format == ArchiveFormat::Docker {
            let layers = layers.iter().map(|layer| layer.digest.clone()).collect();
            docker = Some(DockerEntry {
                config: member.manifest.config.digest.clone(),
                layers,
            });
        }
        contents.document(&member.manifest.config.digest, member.config_bytes.clone());
        let desc = if layers == member.manifest.layers {
            contents.document(&member.desc.digest, member.bytes.clone());
            member.desc.clone()
        } else {
            let changed = manifest::Manifest {
                layers,
                ..member.manifest.clone()
            };
            let bytes = manifest::bytes_of(&changed);
            let mut desc = Desc::new(
                &member.desc.media_type,
                &manifest::digest_of(&bytes),
                bytes.len() as u64,
            );
            desc.annotations.clone_from(&member.desc.annotations);
            contents.document(&desc.digest, bytes);
            desc
        };
        descs.push((member.platform(), desc));
    }
    let created = members[0].config.created.clone();
    let kept = descs
        .iter()
        .zip(&members)
        .all(|((_, desc), member)| desc.digest == member.desc.digest);
    let whole = kept && options.platforms.is_empty() && format == ArchiveFormat::Oci;
    let desc = if whole && let Some(whole) = whole_index(space, contents, image)? {
        whole
    } else if let [(_, only)] = descs.as_slice() {
        only.clone()
    } else {
        let annotations = images::index(space.store(), root)?
            .map(|index| index.annotations)
            .unwrap_or_default();
        let entries = descs
            .into_iter()
            .map(|(platform, desc)| Desc {
                platform: Some(DescPlatform::of(&platform)),
                ..desc
            })
            .collect();
        let (desc, bytes) = image::index(entries, annotations, image::Flavour::Oci);
        contents.document(&desc.digest, bytes);
        desc
    };
    Ok(Entry {
        desc,
        names,
        created,
        docker,
    })
}

/// The platforms that are saved: those asked for, else all, of which a Docker archive holds the machine's only.
fn chosen(
    image: &ImageRef,
    mut members: Vec<Member>,
    options: &SaveOptions,
) -> Result<Vec<Member>, Error> {
    let subject = if image.name.is_empty() {
        image.descriptor.digest().to_string()
    } else {
        image.name.clone()
    };
    let mut wanted: Vec<Member> = Vec::new();
    for platform in &options.platforms {
        let member = images::select(&subject, &members, Some(platform))?;
        if !wanted
            .iter()
            .any(|other| other.desc.digest == member.desc.digest)
        {
            wanted.push(member.clone());
        }
    }
    let is_docker = options.format == ArchiveFormat::Docker;
    if wanted.len() > 1 && is_docker {
        return Err(Error::Request(
            "a docker archive holds one platform of an image; use --format oci for several"
                .to_owned(),
        ));
    }
    if !wanted.is_empty() {
        return Ok(wanted);
    }
    if is_docker && members.len() > 1 {
        let platforms: Vec<Platform> = members.iter().map(Member::platform).collect();
        let own = Platform::host().best_match(&platforms).unwrap_or(0);
        return Ok(vec![members.swap_remove(own)]);
    }
    Ok(members)
}

/// Adds an index as it is, attestations and all, when the store holds everything that it leads to.
fn whole_index(
    space: &Space,
    contents: &mut Contents,
    image: &ImageRef,
) -> Result<Option<Desc>, Error> {
    let store = space.store();
    let root = Desc::of(&image.descriptor);
    let (mut documents, mut blobs) = (Vec::new(), Vec::new());
    let mut waiting = vec![(root.digest()?, 0)];
    let mut seen = HashSet::new();
    while let Some((digest, depth)) = waiting.pop() {
        if !seen.insert(digest.clone()) {
            continue;
        }
        if depth > MAX_NESTING || store.blob_size(&digest).is_none() {
            return Ok(None);
        }
        let bytes = store.read_blob(&digest, manifest::MANIFEST_LIMIT)?;
        match Document::parse(digest.as_ref(), &bytes)? {
            Document::Index(index) => {
                for entry in &index.manifests {
                    waiting.push((entry.digest()?, depth + 1));
                }
            }
            Document::Manifest(_) if depth == 0 => return Ok(None),
            Document::Manifest(manifest) => {
                blobs.extend(manifest.layers);
                blobs.push(manifest.config);
            }
        }
        documents.push((digest, bytes));
    }
    for blob in &blobs {
        if store.blob_size(&blob.digest()?).is_none() {
            return Ok(None);
        }
    }
    for (digest, bytes) in documents {
        contents.document(digest.as_ref(), bytes);
    }
    for blob in blobs {
        if !contents.documents.contains_key(&blob.digest) {
            archive::add_blob(contents, store, &blob)?;
        }
    }
    Ok(Some(root))
}

fn layers(
    space: &Space,
    contents: &mut Contents,
    member: &Member,
    compression: Option<Compression>,
) -> Result<Vec<Desc>, Error> {
    let store = space.store();
    let mut layers = Vec::new();
    for (diff_id, layer) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
        let diff_id = manifest::digest(diff_id)?;
        let is_compressed =
            layer.media_type.ends_with("gzip") || layer.media_type.ends_with("zstd");
        let is_held = store.blob_size(&layer.digest()?).is_some();
        let is_known = store.layer(&diff_id)?.is_some();
        let desc = match compression {
            Some(compression) if is_known => plain_desc(space, &diff_id, compression)?,
            None if is_compressed && is_held => layer.clone(),
            None if is_known => plain_desc(space, &diff_id, Compression::AutoGzip)?,
            _ => {
                let reason = format!("its layer {} was never pulled", layer.digest);
                return Err(Error::Image {
                    subject: member.desc.digest.clone(),
                    reason,
                });
            }
        };
        archive::add_blob(contents, store, &desc)?;
        layers.push(desc);
    }
    Ok(layers)
}

fn plain_desc(space: &Space, diff_id: &Digest, compression: Compression) -> Result<Desc, Error> {
    let made = Desc::of(&layer::blob(space, diff_id, compression, false)?);
    Ok(Desc {
        annotations: BTreeMap::new(),
        ..made
    })
}
