//! Images whose layers never came: a build only named them as its base. What needs the layers fetches them.

use crate::repo_digests::arch;
use crate::support::Project;
use std::path::Path;
use testkit::registry::FakeRegistry;

/// A store whose only knowledge of `HOST/team/base:1` is its manifest and config, and that image's name.
fn resolved() -> (FakeRegistry, Project, String) {
    let registry = FakeRegistry::start();
    let layer = |text: &str| testkit::archive(&[testkit::Entry::file(text, text)]).unwrap();
    let layers = [layer("one"), layer("two")];
    registry.put_image("team/base", Some("1"), arch(), &layers);
    let name = format!("{}/team/base:1", registry.host());
    let project = Project::new(&format!("FROM {name} AS base\nFROM base\nENV a=b\n"));
    project.build(&["-o", "type=cacheonly"]).ok();
    assert_eq!(project.images(), [name.as_str()]);
    assert_eq!(registry.count("GET", "/blobs/"), 1, "the config");
    (registry, project, name)
}

fn names(archive: &Path) -> Vec<String> {
    let tar = std::fs::read(archive).unwrap();
    let entries = testkit::read_entries(tar.as_slice()).unwrap();
    let mut names: Vec<String> = entries.iter().map(|entry| entry.path.clone()).collect();
    names.sort();
    names
}

#[test]
fn g03_what_needs_the_layers_of_a_base_fetches_them() {
    let (registry, project, name) = resolved();
    // What the documents tell needs none of them.
    for command in ["inspect", "history"] {
        project.kiln(&[command, &name]).ok();
    }
    assert_eq!(registry.count("GET", "/blobs/"), 1);
    let tar = project.path("root.tar");
    project
        .kiln(&["export", "-o", tar.to_str().unwrap(), &name])
        .ok();
    assert_eq!(names(&tar), ["one", "two"]);
    assert_eq!(registry.count("GET", "/blobs/"), 3);

    let (registry, project, name) = resolved();
    let dir = project.path("layout");
    let save = ["save", "--format", "oci-dir", "-o", dir.to_str().unwrap()];
    project.kiln(&[save.as_slice(), &[&name]].concat()).ok();
    testkit::validate(&dir).unwrap();
    assert_eq!(registry.count("GET", "/blobs/"), 3);

    let (registry, project, name) = resolved();
    let other = project.kiln(&["diff", &name, &name]).ok();
    assert_eq!((other.text(), registry.count("GET", "/blobs/")), ("", 3));

    // Another repository of the registry mounts them, another registry gets them.
    let (registry, project, name) = resolved();
    let near = format!("{}/near/base:1", registry.host());
    project
        .kiln(&["push", "--compression", "uncompressed", &name, &near])
        .ok();
    assert_eq!(registry.count("GET", "/blobs/"), 1);
    assert_eq!(registry.count("POST", "/uploads/"), 0);
    let far = FakeRegistry::start();
    let target = format!("{}/far/base:1", far.host());
    project.kiln(&["push", &name, &target]).ok();
    assert_eq!(registry.count("GET", "/blobs/"), 3);
    assert!(far.tagged("far/base", "1").is_some());
}

#[test]
fn g06_layers_that_cannot_be_had_are_told() {
    let (registry, project, name) = resolved();
    registry.fault(testkit::registry::Fault::on("GET", "/blobs/").error(
        403,
        "DENIED",
        "pull access was taken away",
    ));
    let tar = project.path("image.tar");
    let save = ["save", "-o", tar.to_str().unwrap(), &name];
    let repository = name.strip_suffix(":1").unwrap();
    project.kiln(&save).fails(
        1,
        &[
            &format!("could not pull {repository}"),
            "403",
            "pull access was taken away",
        ],
    );
    assert!(!tar.exists());
    registry.heal();
    project.kiln(&save).ok();
}

#[test]
fn an_image_without_layers_or_origin_says_how_to_get_them() {
    let (_registry, project, name) = resolved();
    // Records are a cache: without them nothing is known of where the image came from.
    std::fs::remove_dir_all(project.store().join("records")).unwrap();
    std::fs::create_dir(project.store().join("records")).unwrap();
    for command in ["save", "export"] {
        let out = project.path("out.tar");
        project
            .kiln(&[command, "-o", out.to_str().unwrap(), &name])
            .fails(1, &["was never pulled", &format!("`kiln pull {name}`")]);
    }
    let far = FakeRegistry::start();
    project
        .kiln(&["push", &name, &format!("{}/far/base:1", far.host())])
        .fails(1, &["was never pulled", &format!("`kiln pull {name}`")]);
    project.kiln(&["pull", &name]).ok();
    let out = project.path("out.tar");
    project
        .kiln(&["save", "-o", out.to_str().unwrap(), &name])
        .ok();
}

