//! The same context, Dockerfile and arguments on different machines: other users, umasks, paths, times, orders, names and
//! settings. Keys, layers and images are the same.

use crate::accounts::User;
use crate::support::{Project, able, is_root, program};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Later than this are all files of contexts.
const EPOCH: u64 = 1_600_000_000;

/// What a context has at a path.
#[derive(Clone, Debug)]
enum Node {
    Folder,
    /// Content, and whether it can be executed.
    File(Vec<u8>, bool),
    Link(Vec<u8>),
}

/// Paths and what is there, folders before what is in them.
type Tree = Vec<(Vec<u8>, Node)>;

/// Who builds, and where.
#[derive(Debug)]
struct Machine<'a> {
    name: &'a str,
    user: Option<&'a User>,
    /// Of the checkout and of the build.
    umask: u32,
    /// Whether the checkout is made from the last file to the first.
    backwards: bool,
    /// Seconds since [`EPOCH`] of its files.
    age: u64,
    /// Variables of the environment.
    variables: &'a [(&'a str, &'a str)],
    /// Whether equal files are one file, and folders have bits that Git does not know.
    is_odd: bool,
}

const PLAIN: Machine<'_> = Machine {
    name: "plain",
    user: None,
    umask: 0o022,
    backwards: false,
    age: 1,
    variables: &[],
    is_odd: false,
};

impl Machine<'_> {
    /// The context as this machine has it.
    fn checkout(&self, project: &Project, tree: &Tree) -> PathBuf {
        let home = project.path(self.name);
        let root = home.join("some/where").join(self.name);
        fs::create_dir_all(&root).unwrap();
        let at = |path: &[u8]| root.join(OsStr::from_bytes(path));
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        for (path, node) in tree {
            if let Node::Folder = node {
                fs::create_dir(at(path)).unwrap();
            }
        }
        let mut order: Vec<_> = tree.iter().collect();
        if self.backwards {
            order.reverse();
        }
        let mut seen: Vec<(&[u8], bool, PathBuf)> = Vec::new();
        for (path, node) in &order {
            let here = at(path);
            match node {
                Node::Folder => {}
                Node::Link(target) => symlink(OsStr::from_bytes(target), &here).unwrap(),
                Node::File(content, executable) => {
                    let is_same = |other: &&(&[u8], bool, PathBuf)| {
                        other.0 == content.as_slice() && other.1 == *executable
                    };
                    if let Some(other) = seen.iter().find(is_same).filter(|_| self.is_odd) {
                        fs::hard_link(&other.2, &here).unwrap();
                        continue;
                    }
                    fs::write(&here, content).unwrap();
                    let bits = if *executable { 0o777 } else { 0o666 };
                    mode(&here, bits & !self.umask).unwrap();
                    let time = Duration::from_secs(EPOCH + self.age);
                    let file = fs::File::open(&here).unwrap();
                    file.set_modified(SystemTime::UNIX_EPOCH + time).unwrap();
                    seen.push((content, *executable, here));
                }
            }
        }
        for (path, _) in order
            .iter()
            .filter(|(_, node)| matches!(node, Node::Folder))
        {
            let odd = if self.is_odd { 0o3000 } else { 0 };
            mode(&at(path), odd | (0o777 & !self.umask)).unwrap();
        }
        self.give(&home);
        root
    }

    /// Files of this machine belong to its user.
    fn give(&self, path: &Path) {
        let Some(user) = self.user else { return };
        let mut owner = Command::new("chown");
        owner.arg("-R").arg(format!("{0}:{0}", user.id)).arg(path);
        assert!(owner.status().unwrap().success());
        // `chown` takes such bits away.
        assert!(!self.is_odd);
        fs::set_permissions(project_of(path), Permissions::from_mode(0o755)).unwrap();
    }

    /// The program as this machine runs it.
    fn kiln(&self, project: &Project, args: &[&str]) -> Vec<u8> {
        let home = project.path(self.name);
        let mut words: Vec<String> = Vec::new();
        if is_root() {
            words.extend(["unshare", "--uts"].map(str::to_owned));
        }
        let script = format!(
            "umask {:o}; {}exec \"$@\"",
            self.umask,
            if is_root() { "hostname \"$0\"; " } else { "" }
        );
        words.extend(["sh", "-c", &script, self.name].map(str::to_owned));
        words.extend(self.user.map(User::prefix).unwrap_or_default());
        let mut command = program(Path::new(&words[0]));
        command.args(&words[1..]).arg(project.path("kiln"));
        command.arg("--root").arg(home.join("store")).args(args);
        command.env("HOME", &home).current_dir(&home);
        command.envs(self.variables.iter().copied());
        project.run(command).ok().stdout
    }

    /// Builds a checkout of the tree, made for it.
    fn build(&self, project: &Project, tree: &Tree, flags: &[&str]) -> Built {
        let binary = project.path("kiln");
        if !binary.exists() {
            fs::copy(env!("CARGO_BIN_EXE_kiln"), binary).unwrap();
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(testkit::busybox_layout());
            assert!(copy.arg(project.path("base")).status().unwrap().success());
        }
        let context = self.checkout(project, tree);
        let base = format!("busybox=oci-layout://{}", project.path("base").display());
        let file = project.path("context/Dockerfile");
        let place = ["-f", file.to_str().unwrap(), context.to_str().unwrap()];
        let base = ["--build-context", &base];
        let plan = [&["plan", "--format", "json"][..], &base, flags, &place].concat();
        let planned = json(&self.kiln(project, &plan));
        let outputs = [
            "build",
            "-q",
            "-t",
            "result",
            "-o",
            "type=image",
            "-o",
            "type=oci,dest=image.tar",
            "--metadata-file",
            "metadata",
        ];
        self.kiln(project, &[&outputs[..], &base, flags, &place].concat());
        let story = json(&self.kiln(project, &["explain", "--format", "json"]));
        let keys = |story: &Value| -> Vec<String> {
            let steps = story["steps"].as_array().unwrap().iter();
            steps.map(|step| text(&step["key"])).collect()
        };
        let image = json(&self.kiln(project, &["inspect", "result"]));
        let layers = image[0]["RootFS"]["Layers"].as_array().unwrap().iter();
        let home = project.path(self.name);
        let metadata = json(&fs::read(home.join("metadata")).unwrap());
        let built = Built {
            planned: keys(&planned),
            keys: keys(&story),
            layers: layers.map(text).collect(),
            image: text(&metadata["containerimage.digest"]),
            archive: testkit::digest_of(&fs::read(home.join("image.tar")).unwrap()),
        };
        self.clean(project);
        built
    }

    /// Removes the store and the checkout.
    fn clean(&self, project: &Project) {
        self.kiln(project, &["rmi", "result"]);
        self.kiln(project, &["prune", "--all"]);
        fs::remove_dir_all(project.path(self.name)).unwrap();
    }
}

