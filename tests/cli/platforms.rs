//! Builds for several platforms: which there are, what they share, what they make.

use crate::support::{Project, Run};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Says in labels and a file what the automatic arguments are.
const TELL: &str = "FROM scratch\n\
    ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETSTAGE\n\
    LABEL platform=$TARGETPLATFORM os=$TARGETOS arch=$TARGETARCH variant=$TARGETVARIANT stage=$TARGETSTAGE\n\
    COPY Dockerfile /for/$TARGETPLATFORM\n";

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A layout's documents: the index over platforms, and their manifests and configs in its order.
struct Several {
    entry: Value,
    top: Value,
    manifests: Vec<Value>,
    configs: Vec<Value>,
}

impl Several {
    fn read(dir: &Path) -> Self {
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
            json(&dir.join("blobs").join(digest))
        };
        let entry = json(&dir.join("index.json"))["manifests"][0].clone();
        let top = blob(&entry);
        let manifests: Vec<Value> = match top["manifests"].as_array() {
            Some(list) => list.iter().map(blob).collect(),
            None => vec![top.clone()],
        };
        let configs = manifests.iter().map(|m| blob(&m["config"])).collect();
        Self {
            entry,
            top,
            manifests,
            configs,
        }
    }

    /// Platforms as the index has them, or of the only image.
    fn platforms(&self) -> Vec<String> {
        let of = |value: &Value| {
            let part = |name: &str| value[name].as_str().map(str::to_owned);
            let parts = [part("os"), part("architecture"), part("variant")];
            parts.into_iter().flatten().collect::<Vec<_>>().join("/")
        };
        match self.top["manifests"].as_array() {
            Some(list) => list.iter().map(|m| of(&m["platform"])).collect(),
            None => self.configs.iter().map(of).collect(),
        }
    }

    fn labels(&self, name: &str) -> Vec<&str> {
        let configs = self.configs.iter();
        configs
            .map(|config| config["config"]["Labels"][name].as_str().unwrap())
            .collect()
    }
}

fn build(project: &Project, args: &[&str]) -> Several {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Several::read(&project.valid_layout(&format!("layout{number}"), args))
}

fn host() -> String {
    planner::platform::Platform::host().to_string()
}

/// How often each step with this text ran, by the progress output.
fn ran(run: &Run, text: &str) -> usize {
    let steps = run.steps();
    let done = |(name, end): &&(String, String)| name.contains(text) && end == "DONE";
    steps.iter().filter(done).count()
}

// CLI:platform O09
#[test]
fn mp01_the_index_has_the_platforms_in_the_order_asked() {
    let project = Project::new(TELL);
    let own = host();
    let own = own.as_str();
    let cases: [(&[&str], &[&str]); 8] = [
        (
            &["linux/arm64,linux/amd64"],
            &["linux/arm64", "linux/amd64"],
        ),
        (
            &["linux/s390x", "linux/riscv64,linux/ppc64le", "linux/386"],
            &["linux/s390x", "linux/riscv64", "linux/ppc64le", "linux/386"],
        ),
        (
            &["linux/arm64/v8,arm64,linux/arm/v7,linux/arm,aarch64,armhf"],
            &["linux/arm64", "linux/arm/v7"],
        ),
        (&["local"], &[own]),
        (&["local,linux/loong64,LOCAL"], &[own, "linux/loong64"]),
        (&["linux/amd64/v1, linux/x86_64"], &["linux/amd64"]),
        (
            &["linux()/amd64,darwin/arm64"],
            &["linux/amd64", "darwin/arm64"],
        ),
        (&["linux"], &[own]),
    ];
    for (flags, expected) in cases {
        let args: Vec<&str> = flags.iter().flat_map(|flag| ["--platform", flag]).collect();
        let built = build(&project, &args);
        assert_eq!(built.platforms(), expected, "{flags:?}");
        assert_eq!(built.labels("platform"), expected, "{flags:?}");
        let index = "application/vnd.oci.image.index.v1+json";
        assert_eq!(
            built.top["mediaType"] == index,
            expected.len() > 1,
            "{flags:?}"
        );
    }
}

