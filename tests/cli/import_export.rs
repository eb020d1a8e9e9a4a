//! `import` and `export` of root file systems; `save` and `load` between Kiln and other tools.

use crate::support::{Project, able};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::http::{Answer, Web};

fn inspect(project: &Project, name: &str) -> Value {
    let run = project.kiln(&["inspect", name]).ok();
    let found: Value = serde_json::from_slice(&run.stdout).unwrap();
    found[0].clone()
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    able(found.is_ok_and(|out| out.status.success()), program)
}

/// A tool of the host, with nothing of the host's storage.
fn tool(project: &Project, args: &[&str]) -> String {
    let storage = project.path("tool");
    let mut command = Command::new(args[0]);
    if args[0] == "podman" {
        command.arg("--root").arg(storage.join("root"));
        command.arg("--runroot").arg(storage.join("run"));
        command.args(["--storage-driver", "vfs", "--log-level", "error"]);
    }
    let out = command.args(&args[1..]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}\n{text}");
    String::from_utf8(out.stdout).unwrap()
}

fn built() -> Project {
    let project = Project::new(
        "FROM busybox\nCOPY f /d/f\nRUN echo made > /made && ln -s made /link\nCMD [\"sh\"]\n",
    );
    project.write("f", "content");
    project.build(&["-t", "one:1"]).ok();
    project
}

#[test]
fn what_is_exported_can_be_imported() {
    let project = built();
    project.kiln(&["export", "-o", "rootfs.tar", "one:1"]).ok();
    let tar = fs::read(project.path("rootfs.tar")).unwrap();
    let stdout = project.kiln(&["export", "one:1"]).ok().stdout;
    assert!(tar == stdout);
    let names: Vec<String> = testkit::read_entries(tar.as_slice())
        .unwrap()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    for name in ["d/f", "made", "link", "bin/sh"] {
        assert!(names.iter().any(|found| found == name), "{name} {names:?}");
    }

    let changes = [
        "-c",
        "CMD [\"/bin/sh\"]",
        "-c",
        "ENV A=b",
        "--change",
        "LABEL k=v\nUSER 7",
        "-m",
        "by hand",
    ];
    let mut args = vec!["import", "--platform", "linux/arm64"];
    args.extend(changes);
    args.extend(["rootfs.tar", "team/flat:1"]);
    let id = project.kiln(&args).ok();
    let image = inspect(&project, "team/flat:1");
    assert_eq!(image["Id"], id.text());
    assert_eq!(image["Architecture"], "arm64");
    assert_eq!(image["Comment"], "by hand");
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    let config = &image["Config"];
    assert_eq!(config["Cmd"], serde_json::json!(["/bin/sh"]));
    assert_eq!(config["Env"], serde_json::json!(["A=b"]));
    assert_eq!(config["Labels"], serde_json::json!({"k": "v"}));
    assert_eq!(config["User"], "7");
    assert_eq!(
        project.kiln(&["diff", "one:1", "team/flat:1"]).ok().text(),
        ""
    );
    let flat = project.kiln(&["import", "rootfs.tar"]).ok();
    let same = project.kiln(&["diff", "one:1", flat.text()]).ok();
    assert_eq!(same.text(), "");
    let history = project
        .kiln(&["history", "--format", "{{.Comment}}", flat.text()])
        .ok();
    assert_eq!(history.text(), "Imported from rootfs.tar");
}

#[test]
fn imports_of_all_forms() {
    let project = built();
    project.kiln(&["export", "-o", "rootfs.tar", "one:1"]).ok();
    let plain = project.path("rootfs.tar");
    let layers = |name: &str| inspect(&project, name)["RootFS"]["Layers"].clone();
    project.kiln(&["import", "rootfs.tar", "plain"]).ok();
    for (program, end) in [
        ("gzip", "gz"),
        ("bzip2", "bz2"),
        ("xz", "xz"),
        ("zstd", "zst"),
    ] {
        if !has(program) {
            continue;
        }
        let status = Command::new(program)
            .arg("-k")
            .arg(&plain)
            .status()
            .unwrap();
        assert!(status.success());
        let file = format!("rootfs.tar.{end}");
        project.kiln(&["import", &file, end]).ok();
        assert_eq!(layers(end), layers("plain"), "{program}");
        // Archives of images come in the same forms.
        if end == "xz" || end == "bz2" {
            project.kiln(&["save", "-o", "one.tar", "one:1"]).ok();
            let archive = project.path("one.tar");
            assert!(
                Command::new(program)
                    .arg("-f")
                    .arg(&archive)
                    .status()
                    .unwrap()
                    .success()
            );
            let packed = format!("one.tar.{end}");
            let loaded = project.kiln(&["load", "-i", &packed]).ok();
            assert_eq!(loaded.text(), "Loaded image: one:1");
        }
    }
    let bytes = fs::read(&plain).unwrap();
    let web = Web::start({
        let bytes = bytes.clone();
        move |_| Answer::ok(bytes.clone())
    });
    let url = format!("http://me:s3cr3t@{}/rootfs.tar", web.authority());
    project.kiln(&["import", &url, "web"]).ok();
    assert_eq!(layers("web"), layers("plain"));
    let history = project
        .kiln(&["history", "--format", "{{.Comment}}", "web"])
        .ok();
    assert_eq!(
        history.text(),
        format!("Imported from http://{}/rootfs.tar", web.authority())
    );
    let run = project
        .run_with(project.command(&["import", "-", "stdin"]), &bytes)
        .ok();
    assert!(run.text().starts_with("sha256:"));
    assert_eq!(layers("stdin"), layers("plain"));

    let mut command = project.command(&["import", "rootfs.tar", "epoch"]);
    command.env("SOURCE_DATE_EPOCH", "86400");
    project.run(command).ok();
    assert_eq!(
        inspect(&project, "epoch")["Created"],
        "1970-01-02T00:00:00Z"
    );
}

