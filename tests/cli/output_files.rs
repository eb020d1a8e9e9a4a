//! Files of a build in folders and tars: `type=local`, `type=tar`.

use crate::support::{Project, able};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

/// Files that differ by platform, and with `same` one that does not.
const PLATFORMS: &str = "\
FROM scratch AS apart
ARG TARGETARCH
COPY f /shared/$TARGETARCH
COPY f /$TARGETARCH/f
FROM apart AS same
COPY f /same
";

fn platforms() -> Project {
    let project = Project::new(PLATFORMS);
    project.write("f", "content");
    project
}

/// Paths of files below a folder.
fn tree(dir: &Path) -> BTreeSet<String> {
    let name = |path: &Path| path.strip_prefix(dir).unwrap().display().to_string();
    crate::support::files_below(dir)
        .iter()
        .map(|path| name(path))
        .collect()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

const TWO: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];

#[test]
fn o01_local_keeps_modes_times_links_and_attributes() {
    let project = Project::new(
        "FROM busybox AS made\n\
         RUN mkdir -p /out/d/empty && echo a > /out/d/a && chown 5:6 /out/d/a && chmod 4751 /out/d/a \
         && ln /out/d/a /out/hard && ln -s d/a /out/sym && mkfifo /out/fifo && touch /out/root && chmod 6755 /out/root && mkdir -m 1777 /out/sticky \
         && chmod 500 /out/d/empty && touch -d '2020-01-02 03:04:05' /out/d/a /out/d\n\
         FROM scratch\nCOPY --from=made /out /\n",
    );
    project.build(&["-o", "out"]).ok();
    let meta = |path: &str| fs::symlink_metadata(project.path("out").join(path)).unwrap();
    assert_eq!(tree(&project.path("out")), names(["d/a", "hard", "root"]));
    // It belongs to whoever ran the build, and so a set-user-id bit could mean somebody else.
    assert_eq!(meta("d/a").mode() & 0o7777, 0o751);
    let bits = if crate::support::is_root() {
        0o6755
    } else {
        0o755
    };
    assert_eq!(meta("root").mode() & 0o7777, bits);
    assert_eq!(meta("d/a").uid(), rustix::process::geteuid().as_raw());
    assert_eq!(
        (meta("d/a").mtime(), meta("d").mtime()),
        (1_577_934_245, 1_577_934_245)
    );
    assert_eq!(meta("hard").ino(), meta("d/a").ino());
    assert_eq!(
        fs::read_link(project.path("out/sym")).unwrap(),
        Path::new("d/a")
    );
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(meta("sticky").mode() & 0o7777, 0o1777);
    assert_eq!(meta("d/empty").mode() & 0o7777, 0o500);
    // Once more over it, read-only folder and all.
    project
        .build(&["-o", "type=local,dest=out,mode=delete"])
        .ok();
    assert_eq!(tree(&project.path("out")), names(["d/a", "hard", "root"]));
}

#[test]
fn o01_local_extended_attributes() {
    let project = Project::new("FROM scratch\nCOPY f /f\n");
    let file = project.write("f", "content");
    let set = rustix::fs::setxattr(&file, "user.kiln", b"v", rustix::fs::XattrFlags::empty());
    if !able(set.is_ok(), "extended attributes of the user") {
        return;
    }
    project.build(&["-o", "out"]).ok();
    let mut value = [0; 8];
    let size = rustix::fs::getxattr(project.path("out/f"), "user.kiln", &mut value).unwrap();
    assert_eq!(&value[..size], b"v");
}

