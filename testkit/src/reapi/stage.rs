//! From a Merkle tree to files, and from files to outputs.

#![allow(
    deprecated,
    reason = "older clients use the fields that newer ones do not"
)]

use super::apis::google::protobuf::{Timestamp, UInt32Value};
use super::options::{Options, Staging};
use super::proto::{
    ActionResult, Command, Directory, DirectoryNode, FileNode, NodeProperties, OutputDirectory,
    OutputFile, OutputSymlink, SymlinkNode, Tree,
};
use super::state::Key;
use super::storage::Storage;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

/// Why an input root could not be laid out.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Blobs that are not here.
    Missing(Vec<Key>),
    /// The tree is not as it must be.
    Invalid(String),
    /// The worker's own trouble.
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Empties all files with this content below a folder. How many there were. What goes away meanwhile is no error.
pub(super) fn empty(folder: &Path, content: &[u8]) -> io::Result<usize> {
    let mut emptied = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            continue;
        };
        if metadata.is_dir() {
            emptied += empty(&path, content)?;
        } else if metadata.is_file()
            && metadata.len() == content.len() as u64
            && fs::read(&path).is_ok_and(|found| found == content)
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
            fs::File::options().write(true).open(&path)?.set_len(0)?;
            emptied += 1;
        }
    }
    Ok(emptied)
}

/// Lays out an input root in a folder that is made here.
pub(super) fn stage(
    storage: &Storage,
    options: &Options,
    root: &Key,
    folder: &Path,
) -> Result<(), Trouble> {
    let mut stager = Stager {
        storage,
        options,
        missing: Vec::new(),
        copies: BTreeMap::new(),
    };
    fs::create_dir_all(folder)?;
    stager.directory(root, folder, None)?;
    if stager.missing.is_empty() {
        return Ok(());
    }
    Err(Trouble::Missing(stager.missing))
}

struct Stager<'a> {
    storage: &'a Storage,
    options: &'a Options,
    missing: Vec<Key>,
    /// Where files are that others can be links to.
    copies: BTreeMap<Copied, PathBuf>,
}

/// What a file is: content, mode, time in seconds and nanoseconds.
type Copied = (Key, u32, Option<(i64, i32)>);

impl Stager<'_> {
    /// Lays out what is in a folder that exists, then gives it its mode and time.
    fn directory(
        &mut self,
        key: &Key,
        path: &Path,
        above: Option<&NodeProperties>,
    ) -> Result<(), Trouble> {
        let directory: Directory = match self.storage.message(key) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing.push(key.clone());
                return Ok(());
            }
            Err(error) => return Err(Trouble::Invalid(format!("directory {key}: {error}"))),
        };
        for file in &directory.files {
            let key = digest(file.digest.as_ref())?;
            self.file(&key, file, &path.join(checked(&file.name)?))?;
        }
        for link in &directory.symlinks {
            let path = path.join(checked(&link.name)?);
            symlink(&link.target, &path)?;
            self.time(link.node_properties.as_ref(), &path)?;
        }
        for child in &directory.directories {
            let key = digest(child.digest.as_ref())?;
            let path = path.join(checked(&child.name)?);
            fs::create_dir(&path)?;
            self.directory(&key, &path, None)?;
        }
        let properties = directory.node_properties.as_ref().or(above);
        let mode = self.mode(properties).unwrap_or(self.options.directory_mode);
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        self.time(properties, path)?;
        Ok(())
    }

    fn file(&mut self, key: &Key, file: &FileNode, path: &Path) -> Result<(), Trouble> {
        let plain = if file.is_executable { 0o555 } else { 0o444 };
        let properties = file.node_properties.as_ref();
        let mode = self.mode(properties).unwrap_or(plain);
        let time = self.options.node_properties
            && properties.is_some_and(|properties| properties.mtime.is_some());
        let linked = self.options.staging == Staging::HardLink && mode == plain && !time;
        let source = if linked && file.is_executable {
            self.storage.executable(key)
        } else {
            self.storage.file(key)
        };
        let source = match source {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing.push(key.clone());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if linked {
            fs::hard_link(source, path)?;
            return Ok(());
        }
        let modified = properties
            .filter(|_| time)
            .and_then(|properties| properties.mtime.as_ref())
            .map(|time| (time.seconds, time.nanos));
        let copied = (key.clone(), mode, modified);
        if let Some(first) = self.copies.get(&copied) {
            fs::hard_link(first, path)?;
            return Ok(());
        }
        fs::copy(source, path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        self.time(properties, path)?;
        if self.options.staging == Staging::CopyOnce {
            self.copies.insert(copied, path.to_owned());
        }
        Ok(())
    }

    fn mode(&self, properties: Option<&NodeProperties>) -> Option<u32> {
        let mode = properties?.unix_mode.as_ref()?.value & 0o7777;
        self.options.node_properties.then_some(mode)
    }

    fn time(&self, properties: Option<&NodeProperties>, path: &Path) -> io::Result<()> {
        let Some(time) = properties.and_then(|properties| properties.mtime.as_ref()) else {
            return Ok(());
        };
        if !self.options.node_properties {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: time.seconds,
                tv_nsec: time.nanos.into(),
            },
        };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }
}

fn digest(digest: Option<&super::proto::Digest>) -> Result<Key, Trouble> {
    Key::parse(digest).map_err(|status| Trouble::Invalid(status.message().to_owned()))
}

