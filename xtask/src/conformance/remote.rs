//! Cases whose contexts BuildKit's tests make in code: a layout that the build before wrote, a URL, an archive.
//!
//! The case is rewritten into the flags that say the same, then replayed from its data.

use super::builds::Levels;
use super::harness::Case;
use super::text;
use serde_json::json;

/// Stands for the digest of the image that the first build of a case makes.
const DIGEST: &str = "\u{ab}digest\u{bb}";

/// Named contexts: `oci-layout:STORE@DIGEST` is the layout of the first build, whose tests check that it holds one image.
pub fn named(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let mut value = case.value.clone();
    for build in value["builds"].as_array_mut().into_iter().flatten() {
        for context in build["named_contexts"]
            .as_object_mut()
            .into_iter()
            .flatten()
            .map(|(_, context)| context)
        {
            if let Some(source) = context.as_str().and_then(flag) {
                *context = json!(source);
            }
        }
        if let Some(build) = build.as_object_mut() {
            build.remove("ocistores");
        }
        // What the test itself reads is the layout that every build leaves.
        build["exports"] = json!(
            build["exports"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|export| export["output"].is_null())
                .collect::<Vec<_>>()
        );
    }
    let case = Case {
        value: &value,
        ..case
    };
    super::integration::replay(case, levels, &[])
}

/// What a frontend attribute is as a flag.
fn flag(attribute: &str) -> Option<String> {
    if attribute.starts_with("oci-layout:") && attribute.contains(DIGEST) {
        return Some("oci-layout://image0".to_owned());
    }
    attribute
        .strip_prefix("docker-image:")
        .filter(|rest| !rest.starts_with("//"))
        .map(|reference| format!("docker-image://{reference}"))
}

/// Contexts behind a URL: the file name is one inside the context, not beside it.
pub fn url(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let mut value = case.value.clone();
    let mut args = Vec::new();
    for build in value["builds"].as_array_mut().into_iter().flatten() {
        let Some(build) = build.as_object_mut() else {
            continue;
        };
        if let Some(file) = build.remove("filename") {
            args = vec!["-f".to_owned(), text(&file).to_owned()];
        }
    }
    let case = Case {
        value: &value,
        ..case
    };
    super::integration::replay(case, levels, &args)
}
