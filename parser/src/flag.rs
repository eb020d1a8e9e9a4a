//! Flags of instructions: `--name`, `--name=value`, as BuildKit reads them.
//!
//! What flags an instruction has, the caller says.

use crate::ast::{Span, Spanned};
use crate::suggest;

/// What values a flag takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Toggle,
    Text,
    List,
}

/// A flag that an instruction has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlagSpec {
    name: &'static str,
    form: Form,
}

impl FlagSpec {
    /// `--name`, `--name=true` or `--name=false`, once.
    #[must_use]
    pub const fn toggle(name: &'static str) -> Self {
        Self {
            name,
            form: Form::Toggle,
        }
    }

    /// `--name=value`, once.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            form: Form::Text,
        }
    }

    /// `--name=value`, any number of times.
    #[must_use]
    pub const fn list(name: &'static str) -> Self {
        Self {
            name,
            form: Form::List,
        }
    }
}

/// A flag that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagError {
    /// BuildKit's wording.
    pub message: String,
    /// The flag.
    pub span: Span,
    /// The near name of an unknown flag.
    pub help: Option<String>,
}

/// The flags of one instruction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    values: Vec<(&'static str, Spanned<String>)>,
}

impl Flags {
    /// The value of a text flag.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Spanned<String>> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.clone())
    }

    /// The values of a list flag.
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<Spanned<String>> {
        self.values
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// The value of a toggle, `None` if it is not there.
    #[must_use]
    pub fn toggle(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value.value == "true")
    }
}

/// Reads flag words; `value_spans` has the place of each word's value.
///
/// # Errors
/// Every flag that is unknown, doubled, or has a value it must not have.
pub fn read(
    words: &[Spanned<String>],
    value_spans: &[Span],
    specs: &[FlagSpec],
) -> Result<Flags, Vec<FlagError>> {
    let mut flags = Flags::default();
    let mut errors = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let span = value_spans.get(index).copied().unwrap_or(word.span);
        match read_one(&word.value, specs, &flags) {
            Ok((name, value)) => flags.values.push((name, Spanned { value, span })),
            Err((message, help)) => errors.push(FlagError {
                message,
                span: word.span,
                help,
            }),
        }
    }
    if errors.is_empty() {
        Ok(flags)
    } else {
        Err(errors)
    }
}

type Wrong = (String, Option<String>);

fn read_one(
    word: &str,
    specs: &[FlagSpec],
    before: &Flags,
) -> Result<(&'static str, String), Wrong> {
    let (flag, value) = match word.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (word, None),
    };
    let Some(name) = flag.strip_prefix("--") else {
        return Err((format!("arg should start with -- : {word}"), None));
    };
    let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
        let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
        let help = match suggest::nearest(name, &names) {
            Some(near) => Some(format!("did you mean {near}?")),
            None if names.is_empty() => Some("this instruction has no flags".to_owned()),
            None => Some(format!(
                "flags of this instruction: --{}",
                names.join(", --")
            )),
        };
        return Err((format!("unknown flag: {flag}"), help));
    };
    if spec.form != Form::List && before.text(spec.name).is_some() {
        return Err((format!("duplicate flag specified: {flag}"), None));
    }
    let missing = || (format!("missing a value on flag: {flag}"), None);
    if spec.form != Form::Toggle {
        return Ok((spec.name, value.ok_or_else(missing)?.to_owned()));
    }
    match value.map(str::to_lowercase).as_deref() {
        Some("") => Err(missing()),
        None | Some("true") => Ok((spec.name, "true".to_owned())),
        Some("false") => Ok((spec.name, "false".to_owned())),
        Some(_) => {
            let value = value.unwrap_or_default();
            Err((
                format!("expecting boolean value for flag {flag}, not: {value}"),
                None,
            ))
        }
    }
}
