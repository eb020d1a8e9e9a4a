//! `inspect` and `history`: Docker's fields and columns, templates, several images, platforms.

use crate::support::Project;
use serde_json::{Value, json};

fn project() -> Project {
    let project = Project::new(
        "FROM scratch\nMAINTAINER me\nLABEL k=v org.x=y\nENV A=b\nEXPOSE 80\nVOLUME /v\nCOPY f /f\nCOPY g /g\nUSER 7\nCMD [\"x\", \"y\"]\n",
    );
    project.write("f", vec![1; 5000]);
    project.write("g", "g");
    project
        .build(&[
            "-t",
            "one:1",
            "-t",
            "registry.example/two",
            "--build-arg",
            "SOURCE_DATE_EPOCH=7",
        ])
        .ok();
    project
}

fn inspect(project: &Project, args: &[&str]) -> String {
    let mut all = vec!["inspect"];
    all.extend(args);
    project.kiln(&all).ok().text().to_owned()
}

#[test]
fn an_image_is_shown_as_docker_shows_it() {
    let project = project();
    let found: Value = serde_json::from_str(&inspect(&project, &["one:1"])).unwrap();
    let image = &found[0];
    for (pointer, wanted) in [
        ("/RepoTags", json!(["one:1", "registry.example/two:latest"])),
        ("/RepoDigests", json!([])),
        ("/Author", json!("me")),
        ("/Comment", json!("buildkit.dockerfile.v0")),
        ("/Created", json!("1970-01-01T00:00:07Z")),
        ("/Os", json!("linux")),
        ("/Config/Cmd", json!(["x", "y"])),
        ("/Config/User", json!("7")),
        ("/Config/ExposedPorts", json!({"80/tcp": {}})),
        ("/Config/Volumes", json!({"/v": {}})),
        ("/Config/Labels", json!({"k": "v", "org.x": "y"})),
        ("/RootFS/Type", json!("layers")),
        ("/Parent", json!("")),
        (
            "/Descriptor/mediaType",
            json!("application/vnd.oci.image.manifest.v1+json"),
        ),
    ] {
        assert_eq!(image.pointer(pointer), Some(&wanted), "{pointer} {image}");
    }
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 2);
    assert!(image["Size"].as_u64().unwrap() > 5000);
    let raw: Value = serde_json::from_str(&inspect(&project, &["--raw", "one:1"])).unwrap();
    assert_eq!(raw[0]["id"], image["Id"]);
    assert_eq!(raw[0]["digest"], image["Descriptor"]["digest"]);
    assert_eq!(
        raw[0]["config"]["rootfs"]["diff_ids"],
        image["RootFS"]["Layers"]
    );

    // Several names of one image, and of none.
    let run = project.kiln(&[
        "inspect",
        "--type",
        "image",
        "one:1",
        "nothing",
        "two",
        "registry.example/two",
    ]);
    let run = run.fails(1, &["No such image: nothing", "No such image: two"]);
    let found: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2);
    let none = project
        .kiln(&["image", "inspect", "nothing"])
        .fails(1, &["No such image: nothing"]);
    assert_eq!(none.text(), "[]");
    project
        .kiln(&["inspect", "--type", "volume", "x"])
        .fails(2, &["--type"]);
}