/// A name of one entry, not a path.
fn checked(name: &str) -> Result<&str, Trouble> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Trouble::Invalid(format!("{name:?} is no name")));
    }
    Ok(name)
}

/// A path of an output: relative, and it stays inside.
pub(super) fn inside(path: &str) -> Result<&Path, Trouble> {
    let path = Path::new(path);
    let normal = |part| matches!(part, Component::Normal(_));
    if path.components().all(normal) {
        return Ok(path);
    }
    Err(Trouble::Invalid(format!(
        "{} leads outside",
        path.display()
    )))
}

/// Makes the folders that the outputs lie in.
pub(super) fn make_parents(command: &Command, folder: &Path) -> Result<(), Trouble> {
    let directories = &command.output_directories;
    for path in command
        .output_paths
        .iter()
        .chain(&command.output_files)
        .chain(directories)
    {
        if let Some(parent) = inside(path)?.parent() {
            fs::create_dir_all(folder.join(parent))?;
        }
    }
    Ok(())
}

/// Puts the outputs of a command into the storage and its result.
pub(super) fn capture(
    storage: &Storage,
    command: &Command,
    folder: &Path,
    result: &mut ActionResult,
) -> Result<(), Trouble> {
    let capture = Capture {
        storage,
        wanted: &command.output_node_properties,
    };
    if !command.output_paths.is_empty() {
        for path in &command.output_paths {
            capture.output(path, folder, result)?;
        }
        return Ok(());
    }
    for path in command
        .output_files
        .iter()
        .chain(&command.output_directories)
    {
        capture.output(path, folder, result)?;
    }
    Ok(())
}

struct Capture<'a> {
    storage: &'a Storage,
    wanted: &'a [String],
}

impl Capture<'_> {
    fn output(&self, name: &str, folder: &Path, result: &mut ActionResult) -> Result<(), Trouble> {
        let path = folder.join(inside(name)?);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            // Not an error: the client sees what is missing.
            return Ok(());
        };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            result.output_symlinks.push(OutputSymlink {
                path: name.to_owned(),
                target: target(&path)?,
                node_properties: self.properties(&metadata),
            });
        } else if kind.is_dir() {
            let mut children = BTreeMap::new();
            let root = self.directory(&path, &mut children)?;
            let root_digest = self.storage.put_message(&root);
            let tree = Tree {
                root: Some(root),
                children: children.into_values().collect(),
            };
            result.output_directories.push(OutputDirectory {
                path: name.to_owned(),
                tree_digest: Some(self.storage.put_message(&tree)),
                is_topologically_sorted: false,
                root_directory_digest: Some(root_digest),
            });
        } else if kind.is_file() {
            result.output_files.push(OutputFile {
                path: name.to_owned(),
                digest: Some(self.file(&path)?),
                is_executable: metadata.mode() & 0o100 != 0,
                contents: Vec::new(),
                node_properties: self.properties(&metadata),
            });
        } else {
            return Err(Trouble::Invalid(format!("output {name} is a special file")));
        }
        Ok(())
    }

    fn file(&self, path: &Path) -> io::Result<super::proto::Digest> {
        Ok(self.storage.add_file(path)?.digest())
    }

    fn directory(
        &self,
        path: &Path,
        children: &mut BTreeMap<String, Directory>,
    ) -> io::Result<Directory> {
        let mut directory = Directory {
            node_properties: self.properties(&fs::symlink_metadata(path)?),
            ..Directory::default()
        };
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let metadata = entry.metadata()?;
            let kind = metadata.file_type();
            if kind.is_symlink() {
                directory.symlinks.push(SymlinkNode {
                    name,
                    target: target(&entry.path())?,
                    node_properties: self.properties(&metadata),
                });
            } else if kind.is_dir() {
                let child = self.directory(&entry.path(), children)?;
                let digest = self.storage.put_message(&child);
                children.insert(digest.hash.clone(), child);
                directory.directories.push(DirectoryNode {
                    name,
                    digest: Some(digest),
                });
            } else if kind.is_file() {
                directory.files.push(FileNode {
                    name,
                    digest: Some(self.file(&entry.path())?),
                    is_executable: metadata.mode() & 0o100 != 0,
                    node_properties: self.properties(&metadata),
                });
            }
        }
        directory.files.sort_by(|a, b| a.name.cmp(&b.name));
        directory.symlinks.sort_by(|a, b| a.name.cmp(&b.name));
        directory.directories.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(directory)
    }

    fn properties(&self, metadata: &fs::Metadata) -> Option<NodeProperties> {
        let wants = |name: &str| self.wanted.iter().any(|wanted| wanted == name);
        let properties = NodeProperties {
            properties: Vec::new(),
            mtime: wants("mtime").then(|| Timestamp {
                seconds: metadata.mtime(),
                nanos: i32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            }),
            unix_mode: wants("unix_mode").then(|| UInt32Value {
                value: metadata.mode() & 0o7777,
            }),
        };
        let any = properties.mtime.is_some() || properties.unix_mode.is_some();
        any.then_some(properties)
    }
}

fn target(path: &Path) -> io::Result<String> {
    Ok(fs::read_link(path)?.to_string_lossy().into_owned())
}

/// Removes a folder whatever the modes of the folders in it are.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    if fs::remove_dir_all(folder).is_ok() {
        return Ok(());
    }
    open_up(folder)?;
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn open_up(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
