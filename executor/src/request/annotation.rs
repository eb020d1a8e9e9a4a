//! Annotations that a build puts on what it exports: where one goes, and which of them one document gets.

use planner::platform::Platform;
use std::collections::BTreeMap;

/// The document or descriptor an annotation is written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AnnotationPlace {
    /// The image manifest.
    #[default]
    Manifest,
    /// The image index over several platforms.
    Index,
    /// The descriptor of a manifest, in the index or in the layout.
    ManifestDescriptor,
    /// The descriptor of the index, in the layout.
    IndexDescriptor,
}

/// One annotation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Annotation {
    /// Where it goes.
    pub place: AnnotationPlace,
    /// Only for the manifest of this platform.
    pub platform: Option<Platform>,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// The annotations of one place. Of equal keys the one without a platform wins, as BuildKit has it, and among those
/// the last.
#[must_use]
pub fn select(
    annotations: &[Annotation],
    place: AnnotationPlace,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let here = |annotation: &&Annotation| annotation.place == place;
    let wanted = platform.map(Platform::normalise);
    let of_platform = annotations.iter().filter(here).filter(|annotation| {
        annotation
            .platform
            .as_ref()
            .is_some_and(|own| Some(own.normalise()) == wanted)
    });
    let of_all = annotations
        .iter()
        .filter(here)
        .filter(|annotation| annotation.platform.is_none());
    of_platform
        .chain(of_all)
        .map(|annotation| (annotation.key.clone(), annotation.value.clone()))
        .collect()
}
