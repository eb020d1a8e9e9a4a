//! What a cache says of one mount: its entries, and in which packs the chunks of its files lie.
//!
//! On the wire it is JSON, compressed with zstd. It comes from elsewhere: [`Doc::decode`] takes nothing that could lead
//! out of the mount's folder, name what is not there, or grow without bound.

use super::chunk::LONGEST;
use crate::build::manifest;
use crate::layer::xattr::keeps_xattr;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{HashMap, HashSet};
use std::io::Read as _;

/// Version of the format; others are not read.
const VERSION: u32 = 1;
/// Most bytes of a compressed document that are read.
pub(super) const DOC_LIMIT: u64 = 64 << 20;
/// Most bytes that it may decompress to.
const PLAIN_LIMIT: u64 = 512 << 20;
/// Most values of the JSON: an entry has about twelve.
const MOST_VALUES: usize = 40_000_000;
/// Level of zstd.
const LEVEL: i32 = 3;
/// Most entries of a mount.
const MOST_ENTRIES: usize = 2_000_000;
/// Most bytes of a pack, compressed and not; those that are made are smaller.
pub(super) const PACK_LIMIT: u64 = 64 << 20;
/// Longest path, as the kernel has it.
const LONGEST_PATH: usize = 4095;
/// Longest name in a folder.
const LONGEST_NAME: usize = 255;

/// A path, name or value, which need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => to.serialize_str(text),
            Err(_) => self.0.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Bytes(Vec<u8>),
        }
        Ok(match Either::deserialize(from)? {
            Either::Text(text) => Self(text.into_bytes()),
            Either::Bytes(bytes) => Self(bytes),
        })
    }
}

/// SHA-256 of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct ChunkId(pub(super) [u8; 32]);

impl Serialize for ChunkId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for ChunkId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD_NO_PAD.decode(text).ok();
        let id = bytes.and_then(|bytes| bytes.try_into().ok());
        id.map(Self)
            .ok_or_else(|| serde::de::Error::custom("a chunk's digest is none"))
    }
}

impl ChunkId {
    pub(super) fn of(content: &[u8]) -> Self {
        let mut hash = store::Sha256::new();
        hash.update(content);
        Self(hash.finish())
    }
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum What {
    #[serde(rename = "d")]
    Directory,
    /// Its chunks, by their numbers.
    #[serde(rename = "f")]
    File(Vec<u32>),
    #[serde(rename = "l")]
    Symlink(Bytes),
    /// Another name of a file that comes before.
    #[serde(rename = "h")]
    Hardlink(Bytes),
}

/// One entry. The first is the folder itself, whose path is empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Item {
    #[serde(rename = "p")]
    pub(super) path: Bytes,
    #[serde(rename = "w")]
    pub(super) what: What,
    #[serde(rename = "m")]
    pub(super) mode: u32,
    #[serde(rename = "o")]
    pub(super) owner: (u32, u32),
    /// Seconds since the epoch, nanoseconds.
    #[serde(rename = "t")]
    pub(super) mtime: (i64, u32),
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) xattrs: Vec<(Bytes, Bytes)>,
}

/// A blob of chunks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Pack {
    pub(super) digest: String,
    /// Bytes of the blob.
    pub(super) size: u64,
    /// Bytes of what it decompresses to.
    pub(super) plain: u64,
}

/// Where a chunk lies: digest, number of the pack, place and length in what that decompresses to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Chunk(
    pub(super) ChunkId,
    pub(super) u32,
    pub(super) u64,
    pub(super) u32,
);

/// The whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Doc {
    pub(super) version: u32,
    pub(super) packs: Vec<Pack>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) items: Vec<Item>,
}

impl Default for Doc {
    fn default() -> Self {
        Self {
            version: VERSION,
            packs: Vec::new(),
            chunks: Vec::new(),
            items: Vec::new(),
        }
    }
}

impl Doc {
    pub(super) fn encode(&self) -> Vec<u8> {
        let plain = manifest::bytes_of(self);
        zstd::bulk::compress(&plain, LEVEL).expect("BUG: memory takes what zstd writes")
    }

