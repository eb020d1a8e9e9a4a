//! Build arguments, labels, annotations, and the flags of other builders.

use crate::support::Project;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The documents of a layout: its index, and what the first entry leads to.
struct Layout {
    index: Value,
    top: Value,
    manifest: Value,
    config: Value,
}

fn read(dir: &Path) -> Layout {
    let blob = |digest: &Value| {
        let digest = digest.as_str().unwrap().replace(':', "/");
        json(&dir.join("blobs").join(digest))
    };
    let index = json(&dir.join("index.json"));
    let top = blob(&index["manifests"][0]["digest"]);
    let manifest = match top.get("manifests") {
        Some(manifests) => blob(&manifests[0]["digest"]),
        None => top.clone(),
    };
    let config = blob(&manifest["config"]["digest"]);
    Layout {
        index,
        top,
        manifest,
        config,
    }
}

fn build(project: &Project, args: &[&str]) -> Layout {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    read(&project.valid_layout(&format!("layout{number}"), args))
}

const PRINT: &str = "FROM busybox\nARG A\nARG B=default\nARG C\nRUN echo \"a=${A-unset} b=$B c=${C-unset}\" > /args\n";

fn printed(project: &Project, mut command: std::process::Command) -> String {
    command.args(["-o", "out"]);
    project.run(command).ok();
    fs::read_to_string(project.path("out/args")).unwrap()
}

// CLI:build-arg
#[test]
fn m06_values_come_from_the_flag_or_the_environment() {
    let project = Project::new(PRINT);
    let mut command =
        project.build_command(&["--build-arg", "A", "--build-arg", "B", "--build-arg", "C="]);
    command.env("A", "from env").env_remove("B");
    assert_eq!(printed(&project, command), "a=from env b=default c=\n");
    let command = project.build_command(&["--build-arg", "A=1=2", "--build-arg", "A=3"]);
    assert_eq!(printed(&project, command), "a=3 b=default c=unset\n");
    project
        .build(&["--build-arg", "=x"])
        .fails(2, &["invalid key-value pair \"=x\": empty key"]);
    let unused = project.build(&["--build-arg", "UNKNOWN=1"]).ok();
    assert!(
        unused
            .stderr
            .contains("One or more build-args [UNKNOWN] were not consumed"),
        "{}",
        unused.stderr
    );
}

// CLI:build-arg CLI:environment
#[test]
fn build_arg_files_hold_lines_and_later_ones_win() {
    let project = Project::new(PRINT);
    fs::write(
        project.path("first"),
        "# comment\n\n  A=one two\nB='as it is'\nC=first\n",
    )
    .unwrap();
    fs::write(project.path("second"), "C=second\nENVIRONMENT_A\n").unwrap();
    let files = ["--build-arg-file", "first", "--build-arg-file", "second"];
    let command = project.build_command(&files);
    assert_eq!(
        printed(&project, command),
        "a=one two b='as it is' c=second\n"
    );
    let command = project.build_command(&[&["--build-arg", "C=flag"], &files[..]].concat());
    assert_eq!(
        printed(&project, command),
        "a=one two b='as it is' c=flag\n"
    );
    project
        .build(&["--build-arg-file", "nope"])
        .fails(1, &["could not read nope"]);
    fs::write(project.path("bad"), "=x\n").unwrap();
    project
        .build(&["--build-arg-file", "bad"])
        .fails(2, &["bad: invalid key-value pair", "empty key"]);
}

// CLI:label
#[test]
fn m01_labels_of_flags_win() {
    let project = Project::new("FROM scratch\nLABEL a=file b=file\n");
    let labels = [
        "--label", "a=flag", "--label", "c", "--label", "d=x=y", "--label", "a=last",
    ];
    let config = build(&project, &labels).config;
    assert_eq!(
        config["config"]["Labels"],
        json!({"a": "last", "b": "file", "c": "", "d": "x=y"})
    );
    let history = config["history"].as_array().unwrap();
    assert_eq!(history.len(), 1, "flags leave no history");
    project.build(&["--label", "=x"]).fails(2, &["empty key"]);
}

#[test]
fn m07_proxies_reach_commands_and_nothing_else() {
    let names = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "FTP_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
    ];
    let project = Project::new("FROM busybox\nRUN env > /env\n");
    let mut args = Vec::new();
    for name in names {
        args.push("--build-arg".to_owned());
        args.push(format!("{}=value-of-{name}", name.to_lowercase()));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let config = build(&project, &args).config;
    assert!(!config.to_string().contains("value-of"), "{config}");
    project.build(&[&args[..], &["-o", "out"]].concat()).ok();
    let env = fs::read_to_string(project.path("out/env")).unwrap();
    for name in names {
        for name in [name.to_owned(), name.to_lowercase()] {
            let line = format!("{name}=value-of-{}", name.to_uppercase());
            assert!(env.lines().any(|known| known == line), "{line} in\n{env}");
        }
    }
    // Another value, the same step.
    let again = project.build(&["--build-arg", "HTTP_PROXY=other"]).ok();
    assert_eq!(again.step("RUN env"), "CACHED");
}

