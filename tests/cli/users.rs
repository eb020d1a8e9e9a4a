//! Builds of ordinary users: with ranges of subordinate ids, and without; the same image as root's where it can be.

use crate::accounts::{User, quiet};
use crate::support::{Project, Run, able, is_root, program};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Runs a copy of the program as this user, with a store and a home of theirs.
fn kiln_as(project: &Project, user: &User, args: &[&str]) -> Run {
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let home = project.path(user.name);
    fs::create_dir_all(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(user.id), Some(user.id)).unwrap();
    open(&project.path("."), 0o755);
    let binary = project.path("kiln");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_kiln"), &binary).unwrap();
        let base = project.path("base");
        let copied = Command::new("cp")
            .arg("-r")
            .arg(testkit::busybox_layout())
            .arg(&base)
            .status();
        assert!(copied.unwrap().success());
    }
    let prefix = user.prefix();
    let mut command = program(Path::new(&prefix[0]));
    command.args(&prefix[1..]).arg(&binary).args(args);
    command
        .env("HOME", &home)
        .env("KILN_ROOT", home.join("store"))
        .env("USER", user.name);
    command
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .current_dir(&home);
    project.run(command)
}

/// A build of the context as this user.
fn build_as(project: &Project, user: &User, args: &[&str]) -> Run {
    let base = format!("busybox=oci-layout://{}", project.path("base").display());
    let context = project.path("context");
    let start = ["build", "--progress", "plain", "--build-context", &base];
    let all = [&start[..], args, &[context.to_str().unwrap()]].concat();
    kiln_as(project, user, &all).ok()
}