/// The folder of the project, above a machine's.
fn project_of(home: &Path) -> &Path {
    home.parent().unwrap()
}

/// What must be the same.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Built {
    planned: Vec<String>,
    keys: Vec<String>,
    layers: Vec<String>,
    image: String,
    archive: String,
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// COPY in all its ways, and commands that write what they see of the machine.
const DOCKERFILE: &str = "\
FROM busybox AS build
ARG N=1
COPY . /all
RUN cp -r /all /copied && find /all | sort > /list && (hostname; env | sort; umask; id; date +%Z) > /seen
FROM busybox
WORKDIR /w
COPY bin/tool lib/data /picked/
COPY --link lib /linked
COPY --from=build /copied /list /seen /from/
RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=target=/ctx --mount=type=bind,from=build,source=/all,target=/b \\
    stat -c '%n %a %u %g' / /c /t /ctx /b /proc /sys /dev /dev/shm /dev/pts /tmp /etc/hosts /etc/resolv.conf > stat && \\
    find /ctx /b -exec stat -c '%n %a %u %g' {} + | sort >> stat && touch /c/f && stat -c %a /c/f >> stat
RUN mkdir -p made/deep && touch made/a && ln made/a made/b && ln -s a made/c && mkfifo made/pipe && rm /etc/os-release && \\
    chmod 4711 made/a && chmod 1777 made/deep && mv /linked /moved && sh -c 'echo $0 \"$LANG\" > made/said'
