//! Equal input gives equal bytes, whatever the store held before.

use crate::support::{Project, is_root};
use std::fs;
use std::time::{Duration, SystemTime};

const DOCKERFILE: &str = "\
FROM busybox AS build
RUN mkdir -p /out/dir && echo text > /out/dir/file && ln /out/dir/file /out/linked && ln -s file /out/dir/link
FROM busybox
RUN echo installed > /etc/installed && rm /etc/os-release && chmod 600 /etc/installed
COPY --from=build --chmod=755 /out /srv
COPY file.txt /file.txt
WORKDIR /made/for/this
RUN touch now
CMD [\"sh\"]
";

#[test]
fn one_source_date_epoch_gives_one_archive() {
    let mut seen = Vec::new();
    for (kind, epoch) in [
        ("oci", 1_700_000_000),
        ("docker", 1_700_000_000),
        ("oci", 5),
    ] {
        let mut archives = Vec::new();
        for jobs in ["1", "8"] {
            let project = Project::new(DOCKERFILE);
            if is_root() {
                // Without ranges of ids a RUN cannot give files away.
                project.write("Dockerfile", format!("{DOCKERFILE}RUN chown 7:8 now\n"));
            }
            project.write("file.txt", "content");
            let output = format!("type={kind},dest=image.tar");
            let flags = ["--jobs", jobs, "-o", &output, "--metadata-file", "metadata"];
            let mut command = project.build_command(&flags);
            command.env("SOURCE_DATE_EPOCH", epoch.to_string());
            project.run(command).ok();
            let archive = fs::read(project.path("image.tar")).unwrap();
            archives.push((
                testkit::digest_of(&archive),
                without_build_ref(&fs::read(project.path("metadata")).unwrap()),
            ));
            if seen.is_empty() {
                // Clocks go on between the builds.
                std::thread::sleep(std::time::Duration::from_millis(1100));
            }
        }
        assert_eq!(archives[0], archives[1], "{kind} {epoch}");
        seen.push(archives.remove(0));
    }
    assert_ne!(seen[0], seen[2], "the epoch is in the image");
}

/// A layer that is known by its content has the times of its first build: a step above it must not see them.
#[test]
fn a_copy_over_an_older_copy_is_that_of_a_clean_build() {
    let twice = "COPY file /\nCOPY file /\n";
    let used = Project::new(&format!("FROM scratch\n{twice}"));
    used.write("other", "other");
    let file = used.write("file", "content");
    let build = |project: &Project| {
        let context = used.path("context");
        let mut command = project.command(&["build", "--iidfile", "id"]);
        command.arg(context).env("SOURCE_DATE_EPOCH", "1000");
        project.run(command).ok();
        fs::read_to_string(project.path("id")).unwrap()
    };
    build(&used);
    used.write("Dockerfile", format!("FROM scratch\nCOPY other /\n{twice}"));
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000);
    fs::File::open(&file).unwrap().set_modified(later).unwrap();
    assert_eq!(build(&used), build(&Project::new("")));
}

/// Times are in no key. Those after SOURCE_DATE_EPOCH end as it, and with `--context-mode=git` there are none; an older one is
/// that of the first build.
#[test]
fn times_that_changed_since_the_first_build() {
    for (mode, epoch, is_same) in [
        ("exact", "1000", true),
        ("git", "1700000000", true),
        ("exact", "1700000000", false),
    ] {
        let used = Project::new("FROM scratch\nCOPY file /\n");
        let file = used.write("file", "content");
        let build = |project: &Project, seconds| {
            let file = fs::File::open(&file).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
            let context = used.path("context");
            let mut command =
                project.command(&["build", "--context-mode", mode, "--iidfile", "id"]);
            command.arg(context).env("SOURCE_DATE_EPOCH", epoch);
            project.run(command).ok();
            fs::read_to_string(project.path("id")).unwrap()
        };
        let first = build(&used, 1_000_000);
        assert_eq!(build(&used, 2_000_000), first, "{mode} {epoch}");
        let clean = build(&Project::new(""), 2_000_000);
        assert_eq!(clean == first, is_same, "{mode} {epoch}");
    }
}

/// Metadata, but for what names the one build that it is of.
fn without_build_ref(metadata: &[u8]) -> serde_json::Value {
    let mut metadata: serde_json::Value = serde_json::from_slice(metadata).unwrap();
    let removed = metadata.as_object_mut().unwrap().remove("buildx.build.ref");
    assert!(removed.is_some());
    metadata
}
