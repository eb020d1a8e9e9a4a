//! SOURCE_DATE_EPOCH: what the build arg, or else the global ARG of that name, stands for.
//!
//! A number is the time itself. Names stand for the time of something that the executor must look at: `context` for
//! the main context, a named context, or a stage that does nothing but ADD one remote file to scratch. What it finds is
//! handed back as [`LowerOptions::source_date_epoch`].

use super::context::{Place, at, nowhere};
use super::graph::SCRATCH;
use super::scope::{self, Env};
use super::{LowerOptions, target_name};
use crate::context_name::familiar;
use parser::ast::{ArgPair, Source, Transfer};
use parser::{Diagnostic, Dockerfile, Kind, Lines, Span, Stage};

/// The build arg.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Where the time of a build comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EpochSource {
    /// Nothing says it, or an empty value.
    Unset,
    /// Seconds since 1970-01-01.
    Seconds(i64),
    /// `context`: the main context.
    Context,
    /// A named context, as `--build-context` spelled it.
    Named(String),
    /// The one remote source of a stage.
    Remote(EpochRemote),
}

/// What a stage that names the time adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochRemote {
    /// Stage name.
    pub stage: String,
    /// URL or Git reference, expanded.
    pub source: String,
    /// `--checksum`, expanded.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// The ADD.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
}

/// Finds out what the Dockerfile and the options say.
///
/// # Errors
/// A value that is neither a number nor a name of anything; a stage that does more than ADD one remote file.
pub fn epoch_source(
    dockerfile: &Dockerfile,
    options: &LowerOptions,
) -> Result<EpochSource, Vec<Diagnostic>> {
    find(dockerfile, options).map_err(|error| vec![error])
}

fn find(dockerfile: &Dockerfile, options: &LowerOptions) -> Result<EpochSource, Diagnostic> {
    let declared = declaration(dockerfile);
    let given = options.build_args.get(NAME);
    if given.is_none() && declared.is_none() {
        return Ok(EpochSource::Unset);
    }
    let Some(platform) = options.platforms.first() else {
        return Ok(EpochSource::Unset);
    };
    // What is wrong with other arguments is found again, and told, by the lowering itself.
    let (globals, _) = scope::globals(
        &dockerfile.global_args,
        dockerfile.escape,
        options,
        platform,
        &target_name(dockerfile, options),
    );
    let value = given.map(String::as_str).or_else(|| globals.value(NAME));
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(EpochSource::Unset);
    };
    let invalid = |reason: &str| {
        let message = format!("invalid SOURCE_DATE_EPOCH: {value}{reason}");
        match declared.filter(|_| given.is_none()) {
            Some(place) => place.error(message),
            None => nowhere(message),
        }
    };
    if let Ok(seconds) = value.parse::<i64>() {
        return if seconds >= 0 {
            Ok(EpochSource::Seconds(seconds))
        } else {
            Err(invalid(": the time is before 1970-01-01"))
        };
    }
    if value == "context" {
        return Ok(EpochSource::Context);
    }
    let wanted = familiar(value);
    let named = options
        .named_contexts
        .iter()
        .find(|known| familiar(known) == wanted);
    if let Some(name) = named {
        return Ok(EpochSource::Named(name.clone()));
    }
    let is_meant = |stage: &&Stage| {
        stage
            .name
            .as_ref()
            .is_some_and(|name| name.value.eq_ignore_ascii_case(value))
    };
    match dockerfile.stages.iter().find(is_meant) {
        Some(stage) => remote(stage, dockerfile.escape, options, globals),
        None => Err(invalid("")
            .with_help("expected seconds since 1970-01-01, context, a stage or a named context")),
    }
}

/// The global ARG.
fn declaration(dockerfile: &Dockerfile) -> Option<Place> {
    let declares = |pairs: &[ArgPair]| pairs.iter().any(|pair| pair.name.value == NAME);
    let arg = dockerfile
        .global_args
        .iter()
        .rfind(|instruction| matches!(&instruction.kind, Kind::Arg(pairs) if declares(pairs)))?;
    Some(at(&arg.info))
}

/// The one remote source of a stage; all rules that such a stage must keep.
fn remote(
    stage: &Stage,
    escape: char,
    options: &LowerOptions,
    globals: Env,
) -> Result<EpochSource, Diagnostic> {
    let place = at(&stage.from);
    let mut env = globals;
    env.remove(NAME);
    let base = scope::word(&stage.base.value, escape, &env).map_err(|m| place.error(m))?;
    if base != SCRATCH {
        return Err(place.error("SOURCE_DATE_EPOCH stage must use FROM scratch".to_owned()));
    }
    let mut found = None;
    for instruction in &stage.instructions {
        let place = at(&instruction.info);
        match &instruction.kind {
            Kind::Arg(pairs) => {
                set_args(pairs, escape, options, &mut env).map_err(|m| place.error(m))?;
            }
            Kind::Add(_) if found.is_some() => {
                return Err(place.error(
                    "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned(),
                ));
            }
            Kind::Add(transfer) => {
                let source = source_of(transfer, escape, &env).map_err(|m| place.error(m))?;
                let checksum = transfer
                    .checksum
                    .as_ref()
                    .map(|checksum| scope::word(&checksum.value, escape, &env))
                    .transpose()
                    .map_err(|m| place.error(m))?;
                found = Some(EpochRemote {
                    stage: stage
                        .name
                        .as_ref()
                        .map_or_else(String::new, |name| name.value.clone()),
                    source,
                    checksum,
                    keep_git_dir: transfer.keep_git_dir,
                    span: place.span,
                    lines: place.lines,
                });
            }
            _ => {
                let message = format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {} instruction",
                    instruction.info.keyword.to_uppercase()
                );
                return Err(place.error(message));
            }
        }
    }
    found.map(EpochSource::Remote).ok_or_else(|| {
        place.error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD".to_owned())
    })
}

fn set_args(
    pairs: &[ArgPair],
    escape: char,
    options: &LowerOptions,
    env: &mut Env,
) -> Result<(), String> {
    for pair in pairs {
        let name = &pair.name.value;
        if let Some(given) = options.build_args.get(name) {
            env.set(name, given);
        } else if let Some(default) = &pair.default {
            let value = scope::word(&default.value, escape, env)?;
            env.set(name, &value);
        }
    }
    Ok(())
}

fn source_of(transfer: &Transfer, escape: char, env: &Env) -> Result<String, String> {
    let [Source::Path(source)] = transfer.sources.as_slice() else {
        return Err(
            "SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source".to_owned(),
        );
    };
    let source = scope::word(&source.value, escape, env)?;
    let is_remote = REMOTE.iter().any(|start| source.starts_with(start));
    if !is_remote {
        return Err(
            "SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD".to_owned(),
        );
    }
    Ok(source)
}

/// How remote sources begin: URLs, and the Git references that cannot be paths.
const REMOTE: [&str; 5] = ["http://", "https://", "git://", "ssh://", "git@"];
