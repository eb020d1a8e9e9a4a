//! What the store has of a layer, and what can be made of that. It reads facts and looks for files; it makes nothing.

use super::Form;
use super::materialise::{PULLED, source};
use crate::Error;
use oci_spec::image::Digest;
use store::Store;

/// Whether a layer's entries can be read and laid out.
pub(crate) fn is_readable(store: &Store, diff_id: &Digest) -> Result<bool, Error> {
    // A tree alone cannot be read without its index: then the layer is made again.
    let has_tree = store.layer_tree(diff_id).is_some() && store.layer_index(diff_id).is_some();
    Ok(has_tree || source(store, diff_id)?.is_some())
}

/// Whether a layer is here in this form, or can surely be made: what others have written may say in its headers what no
/// tree keeps, so that its tar does not come out of its tree.
pub(crate) fn is_here(store: &Store, form: Form, diff_id: &Digest) -> Result<bool, Error> {
    if form != Form::Blob {
        return is_readable(store, diff_id);
    }
    if source(store, diff_id)?.is_some() {
        return Ok(true);
    }
    let meta = store.layer(diff_id)?;
    let is_ours = !meta.is_some_and(|meta| meta.blobs.iter().any(|blob| blob.encoder == PULLED));
    Ok(is_ours && is_readable(store, diff_id)?)
}
