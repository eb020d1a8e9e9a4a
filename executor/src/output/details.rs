//! What takes room, piece by piece: images with what they share, layers, cache mounts.

use crate::Error;
use crate::build::manifest;
use crate::output::ImageSummary;
use crate::output::images;
use crate::space::Space;
use std::collections::{BTreeMap, HashMap, HashSet};

/// [`details`] of a store.
#[derive(Clone, Debug, Default)]
pub struct UsageDetails {
    /// Images, each once for each name, newest first.
    pub images: Vec<ImageUsage>,
    /// Layers, the largest first.
    pub layers: Vec<LayerUsage>,
    /// Ids of cache mounts and their bytes on disk, the largest first.
    pub mounts: Vec<(String, u64)>,
}

/// An image, with uncompressed bytes of its layers, where known, for all its platforms.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// Name, ID, age.
    pub image: ImageSummary,
    /// Of layers that other images have too; another name of an image is no other image.
    pub shared: u64,
    /// Of layers that it has alone.
    pub unique: u64,
}

/// A layer.
#[derive(Clone, Debug)]
pub struct LayerUsage {
    /// diff_id.
    pub id: String,
    /// Bytes on disk, in all forms.
    pub size: u64,
    /// How many images have it.
    pub images: usize,
}

/// Looks at everything.
///
/// # Errors
/// A damaged store.
pub fn details(space: &Space) -> Result<UsageDetails, Error> {
    let store = space.store();
    let summaries = images::images(space)?;
    // Layers by image, images by layer.
    let mut layers: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
    let mut users: HashMap<String, HashSet<String>> = HashMap::new();
    for image in &summaries {
        let own = layers.entry(image.digest.clone()).or_default();
        for member in images::members(store, &manifest::digest(&image.digest)?)? {
            let sizes = images::layer_sizes(store, &member)?;
            for (diff_id, size) in member.config.diff_ids.iter().zip(sizes) {
                own.insert(diff_id.clone(), size);
                let of = users.entry(diff_id.clone()).or_default();
                of.insert(image.digest.clone());
            }
        }
    }
    let count = |layer: &str| users.get(layer).map_or(0, HashSet::len);
    let images = summaries.into_iter().map(|image| {
        let own = layers.get(&image.digest).into_iter().flatten();
        let (shared, unique): (Vec<_>, Vec<_>) = own.partition(|(layer, _)| count(layer) > 1);
        let sum = |of: &[(&String, &u64)]| of.iter().map(|(_, size)| **size).sum();
        ImageUsage {
            shared: sum(&shared),
            unique: sum(&unique),
            image,
        }
    });
    let images = images.collect();
    let mut layers: Vec<LayerUsage> = store
        .layer_sizes()?
        .into_iter()
        .map(|(diff_id, size)| LayerUsage {
            images: count(diff_id.as_ref()),
            id: diff_id.to_string(),
            size,
        })
        .collect();
    layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
    let mut mounts = store.mount_sizes()?;
    mounts.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
    Ok(UsageDetails {
        images,
        layers,
        mounts,
    })
}
