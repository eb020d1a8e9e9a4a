//! Names of byte stream resources: `[INSTANCE/]blobs/HASH/SIZE`, `[INSTANCE/]uploads/UUID/blobs/HASH/SIZE[/...]`, both with
//! `compressed-blobs/zstd` instead of `blobs`, and `[INSTANCE/]logstreams/NAME`.

use super::state::Key;
use tonic::Status;

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// A blob, and whether zstd is on the wire.
    Blob {
        instance: String,
        key: Key,
        zstd: bool,
    },
    /// A stream of output.
    Log { instance: String, name: String },
}

impl Resource {
    /// Of a `Read`.
    pub(super) fn to_read(name: &str) -> Result<Self, Status> {
        if let Some((instance, rest)) = split(name, &["logstreams"]) {
            let name = rest.join("/");
            return Ok(Self::Log { instance, name });
        }
        blob(name, &[])
    }

    /// Of a `Write`.
    pub(super) fn to_write(name: &str) -> Result<Self, Status> {
        blob(name, &["uploads", ""])
    }

    pub(super) fn instance(&self) -> &str {
        match self {
            Self::Blob { instance, .. } | Self::Log { instance, .. } => instance,
        }
    }
}

fn blob(name: &str, before: &[&str]) -> Result<Resource, Status> {
    for (kind, zstd) in [
        (&["compressed-blobs", "zstd"][..], true),
        (&["blobs"], false),
    ] {
        let words: Vec<&str> = before.iter().chain(kind).copied().collect();
        let Some((instance, rest)) = split(name, &words) else {
            continue;
        };
        if let [hash, size, ..] = rest.as_slice() {
            let key = Key::from(format!("{hash}/{size}").as_str());
            key.check()?;
            return Ok(Resource::Blob {
                instance,
                key,
                zstd,
            });
        }
    }
    Err(Status::invalid_argument(format!(
        "{name:?} is no resource of this service"
    )))
}

/// What is before some words of a path and what is after them; an empty word stands for any.
fn split<'a>(name: &'a str, words: &[&str]) -> Option<(String, Vec<&'a str>)> {
    let parts: Vec<&str> = name.split('/').collect();
    let equal = |window: &[&str]| {
        let mut pairs = window.iter().zip(words);
        pairs.all(|(part, word)| word.is_empty() || part == word)
    };
    let at = parts.windows(words.len()).position(equal)?;
    let rest = parts.get(at + words.len()..)?;
    Some((parts[..at].join("/"), rest.to_vec()))
}
