//! Sources of a copy as files on disk, and the copy as a job for a process inside the user namespace, where only that
//! can read them. What is copied and how is not known here.

use super::mixed::Mixed;
use super::{CopySourceFiles, CopySourceTree, absolute, readable, run};
use crate::Error;
use crate::context::{Context, IgnoreRules};
use crate::layer::Written;
use crate::snapshot::{LayerFiles, View};
use crate::space::Space;
use planner::plan::CopyOp;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What is done with opened sources.
type Use<'u> = &'u mut dyn FnMut(CopySourceFiles<'_>) -> Result<Written, Error>;
/// Layers of inputs, by index.
type Inputs = Vec<(usize, Vec<LayerFiles>)>;

/// Sources, with layers as their files.
#[derive(Debug)]
pub(super) enum SourceFiles<'a> {
    Context(&'a Context),
    Layers(Vec<LayerFiles>),
    Empty,
    Mixed(Box<SourceFiles<'a>>, Inputs),
}

impl<'a> SourceFiles<'a> {
    pub(super) fn new(space: &Space, source: CopySourceTree<'a>) -> Result<Self, Error> {
        Ok(match source {
            CopySourceTree::Context(context) => Self::Context(context),
            CopySourceTree::Snapshot(snapshot) => Self::Layers(readable(space, snapshot)?),
            CopySourceTree::Layers(layers) => Self::Layers(layers.to_vec()),
            CopySourceTree::Empty => Self::Empty,
            CopySourceTree::Mixed(main, inputs) => {
                let main = Box::new(Self::new(space, *main)?);
                let inputs = inputs
                    .iter()
                    .map(|(input, snapshot)| Ok((*input, readable(space, snapshot)?)))
                    .collect::<Result<_, Error>>()?;
                Self::Mixed(main, inputs)
            }
        })
    }

    /// All layers that are read.
    pub(super) fn layers(&self) -> Vec<&LayerFiles> {
        match self {
            Self::Context(_) | Self::Empty => Vec::new(),
            Self::Layers(layers) => layers.iter().collect(),
            Self::Mixed(main, inputs) => {
                let mut layers = main.layers();
                layers.extend(inputs.iter().flat_map(|(_, layers)| layers));
                layers
            }
        }
    }

    /// Opens them for a while.
    pub(super) fn open(&self, with: Use<'_>) -> Result<Written, Error> {
        match self {
            Self::Context(context) => with(CopySourceFiles::Context(context)),
            Self::Layers(layers) => with(CopySourceFiles::View(&View::load(layers)?)),
            Self::Empty => with(CopySourceFiles::Empty),
            Self::Mixed(main, inputs) => main.open(&mut |main| mixed(main, inputs, &mut *with)),
        }
    }

    /// The same for another process.
    pub(super) fn detached(self) -> Result<JobSource, Error> {
        Ok(match self {
            Self::Context(context) => {
                let (patterns, lines) = context.rules().parts();
                JobSource::Context {
                    dir: absolute(context.dir())?,
                    patterns: patterns.to_vec(),
                    lines: lines.to_vec(),
                    ignore_file: context.ignore_file().map(Path::to_path_buf),
                }
            }
            Self::Layers(layers) => JobSource::Layers(layers),
            Self::Empty => JobSource::Empty,
            Self::Mixed(main, inputs) => JobSource::Mixed(Box::new(main.detached()?), inputs),
        })
    }
}

fn mixed(main: CopySourceFiles<'_>, inputs: &Inputs, with: Use<'_>) -> Result<Written, Error> {
    let inputs = inputs
        .iter()
        .map(|(input, layers)| Ok((*input, View::load(layers)?)))
        .collect::<Result<_, Error>>()?;
    with(CopySourceFiles::Mixed(&Mixed { main, inputs }))
}

/// A copy whose files only the build's user namespace can read, in a form that reaches it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CopyJob {
    pub(super) op: CopyOp,
    pub(super) base: Vec<LayerFiles>,
    pub(super) source: JobSource,
    /// Folder for the tar and the index.
    pub(super) out: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum JobSource {
    Layers(Vec<LayerFiles>),
    Context {
        dir: PathBuf,
        patterns: Vec<String>,
        lines: Vec<u32>,
        ignore_file: Option<PathBuf>,
    },
    Empty,
    Mixed(Box<JobSource>, Inputs),
}

impl JobSource {
    fn open(self, with: Use<'_>) -> Result<Written, Error> {
        match self {
            Self::Layers(layers) => SourceFiles::Layers(layers).open(with),
            Self::Empty => with(CopySourceFiles::Empty),
            Self::Context {
                dir,
                patterns,
                lines,
                ignore_file,
            } => {
                let rules = IgnoreRules::from_parts(patterns, lines)?;
                let context = Context::open_uncached(&dir, rules, ignore_file)?;
                with(CopySourceFiles::Context(&context))
            }
            Self::Mixed(main, inputs) => main.open(&mut |main| mixed(main, &inputs, &mut *with)),
        }
    }
}

/// The task: carries a [`CopyJob`] out and leaves the layer's files in its folder.
///
/// # Errors
/// As [`super::copy`].
pub fn copy_task(job: CopyJob) -> Result<Written, Error> {
    let CopyJob {
        op,
        base,
        source,
        out,
    } = job;
    source.open(&mut |files| run(&op, &base, (files, None), None, &out))
}
