//! Tokens as a tree. Unknown functions, undefined variables and what does not end are told here.

use super::Error;
use super::functions;
use super::lex::{self, Kind, Token};
use serde_json::Value;

/// Blocks and parentheses inside each other.
const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub pipeline: Pipeline,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    /// Variables that it sets, with their dollar signs.
    pub variables: Vec<String>,
    /// `=`, not `:=`.
    pub assigns: bool,
    pub commands: Vec<Command>,
}

#[derive(Clone, Debug)]
pub(super) struct Command {
    pub arguments: Vec<Argument>,
}

#[derive(Clone, Debug)]
pub(super) struct Argument {
    /// Where Go says that it is.
    pub position: usize,
    /// Its text in the template.
    pub span: (usize, usize),
    pub what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Dot,
    Nil,
    Literal(Value),
    Function(String),
    Variable(String),
    Parenthesis(Box<Pipeline>),
    /// Fields of something.
    Fields(Box<What>, Vec<String>),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, Error> {
    let mut parser = Parser {
        text,
        tokens: lex::lex(text)?,
        at: 0,
        depth: 0,
        loops: 0,
        variables: vec!["$".to_owned()],
    };
    let (nodes, end) = parser.list()?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End => parser.fail("unexpected {{end}}"),
        Stop::Else(_) => parser.fail("unexpected {{else}}"),
    }
}

