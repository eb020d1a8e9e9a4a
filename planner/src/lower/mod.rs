//! From a parsed Dockerfile to a [`Plan`]. Pure: bases come in as data, asked for in rounds.
//!
//! Per platform a graph of stages is made and pruned; then each stage needed is carried out in file order on a
//! state of variables, config and root file system. Instructions that change files add steps, the others do not.

mod builder;
mod check;
mod context;
mod copy;
mod epoch;
mod findings;
mod gotext;
mod graph;
mod metadata;
mod mounts;
mod naming;
mod outline;
mod paths;
mod remote;
mod run;
mod scope;
mod signals;
mod stage;

use crate::checks::{Config, IgnoredFiles, Linter};
use crate::config::{HistoryEntry, ImageConfig};
use crate::plan::{Network, Plan, Ulimit, Volume};
use crate::platform::Platform;
pub use epoch::{EpochRemote, EpochSource, epoch_source};

use builder::Builder;
use context::{Gaps, Place, Shared};
pub use findings::check;
use graph::Graph;
pub use outline::{Outlined, outline};
use parser::{Diagnostic, Dockerfile, Kind, Lines, Severity, Span};
use stage::Lowering;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) use scope::Env as Variables;

/// Everything that is not in the Dockerfile.
#[derive(Clone, Debug)]
pub struct LowerOptions {
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`, values known.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// Platforms to build for; at least one.
    pub platforms: Vec<Platform>,
    /// The machine's platform.
    pub build_platform: Platform,
    /// `--build-context` names: `name`, or `name::os/arch` for one platform.
    pub named_contexts: BTreeSet<String>,
    /// Those of them that are a stage of the Dockerfile (`target:STAGE`).
    pub context_stages: BTreeMap<String, String>,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--no-cache-filter` stage names.
    pub no_cache_stages: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--add-host`.
    pub extra_hosts: Vec<(String, String)>,
    /// `--shm-size`.
    pub shm_size: Option<u64>,
    /// Name prefix of cache mounts, `BUILDKIT_CACHE_MOUNT_NS`.
    pub cache_mount_namespace: String,
    /// `--ulimit`.
    pub ulimits: Vec<Ulimit>,
    /// `--volume`.
    pub volumes: Vec<Volume>,
    /// What `--allow` lets commands have.
    pub allowed: Allowed,
    /// What the global ARG `SOURCE_DATE_EPOCH` stands for, once it is known (see [`epoch_source`]); empty for no time.
    pub source_date_epoch: Option<String>,
    /// Carry out all stages, not only those that the target needs: what checks without a target do.
    pub all_stages: bool,
    /// What the context's ignore file leaves out, for a check.
    pub ignored: IgnoredFiles,
}

/// What commands may have when they ask for it (`--allow`). Devices are the executor's to check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowed {
    /// `network.host`.
    pub network_host: bool,
    /// `security.insecure`.
    pub security_insecure: bool,
}

impl Default for LowerOptions {
    /// For the machine's platform, with no flag given.
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: Vec::new(),
            platforms: vec![Platform::host()],
            build_platform: Platform::host(),
            named_contexts: BTreeSet::new(),
            context_stages: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            network: Network::Default,
            extra_hosts: Vec::new(),
            shm_size: None,
            cache_mount_namespace: String::new(),
            ulimits: Vec::new(),
            volumes: Vec::new(),
            allowed: Allowed::default(),
            source_date_epoch: None,
            all_stages: false,
            ignored: IgnoredFiles::default(),
        }
    }
}

/// A base that lowering needs to know about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseRequest {
    /// Image reference after expansion, or a named context's name.
    pub name: String,
    /// Platform wanted.
    pub platform: Platform,
}

/// The answer.
#[derive(Clone, Debug)]
pub enum ResolvedBase {
    /// An image (from the store, a registry, an OCI layout).
    Image(Box<ResolvedImage>),
    /// A named context that is a local directory (or other file tree), named as in [`crate::plan::CopyFrom::Context`].
    Directory(String),
    /// A named context that is empty (`docker-image://scratch`).
    Scratch,
}

