//! SOURCE_DATE_EPOCH: where the time comes from, and what carries it.

use crate::support::{Project, unpack};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What a layout says of times: the config's, our history's, the layers' and the index entry's.
struct Times {
    created: String,
    history: Vec<String>,
    layers: Vec<Option<String>>,
    index: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn times(layout: &Path) -> Times {
    let blob = |digest: &Value| layout.join("blobs").join(text(digest).replace(':', "/"));
    let index = json(&layout.join("index.json"));
    let entry = &index["manifests"][0];
    let manifest = json(&blob(&entry["digest"]));
    let config = json(&blob(&manifest["config"]["digest"]));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    Times {
        created: text(&config["created"]),
        history: list(&config["history"])
            .iter()
            .map(|entry| text(&entry["created"]))
            .collect(),
        layers: list(&manifest["layers"])
            .iter()
            .map(|layer| {
                layer["annotations"]["buildkit/rewritten-timestamp"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect(),
        index: text(&entry["annotations"]["org.opencontainers.image.created"]),
    }
}

fn layout(project: &Project, name: &str, keys: &str, args: &[&str]) -> Times {
    let output = format!("type=oci,tar=false,dest={name}{keys}");
    let args = [args, &["-o", &output]].concat();
    project.build(&args).ok();
    times(&project.path(name))
}

#[test]
fn a04_the_dockerfile_gives_a_default_that_flags_override_and_reset() {
    let project = Project::new("ARG SOURCE_DATE_EPOCH=1000\nFROM scratch\nCOPY Dockerfile .\n");
    let at = layout(&project, "default", "", &[]);
    assert_eq!(at.created, "1970-01-01T00:16:40Z");
    assert_eq!(
        (&at.history, &at.index),
        (&vec![at.created.clone()], &at.created)
    );
    assert_eq!(at.layers, [Some("1000".to_owned())]);

    let given = ["--build-arg", "SOURCE_DATE_EPOCH=2000"];
    let at = layout(&project, "given", ",rewrite-timestamp=true", &given);
    assert_eq!(at.created, "1970-01-01T00:33:20Z");
    assert_eq!(at.layers, [Some("2000".to_owned())]);

    for (name, keys, args) in [
        (
            "reset",
            ",rewrite-timestamp=true,source-date-epoch=",
            &[][..],
        ),
        (
            "empty",
            ",rewrite-timestamp=true",
            &["--build-arg", "SOURCE_DATE_EPOCH="][..],
        ),
    ] {
        let at = layout(&project, name, keys, args);
        assert!(at.created.starts_with("20"), "{name}: {}", at.created);
        assert_eq!(at.layers, [None], "{name}");
    }
    let at = layout(&project, "own", ",source-date-epoch=3000", &[]);
    assert_eq!(at.created, "1970-01-01T00:50:00Z");
}

#[test]
fn a04_the_environment_counts_unless_a_flag_says_otherwise() {
    let project = Project::new("FROM scratch\nCOPY Dockerfile .\nLABEL a=b\n");
    for (name, args, created) in [
        ("env", &[][..], "1970-01-01T00:00:05Z"),
        (
            "flag",
            &["--build-arg", "SOURCE_DATE_EPOCH=6"][..],
            "1970-01-01T00:00:06Z",
        ),
    ] {
        let output = format!("type=oci,tar=false,dest={name}");
        let mut command = project.build_command(&[args, &["-o", &output]].concat());
        command.env("SOURCE_DATE_EPOCH", "5");
        project.run(command).ok();
        let at = times(&project.path(name));
        assert_eq!(at.created, created);
        assert_eq!(at.history, [created, created]);
    }
}

#[test]
fn a04_a_local_context_has_no_time() {
    let project = Project::new(
        "ARG SOURCE_DATE_EPOCH=context\nFROM busybox\nARG SOURCE_DATE_EPOCH\nRUN echo \"<$SOURCE_DATE_EPOCH>\" > /epoch\n",
    );
    project.write("other/file", "x");
    let named = ["--build-context", "context2=context/other"];
    for (name, args) in [
        ("default", &[][..]),
        ("given", &["--build-arg", "SOURCE_DATE_EPOCH=context"][..]),
        (
            "named",
            &[
                &named[..],
                &["--build-arg", "SOURCE_DATE_EPOCH=context2"][..],
            ]
            .concat(),
        ),
    ] {
        let at = layout(&project, name, ",rewrite-timestamp=true", args);
        assert!(at.created.starts_with("20"), "{name}: {}", at.created);
        assert_eq!(at.layers, [None, None], "{name}");
        let out = format!("{name}.files");
        project.build(&[args, &["-o", &out]].concat()).ok();
        let epoch = fs::read_to_string(project.path(&out).join("epoch")).unwrap();
        assert_eq!(epoch, "<>\n", "{name}");
    }
}

#[test]
fn a04_bad_values_and_stages_are_refused_before_anything_runs() {
    let stage = "ARG SOURCE_DATE_EPOCH=mysource\nFROM scratch AS mysource\nCOPY Dockerfile /Dockerfile\nFROM scratch\n";
    Project::new(stage).build(&[]).fails(
        1,
        &[
            "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction",
            "Dockerfile:3",
        ],
    );
    let project = Project::new("FROM scratch\nCOPY Dockerfile .\n");
    project
        .build(&["--build-arg", "SOURCE_DATE_EPOCH=yesterday"])
        .fails(1, &["invalid SOURCE_DATE_EPOCH: yesterday"]);
    project
        .build(&["-o", "type=oci,dest=x,source-date-epoch=yesterday"])
        .fails(2, &["invalid SOURCE_DATE_EPOCH: yesterday"]);
}

#[test]
fn a05_only_layers_of_the_build_are_rewritten_and_only_down() {
    let project = Project::new("FROM busybox\nRUN touch -d @500 /old && touch /new\n");
    let at = layout(
        &project,
        "layout",
        ",rewrite-timestamp=true",
        &["--build-arg", "SOURCE_DATE_EPOCH=1000"],
    );
    assert_eq!(at.layers, [None, Some("1000".to_owned())]);
    assert_eq!(at.history.last().unwrap(), "1970-01-01T00:16:40Z");

    let manifest = json(&project.path("layout/index.json"));
    let digest = text(&manifest["manifests"][0]["digest"]).replace(':', "/");
    let manifest = json(&project.path("layout/blobs").join(digest));
    let layer = text(&manifest["layers"][1]["digest"]).replace(':', "/");
    let files = unpack(
        &project.path("layout/blobs").join(layer),
        &project.path("layer"),
    );
    assert_eq!(fs::metadata(files.join("old")).unwrap().mtime(), 500);
    assert_eq!(fs::metadata(files.join("new")).unwrap().mtime(), 1000);
}

#[test]
fn a04_files_in_folders_and_tars_have_the_time() {
    let project = Project::new("FROM busybox\nRUN mkdir /d && echo x > /d/f && ln -s f /d/l\n");
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1000"];
    project
        .build(&[&epoch[..], &["-o", "out", "-o", "type=tar,dest=out.tar"]].concat())
        .ok();
    let unpacked = unpack(&project.path("out.tar"), &project.path("unpacked"));
    for root in [project.path("out"), unpacked] {
        for path in ["d", "d/f", "d/l", "bin/sh", "etc"] {
            let meta = fs::symlink_metadata(root.join(path)).unwrap();
            assert_eq!(meta.mtime(), 1000, "{path}");
        }
    }
}

#[test]
fn a04_workdir_is_reproducible() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let project = Project::new("FROM busybox\nWORKDIR /mydir\n");
        layout(
            &project,
            "layout",
            "",
            &["--build-arg", "SOURCE_DATE_EPOCH=1673364896"],
        );
        seen.push(fs::read(project.path("layout/index.json")).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert_eq!(seen[0], seen[1]);
}

/// A server on loopback that gives one file, whatever is asked for, as long as the test runs.
fn serve(body: Vec<u8>, head: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n{head}\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
        }
    });
    format!("http://{address}")
}

fn archive(project: &Project) -> Vec<u8> {
    project.write("../src/old", "x");
    project.write("../src/new", "y");
    let script =
        "touch -d @1700000000 old && touch -d @1700000300 new && tar czf ../src.tar.gz old new";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script]).current_dir(project.path("src"));
    assert!(shell.status().unwrap().success());
    fs::read(project.path("src.tar.gz")).unwrap()
}