/// Digests of the layers of a layout.
fn layers(layout: &Path) -> Vec<String> {
    testkit::validate(layout).unwrap();
    let manifest = testkit::manifest_of(layout, "latest").unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

const DOCKERFILE: &str = "\
FROM busybox AS build
RUN echo made > /made && id -u > /id && mkdir -m 700 /closed && touch /closed/file
FROM busybox
COPY f /f
COPY --chown=3:4 --chmod=640 f /owned/
COPY --from=build /made /id /from/
RUN cat /f /from/made > /both
RUN rm /etc/os-release && mkdir -p /var/www/new
RUN echo ann:x:1000:2000::/home/ann:/bin/sh >> /etc/passwd && echo crew:x:2000: >> /etc/group && \\
    mkdir -p /home/ann && chown -R ann:crew /home/ann /var/www && chmod 2775 /var/www
RUN cp -a /owned /copied && echo more >> /owned/f && chmod 600 /copied/f && mv /owned /moved && chown 5 /moved
RUN cd /var/www && touch inherited && ln -s f link && chown -h 7:8 link && busybox mkfifo pipe && chown 9 pipe && ln pipe pipe2 && \\
    su ann -c 'umask 077; cd; echo x > hers; mkdir d; ln -s x l; touch /var/www/of-both; chown 1 hers || id -u > refused' && \\
    [ \"$(stat -c %U:%G /home/ann/hers)\" = ann:crew ] && cp /f /inst && chown ann:crew /inst && chmod 4750 /inst && \\
    tar -cf /t.tar -C / var/www home && mkdir /u && tar -xpf /t.tar -C /u && rm /t.tar && \\
    cp /f /capable && chown 33:33 /capable && chown 0:0 /capable
RUN mv /var/www/link /var/www/link2 && touch /home/ann/hers && rm /u/home/ann/l && ln -s y /u/home/ann/l
USER ann
WORKDIR /home/ann/work
RUN touch mine && mkdir -p a/b && id > who && ls -ln / | awk '{print $3, $4, $9}' | sort > seen
USER root
RUN chown -R 65000:crew /home/ann/work/a && ln -s /etc/passwd /home/ann/work/b && chown -R 12:13 /home/ann/work
";

/// Secrets, caches, agents and volumes of an ordinary user, with the owners that were asked for.
fn what_runs_get(project: &Project, user: &User) {
    let home = project.path(user.name);
    fs::create_dir_all(home.join("volume")).unwrap();
    fs::create_dir_all(home.join("more")).unwrap();
    let owner = "5 6";
    let dockerfile = format!(
        "FROM busybox\n\
         RUN --mount=type=secret,id=s,uid=5,gid=6,mode=0444 [ \"$(stat -c '%u %g' /run/secrets/s)\" = '{owner}' ]\n\
         RUN --mount=type=cache,target=/c,uid=5,gid=6 [ \"$(stat -c '%u %g' /c)\" = '{owner}' ] && touch /c/f && chown 9 /c/f\n\
         RUN --mount=type=cache,target=/c,uid=5,gid=6 [ \"$(stat -c '%u %g' /c /c/f | tr '\\n' ' ')\" = '{owner} 9 0 ' ]\n\
         RUN --mount=type=ssh,required,uid=5,gid=6 [ -S $SSH_AUTH_SOCK ] && \\\n\
         \x20   [ \"$(stat -c '%u %g' $SSH_AUTH_SOCK)\" = '{owner}' ]\n\
         RUN --network=none [ \"$(stat -c %u /v)\" = 0 ] && echo x > /v/made\n\
         RUN --security=insecure [ -e /proc/1 ]\n"
    );
    fs::write(home.join("more/Dockerfile"), dockerfile).unwrap();
    fs::write(home.join("s"), "secret").unwrap();
    let socket = home.join("agent");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [&socket, &home.join("volume"), &home.join("s")] {
        std::os::unix::fs::chown(path, Some(user.id), Some(user.id)).unwrap();
    }
    let base = format!("busybox=oci-layout://{}", project.path("base").display());
    let volume = format!("{}:/v", home.join("volume").display());
    let ssh = format!("default={}", socket.display());
    let args = [
        "build",
        "--progress",
        "plain",
        "--build-context",
        &base,
        "--secret",
        "id=s,src=s",
        "--ssh",
        &ssh,
        "-v",
        &volume,
        "--allow",
        "security.insecure",
        "--ulimit",
        "nofile=64",
        "more",
    ];
    let run = kiln_as(project, user, &args).ok();
    assert!(!run.stderr.contains("belongs to root"), "{}", run.stderr);
    let made = home.join("volume/made");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(made).unwrap());
    assert_eq!(owner, user.id);
}

/// MP12: commands of other platforms.
fn emulated_for(project: &Project, user: &User) {
    if !crate::emulation::can_emulate() {
        return;
    }
    let folder = project.path(user.name).join("emulated");
    fs::create_dir_all(&folder).unwrap();
    let dockerfile = "FROM busybox\nRUN echo made on $(uname -m); touch /x && rm /etc/os-release\n";
    fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    let base = format!("busybox=oci-layout://{}", project.path("base").display());
    let start = ["build", "--progress", "plain", "--build-context", &base];
    let args = [&start[..], &["--platform", "linux/arm64", "emulated"]].concat();
    let run = kiln_as(project, user, &args).ok();
    for text in [
        "made on aarch64",
        "1 step was emulated by qemu-aarch64 (arm64)",
    ] {
        assert!(run.stderr.contains(text), "{text} in {}", run.stderr);
    }
}

/// One test, because users of these names are there once.
#[test]
fn ordinary_users_build_what_root_builds() {
    if !able(is_root(), "root, to become other users") {
        return;
    }
    let lock = File::create(std::env::temp_dir().join("kiln-e2e-users.lock")).unwrap();
    lock.lock().unwrap();
    let project = Project::new(DOCKERFILE);
    project.write("f", "content");
    let args = [
        "-t",
        "x",
        "-o",
        "type=oci,tar=false,dest=layout",
        "-o",
        "type=tar,dest=files.tar",
    ];
    let flags = [&args[..], &["-o", "type=image"]].concat();
    let mut command = project.build_command(&flags);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    project.run(command).ok();
    let expected = layers(&project.path("layout"));

    for (name, ranges) in [("kilne2e1", true), ("kilne2e2", false)] {
        let user = User::new(name, ranges);
        if !able(user.is_some(), "useradd and /etc/subuid") {
            continue;
        }
        let user = user.unwrap();
        let run = build_as(&project, &user, &flags);
        let layout = project.path(name).join("layout");
        let found = layers(&layout);
        assert_eq!(found, expected, "layers of {name}\n{}", run.stderr);
        let warned = run.stderr.contains("only one user id is available");
        assert_eq!(warned, !ranges, "{}", run.stderr);
        let again = build_as(&project, &user, &flags);
        assert!(!again.steps().is_empty());
        for (step, end) in again.steps() {
            assert!(
                step.starts_with("exporting") || end == "CACHED",
                "{step} {end}"
            );
        }
        what_runs_get(&project, &user);
        emulated_for(&project, &user);
        // Files of subordinate ids go with `prune`, everything else is the user's own.
        kiln_as(&project, &user, &["rmi", "x"]).ok();
        kiln_as(&project, &user, &["prune", "--all"]).ok();
        let store = project.path(name).join("store");
        assert!(quiet(
            "setpriv",
            &[
                "--reuid",
                name,
                "--regid",
                name,
                "--clear-groups",
                "rm",
                "-rf",
                store.to_str().unwrap()
            ]
        ));
    }
}

/// Two images that call different numbers by one name: a linked layer of one is none of the other.
#[test]
fn cp_a_linked_copy_takes_owners_from_its_own_image() {
    let project = Project::new(
        "FROM busybox\nARG ID\nRUN echo \"app:x:$ID:$ID::/:/bin/sh\" >> /etc/passwd && echo \"app:x:$ID:\" >> /etc/group\n\
         COPY --link --chown=app:app f /f\nRUN stat -c %u:%g /f > /owner\n",
    );
    project.write("f", "content");
    for id in ["1111", "2222", "1111"] {
        let arg = format!("ID={id}");
        project.build(&["--build-arg", &arg, "-o", "out"]).ok();
        let owner = std::fs::read_to_string(project.path("out/owner")).unwrap();
        assert_eq!(owner.trim(), format!("{id}:{id}"));
    }
}