#[test]
fn m07_the_docker_configuration_gives_proxies() {
    let project = Project::new("FROM busybox\nRUN echo $http_proxy $NO_PROXY > /args\n");
    let config = r#"{"proxies":{"default":{"httpProxy":"http://p:1","noProxy":"local"}}}"#;
    fs::create_dir(project.path("docker")).unwrap();
    fs::write(project.path("docker/config.json"), config).unwrap();
    let mut command = project.build_command(&[
        "--build-arg",
        "NO_PROXY=mine",
        "--build-arg",
        "no_proxy=mine",
    ]);
    command.env("DOCKER_CONFIG", project.path("docker"));
    assert_eq!(printed(&project, command), "http://p:1 mine\n");
}

#[test]
fn m09_buildkit_args_need_no_declaration() {
    let project = Project::new("FROM busybox\nRUN hostname > /args\n");
    let accepted = [
        "BUILDKIT_BUILD_NAME=n",
        "BUILDKIT_CACHE_MOUNT_NS=n",
        "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1",
        "BUILDKIT_INLINE_CACHE=1",
        "BUILDKIT_MULTI_PLATFORM=0",
        "BUILDKIT_SANDBOX_HOSTNAME=thishost",
        "BUILDKIT_SYNTAX=docker/dockerfile:1",
        "BUILDKIT_DOCKERFILE_CHECK=skip=all",
        "BUILDKIT_SBOM_SCAN_CONTEXT=1",
        "BUILDKIT_SBOM_SCAN_STAGE=1",
        "SOURCE_DATE_EPOCH=1",
    ];
    let args: Vec<&str> = accepted
        .iter()
        .flat_map(|arg| ["--build-arg", arg])
        .collect();
    let run = project.build(&[&args[..], &["-o", "out"]].concat()).ok();
    assert!(!run.stderr.contains("not consumed"), "{}", run.stderr);
    let host = fs::read_to_string(project.path("out/args")).unwrap();
    assert_eq!(host, "thishost\n");
}

#[test]
fn m09_multi_platform_makes_an_index_of_one() {
    let project = Project::new("FROM busybox\nLABEL a=b\n");
    let layout = build(&project, &["--build-arg", "BUILDKIT_MULTI_PLATFORM=1"]);
    assert_eq!(layout.top["manifests"].as_array().unwrap().len(), 1);
    assert!(layout.top["manifests"][0]["platform"]["architecture"].is_string());
    for (args, says) in [
        (
            &["--build-arg", "BUILDKIT_MULTI_PLATFORM=x"][..],
            "invalid boolean value for multi-platform: x",
        ),
        (
            &[
                "--build-arg",
                "BUILDKIT_MULTI_PLATFORM=0",
                "--platform",
                "linux/amd64,linux/arm64",
            ][..],
            "returning multiple target platforms is not allowed",
        ),
    ] {
        project.build(args).fails(1, &[says]);
    }
}

// CLI:annotation CLI:metadata-file
#[test]
fn a03_annotations_of_one_platform() {
    let project = Project::new("FROM scratch\nLABEL a=b\n");
    let layout = build(
        &project,
        &[
            "--annotation",
            "a=1",
            "--annotation",
            "manifest-descriptor:b=2",
            "--annotation",
            "manifest[linux/riscv64]:other=1",
            "--metadata-file",
            "metadata",
        ],
    );
    assert_eq!(layout.manifest["annotations"], json!({"a": "1"}));
    let entry = &layout.index["manifests"][0];
    assert_eq!(entry["annotations"]["b"], "2");
    let metadata = json(&project.path("metadata"));
    assert_eq!(
        metadata["containerimage.descriptor"]["annotations"]["b"],
        "2"
    );
    for flag in ["index:a=b", "index-descriptor:a=b"] {
        project.build(&["--annotation", flag]).fails(
            1,
            &["index annotations not supported for single platform export"],
        );
    }
    project
        .build(&["--annotation", "foo:a=b"])
        .fails(2, &["unknown annotation type \"foo\""]);
}

