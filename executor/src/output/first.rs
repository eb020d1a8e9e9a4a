//! Where two images part: the first layer that differs, the instruction that made it, and the first difference in it.

use crate::Error;
use crate::layer::{self, LayerDifference};
use crate::output::{ConfigChange, diff_configs, export};
use crate::remote::Remote;
use crate::space::Space;
use oci_spec::image::Digest;
use planner::platform::Platform;
use serde_json::Value;

/// The first difference of two images.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ImageDifference {
    /// Number of the layer, from 1; `None` where all layers are the same.
    pub layer: Option<usize>,
    /// How many layers the images have.
    pub layers: (usize, usize),
    /// What the layer was made by, as the histories have it; empty where they say nothing.
    pub instructions: (String, String),
    /// The layer in both, by the digest of its tar; `None` in an image that has fewer.
    pub digests: (Option<String>, Option<String>),
    /// What differs in it; `None` where only one image has it, or where the same files were written as different tars.
    pub file: Option<LayerDifference>,
    /// The first key of the configs that differs, where all layers are the same.
    pub config: Option<ConfigChange>,
}

/// Compares two images layer by layer. Times of files count where nothing else differs in any layer.
///
/// # Errors
/// Not found, layers that were never pulled or are damaged.
pub fn first_difference(
    (space, remote): (&Space, &Remote),
    first: &str,
    second: &str,
    platform: Option<&Platform>,
) -> Result<Option<ImageDifference>, Error> {
    let old = export::layers((space, remote), first, platform)?;
    let new = export::layers((space, remote), second, platform)?;
    let makers = |name: &str| -> Result<Vec<String>, Error> {
        let member = export::member(space, name, platform)?;
        let config: Value = serde_json::from_slice(&member.config_bytes).unwrap_or_default();
        let entries = config["history"].as_array().into_iter().flatten();
        let entries = entries.filter(|entry| entry["empty_layer"] != true);
        Ok(entries
            .map(|entry| entry["created_by"].as_str().unwrap_or_default().to_owned())
            .collect())
    };
    let instructions = (makers(first)?, makers(second)?);
    let at_layer = |at: usize, file: Option<LayerDifference>| {
        let maker = |makers: &[String]| makers.get(at).cloned().unwrap_or_default();
        ImageDifference {
            layer: Some(at + 1),
            layers: (old.len(), new.len()),
            instructions: (maker(&instructions.0), maker(&instructions.1)),
            digests: (
                old.get(at).map(Digest::to_string),
                new.get(at).map(Digest::to_string),
            ),
            file,
            config: None,
        }
    };
    let differing: Vec<usize> = (0..old.len().max(new.len()))
        .filter(|at| old.get(*at) != new.get(*at))
        .collect();
    for times in [false, true] {
        for at in &differing {
            let (Some(a), Some(b)) = (old.get(*at), new.get(*at)) else {
                return Ok(Some(at_layer(*at, None)));
            };
            if let Some(file) = layer::first_difference(space, (a, b), times)? {
                return Ok(Some(at_layer(*at, Some(file))));
            }
        }
    }
    if let Some(at) = differing.first() {
        return Ok(Some(at_layer(*at, None)));
    }
    let config = diff_configs(space, first, second, platform)?
        .into_iter()
        .next();
    Ok(config.map(|config| ImageDifference {
        layers: (old.len(), new.len()),
        config: Some(config),
        ..ImageDifference::default()
    }))
}