#[test]
fn g02_a_pull_remembers_where_blobs_are_so_that_a_push_mounts_them() {
    let registry = FakeRegistry::start();
    let name = format!("{}/team/base:1", registry.host());
    let builder = Project::new("FROM scratch\nCOPY f /one\nCOPY f /two\n");
    builder.write("f", "content");
    builder.build(&["--push", "-t", &name]).ok();
    // By a pull, and by a build that needs nothing of it.
    for command in ["pull", "build"] {
        let project = Project::new(&format!("FROM {name}\n"));
        let to = format!("{}/other/{command}:1", registry.host());
        if command == "pull" {
            project.kiln(&["pull", &name]).ok();
        } else {
            project.build(&["-o", "type=cacheonly"]).ok();
        }
        let before = registry.requests().len();
        project.kiln(&["push", &name, &to]).ok();
        let requests = &registry.requests()[before..];
        let posts: Vec<&str> = requests
            .iter()
            .filter(|request| request.method == "POST")
            .map(|request| request.path.as_str())
            .collect();
        let mounts = posts.iter().filter(|path| path.contains("from=team/base"));
        assert_eq!((mounts.count(), posts.len()), (3, 3), "{posts:?}");
        let fetched = requests.iter().filter(|request| request.method == "GET");
        assert_eq!(fetched.filter(|get| get.path != "/v2/").count(), 0);
    }
}

/// A store with an image over `HOST/team/base:1`, of whose layers only the unpacked trees are left.
fn unpacked() -> (FakeRegistry, Project, String) {
    let registry = FakeRegistry::start();
    // A header as GNU tar writes it: no layer of ours has such.
    let layer = |path: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, path, &b"abc"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    registry.put_image(
        "team/base",
        Some("1"),
        arch(),
        &[layer("one"), layer("two")],
    );
    let name = format!("{}/team/base:1", registry.host());
    let project = Project::new(&format!(
        "FROM {name}\nCOPY --from=busybox / /\nRUN echo made > /made\n"
    ));
    project.build(&["-t", "made"]).ok();
    let layers = project.store().join("layers/sha256");
    for entry in std::fs::read_dir(layers).unwrap() {
        let folder = entry.unwrap().path();
        let meta = std::fs::read(folder.join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        assert!(folder.join("tree").is_dir(), "RUN had all of them unpacked");
        let forms = meta["blobs"].as_array().unwrap().iter();
        for form in forms.filter(|form| form["encoder"] == "pulled") {
            let digest = form["descriptor"]["digest"].as_str().unwrap();
            let blob = project.store().join("blobs").join(digest.replace(':', "/"));
            if blob.exists() {
                std::fs::remove_file(blob).unwrap();
            }
        }
    }
    let before = registry.requests().len();
    project.kiln(&["inspect", "made"]).ok();
    assert_eq!(registry.requests().len(), before);
    (registry, project, name)
}

/// A pulled layer of which only the tree is left: its tar cannot be made again from that, so that what needs it fetches it.
#[test]
fn g03_what_needs_the_blob_of_an_unpacked_layer_fetches_it() {
    type Get<'a> = &'a dyn Fn(&Project) -> crate::support::Run;
    let ways: [(&str, Get<'_>); 4] = [
        ("build", &|project| {
            project.build(&["-o", "type=oci,tar=false,dest=layout"])
        }),
        ("build with other layers", &|project| {
            project.build(&[
                "-o",
                "type=oci,tar=false,dest=layout,compression=zstd,force-compression=true",
            ])
        }),
        ("save", &|project| {
            project.kiln(&["save", "--format", "oci-dir", "-o", "layout", "made"])
        }),
        ("push", &|project| {
            let registry = FakeRegistry::start();
            let name = format!("{}/made:1", registry.host());
            let run = project.kiln(&["push", "made", &name]);
            assert!(run.status != 0 || registry.tagged("made", "1").is_some());
            run
        }),
    ];
    for (way, get) in ways {
        let (registry, project, name) = unpacked();
        registry.fault(testkit::registry::Fault::on("GET", "/blobs/").status(404));
        let layout = project.path("layout");
        let repository = name.strip_suffix(":1").unwrap();
        let run = get(&project);
        assert_eq!(run.status, 1, "{way}: {}", run.stderr);
        assert!(run.stderr.contains(repository), "{way}: {}", run.stderr);
        assert!(!layout.exists(), "{way}");
        let files = project.path("files");
        let output = format!("type=local,dest={}", files.display());
        project.build(&["-o", &output]).ok();
        assert_eq!(std::fs::read(files.join("one")).unwrap(), b"abc");
        registry.heal();
        let run = get(&project);
        assert_eq!(run.status, 0, "{way}: {}", run.stderr);
        if layout.exists() {
            testkit::validate(&layout).unwrap();
        }
    }
}