#[test]
fn mp02_what_platforms_share_runs_once() {
    let project = Project::new(
        "FROM --platform=$BUILDPLATFORM busybox AS tools\n\
         RUN echo shared > /shared\n\
         FROM tools AS compile\n\
         ARG TARGETARCH\n\
         RUN echo $TARGETARCH > /arch\n\
         FROM scratch\n\
         COPY Dockerfile /same\n\
         COPY --from=tools /shared /shared\n\
         COPY --from=compile /arch /arch\n",
    );
    let args = [
        "--platform",
        "linux/amd64,linux/arm64,linux/riscv64",
        "-o",
        "out",
    ];
    let run = project.build(&args).ok();
    let counts = [
        ("RUN echo shared", 1),
        ("FROM docker.io/library/busybox", 0),
        ("COPY Dockerfile /same", 1),
        ("COPY --from=tools", 1),
        ("COPY --from=compile", 3),
    ];
    for (step, expected) in counts {
        assert_eq!(ran(&run, step), expected, "{step} in:\n{}", run.stderr);
    }
    for architecture in ["amd64", "arm64", "riscv64"] {
        assert_eq!(
            ran(&run, &format!("RUN echo {architecture} ")),
            1,
            "{}",
            run.stderr
        );
        let folder = project.path("out").join(format!("linux_{architecture}"));
        assert_eq!(
            fs::read_to_string(folder.join("arch")).unwrap(),
            format!("{architecture}\n")
        );
        assert_eq!(
            fs::read_to_string(folder.join("shared")).unwrap(),
            "shared\n"
        );
    }
    // A platform more costs only what differs.
    let more = [
        "--platform",
        "linux/s390x,linux/arm64",
        "-o",
        "type=cacheonly",
    ];
    let run = project.build(&more).ok();
    assert_eq!(run.step("RUN echo shared"), "CACHED");
    assert_eq!(run.step("RUN echo arm64"), "CACHED");
    assert_eq!(run.step("RUN echo s390x"), "DONE");

    // Layers that do not depend on the platform are the same blobs.
    let built = build(&project, &args[..2]);
    let layers = |n: usize| built.manifests[n]["layers"].as_array().unwrap();
    for n in 1..3 {
        assert_eq!(layers(0)[0], layers(n)[0]);
        assert_ne!(layers(0)[2], layers(n)[2]);
    }
}

