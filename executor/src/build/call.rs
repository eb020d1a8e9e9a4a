//! What `--call` asks of a Dockerfile without building it. No step runs and nothing is written; the store is opened
//! only when a base image must be known.

use super::front::Front;
use super::prepare::Pending;
use super::resolve::{self, Resolver};
use super::{BuildFailure, Ui, options};
use crate::Error;
use crate::remote::Remote;
use crate::request::BuildRequest;
use crate::space::Space;
use planner::lower::{BaseRequest, LowerOptions, ResolvedBase};
use planner::outline::{Outline, Target};
use planner::scheduler::Cancel;
use store::Store;

/// Opens the store.
pub type OpenStore<'a> = dyn Fn() -> Result<Store, store::Error> + 'a;

/// A question about a Dockerfile.
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct Call<'a> {
    /// The build that it would be.
    pub request: &'a BuildRequest,
    /// The store, should a base be needed.
    pub open: &'a OpenStore<'a>,
    /// Takes the findings of the checks.
    pub ui: &'a dyn Ui,
    /// Stops it.
    pub cancel: &'a Cancel,
}

impl Call<'_> {
    /// Runs the build checks, on all stages unless a target was named. What they find goes to the [`Ui`].
    ///
    /// # Errors
    /// What would stop the build before its first step; findings, where `error=true` was asked for.
    #[expect(clippy::result_large_err, reason = "a build fails once")]
    pub fn check(&self) -> Result<(), BuildFailure> {
        let options = LowerOptions {
            all_stages: self.request.target.is_none(),
            ..options(self.request)
        };
        let mut front = Front::new(self.request, options, self.ui)?;
        front.plan(&mut |requests| self.bases(requests))?;
        Ok(())
    }

    /// What the build of the target takes.
    ///
    /// # Errors
    /// As [`Self::check`].
    #[expect(clippy::result_large_err, reason = "a build fails once")]
    pub fn outline(&self) -> Result<Outline, BuildFailure> {
        let mut front = Front::new(self.request, options(self.request), self.ui)?;
        front.outline(&mut |requests| self.bases(requests))
    }

    /// The stages.
    ///
    /// # Errors
    /// A Dockerfile with errors.
    #[expect(clippy::result_large_err, reason = "a build fails once")]
    pub fn targets(&self) -> Result<Vec<Target>, BuildFailure> {
        let front = Front::new(self.request, options(self.request), self.ui)?;
        Ok(planner::outline::targets(&front.parsed.dockerfile))
    }

    fn bases(&self, requests: &[BaseRequest]) -> Result<Vec<ResolvedBase>, Vec<resolve::Failure>> {
        let store = (self.open)().map_err(|error| {
            let first = requests.first().cloned();
            let request = first.expect("BUG: a round of lowering wants a base");
            vec![(request, Error::Store(error))]
        })?;
        let space = Space::new(store);
        let remote = Remote::new(&self.request.registry, self.cancel);
        let pending = Pending::new(&space, self.request, &remote, self.ui, self.cancel);
        let resolver = Resolver {
            space: &space,
            request: self.request,
            remote: &remote,
            pending: &pending,
            ui: self.ui,
        };
        resolver.resolve(requests)
    }
}
