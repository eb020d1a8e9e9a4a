//! Outputs that are files, not images: a folder, a tar.

use crate::Error;
use crate::build::backend;
use crate::build::exporter::{Exported, Exporter};
use crate::output::files::Sink;
use crate::output::folder::FolderSink;
use crate::output::platforms::{self, Root};
use crate::output::tarball::TarSink;
use crate::request::{OutputDest, OutputRequest};

impl Exporter<'_> {
    fn roots(&self) -> Result<Vec<Root>, Error> {
        self.targets()
            .map(|(target, result)| {
                Ok(Root {
                    platform: target.platform.to_string(),
                    view: backend::whole_view(self.space, &result.snapshot())?,
                })
            })
            .collect()
    }

    fn walk(&self, output: &OutputRequest, sink: &mut dyn Sink) -> Result<(), Error> {
        let is_several = self.plan.targets.len() > 1 || self.request.wants_index();
        if output.platform_split.unwrap_or(is_several) {
            platforms::walk_split(&self.roots()?, sink)
        } else {
            platforms::walk_merged(&self.roots()?, sink)
        }
    }

    pub(super) fn tar(&self, output: &OutputRequest) -> Result<Exported, Error> {
        let scratch = self.space.store().scratch()?;
        let mut out = self.destination(output.dest.as_ref())?;
        let mut sink = TarSink::new(&mut out, self.epoch(output));
        self.walk(output, &mut sink)?;
        sink.finish(&scratch.path().join("index"))?;
        out.commit()?;
        Ok(Exported::default())
    }

    pub(super) fn local(&self, output: &OutputRequest) -> Result<Exported, Error> {
        let Some(OutputDest::Path(dest)) = &output.dest else {
            return Err(Error::Request("output type=local needs dest=".to_owned()));
        };
        let store = self.space.store().root();
        let mut sink = FolderSink::new(dest, self.epoch(output), output.delete.as_ref(), store)?;
        self.walk(output, &mut sink)?;
        sink.finish()?;
        Ok(Exported::default())
    }
}
