//! What single layers and cache mounts take on disk. Sums by kind are `prune`'s.

use crate::Store;
use crate::error::Error;
use crate::file;
use oci_spec::image::Digest;
use std::fs::DirEntry;

/// Longer ids of cache mounts are not shown.
const ID_LIMIT: u64 = 64 << 10;

impl Store {
    /// Layers by diff_id, each with the bytes on disk of its tree, its index and its blobs.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn layer_sizes(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let layout = &self.inner.layout;
        let mut found = Vec::new();
        for part in file::list(&layout.folder("layers"))? {
            for layer in file::list(&part.path())? {
                let name = |entry: &DirEntry| entry.file_name().to_string_lossy().into_owned();
                let Ok(diff_id) = Digest::try_from(format!("{}:{}", name(&part), name(&layer)))
                else {
                    continue;
                };
                let mut bytes = file::disk_bytes(&layer.path());
                let mut blobs = vec![diff_id.clone()];
                if let Some(meta) = self.layer(&diff_id)? {
                    blobs.extend(
                        meta.blobs
                            .iter()
                            .map(|blob| blob.descriptor.digest().clone()),
                    );
                }
                blobs.sort_by_key(Digest::to_string);
                blobs.dedup();
                for blob in blobs {
                    bytes += file::disk_bytes(&layout.blob(&blob));
                }
                found.push((diff_id, bytes));
            }
        }
        found.sort_by_key(|(diff_id, _)| diff_id.to_string());
        Ok(found)
    }

    /// Cache mounts by id, each with its bytes on disk.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn mount_sizes(&self) -> Result<Vec<(String, u64)>, Error> {
        let mut found = Vec::new();
        for mount in file::list(&self.inner.layout.folder("mounts"))? {
            let path = mount.path();
            let Some(id) = file::read_small(&path.join("id"), ID_LIMIT)? else {
                continue;
            };
            let id = String::from_utf8_lossy(&id).into_owned();
            found.push((id, file::disk_bytes(&path)));
        }
        found.sort();
        Ok(found)
    }
}
