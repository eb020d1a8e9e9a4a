//! Caches that travel: written by one store, read by another.

use crate::support::{Project, Run};
use std::path::Path;
use testkit::registry::{FakeRegistry, Fault, sha256};

/// No two of its layers are alike, in whatever second they are made.
pub const DOCKERFILE: &str = "\
FROM busybox AS build
COPY source.txt /source.txt
RUN cat /source.txt > /made && echo built >> /made
FROM busybox
COPY --from=build /made /taken
RUN wc -c < /taken > /size
";

/// A project with that Dockerfile, and a store of its own.
pub fn machine() -> Project {
    let project = Project::new(DOCKERFILE);
    project.write("source.txt", "one");
    project
}

/// Builds, and gives the image's ID too.
#[track_caller]
fn build(project: &Project, args: &[&str]) -> (String, Run) {
    let mut all = vec!["--iidfile", "id", "-t", "x"];
    all.extend(args);
    let run = project.build(&all).ok();
    (std::fs::read_to_string(project.path("id")).unwrap(), run)
}

pub fn to(dir: &Path, more: &str) -> String {
    format!("--cache-to=type=local,dest={}{more}", dir.display())
}

pub fn from(dir: &Path) -> String {
    format!("--cache-from=type=local,src={}", dir.display())
}

/// Steps that ran.
pub fn ran(run: &Run) -> Vec<String> {
    let is_step = |name: &str| name.starts_with('[') && !name.contains("] FROM ");
    let steps = run.steps().into_iter();
    let steps = steps.filter(|(name, end)| is_step(name) && end == "DONE");
    steps.map(|(name, _)| name).collect()
}

#[test]
fn ca04_and_ca06_a_folder_takes_all_steps_to_another_store() {
    let (here, there) = (machine(), machine());
    let cache = here.path("cache");
    let (id, _) = build(&here, &[&to(&cache, ",mode=max")]);
    testkit::validate(&cache).unwrap();
    let (again, run) = build(&there, &[&from(&cache)]);
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    assert_eq!(again, id, "CA06: the same image, times and all");
    assert!(run.stderr.contains("importing cache manifest from local:"));
}

/// What a layer holds that the image of [`DOCKERFILE`] has is two files; the base is the context's.
const OF_RESULT: usize = 2;

pub fn reference(registry: &FakeRegistry) -> String {
    format!("{}/team/cache:main", registry.host())
}

pub fn to_registry(reference: &str, more: &str) -> String {
    format!("--cache-to=type=registry,ref={reference}{more}")
}

/// A registry with the cache of all steps of [`DOCKERFILE`]; with the image's ID.
fn exported() -> (FakeRegistry, String, String) {
    let (registry, here) = (FakeRegistry::start(), machine());
    let reference = reference(&registry);
    let (id, run) = build(&here, &[&to_registry(&reference, ",mode=max")]);
    assert!(run.stderr.contains("exporting cache to registry"));
    assert!(run.stderr.contains("writing cache image manifest sha256:"));
    (registry, reference, id)
}

#[test]
fn ca03_nothing_under_a_hit_is_downloaded() {
    let (registry, reference, id) = exported();
    let there = machine();
    let from = format!("--cache-from={reference}");
    let none = there.build(&[&from, "--output", "type=cacheonly"]).ok();
    assert_eq!(ran(&none), [""; 0], "{}", none.stderr);
    assert!(
        none.stderr
            .contains(&format!("importing cache manifest from {reference}"))
    );
    assert_eq!(registry.pulled_blobs().len(), 1, "the records alone");
    let gets = registry.count("GET", "/manifests/");
    let (again, run) = build(&there, &[&from]);
    assert_eq!((ran(&run).len(), again), (0, id));
    assert_eq!(
        registry.pulled_blobs().len(),
        1 + OF_RESULT,
        "{}",
        run.stderr
    );
    assert_eq!(
        registry.count("GET", "/manifests/"),
        gets,
        "the records are remembered"
    );
    // All is here now, and nobody is asked.
    let asked = registry.requests().len();
    let (_, run) = build(&there, &[&from]);
    assert_eq!(ran(&run).len(), 0);
    assert_eq!(registry.requests().len(), asked);
}