    /// Reads one; an error is what is wrong with it.
    pub(super) fn decode(packed: &[u8]) -> Result<Self, String> {
        let decoder = zstd::Decoder::new(packed).map_err(|e| e.to_string())?;
        let mut plain = Vec::new();
        decoder
            .take(PLAIN_LIMIT + 1)
            .read_to_end(&mut plain)
            .map_err(|e| format!("it does not decompress: {e}"))?;
        if plain.len() as u64 > PLAIN_LIMIT {
            return Err(format!("it decompresses to more than {PLAIN_LIMIT} bytes"));
        }
        if manifest::values(&plain) > MOST_VALUES {
            return Err(format!("it has more than {MOST_VALUES} values"));
        }
        let doc: Self = serde_json::from_slice(&plain).map_err(|e| e.to_string())?;
        doc.check()?;
        Ok(doc)
    }

    /// Bytes of all files.
    pub(super) fn content(&self) -> u64 {
        let files = self.items.iter().filter_map(|item| match &item.what {
            What::File(chunks) => Some(chunks),
            _ => None,
        });
        let length = |at: &u32| self.chunks.get(*at as usize).map_or(0, |chunk| chunk.3);
        files.flatten().map(|at| u64::from(length(at))).sum()
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("its version is {}, not {VERSION}", self.version));
        }
        if self.items.len() > MOST_ENTRIES {
            return Err(format!("it has more than {MOST_ENTRIES} entries"));
        }
        for pack in &self.packs {
            manifest::digest(&pack.digest).map_err(|e| e.to_string())?;
            if pack.size > PACK_LIMIT || pack.plain > PACK_LIMIT {
                return Err(format!(
                    "pack {} is larger than {PACK_LIMIT} bytes",
                    pack.digest
                ));
            }
        }
        for Chunk(_, pack, place, length) in &self.chunks {
            let plain = self.packs.get(*pack as usize).map(|pack| pack.plain);
            let end = place.checked_add(u64::from(*length));
            let is_inside = plain.zip(end).is_some_and(|(plain, end)| end <= plain);
            if !is_inside || *length as usize > LONGEST {
                return Err("a chunk lies in no pack".to_owned());
            }
        }
        self.check_items()
    }

    /// Every parent is a folder that comes before, so that nothing is reached through a link.
    fn check_items(&self) -> Result<(), String> {
        let mut items = self.items.iter();
        let root = items.next().ok_or("it has no folder")?;
        if !root.path.0.is_empty() || root.what != What::Directory {
            return Err("its first entry is not the folder itself".to_owned());
        }
        let mut folders: HashSet<&[u8]> = HashSet::from([&[][..]]);
        let mut files: HashMap<&[u8], bool> = HashMap::new();
        for item in items {
            let path = item.path.0.as_slice();
            let bad = |why: &str| Err(format!("{}: {why}", String::from_utf8_lossy(path)));
            let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&[][..], path),
            };
            let mut names = path.split(|&byte| byte == b'/');
            let is_bad = |name: &[u8]| name.is_empty() || name == b"." || name == b"..";
            if names.any(is_bad) || path.contains(&0) {
                return bad("it is no clean path");
            }
            if path.len() > LONGEST_PATH || name.len() > LONGEST_NAME {
                return bad("it is too long");
            }
            if !folders.contains(parent) {
                return bad("it is in no folder that comes before it");
            }
            if folders.contains(path) || files.contains_key(path) {
                return bad("it comes twice");
            }
            if item.mode > 0o7777 {
                return bad("its mode is none");
            }
            if !(0..1_000_000_000).contains(&item.mtime.1) {
                return bad("its time is none");
            }
            if !item.xattrs.iter().all(|(name, _)| keeps_xattr(&name.0)) {
                return bad("it has an attribute that is not carried");
            }
            match &item.what {
                What::Directory => drop(folders.insert(path)),
                What::File(chunks) => {
                    if chunks.iter().any(|at| *at as usize >= self.chunks.len()) {
                        return bad("a chunk of it is not there");
                    }
                    files.insert(path, true);
                }
                What::Symlink(target) => {
                    let target = &target.0;
                    if target.is_empty() || target.len() > LONGEST_PATH || target.contains(&0) {
                        return bad("its target is none");
                    }
                    files.insert(path, false);
                }
                What::Hardlink(target) => {
                    if files.get(target.0.as_slice()) != Some(&true) {
                        return bad("it is a link to no file that comes before it");
                    }
                    files.insert(path, false);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &str, what: What) -> Item {
        Item {
            path: Bytes(path.into()),
            what,
            mode: 0o755,
            owner: (0, 0),
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }

    fn doc(items: Vec<Item>) -> Doc {
        let root = item("", What::Directory);
        let pack = Pack {
            digest: manifest::digest_of(b"").to_string(),
            size: 1,
            plain: 10,
        };
        Doc {
            packs: vec![pack],
            chunks: vec![Chunk(ChunkId::of(b""), 0, 2, 8)],
            items: [vec![root], items].concat(),
            ..Doc::default()
        }
    }

    fn file(path: &str) -> Item {
        item(path, What::File(vec![0]))
    }

    fn link(path: &str, target: &str) -> Item {
        item(path, What::Symlink(Bytes(target.into())))
    }

    fn hard(path: &str, target: &str) -> Item {
        item(path, What::Hardlink(Bytes(target.into())))
    }

    #[test]
    fn documents_are_read_as_they_were_written() {
        let mut name = item("x", What::Directory);
        name.path.0 = b"\xff\xfe".to_vec();
        let whole = doc(vec![
            item("d", What::Directory),
            file("d/f"),
            hard("d/h", "d/f"),
            link("l", "/etc"),
            name,
        ]);
        assert_eq!(Doc::decode(&whole.encode()), Ok(whole.clone()));
        assert_eq!(whole.content(), 8);
    }

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let folder = || item("d", What::Directory);
        for (items, says) in [
            (vec![file("../f")], "clean path"),
            (vec![file("/f")], "clean path"),
            (vec![folder(), file("d/../f")], "clean path"),
            (vec![folder(), file("d//f")], "clean path"),
            (vec![file(".")], "clean path"),
            (vec![file("f\0g")], "clean path"),
            (vec![file("d/f")], "no folder"),
            (vec![file("d/f"), folder()], "no folder"),
            (vec![link("d", "/etc"), file("d/passwd")], "no folder"),
            (vec![file("f"), file("f/g")], "no folder"),
            (vec![file("f"), link("f", "/etc/passwd")], "twice"),
            (vec![link("l", "/etc"), item("l", What::Directory)], "twice"),
            (vec![hard("h", "../../etc/passwd")], "link to no file"),
            (
                vec![link("l", "/etc/passwd"), hard("h", "l")],
                "link to no file",
            ),
            (vec![hard("h", "f"), file("f")], "link to no file"),
            (vec![link("l", "")], "target"),
            (vec![item("f", What::File(vec![1]))], "chunk"),
            (vec![file(&"n".repeat(256))], "too long"),
        ] {
            let refused = Doc::decode(&doc(items).encode()).unwrap_err();
            assert!(refused.contains(says), "{refused}: {says}");
        }
    }

    #[test]
    fn numbers_are_bounded() {
        let with = |change: &dyn Fn(&mut Doc)| {
            let mut bad = doc(vec![file("f")]);
            change(&mut bad);
            Doc::decode(&bad.encode()).is_err()
        };
        assert!(with(&|doc| doc.version = 2));
        assert!(with(&|doc| doc.items.clear()));
        assert!(with(&|doc| doc.packs[0].plain = 9));
        assert!(with(&|doc| doc.packs[0].plain = PACK_LIMIT + 1));
        assert!(with(
            &|doc| doc.packs[0].digest = "sha256:../../x".to_owned()
        ));
        assert!(with(&|doc| doc.chunks[0].2 = u64::MAX));
        assert!(with(&|doc| doc.chunks[0].1 = 1));
        assert!(with(&|doc| doc.items[1].mode = 0o10_0755));
        assert!(with(&|doc| doc.items[1].mtime.1 = 1_000_000_000));
        assert!(with(&|doc| {
            let overlay = Bytes(b"user.overlay.redirect".to_vec());
            doc.items[1].xattrs.push((overlay, Bytes::default()));
        }));
        assert!(!with(&|_| {}));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes: Vec<u8>, at in 0usize..400, to: u8) {
            drop(Doc::decode(&bytes));
            drop(Doc::decode(&zstd::bulk::compress(&bytes, 1).unwrap()));
            let mut plain = manifest::bytes_of(&doc(vec![file("f")]));
            let length = plain.len();
            plain[at % length] = to;
            drop(Doc::decode(&zstd::bulk::compress(&plain, 1).unwrap()));
        }
    }
}