#[test]
fn o01_local_mode_delete_leaves_what_was_built() {
    let project = Project::new("FROM scratch\nCOPY f /d/f\nCOPY f /f\n");
    project.write("f", "content");
    let stale = || {
        fs::create_dir_all(project.path("out/d/gone/deep")).unwrap();
        fs::create_dir_all(project.path("outside")).unwrap();
        for file in [
            "out/stale",
            "out/d/stale",
            "out/d/gone/deep/f",
            "outside/mine",
        ] {
            fs::write(project.path(file), "old").unwrap();
        }
        fs::set_permissions(
            project.path("out/d/gone/deep"),
            fs::Permissions::from_mode(0o500),
        )
        .unwrap();
        let _ = symlink("../outside", project.path("out/way-out"));
        let _ = symlink("../../outside", project.path("out/d/way-out"));
    };
    stale();
    project.build(&["-o", "type=local,dest=out,mode=copy"]).ok();
    assert!(project.path("out/d/gone/deep/f").exists() && project.path("out/stale").exists());
    project
        .build(&["-o", "type=local,dest=out,mode=delete"])
        .ok();
    let left: BTreeSet<_> = fs::read_dir(project.path("out"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, names(["d", "f"]));
    assert_eq!(tree(&project.path("out")), names(["d/f", "f"]));
    // Links lead nowhere.
    assert_eq!(fs::read(project.path("outside/mine")).unwrap(), b"old");
}

#[test]
fn o01_local_follows_no_link_of_the_folder() {
    let project = Project::new("FROM scratch\nCOPY f /d/f\nCOPY f /g\n");
    project.write("f", "content");
    fs::create_dir_all(project.path("outside")).unwrap();
    fs::write(project.path("outside/f"), "mine").unwrap();
    for mode in ["copy", "delete"] {
        let _ = fs::remove_dir_all(project.path("out"));
        fs::create_dir_all(project.path("out")).unwrap();
        symlink("../outside", project.path("out/d")).unwrap();
        symlink("../outside/f", project.path("out/g")).unwrap();
        let output = format!("type=local,dest=out,mode={mode}");
        project.build(&["-o", &output]).ok();
        assert_eq!(fs::read(project.path("outside/f")).unwrap(), b"mine");
        assert_eq!(tree(&project.path("out")), names(["d/f", "g"]), "{mode}");
    }
}

#[test]
fn o01_local_mode_delete_of_several_platforms() {
    let project = platforms();
    for (keys, expected) in [
        (
            "",
            names([
                "linux_amd64/amd64/f",
                "linux_amd64/shared/amd64",
                "linux_arm64/arm64/f",
                "linux_arm64/shared/arm64",
            ]),
        ),
        (
            ",platform-split=false",
            names(["amd64/f", "arm64/f", "shared/amd64", "shared/arm64"]),
        ),
    ] {
        fs::create_dir_all(project.path("out/linux_amd64/old")).unwrap();
        fs::write(project.path("out/linux_amd64/old/f"), "").unwrap();
        fs::write(project.path("out/old"), "").unwrap();
        let output = format!("type=local,dest=out,mode=delete{keys}");
        project
            .build(&[&TWO[..], &["--target", "apart", "-o", &output]].concat())
            .ok();
        assert_eq!(tree(&project.path("out")), expected, "{keys}");
    }
}

#[test]
fn o01_local_mode_delete_asks_before_it_empties_other_folders() {
    let project = Project::new("FROM scratch\nCOPY f /f\n");
    project.write("f", "content");
    fs::create_dir_all(project.path("elsewhere")).unwrap();
    fs::create_dir_all(project.path("work")).unwrap();
    fs::write(project.path("elsewhere/mine"), "mine").unwrap();
    symlink(project.path("elsewhere"), project.path("work/link")).unwrap();
    let run = |output: &str, allow: &[&str]| {
        let mut command = project.command(&["build", "-o", output]);
        command.args(allow).arg("../context");
        command.current_dir(project.path("work"));
        project.run(command)
    };
    for dest in [
        "../elsewhere",
        "link",
        ".",
        "sub/../../elsewhere",
        "link/below",
    ] {
        let output = format!("type=local,dest={dest},mode=delete");
        run(&output, &[]).fails(2, &["--allow=buildx.local.delete", "mode=delete"]);
        assert!(project.path("elsewhere/mine").exists(), "{dest}");
    }
    let allow = ["--allow", "buildx.local.delete"];
    run("type=local,dest=../elsewhere,mode=delete", &allow).ok();
    assert_eq!(tree(&project.path("elsewhere")), names(["f"]));
    // Whatever is allowed, the store stays.
    run("type=local,dest=..,mode=delete", &allow).fails(1, &["the store is in it"]);
    assert!(project.path("context/f").exists());
}

#[test]
fn o01_local_platform_split() {
    let project = platforms();
    let build = |target: &str, args: &[&str]| {
        let target = ["--target", target];
        project.build(&[&target[..], args].concat())
    };
    build("same", &[&TWO[..], &["-o", "split"]].concat()).ok();
    assert_eq!(
        tree(&project.path("split")),
        names([
            "linux_amd64/amd64/f",
            "linux_amd64/same",
            "linux_amd64/shared/amd64",
            "linux_arm64/arm64/f",
            "linux_arm64/same",
            "linux_arm64/shared/arm64",
        ])
    );
    build(
        "apart",
        &[
            "--platform",
            "linux/arm64",
            "-o",
            "type=local,dest=one,platform-split=true",
        ],
    )
    .ok();
    assert_eq!(
        tree(&project.path("one")),
        names(["linux_arm64/arm64/f", "linux_arm64/shared/arm64"])
    );
    let conflict =
        "cannot overwrite same from linux/amd64 with linux/arm64 when split option is disabled";
    for output in [
        "type=local,dest=merged,platform-split=false",
        "type=tar,dest=merged.tar,platform-split=false",
    ] {
        build("same", &[&TWO[..], &["-o", output]].concat()).fails(1, &[conflict]);
        build("apart", &[&TWO[..], &["-o", output]].concat()).ok();
    }
    let entries = testkit::tar_entries(&project.path("merged.tar")).unwrap();
    let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "amd64",
            "amd64/f",
            "arm64",
            "arm64/f",
            "shared",
            "shared/amd64",
            "shared/arm64"
        ]
    );
    assert!(tree(&project.path("merged")).contains("shared/arm64"));
}