// CLI:platform
#[test]
fn a03_annotations_of_several_platforms_and_of_outputs() {
    let project = Project::new("FROM scratch\nLABEL a=b\n");
    let dest = project.path("several");
    let output = format!(
        "type=oci,tar=false,dest={},annotation.Key=out,annotation-index.c=out,annotation-manifest-descriptor[linux/arm64].e=5",
        dest.display()
    );
    project
        .build(&[
            "--platform",
            "linux/amd64,linux/arm64",
            "--annotation",
            "manifest,manifest-descriptor:a=1",
            "--annotation",
            "index:c=flag",
            "--annotation",
            "index-descriptor:d=4",
            "--annotation",
            "manifest[linux/arm64]:f=6",
            "-o",
            &output,
        ])
        .ok();
    testkit::validate(&dest).unwrap();
    let layout = read(&dest);
    assert_eq!(layout.index["manifests"][0]["annotations"]["d"], "4");
    assert_eq!(layout.top["annotations"], json!({"c": "out"}));
    assert_eq!(layout.top["manifests"][0]["annotations"], json!({"a": "1"}));
    assert_eq!(
        layout.top["manifests"][1]["annotations"],
        json!({"a": "1", "e": "5"})
    );
    assert_eq!(
        layout.manifest["annotations"],
        json!({"a": "1", "key": "out"})
    );
}

// CLI:builder CLI:cache-from CLI:cache-to CLI:load CLI:push CLI:provenance CLI:sbom CLI:attest
#[test]
fn flags_of_other_builders_that_ask_for_nothing_pass() {
    let project = Project::new("FROM scratch\nLABEL a=b\n");
    let run = project
        .build(&[
            "--provenance=false",
            "--sbom=false",
            "--attest",
            "type=provenance,disabled=true",
            "--attest",
            "type=sbom,disabled=true",
            "--builder",
            "default",
            "--load",
            "--push=false",
            "--rm",
            "--isolation",
            "default",
        ])
        .ok();
    assert!(
        run.stderr.contains("WARNING: --rm, --force-rm"),
        "{}",
        run.stderr
    );
    for flag in ["--cache-from", "--cache-to"] {
        let says = ["type=gha is not supported", "type=registry"];
        project.build(&[flag, "type=gha,mode=max"]).fails(2, &says);
    }
}

// CLI:push CLI:policy CLI:attest CLI:provenance CLI:sbom
#[test]
fn flags_that_ask_for_what_is_not_there_are_refused() {
    let project = Project::new("FROM scratch\nLABEL a=b\n");
    let cases: [(&[&str], &str); 10] = [
        (&["--push"], "tag is needed when pushing to registry"),
        (&["--provenance"], "attestations are not supported yet"),
        (
            &["--provenance=mode=max"],
            "attestations are not supported yet",
        ),
        (&["--provenance=perhaps"], "invalid value \"perhaps\""),
        (&["--sbom=true"], "attestations are not supported yet"),
        (
            &["--attest", "type=sbom"],
            "attestations are not supported yet",
        ),
        (
            &["--attest", "type=foo"],
            "unknown attestation type \"foo\"",
        ),
        (&["--policy", "x"], "--policy is not supported yet"),
        (
            &["--isolation", "hyperv"],
            "--isolation hyperv is for Windows containers",
        ),
        (
            &["--isolation", "some"],
            "invalid value \"some\" for '--isolation'",
        ),
    ];
    for (args, says) in cases {
        project.build(args).fails(2, &[says]);
    }
    assert!(!project.store().join("blobs").exists(), "nothing was begun");
}

// CLI:load
#[test]
fn load_adds_the_store_to_other_outputs() {
    let project = Project::new("FROM scratch\nLABEL a=b\n");
    project
        .build(&["-t", "one", "-o", "type=oci,dest=a.tar"])
        .ok();
    assert_eq!(project.images(), [""; 0]);
    project
        .build(&["-t", "one", "--load", "-o", "type=oci,dest=a.tar"])
        .ok();
    assert_eq!(project.images(), ["docker.io/library/one:latest"]);
}

// CLI:iidfile
#[test]
fn image_id_files_need_an_image() {
    let project = Project::new("FROM scratch\nCOPY Dockerfile /\n");
    project.build(&["--iidfile", "id", "-o", "out"]).fails(
        2,
        &["local and tar exporters are incompatible with image ID file"],
    );
}

// CLI:progress
#[test]
fn progress_none_says_nothing_at_all() {
    let project = Project::new("FROM busybox\nRUN echo tick\n");
    let mut command = project.command(&["build", "--progress=none"]);
    command.args(crate::support::with_busybox()).arg("context");
    let run = project.run(command).ok();
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
}

#[test]
fn d06_other_frontends_are_refused_before_the_file_is_read_as_a_dockerfile() {
    let project = Project::new(
        "#!/usr/bin/env builder\n# syntax=example.com/other:1 # x\nnot: a Dockerfile\n",
    );
    let says =
        "syntax=example.com/other:1: frontends other than docker/dockerfile are not supported";
    project.build(&[]).fails(1, &[says, "Dockerfile:2:10"]);
    project.write("Dockerfile", "{\"syntax\": \"example.com/other:1\"}\n");
    project.build(&[]).fails(1, &[says, "Dockerfile:1"]);
    project.write(
        "Dockerfile",
        "# syntax=docker/dockerfile:1.7-labs\nFROM scratch\nLABEL a=b\n",
    );
    project.build(&[]).ok();
}

