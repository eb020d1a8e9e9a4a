//! COPY and ADD.

use super::Reading;
use crate::ast::{Heredoc, Kind, Source, Spanned, Transfer};
use crate::flag::FlagSpec;
use crate::heredoc;
use crate::keyword::Keyword;

const COPY_FLAGS: [FlagSpec; 6] = [
    FlagSpec::text("from"),
    FlagSpec::text("chown"),
    FlagSpec::text("chmod"),
    FlagSpec::toggle("link"),
    FlagSpec::toggle("parents"),
    FlagSpec::list("exclude"),
];

const ADD_FLAGS: [FlagSpec; 7] = [
    FlagSpec::text("chown"),
    FlagSpec::text("chmod"),
    FlagSpec::toggle("link"),
    FlagSpec::toggle("keep-git-dir"),
    FlagSpec::text("checksum"),
    FlagSpec::toggle("unpack"),
    FlagSpec::list("exclude"),
];

impl Reading<'_> {
    pub(super) fn transfer(&mut self, keyword: Keyword) -> Option<Kind> {
        let name = keyword.name();
        let args = &self.node.args;
        let [sources @ .., dest] = args.as_slice() else {
            return self.no_destination(name);
        };
        if sources.is_empty() {
            return self.no_destination(name);
        }
        let specs: &[FlagSpec] = if keyword == Keyword::Copy {
            &COPY_FLAGS
        } else {
            &ADD_FLAGS
        };
        let flags = self.flags(specs)?;
        if matches!(heredoc::mark(&dest.value), Ok(Some(_))) {
            return self.fail(
                format!("{name} cannot accept a heredoc as a destination"),
                dest.span,
            );
        }
        // An empty value is the same as none.
        let text = |name: &str| flags.text(name).filter(|value| !value.value.is_empty());
        let transfer = Transfer {
            sources: sources.iter().map(|source| self.source(source)).collect(),
            dest: dest.clone(),
            from: text("from"),
            chown: text("chown"),
            chmod: text("chmod"),
            link: flags.toggle("link").unwrap_or(false),
            parents: flags.toggle("parents").unwrap_or(false),
            exclude: flags.list("exclude"),
            checksum: text("checksum"),
            keep_git_dir: flags.toggle("keep-git-dir"),
            unpack: flags.toggle("unpack"),
        };
        Some(if keyword == Keyword::Copy {
            Kind::Copy(transfer)
        } else {
            Kind::Add(transfer)
        })
    }

    fn no_destination<T>(&mut self, name: &str) -> Option<T> {
        let message = format!(
            "{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        let span = self
            .node
            .args
            .first()
            .map_or(self.node.keyword_span, |arg| arg.span);
        self.fail_with_help(
            message,
            span,
            Some(format!("write {name} source... destination")),
        )
    }

    /// A word that is a heredoc mark stands for the body of that name.
    fn source(&self, word: &Spanned<String>) -> Source {
        let Ok(Some(mark)) = heredoc::mark(&word.value) else {
            return Source::Path(word.clone());
        };
        let body = self
            .heredocs
            .iter()
            .rev()
            .find(|heredoc| heredoc.name == mark.name);
        Source::Heredoc(Heredoc {
            content: body.map_or_else(String::new, |body| body.content.clone()),
            span: body.map_or(word.span, |body| body.span),
            name: mark.name,
            fd: mark.fd,
            chomp: mark.chomp,
            expand: mark.expand,
        })
    }
}