/// What lowering must know of an image.
#[derive(Clone, Debug)]
pub struct ResolvedImage {
    /// Normalised reference.
    pub reference: String,
    /// Manifest digest.
    pub manifest_digest: String,
    /// diff_ids, base first.
    pub diff_ids: Vec<String>,
    /// Config.
    pub config: ImageConfig,
    /// Its history.
    pub history: Vec<HistoryEntry>,
    /// Opaque; copied into [`crate::plan::ImageOp::source`].
    pub source: String,
}

/// What [`lower`] gives.
#[derive(Debug)]
pub enum Lowered {
    /// These bases are needed before it can go on.
    Need(Vec<BaseRequest>),
    /// The plan and warnings.
    Plan(Plan, Vec<Diagnostic>),
}

/// Lowers a Dockerfile. Call it again with more `bases` as long as it says [`Lowered::Need`].
///
/// # Errors
/// All findings that stop the build: unknown target or stage, cycles, expansion errors, bad mounts, bad triggers;
/// what the checks found until then stands before them.
pub fn lower(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseRequest, ResolvedBase>,
) -> Result<Lowered, Vec<Diagnostic>> {
    let resolved = resolve(dockerfile, options, bases, Gaps::default());
    if !resolved.errors.is_empty() || !resolved.missing.is_empty() {
        // Before anything is asked for: what can be said without it.
        let errors = findings::all(resolved.errors, &resolved.graphs);
        if !errors.is_empty() {
            return Err(errors);
        }
        let requests = resolved.missing.into_iter().map(|(request, _)| request);
        let requests: BTreeSet<BaseRequest> = requests.collect();
        return Ok(Lowered::Need(requests.into_iter().collect()));
    }
    let graphs = resolved.graphs;
    let config = Config::of(dockerfile, &options.build_args)
        .map_err(|message| vec![context::nowhere(message)])?;
    // All platforms have nearly the same findings; BuildKit checks the first one too.
    let mut linter = Some(Linter::new(config));
    let mut builder = Builder::default();
    let mut targets = Vec::new();
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    for graph in &graphs {
        let lowered = Lowering::new(graph, &mut builder, linter.take()).run();
        warnings.extend(lowered.warnings);
        match lowered.target {
            Ok(target) => targets.push(target),
            Err(found) => add_new(&mut errors, found),
        }
    }
    if !errors.is_empty() {
        warnings.extend(findings::sorted(errors));
        return Err(warnings);
    }
    warnings.extend(unused_build_args(dockerfile, options, &graphs));
    Ok(Lowered::Plan(builder.finish(targets), warnings))
}

/// The instructions that want a base, and a nearby stage name in case the base is a typing error: what to tell
/// a user whose base cannot be found.
#[must_use]
pub fn wanted_by(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    bases: &BTreeMap<BaseRequest, ResolvedBase>,
    request: &BaseRequest,
) -> Option<WantedBy> {
    let resolved = resolve(dockerfile, options, bases, Gaps::default());
    let mut missing = resolved.missing.into_iter();
    let (_, place) = missing.find(|(wanted, _)| wanted == request)?;
    let stages = resolved
        .graphs
        .iter()
        .flat_map(|graph| graph.nodes.iter().map(|node| node.name.as_str()));
    let names: Vec<&str> = stages.chain(COMMON_IMAGES).collect();
    let suggestion = parser::suggest::nearest(&request.name, &names).map(str::to_owned);
    Some(WantedBy {
        span: place.span,
        lines: place.lines,
        suggestion,
    })
}

/// Who wants a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedBy {
    /// The first instruction that does.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
    /// A stage or a common image of nearly the same name.
    pub suggestion: Option<String>,
}

/// Images whose names are often misspelt.
const COMMON_IMAGES: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora",
];

/// Bases that are still missing, and who wants them.
type Missing = Vec<(BaseRequest, Place)>;

/// The graphs of all platforms, triggers added, the bases that are still missing, and what is wrong.
struct Resolved<'a> {
    graphs: Vec<Graph<'a>>,
    missing: Missing,
    errors: Vec<Diagnostic>,
}

