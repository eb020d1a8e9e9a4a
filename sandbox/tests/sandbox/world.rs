//! A store of its own for the tests: a busybox root, this program inside it for what busybox cannot do, and a sandbox.

use rustix::pipe::{PipeFlags, pipe_with};
use sandbox::{
    Error, Exit, IdMapping, Isolation, Mode, Mount, Network, Options, Overlay, Pressure, RootKind,
    RunSpec, Sandbox,
};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub(crate) const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// The environment variable that forces a kind of root in all tests.
pub(crate) const ROOT_KIND: &str = "SANDBOX_TEST_ROOT";

pub(crate) fn root_kind() -> Option<RootKind> {
    let kind = std::env::var(ROOT_KIND).ok()?;
    Some(kind.parse().unwrap())
}

pub(crate) struct World {
    folder: tempfile::TempDir,
    sandbox: Sandbox,
    next: AtomicU32,
}

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(
            self.exit,
            Exit::Code(0),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self.stdout
    }
}

impl World {
    pub(crate) fn new() -> Result<Self, String> {
        Self::with(Isolation::Auto)
    }

    pub(crate) fn with(isolation: Isolation) -> Result<Self, String> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let busybox = busybox.ok_or("busybox is not installed (package busybox-static)")?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let store = folder.path().join("store");
        std::fs::create_dir(&store).map_err(|error| error.to_string())?;
        make_base(&store.join("base"), Path::new(busybox))
            .map_err(|error| format!("could not make the base: {error}"))?;
        let sandbox = Sandbox::start(&Options {
            stores: vec![store],
            isolation,
            root: root_kind(),
            ..Options::default()
        })
        .map_err(|error| format!("no sandbox: {}", chain(&error)))?;
        Ok(Self {
            folder,
            sandbox,
            next: AtomicU32::new(0),
        })
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn is(&self, mapping: IdMapping) -> bool {
        self.sandbox.id_mapping() == mapping
    }

    /// The folder around the store: outside of what a command may reach.
    pub(crate) fn outside(&self) -> &Path {
        self.folder.path()
    }

