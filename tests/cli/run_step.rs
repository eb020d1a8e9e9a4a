//! Steps that another machine sends: the layer is the one that a build here makes, however badly the input root is staged.

use crate::accounts::User;
use crate::support::{Project, able, is_root, program};
use executor::cluster::tree::{Carried, input_tree};
use executor::layer;
use executor::snapshot::Snapshot;
use executor::space::Space;
use executor::worker::{Ended, Report, Spec, Staged};
use oci_spec::image::{Descriptor, Digest, MediaType};
use planner::plan::{RunMount, RunOp};
use reapi::prost::Message as _;
use reapi::{Content, proto};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, chownat, utimensat};
use sandbox::{Isolation, RootKind};
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use store::Store;
use testkit::{BaseImage, Entry};

const EPOCH: i64 = 1_700_000_000;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What no engine can carry, in two layers.
fn odd_image(folder: &Path) {
    let old = 1_000_000_000;
    let lower = [
        Entry::dir("odd").mode(0o750).owner(12, 34).mtime(old),
        Entry::file("odd/suid", "s").mode(0o4755).mtime(old),
        Entry::file("odd/sgid", "s")
            .mode(0o2711)
            .owner(0, 5)
            .mtime(old),
        Entry::file("odd/theirs", "t")
            .mode(0o600)
            .owner(1000, 1000)
            .mtime(old),
        Entry::file("odd/none", "n").mode(0).mtime(old),
        Entry::file("odd/attributes", "a")
            .xattr("user.one", "1")
            .mtime(old),
        Entry::file("odd/first", "linked").mtime(old),
        Entry::hardlink("odd/second", "odd/first").mtime(old),
        Entry::file("odd/gone", "g").mtime(old),
        Entry::file(b"odd/\xff\xfe", "name").mtime(old),
        Entry::symlink("odd/absolute", "/odd/suid").mtime(old),
        Entry::symlink("odd/nowhere", "../../x").mtime(old),
        Entry::fifo("odd/fifo").mode(0o640).mtime(old),
        Entry::fifo("special/fifo").owner(3, 4).mtime(old),
        Entry::symlink("special/theirs", "x").owner(7, 8).mtime(old),
        Entry::char_device("special/null", 1, 3)
            .mode(0o666)
            .mtime(old),
        Entry::dir("odd/sticky").mode(0o1777).mtime(old + 5),
        Entry::dir("odd/empty").mtime(old + 6),
        Entry::file("plain/file", "p".repeat(70_000)).mtime(old),
        Entry::file("plain/program", "#!/bin/sh\necho ran")
            .mode(0o755)
            .mtime(old),
    ];
    let upper = [
        Entry::dir("odd").mode(0o750).owner(12, 34).mtime(old),
        Entry::whiteout("odd/gone"),
        Entry::file("odd/late", "late").mode(0o640).mtime(old + 9),
    ];
    let image = BaseImage::new().layer(&lower).layer(&upper);
    image.write(folder).unwrap();
}

/// A base of it and a shell, a second stage, and the layers of both.
struct Base {
    project: Project,
    layers: Vec<Digest>,
    other: Vec<Digest>,
}

impl Base {
    fn new() -> Self {
        let project = Project::new(
            "FROM busybox AS shell\nRUN cd /bin && for name in *; do [ $name = busybox ] || ln -sf busybox $name; done\nFROM odd\nCOPY --from=shell /bin /bin\nRUN echo root:x:0:0::/root:/bin/sh > /etc/passwd; \
             echo someone:x:1000:1000::/home/someone:/bin/sh >> /etc/passwd\n",
        );
        project.write(
            "Other.Dockerfile",
            "FROM busybox\nRUN mkdir -p /in/it && echo 1 > /in/it/f && chmod 700 /in/it && chown 5:6 /in/it/f\n",
        );
        odd_image(&project.path("odd"));
        let layers = build(&project, "base", &[]);
        let other = build(&project, "other", &["-f", "context/Other.Dockerfile"]);
        Self {
            project,
            layers,
            other,
        }
    }