#[test]
fn ca03_a_miss_downloads_only_what_it_reads() {
    let (registry, reference, _) = exported();
    let there = machine();
    there.write("Dockerfile", DOCKERFILE.replace("> /size", "> /count"));
    let run = there
        .build(&[&format!("--cache-from={reference}"), "-t", "x"])
        .ok();
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
    assert_eq!(
        registry.pulled_blobs().len(),
        1 + 1 + 1,
        "records, what is remembered of the build, and what RUN lies over"
    );
}

#[test]
fn ca03_a_step_of_equal_content_cuts_off_what_follows() {
    let (registry, reference, _) = exported();
    let there = machine();
    there.write("Dockerfile", DOCKERFILE.replace(" && echo", "; echo"));
    let from = format!("--cache-from={reference}");
    let run = there.build(&[&from, "-o", "type=cacheonly"]).ok();
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
    assert_eq!(
        registry.pulled_blobs().len(),
        1 + 1 + 1,
        "records, what is remembered of the build, and what RUN lies over"
    );
    // What was found by the word of the cache alone is kept under no key that others could meet.
    let (_, alone) = build(&there, &[]);
    assert_eq!(ran(&alone).len(), 2, "{}", alone.stderr);
}

#[test]
fn ca03_a_second_export_sends_only_what_is_new_and_keeps_the_rest() {
    let (registry, here) = (FakeRegistry::start(), machine());
    let reference = reference(&registry);
    let to = to_registry(&reference, ",mode=max");
    build(&here, &[&to]);
    let before = registry.requests().len();
    build(&here, &[&to]);
    let after: Vec<String> = registry.requests()[before..]
        .iter()
        .filter(|request| request.path != "/v2/")
        .map(|request| format!("{} {}", request.method, request.path))
        .collect();
    assert_eq!(after, ["HEAD /v2/team/cache/manifests/main"]);
    here.write("Dockerfile", DOCKERFILE.replace("> /size", "> /count"));
    let before = registry.count("PUT", "/blobs/uploads/");
    build(&here, &[&to]);
    let sent = registry.count("PUT", "/blobs/uploads/") - before;
    assert_eq!(sent, 3, "a layer, the records, and what is remembered");
    // The first one's records are still there, for a third machine.
    let there = machine();
    let (_, run) = build(&there, &[&format!("--cache-from={reference}")]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    // One that has it from there sends nothing to where it is.
    let before = registry.count("PUT", "");
    build(&there, &[&format!("--cache-from={reference}"), &to]);
    assert_eq!(registry.count("PUT", ""), before);
}

#[test]
fn ca03_mode_min_has_only_what_the_result_has() {
    let (registry, here) = (FakeRegistry::start(), machine());
    let reference = reference(&registry);
    build(&here, &[&to_registry(&reference, "")]);
    let there = machine();
    let from = format!("--cache-from={reference}");
    let (_, run) = build(&there, &[&from]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    there.write(
        "Dockerfile",
        DOCKERFILE.replace("COPY --from=build", "COPY --from=build --chmod=600"),
    );
    let run = there.build(&[&from]).ok();
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
}

#[test]
fn ca03_exporters_at_once_keep_each_others_records() {
    let Some(registry) = testkit::DockerRegistry::start(&testkit::RegistrySetup::default()) else {
        return;
    };
    let reference = format!("{}/cache:all", registry.host());
    let make = |number: usize| {
        let project = Project::new("FROM scratch\nCOPY file /file\n");
        project.write("file", format!("of {number}"));
        project
    };
    let projects: Vec<Project> = (0..8).map(make).collect();
    let started: Vec<_> = projects
        .iter()
        .map(|project| project.start(project.build_command(&[&to_registry(&reference, "")])))
        .collect();
    for run in started {
        run.finish().ok();
    }
    for number in 0..8 {
        let there = make(number);
        let run = there.build(&[&format!("--cache-from={reference}")]).ok();
        assert_eq!(ran(&run).len(), 0, "{number}: {}", run.stderr);
    }
}

#[test]
fn ca02_an_image_carries_its_cache() {
    let (registry, here) = (FakeRegistry::start(), machine());
    let reference = format!("{}/team/app:1", registry.host());
    let inline = [
        "--push",
        "-t",
        &reference,
        "--build-arg=BUILDKIT_INLINE_CACHE=1",
    ];
    here.build(&inline).ok();
    let digest = registry.tagged("team/app", "1");
    let there = machine();
    let from = format!("--cache-from={reference}");
    let mut args = inline.to_vec();
    args.push(&from);
    let run = there.build(&args).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    assert_eq!(registry.tagged("team/app", "1"), digest, "CA06");
    assert_eq!(registry.pulled_blobs().len(), 1, "the config alone");
    let layout = there.valid_layout("layout", &["--cache-to=type=inline", &from]);
    assert!(layout.join("index.json").exists());
    // Without one it is an image as any other.
    let plain = machine();
    plain.build(&["--push", "-t", &reference]).ok();
    let other = machine();
    let run = other.build(&[&from]).ok();
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
}

#[test]
fn ca08_all_platforms_are_in_one_cache() {
    let dockerfile = "FROM scratch\nARG TARGETARCH\nCOPY file /of-$TARGETARCH\n";
    let make = || {
        let project = Project::new(dockerfile);
        project.write("file", "x");
        project
    };
    let (here, there) = (make(), make());
    let cache = here.path("cache");
    let platforms = "--platform=linux/amd64,linux/arm64";
    here.build(&[platforms, &to(&cache, "")]).ok();
    let run = there.build(&[platforms, &from(&cache)]).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    // Each of them alone adds to what is there.
    let (one, other) = (make(), make());
    let both = one.path("both");
    one.build(&["--platform=linux/amd64", &to(&both, "")]).ok();
    other
        .build(&["--platform=linux/arm64", &to(&both, "")])
        .ok();
    let run = make().build(&[platforms, &from(&both)]).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}

#[test]
fn ca04_forms_tags_and_resets_of_a_folder() {
    let (here, cache) = (machine(), machine());
    let cache = cache.path("cache");
    for form in ["gzip", "zstd", "estargz", "uncompressed"] {
        let more = format!(",mode=max,tag={form},compression={form},force-compression=true");
        build(&here, &[&to(&cache, &more)]);
        testkit::validate(&cache).unwrap();
        let there = machine();
        let run = there
            .build(&[&format!("{},tag={form}", from(&cache)), "-t", "x"])
            .ok();
        assert_eq!(ran(&run).len(), 0, "{form}: {}", run.stderr);
    }
    let blobs = || {
        std::fs::read_dir(cache.join("blobs/sha256"))
            .unwrap()
            .count()
    };
    let before = blobs();
    here.write("source.txt", "two");
    build(
        &here,
        &[&to(
            &cache,
            ",mode=max,tag=zstd,compression=zstd,reset=true",
        )],
    );
    assert!(blobs() <= before + 1, "what was replaced is gone");
    let run = machine()
        .build(&[&format!("{},tag=zstd", from(&cache))])
        .ok();
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    let run = machine()
        .build(&[&format!("{},tag=nope", from(&cache))])
        .ok();
    assert!(
        run.stderr
            .contains("failed to configure local cache importer")
    );
    let index = to(
        &cache,
        ",mode=max,tag=index,image-manifest=false,oci-mediatypes=false",
    );
    build(&here, &[&index]);
    let there = machine();
    there.write("source.txt", "two");
    let run = there.build(&[&format!("{},tag=index", from(&cache))]).ok();
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}

#[test]
fn ca03_a_cache_that_is_not_there_stops_nothing() {
    let registry = FakeRegistry::start();
    let reference = reference(&registry);
    let project = machine();
    let nowhere = format!("--cache-from={reference}");
    let run = project
        .build(&[&nowhere, "--cache-from=127.0.0.1:1/x"])
        .ok();
    assert_eq!(ran(&run).len(), 4);
    let says = format!("failed to configure registry cache importer: {reference}: not found");
    assert!(run.stderr.contains(&says), "{}", run.stderr);
}

#[test]
fn ca03_a_failed_export_fails_the_build_and_leaves_the_old_cache() {
    let (registry, reference, _) = exported();
    let old = registry.tagged("team/cache", "main");
    let here = machine();
    here.write("source.txt", "two");
    registry.fault(Fault::on("PUT", "/manifests/").error(403, "DENIED", "not today"));
    let to = to_registry(&reference, "");
    let failed = here.build(&["-t", "x", &to]);
    failed.fails(1, &["failed to export the cache to", "not today"]);
    let ignored = to_registry(&reference, ",ignore-error=true");
    let run = here.build(&["-t", "x", &ignored]).ok();
    assert!(run.stderr.contains("not today"), "{}", run.stderr);
    assert_eq!(registry.tagged("team/cache", "main"), old);
    registry.heal();
    let (_, run) = build(&machine(), &[&format!("--cache-from={reference}")]);
    assert_eq!(ran(&run).len(), 0);
}

#[test]
fn ca03_a_place_that_takes_nothing_is_found_before_a_command_runs() {
    let registry = FakeRegistry::start();
    let reference = reference(&registry);
    registry.fault(Fault::on("HEAD", "/manifests/").error(403, "DENIED", "not today"));
    let here = machine();
    here.write("../file", "no folder");
    let folder = here.path("file").join("cache");
    let places = [
        (to_registry(&reference, ""), reference.clone()),
        (to(&folder, ""), folder.display().to_string()),
    ];
    for (place, name) in places {
        let failed = here.build(&["-t", "x", &place]);
        let says = format!("failed to export the cache to {name}");
        let failed = failed.fails(1, &[&says]);
        assert_eq!(ran(&failed), [""; 0], "{}", failed.stderr);
        let run = machine().build(&["-t", "x", &format!("{place},ignore-error=true")]);
        let run = run.ok();
        assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
        let says = format!("the cache is not exported to {name}");
        assert_eq!(run.stderr.matches(&says).count(), 1, "{}", run.stderr);
    }
    assert_eq!(registry.count("POST", "/blobs/uploads/"), 0);
}

/// The blobs of a folder that are layers, and that of the records.
fn parts(cache: &Path) -> (Vec<std::path::PathBuf>, std::path::PathBuf) {
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let blob = |desc: &serde_json::Value| {
        let digest = desc["digest"].as_str().unwrap();
        cache.join("blobs").join(digest.replacen(':', "/", 1))
    };
    let index = read(&cache.join("index.json"));
    let manifest = read(&blob(&index["manifests"][0]));
    let all: Vec<_> = manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(blob)
        .collect();
    (all[1..].to_vec(), all[0].clone())
}

/// Replaces the records of a folder by others, with a manifest that names them.
fn rewrite(cache: &Path, change: impl Fn(&mut serde_json::Value)) {
    let (_, old) = parts(cache);
    let packed = std::fs::read(&old).unwrap();
    let plain = zstd::stream::decode_all(packed.as_slice()).unwrap();
    let mut records: serde_json::Value = serde_json::from_slice(&plain).unwrap();
    change(&mut records);
    let new = zstd::bulk::compress(records.to_string().as_bytes(), 1).unwrap();
    replace(cache, &old, &new);
}

/// Puts other bytes in the place of a blob of the manifest, whose digest is right.
fn replace(cache: &Path, old: &Path, new: &[u8]) {
    let digest_of = |path: &Path| format!("sha256:{}", path.file_name().unwrap().to_str().unwrap());
    let put = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let path = cache.join("blobs").join(digest.replacen(':', "/", 1));
        std::fs::write(path, bytes).unwrap();
        digest
    };
    let index_path = cache.join("index.json");
    let mut index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&index_path).unwrap()).unwrap();
    let name = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let manifest = std::fs::read(cache.join("blobs").join(name.replacen(':', "/", 1))).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for layer in manifest["layers"].as_array_mut().unwrap() {
        if layer["digest"] == digest_of(old) {
            layer["digest"] = put(new).into();
            layer["size"] = new.len().into();
        }
    }
    let bytes = manifest.to_string();
    index["manifests"][0]["digest"] = put(bytes.as_bytes()).into();
    index["manifests"][0]["size"] = bytes.len().into();
    std::fs::write(index_path, index.to_string()).unwrap();
}

