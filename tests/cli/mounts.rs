//! Mounts of RUN: secrets that leave no trace, caches that stay, and what does not get into a layer.

use crate::support::{Project, files_below, is_root, unique};
use std::fs;
use std::path::Path;

/// Files below a folder that hold this text.
fn holding(dir: &Path, needle: &str) -> String {
    let mut grep = std::process::Command::new("grep");
    grep.args(["-r", "-l", "-a", "-F", needle]).arg(dir);
    String::from_utf8(grep.output().unwrap().stdout).unwrap()
}

#[test]
fn secrets_leave_no_trace() {
    let secret = unique("hush");
    let from_env = unique("quiet");
    // A user without ranges of ids has no other owner to give.
    let owner = if is_root() { 7 } else { 0 };
    let project = Project::new(&format!(
        "FROM busybox\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=VARIABLE \\\n\
         \x20   --mount=type=secret,id=file,target=/etc/key,mode=0444,uid={owner} \\\n\
         \x20   wc -c < /run/secrets/file > /length && echo ${{#VARIABLE}} >> /length && \\\n\
         \x20   stat -c '%a %u' /etc/key >> /length && cmp /etc/key /run/secrets/file\n\
         RUN test ! -e /run/secrets/file && test -z \"$VARIABLE\"\n",
    ));
    let file = project.path("secret.txt");
    fs::write(&file, &secret).unwrap();
    let spec = format!("id=file,src={}", file.display());
    let args = [
        "--secret",
        &spec,
        "--secret",
        "id=variable,env=E2E_VARIABLE",
    ];
    let outputs = [
        "-t",
        "x",
        "-o",
        "type=tar,dest=x.tar",
        "-o",
        "type=image",
        "-o",
        "out",
    ];
    let mut command = project.build_command(&[&args[..], &outputs].concat());
    command.env("E2E_VARIABLE", &from_env);
    project.run(command).ok();
    let length = fs::read_to_string(project.path("out/length")).unwrap();
    let lengths = (secret.len(), from_env.len());
    assert_eq!(
        length,
        format!("{}\n{}\n444 {owner}\n", lengths.0, lengths.1)
    );

    let files = files_below(&project.store());
    assert!(files.len() > 20, "{files:?}");
    assert!(holding(&project.path("."), &secret).contains("secret.txt"));
    fs::remove_file(&file).unwrap();
    for needle in [&secret, &from_env] {
        let found = holding(&project.path("."), needle);
        assert!(found.is_empty(), "{found}");
    }
}

#[test]
fn a_required_secret_that_is_not_given() {
    let project = Project::new(
        "FROM busybox\nRUN --mount=type=secret,id=token,required=true cat /run/secrets/token\n",
    );
    project.build(&[]).fails(1, &["token", "Dockerfile:2"]);
    let project = Project::new(
        "FROM busybox\nRUN --mount=type=secret,id=token test ! -e /run/secrets/token\n",
    );
    project.build(&[]).ok();
    project
        .build(&["--secret", "id=token,src=not-there"])
        .fails(1, &["not-there"]);
}

#[test]
fn cache_mounts_stay_and_are_in_no_layer() {
    let project = Project::new(
        "FROM busybox\nARG N\n\
         RUN --mount=type=cache,target=/cache,id=e2e echo $N >> /cache/log; cp /cache/log /log\n",
    );
    for (n, expected) in [("1", "1\n"), ("2", "1\n2\n"), ("3", "1\n2\n3\n")] {
        let arg = format!("N={n}");
        project.build(&["--build-arg", &arg, "-o", "out"]).ok();
        assert_eq!(
            fs::read_to_string(project.path("out/log")).unwrap(),
            expected
        );
    }
    assert!(!project.path("out/cache/log").exists());
}

#[test]
fn tmpfs_and_bind_mounts_show_what_they_should() {
    let project = Project::new(
        "FROM busybox AS other\nRUN echo other > /given\n\
         FROM busybox\n\
         RUN --mount=type=tmpfs,target=/fast grep ' /fast tmpfs ' /proc/mounts && echo x > /fast/gone\n\
         RUN --mount=type=bind,target=/context,rw \\\n\
         \x20   --mount=type=bind,from=other,source=/given,target=/given \\\n\
         \x20   find /context -type f | sort > /seen && cat /given >> /seen && echo y > /context/made\n\
         RUN --mount=type=bind,target=/context ! touch /context/denied && test ! -e /context/made\n",
    );
    project.write("kept.txt", "x");
    project.write("secret.key", "x");
    project.write("folder/also.key", "x");
    project.write(".dockerignore", "**/*.key\n");
    project.build(&["-o", "out"]).ok();
    let seen = fs::read_to_string(project.path("out/seen")).unwrap();
    assert_eq!(
        seen,
        "/context/.dockerignore\n/context/Dockerfile\n/context/kept.txt\nother\n"
    );
    assert!(!project.path("out/fast/gone").exists());
    assert!(
        !project.path("out/given").exists()
            || fs::metadata(project.path("out/given")).unwrap().len() == 0
    );
    assert!(!project.path("context/made").exists());
}