#[test]
fn imports_that_cannot_be() {
    let project = built();
    project.kiln(&["export", "-o", "rootfs.tar", "one:1"]).ok();
    fs::write(project.path("text"), b"hello".repeat(1000)).unwrap();
    fs::write(project.path("empty"), b"").unwrap();
    for (args, status, message) in [
        (
            &["rootfs.tar", "-c", "RUN x"][..],
            1,
            "run is not a valid change command",
        ),
        (
            &["rootfs.tar", "-c", "FROM x"],
            1,
            "from is not a valid change command",
        ),
        (
            &["rootfs.tar", "-c", "COPY a b"],
            1,
            "copy is not a valid change command",
        ),
        (&["rootfs.tar", "-c", "NONSENSE x"], 1, "NONSENSE"),
        (&["rootfs.tar", "UPPER"], 1, "UPPER"),
        (&["missing.tar"], 1, "could not open missing.tar"),
        (&["text"], 1, "layer sha256:"),
        (&["empty"], 1, "empty"),
        (&["rootfs.tar", "--platform", "x/y/z/w"], 2, "--platform"),
        (&[], 2, "FILE"),
    ] {
        let mut all = vec!["import"];
        all.extend(args);
        project.kiln(&all).fails(status, &[message]);
        assert_eq!(project.images().len(), 1, "{args:?}");
    }
    project
        .kiln(&["export", "nothing"])
        .fails(1, &["No such image: nothing"]);
    project
        .kiln(&["export", "-o", "no/such/x.tar", "one:1"])
        .fails(1, &["no/such/x.tar"]);
    project
        .kiln(&["save", "--compression", "lz4", "one:1"])
        .fails(2, &["lz4"]);
    project
        .kiln(&["save", "--format", "oci-dir", "one:1"])
        .fails(2, &["--output"]);
}

#[test]
fn podman_reads_what_is_saved_and_the_other_way_round() {
    let project = built();
    if !has("podman") {
        return;
    }
    let id = inspect(&project, "one:1")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (format, compression) in [
        ("docker", "gzip"),
        ("oci", "zstd"),
        ("docker", "uncompressed"),
    ] {
        let args = [
            "save",
            "-o",
            "one.tar",
            "--format",
            format,
            "--compression",
            compression,
            "one:1",
        ];
        project.kiln(&args).ok();
        let archive = project.path("one.tar");
        tool(
            &project,
            &["podman", "load", "-q", "-i", archive.to_str().unwrap()],
        );
        let found = tool(
            &project,
            &[
                "podman",
                "images",
                "--no-trunc",
                "--format",
                "{{.ID}} {{.Repository}}:{{.Tag}}",
            ],
        );
        assert!(
            found.contains(&format!("{id} docker.io/library/one:1")),
            "{format}: {found}"
        );
        if (format, compression) == ("docker", "gzip") {
            for form in ["docker-archive", "oci-archive"] {
                let back = project.path(&format!("back-{form}.tar"));
                tool(
                    &project,
                    &[
                        "podman",
                        "save",
                        "-q",
                        "--format",
                        form,
                        "-o",
                        back.to_str().unwrap(),
                        "one:1",
                    ],
                );
                let other = Project::new("");
                let loaded = other.kiln(&["load", "-i", back.to_str().unwrap()]).ok();
                assert_eq!(loaded.text(), "Loaded image: one:1", "{form}");
                assert_eq!(inspect(&other, "one:1")["Id"], id.as_str(), "{form}");
            }
        }
        tool(&project, &["podman", "rmi", "-f", "one:1"]);
    }
}

#[test]
fn skopeo_reads_what_is_saved() {
    let project = built();
    if !has("skopeo") {
        return;
    }
    let id = inspect(&project, "one:1")["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    for (format, transport) in [
        ("docker", "docker-archive"),
        ("oci", "oci-archive"),
        ("oci-dir", "oci"),
    ] {
        let path = project.path(format);
        project
            .kiln(&[
                "save",
                "--format",
                format,
                "-o",
                path.to_str().unwrap(),
                "one:1",
            ])
            .ok();
        let source = format!("{transport}:{}", path.display());
        let raw = tool(&project, &["skopeo", "inspect", "--raw", &source]);
        let raw: Value = serde_json::from_str(&raw).unwrap();
        assert_eq!(raw["config"]["digest"], id.as_str(), "{format}");
        copied(&project, &source, transport, &id);
    }
}

/// What skopeo writes is loaded again.
fn copied(project: &Project, source: &str, transport: &str, id: &str) {
    let dest = project.path(&format!("copy-{transport}"));
    let name = if transport == "oci" { "" } else { ":one:1" };
    let target = format!("{transport}:{}{name}", dest.display());
    tool(
        project,
        &["skopeo", "--insecure-policy", "copy", "-q", source, &target],
    );
    let other = Project::new("");
    let loaded = other
        .kiln(&["load", "-i", Path::new(&dest).to_str().unwrap()])
        .ok();
    assert!(
        loaded.text().starts_with("Loaded image"),
        "{}",
        loaded.text()
    );
    let name = if transport == "oci" { id } else { "one:1" };
    assert_eq!(inspect(&other, name)["Id"], id, "{transport}");
}
