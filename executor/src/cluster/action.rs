//! The action that a RUN is for the server: its input root, its command, and what it needs of a worker.
//!
//! Equal steps over equal files give equal actions, byte for byte. The layout of the input root is
//! [`crate::worker::spec`]'s.

use super::platform;
use super::program::Program;
use super::tree::{self, Carried, InputTree, Roots};
use crate::Error;
use crate::build::network;
use crate::request::{BuildRequest, ExecutorSettings};
use crate::snapshot::Snapshot;
use crate::space::Space;
use crate::worker::{
    LAYER_BLOB, LAYER_INDEX, MOUNTS, PROGRAM, REPORT, SPEC_FILE, SUBCOMMAND, Spec, SpecError,
    Staged,
};
use planner::plan::{InputIndex, Network, RunOp, Step};
use reapi::{Blob, Content, Digest, proto};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What actions of a build have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub space: &'a Space,
    pub request: &'a BuildRequest,
    pub settings: &'a ExecutorSettings,
    /// What the server's staging carries.
    pub carried: Carried,
}

/// A step as an action.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub action: Digest,
    /// What the worker must be.
    pub properties: Vec<(String, String)>,
    /// Longest time of the command.
    pub limit: Duration,
    /// Messages and the small files that are made for the step.
    own: Vec<Blob>,
    program: Program,
    trees: Vec<InputTree>,
}

impl Prepared {
    /// All that the server must have before it can begin, but for the trees that it has.
    pub(crate) fn blobs(
        &self,
        space: &Space,
        has: &dyn Fn(&Digest) -> bool,
    ) -> Result<Vec<Blob>, Error> {
        let mut all = self.without_trees();
        for tree in &self.trees {
            // Whoever brings a tree brings its root with all that is below.
            if has(&tree.root) && has(&tree.meta) && tree.extra.is_none_or(|extra| has(&extra)) {
                continue;
            }
            all.extend(tree.lacking(space, has)?);
        }
        Ok(all)
    }
}

impl Prepared {
    /// What every worker needs: the messages, and the program.
    pub(super) fn without_trees(&self) -> Vec<Blob> {
        let mut all = self.own.clone();
        all.push(Blob {
            digest: Digest::new(self.program.sha256, self.program.size),
            content: Content::Source(Arc::new(ProgramFile(self.program.path.clone()))),
        });
        all
    }
}

#[derive(Debug)]
struct ProgramFile(PathBuf);

impl reapi::Source for ProgramFile {
    fn open(&self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(&self.0)?))
    }
}

/// A step for a worker; with the inputs whose files it needs besides its base.
///
/// # Errors
/// It needs something that only this machine has.
pub(crate) fn spec(
    request: &BuildRequest,
    op: &RunOp,
) -> Result<(Spec, Vec<InputIndex>), SpecError> {
    let mut op = op.clone();
    // The network of its host, where that is allowed, is what the worker has.
    op.network = match network::of(op.network, request.network) {
        sandbox::Network::None => Network::None,
        _ => Network::Default,
    };
    let (mut spec, inputs) = Spec::of(&op)?;
    let run = &request.run;
    spec.name_servers.clone_from(&run.network.name_servers);
    spec.search.clone_from(&run.network.search);
    spec.resolver_options.clone_from(&run.network.options);
    spec.security.clone_from(&run.security);
    spec.resources.clone_from(&run.resources);
    // Groups of this machine are none of the worker's.
    spec.resources.cgroup_parent = None;
    spec.strict_limits = spec.resources != sandbox::Resources::default();
    spec.isolation = run.isolation;
    spec.root = run.root;
    Ok((spec, inputs))
}