    /// The layer that a RUN makes in a build.
    fn local(&self, run: &str) -> Digest {
        let text = format!("FROM other AS other\nFROM base\n{run}\n");
        self.project.write("Step.Dockerfile", text);
        let layers = build(&self.project, "step", &["-f", "context/Step.Dockerfile"]);
        assert_eq!(layers.len(), self.layers.len() + 1);
        layers.last().unwrap().clone()
    }

    fn space(&self) -> Space {
        Space::new(Store::open(&self.project.store()).unwrap())
    }

    /// An input root for a step; `mounts` of other stages.
    fn stage(&self, name: &str, exact: bool) -> PathBuf {
        let folder = self.project.path(name);
        let space = self.space();
        stage(&space, &self.layers, &folder, exact);
        stage(&space, &self.other, &folder.join("mnt/0"), exact);
        // By another process: what this one has open for writing, commands that other threads start have for a moment, too,
        // and then it cannot be executed.
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_kiln"))
            .arg(folder.join("kiln"))
            .status();
        assert!(copied.unwrap().success());
        folder
    }

    fn spec(&self, script: &str, mounts: &[RunMount]) -> Spec {
        let mounts = mounts.to_vec();
        let (mut spec, inputs) = Spec::of(&op(script, mounts)).unwrap();
        spec.layers = self.layers.len();
        spec.inputs = inputs.iter().map(|_| self.other.len()).collect();
        spec
    }
}

fn build(project: &Project, tag: &str, args: &[&str]) -> Vec<Digest> {
    let odd = format!("odd=oci-layout://{}", project.path("odd").display());
    let mut command = project.build_command(&["-t", tag, "--build-context", &odd]);
    command
        .args(args)
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    project.run(command).ok();
    let layers = project.kiln(&["inspect", "--format", "{{json .RootFS.Layers}}", tag]);
    serde_json::from_str(layers.ok().text()).unwrap()
}

fn op(script: &str, mounts: Vec<RunMount>) -> RunOp {
    RunOp {
        base: Some(0),
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        display: script.to_owned(),
        env: vec![
            ("PATH".to_owned(), PATH.to_owned()),
            ("SOURCE_DATE_EPOCH".to_owned(), EPOCH.to_string()),
        ],
        cwd: "/".to_owned(),
        mounts,
        hostname: "buildkitsandbox".to_owned(),
        ..RunOp::default()
    }
}

/// Lays an input root out as an engine does, out of the messages and files that are sent to one: exactly, as far as engines
/// can, or with nothing but executable bits and relative links.
fn stage(space: &Space, layers: &[Digest], folder: &Path, exact: bool) {
    let snapshot = Snapshot {
        layers: layers.to_vec(),
    };
    let carried = Carried {
        modes: exact,
        times: exact,
        absolute_links: exact,
    };
    let tree = input_tree(space, &snapshot, carried).unwrap();
    let blobs = tree.blobs(space).unwrap().into_iter().map(|blob| {
        let bytes = match blob.content {
            Content::Bytes(bytes) => bytes.to_vec(),
            Content::Source(source) => {
                let mut bytes = Vec::new();
                let mut file = source.open().unwrap();
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                bytes
            }
        };
        (blob.digest, bytes)
    });
    let blobs: HashMap<reapi::Digest, Vec<u8>> = blobs.collect();
    fs::create_dir_all(folder).unwrap();
    for node in tree.directories() {
        stage_folder(&blobs, named(node.digest.as_ref()), &folder.join(node.name));
    }
}

fn named(digest: Option<&proto::Digest>) -> reapi::Digest {
    reapi::Digest::from_proto(digest.unwrap()).unwrap()
}

fn stage_folder(blobs: &HashMap<reapi::Digest, Vec<u8>>, digest: reapi::Digest, to: &Path) {
    fs::create_dir(to).unwrap();
    let directory = proto::Directory::decode(&blobs[&digest][..]).unwrap();
    for node in &directory.directories {
        stage_folder(blobs, named(node.digest.as_ref()), &to.join(&node.name));
    }
    for node in &directory.symlinks {
        let to = to.join(&node.name);
        symlink(&node.target, &to).unwrap();
        set_properties(&to, node.node_properties.as_ref(), None);
    }
    for node in &directory.files {
        let to = to.join(&node.name);
        fs::write(&to, &blobs[&named(node.digest.as_ref())]).unwrap();
        let mode = if node.is_executable { 0o555 } else { 0o444 };
        set_properties(&to, node.node_properties.as_ref(), Some(mode));
    }
    set_properties(to, directory.node_properties.as_ref(), Some(0o555));
}