#[test]
fn a04_a_stage_with_a_remote_add_gives_the_time_of_what_it_adds() {
    let project = Project::new("");
    let body = archive(&project);
    for (head, epoch, created) in [
        ("", "1700000300", "2023-11-14T22:18:20Z"),
        (
            "Last-Modified: Tue, 14 Nov 2023 22:23:21 GMT\r\n",
            "1700000601",
            "2023-11-14T22:23:21Z",
        ),
    ] {
        let url = serve(body.clone(), head);
        project.write(
            "Dockerfile",
            format!(
                "ARG SOURCE_DATE_EPOCH=MySource\nFROM scratch AS mysource\nARG FILE=src.tar.gz\nADD {url}/$FILE /\n\
                 FROM scratch\nCOPY Dockerfile .\n"
            ),
        );
        let at = layout(&project, epoch, ",rewrite-timestamp=true", &[]);
        assert_eq!(at.created, created);
        assert_eq!(at.layers, [Some(epoch.to_owned())]);
        let given = ["--build-arg", "SOURCE_DATE_EPOCH=2000"];
        let at = layout(&project, &format!("{epoch}.given"), "", &given);
        assert_eq!(at.created, "1970-01-01T00:33:20Z");
    }
    // Nobody listens here.
    project.write(
        "Dockerfile",
        "ARG SOURCE_DATE_EPOCH=s\nFROM scratch AS s\nADD http://127.0.0.1:1/x /\nFROM scratch\n",
    );
    project
        .build(&[])
        .fails(1, &["127.0.0.1:1", "Dockerfile:3"]);
}