CMD [\"sh\"]
";

fn tree() -> Tree {
    let file = |content: &str, executable| Node::File(content.into(), executable);
    let list: [(&[u8], Node); 12] = [
        (b"bin", Node::Folder),
        (b"bin/tool", file("#!/bin/sh\n", true)),
        (b"bin/same", file("data", false)),
        (b"empty", Node::Folder),
        (b"lib", Node::Folder),
        (b"lib/data", file("data", false)),
        (b"lib/deep", Node::Folder),
        (b"lib/deep/more", file("more", false)),
        (b"lib/deep/\xff\xfe odd\n", file("data", false)),
        (b"lib/link", Node::Link(b"data".to_vec())),
        (b"lib/none", Node::Link(b"/no/\xffwhere".to_vec())),
        (b"nothing", file("", false)),
    ];
    list.map(|(path, node)| (path.to_vec(), node)).to_vec()
}

/// Settings of a machine that no build may see.
const ELSEWHERE: [(&str, &str); 6] = [
    ("TZ", "Asia/Kathmandu"),
    ("LANG", "tr_TR.UTF-8"),
    ("LC_ALL", "C"),
    ("TMPDIR", "/tmp"),
    ("N", "7"),
    ("PWD", "/nowhere"),
];

fn compare(project: &Project, machines: &[Machine<'_>], flags: &[&str]) {
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let flags = [flags, &["--build-arg", &epoch]].concat();
    let expected = PLAIN.build(project, &tree(), &flags);
    assert_eq!(expected.planned, expected.keys);
    assert_eq!(expected.layers.len(), 7, "{expected:?}");
    for machine in machines {
        let found = machine.build(project, &tree(), &flags);
        assert_eq!(found, expected, "{flags:?} {machine:?}");
    }
}

/// One test, because users of these names are there once.
#[test]
fn other_machines_give_the_same_keys_layers_and_images() {
    if !able(is_root(), "root, to become other users") {
        return;
    }
    let users =
        [("kilnmach1", true), ("kilnmach2", false)].map(|(name, ranges)| User::new(name, ranges));
    able(users.iter().all(Option::is_some), "useradd and /etc/subuid");
    let project = Project::new(DOCKERFILE);
    let far = Machine {
        name: "far-away",
        backwards: true,
        age: 90_000_000,
        variables: &ELSEWHERE,
        ..PLAIN
    };
    let theirs = users.iter().flatten().map(|user| Machine {
        name: user.name,
        user: Some(user),
        ..far
    });
    let exact: Vec<Machine<'_>> = theirs.clone().chain([Machine { ..far }]).collect();
    compare(&project, &exact, &["--context-mode=exact"]);

    let theirs = theirs.map(|machine| Machine {
        umask: 0o077,
        ..machine
    });
    let odd = Machine {
        name: "odd",
        umask: 0o007,
        is_odd: true,
        ..far
    };
    let git: Vec<Machine<'_>> = theirs.chain([odd]).collect();
    compare(&project, &git, &["--context-mode=git"]);
}

/// Trees with names of any bytes.
fn any_tree() -> impl Strategy<Value = Tree> {
    let name = prop::collection::vec(any::<u8>(), 1..12).prop_map(|bytes| -> Vec<u8> {
        let is_allowed = |byte: &u8| *byte != 0 && *byte != b'/';
        let name: Vec<u8> = bytes.into_iter().filter(is_allowed).collect();
        if [&b""[..], b".", b".."].contains(&name.as_slice()) {
            b"name".to_vec()
        } else {
            name
        }
    });
    let content = prop::sample::select(vec![&b""[..], b"same", b"other"]);
    let node = prop_oneof![
        2 => Just(Node::Folder),
        3 => (content, any::<bool>()).prop_map(|(content, executable)| Node::File(content.to_vec(), executable)),
        1 => name.clone().prop_map(Node::Link),
    ];
    prop::collection::vec((any::<usize>(), name, node), 1..24).prop_map(|list| {
        let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
        let mut tree = Tree::new();
        for (parent, name, node) in list {
            let parent = &folders[parent % folders.len()];
            let path = [parent.as_slice(), &name].concat();
            if tree.iter().any(|(other, _)| *other == path) {
                continue;
            }
            if let Node::Folder = node {
                folders.push([&path[..], b"/"].concat());
            }
            tree.push((path, node));
        }
        tree
    })
}

#[test]
fn random_trees_are_the_same_everywhere() {
    let project =
        Project::new("FROM busybox\nCOPY . /all\nCOPY --link . /linked\nRUN cp -a /all /copied\n");
    let far = Machine {
        name: "far",
        backwards: true,
        age: 5_000,
        variables: &ELSEWHERE,
        ..PLAIN
    };
    let odd = Machine {
        umask: 0o077,
        is_odd: true,
        ..far
    };
    let config = Config {
        cases: 6,
        failure_persistence: None,
        ..Config::default()
    };
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let check = |tree: Tree| {
        for (mode, machine) in [("exact", &far), ("git", &odd)] {
            let flags = ["--build-arg", &epoch, "--context-mode", mode];
            let expected = PLAIN.build(&project, &tree, &flags);
            let found = machine.build(&project, &tree, &flags);
            if found != expected {
                return Err(TestCaseError::fail(format!(
                    "{mode}: {found:?} instead of {expected:?}"
                )));
            }
        }
        Ok(())
    };
    TestRunner::new(config).run(&any_tree(), check).unwrap();
}

/// Of the names of a file that has several, those outside of the context are in no key.
#[test]
fn names_of_a_file_elsewhere_do_not_count() {
    let project = Project::new("FROM scratch\nCOPY a b /\n");
    project.write("a", "x");
    let file = project.write("b", "x");
    project.build(&[]).ok();
    fs::hard_link(&file, project.path("elsewhere")).unwrap();
    assert_eq!(project.build(&[]).ok().step("COPY a b /"), "CACHED");
}
