//! Pushing manifest lists: their images from wherever these are, then the list.

use super::document::Doc;
use super::list::{Lists, list_name};
use super::place::Place;
use super::say::{Say, Teller};
use super::stored::Stored;
use crate::Error;
use crate::build::manifest::Document;
use crate::push::{Style, Target};
use registry_client::Reference;

/// How a list is pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListPush {
    /// Its images are pushed too; else they must be in the repository.
    pub all: bool,
    /// Media types; as they are without one.
    pub style: Option<Style>,
}

impl Lists<'_> {
    /// Pushes a list, to its own name unless there is another destination; returns its digest.
    ///
    /// # Errors
    /// No such list, an image in it that is nowhere to be had, a platform that is not told, the registry.
    pub fn push(
        &self,
        list: &str,
        destination: Option<&str>,
        options: ListPush,
        say: Say<'_>,
    ) -> Result<String, Error> {
        let name = list_name(list)?;
        let Some(known) = self.space.store().reference(&name)? else {
            return Err(super::list::no_such(&name));
        };
        let target = match destination.map(Place::parse).transpose()? {
            None => Reference::parse(&name).map_err(|source| Error::Reference { source })?,
            Some(Place::Name(reference) | Place::Registry(reference)) => reference,
            Some(other) => {
                return Err(Error::Request(format!(
                    "a manifest list is pushed to a registry, not to {other}; use kiln copy store:{list} {other}"
                )));
            }
        };
        if target.digest.is_some() {
            return Err(Error::Request(format!(
                "invalid destination {target}: what is pushed has a digest of its own"
            )));
        }
        let mut stored = Stored::of(self.space, self.remote, &known)?;
        check(&stored.root)?;
        if options.all {
            let targets = [Target { reference: target }];
            let teller = Teller::new(say);
            let pushed = stored.push(&stored.root, &targets, options.style, &teller)?;
            return Ok(pushed.digest);
        }
        // What the images are in the repository depends on their compression.
        stored.prepare(options.style)?;
        let root = stored.root;
        self.remote
            .put_manifest(&target, &root.desc.media_type, &root.bytes)?;
        Ok(root.desc.digest)
    }
}

/// Every entry must say what it is for, as docker demands.
fn check(root: &Doc) -> Result<(), Error> {
    let Document::Index(index) = root.parse()? else {
        return Err(Error::Request(
            "it is an image, not a manifest list".to_owned(),
        ));
    };
    for entry in &index.manifests {
        let told = entry
            .platform
            .as_ref()
            .is_some_and(|platform| !platform.os.is_empty() && !platform.architecture.is_empty());
        if !told {
            return Err(Error::Request(format!(
                "manifest {} must have an OS and Architecture to be pushed to a registry",
                entry.digest
            )));
        }
    }
    Ok(())
}
