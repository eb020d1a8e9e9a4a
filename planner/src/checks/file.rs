//! Checks that the Dockerfile and its global arguments decide: no base image need be known.
//!
//! The order is BuildKit's: what its parser finds, instruction by instruction, then the file as a whole, then FROM.

use super::reference::is_image_name;
use super::{At, Config, Linter};
use crate::checks;
use crate::lower::{LowerOptions, Variables, global_variables};
use crate::platform::Platform;
use parser::ast::InstructionInfo;
use parser::expand::{self, Expanded, Options};
use parser::suggest::nearest;
use parser::{Diagnostic, Dockerfile, Instruction, Kind, Parsed, Severity, Stage, quote};

/// Stage names that mean something else in COPY and FROM.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Runs the checks. With errors among the parser's findings only what stands before the first of them is looked at.
///
/// # Errors
/// Check options that cannot be read, in BuildKit's words.
pub fn file(parsed: &Parsed, options: &LowerOptions) -> Result<Vec<Diagnostic>, String> {
    let dockerfile = &parsed.dockerfile;
    let mut linter = Linter::new(Config::of(dockerfile, &options.build_args)?);
    continuations(&mut linter, &parsed.diagnostics);
    let first_error = parsed
        .diagnostics
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| finding.lines.map_or(0, |lines| lines.start))
        .min();
    instructions(&mut linter, dockerfile, first_error.unwrap_or(u32::MAX));
    if first_error.is_some() {
        return Ok(linter.found);
    }
    stage_names(&mut linter, dockerfile);
    casing(&mut linter, dockerfile);
    bases(&mut linter, dockerfile, options);
    Ok(linter.found)
}

fn at(info: &InstructionInfo) -> At<'_> {
    At {
        span: info.span,
        lines: info.lines,
        comments: &info.comments,
    }
}

/// The parser has seen these; here they become findings of a check, which can be off.
fn continuations(linter: &mut Linter, found: &[Diagnostic]) {
    let rule = &checks::NO_EMPTY_CONTINUATION;
    for finding in found.iter().filter(|f| f.code == Some(rule.name)) {
        let place = At {
            span: finding.span.unwrap_or_default(),
            lines: finding.lines.unwrap_or_default(),
            comments: &[],
        };
        linter.run(rule, place, || finding.message.clone());
    }
}

/// What BuildKit finds while it reads the instructions one after the other.
fn instructions(linter: &mut Linter, dockerfile: &Dockerfile, before: u32) {
    for instruction in &dockerfile.global_args {
        described(linter, instruction, before);
    }
    for stage in &dockerfile.stages {
        if stage.from.lines.start < before {
            from(linter, stage);
        }
        for instruction in &stage.instructions {
            described(linter, instruction, before);
            if matches!(instruction.kind, Kind::Maintainer(_))
                && instruction.info.lines.start < before
            {
                linter.run(
                    &checks::MAINTAINER_DEPRECATED,
                    at(&instruction.info),
                    || "Maintainer instruction is deprecated in favor of using label".to_owned(),
                );
            }
        }
    }
}

fn from(linter: &mut Linter, stage: &Stage) {
    let place = at(&stage.from);
    let Some(name) = &stage.name else { return };
    let lower = name.value.to_lowercase();
    if name.value != lower {
        linter.run(&checks::STAGE_NAME_CASING, place, || {
            format!("Stage name '{}' should be lowercase", name.value)
        });
    }
    let keyword = &stage.from.keyword;
    let mut words = stage.from.original.split_whitespace();
    let joint = words.nth_back(1).unwrap_or_default();
    let matches_case = if is_lower(keyword) {
        is_lower(joint)
    } else {
        !is_upper(keyword) || is_upper(joint)
    };
    if !matches_case {
        linter.run(&checks::FROM_AS_CASING, place, || {
            format!("'{joint}' and '{keyword}' keywords' casing do not match")
        });
    }
    description(linter, "FROM", &[&lower], place);
}

fn described(linter: &mut Linter, instruction: &Instruction, before: u32) {
    let Kind::Arg(pairs) = &instruction.kind else {
        return;
    };
    if instruction.info.lines.start >= before {
        return;
    }
    let names: Vec<&str> = pairs.iter().map(|pair| pair.name.value.as_str()).collect();
    description(linter, "ARG", &names, at(&instruction.info));
}

/// The last comment line above an ARG or a named FROM should begin with a name that is defined there.
fn description(linter: &mut Linter, keyword: &str, names: &[&str], place: At<'_>) {
    let mut comments = place.comments.iter().rev();
    let Some(comment) = comments.find(|comment| !checks::is_check_comment(comment)) else {
        return;
    };
    if names.contains(&comment.split(' ').next().unwrap_or_default()) {
        return;
    }
    let example = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    linter.run(&checks::INVALID_DEFINITION_DESCRIPTION, place, || {
        format!("Comment for {keyword} should follow the format: `# {example} <description>`")
    });
}

fn stage_names(linter: &mut Linter, dockerfile: &Dockerfile) {
    let mut seen: Vec<String> = Vec::new();
    for stage in &dockerfile.stages {
        let Some(name) = &stage.name else { continue };
        let name = name.value.to_lowercase();
        let place = at(&stage.from);
        if RESERVED.contains(&name.as_str()) {
            linter.run(&checks::RESERVED_STAGE_NAME, place, || {
                format!(
                    "Stage name should not use the same name as reserved stage {}",
                    quote(&name)
                )
            });
        }
        if seen.contains(&name) {
            linter.run(&checks::DUPLICATE_STAGE_NAME, place, || {
                format!(
                    "Duplicate stage name {}, stage names should be unique",
                    quote(&name)
                )
            });
        }
        seen.push(name);
    }
}

