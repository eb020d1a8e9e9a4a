//! `--annotation [TYPE[PLATFORM],...:]KEY=VALUE` and the `annotation*.KEY=VALUE` keys of `--output`.

use super::usage;
use crate::error::Failure;
use executor::request::{Annotation, AnnotationPlace};
use planner::platform::Platform;

/// Parses one `--annotation`; a list of types makes one annotation for each.
pub fn parse(text: &str) -> Result<Vec<Annotation>, Failure> {
    annotations(text).map_err(usage)
}

fn annotations(text: &str) -> Result<Vec<Annotation>, String> {
    let expected = || format!("invalid annotation {text:?}, expected key=value");
    let (head, value) = text.split_once('=').ok_or_else(expected)?;
    let (types, key) = match head.split_once(':') {
        Some((types, key)) => (types.split(',').collect(), key),
        None => (vec!["manifest"], head),
    };
    if key.is_empty() {
        return Err(expected());
    }
    types
        .into_iter()
        .map(|kind| {
            let (place, platform) = kind_of(kind)?;
            Ok(Annotation {
                place,
                platform,
                key: key.to_owned(),
                value: value.to_owned(),
            })
        })
        .collect()
}

/// The annotation that a key of `--output` stands for; `None` when it stands for none. Keys come in lower case.
pub fn output_key(name: &str, value: &str) -> Option<Result<Annotation, String>> {
    let (kind, key) = name.strip_prefix("annotation")?.split_once('.')?;
    let kind = match kind.strip_prefix('-') {
        Some(kind) => kind.to_owned(),
        None => format!("manifest{kind}"),
    };
    Some(kind_of(&kind).map(|(place, platform)| Annotation {
        place,
        platform,
        key: key.to_owned(),
        value: value.to_owned(),
    }))
}

/// `index`, `manifest[linux/amd64]` ...
fn kind_of(text: &str) -> Result<(AnnotationPlace, Option<Platform>), String> {
    let (name, platform) = match text.split_once('[') {
        None => (text, None),
        Some((name, rest)) => {
            let platform = rest.strip_suffix(']').filter(|text| !text.is_empty());
            let platform = platform.ok_or_else(|| {
                format!(
                    "invalid annotation type {text:?}, expected type and optional platform in square brackets"
                )
            })?;
            (name, Some(platform))
        }
    };
    let place = match name {
        "manifest" => AnnotationPlace::Manifest,
        "index" => AnnotationPlace::Index,
        "manifest-descriptor" => AnnotationPlace::ManifestDescriptor,
        "index-descriptor" => AnnotationPlace::IndexDescriptor,
        _ => {
            return Err(format!(
                "unknown annotation type {name:?}: expected manifest, index, manifest-descriptor or index-descriptor"
            ));
        }
    };
    let platform = platform
        .map(|text| {
            Platform::parse(text, &Platform::host())
                .map_err(|error| format!("invalid platform {text:?}: {error}"))
        })
        .transpose()?;
    Ok((place, platform))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a03_types_and_platforms() {
        use AnnotationPlace::{Index, IndexDescriptor, Manifest, ManifestDescriptor};
        type Places = &'static [(AnnotationPlace, Option<&'static str>)];
        let cases: [(&str, Places); 6] = [
            ("k=v", &[(Manifest, None)]),
            ("index:k=v", &[(Index, None)]),
            (
                "manifest,index-descriptor:k=v",
                &[(Manifest, None), (IndexDescriptor, None)],
            ),
            (
                "manifest-descriptor[linux/arm64]:k=v",
                &[(ManifestDescriptor, Some("linux/arm64"))],
            ),
            (
                "manifest[linux/amd64],index:k=v",
                &[(Manifest, Some("linux/amd64")), (Index, None)],
            ),
            ("manifest:k=v", &[(Manifest, None)]),
        ];
        for (text, expected) in cases {
            let found = annotations(text).unwrap();
            let places: Vec<_> = found
                .iter()
                .map(|a| (a.place, a.platform.as_ref().map(ToString::to_string)))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(place, platform)| (*place, platform.map(str::to_owned)))
                .collect();
            assert_eq!(places, expected, "{text}");
            assert!(found.iter().all(|a| a.key == "k" && a.value == "v"));
        }
        assert_eq!(annotations("k=a=b:c").unwrap()[0].value, "a=b:c");
    }

    #[test]
    fn a03_refusals() {
        for (text, says) in [
            ("nokey", "expected key=value"),
            ("=v", "expected key=value"),
            ("manifest:a", "expected key=value"),
            ("foo:a=b", "unknown annotation type \"foo\""),
            ("manifest,foo:a=b", "unknown annotation type \"foo\""),
            ("manifest[]:a=b", "optional platform in square brackets"),
            ("manifest[a/b/c/d/e]:a=b", "invalid platform"),
        ] {
            let error = annotations(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a03_output_keys() {
        let place = |key: &str| output_key(key, "v").unwrap().unwrap();
        assert_eq!(place("annotation.a.b").key, "a.b");
        assert_eq!(
            place("annotation-manifest-descriptor.a").place,
            AnnotationPlace::ManifestDescriptor
        );
        assert!(place("annotation[linux/arm64].a").platform.is_some());
        assert!(output_key("annotation-foo.a", "v").unwrap().is_err());
        assert!(output_key("name", "v").is_none());
    }
}