#[test]
fn o02_tar_makes_folders_and_splits_platforms() {
    let project = platforms();
    let args = [
        &TWO[..],
        &[
            "--target",
            "apart",
            "-o",
            "type=tar,dest=new/folders/out.tar",
        ],
    ]
    .concat();
    project.build(&args).ok();
    let entries = testkit::tar_entries(&project.path("new/folders/out.tar")).unwrap();
    let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths[..2], ["linux_amd64", "linux_amd64/amd64"]);
    assert!(
        paths.contains(&"linux_arm64/shared/arm64") && paths.len() == 10,
        "{paths:?}"
    );
    let run = project
        .build(&[
            "--target",
            "apart",
            "--platform",
            "linux/arm64",
            "-o",
            "type=tar,platform-split=true",
        ])
        .ok();
    let entries = testkit::read_entries(run.stdout.as_slice()).unwrap();
    assert!(
        entries
            .iter()
            .all(|entry| entry.path.starts_with("linux_arm64")),
        "{entries:?}"
    );
    fs::write(project.path("file"), "").unwrap();
    project
        .build(&["-o", "type=tar,dest=file/below/out.tar"])
        .fails(1, &["could not create", "is not a folder"]);
}

#[test]
fn o02_keys_that_a_type_does_not_have() {
    let project = platforms();
    for (output, says) in [
        ("type=local", "dest is required for local exporter"),
        ("type=oci,tar=false", "dest is required for oci exporter"),
        (
            "type=docker,tar=false",
            "dest is required for docker exporter",
        ),
        (
            "type=local,dest=out,mode=mirror",
            "invalid local exporter mode \"mirror\"",
        ),
        (
            "type=tar,dest=out.tar,mode=delete",
            "key \"mode\" has no meaning",
        ),
        (
            "type=local,dest=out,compression=zstd",
            "key \"compression\" has no meaning",
        ),
        (
            "type=oci,dest=out.tar,platform-split=false",
            "key \"platform-split\" has no meaning",
        ),
        (
            "type=oci,dest=out.tar,context=default",
            "key \"context\" has no meaning",
        ),
        (
            "type=local,dest=out,platform-split=maybe",
            "platform-split must be true or false",
        ),
        (
            "type=local,dest=out,attestation-prefix=a",
            "attestation-prefix is not supported yet",
        ),
        (
            "type=oci,dest=out.tar,prefer-nondist-layers=true",
            "prefer-nondist-layers is not supported",
        ),
        ("type=local,dest=out,bogus=1", "\"bogus\""),
        ("type=cacheonly,dest=out", "key \"dest\" has no meaning"),
    ] {
        project.build(&["-o", output]).fails(2, &["--output", says]);
    }
}
