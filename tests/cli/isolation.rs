//! How much isolation RUN steps get where the machine does not allow all of it, and what is said of it.

use crate::support::{Project, able, is_root};
use std::process::Command;

/// The same command in a mount namespace in which a part of `/proc` is hidden, as container runtimes hide it.
fn below_a_masked_proc(command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.arg(if is_root() { "-m" } else { "-rm" }).args([
        "sh",
        "-c",
        "mount --bind /dev/null /proc/interrupts && exec \"$@\"",
        "sh",
    ]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

fn can_unshare() -> bool {
    let made = Command::new("unshare").args(["-rm", "true"]).status();
    able(
        made.is_ok_and(|status| status.success()),
        "unshare (package util-linux) and user namespaces",
    )
}

const NESTED: &str = "isolation: nested: could not mount a new /proc (the surrounding container hides parts of its own: start it with `--security-opt systempaths=unconfined`";

#[test]
fn the_surrounding_proc_is_taken_where_no_new_one_is_to_be_had() {
    if !can_unshare() {
        return;
    }
    let project = Project::new(
        "FROM busybox\nRUN id -u && test -r /proc/self/status && test -d /proc/$PPID && echo pid $$\n\
         RUN test -z \"$(cat /proc/interrupts)\" && test -z \"$(cat /proc/keys)\" && ls -l /proc/self/fd && touch /new\n\
         RUN ! (echo 1 > /proc/sys/kernel/panic) 2>/dev/null\n\
         RUN ! cat /proc/1/environ 2>/dev/null && ! ls /proc/1/root/ 2>/dev/null && ! ls /proc/1/fd 2>/dev/null\n\
         RUN for pid in $(ls /proc | grep '^[0-9]'); do [ $pid -lt 10 ] || ! kill -0 $pid 2>/dev/null || exit 1; done\n\
         RUN df /dev/shm /dev/mqueue >/dev/null && test -c /dev/ptmx && test -c /dev/null\n",
    );
    let run = project.run(below_a_masked_proc(&project.build_command(&[])));
    let run = run.ok();
    assert!(run.stderr.contains(NESTED), "{}", run.stderr);
    assert_eq!(run.stderr.matches("isolation: ").count(), 1, "told once");
}

/// One line tells the mode and why, where it is not plainly the best.
#[test]
fn what_was_asked_for_is_told() {
    let full = Project::new("FROM busybox\nRUN true\n");
    let has_full = full.build(&["--isolation=full"]).status == 0;
    if !able(has_full, "full isolation") {
        return;
    }
    for (asked, told) in [
        ("auto", None),
        ("full", None),
        (
            "nested",
            Some("isolation: full: possible here, more than was asked for\n"),
        ),
        (
            "chroot",
            is_root().then_some("isolation: chroot: asked for\n"),
        ),
    ] {
        if asked == "chroot" && told.is_none() {
            continue;
        }
        let args = ["--no-cache", "--isolation", asked];
        let run = full.build(&args).ok();
        let lines = run.stderr.matches("isolation: ").count();
        assert_eq!(lines, usize::from(told.is_some()), "{}", run.stderr);
        assert!(
            told.is_none_or(|told| run.stderr.contains(told)),
            "{}",
            run.stderr
        );
    }
    if can_unshare() {
        let command = full.build_command(&["--no-cache", "--isolation=full"]);
        let says = [
            "could not mount a new /proc",
            "Operation not permitted",
            "systempaths=unconfined",
        ];
        full.run(below_a_masked_proc(&command)).fails(1, &says);
    }
}

/// In the surrounding `/proc` steps that run at the same time see each other, and nothing more than that.
#[test]
fn steps_in_one_proc_do_not_look_into_each_other() {
    if !can_unshare() {
        return;
    }
    let project = Project::new(
        "FROM busybox AS one\nRUN HIDDEN=0f3a9 sh -c 'touch /tmp/x; sleep 2; echo $HIDDEN >/dev/null'\n\
         FROM busybox AS two\n\
         RUN seen=; for i in 1 2 3 4 5 6 7 8 9 10; do \\\n\
           for p in /proc/[0-9]*; do \\\n\
             case \"$(cat $p/cmdline 2>/dev/null)\" in sleep2) seen=yes;; esac; \\\n\
             if grep -q HIDDEN=0f3a9 $p/environ 2>/dev/null; then echo read $p; exit 1; fi; \\\n\
             if [ -e $p/root/tmp/x ]; then echo reached $p; exit 1; fi; \\\n\
           done; sleep 0.1; done; test $seen && touch /seen\n\
         FROM scratch\nCOPY --from=one /tmp/x /\nCOPY --from=two /seen /\n",
    );
    let run = project.run(below_a_masked_proc(&project.build_command(&[])));
    let kept = !run.stderr.contains("can look into each other's processes");
    if able(kept, "Landlock of Linux 6.12") {
        run.ok();
    }
}

#[test]
fn full_isolation_is_refused_where_it_cannot_be() {
    if !can_unshare() {
        return;
    }
    let project = Project::new("FROM busybox\nRUN true\n");
    let refused = [
        "could not mount a new /proc (the surrounding container hides parts of its own",
        "isolation `full` was asked for, `nested` would do",
    ];
    let flag = project.build_command(&["--isolation=full"]);
    project.run(below_a_masked_proc(&flag)).fails(1, &refused);
    for (variable, value) in [("KILN_ISOLATION", "full"), ("BUILDAH_ISOLATION", "oci")] {
        let mut command = project.build_command(&["--no-cache"]);
        command.env(variable, value);
        project
            .run(below_a_masked_proc(&command))
            .fails(1, &refused);
        let mut command = project.build_command(&["--no-cache", "--isolation", "nested"]);
        command.env(variable, value);
        project.run(below_a_masked_proc(&command)).ok();
    }
    let mut ours_first = project.build_command(&["--no-cache"]);
    ours_first.envs([("KILN_ISOLATION", "auto"), ("BUILDAH_ISOLATION", "oci")]);
    project.run(below_a_masked_proc(&ours_first)).ok();
    let mut unknown = project.build_command(&[]);
    unknown.env("KILN_ISOLATION", "much");
    project
        .run(unknown)
        .fails(2, &["invalid value \"much\" for 'KILN_ISOLATION'"]);
}

#[test]
fn full_isolation_is_not_worth_a_line_but_in_debug_logs() {
    let project = Project::new("FROM busybox\nRUN true\n");
    let run = project.build(&[]).ok();
    assert!(!run.stderr.contains("isolation"), "{}", run.stderr);
    let run = project.build(&["-D", "--no-cache"]).ok();
    assert!(run.stderr.contains("isolation=full"), "{}", run.stderr);
}

#[test]
fn the_doctor_says_what_a_build_would_get() {
    let project = Project::new("FROM busybox\nRUN true\n");
    let lines = project.kiln(&["doctor"]).ok();
    for part in [
        "ok          user namespaces\n",
        "ok          a new /proc\n",
        "\nRUN         isolation full\n",
        "\nroots       ",
        "\nnetwork     ",
        "\nlimits      ",
    ] {
        assert!(
            lines.text().contains(part),
            "{part:?} in:\n{}",
            lines.text()
        );
    }
    let json = project.kiln(&["doctor", "--format", "json"]).ok();
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["verdict"]["isolation"], "full");
    assert_eq!(value["verdict"]["works"], true);
    let facts = value["facts"].as_array().unwrap();
    assert!(facts.len() > 30, "{}", facts.len());
    // Its scratch folder is gone.
    let left = std::fs::read_dir(project.store().join("scratch")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn the_doctor_tells_of_a_container() {
    if !can_unshare() {
        return;
    }
    let project = Project::new("FROM busybox\nRUN true\n");
    let doctor = |args: &[&str]| {
        let command = project.command(&[&["doctor"], args].concat());
        project.run(below_a_masked_proc(&command))
    };
    let nested = doctor(&[]).ok();
    for part in [
        "missing     a new /proc: fsmount(proc): Operation not permitted (os error 1) (fix: the surrounding container hides",
        "\nRUN         isolation nested\n",
        "\nnote        isolation: nested: could not mount a new /proc",
    ] {
        assert!(
            nested.text().contains(part),
            "{part:?} in:\n{}",
            nested.text()
        );
    }
    let refused = doctor(&["--isolation", "full"]);
    let text = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(
        text.contains("\nRUN         not possible: could not mount a new /proc"),
        "{text}"
    );
    refused.fails(1, &[]);
}

/// Every way to put roots together that this machine has gives the same image; an unusable one says why.
#[test]
fn the_way_to_put_roots_together_is_in_no_image() {
    let mut images = Vec::new();
    for kind in ["overlay", "fuse-overlayfs", "reflink", "copy"] {
        let project = Project::new(
            "FROM busybox AS other\nRUN mkdir /from && echo x > /from/file\n\
             FROM busybox\n\
             RUN echo changed >> /etc/group && rm /etc/passwd && mkdir -p /a/b && echo new > /a/b/c && chmod 4755 /a/b/c\n\
             RUN --mount=from=other,source=/from,target=/mnt cp /mnt/file /a && rm -r /a/b && mkdir /a/b && ln -s ../file /a/b/link\n\
             RUN [ ! -e /a/b/c ] && [ ! -e /etc/passwd ] && ls /a/b > /listed\n",
        );
        let output = "type=oci,dest=image.tar,rewrite-timestamp=true";
        let mut command = project.build_command(&["--sandbox-root", kind, "-o", output]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        let run = project.run(command);
        if run.stderr.contains("root of commands: ") {
            assert_ne!(kind, "copy");
            let told = format!("could not use {kind} for the root of commands: ");
            run.fails(1, &[&told]);
            continue;
        }
        let run = run.ok();
        let told = run
            .stderr
            .matches("root file systems by fuse-overlayfs: its layers can be wrong");
        let expected = usize::from(kind == "fuse-overlayfs");
        assert_eq!(told.count(), expected, "{}", run.stderr);
        let archive = std::fs::read(project.path("image.tar")).unwrap();
        images.push((kind, testkit::digest_of(&archive)));
    }
    assert!(able(images.len() > 1, "a file system for overlays"));
    for (kind, digest) in &images {
        assert_eq!(*digest, images[0].1, "{kind} and {}", images[0].0);
    }
    let project = Project::new("FROM busybox\nRUN true\n");
    let mut command = project.build_command(&[]);
    command.env("KILN_SANDBOX_ROOT", "tree");
    let says = "expected overlay, fuse-overlayfs, reflink or copy";
    project.run(command).fails(2, &[says]);
}
