//! What an ignore file leaves out, as a question: the planner reads no files.

use std::sync::Arc;

/// Whether a path (relative, cleaned) is ignored, its parents considered.
type IsIgnored = dyn Fn(&str) -> bool + Send + Sync;

/// Paths of the context that its ignore file leaves out. None by default.
#[derive(Clone, Default)]
pub struct IgnoredFiles(Option<Arc<IsIgnored>>);

impl IgnoredFiles {
    /// Asks `is_ignored`. Not for files with exceptions (`!`): what they leave out cannot be told from a path.
    #[must_use]
    pub fn new(is_ignored: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_ignored)))
    }

    pub(crate) fn any(&self) -> bool {
        self.0.is_some()
    }

    /// The whole context is left out only if all names in it are.
    pub(crate) fn has(&self, path: &str) -> bool {
        let Some(is_ignored) = &self.0 else {
            return false;
        };
        match path {
            "." => is_ignored("file") && is_ignored(".file"),
            path => is_ignored(path),
        }
    }
}

impl std::fmt::Debug for IgnoredFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IgnoredFiles").field(&self.any()).finish()
    }
}
