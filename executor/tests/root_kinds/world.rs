//! A store with a base layer, and steps over it.

use crate::layer_support::{TarMaker, gzip, sha256};
use executor::layer;
use executor::request::RunSettings;
use executor::snapshot::Snapshot;
use executor::space::Space;
use oci_spec::image::{Descriptor, Digest, MediaType};
use sandbox::{Exit, Isolation, Keep, KeptCopy, Mode, Mount, Network, Overlay, RunSpec};
use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use store::Store;

/// What is younger in a layer is as old as this, in seconds.
const EPOCH: i64 = 1_000_000_000;
const APPLETS: [&str; 19] = [
    "sh", "rm", "mkdir", "rmdir", "chmod", "mkfifo", "ln", "touch", "stat", "chown", "test", "[",
    "ls", "cat", "mv", "cp", "truncate", "dd", "mknod",
];

pub(crate) struct World {
    space: Space,
    place: PathBuf,
    layers: Vec<Digest>,
    network: Network,
    next: AtomicU32,
}

impl World {
    pub(crate) fn new(place: &Path, kind: &str) -> Result<Self, String> {
        let busybox = fs::read("/bin/busybox")
            .map_err(|error| format!("/bin/busybox (package busybox-static): {error}"))?;
        fs::create_dir(place).unwrap();
        let settings = match kind {
            "chroot" => RunSettings {
                isolation: Isolation::Chroot,
                ..RunSettings::default()
            },
            kind => RunSettings {
                root: Some(kind.parse()?),
                ..RunSettings::default()
            },
        };
        let store = Store::open(&place.join("store")).unwrap();
        let space = Space::new(store).with_isolation(&settings);
        let found = space
            .sandbox()
            .map_err(|error| executor::error::chain(&error))?;
        match kind {
            "chroot" => assert_eq!(found.mode(), Mode::Chroot),
            kind => assert_eq!(found.root_kind().to_string(), kind),
        }
        tools(&place.join("store/tools"));
        let mut world = Self {
            space,
            place: place.join("store"),
            layers: Vec::new(),
            // Without namespaces there is the machine's only.
            network: match kind {
                "chroot" => Network::Host,
                _ => Network::None,
            },
            next: AtomicU32::new(0),
        };
        for tar in [lower(&busybox), upper()] {
            let blob = gzip(&tar);
            let digest = world.space.store().put_blob(&blob).unwrap();
            let descriptor = Descriptor::new(MediaType::ImageLayerGzip, blob.len() as u64, digest);
            let diff_id = sha256(&tar);
            layer::register_blob(&world.space, &diff_id, &descriptor).unwrap();
            world.layers.push(diff_id);
        }
        Ok(world)
    }

    /// The digests of the layers that a script makes, or why there are none. Parts after a line `--` are steps of their own,
    /// over the layers of those before; where roots are copies, all have one, which stays.
    pub(crate) fn step(&self, script: &str) -> String {
        let mut layers = self.layers.clone();
        let copies = self.place.join("copies");
        fs::create_dir(&copies).unwrap();
        let mut held = 0;
        for part in script.split("\n--\n") {
            let copy = KeptCopy {
                folder: copies.clone(),
                above: self.trees(&layers[held..]),
            };
            held = layers.len();
            match self.part(part, &layers, copy) {
                Ok((digest, left_out)) => {
                    layers.push(digest);
                    // As builds do: a copy that lacks what no layer brings back is of no use.
                    if left_out {
                        self.space.remove_tree(&copies).unwrap();
                        fs::create_dir(&copies).unwrap();
                        held = 0;
                    }
                }
                Err(reason) => {
                    self.space.remove_tree(&copies).unwrap();
                    return reason.replace('\n', "; ");
                }
            }
        }
        self.space.remove_tree(&copies).unwrap();
        let made = layers[self.layers.len()..].iter().map(|layer| {
            layer::clamp_times(&self.space, layer, EPOCH)
                .unwrap()
                .to_string()
        });
        made.collect::<Vec<_>>().join(" ")
    }

    /// Folders of layers, topmost first.
    fn trees(&self, layers: &[Digest]) -> Vec<PathBuf> {
        let topmost_first = layers.iter().rev();
        topmost_first
            .map(|layer| layer::tree(&self.space, layer).unwrap())
            .collect()
    }