#[test]
fn mp03_a_base_gives_the_nearest_variant() {
    let base = Project::new(TELL);
    let flavours = "linux/arm/v5,linux/arm/v7,linux/arm64,linux/amd64,linux/amd64/v2,linux/386";
    let layout = base.valid_layout("base", &["--platform", flavours]);
    let project = Project::new("FROM base\nENV A=b\n");
    let context = format!("base=oci-layout://{}", layout.display());
    for (asked, base) in [
        ("linux/arm/v5", "linux/arm/v5"),
        ("linux/arm/v6", "linux/arm/v5"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("linux/amd64/v3", "linux/amd64/v2"),
        ("linux/amd64", "linux/amd64"),
        ("linux/i686", "linux/386"),
    ] {
        let built = build(
            &project,
            &["--platform", asked, "--build-context", &context],
        );
        assert_eq!(built.labels("platform"), [base], "{asked}");
        let asked: planner::platform::Platform = asked.parse().unwrap();
        assert_eq!(built.platforms(), [asked.to_string()]);
    }
    let args = [
        "--platform",
        "linux/riscv64,linux/arm",
        "--build-context",
        &context,
    ];
    let says = "it has no image for linux/riscv64; platforms there are: linux/386, linux/amd64, linux/amd64/v2, linux/arm/v5";
    project
        .build(&args)
        .fails(1, &["no match for platform in manifest", says]);
}

#[test]
fn mp04_automatic_arguments_of_each_platform() {
    let project = Project::new(&TELL.replace("FROM scratch", "FROM scratch AS Last"));
    let built = build(
        &project,
        &["--platform", "linux/arm/v6,linux/arm64/v8,linux/amd64/v3"],
    );
    assert_eq!(
        built.labels("platform"),
        ["linux/arm/v6", "linux/arm64", "linux/amd64/v3"]
    );
    assert_eq!(built.labels("os"), ["linux"; 3]);
    assert_eq!(built.labels("arch"), ["arm", "arm64", "amd64"]);
    assert_eq!(built.labels("variant"), ["v6", "", "v3"]);
    assert_eq!(built.labels("stage"), ["last"; 3]);

    // Those of the machine that builds, the same for all; a build arg wins over both.
    project.write(
        "Dockerfile",
        "FROM scratch\nARG BUILDPLATFORM BUILDOS BUILDARCH BUILDVARIANT TARGETOSVERSION TARGETARCH\n\
         LABEL b=$BUILDPLATFORM,$BUILDOS,$BUILDARCH,$BUILDVARIANT v=$TARGETOSVERSION arch=$TARGETARCH\n",
    );
    let own = planner::platform::Platform::host();
    let expected = format!(
        "{own},{},{},{}",
        own.os,
        own.architecture,
        own.variant.clone().unwrap_or_default()
    );
    let built = build(
        &project,
        &[
            "--platform",
            "linux/s390x,linux(7.1)/arm64",
            "--build-arg",
            "TARGETARCH=mine",
        ],
    );
    assert_eq!(built.labels("b"), [&expected, &expected]);
    assert_eq!(built.labels("v"), ["", "7.1"]);
    assert_eq!(built.labels("arch"), ["mine", "mine"]);
    assert_eq!(built.top["manifests"][1]["platform"]["os.version"], "7.1");
}

#[test]
fn mp05_the_environment_has_a_default() {
    let project = Project::new(TELL);
    let with = |value: &str, args: &[&str]| {
        let output = format!("type=oci,tar=false,dest={}", project.path("out").display());
        let mut command = project.build_command(&[args, &["-o", &output]].concat());
        command.env("DOCKER_DEFAULT_PLATFORM", value);
        let run = project.run(command);
        let built = (run.status == 0).then(|| Several::read(&project.path("out")).platforms());
        let _ = fs::remove_dir_all(project.path("out"));
        (built, run.stderr)
    };
    assert_eq!(with("linux/arm64", &[]).0.unwrap(), ["linux/arm64"]);
    assert_eq!(
        with("linux/arm64,linux/s390x", &[]).0.unwrap(),
        ["linux/arm64", "linux/s390x"]
    );
    assert_eq!(with("", &[]).0.unwrap(), [host()]);
    assert_eq!(
        with("linux/arm64", &["--platform", "linux/386"]).0.unwrap(),
        ["linux/386"]
    );
    assert_eq!(
        with("bogus", &["--platform", "linux/386"]).0.unwrap(),
        ["linux/386"]
    );
    let (built, stderr) = with("bogus", &[]);
    assert!(
        built.is_none() && stderr.contains("\"bogus\": unknown operating system"),
        "{stderr}"
    );
}

#[test]
fn mp06_bad_platforms_are_told_in_the_usual_words() {
    let project = Project::new(TELL);
    for (flag, says) in [
        (
            "bogus",
            r#""bogus": unknown operating system or architecture: invalid argument"#,
        ),
        (
            "linux/a/b/c",
            r#""linux/a/b/c": cannot parse platform specifier: invalid argument"#,
        ),
        (
            "linux/amd64,li*nux",
            r#""li*nux": wildcards not yet supported: invalid argument"#,
        ),
        (
            "linux/@",
            r#""@" is an invalid component of "linux/@": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument"#,
        ),
        (
            "linux/amd64,",
            r#""" is an invalid OS component of "": OSAndVersion specifier component must match"#,
        ),
        ("", r#""" is an invalid OS component of """#),
    ] {
        project.build(&["--platform", flag]).fails(2, &[says]);
        if !flag.contains(',') && !flag.is_empty() {
            project.write("Dockerfile", format!("FROM --platform={flag} busybox\n"));
            let of_file = format!("failed to parse platform {flag}: {says}");
            project.build(&[]).fails(1, &[&of_file, "Dockerfile:1"]);
        }
    }
}

#[test]
fn mp07_an_index_of_one_or_none_of_several() {
    let project = Project::new(TELL);
    let multi = |value: &'static str| ["--build-arg", value, "--platform", "linux/arm64"];
    let built = build(&project, &multi("BUILDKIT_MULTI_PLATFORM=true"));
    assert_eq!(built.top["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(built.platforms(), ["linux/arm64"]);
    let args = multi("BUILDKIT_MULTI_PLATFORM=1");
    project.build(&[&args[..], &["-o", "out"]].concat()).ok();
    assert!(project.path("out/linux_arm64/for/linux/arm64").is_file());
    let args = multi("BUILDKIT_MULTI_PLATFORM=0");
    assert!(build(&project, &args).top.get("manifests").is_none());
    let args = [
        "--build-arg",
        "BUILDKIT_MULTI_PLATFORM=0",
        "--platform",
        "arm,arm64",
    ];
    let says = "returning multiple target platforms is not allowed";
    project.build(&args).fails(1, &[says]);
}

// A03
#[test]
fn mp08_annotations_at_four_levels() {
    let project = Project::new(TELL);
    let mut args = vec!["--platform", "linux/amd64,linux/arm/v7"];
    for annotation in [
        "a=all",
        "manifest[linux/arm/v7]:only=arm",
        "manifest[linux/arm]:same=arm",
        "manifest[linux/riscv64]:no=one",
        "index:b=index",
        "manifest-descriptor:c=each",
        "manifest-descriptor[linux/amd64]:d=amd64",
        "index-descriptor:e=top",
        "index,manifest:f=two",
    ] {
        args.extend(["--annotation", annotation]);
    }
    let built = build(&project, &args);
    assert_eq!(
        built.manifests[0]["annotations"],
        json!({"a": "all", "f": "two"})
    );
    assert_eq!(
        built.manifests[1]["annotations"],
        json!({"a": "all", "f": "two", "only": "arm", "same": "arm"})
    );
    assert_eq!(built.top["annotations"], json!({"b": "index", "f": "two"}));
    let descriptors = &built.top["manifests"];
    assert_eq!(
        descriptors[0]["annotations"],
        json!({"c": "each", "d": "amd64"})
    );
    assert_eq!(descriptors[1]["annotations"], json!({"c": "each"}));
    assert_eq!(built.entry["annotations"]["e"], "top");
}

#[test]
fn mp09_files_of_each_platform_have_a_folder() {
    let project = Project::new(TELL);
    let args = [
        "--platform",
        "linux/arm/v7,linux/amd64",
        "-o",
        "out",
        "-o",
        "type=tar,dest=out.tar",
    ];
    project.build(&args).ok();
    assert!(project.path("out/linux_arm_v7/for/linux/arm/v7").is_file());
    assert!(project.path("out/linux_amd64/for/linux/amd64").is_file());
    let entries = testkit::tar_entries(&project.path("out.tar")).unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry.path == "linux_arm_v7/for/linux/arm/v7")
    );
    let args = [
        "--platform",
        "linux/arm/v7,linux/amd64",
        "-o",
        "type=docker,dest=docker.tar",
    ];
    project
        .build(&args)
        .fails(1, &["manifest lists", "use the oci exporter"]);
}

/// A program for aarch64 that only the kernel's look at its header is to see.
fn foreign_program() -> Vec<u8> {
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    for half in [2_u16, 183] {
        program.extend(half.to_le_bytes());
    }
    program.resize(4096, 0);
    program
}

#[test]
fn mp10_commands_of_other_platforms_need_an_emulator() {
    let platform = if host() == "linux/arm64" {
        return;
    } else {
        "linux/arm64"
    };
    let handlers = fs::read_dir("/proc/sys/fs/binfmt_misc");
    let registered = |name: &str| name.contains("aarch64") || name.contains("arm64");
    if handlers.is_ok_and(|found| {
        found
            .flatten()
            .any(|e| registered(&e.file_name().to_string_lossy()))
    }) {
        eprintln!("SKIPPED: this machine runs programs of linux/arm64");
        return;
    }
    let project = Project::new("FROM scratch\nCOPY --chmod=755 program /bin/sh\nRUN echo x\n");
    project.write("program", foreign_program());
    let without_qemu = |args: &[&str]| {
        let mut command = project.build_command(args);
        command.env("PATH", project.path("context"));
        project.run(command)
    };
    let says = [
        "exec format error",
        "cannot run programs for linux/arm64: binfmt_misc has no handler for them",
        "no qemu-aarch64-static in PATH (Debian: package qemu-user-static)",
        "FROM --platform=$BUILDPLATFORM",
        "Dockerfile:3",
    ];
    without_qemu(&["--platform", platform]).fails(1, &says);
    // Programs that are not to be trusted, or of no use.
    project.write("qemu-aarch64", "#!/bin/sh\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(project.path("context/qemu-aarch64"), mode).unwrap();
    let refused = without_qemu(&["--platform", platform]).fails(1, &["install a static QEMU"]);
    assert!(
        refused.stderr.contains("context/qemu-aarch64 is no"),
        "{}",
        refused.stderr
    );
    // Told only where the platform is the reason.
    let run = project
        .build(&["--platform", "local"])
        .fails(1, &["exec format error"]);
    assert!(!run.stderr.contains("binfmt_misc"), "{}", run.stderr);
    // What an image says of itself refuses nothing: programs of this machine run, and nothing emulates them.
    project.write(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS native\nFROM scratch\nCOPY --from=native / /\nRUN echo x > /x\n",
    );
    let built = build(&project, &["--platform", platform]);
    assert_eq!(built.platforms(), [platform]);
    let run = project.build(&["--no-cache", "--platform", platform]).ok();
    assert!(!run.stderr.contains("emulated"), "{}", run.stderr);
}

#[test]
fn mp11_platforms_of_single_stages() {
    let project = Project::new(
        "ARG OTHER=linux/s390x\n\
         FROM --platform=$TARGETPLATFORM base AS target\n\
         FROM --platform=${OTHER} base AS other\n\
         FROM scratch\n\
         COPY --from=target /for /target\n\
         COPY --from=other /for /other\n",
    );
    let base = Project::new(TELL);
    let layout = base.valid_layout(
        "base",
        &["--platform", "linux/s390x,linux/amd64,linux/arm64"],
    );
    let context = format!("base=oci-layout://{}", layout.display());
    let args = [
        "--platform",
        "linux/amd64,linux/arm64",
        "--build-context",
        &context,
    ];
    let run = project.build(&[&args[..], &["-o", "out"]].concat()).ok();
    assert_eq!(
        ran(&run, "COPY --from=other"),
        2,
        "they stand on different layers"
    );
    for platform in ["amd64", "arm64"] {
        let folder = project.path("out").join(format!("linux_{platform}"));
        assert!(folder.join("target/linux").join(platform).is_file());
        assert!(folder.join("other/linux/s390x").is_file());
    }
    let one = [
        &args[..],
        &["--build-arg", "OTHER=linux/arm64", "-o", "one"],
    ]
    .concat();
    project.build(&one).ok();
    assert!(project.path("one/linux_amd64/other/linux/arm64").is_file());
}
