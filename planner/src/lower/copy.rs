//! COPY, ADD and WORKDIR. Which sources of ADD are elsewhere is said in `remote`.

use super::graph::Command;
use super::mounts::CopyFromStep;
use super::paths;
use super::remote;
use super::scope;
use super::stage::{Inputs, Lowering, StageState, expand_for_people};
use crate::git_url::{redacted, redacted_words};
use crate::plan::{CopyFrom, CopyOp, CopySource, MkdirOp, Op};
use parser::Diagnostic;
use parser::ast::{Heredoc, Source as Word, Spanned, Transfer};
use parser::expand::{self, Options};

/// A copy of what a local directory has at a path, to the same path of an empty root file system.
pub(super) fn context_copy(context: &str, path: &str) -> CopyOp {
    CopyOp {
        base: None,
        from: CopyFrom::Context(context.to_owned()),
        sources: vec![CopySource::Path(paths::escape_pattern(path))],
        dest: path.to_owned(),
        chown: None,
        chmod: None,
        link: false,
        parents: false,
        exclude: Vec::new(),
        unpack: None,
        add: false,
    }
}

impl Lowering<'_, '_> {
    pub(super) fn workdir(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
        path: &str,
    ) -> Result<(), Diagnostic> {
        let escape = self.shared().dockerfile.escape;
        let path = scope::word(path, escape, &state.env)
            .map_err(|message| command.place.error(message))?;
        let workdir = paths::workdir(&state.config.config.working_dir, &path);
        state.config.config.working_dir.clone_from(&workdir);
        state.dir = paths::clean(&workdir);
        let text = format!("WORKDIR {workdir}");
        if workdir == "/" {
            state.commit(text, None);
            return Ok(());
        }
        let name = expand_for_people(
            &command.instruction.info.original,
            escape,
            &state.env,
            Options::default(),
        );
        let origin = state.origin(&name, command);
        let (inputs, base) = Inputs::with_base(state.rootfs);
        let op = MkdirOp {
            base,
            path: state.dir.clone(),
            user: state.config.config.user.clone(),
        };
        let step = self.add_step(state, Op::Mkdir(op), inputs, origin);
        state.commit(text, Some(step));
        Ok(())
    }

    /// COPY and ADD.
    pub(super) fn transfer(
        &mut self,
        state: &mut StageState,
        command: &Command<'_>,
        transfer: &Transfer,
        add: bool,
    ) -> Result<(), Diagnostic> {
        let place = command.place;
        let escape = self.shared().dockerfile.escape;
        let files = self.copied_from(state, command)?;
        let words =
            Words::expand(transfer, escape, state).map_err(|message| place.error(message))?;
        let named = words
            .check(transfer, add)
            .map_err(|message| place.error(message))?;
        let name = expand_for_people(
            &command.instruction.info.original,
            escape,
            &state.env,
            Options::default(),
        );
        let origin = state.origin(&redacted_words(&name), command);
        let text = words.history(transfer, add);
        let (mut inputs, base) = Inputs::with_base(state.rootfs);
        let from = match files {
            // Heredocs and remote sources only: nothing is read from here.
            _ if named.iter().all(Option::is_some) => CopyFrom::Scratch,
            CopyFromStep::Step(step) => CopyFrom::Input(inputs.add(step)),
            CopyFromStep::Context(name) => CopyFrom::Context(name),
            CopyFromStep::Scratch => CopyFrom::Scratch,
        };
        let mut sources = Vec::with_capacity(words.paths.len());
        for (path, named) in words.paths.into_iter().zip(named) {
            sources.push(match named {
                None => CopySource::Path(path),
                Some(op) => self.remote_source(state, command, (&path, op), transfer, &mut inputs),
            });
        }
        let inline = words
            .heredocs
            .into_iter()
            .map(|(name, data)| CopySource::Inline { name, data });
        let op = CopyOp {
            base,
            from,
            sources: sources.into_iter().chain(inline).collect(),
            dest: paths::destination(&state.dir, &words.dest),
            // BuildKit makes no layer of its own of a link with a mode.
            link: transfer.link && words.chmod.is_none(),
            chown: words.chown,
            chmod: words.chmod,
            parents: transfer.parents,
            exclude: words.exclude,
            unpack: add.then(|| transfer.unpack.unwrap_or(true)),
            add,
        };
        let step = self.add_step(state, Op::Copy(op), inputs, origin);
        state.commit(text, Some(step));
        Ok(())
    }