    fn part(
        &self,
        script: &str,
        layers: &[Digest],
        copy: KeptCopy,
    ) -> Result<(Digest, bool), String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let folder = self.place.join(format!("run{number}"));
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        for folder in [&folder, &upper, &work] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let lowers = self.trees(layers);
        let bind = Mount::Bind {
            source: self.place.join("tools"),
            subpath: String::new(),
            target: "/tools/here".to_owned(),
            readonly: true,
            nosuid: false,
            noexec: false,
            owner: None,
        };
        let probe = "probe() { /tools/here/loader --library-path /tools/here /tools/here/program --probe \"$@\"; }";
        let spec = RunSpec {
            root: Overlay {
                lowers,
                upper: Some((upper.clone(), work.clone())),
            },
            keep: Keep {
                copy: Some(copy),
                joins: None,
            },
            mounts: vec![bind],
            args: [
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                format!("set -e\n{probe}\n{script}"),
            ]
            .into(),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            cwd: "/".to_owned(),
            network: self.network,
            hostname: "test".to_owned(),
            ..RunSpec::default()
        };
        let log = tempfile::tempfile().unwrap();
        let exit = self
            .space
            .sandbox()
            .unwrap()
            .run(&spec, log.as_fd(), log.as_fd())
            .and_then(|mut running| running.wait())
            .map_err(|error| executor::error::chain(&error.into()))?;
        let mut text = String::new();
        (&log).rewind().unwrap();
        (&log).read_to_string(&mut text).unwrap();
        if exit != Exit::Code(0) {
            return Err(format!("{exit:?}: {text}"));
        }
        let below = Snapshot {
            layers: layers.to_vec(),
        };
        let (written, left_out) = layer::capture_run(&self.space, (&upper, &work), &below)
            .map_err(|error| executor::error::chain(&error))?;
        self.space.remove_tree(&folder).unwrap();
        Ok((written.diff_id, left_out))
    }

    pub(crate) fn remove(self) {
        self.space.remove_tree(&self.place).unwrap();
    }
}

/// This program, its loader and its libraries.
fn tools(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::copy("/proc/self/exe", folder.join("program")).unwrap();
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let Some(path) = line.find('/').map(|at| Path::new(&line[at..])) else {
            continue;
        };
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.contains(".so") {
            continue;
        }
        let name = if name.starts_with("ld-") {
            "loader".to_owned()
        } else {
            name
        };
        let copy = folder.join(name);
        if !copy.exists() {
            fs::copy(path, copy).unwrap();
        }
    }
}

fn lower(busybox: &[u8]) -> Vec<u8> {
    let mut maker = TarMaker::new().dir("bin");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    maker
        .builder
        .append_data(&mut header, "bin/busybox", busybox)
        .unwrap();
    for name in APPLETS {
        maker = maker.symlink(&format!("bin/{name}"), "busybox");
    }
    for folder in [
        "etc",
        "opt",
        "opt/app",
        "opt/app/deep",
        "opt/empty",
        "var",
        "t",
        "t/a",
        "t/b",
        "gone",
        "back",
    ] {
        maker = maker.dir(folder);
    }
    for file in [
        "etc/issue",
        "etc/passwd",
        "opt/app/a",
        "opt/app/b",
        "opt/app/deep/c",
        "t/a/f",
        "t/a/g",
        "t/b/h",
        "t/top",
        "gone/x",
        "back/x",
        "back/y",
    ] {
        maker = maker.file(file, &format!("content of {file}\n"));
    }
    maker
        .file("linked1", "one file, three names\n")
        .hardlink("linked2", "linked1")
        .hardlink("t/linked", "linked1")
        .symlink("etc/link", "issue")
        .symlink("t/dangling", "/nowhere")
        .end()
}

/// A layer with whiteouts and an opaque folder over the other.
fn upper() -> Vec<u8> {
    TarMaker::new()
        .file(".wh.gone", "")
        .dir("back")
        .file("back/.wh..wh..opq", "")
        .file("back/z", "new")
        .pax(&[
            ("uid", b"33"),
            ("gid", b"34"),
            ("SCHILY.xattr.user.color", b"red"),
        ])
        .file("etc/owned", "by somebody else\n")
        .end()
}
