//! The raw layer: instructions as keyword, flags and argument words, before any of them is understood.
//!
//! It is what BuildKit's parser package gives, so that dumps can be compared. It
//! accepts unknown keywords and flags; [`crate::parse`] judges those.

pub(crate) mod arguments;
mod dump;
mod node;

use crate::ast::{Directives, Heredoc, Lines, Span, Spanned};
use crate::diagnostic::{Diagnostic, Severity};
use crate::heredoc;
use crate::keyword::Keyword;
use crate::lines::{DirectiveLine, Item, LogicalLine, Reader};
use crate::source::{Source, offset};

pub use arguments::{json_strings, words};

/// Longest line that is accepted, in bytes without its newline.
pub const MAX_LINE: usize = 65_535;

/// One instruction, or the trigger of an ONBUILD.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Keyword as typed.
    pub keyword: String,
    /// Where the keyword stands.
    pub keyword_span: Span,
    /// Flag words with quotes and escapes removed, `--` included.
    pub flags: Vec<Spanned<String>>,
    /// Where each flag's value stands: the part behind its `=`, or its end.
    pub flag_values: Vec<Span>,
    /// Arguments. ENV and LABEL have three for each pair: key, value and `=` (empty in the legacy form).
    pub args: Vec<Spanned<String>>,
    /// Whether the arguments are a JSON array.
    pub json: bool,
    /// The trigger of an ONBUILD.
    pub trigger: Option<Box<Node>>,
    /// Heredocs in order. An ONBUILD's stand at the ONBUILD.
    pub heredocs: Vec<Heredoc>,
    /// The logical line.
    pub original: String,
    /// Comment lines above.
    pub comments: Vec<String>,
    /// The whole instruction with its heredocs.
    pub span: Span,
    /// Its lines.
    pub lines: Lines,
}

/// A whole file, raw.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    /// Parser directives.
    pub directives: Directives,
    /// The escape character.
    pub escape: char,
    /// Instructions in file order; those that could not be read are missing.
    pub nodes: Vec<Node>,
    /// Findings of this layer, in file order.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads a file into raw instructions.
#[must_use]
pub fn parse(text: &str) -> Tree {
    if u32::try_from(text.len()).is_err() {
        return Tree {
            escape: '\\',
            diagnostics: vec![whole_file("dockerfile is larger than 4 GiB")],
            ..Tree::default()
        };
    }
    let source = Source::new(text);
    let mut builder = Builder {
        reader: Reader::new(text),
        tree: Tree {
            escape: '\\',
            ..Tree::default()
        },
        comments: Vec::new(),
        source,
    };
    builder.long_lines();
    builder.directives();
    builder.tree.escape = builder.reader.escape;
    builder.instructions();
    let mut tree = builder.tree;
    tree.diagnostics
        .sort_by_key(|found| found.span.map_or(u32::MAX, |span| span.start));
    tree
}

pub(crate) fn whole_file(message: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        code: None,
        message: message.to_owned(),
        span: None,
        lines: None,
        help: None,
    }
}

struct Builder<'t> {
    reader: Reader<'t>,
    tree: Tree,
    comments: Vec<String>,
    source: Source<'t>,
}

