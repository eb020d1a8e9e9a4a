//! Carries a template out over data, within a budget of work and output.

use super::Error;
use super::functions::{self, Failed};
use super::parse::{Argument, Branch, Command, Node, Pipeline, What};
use super::value::{self, FieldKind, Schema, Val};
use serde_json::{Map, Value};

/// Work that a template may do: bytes written or copied, and [`STEP`] for each node and call.
const BUDGET: u64 = 256 << 20;
const STEP: u64 = 64;

/// What the data is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Data,
    /// Headings of columns: functions leave them as they are.
    Headings,
}

pub(super) fn render(
    text: &str,
    nodes: &[Node],
    data: &Value,
    schema: &Schema,
    mode: Mode,
) -> Result<String, Error> {
    let root = Val::Data(data, schema.open);
    let mut eval = Eval {
        text,
        schema,
        mode,
        out: String::new(),
        left: BUDGET,
        variables: vec![("$".to_owned(), root.clone())],
    };
    eval.list(nodes, &root)?;
    Ok(eval.out)
}

/// How a list of nodes ended.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Eval<'t, 'a> {
    text: &'t str,
    schema: &'t Schema,
    mode: Mode,
    out: String,
    left: u64,
    variables: Vec<(String, Val<'a>)>,
}

impl<'a> Eval<'_, 'a> {
    fn fail<T>(&self, at: &Argument, message: &str) -> Result<T, Error> {
        let context = &self.text[at.span.0..at.span.1];
        let message = format!("executing \"\" at <{context}>: {message}");
        Err(Error::at(self.text, at.position, message))
    }

    fn spend(&mut self, work: u64) -> Result<(), Error> {
        match self.left.checked_sub(work) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(Error::at(
                self.text,
                0,
                "executing \"\": the template does too much",
            )),
        }
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.spend(text.len() as u64)?;
        self.out.push_str(text);
        Ok(())
    }

    fn list(&mut self, nodes: &[Node], dot: &Val<'a>) -> Result<Flow, Error> {
        let known = self.variables.len();
        for node in nodes {
            self.spend(STEP)?;
            let flow = match node {
                Node::Text(text) => {
                    self.write(text)?;
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        let mut text = String::new();
                        value::show(&value, &mut text);
                        self.write(&text)?;
                    }
                    Flow::Next
                }
                Node::If(branch) | Node::With(branch) => {
                    self.choose(branch, dot, matches!(node, Node::With(_)))?
                }
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                self.variables.truncate(known);
                return Ok(flow);
            }
        }
        // What an action declares lives to the end of its block.
        self.variables.truncate(known);
        Ok(Flow::Next)
    }

    fn choose(&mut self, branch: &Branch, dot: &Val<'a>, with: bool) -> Result<Flow, Error> {
        let known = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let flow = if !value.truth() {
            self.list(&branch.otherwise, dot)?
        } else if with {
            self.list(&branch.body, &value)?
        } else {
            self.list(&branch.body, dot)?
        };
        self.variables.truncate(known);
        Ok(flow)
    }

    fn range(&mut self, branch: &Branch, dot: &Val<'a>) -> Result<Flow, Error> {
        let pipeline = &branch.pipeline;
        let over = self.commands(pipeline, dot)?;
        let items: Vec<(Val<'a>, Val<'a>)> = match (&over, over.value()) {
            (_, Value::Null) => Vec::new(),
            (_, Value::Array(items)) => (0..items.len())
                .map(|index| (Val::made(index), over.item(index)))
                .collect(),
            (Val::Data(Value::Object(map), true), _) => map
                .iter()
                .map(|(key, value)| (Val::made(key.as_str()), Val::Data(value, self.schema.open)))
                .collect(),
            (_, Value::Number(count)) if count.is_u64() => {
                let count = count.as_u64().unwrap_or_default();
                self.spend(count.saturating_mul(STEP))?;
                (0..count).map(|n| (Val::made(n), Val::made(n))).collect()
            }
            (_, Value::String(_)) if self.mode == Mode::Headings => Vec::new(),
            (_, other) => {
                let message = format!("range can't iterate over {}", short(other));
                return self.fail(&pipeline.commands[0].arguments[0], &message);
            }
        };
        if items.is_empty() {
            return self.list(&branch.otherwise, dot);
        }
        let known = self.variables.len();
        for (key, item) in items {
            self.spend(STEP)?;
            match pipeline.variables.as_slice() {
                [] => {}
                [only] => self.set(only, item.clone(), pipeline.assigns),
                [first, second, ..] => {
                    self.set(first, key, pipeline.assigns);
                    self.set(second, item.clone(), pipeline.assigns);
                }
            }
            let flow = self.list(&branch.body, &item)?;
            self.variables.truncate(known);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Val<'a>, assigns: bool) {
        let known = self.variables.iter_mut().rev();
        match known
            .into_iter()
            .find(|(known, _)| assigns && known == name)
        {
            Some((_, known)) => *known = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Val<'a>) -> Result<Val<'a>, Error> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Val<'a>) -> Result<Val<'a>, Error> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Val::Missing))
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Val<'a>,
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        self.spend(STEP)?;
        let first = &command.arguments[0];
        let What::Function(name) = &first.what else {
            if command.arguments.len() > 1 || last.is_some() {
                let message = match &first.what {
                    What::Fields(_, names) => format!(
                        "{} has arguments but cannot be invoked as function",
                        names.last().map_or("", String::as_str)
                    ),
                    _ => "can't give argument to non-function".to_owned(),
                };
                return self.fail(first, &message);
            }
            return self.argument(first, dot);
        };
        if name == "and" || name == "or" {
            return self.decide(name == "or", command, dot, last);
        }
        let mut arguments = Vec::with_capacity(command.arguments.len());
        for argument in &command.arguments[1..] {
            arguments.push(self.argument(argument, dot)?);
        }
        arguments.extend(last);
        self.call(name, first, arguments)
    }

    /// `and` and `or` look no further than they must.
    fn decide(
        &mut self,
        until: bool,
        command: &Command,
        dot: &Val<'a>,
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        let mut result = None;
        for argument in &command.arguments[1..] {
            let value = self.argument(argument, dot)?;
            if value.truth() == until {
                return Ok(value);
            }
            result = Some(value);
        }
        match last.or(result) {
            Some(value) => Ok(value),
            None => {
                let name = if until { "or" } else { "and" };
                let message = format!("wrong number of args for {name}: want at least 1 got 0");
                self.fail(&command.arguments[0], &message)
            }
        }
    }

    fn call(
        &mut self,
        name: &str,
        at: &Argument,
        mut arguments: Vec<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        if self.mode == Mode::Headings
            && functions::leaves_headings(name)
            && let Some(heading) = arguments
                .iter()
                .position(|argument| matches!(argument, Val::Data(..)))
        {
            return Ok(arguments.swap_remove(heading));
        }
        self.spend(functions::cost(name, &arguments))?;
        match functions::call(name, &arguments, self.schema) {
            Ok(value) => {
                if let Val::Made(made) = &value {
                    self.spend(functions::weight(made))?;
                }
                Ok(value)
            }
            Err(Failed::Arguments(message)) => self.fail(at, &message),
            Err(Failed::Call(message)) => {
                self.fail(at, &format!("error calling {name}: {message}"))
            }
        }
    }

    fn argument(&mut self, argument: &Argument, dot: &Val<'a>) -> Result<Val<'a>, Error> {
        self.what(argument, &argument.what, dot)
    }

    fn what(&mut self, at: &Argument, what: &What, dot: &Val<'a>) -> Result<Val<'a>, Error> {
        Ok(match what {
            What::Dot => dot.clone(),
            What::Nil => Val::made(Value::Null),
            What::Literal(value) => Val::made(value.clone()),
            What::Variable(name) => self.variable(name),
            What::Function(name) => return self.call(name, at, Vec::new()),
            What::Parenthesis(pipeline) => return self.pipeline(pipeline, dot),
            What::Fields(of, names) => {
                let mut value = self.what(at, of, dot)?;
                for name in names {
                    value = self.field(at, &value, name)?;
                }
                value
            }
        })
    }

    fn variable(&self, name: &str) -> Val<'a> {
        let mut known = self.variables.iter().rev();
        let found = known.find(|(known, _)| known == name);
        found.map_or(Val::Missing, |(_, value)| value.clone())
    }

    fn field(&mut self, at: &Argument, of: &Val<'a>, name: &str) -> Result<Val<'a>, Error> {
        self.spend(STEP)?;
        let Val::Data(Value::Object(map), is_map) = of else {
            let message = match of.value() {
                Value::Null => format!("nil pointer evaluating interface {{}}.{name}"),
                other => {
                    format!(
                        "can't evaluate field {name} in type {}",
                        value::type_name(other)
                    )
                }
            };
            return self.fail(at, &message);
        };
        if *is_map || self.schema.open {
            let found = map
                .get(name)
                .map(|value| Val::Data(value, self.schema.open));
            return Ok(found.unwrap_or(Val::Missing));
        }
        let kind = self.schema.kind(name);
        let found = find(map, name).filter(|value| kind.is_none() || !value.is_null());
        match (found, kind) {
            (Some(value), kind) => Ok(Val::Data(value, kind == Some(FieldKind::Map))),
            (None, Some(FieldKind::Map)) => Ok(Val::made(Map::new())),
            (None, Some(FieldKind::List)) => Ok(Val::made(Vec::<Value>::new())),
            (None, Some(FieldKind::Text)) => Ok(Val::made("")),
            (None, Some(FieldKind::Pointer)) => Ok(Val::made(Value::Null)),
            (None, None) => {
                let message = match self.schema.type_name {
                    "" => format!("map has no entry for key {name:?}"),
                    known => format!("can't evaluate field {name} in type {known}"),
                };
                self.fail(at, &message)
            }
        }
    }
}

/// A field, also by Go's spelling of the name that JSON has in another (`ID` and `Id`).
fn find<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name).or_else(|| match name {
        "ID" => map.get("Id"),
        "Id" => map.get("ID"),
        "OS" => map.get("Os"),
        _ => None,
    })
}

/// A value in an error message, not too long.
fn short(value: &Value) -> String {
    let mut text = String::new();
    value::show(&Val::Data(value, true), &mut text);
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