#[test]
fn templates_that_people_use() {
    let project = project();
    for (format, wanted) in [
        (
            "{{.Os}}/{{.Architecture}}",
            format!("linux/{}", planner_architecture()),
        ),
        ("{{json .Config.Cmd}}", r#"["x","y"]"#.to_owned()),
        ("{{index .RepoTags 0}}", "one:1".to_owned()),
        (
            "{{range .Config.Env}}{{println .}}{{end}}",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nA=b".to_owned(),
        ),
        (
            r#"{{index .Config.Labels "org.x"}}{{index .Config.Labels "none"}}"#,
            "y".to_owned(),
        ),
        ("{{.Config.Labels.none}}", "<no value>".to_owned()),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
            "k=v org.x=y".to_owned(),
        ),
        (
            "{{range $p, $_ := .Config.ExposedPorts}}{{$p}}{{end}}",
            "80/tcp".to_owned(),
        ),
        (
            "{{.Config.Entrypoint}}{{.Config.WorkingDir}}{{.Config.OnBuild}}",
            "[]/[]".to_owned(),
        ),
        ("{{len .RootFS.Layers}}", "2".to_owned()),
        (
            "{{if .Config.Healthcheck}}x{{else}}y{{end}}",
            "y".to_owned(),
        ),
        (
            r#"{{join .Config.Cmd " "}} {{.Config.User | printf "%05s"}}"#,
            "x y     7".to_owned(),
        ),
    ] {
        assert_eq!(
            inspect(&project, &["-f", format, "one:1"]),
            wanted,
            "{format}"
        );
    }
    project.kiln(&["inspect", "-f", "{{.Config.Foo}}", "one:1"]).fails(
        1,
        &["template parsing error: template: :1:9: executing \"\" at <.Config.Foo>: map has no entry for key \"Foo\""],
    );
}

fn planner_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[test]
fn history_has_dockers_columns() {
    let project = project();
    let history = |args: &[&str]| -> Vec<String> {
        let mut all = vec!["history"];
        all.extend(args);
        let run = project.kiln(&all).ok();
        run.text().lines().map(str::to_owned).collect()
    };
    let table = history(&["one:1"]);
    let words: Vec<&str> = table[0].split_whitespace().collect();
    assert_eq!(
        words,
        ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    );
    assert_eq!(table.len(), 10);
    assert!(
        table[2].starts_with("<missing>") && table[2].contains("years ago"),
        "{table:?}"
    );
    let sizes = history(&["--format", "{{.Size}}", "one:1"]);
    let layers: Vec<&String> = sizes.iter().filter(|size| *size != "0B").collect();
    assert_eq!(layers.len(), 2, "{sizes:?}");
    let bytes = history(&[
        "--human=false",
        "--format",
        "{{.Size}} {{.CreatedAt}}",
        "one:1",
    ]);
    let bytes = bytes.iter().filter(|line| !line.starts_with("0 "));
    assert!(
        bytes
            .clone()
            .all(|line| line.ends_with(" 1970-01-01T00:00:07Z"))
    );
    let sum: u64 = bytes
        .map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(
        sum.to_string(),
        inspect(&project, &["-f", "{{.Size}}", "one:1"])
    );
    let ids = history(&["-q", "one:1"]);
    assert!(
        ids[0].len() == 12 && ids[1..].iter().all(|id| id == "<missing>"),
        "{ids:?}"
    );
    let whole = history(&["-q", "--no-trunc", "one:1"]);
    assert_eq!(whole[0], inspect(&project, &["-f", "{{.Id}}", "one:1"]));
    let by = history(&["--format", "{{.CreatedBy}}", "one:1"]);
    assert!(by.iter().all(|line| line.chars().count() <= 45));
    project
        .kiln(&["history", "nothing"])
        .fails(1, &["No such image: nothing"]);
    project.kiln(&["history"]).fails(2, &["IMAGE"]);
}

/// An image `multi` for amd64 and arm64.
fn multi() -> Project {
    let project = Project::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    project.write("amd64", "a");
    project.write("arm64", vec![b'a'; 3000]);
    project
        .build(&["-t", "multi", "--platform", "linux/amd64,linux/arm64"])
        .ok();
    project
}

/// Saves `multi` as a layout folder.
fn saved(project: &Project) -> std::path::PathBuf {
    let save = [
        "save",
        "--format=oci-dir",
        "--compression=uncompressed",
        "-odir",
        "multi",
    ];
    project.kiln(&save).ok();
    project.path("dir")
}

