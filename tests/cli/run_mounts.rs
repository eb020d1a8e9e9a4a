//! `RUN --mount` of all kinds but caches and agents.

use crate::support::{Project, is_root, with_busybox};
use std::fs;

#[test]
fn ru04_bind_mounts_from_everywhere() {
    let project = Project::new(
        "FROM busybox AS made\nRUN mkdir /d && echo made > /d/f && ln -s d /link\n\
         FROM busybox\nWORKDIR /work\n\
         RUN --mount=target=ctx [ \"$(cat /work/ctx/a.txt)\" = context ] && ! touch ctx/x\n\
         RUN --mount=type=bind,source=a.txt,dst=/file [ \"$(cat /file)\" = context ]\n\
         RUN --mount=from=made,src=/d,destination=/d [ \"$(cat /d/f)\" = made ]\n\
         RUN --mount=from=made,src=link/f,target=/f [ \"$(cat /f)\" = made ]\n\
         RUN --mount=from=made,target=/m [ -e /m/bin/sh ] && [ \"$(cat /m/d/f)\" = made ]\n\
         RUN --mount=from=busybox,target=/image [ -e /image/bin/sh ] && [ ! -e /image/d ]\n\
         RUN --mount=from=other,target=/other [ \"$(cat /other/o.txt)\" = named ]\n\
         RUN --mount=target=/rw,rw --mount=from=made,target=/stage,readwrite=true \\\n\
         \x20   echo x > /rw/new && echo changed > /rw/a.txt && rm /stage/d/f && touch /stage/new\n\
         RUN --mount=target=/rw --mount=from=made,target=/stage \\\n\
         \x20   [ ! -e /rw/new ] && [ \"$(cat /rw/a.txt)\" = context ] && [ -e /stage/d/f ] && [ ! -e /stage/new ]\n\
         RUN [ ! -e /rw ] && [ ! -e /stage ] && [ ! -e /work/ctx ] && [ ! -e /file ]\n",
    );
    project.write("a.txt", "context\n");
    project.write("../other/o.txt", "named\n");
    let other = format!("other={}", project.path("other").display());
    project.build(&["--build-context", &other]).ok();
    let text = fs::read_to_string(project.path("context/a.txt")).unwrap();
    assert_eq!(text, "context\n");
}

#[test]
fn ru04_bind_mounts_of_what_is_not_there() {
    for (mount, says) in [
        ("target=/x,source=missing", "missing"),
        ("target=/x,from=made,source=/missing", "missing"),
        ("target=/", "invalid mount target"),
    ] {
        let project = Project::new(&format!(
            "FROM busybox AS made\nFROM busybox\nRUN --mount={mount} true\n"
        ));
        project.build(&[]).fails(1, &[says, "Dockerfile:3"]);
    }
}

#[test]
fn ru07_tmpfs_of_a_size() {
    let project = Project::new(
        "FROM busybox\n\
         RUN --mount=type=tmpfs,target=/t,size=1m \\\n\
         \x20   grep ' /t tmpfs .*size=1024k' /proc/mounts && ! dd if=/dev/zero of=/t/f bs=1M count=2\n\
         RUN --mount=type=tmpfs,target=/t touch /t/f && [ -w /t ]\n\
         RUN [ ! -e /t ]\n",
    );
    project.build(&[]).ok();
}

