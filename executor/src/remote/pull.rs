//! What pulling asks beyond manifests and blobs.

use super::Remote;
use crate::Error;
use oci_spec::image::Descriptor;
use registry_client::Reference;

impl Remote {
    /// What a name stands for, without its content.
    pub(crate) fn resolve(&self, reference: &Reference) -> Result<Descriptor, Error> {
        self.run(reference, |client| async move {
            client.resolve(reference).await
        })
    }

    /// All tags of a repository.
    pub(crate) fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        self.run(
            reference,
            |client| async move { client.tags(reference).await },
        )
    }
}