/// Puts an action together. The layers of all inputs must be readable.
pub(crate) fn prepare(
    setting: &Setting<'_>,
    step: &Step,
    spec: Spec,
    inputs: (Option<&Snapshot>, &[Snapshot]),
    program: &Program,
) -> Result<Prepared, Error> {
    let mut trees = Vec::new();
    let mut rooted = |snapshot: &Snapshot| -> Result<Rooted, Error> {
        let tree = tree::input_tree(setting.space, snapshot, setting.carried)?;
        let roots = tree.roots();
        trees.push(tree);
        Ok(Rooted::of(snapshot, roots))
    };
    let base = inputs.0.map(&mut rooted).transpose()?;
    let mounts = inputs.1.iter().map(rooted).collect::<Result<Vec<_>, _>>()?;
    let prepared = assemble(setting, step, spec, (base, &mounts), program);
    Ok(Prepared { trees, ..prepared })
}

/// The digest of the action, where the trees of all inputs are remembered. No layer is needed.
pub(crate) fn remembered(
    setting: &Setting<'_>,
    step: &Step,
    spec: Spec,
    inputs: (Option<&Snapshot>, &[Snapshot]),
    program: &Program,
) -> Result<Option<Digest>, Error> {
    let rooted = |snapshot: &Snapshot| -> Result<Option<Rooted>, Error> {
        let roots = tree::remembered_roots(setting.space, snapshot, setting.carried)?;
        Ok(roots.map(|roots| Rooted::of(snapshot, roots)))
    };
    let mut base = None;
    if let Some(snapshot) = inputs.0 {
        base = rooted(snapshot)?;
        if base.is_none() {
            return Ok(None);
        }
    }
    let mounts: Option<Vec<Rooted>> = inputs.1.iter().map(rooted).collect::<Result<_, Error>>()?;
    let action = mounts.map(|mounts| assemble(setting, step, spec, (base, &mounts), program));
    Ok(action.map(|prepared| prepared.action))
}

/// An input: how many layers it has, and its tree.
struct Rooted {
    layers: usize,
    roots: Roots,
}

impl Rooted {
    fn of(snapshot: &Snapshot, roots: Roots) -> Self {
        let layers = snapshot.layers.len();
        Self { layers, roots }
    }
}

/// The action over such inputs, without their trees.
fn assemble(
    setting: &Setting<'_>,
    step: &Step,
    mut spec: Spec,
    (base, mounts): (Option<Rooted>, &[Rooted]),
    program: &Program,
) -> Prepared {
    let Setting {
        settings, carried, ..
    } = *setting;
    spec.staged = Staged {
        modes: carried.modes,
        times: carried.times,
    };
    spec.layers = base.as_ref().map_or(0, |base| base.layers);
    spec.inputs = mounts.iter().map(|mount| mount.layers).collect();
    let mut own = Vec::new();
    let mut root = proto::Directory::default();
    root.files.push(file(
        PROGRAM,
        Digest::new(program.sha256, program.size),
        true,
    ));
    let (arguments, long) = spec.arguments();
    if let Some(long) = long {
        let digest = Digest::of(&long);
        root.files.push(file(SPEC_FILE, digest, false));
        own.push(Blob {
            digest,
            content: Content::Bytes(long.into()),
        });
    }
    if let Some(base) = base {
        root.directories.extend(base.roots.directories());
    }
    if !mounts.is_empty() {
        let mut all = proto::Directory::default();
        for (number, mount) in mounts.iter().enumerate() {
            let one = proto::Directory {
                directories: mount.roots.directories(),
                ..proto::Directory::default()
            };
            let digest = message(&mut own, &one);
            all.directories.push(folder(&number.to_string(), digest));
        }
        all.directories.sort_by(|a, b| a.name.cmp(&b.name));
        let digest = message(&mut own, &all);
        root.directories.push(folder(MOUNTS, digest));
    }
    root.directories.sort_by(|a, b| a.name.cmp(&b.name));
    let root = message(&mut own, &root);
    let architecture = platform::worker_architecture(settings, &step.platform);
    let properties = platform::properties(settings, &step.platform.os, architecture);
    let command = message(&mut own, &command(arguments, &properties));
    let limit = longest(setting);
    let action = proto::Action {
        command_digest: Some(command.to_proto()),
        input_root_digest: Some(root.to_proto()),
        timeout: Some(reapi_duration(limit)),
        do_not_cache: step.no_cache,
        salt: settings.salt.clone().into_bytes(),
        platform: Some(in_proto(&properties)),
    };
    Prepared {
        action: message(&mut own, &action),
        properties,
        limit,
        own,
        program: program.clone(),
        trees: Vec::new(),
    }
}