/// Keywords are all in the case that most of them have; of two equal halves, capitals.
fn casing(linter: &mut Linter, dockerfile: &Dockerfile) {
    let all = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let commands = stage.instructions.iter().map(|i| &i.info);
            std::iter::once(&stage.from).chain(commands)
        })
    };
    let lower = all().filter(|info| is_lower(&info.keyword)).count();
    let upper = all().filter(|info| is_upper(&info.keyword)).count();
    let wants_lower = lower > upper;
    for info in all() {
        let fits = if wants_lower {
            is_lower(&info.keyword)
        } else {
            is_upper(&info.keyword)
        };
        if fits {
            continue;
        }
        let case = if wants_lower {
            "lowercase"
        } else {
            "uppercase"
        };
        linter.run(&checks::CONSISTENT_INSTRUCTION_CASING, at(info), || {
            format!(
                "Command '{}' should match the case of the command majority ({case})",
                info.keyword
            )
        });
    }
}

fn is_lower(text: &str) -> bool {
    !text.chars().any(char::is_uppercase)
}

fn is_upper(text: &str) -> bool {
    !text.chars().any(char::is_lowercase)
}

/// FROM: base names and platforms, with the global arguments as the defaults have them and as the build has them.
fn bases(linter: &mut Linter, dockerfile: &Dockerfile, options: &LowerOptions) {
    if dockerfile.global_args.is_empty() && !dockerfile.stages.iter().any(has_words) {
        return;
    }
    let Some(platform) = options.platforms.first() else {
        return;
    };
    if let Some(defaults) = global_variables(dockerfile, options, platform, false) {
        default_bases(linter, dockerfile, &defaults);
    }
    let Some(globals) = global_variables(dockerfile, options, platform, true) else {
        return;
    };
    let declared = declared(dockerfile, &globals);
    for stage in &dockerfile.stages {
        let place = at(&stage.from);
        let Some(base) = expanded(&stage.base.value, dockerfile, &globals) else {
            return;
        };
        undeclared(linter, &base, &declared, place);
        let Some(text) = &stage.platform else {
            continue;
        };
        let Some(platform) = expanded(&text.value, dockerfile, &globals) else {
            return;
        };
        undeclared(linter, &platform, &declared, place);
        redundant_platform(linter, &text.value, &platform, &globals, place);
        constant_platform(linter, stage, &platform, options);
    }
}

/// Whether there is anything in a FROM that these checks look at.
fn has_words(stage: &Stage) -> bool {
    stage.platform.is_some() || stage.base.value.contains('$') || !is_image_name(&stage.base.value)
}

fn expanded(text: &str, dockerfile: &Dockerfile, globals: &Variables) -> Option<Expanded> {
    expand::word(text, dockerfile.escape, globals, Options::default()).ok()
}

fn default_bases(linter: &mut Linter, dockerfile: &Dockerfile, defaults: &Variables) {
    for stage in &dockerfile.stages {
        let Some(base) = expanded(&stage.base.value, dockerfile, defaults) else {
            return;
        };
        if !is_image_name(&base.text) {
            linter.run(
                &checks::INVALID_DEFAULT_ARG_IN_FROM,
                at(&stage.from),
                || {
                    format!(
                        "Default value for ARG {} results in empty or invalid base image name",
                        stage.base.value
                    )
                },
            );
        }
    }
}

/// Names that FROM may use: those with a value, and those that are declared without one.
fn declared(dockerfile: &Dockerfile, globals: &Variables) -> Vec<String> {
    let mut names: Vec<String> = globals
        .pairs()
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    for instruction in &dockerfile.global_args {
        let Kind::Arg(pairs) = &instruction.kind else {
            continue;
        };
        names.extend(pairs.iter().map(|pair| pair.name.value.clone()));
    }
    names
}

fn undeclared(linter: &mut Linter, word: &Expanded, declared: &[String], place: At<'_>) {
    for name in &word.unmatched {
        if declared.contains(name) {
            continue;
        }
        linter.run(&checks::UNDEFINED_ARG_IN_FROM, place, || {
            let names: Vec<&str> = declared.iter().map(String::as_str).collect();
            let near = nearest(name, &names).map(|near| format!(" (did you mean {near}?)"));
            format!(
                "FROM argument '{name}' is not declared{}",
                near.unwrap_or_default()
            )
        });
    }
}

/// The platform is that of the target, and nothing else was asked for.
fn redundant_platform(
    linter: &mut Linter,
    text: &str,
    platform: &Expanded,
    globals: &Variables,
    place: At<'_>,
) {
    const NAME: &str = "TARGETPLATFORM";
    let alone = platform.matched == [NAME] && platform.unmatched.is_empty();
    if alone && globals.value(NAME) == Some(&platform.text) {
        linter.run(&checks::REDUNDANT_TARGET_PLATFORM, place, || {
            format!(
                "Setting platform to predefined {text} in FROM is redundant as this is the default behavior"
            )
        });
    }
}

/// A platform without a variable; the name of the stage may say that it is meant so.
fn constant_platform(linter: &mut Linter, stage: &Stage, word: &Expanded, options: &LowerOptions) {
    if !word.matched.is_empty() || !word.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = Platform::parse(&word.text, &options.build_platform) else {
        return;
    };
    let name = stage.name.as_ref().map(|name| name.value.to_lowercase());
    let name = name.unwrap_or_default();
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return;
    }
    linter.run(
        &checks::FROM_PLATFORM_FLAG_CONST_DISALLOWED,
        at(&stage.from),
        || {
            format!(
                "FROM --platform flag should not use constant value {}",
                quote(&word.text)
            )
        },
    );
}
