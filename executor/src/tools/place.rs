//! Where an image is, as people write it: a name, or one with a transport before it as podman and skopeo have them.

use crate::Error;
use registry_client::Reference;
use std::path::PathBuf;

/// A place that holds an image, or is to hold one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A name alone: the store's where a command looks there first, else a registry's.
    Name(Reference),
    /// `docker://NAME`: in a registry.
    Registry(Reference),
    /// `store:NAME` (also `containers-storage:`): in the store, by name, digest or id.
    Store(String),
    /// `oci:DIR[:TAG]`: a folder with an OCI layout.
    Layout {
        /// The folder.
        dir: PathBuf,
        /// Which of its images.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:NAME]` or `docker-archive:FILE[:NAME]`.
    Archive {
        /// The file.
        path: PathBuf,
        /// A name for the image in it.
        name: Option<String>,
        /// What `docker load` reads.
        docker: bool,
    },
}

impl Place {
    /// Reads a place.
    ///
    /// # Errors
    /// A name that no image can have, an unknown transport.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let reference =
            |text: &str| Reference::parse(text).map_err(|source| Error::Reference { source });
        let (transport, rest) = match text.split_once(':') {
            Some((transport, rest)) if is_transport(transport) => (transport, rest),
            _ => return reference(text).map(Self::Name),
        };
        if rest.is_empty() {
            return Err(Error::Request(format!(
                "invalid image {text:?}: nothing after {transport}:"
            )));
        }
        match transport {
            "docker" => match rest.strip_prefix("//") {
                Some(name) => reference(name).map(Self::Registry),
                None => reference(text).map(Self::Name),
            },
            "store" | "containers-storage" => Ok(Self::Store(rest.to_owned())),
            "oci" => {
                let (dir, tag) = path_and_name(rest);
                Ok(Self::Layout {
                    dir: dir.into(),
                    tag: tag.map(str::to_owned),
                })
            }
            _ => {
                let (path, name) = path_and_name(rest);
                Ok(Self::Archive {
                    path: path.into(),
                    name: name.map(str::to_owned),
                    docker: transport == "docker-archive",
                })
            }
        }
    }
}

fn is_transport(word: &str) -> bool {
    matches!(
        word,
        "docker" | "store" | "containers-storage" | "oci" | "oci-archive" | "docker-archive"
    )
}

/// Splits at the first colon, as skopeo does.
fn path_and_name(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((path, name)) if !name.is_empty() => (path, Some(name)),
        Some((path, _)) => (path, None),
        None => (text, None),
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(reference) | Self::Registry(reference) => reference.fmt(f),
            Self::Store(name) => write!(f, "store:{name}"),
            Self::Layout { dir, tag } => {
                write!(f, "oci:{}", dir.display())?;
                tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
            }
            Self::Archive { path, docker, .. } => {
                let kind = if *docker { "docker" } else { "oci" };
                write!(f, "{kind}-archive:{}", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it03_places() {
        let shown = |text: &str| Place::parse(text).map(|place| place.to_string());
        for (text, expected) in [
            ("app", "docker.io/library/app:latest"),
            ("docker://host:5000/a/b:1", "host:5000/a/b:1"),
            ("docker:27", "docker.io/library/docker:27"),
            ("store:abc", "store:abc"),
            ("oci:/a/b", "oci:/a/b"),
            ("oci:dir:tag", "oci:dir:tag"),
            ("oci-archive:x.tar:name:1", "oci-archive:x.tar"),
            ("docker-archive:x.tar", "docker-archive:x.tar"),
        ] {
            assert_eq!(shown(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "oci:", "docker://", "UPPER/x@y", "a b"] {
            assert!(shown(bad).is_err(), "{bad}");
        }
    }
}