/// The content of a file of the image that a build makes.
fn content(project: &Project, args: &[&str]) -> (String, Run) {
    let mut all = vec!["-o", "out"];
    all.extend(args);
    let run = project.build(&all).ok();
    let read = |name: &str| std::fs::read_to_string(project.path("out").join(name)).unwrap();
    (format!("{}{}", read("taken"), read("size")), run)
}

#[test]
fn damaged_caches_are_told_and_never_used() {
    let here = machine();
    let cache = here.path("cache");
    let (expected, _) = content(&here, &[&to(&cache, ",mode=max")]);
    let damages: [(&str, &dyn Fn()); 7] = [
        ("digest", &|| {
            for layer in parts(&cache).0 {
                let mut bytes = std::fs::read(&layer).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                std::fs::write(layer, bytes).unwrap();
            }
        }),
        ("truncated", &|| {
            for layer in parts(&cache).0 {
                let bytes = std::fs::read(&layer).unwrap();
                std::fs::write(layer, &bytes[..bytes.len() / 2]).unwrap();
            }
        }),
        ("gone", &|| {
            for layer in parts(&cache).0 {
                std::fs::remove_file(layer).unwrap();
            }
        }),
        ("diff_id", &|| {
            rewrite(&cache, |records| {
                let blobs: Vec<_> = records["layers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|l| l["blob"].clone())
                    .collect();
                let count = blobs.len();
                for (at, layer) in records["layers"]
                    .as_array_mut()
                    .unwrap()
                    .iter_mut()
                    .enumerate()
                {
                    layer["blob"] = blobs[(at + 1) % count].clone();
                }
            });
        }),
        ("garbage", &|| {
            let (_, records) = parts(&cache);
            replace(&cache, &records, b"{\"version\": 1, \"layers\": [");
        }),
        ("version", &|| {
            rewrite(&cache, |records| records["version"] = 9.into());
        }),
        ("huge", &|| {
            let (_, records) = parts(&cache);
            let zeros = zstd::bulk::compress(&vec![b' '; 70 << 20], 1).unwrap();
            replace(&cache, &records, &zeros);
        }),
    ];
    for (name, damage) in damages {
        std::fs::remove_dir_all(&cache).unwrap();
        content(&here, &[&to(&cache, ",mode=max")]);
        damage();
        let there = machine();
        // The same build mends it.
        let (found, run) = content(&there, &[&from(&cache), &to(&cache, ",mode=max")]);
        assert_eq!(found, expected, "{name}");
        let is_told = run.stderr.contains("is not used: ")
            || run
                .stderr
                .contains("failed to configure local cache importer");
        assert!(is_told, "{name}: {}", run.stderr);
        assert!(!ran(&run).is_empty(), "{name}: {}", run.stderr);
        let (found, run) = content(&machine(), &[&from(&cache)]);
        assert_eq!(
            (found, ran(&run).len()),
            (expected.clone(), 0),
            "{name}: {}",
            run.stderr
        );
    }
}

#[test]
fn lies_about_content_do_not_outlive_the_cache() {
    let here = machine();
    let cache = here.path("cache");
    let (expected, _) = content(&here, &[&to(&cache, ",mode=max")]);
    rewrite(&cache, |records| {
        let layers = records["layers"].as_array().unwrap();
        let names: Vec<_> = layers.iter().map(|l| l["identity"].clone()).collect();
        let count = names.len();
        for (at, layer) in records["layers"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            layer["identity"] = names[(at + 1) % count].clone();
        }
    });
    // The last step runs over a layer that is not what the cache says.
    let there = machine();
    there.write("Dockerfile", DOCKERFILE.replace("wc -c", "wc  -c"));
    let (found, run) = content(&there, &[&from(&cache)]);
    assert_eq!(found, expected, "{}", run.stderr);
    for dockerfile in [
        DOCKERFILE.to_owned(),
        DOCKERFILE.replace("wc -c", "wc   -c"),
    ] {
        there.write("Dockerfile", dockerfile);
        assert_eq!(content(&there, &[]).0, expected);
    }
}

#[test]
fn secrets_are_in_no_cache() {
    let secret = crate::support::unique("secret");
    let project = Project::new(
        "FROM busybox\nRUN --mount=type=secret,id=s,env=S test -n \"$S\" && echo done > /done\n",
    );
    project.write("../secret", &secret);
    let cache = project.path("cache");
    let source = format!("id=s,src={}", project.path("secret").display());
    let more = ",mode=max,compression=uncompressed";
    project
        .build(&[
            "--secret",
            &source,
            &to(&cache, more),
            "--build-arg=HTTP_PROXY=http://u:hidden@p",
        ])
        .ok();
    let mut seen = 0;
    for file in crate::support::files_below(&cache) {
        let bytes = std::fs::read(&file).unwrap();
        let plain = zstd::stream::decode_all(bytes.as_slice()).unwrap_or(bytes);
        let text = String::from_utf8_lossy(&plain);
        assert!(
            !text.contains(&secret) && !text.contains("hidden"),
            "{}",
            file.display()
        );
        seen += usize::from(text.contains("\"records\""));
    }
    assert_eq!(seen, 1, "the records were looked into");
}

/// How many lines of a log say how a step ended, by step.
fn ends(run: &Run) -> std::collections::BTreeMap<(&str, &str), usize> {
    let mut ends = std::collections::BTreeMap::new();
    for line in run.stderr.lines() {
        let mut words = line.split([' ', ':']);
        if let (Some(step), Some(end @ ("DONE" | "CACHED"))) = (words.next(), words.next()) {
            *ends.entry((step, end)).or_default() += 1;
        }
    }
    ends
}

#[test]
fn ca04_what_a_cache_lacks_is_made_and_told_once() {
    let here = machine();
    let cache = here.path("cache");
    content(&here, &[&to(&cache, ",mode=max")]);
    for layer in parts(&cache).0 {
        std::fs::remove_file(layer).unwrap();
    }
    // A step that runs reads what is not there; then the output does.
    for dockerfile in [DOCKERFILE.replace("wc -c", "wc  -c"), DOCKERFILE.to_owned()] {
        let there = machine();
        there.write("Dockerfile", dockerfile);
        let args = ["--output", "type=tar,dest=-", &from(&cache)];
        let run = there.build(&args).ok();
        for wrong in ["ERROR", "CANCELED"] {
            assert!(!run.stderr.contains(wrong), "{}", run.stderr);
        }
        let last = ran(&run).pop().unwrap();
        assert!(last.contains("RUN wc"), "{}", run.stderr);
        assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
        assert!(
            ends(&run).values().all(|count| *count == 1),
            "{}",
            run.stderr
        );
        let mut archive = tar::Archive::new(run.stdout.as_slice());
        let entries = archive.entries().unwrap();
        let names = entries.map(|entry| entry.unwrap().path_bytes().into_owned());
        let taken = names.filter(|name| name.ends_with(b"taken")).count();
        assert_eq!(taken, 1, "one archive");
        // The story is the whole build's.
        let story = there.kiln(&["explain"]).ok();
        assert_eq!(
            story.text().matches("  ran  ").count(),
            4,
            "{}",
            story.text()
        );
    }
}
