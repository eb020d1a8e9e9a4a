//! Where results go, and what is printed about them.

use crate::support::{Project, Run, files_below, unpack};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;

const DOCKERFILE: &str = "\
FROM busybox AS base
RUN mkdir /made && echo text > /made/file && chmod 4755 /made/file && ln -s file /made/link
FROM scratch
COPY --from=base /made /made
COPY f /f
CMD [\"/f\"]
";

fn project() -> Project {
    let project = Project::new(DOCKERFILE);
    project.write("f", "content");
    project
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// CLI:output, CLI:tag.
#[test]
fn several_outputs_of_one_build() {
    let project = project();
    let mut args = vec!["-t", "name:1", "-t", "other", "--label", "a=b"];
    for output in [
        "type=oci,dest=oci.tar",
        "type=docker,dest=docker.tar",
        "type=oci,dest=layout,tar=false",
        "type=oci,dest=zstd.tar,compression=zstd,force-compression=true",
        "type=tar,dest=files.tar",
        "type=local,dest=files",
        "type=image",
    ] {
        args.extend(["-o", output]);
    }
    project.build(&args).ok();
    testkit::validate(&project.path("layout")).unwrap();
    for name in ["oci", "docker", "zstd"] {
        let layout = unpack(&project.path(&format!("{name}.tar")), &project.path(name));
        testkit::validate(&layout).unwrap();
        let tree = testkit::merged_tree(&layout, "1").unwrap();
        assert_eq!(tree["made/file"].mode & 0o7777, 0o4755, "{name}");
        assert_eq!(tree["f"].size, 7, "{name}");
        let manifest = testkit::manifest_of(&layout, "1").unwrap();
        let media_type = manifest["layers"][0]["mediaType"].as_str().unwrap();
        assert_eq!(media_type.ends_with("zstd"), name == "zstd", "{media_type}");
    }
    let docker = json(&project.path("docker/manifest.json"));
    let tags: Vec<_> = docker[0]["RepoTags"].as_array().unwrap().iter().collect();
    assert_eq!(tags.len(), 2, "{docker}");
    let config = json(
        &project
            .path("docker")
            .join(docker[0]["Config"].as_str().unwrap()),
    );
    assert_eq!(config["config"]["Labels"]["a"], "b");
    for layer in docker[0]["Layers"].as_array().unwrap() {
        assert!(
            project
                .path("docker")
                .join(layer.as_str().unwrap())
                .is_file()
        );
    }

    assert_eq!(fs::read(project.path("files/f")).unwrap(), b"content");
    assert_eq!(
        fs::read_link(project.path("files/made/link")).unwrap(),
        Path::new("file")
    );
    let mode = fs::metadata(project.path("files/made/file"))
        .unwrap()
        .mode();
    assert_eq!(mode & 0o777, 0o755);
    let entries = testkit::tar_entries(&project.path("files.tar")).unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["f", "made", "made/file", "made/link"]);
    let mut images = project.images();
    images.sort();
    assert_eq!(
        images,
        ["docker.io/library/name:1", "docker.io/library/other:latest"]
    );
}

#[test]
fn a_tar_on_standard_output_is_all_that_is_there() {
    let project = project();
    for args in [
        &["-o", "-"][..],
        &["-q", "-o", "-"],
        &["-o", "type=tar,dest=-"],
    ] {
        let run = project.build(args).ok();
        let entries = testkit::read_entries(run.stdout.as_slice()).unwrap();
        assert_eq!(entries.len(), 4, "{args:?}");
    }
    let run = project.build(&["-o", "type=oci"]).ok();
    fs::write(project.path("oci.tar"), run.stdout).unwrap();
    let layout = unpack(&project.path("oci.tar"), &project.path("oci"));
    testkit::validate(&layout).unwrap();
}

#[test]
fn folders_are_added_to_not_replaced() {
    let project = project();
    fs::create_dir_all(project.path("out/made")).unwrap();
    fs::write(project.path("out/kept"), "mine").unwrap();
    fs::write(project.path("out/made/file"), "old").unwrap();
    project.build(&["-o", "out"]).ok();
    assert_eq!(fs::read(project.path("out/kept")).unwrap(), b"mine");
    assert_eq!(fs::read(project.path("out/made/file")).unwrap(), b"text\n");
    assert_eq!(files_below(&project.path("out")).len(), 3);
}

/// CLI:iidfile, CLI:metadata-file.
#[test]
fn ids_and_metadata() {
    let project = project();
    let args = [
        "-t",
        "x:1",
        "--iidfile",
        "id",
        "--metadata-file",
        "metadata",
    ];
    let run = project.build(&args).ok();
    assert_eq!(run.text(), "");
    let id = fs::read_to_string(project.path("id")).unwrap();
    let metadata = json(&project.path("metadata"));
    assert_eq!(metadata["containerimage.config.digest"], id);
    assert_eq!(metadata["image.name"], "docker.io/library/x:1");
    let digest = &metadata["containerimage.digest"];
    assert_eq!(&metadata["containerimage.descriptor"]["digest"], digest);
    let inspected: Value =
        serde_json::from_slice(&project.kiln(&["inspect", "--raw", "x:1"]).ok().stdout).unwrap();
    assert_eq!(inspected[0]["id"], id);
    assert_eq!(&inspected[0]["digest"], digest);

    for args in [
        &["-q"][..],
        &["-q", "-t", "y"],
        &["-q", "--no-cache", "--iidfile", "id"],
    ] {
        let run = project.build_quiet(args);
        assert_eq!(run.stderr, "", "{args:?}");
        let text = run.text().to_owned();
        assert!(text.starts_with("sha256:") && text.len() == 71, "{text}");
    }
    assert_eq!(project.build_quiet(&["-q"]).text(), id);
}

impl Project {
    /// A build with the flags of the test alone.
    #[track_caller]
    fn build_quiet(&self, args: &[&str]) -> Run {
        let mut command = self.command(&["build"]);
        command
            .args(crate::support::with_busybox())
            .args(args)
            .arg("context");
        self.run(command).ok()
    }
}

/// CLI:progress, CLI:quiet.
#[test]
fn progress_modes() {
    let project = Project::new("FROM busybox\nRUN echo tick; echo tock >&2\n");
    let plain = project.build_quiet(&["--progress", "plain"]);
    assert!(
        plain.stderr.lines().any(|line| line.ends_with(" tick")),
        "{}",
        plain.stderr
    );
    assert!(
        plain.stderr.lines().any(|line| line.ends_with(" tock")),
        "{}",
        plain.stderr
    );
    // A file is no terminal: the default is the same, without escape sequences.
    let auto = project.build_quiet(&["--no-cache"]);
    assert!(
        auto.stderr.contains("#2 ") && !auto.stderr.contains('\x1b'),
        "{}",
        auto.stderr
    );
    let quiet = project.build_quiet(&["--no-cache", "--progress", "quiet"]);
    assert_eq!(quiet.stderr, "");

    let raw = project.build_quiet(&["--no-cache", "--progress", "rawjson"]);
    let mut names = Vec::new();
    for line in raw.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let vertexes = line["vertexes"].as_array().cloned().unwrap_or_default();
        names.extend(
            vertexes
                .iter()
                .map(|vertex| vertex["name"].as_str().unwrap().to_owned()),
        );
    }
    assert!(
        names.iter().any(|name| name.contains("RUN echo tick")),
        "{names:?}"
    );
    let (tick, tock) = ("dGljawo=", "dG9jawo=");
    assert!(
        raw.stderr.contains(tick) && raw.stderr.contains(tock),
        "{}",
        raw.stderr
    );
}

