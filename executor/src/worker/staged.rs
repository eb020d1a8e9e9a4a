//! What an engine has staged, as the root and the mounts of a command.

use super::Place;
use super::fix::{FIX, FixRequest};
use super::secrets;
use super::spec::{EXTRA, META, MOUNTS, ROOTFS, Spec, StagedReport, index_name};
use crate::Error;
use crate::build::cache_mounts;
use crate::build::mounts::{Ground, Held};
use crate::copy::{self, UserIds};
use crate::layer::digest_of;
use crate::layer::incoming::extract_options;
use crate::layer::index::Index;
use crate::snapshot::{LayerFiles, View};
use crate::space::Space;
use crate::ssh::Forward;
use oci_spec::image::Digest;
use planner::plan::InputIndex;
use planner::scheduler::Cancel;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use store::{CacheMount, MountSharing, Scratch, Store};

/// The layers of a staged root, base first: indexes alone, which whoever loads them checks.
pub(crate) fn layers(folder: &Path, count: usize) -> Result<Vec<LayerFiles>, Error> {
    let layer = |number: usize| {
        let index = folder.join(META).join(index_name(number));
        Ok(LayerFiles {
            diff_id: digest_of(&Index::diff_id_of(&index)?),
            index,
            tree: None,
            tar: None,
        })
    };
    (0..count).map(layer).collect()
}

/// A number that is the same for the same step.
fn seed(spec: &Spec) -> u64 {
    let hash = blake3::hash(&spec.to_json());
    let first = hash.as_bytes().first_chunk::<8>();
    first.copied().map(u64::from_le_bytes).unwrap_or_default()
}

/// The input root of a step.
pub(crate) struct Input<'a> {
    pub(crate) place: &'a Place,
    pub(crate) spec: &'a Spec,
    pub(crate) space: &'a Space,
    pub(crate) cancel: &'a Cancel,
    /// Of the step's specification.
    seed: u64,
    /// Caches that outlive the step.
    caches: Option<Store>,
    /// Work folders beside them.
    cache_works: Mutex<Vec<Scratch>>,
    /// Lowers that are made, by their folder in the input root.
    ready: Mutex<HashMap<PathBuf, Vec<PathBuf>>>,
    told: Mutex<Told>,
}

/// What there is to report.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) notes: Vec<String>,
    pub(crate) staged: StagedReport,
}

impl<'a> Input<'a> {
    pub(crate) fn open(
        (place, spec): (&'a Place, &'a Spec),
        space: &'a Space,
        cancel: &'a Cancel,
    ) -> Result<Self, Error> {
        let caches = place.caches.as_deref().map(Store::open).transpose()?;
        Ok(Self {
            place,
            spec,
            space,
            cancel,
            seed: seed(spec),
            caches,
            cache_works: Mutex::default(),
            ready: Mutex::default(),
            told: Mutex::default(),
        })
    }

    /// Something to be reported.
    pub(crate) fn add_note(&self, note: String) {
        self.told().notes.push(note);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted, and how exactly files were staged.
    pub(crate) fn take_told(&self) -> Told {
        std::mem::take(&mut self.told())
    }

    /// The layers of the root.
    pub(crate) fn layers(&self) -> Result<Vec<LayerFiles>, Error> {
        layers(&self.place.input, self.spec.layers)
    }

    /// The folders of the root, topmost first.
    pub(crate) fn root(&self, held: &mut Held<'_>) -> Result<Vec<PathBuf>, Error> {
        match self.spec.op.base {
            Some(_) => self.lowers_in(&self.place.input, self.spec.layers, held),
            None => Ok(vec![held.folder("empty")?]),
        }
    }

    /// Ids of the command's user.
    pub(crate) fn user(&self) -> Result<UserIds, Error> {
        let rootfs = self.place.input.join(ROOTFS);
        let mut layers = self.layers()?;
        for layer in &mut layers {
            layer.tree = Some(rootfs.clone());
        }
        let user = self.spec.op.user.as_str();
        let user = if user.is_empty() { "0" } else { user };
        copy::resolve_user(user, &View::load(&layers)?)
    }

    fn mount(&self, input: InputIndex) -> (PathBuf, usize) {
        let folder = self.place.input.join(MOUNTS).join(input.to_string());
        (folder, self.spec.inputs.get(input).copied().unwrap_or(0))
    }

    /// A staged folder and the lower that makes it exact, once for all who use it.
    fn lowers_in(
        &self,
        folder: &Path,
        count: usize,
        held: &mut Held<'_>,
    ) -> Result<Vec<PathBuf>, Error> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ready.get(folder) {
            return Ok(known.clone());
        }
        let staged = folder.join(ROOTFS);
        let dest = held.folder("fix")?.join("root");
        let carried = self.spec.staged;
        let request = FixRequest {
            staged: staged.clone(),
            extra: folder.join(EXTRA),
            layers: layers(folder, count)?,
            dest: dest.clone(),
            options: extract_options(self.space)?,
            carried: carried.modes && carried.times,
            seed: self.seed,
        };
        let report: StagedReport = self.space.task(FIX, &request)?;
        let told = &mut self.told().staged;
        told.files += report.files;
        told.fixed += report.fixed;
        told.copied_bytes += report.copied_bytes;
        let lowers = vec![dest, staged];
        ready.insert(folder.to_owned(), lowers.clone());
        Ok(lowers)
    }
}

impl Ground for Input<'_> {
    fn space(&self) -> &Space {
        self.space
    }

    fn lowers(&self, input: InputIndex, held: &mut Held<'_>) -> Result<Vec<PathBuf>, Error> {
        let (folder, count) = self.mount(input);
        self.lowers_in(&folder, count, held)
    }

    fn content_id(&self, input: InputIndex) -> Result<String, Error> {
        let (folder, count) = self.mount(input);
        let layers = layers(&folder, count)?.into_iter();
        let diff_ids: Vec<Digest> = layers.map(|layer| layer.diff_id).collect();
        Ok(cache_mounts::stack_id(&diff_ids))
    }

    fn cache(&self, id: &str, sharing: MountSharing) -> Result<CacheMount, Error> {
        let store = self.caches.as_ref().unwrap_or(self.space.store());
        let stop = || self.cancel.is_cancelled();
        let cache = store.cache_mount_unless(id, sharing, &stop)?;
        cache.ok_or(Error::Cancelled)
    }

    fn cache_work(&self, held: &mut Held<'_>) -> Result<PathBuf, Error> {
        let Some(caches) = &self.caches else {
            return held.folder("work");
        };
        let scratch = caches.scratch()?;
        let folder = scratch.path().join("work");
        std::fs::create_dir(&folder).map_err(|source| Error::Io {
            op: "create",
            path: folder.clone(),
            source,
        })?;
        let mut works = self
            .cache_works
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        works.push(scratch);
        Ok(folder)
    }

    fn secret(&self, id: &str, required: bool) -> Result<Option<Vec<u8>>, Error> {
        secrets::secret(self.place, id, required)
    }

    fn agent(&self, id: &str, required: bool, folder: &Path) -> Result<Option<Forward>, Error> {
        secrets::agent(self.place, id, required, folder)
    }

    fn note(&self, note: String) {
        self.add_note(note);
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        let works = self
            .cache_works
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for work in works.drain(..) {
            // What cannot be removed now is swept by a step to come.
            let _ = self.space.remove_tree(&work.path().join("work"));
        }
    }
}
