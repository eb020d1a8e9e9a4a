//! From raw flags to one [`BuildRequest`]: paths checked, platforms and outputs parsed, secrets named.
//!
//! Every mistake found here is a usage error (status 2) or names the file that is missing (status 1).

pub mod annotation;
mod arguments;
mod cache;
mod compat;
mod context;
mod context_mode;
mod csv;
pub mod epoch;
mod isolation;
mod limits;
mod load_target;
mod named_context;
mod network;
mod output;
mod platform;
mod remote;
mod remote_file;
mod room;
mod run;
mod secret;
mod security;
mod ssh;

pub use self::isolation::isolation;
use self::load_target::LoadKeys;
use crate::args::BuildArgs;
use crate::environment::Environment;
use crate::error::Failure;
use crate::registry_options;
use executor::build::Stream;
use executor::request::{
    Annotation, BuildRequest, ContextSource, OutputKind, OutputRequest, RequestPlace, RunSettings,
};
use planner::git_url::redacted;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub use limits::size;
pub use output::check_file;
pub use platform::one as platform;
pub use remote::settings as remote;
pub use secret::parse as secret;
pub use ssh::parse as ssh;

/// What the flags ask for.
pub struct Resolved {
    /// The build.
    pub request: BuildRequest,
    /// The context, when it is on standard input.
    pub stream: Option<Stream>,
    /// What to tell the user about flags that do nothing.
    pub warnings: Vec<String>,
}

/// Resolves the flags of `kiln build`.
pub fn resolve(args: &BuildArgs, environment: &Environment) -> Result<Resolved, Failure> {
    let warnings = compat::check(&args.compat)?;
    let (request, stream) = request(args, environment)?;
    Ok(Resolved {
        request,
        stream,
        warnings,
    })
}

fn request(
    args: &BuildArgs,
    environment: &Environment,
) -> Result<(BuildRequest, Option<Stream>), Failure> {
    let (allowed, devices) = run::allow(&args.run.allow)?;
    let source = context::resolve(&args.context, args.file.as_deref())?;
    let named_contexts = args
        .build_contexts
        .iter()
        .filter_map(|text| named_context::parse(text).transpose())
        .collect::<Result<BTreeMap<String, ContextSource>, Failure>>()?;
    let secrets = args
        .secrets
        .iter()
        .map(|text| secret::parse(text, environment))
        .collect::<Result<BTreeMap<_, _>, Failure>>()?;
    let outputs = outputs(args, environment)?;
    check_names(args, &outputs)?;
    let build_args = arguments::build_args(&args.build_args, &args.build_arg_files, environment)?;
    let inline = build_args
        .get("BUILDKIT_INLINE_CACHE")
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
    let (cache_from, insecure_from) = cache::imports(&args.cache.cache_from)?;
    let (cache_to, insecure_to) = cache::exports(&args.cache.cache_to, inline)?;
    let mut registry = registry_options::client_options(&args.registry, environment)?;
    registry.insecure.extend(insecure_from);
    registry.insecure.extend(insecure_to);
    let request = BuildRequest {
        verify: args.verify.verify,
        cache_from,
        cache_to,
        cache_mounts: cache::mounts(&args.cache.cache_mounts)?,
        remote: remote::settings(&args.remote, environment)?,
        dockerfile: source.dockerfile,
        dockerfile_source: source.dockerfile_source,
        dockerfile_name: source.dockerfile_name,
        context: source.context,
        context_mode: context_mode::resolve(&args.contexts, environment)?,
        place: RequestPlace {
            context: redacted(&args.context),
            dockerfile: args
                .file
                .as_ref()
                .map_or_else(String::new, |file| redacted(&file.display().to_string())),
        },
        ignore: source.ignore,
        named_contexts,
        tags: args.tags.clone(),
        build_args,
        labels: arguments::labels(&args.labels)?,
        annotations: annotations(&args.annotations)?,
        squash: args.squash,
        target: args.target.clone().filter(|target| !target.is_empty()),
        platforms: platform::list(&args.platform, environment)?,
        no_cache: args.no_cache,
        no_cache_stages: args.no_cache_filter.clone(),
        pull: args.pull,
        network: network::mode(&args.run.network.network)?.0,
        extra_hosts: network::hosts(&args.add_hosts)?,
        shm_size: args
            .shm_size
            .as_deref()
            .map(|text| limits::size("--shm-size", text))
            .transpose()?,
        allowed,
        devices,
        cdi_spec_dirs: cdi_spec_dirs(&args.run.cdi_spec_dirs),
        ulimits: collect(&args.run.ulimits, run::ulimit)?,
        volumes: collect(&args.run.volumes, run::volume)?,
        run: run_settings(args, environment)?,
        ssh: ssh::parse(&args.run.ssh, environment)?,
        secrets,
        outputs,
        // The build args say it, or the Dockerfile.
        source_date_epoch: None,
        now: now(),
        jobs: usize::from(args.jobs),
        registry,
        cache_max: room::cache_max(&args.space, environment)?,
        search_path: environment.get("PATH").unwrap_or_default().to_owned(),
        proxies: environment.proxies(),
    };
    Ok((request, source.stream))
}