/// Sets what is carried, else what an engine would.
fn set_properties(path: &Path, carried: Option<&proto::NodeProperties>, mode: Option<u32>) {
    let told = carried.and_then(|carried| carried.unix_mode.as_ref());
    if let Some(mode) = mode {
        let mode = told.map_or(mode, |mode| mode.value);
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let told = carried.and_then(|carried| carried.mtime.as_ref());
    set_time(path, told.map_or(EPOCH + 5, |time| time.seconds));
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Gives a folder and all in it to a user.
fn give(folder: &Path, user: u32) {
    let id = (
        rustix::fs::Uid::from_raw(user),
        rustix::fs::Gid::from_raw(user),
    );
    let own = |path: &Path| {
        chownat(CWD, path, Some(id.0), Some(id.1), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    own(folder);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            give(&path, user);
        } else {
            // Changing the owner takes set-uid bits away, as staging by that user would not.
            let mode = fs::symlink_metadata(&path).unwrap().permissions();
            own(&path);
            if !path.is_symlink() {
                fs::set_permissions(&path, mode).unwrap();
            }
        }
    }
}

/// The worker's command for a step, as an engine starts it.
fn worker(folder: &Path, spec: &Spec, prefix: &[String]) -> Command {
    let (arguments, file) = spec.arguments();
    if let Some(json) = file {
        fs::write(folder.join("spec.json"), json).unwrap();
    }
    let words: Vec<&String> = prefix.iter().chain(&arguments).collect();
    let mut command = program(Path::new(words[0]));
    command.args(&words[1..]).current_dir(folder).env_clear();
    command.env("KILN_WORKER_SCRATCH", folder.join("scratch"));
    command
}

fn report(folder: &Path) -> Report {
    Report::from_json(&fs::read(folder.join("out/meta.json")).unwrap()).unwrap()
}

/// The diff_id of the worker's layer as a build would export it.
fn layer_of(folder: &Path, report: &Report, space: &Space) -> Digest {
    let blob = fs::read(folder.join("out/layer.tar.zst")).unwrap();
    let told = report.blob.as_ref().unwrap();
    assert_eq!(testkit::digest_of(&blob), told.digest.to_string());
    let digest = space.store().put_blob(&blob).unwrap();
    let descriptor = Descriptor::new(MediaType::ImageLayerZstd, told.size, digest);
    let diff_id = report.diff_id.as_ref().unwrap();
    layer::register_blob(space, diff_id, &descriptor).unwrap();
    layer::readable(space, diff_id).unwrap();
    layer::clamp_times(space, diff_id, EPOCH).unwrap()
}

/// Everything that a command can see of what the staging could get wrong.
const LISTING: &str = "find /odd /plain /bin -xdev ! -type d -exec stat -c '%N %f %u:%g %s %Y %t:%T %h' {} + | sort > /seen; \
    find /odd /plain /bin -xdev -type d -exec stat -c '%n %f %u:%g %Y' {} + | sort >> /seen; \
    cat /odd/suid /odd/none /plain/file | sha256sum >> /seen; /plain/program >> /seen";

/// The last one is for who has all ids.
const SCRIPTS: [(&str, &str); 10] = [
    ("listing", LISTING),
    ("nothing", "true"),
    (
        "touched",
        "chmod 644 /odd/late; chmod 640 /odd/late; chown 1:2 /odd/attributes; echo x >> /odd/theirs",
    ),
    (
        "unchanged",
        "chmod 700 /odd/suid; chmod 4755 /odd/suid; chown 9 /odd/sgid; chown 0:5 /odd/sgid; chmod 2711 /odd/sgid",
    ),
    (
        "links",
        "echo more >> /odd/second; ln /odd/late /odd/later; mv /odd/absolute /plain/",
    ),
    (
        "gone",
        "rm -r /odd/sticky /odd/fifo /odd/nowhere; mkdir /odd/sticky; rm -r /plain && mkdir /plain && touch /plain/new",
    ),
    (
        "moved",
        "mv /odd/empty /odd/full; mv /odd/theirs /theirs; cp -a /odd /copy",
    ),
    (
        "user",
        "su someone -c 'id > /tmp/id' 2>/dev/null || id -u > /id; chown -R 1000:1000 /odd/empty",
    ),
    (
        "names",
        "cd /odd; for f in *; do echo \"$f\"; done | sort | md5sum > /names; mv /odd/$(printf '\\377\\376') /named",
    ),
    (
        "special",
        "stat -c '%n %f %u:%g %s %Y %t:%T %h' /special/* > /seen; echo x > /special/null; mv /special/fifo /special/theirs /",
    ),
];

/// A way to carry steps out.
struct Way {
    name: &'static str,
    prefix: Vec<String>,
    user: u32,
    isolation: Isolation,
    root: Option<RootKind>,
    /// In a root that is a copy hard links are files of their own.
    without: &'static [&'static str],
}

impl Way {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            prefix: Vec::new(),
            user: 0,
            isolation: Isolation::Auto,
            root: None,
            without: &[],
        }
    }

    fn copied(name: &'static str) -> Self {
        Self {
            without: &["listing", "links", "moved", "special"],
            ..Self::new(name)
        }
    }

    fn of(user: &User) -> Self {
        Self {
            prefix: user.prefix(),
            user: user.id,
            without: &["special"],
            ..Self::new(user.name)
        }
    }

    /// Carries all steps out over one staged root; what is wrong.
    fn compare(&self, base: &Base, exact: bool, expected: &[Digest]) -> Vec<String> {
        let space = base.space();
        let folder = base.stage(&format!("{}-{exact}", self.name), exact);
        fs::create_dir(folder.join("scratch")).unwrap();
        give(&folder, self.user);
        let mut wrong = Vec::new();
        for ((name, script), expected) in SCRIPTS.iter().zip(expected) {
            if self.without.contains(name) {
                continue;
            }
            let mut spec = base.spec(script, &[]);
            spec.staged = Staged {
                modes: exact,
                times: exact,
            };
            (spec.isolation, spec.root) = (self.isolation, self.root);
            let run = base.project.run(worker(&folder, &spec, &self.prefix)).ok();
            let report = report(&folder);
            assert_eq!(report.exit, Ended::Code(0), "{}", run.stderr);
            let found = layer_of(&folder, &report, &space);
            if found != *expected {
                let name = format!("{} exact={exact} {name}", self.name);
                wrong.push(format!("{name}: {found} instead of {expected}: {report:?}"));
            }
            let fixed = (report.staged.fixed, report.staged.files);
            assert_eq!(fixed.0 < fixed.1 / 2, exact, "{}: {report:?}", self.name);
            let mut left = fs::read_dir(folder.join("scratch")).unwrap();
            assert!(left.next().is_none());
        }
        wrong
    }
}