#[test]
fn d11_the_build_arg_chooses_the_frontend() {
    let project = Project::new("# syntax=example.com/other:1\nFROM scratch\nLABEL a=b\n");
    for name in ["docker/dockerfile:1", "dockerfile.v0"] {
        let arg = format!("BUILDKIT_SYNTAX={name}");
        project.build(&["--build-arg", &arg]).ok();
    }
    project.write("Dockerfile", "FROM scratch\nLABEL a=b\n");
    project.build(&["--build-arg", "BUILDKIT_SYNTAX="]).ok();
    project
        .build(&["--build-arg", "BUILDKIT_SYNTAX=foo/bar"])
        .fails(
            1,
            &["BUILDKIT_SYNTAX=foo/bar: frontends other than docker/dockerfile"],
        );
}

#[test]
fn windows_images_are_refused() {
    let project = Project::new("ARG OS=windows\nFROM --platform=$OS/amd64 busybox\n");
    let says = "Windows images are not supported";
    project.build(&[]).fails(1, &[says, "Dockerfile:2"]);
    project
        .build(&["--platform", "windows/amd64"])
        .fails(2, &[says]);
}

#[test]
fn squash_makes_one_layer_over_the_base() {
    let project = Project::new(
        "FROM busybox AS base\nRUN mkdir -p /old/kept /old/sub && echo 1 > /old/a && echo 2 > /old/sub/b && echo 3 > /gone\n\
         FROM base\nRUN rm /gone /bin/vi && echo tmp > /tmp/x && ln -s x /tmp/l\nCOPY Dockerfile /d/\n\
         RUN rm -r /old && mkdir -p /old/sub && echo new > /old/sub/c && ln /old/sub/c /old/hard && rm /tmp/x\n\
         RUN rm -r /bin/[ /usr && mkdir /usr && echo root > /usr/only\nENV A=b\n",
    );
    let plain = build(&project, &[]);
    let squashed = build(&project, &["--squash", "-t", "squashed"]);
    let layers = |layout: &Layout| layout.manifest["layers"].as_array().unwrap().len();
    assert_eq!((layers(&plain), layers(&squashed)), (6, 2));
    assert_eq!(
        squashed.manifest["layers"][0], plain.manifest["layers"][0],
        "the base's layer stays"
    );
    let history = squashed.config["history"].as_array().unwrap();
    let with_layer = history.iter().filter(|entry| entry["empty_layer"] != true);
    assert_eq!(with_layer.count(), 2);
    assert_eq!(history.last().unwrap()["comment"], "merge of 5 layers");
    assert!(history.iter().any(|entry| {
        entry["created_by"] == "COPY Dockerfile /d/ # buildkit" && entry["empty_layer"] == true
    }));

    // The files are the same, also where the one layer is laid over the base.
    let listing = |flags: &[&str], name: &str| {
        project
            .build(&[flags, &["-o", &format!("type=tar,dest={name}")]].concat())
            .ok();
        let bytes = fs::read(project.path(name)).unwrap();
        testkit::read_entries(bytes.as_slice()).unwrap()
    };
    let expected = listing(&[], "plain.tar");
    assert_eq!(listing(&["--squash"], "squashed.tar"), expected);
    let layout = project.valid_layout("again", &["--squash"]);
    project.write("Dockerfile", "FROM squashed\nENV again=1\n");
    let context = format!("squashed=oci-layout://{}", layout.display());
    assert_eq!(
        listing(&["--build-context", &context], "again.tar").len(),
        expected.len()
    );
}

// CLI:no-cache CLI:no-cache-filter
#[test]
fn no_cache_filter_runs_the_named_stages_again() {
    let project = Project::new(
        "FROM busybox AS One\nRUN echo one > /one\nFROM busybox AS two\nRUN echo two > /two\n\
         FROM busybox\nCOPY --from=one /one /\nCOPY --from=two /two /\nRUN echo last\n",
    );
    project.build(&[]).ok();
    let ended = |flags: &[&str]| {
        let run = project.build(flags).ok();
        ["RUN echo one", "RUN echo two", "RUN echo last"].map(|step| run.step(step))
    };
    assert_eq!(ended(&[]), ["CACHED"; 3]);
    // What comes out the same leaves what follows in the cache.
    assert_eq!(
        ended(&["--no-cache-filter", "one"]),
        ["DONE", "CACHED", "CACHED"]
    );
    assert_eq!(
        ended(&["--no-cache-filter", "TWO,one"]),
        ["DONE", "DONE", "CACHED"]
    );
    assert_eq!(ended(&["--no-cache"]), ["DONE"; 3]);
}