/// Names of images and of the files that a build writes, before it begins.
fn check_names(args: &BuildArgs, outputs: &[OutputRequest]) -> Result<(), Failure> {
    let of_outputs = outputs.iter().flat_map(|output| &output.names);
    for name in args.tags.iter().chain(of_outputs) {
        executor::request::image_name(name).map_err(|error| usage(crate::render::chain(&error)))?;
    }
    for path in args.iidfile.iter().chain(&args.metadata_file) {
        output::check_file(path)?;
    }
    Ok(())
}

/// Seconds since the epoch.
fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| {
            i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
        })
}

/// What commands may do and use, for the whole build.
fn run_settings(args: &BuildArgs, environment: &Environment) -> Result<RunSettings, Failure> {
    let limits = &args.run.limits;
    Ok(RunSettings {
        isolation: isolation(&args.run.isolation, environment)?,
        root: isolation::root_kind(&args.run.isolation, environment)?,
        security: security::resolve(&args.run.security)?,
        resources: limits::resources(limits)?,
        timeout: limits.timeout.as_deref().map(limits::timeout).transpose()?,
        output: limits::output(|name| environment.get(name))?,
        network: network::settings(&args.run.network)?,
        ca: args.run.network.ca.clone(),
        ..RunSettings::default()
    })
}

fn collect<T>(
    raw: &[String],
    parse: impl Fn(&str) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    raw.iter().map(|text| parse(text)).collect()
}

/// Where specifications of devices are looked for, in ascending order of priority.
fn cdi_spec_dirs(given: &[PathBuf]) -> Vec<PathBuf> {
    if given.is_empty() {
        ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into()
    } else {
        given.to_vec()
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage(message.into())
}

/// The outputs: `--output`, and what `--load` adds to them.
fn outputs(args: &BuildArgs, environment: &Environment) -> Result<Vec<OutputRequest>, Failure> {
    let mut outputs = Vec::new();
    for text in &args.outputs {
        let (mut output, load) = output::parse(text)?;
        if let Some(keys) = load {
            output.load = Some(load_target::resolve(&keys, environment)?);
        }
        outputs.push(output);
    }
    if args.compat.load && !outputs.iter().any(|output| output.load.is_some()) {
        let load = load_target::resolve(&LoadKeys::default(), environment)?;
        outputs.push(OutputRequest {
            load: Some(load),
            ..OutputRequest::default()
        });
    }
    if args.compat.push {
        push(&mut outputs);
    }
    let is_nameless = |output: &OutputRequest| {
        let image = &output.image;
        image.push && output.names.is_empty() && image.dangling_prefix.is_none()
    };
    if args.tags.is_empty() && outputs.iter().any(is_nameless) {
        return Err(usage("tag is needed when pushing to registry"));
    }
    output::scope_deletes(&mut outputs, run::may_delete(&args.run.allow))?;
    output::check(&outputs)?;
    let has_image =
        |output: &OutputRequest| !matches!(output.kind, OutputKind::Local | OutputKind::Tar);
    if args.iidfile.is_some() && !outputs.is_empty() && !outputs.iter().any(has_image) {
        return Err(usage(
            "local and tar exporters are incompatible with image ID file",
        ));
    }
    Ok(outputs)
}

/// `--push`: image outputs are pushed; where there is none, there is one more.
fn push(outputs: &mut Vec<OutputRequest>) {
    let mut is_pushed = false;
    for output in outputs.iter_mut() {
        if output.kind == OutputKind::Image && output.load.is_none() {
            output.image.push = true;
            is_pushed = true;
        }
    }
    if !is_pushed {
        let mut output = OutputRequest::default();
        output.image.push = true;
        outputs.push(output);
    }
}

fn annotations(raw: &[String]) -> Result<Vec<Annotation>, Failure> {
    let parsed = raw
        .iter()
        .map(|text| annotation::parse(text))
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(parsed.into_iter().flatten().collect())
}