/// RU08, RU09, CLI:secret.
#[test]
fn ru08_ru09_secrets_as_files_and_variables() {
    let owner = if is_root() { "100 102" } else { "0 0" };
    let project = Project::new(&format!(
        "FROM busybox\nWORKDIR /w\nENV GIVEN=plain\n\
         RUN --mount=type=secret,required=false,mode=741,uid=100,gid=102,target=/mysecret \\\n\
         \x20   [ \"$(stat -c '%u %g %f' /mysecret)\" = \"{owner} 81e1\" ]\n\
         RUN [ ! -e /mysecret ]\n\
         RUN --mount=type=secret,id=mysecret [ \"$(stat -c '%u %g %a' /run/secrets/mysecret)\" = '0 0 400' ]\n\
         RUN --mount=type=secret,id=mysecret,env=GIVEN [ \"$GIVEN\" = pw ] && [ ! -e /run/secrets/mysecret ]\n\
         RUN --mount=type=secret,id=mysecret,target=s,env=SECRET [ \"$SECRET\" = pw ] && [ \"$(cat /w/s)\" = pw ]\n\
         RUN --mount=type=secret,src=mysecret,target=/etc/s [ \"$(cat /etc/s)\" = pw ]\n\
         RUN --mount=type=secret,id=none,env=NONE [ -z \"${{NONE+set}}\" ] && [ ! -e /run/secrets/none ]\n\
         RUN [ \"$GIVEN\" = plain ] && [ -z \"$SECRET\" ] && [ ! -e /run/secrets ] && [ ! -e /w/s ] && [ ! -e /etc/s ]\n",
    ));
    let file = project.path("file");
    fs::write(&file, "pw").unwrap();
    let from_file = format!("id=mysecret,src={}", file.display());
    for spec in [
        &from_file,
        "id=mysecret,env=PASSWORD",
        "type=env,id=mysecret,src=PASSWORD",
        "id=mysecret",
    ] {
        let mut command = project.build_command(&["--no-cache", "--secret", spec]);
        command.env("PASSWORD", "pw");
        if spec == "id=mysecret" {
            command.env("mysecret", "pw");
        }
        project.run(command).ok();
    }
    // A pipe is read once, however many steps use it.
    let made = std::process::Command::new("mkfifo")
        .arg(project.path("pipe"))
        .status();
    assert!(made.unwrap().success());
    let pipe = project.path("pipe");
    let writer = std::thread::spawn(move || fs::write(pipe, "pw").unwrap());
    project
        .build(&["--no-cache", "--secret", "id=mysecret,src=pipe"])
        .ok();
    writer.join().unwrap();
    // Without a variable of its name, an id is a file.
    fs::write(project.path("mysecret"), "pw").unwrap();
    project
        .build(&["--no-cache", "--secret", "id=mysecret"])
        .ok();
    project
        .build(&["--no-cache", "--secret", "type=file,id=mysecret"])
        .ok();
}

#[test]
fn ru08_secrets_that_are_wrong() {
    let project = Project::new("FROM busybox\nRUN --mount=type=secret,id=x,env=X true\n");
    fs::write(project.path("large"), vec![b'x'; 600 << 10]).unwrap();
    fs::write(project.path("bytes"), [0xff, 0xfe]).unwrap();
    fs::write(project.path("nul"), b"a\0b").unwrap();
    for (spec, status, says) in [
        ("id=x,src=large", 1, "larger than"),
        ("id=x,src=bytes", 1, "is not text"),
        ("id=x,src=nul", 1, "is not text"),
        ("src=large", 2, "id is required"),
        ("id=x,kind=y", 2, "unexpected key"),
        ("id=x,type=y", 2, "type"),
        ("id=x,src=not-there", 1, "not-there"),
    ] {
        project
            .build(&["--no-cache", "--secret", spec])
            .fails(status, &[says]);
    }
    let project = Project::new("FROM busybox\nRUN --mount=type=secret,required,id=mysecret foo\n");
    project
        .build(&[])
        .fails(1, &["secret mysecret: not found", "Dockerfile:2"]);
}

#[test]
fn ru11_targets_and_values_of_mounts() {
    let project = Project::new(
        "FROM busybox\nARG name=cache\nENV dir=/e\nWORKDIR /w\n\
         RUN --mount=type=tmpfs,target=rel touch /w/rel/f\n\
         RUN --mount=type=tmpfs,target=${dir}/x touch /e/x/f\n\
         RUN --mount=type=$kind,target=/t touch /t/f && grep ' /t tmpfs' /proc/mounts\n\
         RUN --mount=type=cache,id=${name}-1,target=/c touch /c/f\n\
         RUN --mount=type=cache,id=cache-1,target=/d [ -e /d/f ]\n\
         RUN --mount='type=tmpfs,\"target=/with,comma\"' touch /with,comma/f\n\
         RUN [ ! -e /w/rel ] && [ ! -e /e ] && [ ! -e /with,comma ]\n"
            .replace("ENV dir=/e", "ENV dir=/e kind=tmpfs")
            .as_str(),
    );
    project.build(&[]).ok();
}

