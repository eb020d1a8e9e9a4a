//! Caches of other builders, of several platforms in images, behind mirrors, and of linked layers.

use crate::caches::{from, machine, ran, reference, to, to_registry};
use crate::support::Project;
use serde_json::json;
use testkit::registry::FakeRegistry;

const BUILDKIT_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The forms in which BuildKit writes its caches.
fn of_buildkit(registry: &FakeRegistry) {
    let layer = b"not looked at".to_vec();
    let config = json!({
        "layers": [{ "blob": "sha256:00", "parent": -1 }],
        "records": [{ "digest": "sha256:11", "layers": [{ "layer": 0 }] }],
    });
    let describe = |media_type: &str, bytes: Vec<u8>| {
        let size = bytes.len();
        json!({ "mediaType": media_type, "digest": registry.put_blob(bytes), "size": size })
    };
    let config_desc = describe(BUILDKIT_CONFIG, config.to_string().into_bytes());
    let layer_desc = describe(LAYER, layer);
    let image = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config_desc, "layers": [layer_desc],
    });
    registry.put_manifest("bk", Some("image"), MANIFEST, image.to_string());
    for (tag, media_type) in [
        ("index", INDEX),
        (
            "docker",
            "application/vnd.docker.distribution.manifest.list.v2+json",
        ),
    ] {
        let index = json!({
            "schemaVersion": 2, "mediaType": media_type, "manifests": [layer_desc, config_desc],
        });
        registry.put_manifest("bk", Some(tag), media_type, index.to_string());
    }
    let config = json!({
        "architecture": "amd64", "os": "linux", "moby.buildkit.cache.v0": "e30=",
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    let config = describe(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().into_bytes(),
    );
    let image = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [],
    });
    let image = registry.put_manifest("bk", Some("inline"), MANIFEST, image.to_string());
    registry.put_index("bk", "inline-index", &[(&image, "amd64")]);
}

#[test]
fn ca03_caches_of_buildkit_are_told_and_not_used() {
    let registry = FakeRegistry::start();
    of_buildkit(&registry);
    for tag in ["image", "index", "docker", "inline", "inline-index"] {
        let reference = format!("{}/bk:{tag}", registry.host());
        let from = format!("--cache-from={reference}");
        let args = ["--platform=linux/amd64", &from];
        let says = format!("{reference} is a cache of BuildKit and is not used");
        let run = machine().build(&args).ok();
        assert!(run.stderr.contains(&says), "{tag}: {}", run.stderr);
        assert_eq!(ran(&run).len(), 4, "{tag}: {}", run.stderr);
    }
    // An export takes the place of one.
    let reference = format!("{}/bk:index", registry.host());
    machine()
        .build(&[&to_registry(&reference, ",mode=max")])
        .ok();
    let run = machine().build(&[&format!("--cache-from={reference}")]);
    assert_eq!(ran(&run.ok()).len(), 0);
}

#[test]
fn ca02_each_platforms_image_carries_its_own_cache() {
    let registry = FakeRegistry::start();
    let reference = format!("{}/team/app:1", registry.host());
    let make = || {
        let project = Project::new("FROM scratch\nARG TARGETARCH\nCOPY file /of-$TARGETARCH\n");
        project.write("file", "x");
        project
    };
    let both = "--platform=linux/amd64,linux/arm64";
    let push = ["--push", "-t", &reference, "--cache-to=type=inline", both];
    make().build(&push).ok();
    let from = format!("--cache-from={reference}");
    for platforms in [both, "--platform=linux/arm64", "--platform=linux/amd64"] {
        let run = make().build(&[platforms, &from]).ok();
        assert_eq!(ran(&run).len(), 0, "{platforms}: {}", run.stderr);
    }
    let run = make().build(&["--platform=linux/s390x", &from]).ok();
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
}

#[test]
fn ca03_caches_are_read_through_mirrors_and_written_at_home() {
    let (home, mirror) = (FakeRegistry::start(), FakeRegistry::start());
    let there = reference(&mirror);
    let made = machine();
    made.build(&[&to_registry(&there, ",mode=max")]).ok();
    let project = machine();
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        home.host(),
        mirror.host()
    );
    project.write("../config/containers/registries.conf", conf);
    let reference = reference(&home);
    let (from, to) = (
        format!("--cache-from={reference}"),
        to_registry(&reference, ",mode=max"),
    );
    let mut command = project.build_command(&[&from, &to]);
    command.env("XDG_CONFIG_HOME", project.path("config"));
    let run = project.run(command).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    let put = |registry: &FakeRegistry| registry.count("PUT", "/manifests/");
    assert_eq!((put(&home), put(&mirror)), (1, 1), "{}", run.stderr);
    let from = format!("--cache-from={reference}");
    let run = machine().build(&[&from]).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}

#[test]
fn ca04_a_linked_layer_is_taken_whatever_lies_below() {
    let dockerfile = |below: &str| {
        format!("FROM busybox\nRUN echo {below} > /below\nCOPY --link file /linked/file\n")
    };
    let here = Project::new(&dockerfile("one"));
    here.write("file", "content");
    let cache = here.path("cache");
    here.build(&[&to(&cache, ",mode=max")]).ok();
    let there = Project::new(&dockerfile("two"));
    there.write("file", "content");
    let run = there.build(&["-o", "out", &from(&cache)]).ok();
    let read = |name: &str| std::fs::read_to_string(there.path("out").join(name)).unwrap();
    assert_eq!(
        (read("below").as_str(), read("linked/file").as_str()),
        ("two\n", "content")
    );
    let ran = ran(&run);
    assert!(
        ran.iter().any(|step| step.contains("RUN echo two")),
        "{ran:?}"
    );
}
