//! Where everything is, and the making and checking of the root folder. It reads and writes no content but the version file.
//!
//! ```text
//! version                          "1\n": the format; written once, fsynced
//! lock                             flock: shared while a store is open, exclusive for what needs it alone
//! gc                               flock: where those who use something and those who remove it meet (see `lease`); bytes of the cache (see `growth`)
//! sizes                            bytes of unpacked trees, measured once; flock'd by the one process that collects
//! blobs/ALGORITHM/ENCODED          content by digest, as in an OCI image layout
//! layers/ALGORITHM/ENCODED/        by diff_id; flock'd while `meta.json` is merged
//!     meta.json                    LayerMeta; the layer is there when this is
//!     index                        opaque index
//!     cost                         milliseconds that the step took which made it
//!     tree/root/                   unpacked tree; the wrapper belongs to us even when `root` belongs to another id,
//!                                  which is what lets us rename it (rename(2) wants write permission on a moved folder)
//! identities/XX/REST               content identity -> diff_id
//! records/XX/REST                  cache records: see `record`
//! refs/SHA256(NAME)                references as JSON (the folder flock'd while one is edited); `refs/untagged-ALGORITHM-ENCODED` for images without a name
//! stat/SHA256(CONTEXT)             stat caches: see `stat_cache`
//! mounts/SHA256(ID)/id, N/data     cache mounts; N flock'd while in use; N/ready once filled, N/notes of its reader
//! scratch/RANDOM/                  flock'd by its owner; swept when nobody holds the lock
//! scratch/RANDOM.stuck/            dead, and not removable by us (files of other ids)
//! leases/SECONDS-RANDOM            flock'd: see `lease`
//! logs/                            build logs
//! kept/ID/                         what failed steps left: see `kept`
//! ```

use crate::error::Error;
use crate::file;
use oci_spec::image::Digest;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Newest format this program reads and the one it writes.
const VERSION: u32 = 1;

const FOLDERS: [&str; 9] = [
    "blobs",
    "layers",
    "identities",
    "records",
    "refs",
    "stat",
    "mounts",
    "logs",
    "kept",
];

/// Paths below the root.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Checks an existing root or makes a new one.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let root = std::path::absolute(root).map_err(|e| Error::io("resolve", root, e))?;
        let layout = Self { root };
        if !layout.check_version()? {
            layout.create()?;
        }
        Ok(layout)
    }

    /// `false` when there is no version file yet.
    fn check_version(&self) -> Result<bool, Error> {
        let path = self.root.join("version");
        let Some(bytes) = file::read_small(&path, 64)? else {
            return Ok(false);
        };
        let found = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.strip_suffix('\n'))
            .and_then(|number| number.parse::<u32>().ok())
            .filter(|number| *number > 0);
        match found {
            None => Err(Error::Damaged {
                path,
                reason:
                    "it should hold the store's format version; if the folder is a kiln store, \
                         write \"1\" and a line feed into it"
                        .into(),
            }),
            Some(found) if found > VERSION => Err(Error::NewerVersion {
                path: self.root.clone(),
                found,
                supported: VERSION,
            }),
            Some(_) => Ok(true),
        }
    }

    fn create(&self) -> Result<(), Error> {
        // Images hold set-user-ID programs and files of other users: nobody else may walk in.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(|e| Error::io("create", &self.root, e))?;
        self.refuse_foreign_folder()?;
        for folder in FOLDERS {
            make_dir(&self.root.join(folder))?;
        }
        make_dir(&self.scratch())?;
        make_dir(&self.root.join("blobs/sha256"))?;
        make_dir(&self.root.join("layers/sha256"))?;
        self.write_version()
    }

    /// Another process may be creating the same store, so our own names are fine.
    fn refuse_foreign_folder(&self) -> Result<(), Error> {
        let known = |name: &str| {
            FOLDERS.contains(&name)
                || [
                    "scratch",
                    "leases",
                    "lock",
                    "gc",
                    "sizes",
                    "version",
                    "lost+found",
                ]
                .contains(&name)
                || name.starts_with(".version-")
        };
        for entry in file::list(&self.root)? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !known(&name) {
                return Err(Error::NotAStore {
                    path: self.root.clone(),
                    found: name,
                });
            }
        }
        Ok(())
    }

    fn write_version(&self) -> Result<(), Error> {
        let temporary = self.root.join(format!(".version-{}", file::random_name()?));
        let write = || -> io::Result<()> {
            let mut out = fs::File::create_new(&temporary)?;
            out.write_all(format!("{VERSION}\n").as_bytes())?;
            out.sync_all()?;
            fs::rename(&temporary, self.root.join("version"))
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            Error::io("create", &self.root.join("version"), e)
        })?;
        file::sync_dir(&self.root)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    pub(crate) fn guard(&self) -> PathBuf {
        self.root.join("gc")
    }

    pub(crate) fn sizes(&self) -> PathBuf {
        self.root.join("sizes")
    }

    pub(crate) fn folder(&self, name: &'static str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        by_digest(self.root.join("blobs"), digest)
    }

    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        by_digest(self.root.join("layers"), diff_id)
    }

    pub(crate) fn identity(&self, identity: &str) -> PathBuf {
        let plain = (4..=128).contains(&identity.len())
            && identity.bytes().all(|b| b.is_ascii_alphanumeric());
        if plain {
            return fan_out(self.root.join("identities"), identity);
        }
        fan_out(
            self.root.join("identities"),
            &hash_name(identity.as_bytes()),
        )
    }

    pub(crate) fn record(&self, key: &[u8; 32]) -> PathBuf {
        fan_out(self.root.join("records"), &hex(key))
    }

    pub(crate) fn reference(&self, name: &str) -> PathBuf {
        self.root.join("refs").join(hash_name(name.as_bytes()))
    }

    pub(crate) fn untagged(&self, digest: &Digest) -> PathBuf {
        self.root.join("refs").join(format!(
            "untagged-{}-{}",
            digest.algorithm(),
            digest.digest()
        ))
    }

    pub(crate) fn stat_cache(&self, context: &Path) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.root
            .join("stat")
            .join(hash_name(context.as_os_str().as_bytes()))
    }

    pub(crate) fn mount(&self, id: &str) -> PathBuf {
        self.root.join("mounts").join(hash_name(id.as_bytes()))
    }
}

fn make_dir(path: &Path) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", path, e)),
        _ => Ok(()),
    }
}

/// `Digest` admits neither `/` nor an empty or dotted component, so the result stays below `folder`.
fn by_digest(mut folder: PathBuf, digest: &Digest) -> PathBuf {
    folder.push(digest.algorithm().as_ref());
    folder.push(digest.digest());
    folder
}

fn fan_out(mut folder: PathBuf, name: &str) -> PathBuf {
    let (first, rest) = name.split_at(2);
    folder.push(first);
    folder.push(rest);
    folder
}

fn hash_name(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}