    fn copied_from(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
    ) -> Result<CopyFromStep, Diagnostic> {
        let Some(source) = command.sources.first().and_then(Option::as_ref) else {
            return Ok(CopyFromStep::Context("context".to_owned()));
        };
        if let super::graph::Source::Stage(stage) = source
            && !self.is_done(*stage)
        {
            let (from, here) = (&self.graph.nodes[*stage].name, &state.naming.full_name);
            let message = format!(
                "cannot copy from stage {from:?}, it needs to be defined before current stage {here:?}"
            );
            return Err(command.place.error(message));
        }
        Ok(self.files_of(source, command.place))
    }
}

/// The words of COPY or ADD after expansion.
struct Words {
    paths: Vec<String>,
    heredocs: Vec<(String, String)>,
    dest: String,
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
    exclude: Vec<String>,
}

impl Words {
    fn expand(transfer: &Transfer, escape: char, state: &StageState) -> Result<Self, String> {
        let word = |word: &Spanned<String>| scope::word(&word.value, escape, &state.env);
        let option = |flag: &Option<Spanned<String>>| -> Result<Option<String>, String> {
            let value = flag.as_ref().map(word).transpose()?;
            Ok(value.filter(|value| !value.is_empty()))
        };
        let mut paths = Vec::new();
        let mut heredocs = Vec::new();
        for source in &transfer.sources {
            match source {
                Word::Path(path) => paths.push(word(path)?),
                Word::Heredoc(heredoc) => {
                    heredocs.push((heredoc.name.clone(), heredoc_text(heredoc, state)?));
                }
            }
        }
        Ok(Self {
            paths,
            heredocs,
            dest: word(&transfer.dest)?,
            chown: option(&transfer.chown)?,
            chmod: option(&transfer.chmod)?,
            checksum: option(&transfer.checksum)?,
            exclude: transfer
                .exclude
                .iter()
                .map(word)
                .collect::<Result<_, _>>()?,
        })
    }

    fn check(&self, transfer: &Transfer, add: bool) -> Result<Vec<Option<Op>>, String> {
        if let Some(mode) = &self.chmod {
            check_mode(mode)?;
        }
        remote::classify(&self.paths, transfer, add, self.checksum.as_deref())
    }

    /// The history text: only the flags that BuildKit names, paths before heredocs.
    fn history(&self, transfer: &Transfer, add: bool) -> String {
        let mut words = vec![if add { "ADD" } else { "COPY" }.to_owned()];
        if transfer.parents {
            words.push("--parents".to_owned());
        }
        words.extend(self.chown.iter().map(|owner| format!("--chown={owner}")));
        words.extend(self.chmod.iter().map(|mode| format!("--chmod={mode}")));
        words.extend(self.paths.iter().map(|path| redacted(path)));
        words.extend(self.heredocs.iter().map(|(name, _)| format!("<<{name}")));
        words.push(self.dest.clone());
        format!("{} # buildkit", words.join(" "))
    }
}

/// What a heredoc puts into its file.
fn heredoc_text(heredoc: &Heredoc, state: &StageState) -> Result<String, String> {
    let text = if heredoc.chomp {
        super::run::strip_tabs(&heredoc.content)
    } else {
        heredoc.content.clone()
    };
    if !heredoc.expand {
        return Ok(text);
    }
    // Backslash escapes here, whatever the file's escape character is.
    let options = Options {
        skip_process_quotes: true,
        ..Options::default()
    };
    expand::word(&text, '\\', &state.env, options)
        .map(|expanded| expanded.text)
        .map_err(|error| error.message)
}

/// Octal up to 07777, or symbolic as chmod(1) takes it.
fn check_mode(mode: &str) -> Result<(), String> {
    let message = || {
        format!(
            "invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777"
        )
    };
    let octal =
        u32::from_str_radix(mode, 8).is_ok_and(|bits| bits <= 0o7777) && !mode.starts_with('+');
    if octal || mode.split(',').all(is_mode_clause) {
        Ok(())
    } else {
        Err(message())
    }
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`
fn is_mode_clause(clause: &str) -> bool {
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if !actions.starts_with(['+', '-', '=']) {
        return false;
    }
    actions.split(['+', '-', '=']).skip(1).all(|permissions| {
        ["u", "g", "o"].contains(&permissions) || permissions.chars().all(|c| "rwxXst".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::check_mode;

    #[test]
    fn modes_are_checked() {
        for mode in [
            "0",
            "644",
            "0755",
            "07777",
            "+x",
            "u=rwX,go=rX",
            "g=u",
            "a+rwxst",
            "u-x+r",
        ] {
            assert_eq!(check_mode(mode), Ok(()), "{mode}");
        }
        for mode in ["10000", "8", "99", "x", "u", "u=q", "+644", "-1", "u=rw,"] {
            assert!(check_mode(mode).is_err(), "{mode}");
        }
    }
}