#[test]
fn images_for_several_platforms() {
    let project = multi();
    let rows = project.kiln(&["images", "--format", "{{.Platforms}}"]).ok();
    assert_eq!(rows.text(), "linux/amd64,linux/arm64");
    assert!(project.kiln(&["images"]).ok().text().contains("PLATFORMS"));
    let tree = project.kiln(&["images", "--tree"]).ok();
    assert!(tree.text().contains("├─ linux/amd64") && tree.text().contains("└─ linux/arm64"));
    for platform in ["amd64", "arm64"] {
        let of = format!("linux/{platform}");
        let args = ["--platform", &of, "-f", "{{.Architecture}}", "multi"];
        assert_eq!(inspect(&project, &args), platform);
        project.kiln(&["history", "--platform", &of, "multi"]).ok();
    }
    project
        .kiln(&["inspect", "--platform", "linux/s390x", "multi"])
        .fails(1, &["linux/s390x", "linux/amd64, linux/arm64"]);
    let rmi = ["rmi", "--platform", "linux/arm64", "multi"];
    // Another process may be about to use what would go.
    let other = store::Store::open(&project.store()).unwrap();
    project
        .kiln(&rmi)
        .fails(1, &["is in use by another kiln process"]);
    drop(other);
    let removed = project.kiln(&rmi).ok();
    assert!(
        removed.text().starts_with("Deleted: sha256:"),
        "{}",
        removed.text()
    );
    assert_eq!(
        inspect(&project, &["-f", "{{.Platforms}}", "multi"]),
        "[linux/amd64]"
    );
    project
        .kiln(&["rmi", "--platform", "linux/amd64", "multi"])
        .fails(1, &["it is the only platform of the image"]);
}

/// The index as it is, one of its platforms, and what a docker archive can hold.
#[test]
fn images_for_several_platforms_are_saved() {
    let project = multi();
    let index = inspect(&project, &["-f", "{{.Descriptor.digest}}", "multi"]);
    let dir = saved(&project);
    testkit::validate(&dir).unwrap();
    let other = Project::new("");
    other.kiln(&["load", "-i", dir.to_str().unwrap()]).ok();
    assert_eq!(
        inspect(&other, &["-f", "{{.Descriptor.digest}}", "multi"]),
        index
    );
    project
        .kiln(&[
            "save",
            "--format",
            "oci",
            "--platform",
            "linux/arm64",
            "-o",
            "arm.tar",
            "multi",
        ])
        .ok();
    project
        .kiln(&[
            "save",
            "--platform",
            "linux/arm64,linux/amd64",
            "-o",
            "x.tar",
            "multi",
        ])
        .fails(1, &["holds one platform"]);
    project
        .kiln(&["save", "--platform", "linux/s390x", "-o", "x.tar", "multi"])
        .fails(1, &["linux/s390x"]);
    let other = Project::new("");
    let arm = project.path("arm.tar");
    other.kiln(&["load", "-i", arm.to_str().unwrap()]).ok();
    assert_eq!(
        inspect(&other, &["-f", "{{.Platforms}} {{.Architecture}}", "multi"]),
        "[linux/arm64] arm64"
    );
}

#[test]
fn one_of_several_platforms_is_loaded() {
    let project = multi();
    let dir = saved(&project);
    let other = Project::new("");
    let load = [
        "load",
        "--platform",
        "linux/arm64",
        "-i",
        dir.to_str().unwrap(),
    ];
    assert_eq!(other.kiln(&load).ok().text(), "Loaded image: multi:latest");
    assert_eq!(
        inspect(&other, &["-f", "{{.Platforms}}", "multi"]),
        "[linux/arm64]"
    );
    other
        .kiln(&[
            "load",
            "--platform",
            "linux/s390x",
            "-i",
            dir.to_str().unwrap(),
        ])
        .fails(
            1,
            &["does not provide the specified platform (linux/s390x)"],
        );
}
