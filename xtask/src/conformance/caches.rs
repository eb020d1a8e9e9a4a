//! Cases that export a cache and import it: with a folder in place of the tests' registry, and another, empty store
//! where the tests prune theirs.

use super::builds::Levels;
use super::harness::Case;
use super::integration::{FLAGS, SAME_IMAGES, STORE};
use super::text;
use serde_json::{Value, json};

/// The store of builds that import.
const OTHER: &str = "store2";

/// Runs one case.
pub fn run(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let mut value = case.value.clone();
    if text(&value["name"]) == "testCacheMultiPlatformImportExport" {
        return Err("left out: the corpus holds only code for what it compares".to_owned());
    }
    let mut imports = false;
    for build in value["builds"].as_array_mut().into_iter().flatten() {
        let mut flags = Vec::new();
        let Some(build) = build.as_object_mut() else {
            continue;
        };
        let exports = build.remove("cacheexports").unwrap_or_default();
        for export in exports.as_array().into_iter().flatten() {
            let dest = folder(&export["Attrs"]["ref"]);
            flags.push(format!("--cache-to=type=local,dest={dest}"));
        }
        let attrs = build.get_mut("attrs").and_then(Value::as_object_mut);
        if let Some(from) = attrs.and_then(|attrs| attrs.remove("cache-from")) {
            flags.push(format!("--cache-from=type=local,src={}", folder(&from)));
            build.insert(STORE.to_owned(), json!(OTHER));
            imports = true;
        }
        build.insert(FLAGS.to_owned(), json!(flags));
    }
    if imports {
        case.bases.store(&case.dir.join(OTHER), &value["from"])?;
    }
    // Code compares the targets of the images.
    if text(&value["name"]).ends_with("ReproducibleIDs") {
        value["asserts"] = json!([{ "kind": SAME_IMAGES }]);
    }
    let case = Case {
        value: &value,
        ..case
    };
    super::integration::replay(case, levels, &[])
}

/// The folder that stands for a reference.
fn folder(reference: &Value) -> String {
    let last = text(reference).rsplit('/').next().unwrap_or_default();
    format!("cache-{}", last.replace(':', "-"))
}