#[test]
fn ru12_mounts_that_are_refused() {
    for (mount, says) in [
        (
            "type=tmp,target=/x",
            "unsupported mount type \"tmp\" (did you mean tmpfs?)",
        ),
        (
            "typ=tmpfs,target=/x",
            "unexpected key 'typ' in 'typ=tmpfs' (did you mean type?)",
        ),
        (
            "type=bind,mode=755,target=/x",
            "mode not allowed for \"bind\" type mounts",
        ),
        (
            "type=tmpfs,uid=1,target=/x",
            "uid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "type=tmpfs,gid=1,target=/x",
            "gid not allowed for \"tmpfs\" type mounts",
        ),
        (
            "type=bind,sharing=locked,target=/x",
            "invalid cache sharing set for bind mount",
        ),
        (
            "type=cache,sharing=some,target=/x",
            "unsupported sharing value \"some\"",
        ),
        (
            "type=secret",
            "invalid secret mount. one of source, target required",
        ),
        (
            "type=secret,from=a,id=b",
            "secret mount should not have a from",
        ),
        (
            "type=secret,id=a,sharing=locked",
            "secret mount should not define sharing",
        ),
        ("type=secret,id=a,src=b", "both source and id can't be set"),
        (
            "type=cache,required,target=/x",
            "unexpected key 'required' for mount type 'cache'",
        ),
        (
            "type=cache,size=1,target=/x",
            "unexpected key 'size' for mount type 'cache'",
        ),
        (
            "type=tmpfs,target=/x,what",
            "invalid field 'what' must be a key=value pair",
        ),
        (
            "from=$x,target=/x",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
    ] {
        let project = Project::new(&format!(
            "FROM busybox\nENV x=y\nRUN --mount={mount} true\n"
        ));
        project.build(&[]).fails(1, &[says, "Dockerfile:3"]);
    }
    let project = Project::new("FROM scratch\nRUN --mont=target=/x,type=tmpfs true\n");
    project
        .build(&[])
        .fails(1, &["unknown flag: --mont", "did you mean mount?"]);
}

/// RU17: what a command finds and no layer has.
#[test]
fn ru17_what_is_injected_is_in_no_layer() {
    let project = Project::new(
        "FROM scratch\nCOPY --from=busybox /bin /bin\n\
         RUN [ -s /etc/hosts ] && [ -e /etc/resolv.conf ] && [ -c /dev/null ] && [ -e /proc/self ] && [ -d /sys/class ]\n\
         RUN --mount=type=secret,id=s --mount=type=ssh --mount=type=cache,target=/a/b/c \\\n\
         \x20   --mount=type=tmpfs,target=/var/x --mount=target=/ctx --mount=type=secret,id=s,target=/deep/er/s \\\n\
         \x20   echo made > /file\n\
         RUN <<EOF\n#!/bin/sh\necho script > /script\nEOF\n",
    );
    let mut command = project.command(&["build", "--progress", "plain"]);
    command.args(with_busybox());
    fs::write(project.path("s"), "x").unwrap();
    command.args([
        "--secret",
        "id=s,src=s",
        "-o",
        "type=tar,dest=files.tar",
        "context",
    ]);
    project.run(command).ok();
    let listed = std::process::Command::new("tar")
        .arg("-tf")
        .arg(project.path("files.tar"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let outside: Vec<&str> = listed
        .lines()
        .map(|line| line.trim_start_matches("./"))
        .filter(|line| !line.is_empty() && !line.starts_with("bin"))
        .collect();
    assert_eq!(outside, ["file", "script"]);
}