/// An action that tries what its worker can do, and is carried out each time; with its blobs.
pub(super) fn probe(
    settings: &ExecutorSettings,
    architecture: &str,
    program: &Program,
    limit: Duration,
) -> Prepared {
    let mut own = Vec::new();
    let mut root = proto::Directory::default();
    let content = Digest::new(program.sha256, program.size);
    root.files.push(file(PROGRAM, content, true));
    let root = message(&mut own, &root);
    let properties = platform::properties(settings, "linux", architecture);
    let arguments = [&format!("./{PROGRAM}"), SUBCOMMAND, "--probe"].map(str::to_owned);
    #[allow(deprecated, reason = "servers of version 2.0 know nothing else")]
    let command = proto::Command {
        arguments: arguments.to_vec(),
        platform: Some(in_proto(&properties)),
        ..proto::Command::default()
    };
    let command = message(&mut own, &command);
    let action = proto::Action {
        command_digest: Some(command.to_proto()),
        input_root_digest: Some(root.to_proto()),
        timeout: Some(reapi_duration(limit)),
        do_not_cache: true,
        salt: settings.salt.clone().into_bytes(),
        platform: Some(in_proto(&properties)),
    };
    Prepared {
        action: message(&mut own, &action),
        properties,
        limit,
        own,
        program: program.clone(),
        trees: Vec::new(),
    }
}

/// The shorter of what the build and the cluster give a command.
fn longest(setting: &Setting<'_>) -> Duration {
    let of_cluster = setting.settings.timeout;
    let of_build = setting.request.run.timeout;
    of_build.map_or(of_cluster, |limit| limit.min(of_cluster))
}

fn reapi_duration(time: Duration) -> reapi::google::protobuf::Duration {
    reapi::google::protobuf::Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.subsec_nanos()).unwrap_or_default(),
    }
}

fn command(arguments: Vec<String>, properties: &[(String, String)]) -> proto::Command {
    let outputs: Vec<String> = [LAYER_INDEX, LAYER_BLOB, REPORT]
        .map(str::to_owned)
        .to_vec();
    #[allow(deprecated, reason = "servers of version 2.0 know nothing else")]
    proto::Command {
        arguments,
        output_files: outputs.clone(),
        output_paths: outputs,
        platform: Some(in_proto(properties)),
        ..proto::Command::default()
    }
}

fn in_proto(properties: &[(String, String)]) -> proto::Platform {
    let property = |(name, value): &(String, String)| proto::platform::Property {
        name: name.clone(),
        value: value.clone(),
    };
    proto::Platform {
        properties: properties.iter().map(property).collect(),
    }
}

fn message<M: reapi::prost::Message>(own: &mut Vec<Blob>, message: &M) -> Digest {
    let (digest, bytes) = reapi::message_digest(message);
    own.push(Blob {
        digest,
        content: Content::Bytes(bytes),
    });
    digest
}

fn file(name: &str, digest: Digest, is_executable: bool) -> proto::FileNode {
    proto::FileNode {
        name: name.to_owned(),
        digest: Some(digest.to_proto()),
        is_executable,
        ..proto::FileNode::default()
    }
}

fn folder(name: &str, digest: Digest) -> proto::DirectoryNode {
    proto::DirectoryNode {
        name: name.to_owned(),
        digest: Some(digest.to_proto()),
    }
}