/// CLI:environment.
#[test]
fn the_environment_chooses_progress_and_colour() {
    let project = Project::new("FROM busybox\nRUM\n");
    let coloured = |variables: &[(&str, &str)]| {
        let mut command = project.build_command(&[]);
        command.envs(variables.iter().copied());
        project
            .run(command)
            .fails(1, &["unknown instruction"])
            .stderr
            .contains('\x1b')
    };
    assert!(!coloured(&[]));
    assert!(coloured(&[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));

    project.write("Dockerfile", "FROM busybox\nRUN true\n");
    let mut command = project.command(&["build"]);
    command.args(crate::support::with_busybox()).arg("context");
    command.env("BUILDKIT_PROGRESS", "rawjson");
    assert!(project.run(command).ok().stderr.starts_with('{'));
    let mut command = project.command(&["build", "context"]);
    command.env("BUILDKIT_PROGRESS", "nonsense");
    project
        .run(command)
        .fails(2, &["BUILDKIT_PROGRESS", "rawjson"]);
}

#[test]
fn a_dockerfile_from_standard_input() {
    let project = project();
    for args in [&["-"][..], &["-f", "-", "context"]] {
        let mut command = project.command(&["build", "-q"]);
        command.args(crate::support::with_busybox()).args(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"FROM busybox\nRUN echo hi\n").unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.starts_with(b"sha256:"), "{output:?}");
    }
}