/// What ended a list of nodes.
enum Stop {
    Text,
    End,
    /// `if` or `with` when it goes on with one.
    Else(Option<String>),
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    loops: usize,
    variables: Vec<String>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn peek_solid(&mut self) -> Option<&Kind> {
        self.skip_space();
        self.peek()
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Kind::Space) {
            self.at += 1;
        }
    }

    fn position(&self) -> usize {
        let token = self.tokens.get(self.at);
        token.map_or(self.text.len(), |token| token.start)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::at(self.text, self.position(), message))
    }

    /// The token here does not belong here.
    fn unexpected<T>(&self, context: &str) -> Result<T, Error> {
        let Some(token) = self.tokens.get(self.at) else {
            return self.fail("unexpected EOF");
        };
        let text = &self.text[token.start..token.end];
        self.fail(format!("unexpected {text:?} in {context}"))
    }

    fn deeper(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("max template depth exceeded");
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(Vec<Node>, Stop), Error> {
        let mut nodes = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            let kind = token.kind.clone();
            self.at += 1;
            if let Kind::Text(text) = kind {
                nodes.push(Node::Text(text));
                continue;
            }
            let word = match self.peek_solid() {
                Some(Kind::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let is_block = matches!(
                word.as_str(),
                "if" | "with"
                    | "range"
                    | "end"
                    | "else"
                    | "break"
                    | "continue"
                    | "define"
                    | "template"
                    | "block"
            );
            if !is_block {
                let pipeline = self.pipeline("command", false)?;
                self.close("command")?;
                nodes.push(Node::Action(pipeline));
                continue;
            }
            let start = self.at;
            self.at += 1;
            match word.as_str() {
                "end" => {
                    self.close("end")?;
                    return Ok((nodes, Stop::End));
                }
                "else" => return Ok((nodes, Stop::Else(self.after_else()?))),
                "break" | "continue" => {
                    if self.loops == 0 {
                        self.at = start;
                        return self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                    }
                    self.close(&word)?;
                    nodes.push(if word == "break" {
                        Node::Break
                    } else {
                        Node::Continue
                    });
                }
                "if" | "with" | "range" => nodes.push(self.block(&word)?),
                _ => {
                    self.at = start;
                    return self.fail(format!("named templates are not supported: {{{{{word}}}}}"));
                }
            }
        }
        Ok((nodes, Stop::Text))
    }

    fn after_else(&mut self) -> Result<Option<String>, Error> {
        match self.peek_solid() {
            Some(Kind::Word(word)) if word == "if" || word == "with" => {
                let word = word.clone();
                self.at += 1;
                Ok(Some(word))
            }
            _ => {
                self.close("else")?;
                Ok(None)
            }
        }
    }

    fn close(&mut self, context: &str) -> Result<(), Error> {
        if self.peek_solid() != Some(&Kind::Close) {
            return self.unexpected(context);
        }
        self.at += 1;
        Ok(())
    }

    fn block(&mut self, word: &str) -> Result<Node, Error> {
        self.deeper()?;
        let known = self.variables.len();
        let pipeline = self.pipeline(word, word == "range")?;
        self.close(word)?;
        let is_loop = word == "range";
        self.loops += usize::from(is_loop);
        let inside = self.variables.len();
        let (body, end) = self.list()?;
        self.loops -= usize::from(is_loop);
        self.variables.truncate(inside);
        let otherwise = match end {
            Stop::End => Vec::new(),
            Stop::Text => return self.fail("unexpected EOF"),
            Stop::Else(Some(chained)) => {
                if word != chained {
                    return self.fail(format!("unexpected {{{{else {chained}}}}} in {word}"));
                }
                vec![self.block(&chained)?]
            }
            Stop::Else(None) => match self.list()? {
                (nodes, Stop::End) => nodes,
                (_, Stop::Else(_)) => return self.fail("expected end; found {{else}}"),
                (_, Stop::Text) => return self.fail("unexpected EOF"),
            },
        };
        self.variables.truncate(known);
        self.depth -= 1;
        let branch = Branch {
            pipeline,
            body,
            otherwise,
        };
        Ok(match word {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// Variables that a pipeline begins with, if it sets any.
    fn declarations(&mut self, is_range: bool) -> Result<(Vec<String>, bool), Error> {
        let start = self.at;
        let mut names = Vec::new();
        while let Some(Kind::Variable(name)) = self.peek_solid() {
            names.push(name.clone());
            self.at += 1;
            match self.peek_solid() {
                Some(Kind::Declare) => {
                    self.at += 1;
                    return Ok((names, false));
                }
                Some(Kind::Assign) => {
                    self.at += 1;
                    return Ok((names, true));
                }
                Some(Kind::Comma) if is_range && names.len() < 2 => self.at += 1,
                _ => break,
            }
        }
        self.at = start;
        Ok((Vec::new(), false))
    }

    /// Up to, but without, what ends it.
    fn pipeline(&mut self, context: &str, is_range: bool) -> Result<Pipeline, Error> {
        let (variables, assigns) = self.declarations(is_range)?;
        let mut commands = Vec::new();
        loop {
            commands.push(self.command(context)?);
            if self.peek_solid() != Some(&Kind::Pipe) {
                break;
            }
            self.at += 1;
        }
        for (stage, command) in commands.iter().enumerate().skip(1) {
            let first = &command.arguments[0];
            if matches!(first.what, What::Literal(_) | What::Nil | What::Dot) {
                let message = format!("non executable command in pipeline stage {}", stage + 1);
                return Err(Error::at(self.text, first.position, message));
            }
        }
        for name in &variables {
            if !assigns {
                self.variables.push(name.clone());
            } else if !self.variables.contains(name) {
                return self.fail(format!("undefined variable {name:?}"));
            }
        }
        Ok(Pipeline {
            variables,
            assigns,
            commands,
        })
    }

    fn command(&mut self, context: &str) -> Result<Command, Error> {
        let mut arguments = Vec::new();
        loop {
            let spaced = self.peek() == Some(&Kind::Space);
            match self.peek_solid() {
                None => return self.fail("unexpected EOF"),
                Some(Kind::Close | Kind::Pipe | Kind::RightParen) => break,
                Some(_) if !spaced && !arguments.is_empty() => return self.unexpected("operand"),
                Some(_) => arguments.push(self.argument(context)?),
            }
        }
        if arguments.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        Ok(Command { arguments })
    }

    fn argument(&mut self, context: &str) -> Result<Argument, Error> {
        let start = self.position();
        let mut position = start;
        let Some(token) = self.tokens.get(self.at) else {
            return self.fail("unexpected EOF");
        };
        let kind = token.kind.clone();
        let mut fields = Vec::new();
        let what = match kind {
            Kind::Dot => What::Dot,
            Kind::Field(name) => {
                fields.push(name);
                What::Dot
            }
            Kind::Literal(value) => What::Literal(value),
            Kind::Variable(name) if self.variables.contains(&name) => What::Variable(name),
            Kind::Variable(name) => return self.fail(format!("undefined variable {name:?}")),
            Kind::Word(word) => match word.as_str() {
                "nil" => What::Nil,
                "true" | "false" => What::Literal(Value::Bool(word == "true")),
                _ if functions::exists(&word) => What::Function(word),
                _ => return self.fail(format!("function {word:?} not defined")),
            },
            Kind::LeftParen => {
                self.deeper()?;
                self.at += 1;
                let inner = self.pipeline("parenthesized pipeline", false)?;
                if self.peek_solid() != Some(&Kind::RightParen) {
                    return self.unexpected("parenthesized pipeline");
                }
                self.depth -= 1;
                What::Parenthesis(Box::new(inner))
            }
            _ => return self.unexpected(context),
        };
        self.at += 1;
        while let Some(Kind::Field(name)) = self.peek() {
            fields.push(name.clone());
            position = self.position();
            self.at += 1;
        }
        let end = self.tokens[self.at - 1].end;
        let what = if fields.is_empty() {
            what
        } else if matches!(what, What::Literal(_) | What::Nil) {
            return Err(Error::at(self.text, position, "unexpected . after term"));
        } else {
            What::Fields(Box::new(what), fields)
        };
        Ok(Argument {
            position,
            span: (start, end),
            what,
        })
    }
}
