//! Builds where no namespace can be made and the user is not root, as in a container of Docker with its default profile and
//! `--user`: all but RUN goes there, with the same layers as anywhere else.

use crate::support::{Project, able, is_root, unpack, with_busybox};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use testkit::{Containers, Place};

const EPOCH: &str = "1700000000";
const OUTPUTS: &str = "-o type=oci,tar=false,dest=layout -o type=tar,dest=files.tar -o type=local,dest=files -o type=image";

fn place(name: &str) -> Place {
    let found = Place::ALL.into_iter().find(|place| place.name == name);
    found.unwrap()
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

/// A project that everybody may read, and what is built of it elsewhere.
struct Shared<'a> {
    project: &'a Project,
    containers: &'a Containers,
}

impl Shared<'_> {
    /// Runs a script in which `$kiln` is a build of the context, in a place; its folder `/tmp/out` is unpacked here when it
    /// succeeds.
    fn script(&self, place: Place, script: &str, name: &str) -> (Output, PathBuf) {
        let program = Path::new(env!("CARGO_BIN_EXE_kiln"));
        let layout = testkit::busybox_layout();
        let folder = self.project.path(".");
        let kiln = format!(
            "{} build --progress plain --build-context busybox=oci-layout://{} -t x",
            program.display(),
            layout.display()
        );
        let script = format!(
            "set -e; export HOME=/tmp KILN_ROOT=/tmp/store SOURCE_DATE_EPOCH={EPOCH}; shared={}; kiln='{kiln}'; \
             mkdir /tmp/out; cd /tmp/out; exec 3>&1 >&2; {script}\nexec tar -c --numeric-owner -C /tmp out >&3",
            folder.display()
        );
        let binds = [program, layout.as_path(), folder.as_path()];
        let output = self
            .containers
            .run(place, &binds, &["/bin/sh", "-c", &script]);
        let output = output.unwrap();
        let out = self.project.path(name);
        if output.status.success() {
            let tar = self.project.path(&format!("{name}.tar"));
            fs::write(&tar, &output.stdout).unwrap();
            unpack(&tar, &out);
        }
        (output, out.join("out"))
    }
}

#[track_caller]
fn ok(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Path, type and mode, size of all files.
fn listed(folder: &Path) -> Vec<(PathBuf, u32, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let meta = entry.path().symlink_metadata().unwrap();
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let path = entry.path().strip_prefix(folder).unwrap().to_owned();
            found.push((path, meta.mode(), size));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

const COPIES: &str = "\
FROM busybox AS build
COPY f /made
COPY --chown=3:4 --chmod=4750 f /special/
ADD files.tar /unpacked/
WORKDIR /a/b
FROM busybox
COPY f /f
COPY --chown=3:4 --chmod=750 f /owned/
COPY --chown=root:daemon f /named/
COPY --from=build /made /special /from/
COPY --from=build --chown=5 /unpacked /unpacked
COPY --from=build --link /bin/busybox /linked/busybox
COPY --chmod=0500 f /closed/
COPY --from=busybox /etc /etc2
ADD --chown=7:8 files.tar /unpacked2/
ADD files.tar /
USER daemon
WORKDIR /home/work/deep
COPY f .
ENV a=b
";

/// FROM a base, COPY, ADD of an archive, COPY of a stage and WORKDIR, and all kinds of outputs; a RUN is refused.
#[test]
fn all_but_run_goes_without_namespaces_and_root() {
    if !able(is_root(), "root, to start containers") {
        return;
    }
    let project = Project::new(COPIES);
    project.write("f", "content");
    project.write("run/Dockerfile", "FROM busybox\nRUN true\n");
    let file = |name: &str, content: &str, mode| {
        let path = project.write(name, content);
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    file("packed/d/one", "1", 0o600);
    file("packed/d/two", "2", 0o4711);
    let packed = project.path("context/packed");
    std::os::unix::fs::symlink("one", packed.join("d/link")).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--owner=11", "--group=12", "--mtime=@1600000000", "-cf"]);
    tar.arg(project.path("context/files.tar"));
    assert!(
        tar.arg("-C")
            .arg(&packed)
            .arg("d")
            .status()
            .unwrap()
            .success()
    );
    fs::remove_dir_all(&packed).unwrap();
    fs::set_permissions(project.path("."), Permissions::from_mode(0o755)).unwrap();
    let containers = Containers::start();
    if !able(containers.is_ok(), "Docker and Podman") {
        return;
    }
    let shared = Shared {
        project: &project,
        containers: &containers.unwrap(),
    };

    let mut command = project.command(&["build", "--progress", "plain", "-t", "x"]);
    command.args(with_busybox()).args(OUTPUTS.split(' '));
    command
        .arg(project.path("context"))
        .env("SOURCE_DATE_EPOCH", EPOCH);
    let own = project.path("own");
    fs::create_dir(&own).unwrap();
    command.current_dir(&own);
    project.run(command).ok();

    let confined = place("docker-user");
    let script = format!("$kiln {OUTPUTS} $shared/context");
    let (output, out) = shared.script(confined, &script, "confined");
    let said = ok(&output);
    assert!(!said.contains("namespace"), "{said}");
    assert_eq!(layers(&out.join("layout")), layers(&own.join("layout")));
    let tars = [&out, &own].map(|folder| fs::read(folder.join("files.tar")).unwrap());
    assert!(tars[0] == tars[1], "the tars differ");
    assert_eq!(listed(&out.join("files")), listed(&own.join("files")));

    ran_elsewhere(&shared);
    let (output, _) = shared.script(confined, "$kiln $shared/context/run", "refused");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    for part in ["user namespace", "seccomp=unconfined", "only as root"] {
        assert!(said.contains(part), "{said}");
    }
}

const OF_A_RUN: &str = "\
FROM busybox AS build
RUN mkdir /made && echo made > /made/f && chown 3:4 /made/f && chmod 4711 /made/f && \\
    echo ann:x:1000:2000::/home/ann:/bin/sh >> /etc/passwd
FROM busybox
COPY --from=build /made /made
FROM build
COPY --from=build --chown=ann /made /again
COPY --chown=ann f /home/ann/
WORKDIR /home/ann/deep
";

/// With a store in which commands have run elsewhere, whose layers are there as trees only.
fn ran_elsewhere(shared: &Shared<'_>) {
    shared.project.write("../more/Dockerfile", OF_A_RUN);
    shared.project.write("../more/f", "content");
    let free = place("docker-unconfined-user");
    let layout = "-o type=oci,tar=false,dest=layout $shared/more";
    let script =
        format!("$kiln --target build $shared/more; cp -a /tmp/store store; $kiln {layout}");
    let (output, first) = shared.script(free, &script, "free");
    ok(&output);
    let script = format!("cp -a $shared/free/out/store /tmp/store; $kiln {layout}");
    let (output, second) = shared.script(place("docker-user"), &script, "after");
    let said = ok(&output);
    assert!(said.contains("CACHED"), "{said}");
    assert_eq!(
        layers(&second.join("layout")),
        layers(&first.join("layout"))
    );
}
