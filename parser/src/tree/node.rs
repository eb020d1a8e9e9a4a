//! From a joined line to a raw node: the head, then the arguments by keyword.

use super::Node;
use super::arguments::{self, Grammar, Rule, View, Wrong};
use crate::ast::{Lines, Span, Spanned};
use crate::diagnostic::Diagnostic;
use crate::keyword::Keyword;
use crate::source::Joined;
use pest::Parser;

/// Triggers do not nest; the second level is read only so that it can be named in the error.
const MAX_DEPTH: usize = 2;

/// Reads a joined line. The finding of a failure has no lines yet.
pub(crate) fn read(joined: &Joined<'_>, escape: char) -> Result<Node, Diagnostic> {
    read_view(View::new(joined), escape, 0)
}

fn read_view(view: View<'_, '_>, escape: char, depth: usize) -> Result<Node, Diagnostic> {
    let trimmed = view.trimmed();
    let mut node = Node {
        original: view.text().to_owned(),
        keyword_span: trimmed.span(),
        span: trimmed.span(),
        ..Node::default()
    };
    let Some(head) = Grammar::parse(Rule::head, trimmed.text())
        .ok()
        .and_then(|mut pairs| pairs.next())
    else {
        return Ok(node);
    };
    let arguments_at = head.as_span().end();
    for part in head.into_inner() {
        let (start, end) = (part.as_span().start(), part.as_span().end());
        match part.as_rule() {
            Rule::keyword => {
                node.keyword = part.as_str().to_owned();
                node.keyword_span = trimmed.part(start, end).span();
            }
            Rule::flag => {
                let equals = part.as_str().find('=').map_or(end, |at| start + at + 1);
                node.flags.push(Spanned {
                    value: arguments::unquote_flag(part.as_str()),
                    span: trimmed.part(start, end).span(),
                });
                node.flag_values.push(trimmed.part(equals, end).span());
            }
            _ => {}
        }
    }
    let rest = trimmed.part(arguments_at, trimmed.text().len()).trimmed();
    let Some(keyword) = Keyword::parse(&node.keyword) else {
        // An unknown instruction has one empty argument.
        node.args.push(Spanned {
            value: String::new(),
            span: rest.part(0, 0).span(),
        });
        return Ok(node);
    };
    if rest.text().is_empty() {
        return Ok(node);
    }
    if keyword == Keyword::Onbuild {
        if depth < MAX_DEPTH {
            node.trigger = Some(Box::new(read_view(rest, escape, depth + 1)?));
        }
        return Ok(node);
    }
    match fill(&mut node, keyword, rest, escape) {
        Ok(()) => Ok(node),
        Err(wrong) => {
            let found = Diagnostic::error(wrong.message, wrong.span, Lines::default());
            Err(found.with_help(wrong.help))
        }
    }
}

fn fill(node: &mut Node, keyword: Keyword, rest: View<'_, '_>, escape: char) -> Result<(), Wrong> {
    match keyword {
        Keyword::Add | Keyword::Copy | Keyword::Volume => {
            if !json_form(node, rest)? {
                node.args = arguments::list(rest);
            }
        }
        Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Shell => {
            if !json_form(node, rest)? {
                node.args.push(rest.spanned());
            }
        }
        Keyword::Healthcheck => {
            let (kind, command) = arguments::split_first_word(rest);
            node.args.push(kind.spanned());
            if !command.text().is_empty() && !json_form(node, command)? {
                node.args.push(command.spanned());
            }
        }
        Keyword::Expose | Keyword::From => node.args = arguments::list(rest),
        Keyword::Arg => node.args = arguments::word_list(rest, escape),
        Keyword::Env => node.args = arguments::pairs(rest, "ENV", escape)?,
        Keyword::Label => node.args = arguments::pairs(rest, "LABEL", escape)?,
        Keyword::Maintainer | Keyword::StopSignal | Keyword::User | Keyword::Workdir => {
            node.args.push(rest.spanned());
        }
        Keyword::Onbuild => {}
    }
    Ok(())
}

/// Adds the strings of a JSON array; false if the text is none.
fn json_form(node: &mut Node, rest: View<'_, '_>) -> Result<bool, Wrong> {
    let Some(strings) = arguments::json(rest)? else {
        return Ok(false);
    };
    node.json = true;
    node.args.extend(strings);
    Ok(true)
}

impl Node {
    /// Whether `<<` in it can begin a heredoc.
    pub(crate) fn can_hold_heredocs(&self) -> bool {
        let node = self.trigger.as_deref().unwrap_or(self);
        matches!(
            Keyword::parse(&node.keyword),
            Some(Keyword::Add | Keyword::Copy | Keyword::Run)
        ) && !node.json
    }

    pub(crate) fn set_lines(&mut self, lines: Lines) {
        self.lines = lines;
        if let Some(trigger) = &mut self.trigger {
            trigger.span = Span {
                start: trigger.span.start,
                end: self.span.end,
            };
            trigger.set_lines(lines);
        }
    }
}