impl Builder<'_> {
    fn error(&mut self, message: impl Into<String>, start: usize, end: usize) -> &mut Diagnostic {
        let span = Span {
            start: offset(start),
            end: offset(end),
        };
        let found = Diagnostic::error(message, span, self.source.lines(start, end));
        let at = self.tree.diagnostics.len();
        self.tree.diagnostics.push(found);
        &mut self.tree.diagnostics[at]
    }

    fn long_lines(&mut self) {
        let long: Vec<(usize, usize)> = self
            .source
            .raw_lines()
            .filter(|(_, line)| line.len() > MAX_LINE)
            .map(|(start, line)| (start, line.len()))
            .collect();
        for (start, len) in long {
            self.error(
                format!("dockerfile line greater than max allowed size of {MAX_LINE}"),
                start,
                start + len,
            );
        }
    }

    /// Directives stand at the head, before anything else, an empty line or a comment included.
    fn directives(&mut self) {
        // A shebang is passed over, but an escape directive behind it does not count.
        let shebang = self.reader.shebang();
        loop {
            let before = self.reader.position();
            let Some(line) = self.reader.directive() else {
                return;
            };
            if !self.directive(&line, shebang) {
                self.reader.rewind(before);
                return;
            }
        }
    }

    /// Notes a directive; false if it is a comment.
    fn directive(&mut self, line: &DirectiveLine<'_>, shebang: bool) -> bool {
        let name = line.name.to_ascii_lowercase();
        let value = line.value;
        let value_end = line.value_start + value.len();
        let place = match name.as_str() {
            "syntax" => &mut self.tree.directives.syntax,
            "check" => &mut self.tree.directives.check,
            "escape" if !shebang => &mut self.tree.directives.escape,
            _ => return false,
        };
        if place.is_some() {
            self.error(
                format!("only one {name} parser directive can be used"),
                line.start,
                value_end,
            )
            .help = Some(format!(
                "remove this line: the first {name} directive counts"
            ));
            return true;
        }
        *place = Some(Spanned {
            value: value.to_owned(),
            span: Span {
                start: offset(line.value_start),
                end: offset(value_end),
            },
        });
        if name == "escape" {
            match value {
                "\\" | "`" => self.reader.escape = value.chars().next().unwrap_or('\\'),
                _ => {
                    self.error(
                        format!("invalid escape token '{value}' does not match ` or \\"),
                        line.value_start,
                        value_end,
                    )
                    .help = Some("the escape character is a backslash or a backtick".to_owned());
                }
            }
        }
        true
    }

    fn instructions(&mut self) {
        while !self.reader.at_end() {
            match self.reader.item() {
                // A lone `#` cuts a comment block.
                Item::Comment("") => self.comments.clear(),
                Item::Comment(text) => self.comments.push(text.to_owned()),
                Item::Empty => {}
                Item::Line(line) => self.instruction(&line),
            }
        }
        if self.tree.nodes.is_empty()
            && self
                .tree
                .diagnostics
                .iter()
                .all(|found| found.severity != Severity::Error)
        {
            let mut found = whole_file("file with no instructions");
            found.help = Some("a Dockerfile begins with FROM".to_owned());
            self.tree.diagnostics.push(found);
        }
    }

    fn instruction(&mut self, line: &LogicalLine<'_>) {
        let comments = std::mem::take(&mut self.comments);
        let whole = line.joined.span(0, line.joined.text.len());
        let mut lines = self.source.lines(line.start, line.end);
        if let Some(at) = line.empty_continuation {
            self.warn_empty_continuation(at, lines.end);
        }
        let mut node = match node::read(&line.joined, self.reader.escape) {
            Ok(node) => node,
            Err(failure) => {
                self.tree.diagnostics.push(Diagnostic {
                    lines: Some(lines),
                    ..failure
                });
                return;
            }
        };
        node.comments = comments;
        node.span = whole;
        if node.can_hold_heredocs() && line.joined.text.contains("<<") {
            match heredoc::marks(&line.joined.text) {
                Ok(marks) => self.bodies(&mut node, marks, &mut lines),
                Err(message) => {
                    self.tree
                        .diagnostics
                        .push(Diagnostic::error(message, whole, lines));
                    return;
                }
            }
        }
        if Keyword::parse(&node.keyword).is_none() {
            self.skip_bodies(&line.joined.text);
        }
        node.set_lines(lines);
        self.tree.nodes.push(node);
    }

    /// Passes over the heredocs of a misspelt instruction, so that their lines are not taken for instructions.
    fn skip_bodies(&mut self, line: &str) {
        if !line.contains("<<") {
            return;
        }
        for mark in heredoc::marks(line).unwrap_or_default() {
            let start = self.reader.position();
            if !self.reader.body(&mark.name, mark.chomp).terminated {
                self.reader.rewind(start);
                return;
            }
        }
    }

    fn bodies(&mut self, node: &mut Node, marks: Vec<heredoc::Mark>, lines: &mut Lines) {
        let line = (node.span, *lines);
        for mark in marks {
            let body = self.reader.body(&mark.name, mark.chomp);
            node.span.end = node.span.end.max(offset(body.end));
            lines.end = self
                .source
                .line_at(body.end.saturating_sub(1))
                .max(lines.end);
            if !body.terminated {
                let mut found = Diagnostic::error("unterminated heredoc", line.0, line.1);
                found.help = Some(format!("no line below holds {} alone", mark.name));
                self.tree.diagnostics.push(found);
            }
            let content_end = body.start + body.content.len();
            node.heredocs.push(Heredoc {
                name: mark.name,
                fd: mark.fd,
                chomp: mark.chomp,
                expand: mark.expand,
                content: body.content.to_owned(),
                span: Span {
                    start: offset(body.start),
                    end: offset(content_end),
                },
            });
        }
    }

    fn warn_empty_continuation(&mut self, at: usize, line: u32) {
        self.tree.diagnostics.push(Diagnostic {
            severity: Severity::Warning,
            code: Some("NoEmptyContinuation"),
            message: "Empty continuation line".to_owned(),
            span: Some(Span {
                start: offset(at),
                end: offset(at),
            }),
            lines: Some(Lines {
                start: line,
                end: line,
            }),
            help: Some(
                "empty continuation lines will become errors; remove the line or make it a comment"
                    .to_owned(),
            ),
        });
    }
}
