//! What pulling asks beyond manifests and blobs.

use super::Remote;
use crate::Error;
use oci_spec::image::Descriptor;
use registry_client::{Reference, RegistriesConf};

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

    /// What a name as somebody typed it may stand for, by the configuration of registries. Nothing is asked.
    pub(crate) fn candidates(&self, text: &str) -> Result<Vec<Reference>, Error> {
        let failed = |source| Error::Registry {
            reference: text.to_owned(),
            source,
        };
        let conf = match self.conf.get() {
            Some(conf) => conf,
            None => {
                let conf = RegistriesConf::of(&self.options).map_err(failed)?;
                self.conf.get_or_init(|| conf)
            }
        };
        conf.candidates(text).map_err(failed)
    }
}
