//! Roots that are copies, without namespaces: what steps of one build leave for one another, and what they must not.

use crate::support::{Project, able, is_root, unique, wait_until};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

const CHROOT: &str = "--isolation=chroot";

fn unfinished(project: &Project) -> usize {
    fs::read_dir(project.store().join("scratch")).map_or(0, Iterator::count)
}

#[test]
fn ru01_steps_on_one_copy_change_no_earlier_layer() {
    if !able(is_root(), "a user that builds without namespaces") {
        return;
    }
    let project = Project::new(
        "FROM busybox AS base\n\
         RUN echo one > /one && mkdir /d && echo kept > /d/f && ln /one /same\n\
         FROM base AS left\n\
         RUN echo left >> /one\n\
         WORKDIR /d/new\n\
         RUN echo again >> /one; ln /one /two; mv /d /e; chmod 600 /same\n\
         RUN mv /e/f /f; ls -d /e/* /e > /left; cat /one /same >> /left; rm /two\n\
         FROM base AS right\n\
         RUN echo right >> /same\n\
         COPY f /d/f\n\
         RUN cat /d/f /same /one > /right; rm -r /d; mkdir /d; touch /d/x\n\
         RUN ls /d >> /right\n\
         FROM base AS untouched\n\
         RUN cat /one /same /d/f > /untouched; stat -c %h /one >> /untouched\n\
         FROM scratch\n\
         COPY --from=left /left /\n\
         COPY --from=right /right /\n\
         COPY --from=untouched /untouched /\n",
    );
    project.write("f", "copied\n");
    project
        .build(&[CHROOT, "-o", "type=local,dest=copies"])
        .ok();
    assert_eq!(unfinished(&project), 0);
    let read = |name: &str| fs::read_to_string(project.path("copies").join(name)).unwrap();
    assert_eq!(read("left"), "/e\n/e/new\none\nleft\nagain\none\n");
    assert_eq!(read("right"), "copied\none\nright\none\nx\n");
    // A copy has a file for each name of a layer's file.
    assert_eq!(read("untouched"), "one\none\nkept\n1\n");
    // The first layer is one file with two names still, with the content that the first step gave it.
    let layers = crate::support::files_below(&project.store().join("layers"));
    let first = layers
        .iter()
        .filter(|path| path.ends_with("same") && fs::read(path).is_ok_and(|text| text == b"one\n"))
        .map(|path| fs::metadata(path).unwrap().nlink());
    assert!(first.max().is_some_and(|links| links == 2), "{layers:?}");
}

#[test]
fn ru01_a_killed_build_leaves_no_copy() {
    if !able(is_root(), "a user that builds without namespaces") {
        return;
    }
    let marker = unique("kill-copy");
    let project = Project::new(&format!(
        "FROM busybox\nENV E2E={marker}\nRUN echo 1 > /1\nRUN echo wai\"\"ting; sleep 100\n"
    ));
    let mut build = project.start(project.build_command(&[CHROOT]));
    build.wait_for("waiting");
    build.signal(Signal::KILL);
    assert_eq!(build.finish().status, 137);
    let ended = || {
        let scratch = project.store().join("scratch");
        let mounted = |pid: &str| {
            fs::read_link(format!("/proc/{pid}/root")).is_ok_and(|root| root.starts_with(&scratch))
        };
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .all(|entry| !mounted(&entry.file_name().to_string_lossy()))
    };
    assert!(wait_until(Duration::from_secs(10), ended));
    project.write("Dockerfile", "FROM busybox\nRUN echo 1 > /1\nRUN cat /1\n");
    project.build(&[CHROOT]).ok();
    assert_eq!(unfinished(&project), 0);
}

#[test]
fn ru01_a_failed_step_is_kept_and_its_copy_is_not() {
    if !able(is_root(), "a user that builds without namespaces") {
        return;
    }
    let project = Project::new(
        "FROM busybox\nRUN echo 1 > /1\nRUN echo 2 >> /1; echo made > /2; rm /etc/passwd; false\n",
    );
    project
        .build(&[CHROOT, "--on-failure", "keep"])
        .fails(1, &["look inside: kiln debug "]);
    assert_eq!(unfinished(&project), 0);
    let seen = project.kiln(&["debug", "--", "cat", "/1", "/2"]);
    assert_eq!(seen.ok().text(), "1\n2\nmade");
    let before = project.kiln(&["debug", "--before", "--", "cat", "/1"]);
    assert_eq!(before.ok().text(), "1");
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN echo 1 > /1\nRUN cat /1 /etc/passwd > /3\n",
    );
    project.build(&[CHROOT]).ok();
    assert_eq!(unfinished(&project), 0);
}
