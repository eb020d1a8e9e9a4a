//! What the steps do that no shell can, inside the root.

use rustix::fs::{
    self as rfs, AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    FileExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn main(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["set-xattr", path, name, value] => {
            rfs::setxattr(*path, *name, &bytes(value), XattrFlags::empty()).unwrap();
        }
        // An overlay refuses or hides it.
        ["try-xattr", path, name, value] => drop(rfs::setxattr(
            *path,
            *name,
            &bytes(value),
            XattrFlags::empty(),
        )),
        ["remove-xattr", path, name] => rfs::removexattr(*path, *name).unwrap(),
        ["time", path, seconds, nanoseconds] => set_time(
            Path::new(path),
            seconds.parse().unwrap(),
            nanoseconds.parse().unwrap(),
        ),
        ["poke", path] => fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .write_all_at(b"P", 2)
            .unwrap(),
        ["set-back", path] => {
            let meta = fs::metadata(path).unwrap();
            let text: Vec<u8> = fs::read(path)
                .unwrap()
                .iter()
                .map(|byte| byte ^ 1)
                .collect();
            fs::write(path, text).unwrap();
            set_time(Path::new(path), meta.mtime(), meta.mtime_nsec());
        }
        ["open", path] => drop(
            fs::File::options()
                .read(true)
                .write(true)
                .open(path)
                .unwrap(),
        ),
        ["socket", path] => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        ["odd-names", path] => odd_names(Path::new(path)),
        ["random", seed, path] => Random::new(seed.parse().unwrap(), Path::new(path)).run(),
        _ => return ExitCode::from(99),
    }
    ExitCode::SUCCESS
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rfs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn odd_names(folder: &Path) {
    let long = "l".repeat(150);
    fs::create_dir_all(folder.join(&long).join(&long)).unwrap();
    fs::write(folder.join(&long).join(&long).join("file"), "deep").unwrap();
    for name in [
        &b"\xff\xfe"[..],
        b"new\nline",
        b" space ",
        b"\\back",
        b"quo'te\"",
        b"wh.",
        b"-",
        &[b'n'; 255],
    ] {
        fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

/// Random changes of a tree. What an overlay cannot do and a copy can (moving a folder of a lower layer) is left out.
struct Random {
    state: u64,
    root: PathBuf,
    own: Vec<PathBuf>,
}

impl Random {
    fn new(seed: u64, root: &Path) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678,
            root: root.to_owned(),
            own: Vec::new(),
        }
    }

    /// splitmix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((value ^ (value >> 31)) % bound as u64).unwrap()
    }

    /// Everything below the root, sorted.
    fn entries(&self) -> Vec<PathBuf> {
        fn list(folder: &Path, found: &mut Vec<PathBuf>) {
            let mut names: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|item| item.unwrap().path())
                .collect();
            names.sort();
            for path in names {
                found.push(path.clone());
                if path.symlink_metadata().unwrap().is_dir() {
                    list(&path, found);
                }
            }
        }
        let mut found = vec![self.root.clone()];
        list(&self.root, &mut found);
        found
    }

    fn any(&mut self, wanted: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let mut fitting = self.entries();
        fitting.retain(|path| path.symlink_metadata().is_ok_and(|meta| wanted(&meta)));
        if fitting.is_empty() {
            return None;
        }
        let index = self.below(fitting.len());
        Some(fitting.swap_remove(index))
    }

    /// A path for something new, or of something that is there.
    fn name(&mut self) -> PathBuf {
        let folder = self.any(fs::Metadata::is_dir).unwrap();
        let names = ["a", "b", "f", "g", "x", "y", "linked", "top"];
        let index = self.below(names.len());
        folder.join(names[index])
    }

    fn run(&mut self) {
        for _ in 0..20 + self.below(40) {
            self.change();
        }
    }

    fn change(&mut self) {
        let file = |meta: &fs::Metadata| meta.is_file();
        let name = self.name();
        match self.below(16) {
            // A FIFO would wait for a reader.
            0 | 1
                if name
                    .symlink_metadata()
                    .is_ok_and(|meta| meta.file_type().is_fifo() || sets_id(&meta)) => {}
            0 | 1 => drop(fs::write(&name, format!("new {}", self.below(1000)))),
            2 | 3 => {
                if fs::create_dir(&name).is_ok() {
                    self.own.push(name);
                }
            }
            4 => drop(symlink("target", &name)),
            5 => drop(rfs::mknodat(CWD, &name, rfs::FileType::Fifo, Mode::RUSR, 0)),
            6 => drop(self.any(file).map(|from| fs::hard_link(from, &name))),
            7 => drop(self.any(file).map(fs::remove_file)),
            8 => {
                if let Some(path) = self
                    .any(fs::Metadata::is_dir)
                    .filter(|path| *path != self.root)
                {
                    fs::remove_dir_all(&path).unwrap();
                    self.own.retain(|own| !own.starts_with(&path));
                }
            }
            9 => drop(self.any(file).map(|from| fs::rename(from, &name))),
            10 => self.move_own(&name),
            11 => {
                let mode = [0o600, 0o644, 0o755, 0o4711][self.below(4)];
                drop(
                    self.any(|meta| !meta.is_symlink())
                        .map(|path| fs::set_permissions(path, fs::Permissions::from_mode(mode))),
                );
            }
            12 => {
                let id = u32::try_from(self.below(3)).unwrap();
                let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
                if let Some(path) = self.any(|_| true) {
                    let link = AtFlags::SYMLINK_NOFOLLOW;
                    rfs::chownat(CWD, path, Some(uid), Some(gid), link).unwrap();
                }
            }
            13 => {
                let time = i64::try_from(self.below(100_000)).unwrap();
                if let Some(path) = self.any(|_| true) {
                    set_time(&path, time, 0);
                }
            }
            14 => {
                let value = [u8::try_from(self.below(4)).unwrap()];
                if let Some(path) = self.any(|meta| meta.is_file() || meta.is_dir()) {
                    rfs::setxattr(path, "user.random", &value, XattrFlags::empty()).unwrap();
                }
            }
            _ => {
                let Some(path) = self.any(|meta| file(meta) && !sets_id(meta)) else {
                    return;
                };
                let flags = OFlags::WRONLY | OFlags::APPEND;
                if let Ok(file) = rfs::open(path, flags, Mode::empty()) {
                    rustix::io::write(&file, b"more").unwrap();
                }
            }
        }
    }

    /// Moves a folder that was made here, which an overlay can do too, to where nothing is.
    fn move_own(&mut self, to: &Path) {
        if self.own.is_empty() || to.symlink_metadata().is_ok() {
            return;
        }
        let index = self.below(self.own.len());
        let from = self.own[index].clone();
        if to.starts_with(&from) || fs::rename(&from, to).is_err() {
            return;
        }
        for own in &mut self.own {
            if let Ok(rest) = own.strip_prefix(&from) {
                *own = if rest.as_os_str().is_empty() {
                    to.to_owned()
                } else {
                    to.join(rest)
                };
            }
        }
    }
}

/// Root of a user namespace takes these bits away when it writes to such a file, the machine's own root does not.
fn sets_id(meta: &fs::Metadata) -> bool {
    meta.permissions().mode() & 0o6000 != 0
}