#[test]
fn a_sent_step_makes_the_layer_of_a_build() {
    if !able(is_root(), "root, to make devices and owners") {
        return;
    }
    let base = Base::new();
    let users: Vec<User> = [("kilnstep1", true), ("kilnstep2", false)]
        .into_iter()
        .filter_map(|(name, ranges)| User::new(name, ranges))
        .collect();
    able(users.len() == 2, "useradd and /etc/subuid");
    let expected: Vec<Digest> = SCRIPTS
        .map(|(_, script)| base.local(&format!("RUN {script}")))
        .into();
    fs::set_permissions(base.project.path("."), Permissions::from_mode(0o755)).unwrap();
    let mut wrong = Vec::new();
    for way in std::iter::once(Way::new("root")).chain(users.iter().map(Way::of)) {
        for exact in [true, false] {
            wrong.extend(way.compare(&base, exact, &expected));
        }
    }
    let mut chroot = Way::copied("chroot");
    chroot.isolation = Isolation::Chroot;
    let mut copied = Way::copied("copied");
    copied.root = Some(RootKind::Copy);
    for way in [chroot, copied] {
        wrong.extend(way.compare(&base, false, &expected));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What an engine may do while it says that it carries modes and times.
type Lie = (&'static str, fn(&Path));

const LIES: [Lie; 5] = [
    ("no empty folders", |root| {
        fs::remove_dir(root.join("odd/empty")).unwrap();
    }),
    ("times of folders", |root| {
        set_time(&root.join("plain"), EPOCH);
    }),
    ("times of files", |root| {
        set_time(&root.join("plain/file"), EPOCH);
    }),
    ("modes of programs", |root| {
        let mode = Permissions::from_mode(0o555);
        fs::set_permissions(root.join("plain/program"), mode).unwrap();
    }),
    ("modes of specials", |root| {
        let mode = Permissions::from_mode(0o755);
        fs::set_permissions(root.join("odd/suid"), mode).unwrap();
    }),
];

#[test]
fn a_staging_that_is_not_what_it_says_is_found_out() {
    if !able(is_root(), "root, to make devices and owners") {
        return;
    }
    let base = Base::new();
    let space = base.space();
    let expected = base.local(&format!("RUN {LISTING}"));
    let mut spec = base.spec(LISTING, &[]);
    spec.staged = Staged {
        modes: true,
        times: true,
    };
    let nothing: [Lie; 1] = [("nothing is carried", |_| {})];
    for (lie, tell) in nothing.into_iter().chain(LIES) {
        let folder = base.stage(lie, lie != nothing[0].0);
        tell(&folder.join("rootfs"));
        fs::create_dir(folder.join("scratch")).unwrap();
        base.project.run(worker(&folder, &spec, &[])).ok();
        let report = report(&folder);
        assert_eq!(layer_of(&folder, &report, &space), expected, "{lie}");
    }
}

#[test]
fn mounts_of_a_sent_step_are_those_of_a_build() {
    if !able(is_root(), "root, to stage files of others") {
        return;
    }
    let base = Base::new();
    let space = base.space();
    let script = "find /m -exec stat -c '%n %f %u:%g %Y' {} + > /seen; cat /m/f >> /seen; touch /m/new; df /t | wc -l >> /seen";
    let expected = base.local(&format!(
        "RUN --mount=type=bind,from=other,source=/in/it,target=/m,rw --mount=type=tmpfs,target=/t {script}"
    ));
    let bind = RunMount::Bind {
        input: Some(1),
        source: "/in/it".to_owned(),
        target: "/m".to_owned(),
        readonly: false,
    };
    let tmpfs = RunMount::Tmpfs {
        target: "/t".to_owned(),
        size: None,
    };
    let folder = base.stage("mounts", false);
    fs::create_dir(folder.join("scratch")).unwrap();
    let spec = base.spec(script, &[bind, tmpfs]);
    base.project.run(worker(&folder, &spec, &[])).ok();
    assert_eq!(layer_of(&folder, &report(&folder), &space), expected);

    let cache = |from| RunMount::Cache {
        id: "c".to_owned(),
        target: "/c".to_owned(),
        from,
        source: String::new(),
        sharing: "locked".to_owned(),
        mode: 0o750,
        uid: 1000,
        gid: 7,
        readonly: false,
    };
    let kept = folder.join("kept/here");
    let run = |script: &str, from, kept: Option<&Path>| {
        let spec = base.spec(script, &[cache(from)]);
        let mut command = worker(&folder, &spec, &[]);
        command.envs(kept.map(|kept| ("KILN_WORKER_CACHE", kept)));
        base.project.run(command).ok();
        report(&folder)
    };
    let first = run(
        "test $(stat -c %a:%u:%g /c) = 750:1000:7 && echo x > /c/f",
        None,
        Some(&kept),
    );
    assert_eq!(
        first.entries,
        run("test $(cat /c/f) = x", None, Some(&kept)).entries
    );
    run("test ! -e /c/f", None, None);
    run(
        "test $(cat /c/in/it/f) = 1 && echo 2 > /c/in/it/f",
        Some(1),
        Some(&kept),
    );
    run("test $(cat /c/in/it/f) = 2", Some(1), Some(&kept));
    run("test $(cat /c/in/it/f) = 1", Some(1), None);
}

#[test]
fn a_sent_step_that_fails_says_how() {
    let base = Base::new();
    let folder = base.stage("failing", true);
    let scratch = folder.join("scratch");
    fs::create_dir(&scratch).unwrap();
    let run = |script: &str| {
        let _ = fs::remove_dir_all(folder.join("out"));
        base.project
            .run(worker(&folder, &base.spec(script, &[]), &[]))
    };
    let failed = run("echo out; echo err >&2; touch /new; exit 3").fails(3, &["err"]);
    assert_eq!(failed.text(), "out");
    assert_eq!(report(&folder).exit, Ended::Code(3));
    assert!(!folder.join("out/layer.tar.zst").exists());
    run("kill -9 $$").fails(137, &[]);
    assert_eq!(report(&folder).exit, Ended::Signal(9));
    let missing = base.spec(
        "true",
        &[RunMount::Tmpfs {
            target: "/bin/sh".to_owned(),
            size: None,
        }],
    );
    base.project
        .run(worker(&folder, &missing, &[]))
        .fails(125, &[]);
    assert!(matches!(report(&folder).exit, Ended::Error(_)));
    let mut nonsense = worker(&folder, &missing, &[]);
    nonsense.arg("--spec=AAAA");
    base.project
        .run(nonsense)
        .fails(125, &["the step cannot be read"]);

    // Ended from outside: no report, and nothing stays.
    let long = base.spec("echo started >&2; sleep 1000", &[]);
    for (signal, status) in [
        (rustix::process::Signal::TERM, 130),
        (rustix::process::Signal::KILL, 137),
    ] {
        let _ = fs::remove_dir_all(folder.join("out"));
        let mut started = base.project.start(worker(&folder, &long, &[]));
        started.wait_for("started");
        started.signal(signal);
        assert_eq!(started.finish().status, status);
        assert!(!folder.join("out/meta.json").exists());
        let is_empty = fs::read_dir(&scratch).unwrap().next().is_none();
        assert_eq!(is_empty, status == 130);
    }
    run("true").ok();
    assert!(fs::read_dir(&scratch).unwrap().next().is_none());
}

#[test]
fn secrets_of_a_sent_step_are_the_workers() {
    let base = Base::new();
    let folder = base.stage("secrets", true);
    fs::create_dir(folder.join("scratch")).unwrap();
    let secrets = base.project.path("secrets-of-the-worker");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("token"), "hush\n").unwrap();
    fs::write(secrets.join("binary"), b"\xff\xfe").unwrap();
    symlink("/etc/passwd", secrets.join("away")).unwrap();
    let secret = |id: &str, env: Option<&str>, required| RunMount::Secret {
        id: id.to_owned(),
        target: Some("/run/secrets/it".to_owned()).filter(|_| env.is_none()),
        env: env.map(str::to_owned),
        required,
        mode: 0o440,
        uid: 0,
        gid: 0,
    };
    let run = |script: &str, mount| {
        let _ = fs::remove_dir_all(folder.join("out"));
        let mut command = worker(&folder, &base.spec(script, &[mount]), &[]);
        command.env("KILN_WORKER_SECRETS", &secrets);
        base.project.run(command)
    };
    run(
        "[ \"$(cat /run/secrets/it)\" = hush ] && [ \"$(stat -c '%a %u %g' /run/secrets/it)\" = '440 0 0' ] && grep -q '/run/secrets/it ramfs' /proc/mounts",
        secret("token", None, true),
    )
    .ok();
    // No mount point and no content is left.
    let layer = layer_of(&folder, &report(&folder), &base.space());
    assert_eq!(layer, base.local("RUN true"));
    run(
        "[ \"${#T}\" = 5 ] && [ \"${T%?}\" = hush ] && [ ! -e /run/secrets ]",
        secret("token", Some("T"), true),
    )
    .ok();
    run("[ ! -e /run/secrets/it ]", secret("none", None, false)).ok();
    run("[ -z \"${T+set}\" ]", secret("none", Some("T"), false)).ok();
    for (mount, says) in [
        (secret("none", None, true), "secret none: not found"),
        (secret("away", None, true), "leads out of its folder"),
        (secret("binary", Some("T"), true), "is not text"),
        (secret("../token", None, false), "none of such a name"),
        (secret("..", None, false), "none of such a name"),
    ] {
        run("true", mount).fails(125, &[says]);
        let Ended::Error(reason) = report(&folder).exit else {
            panic!("{says}: the step was carried out");
        };
        assert!(reason.contains(says), "{reason}");
    }
}
