//! Images of the store as one archive.

use crate::Error;
use crate::build::image;
use crate::build::manifest::{self, Desc, DescPlatform};
use crate::layer::{self, Compression};
use crate::output::archive::{self, Contents, DockerEntry, Entry};
use crate::output::images::{self, Member};
use crate::output::{ArchiveFormat, find};
use crate::space::Space;
use planner::platform::Platform;
use std::collections::BTreeMap;
use std::io::Write;
use store::ImageRef;

pub(crate) fn save(
    space: &Space,
    names: &[String],
    format: ArchiveFormat,
    out: &mut dyn Write,
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
        let entry = add(space, &mut contents, &image, names, format)?;
        contents.entries.push(entry);
    }
    contents.write_tar(space.store(), out, &|_, _| Ok(()))
}

/// Adds an image's blobs. Layers that the store keeps uncompressed are compressed, which changes their descriptors
/// and so the manifest; what has compressed layers only keeps its digest.
fn add(
    space: &Space,
    contents: &mut Contents,
    image: &ImageRef,
    names: Vec<String>,
    format: ArchiveFormat,
) -> Result<Entry, Error> {
    let root = image.descriptor.digest();
    let mut members = images::members(space.store(), root)?;
    if members.is_empty() {
        return Err(Error::Image {
            subject: root.to_string(),
            reason: "the store holds no part of it".to_owned(),
        });
    }
    if format == ArchiveFormat::Docker && members.len() > 1 {
        let platforms: Vec<Platform> = members.iter().map(Member::platform).collect();
        let own = Platform::host().best_match(&platforms).unwrap_or(0);
        members = vec![members.swap_remove(own)];
    }
    let (mut descs, mut docker) = (Vec::new(), None);
    for member in &members {
        let layers = layers(space, contents, member)?;
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
    let desc = match descs.as_slice() {
        [(_, only)] => only.clone(),
        _ => {
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
        }
    };
    Ok(Entry {
        desc,
        names,
        created,
        docker,
    })
}

fn layers(space: &Space, contents: &mut Contents, member: &Member) -> Result<Vec<Desc>, Error> {
    let store = space.store();
    let mut layers = Vec::new();
    for (diff_id, layer) in member.config.diff_ids.iter().zip(&member.manifest.layers) {
        let diff_id = manifest::digest(diff_id)?;
        let is_compressed =
            layer.media_type.ends_with("gzip") || layer.media_type.ends_with("zstd");
        let desc = if is_compressed && store.blob_size(&layer.digest()?).is_some() {
            layer.clone()
        } else if store.layer(&diff_id)?.is_some() {
            let made = Desc::of(&layer::blob(space, &diff_id, Compression::Gzip(6), false)?);
            Desc {
                annotations: BTreeMap::new(),
                ..made
            }
        } else {
            let reason = format!("its layer {} was never pulled", layer.digest);
            return Err(Error::Image {
                subject: member.desc.digest.clone(),
                reason,
            });
        };
        archive::add_blob(contents, store, &desc)?;
        layers.push(desc);
    }
    Ok(layers)
}