    /// What gives another sandbox the same mode.
    pub(crate) fn isolation(&self) -> Isolation {
        match self.sandbox.mode() {
            Mode::Chroot => Isolation::Chroot,
            _ => Isolation::Auto,
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.store().join("base")
    }

    /// A new empty folder in the store.
    pub(crate) fn folder(&self) -> PathBuf {
        let path = self
            .store()
            .join(format!("f{}", self.next.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// A layer with these files; a path that ends with `/` is a folder, `a -> b` a link.
    pub(crate) fn layer(&self, entries: &[&str]) -> PathBuf {
        let layer = self.folder();
        for entry in entries {
            let (path, target) = entry
                .split_once(" -> ")
                .map_or((*entry, None), |(path, target)| (path, Some(target)));
            let path = layer.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match target {
                Some(target) => symlink(target, path).unwrap(),
                None if entry.ends_with('/') => std::fs::create_dir_all(path).unwrap(),
                None => std::fs::write(path, "from the layer\n").unwrap(),
            }
        }
        layer
    }

    /// A layer with a whiteout and an opaque folder.
    pub(crate) fn whiteouts(&self, gone: &str, opaque: &str) -> PathBuf {
        let layer = self.folder();
        let kind = rustix::fs::FileType::CharacterDevice;
        let none = rustix::fs::Mode::empty();
        rustix::fs::mknodat(rustix::fs::CWD, layer.join(gone), kind, none, 0).unwrap();
        let opaque = layer.join(opaque);
        std::fs::create_dir(&opaque).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&opaque, "user.overlay.opaque", b"y", flags).unwrap();
        layer
    }

    /// A root of the base with layers above it, topmost first, and a new upper.
    pub(crate) fn root(&self, layers: &[PathBuf]) -> Overlay {
        let mut lowers = layers.to_vec();
        lowers.push(self.base());
        Overlay {
            lowers,
            upper: Some((self.folder(), self.folder())),
        }
    }

    /// A command over the base.
    pub(crate) fn spec(&self, args: &[&str]) -> RunSpec {
        RunSpec {
            root: self.root(&[]),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec![("PATH".to_owned(), PATH.to_owned())],
            cwd: "/".to_owned(),
            hostname: "sandbox".to_owned(),
            // Without namespaces there is no other.
            network: match self.sandbox.mode() {
                Mode::Chroot => Network::Host,
                _ => Network::default(),
            },
            ..RunSpec::default()
        }
    }

    pub(crate) fn sh(&self, script: &str) -> RunSpec {
        self.spec(&["sh", "-c", script])
    }

    /// This program inside the root.
    pub(crate) fn probe(&self, name: &str) -> RunSpec {
        self.spec(&["/probe", "--probe", name])
    }

    pub(crate) fn try_run(&self, spec: &RunSpec) -> Result<Outcome, Error> {
        run_in(&self.sandbox, spec)
    }

    /// The same, with how often its limits were hit.
    pub(crate) fn try_run_watched(&self, spec: &RunSpec) -> Result<(Outcome, Pressure), Error> {
        watch_in(&self.sandbox, spec)
    }

    #[track_caller]
    pub(crate) fn run(&self, spec: &RunSpec) -> Outcome {
        match self.try_run(spec) {
            Ok(outcome) => outcome,
            Err(error) => panic!("{}", chain(&error)),
        }
    }

    /// What a command changed, as sorted paths of its upper.
    pub(crate) fn changes(&self, spec: &RunSpec) -> Vec<String> {
        let (upper, _) = spec.root.upper.as_ref().unwrap();
        let listed = self
            .sandbox
            .task("list", upper.to_str().unwrap().as_bytes(), &[])
            .unwrap();
        String::from_utf8(listed)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Removes everything; some of it may belong to ids of the namespace only.
    pub(crate) fn remove(self) {
        self.sandbox
            .task("remove", self.store().to_str().unwrap().as_bytes(), &[])
            .unwrap();
        drop(self.sandbox);
        self.folder.close().unwrap();
    }
}

pub(crate) fn run_in(sandbox: &Sandbox, spec: &RunSpec) -> Result<Outcome, Error> {
    watch_in(sandbox, spec).map(|(outcome, _)| outcome)
}

fn watch_in(sandbox: &Sandbox, spec: &RunSpec) -> Result<(Outcome, Pressure), Error> {
    let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    std::thread::scope(|scope| {
        let stdout = scope.spawn(|| read_all(out_read));
        let stderr = scope.spawn(|| read_all(err_read));
        let ended = sandbox
            .run(spec, out_write.as_fd(), err_write.as_fd())
            .and_then(|mut running| Ok((running.wait()?, running.pressure())));
        drop((out_write, err_write));
        let (stdout, stderr) = (stdout.join().unwrap(), stderr.join().unwrap());
        let (exit, pressure) = ended?;
        let outcome = Outcome {
            exit,
            stdout,
            stderr,
        };
        Ok((outcome, pressure))
    })
}

fn read_all(pipe: OwnedFd) -> String {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

pub(crate) fn file(target: &str, data: &str) -> Mount {
    Mount::File {
        target: target.to_owned(),
        data: data.as_bytes().to_vec(),
        mode: 0o644,
        uid: 0,
        gid: 0,
    }
}

fn make_base(base: &Path, busybox: &Path) -> std::io::Result<()> {
    for folder in ["bin", "etc", "tmp", "lib64", "usr/bin"] {
        std::fs::create_dir_all(base.join(folder))?;
    }
    std::fs::set_permissions(base.join("tmp"), PermissionsExt::from_mode(0o1777))?;
    std::fs::copy(busybox, base.join("bin/busybox"))?;
    for applet in [
        "sh", "true", "cat", "ls", "id", "env", "sleep", "touch", "rm", "mkdir", "stat", "chown",
        "chmod", "mount", "umount", "mknod", "kill", "cp",
    ] {
        symlink("busybox", base.join("bin").join(applet))?;
    }
    for applet in [
        "ps", "grep", "dd", "find", "hostname", "ip", "setsid", "seq", "chroot", "ln", "mv", "df",
        "tr", "wc", "head", "echo", "sort", "unshare", "date",
    ] {
        symlink("busybox", base.join("bin").join(applet))?;
    }
    std::fs::write(
        base.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
    )?;
    std::fs::copy("/proc/self/exe", base.join("probe"))?;
    // The libraries this program runs with, where its loader is asked to look, and the loader where it is named.
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let Some(path) = line.find('/').map(|at| Path::new(&line[at..])) else {
            continue;
        };
        let Some(name) = path
            .file_name()
            .filter(|name| name.to_string_lossy().contains(".so"))
        else {
            continue;
        };
        let copy = base.join("lib64").join(name);
        if !copy.exists() {
            std::fs::copy(path, copy)?;
        }
    }
    symlink("lib64", base.join("lib"))
}