fn resolve<'a>(
    dockerfile: &'a Dockerfile,
    options: &'a LowerOptions,
    bases: &'a BTreeMap<BaseRequest, ResolvedBase>,
    gaps: Gaps,
) -> Resolved<'a> {
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in &options.platforms {
        let platform = platform.normalise();
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    let mut resolved = Resolved {
        graphs: Vec::new(),
        missing: Vec::new(),
        errors: Vec::new(),
    };
    for platform in &platforms {
        let target = target_name(dockerfile, options);
        let escape = dockerfile.escape;
        let (mut globals, errors) =
            scope::globals(&dockerfile.global_args, escape, options, platform, &target);
        if gaps.variables {
            globals.leave_open();
        }
        let shared = Shared {
            dockerfile,
            options,
            bases,
            platform: platform.clone(),
            globals,
            several_platforms: platforms.len() > 1,
            gaps,
        };
        let mut graph = Graph::new(shared, errors);
        resolved.missing.extend(graph.resolve());
        add_new(&mut resolved.errors, graph.errors.clone());
        resolved.graphs.push(graph);
    }
    resolved
}

/// The value of `TARGETSTAGE`.
fn target_name(dockerfile: &Dockerfile, options: &LowerOptions) -> String {
    let last = dockerfile
        .stages
        .last()
        .and_then(|stage| stage.name.as_ref())
        .map(|name| name.value.to_lowercase());
    options
        .target
        .clone()
        .or(last)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".to_owned())
}

/// The global arguments, as the build args set them or as their defaults do; `None` where one cannot be expanded.
pub(crate) fn global_variables(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    platform: &Platform,
    with_build_args: bool,
) -> Option<Variables> {
    let target = target_name(dockerfile, options);
    let (args, escape) = (&dockerfile.global_args, dockerfile.escape);
    let (globals, errors) = if with_build_args || options.build_args.is_empty() {
        scope::globals(args, escape, options, platform, &target)
    } else {
        // Build args still set the platform's own arguments.
        let mut defaults = options.clone();
        let platform_arg = |name: &String, _: &mut String| scope::is_platform_arg(name);
        defaults.build_args.retain(platform_arg);
        scope::globals(args, escape, &defaults, platform, &target)
    };
    errors.is_empty().then_some(globals)
}

/// Platforms mostly have the same findings.
fn add_new(all: &mut Vec<Diagnostic>, found: Vec<Diagnostic>) {
    for diagnostic in found {
        if !all.contains(&diagnostic) {
            all.push(diagnostic);
        }
    }
}

/// Build args that no ARG in the file or in a trigger asks for.
fn unused_build_args(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
    graphs: &[Graph<'_>],
) -> Option<Diagnostic> {
    let triggered = graphs
        .iter()
        .flat_map(|graph| &graph.nodes)
        .flat_map(|node| &node.commands);
    let instructions = dockerfile
        .global_args
        .iter()
        .chain(triggered.map(|command| command.instruction.as_ref()));
    let declared: BTreeSet<&str> = instructions
        .filter_map(|instruction| match &instruction.kind {
            Kind::Arg(pairs) => Some(pairs.iter().map(|pair| pair.name.value.as_str())),
            _ => None,
        })
        .flatten()
        .collect();
    let given = options.build_args.keys().map(String::as_str);
    let unused: Vec<&str> = given
        .filter(|name| !declared.contains(name) && !scope::is_predefined(name))
        .collect();
    if unused.is_empty() {
        return None;
    }
    let message = format!(
        "One or more build-args [{}] were not consumed",
        unused.join(" ")
    );
    let declared: Vec<&str> = declared.into_iter().collect();
    let near = |name: &&str| parser::suggest::nearest(name, &declared);
    let meant: Vec<&str> = unused.iter().filter_map(near).collect();
    Some(Diagnostic {
        severity: Severity::Warning,
        help: (!meant.is_empty()).then(|| format!("did you mean {}?", meant.join(", "))),
        ..context::nowhere(message)
    })
}
