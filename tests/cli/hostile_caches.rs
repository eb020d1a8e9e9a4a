//! Caches that somebody made to do harm: what they name, and what lies where they should be. What is damaged by accident is in
//! `caches` and `cache_mounts`.

use crate::support::Project;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::digest_of;

const DOCKERFILE: &str = "\
FROM busybox
ARG N
COPY f /f
RUN --mount=type=cache,target=/c cat /f > /g && echo $N >> /c/log
";

fn project() -> Project {
    let project = Project::new(DOCKERFILE);
    project.write("f", "content");
    project
}

fn to(dir: &Path) -> String {
    format!("--cache-to=type=local,dest={},mode=max", dir.display())
}

fn from(dir: &Path) -> String {
    format!("--cache-from=type=local,src={}", dir.display())
}

/// A project with a cache of its steps and of its mount.
fn exported() -> (Project, PathBuf) {
    let project = project();
    let cache = project.path("cache");
    let run = project.build(&["--cache-mounts=all", "--build-arg=N=1", &to(&cache)]);
    run.ok();
    (project, cache)
}

fn blob(cache: &Path, digest: &str) -> PathBuf {
    cache.join("blobs").join(digest.replacen(':', "/", 1))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn put(cache: &Path, bytes: &[u8]) -> Value {
    let digest = digest_of(bytes);
    fs::write(blob(cache, &digest), bytes).unwrap();
    json!({"digest": digest, "size": bytes.len()})
}

/// Takes the digest and size of one descriptor over into another.
fn point(desc: &mut Value, to: &Value) {
    desc["digest"] = to["digest"].clone();
    desc["size"] = to["size"].clone();
}

/// Changes all manifests of a folder.
fn rewrite(cache: &Path, change: impl Fn(&mut Value)) {
    let path = cache.join("index.json");
    let mut index = read(&path);
    for entry in index["manifests"].as_array_mut().unwrap() {
        let mut manifest = read(&blob(cache, entry["digest"].as_str().unwrap()));
        change(&mut manifest);
        point(entry, &put(cache, manifest.to_string().as_bytes()));
    }
    fs::write(path, index.to_string()).unwrap();
}

/// Changes the compressed JSON of all blobs of a media type.
fn rewrite_parts(cache: &Path, media_type: &str, change: impl Fn(&mut Value)) {
    rewrite(cache, |manifest| {
        for part in manifest["layers"].as_array_mut().unwrap() {
            if part["mediaType"] != media_type {
                continue;
            }
            let packed = fs::read(blob(cache, part["digest"].as_str().unwrap())).unwrap();
            let plain = zstd::stream::decode_all(packed.as_slice()).unwrap();
            let mut value = serde_json::from_slice(&plain).unwrap();
            change(&mut value);
            let packed = zstd::bulk::compress(value.to_string().as_bytes(), 1).unwrap();
            point(part, &put(cache, &packed));
        }
    });
}

const RECORDS: &str = "application/vnd.kiln.cache.records.v1+zstd";
const MOUNT: &str = "application/vnd.kiln.cache.mount.v1+zstd";

/// An export removes what only the cache needed that was there before. Digests that are paths are none.
#[test]
fn ca04_an_export_removes_nothing_outside_its_folder() {
    let (here, cache) = exported();
    let victims = [here.path("absolute"), here.path("relative")];
    for victim in &victims {
        fs::write(victim, "precious").unwrap();
    }
    rewrite(&cache, |manifest| {
        let layers = manifest["layers"].as_array_mut().unwrap();
        let kind = layers.last().unwrap()["mediaType"].clone();
        for path in [victims[0].to_str().unwrap(), "../../relative"] {
            layers.push(json!({"mediaType": kind, "digest": path, "size": 8}));
        }
    });
    here.write("f", "another");
    let all = ["--cache-mounts=all", "--build-arg=N=2", &to(&cache)];
    here.build(&all).ok();
    for victim in &victims {
        assert!(victim.exists(), "{}", victim.display());
    }
}

/// FIFOs and devices in the place of files are told and not waited for; nor is what never ends copied.
#[test]
fn ca04_a_folder_of_fifos_and_devices_holds_nothing_up() {
    let (_here, cache) = exported();
    let index = read(&cache.join("index.json"));
    let manifest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let parts = read(&blob(&cache, &manifest));
    let part = |at: usize| blob(&cache, parts["layers"][at]["digest"].as_str().unwrap());
    let places = [
        cache.join("index.json"),
        cache.join("oci-layout"),
        blob(&cache, &manifest),
        part(0),
        part(1),
        part(2),
    ];
    for place in places {
        let kept = fs::read(&place).unwrap();
        for kind in ["fifo", "zero"] {
            fs::remove_file(&place).unwrap();
            match kind {
                "fifo" => {
                    let made = Command::new("mkfifo").arg(&place).status().unwrap();
                    assert!(made.success());
                }
                _ => std::os::unix::fs::symlink("/dev/zero", &place).unwrap(),
            }
            let there = project();
            let all = ["--build-arg=N=1", "-o", "out", &from(&cache)];
            let run = there.build(&all).ok();
            assert!(
                run.stderr.contains("not a regular file"),
                "{} {kind}: {}",
                place.display(),
                run.stderr
            );
            let made = fs::read_to_string(there.path("out/g")).unwrap();
            assert_eq!(made, "content");
        }
        fs::remove_file(&place).unwrap();
        fs::write(&place, kept).unwrap();
    }
}

/// Packs that decompress to more than the disk has are not fetched, even if no file takes anything of them.
#[test]
fn a_mount_whose_packs_fill_the_disk_is_left_out() {
    let (_here, cache) = exported();
    rewrite_parts(&cache, MOUNT, |doc| {
        let mut pack = doc["packs"][0].clone();
        pack["plain"] = (64 << 20).into();
        let packs = doc["packs"].as_array_mut().unwrap();
        packs.extend(std::iter::repeat_n(pack, 1000));
    });
    let there = project();
    let all = ["--cache-mounts=all", "--build-arg=N=2", &from(&cache)];
    let run = there.build(&all).ok();
    assert!(run.stderr.contains("its packs have "), "{}", run.stderr);
}

/// A record says what a step gave, not over which base it did, and has a layer for each step.
#[test]
fn records_that_fit_no_step_are_not_used() {
    let (_here, cache) = exported();
    let kept = fs::read(cache.join("index.json")).unwrap();
    type Lie<'l> = (&'l str, &'l dyn Fn(&mut Value));
    let lies: [Lie<'_>; 3] = [
        ("no base", &|records| records["bases"][0] = json!([])),
        ("another base", &|records| {
            records["bases"][0][0] = digest_of(b"x").into();
        }),
        ("another step", &|records| {
            let count = records["nodes"].as_array().unwrap().len();
            for record in records["records"].as_array_mut().unwrap() {
                record["node"] = (count - 1 - record["node"].as_u64().unwrap() as usize).into();
            }
        }),
    ];
    for (name, lie) in lies {
        fs::write(cache.join("index.json"), &kept).unwrap();
        rewrite_parts(&cache, RECORDS, |records| {
            for record in records["records"].as_array_mut().unwrap() {
                // By it a layer would be found alone, which says nothing of what is below.
                record.as_object_mut().unwrap().remove("content");
            }
            lie(records);
        });
        let there = project();
        let run = there.build(&["--build-arg=N=1", "-o", "out", &from(&cache)]);
        let run = run.ok();
        for step in ["COPY f /f", "RUN --mount"] {
            assert_eq!(run.step(step), "DONE", "{name}: {}", run.stderr);
        }
        let made = fs::read_to_string(there.path("out/g")).unwrap();
        assert_eq!(made, "content", "{name}");
    }
}
