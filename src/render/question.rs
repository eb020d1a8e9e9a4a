//! Outlines, targets and the list of questions as `docker buildx build --call` prints them, as text and as JSON.

use super::finding::{base64, location};
use planner::outline::{Arg, Need, Outline, Target};
use serde_json::{Map, Value, json};

/// An outline as tables.
pub fn outline_text(outline: &Outline) -> String {
    let mut out = String::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = match outline.name.as_str() {
            "" => "(default)",
            name => name,
        };
        let mut rows = vec![["TARGET:", name]];
        if !outline.description.is_empty() {
            rows.push(["DESCRIPTION:", &outline.description]);
        }
        out.push_str(&columns(&rows, 1));
        out.push('\n');
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(outline.args.iter().map(|arg| {
            [
                &arg.name,
                arg.value.as_deref().unwrap_or(""),
                &arg.description,
            ]
        }));
        out.push_str(&columns(&rows, 3));
        out.push('\n');
    }
    for (title, needs) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if needs.is_empty() {
            continue;
        }
        let mut rows = vec![[title, "REQUIRED"]];
        rows.extend(
            needs
                .iter()
                .map(|need| [need.name.as_str(), if need.required { "true" } else { "" }]),
        );
        out.push_str(&columns(&rows, 3));
        out.push('\n');
    }
    out
}

/// An outline as JSON.
pub fn outline_json(outline: &Outline, text: &str) -> String {
    let mut out = Map::new();
    put(&mut out, "name", &outline.name);
    put(&mut out, "description", &outline.description);
    if !outline.args.is_empty() {
        let args: Vec<Value> = outline.args.iter().map(arg_json).collect();
        out.insert("args".to_owned(), Value::Array(args));
    }
    for (key, needs) in [("secrets", &outline.secrets), ("ssh", &outline.ssh)] {
        if !needs.is_empty() {
            let needs: Vec<Value> = needs.iter().map(need_json).collect();
            out.insert(key.to_owned(), Value::Array(needs));
        }
    }
    out.insert("sources".to_owned(), json!([base64(text.as_bytes())]));
    format!("{:#}\n", Value::Object(out))
}

fn arg_json(arg: &Arg) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(arg.name));
    put(&mut out, "description", &arg.description);
    put(&mut out, "value", arg.value.as_deref().unwrap_or(""));
    out.insert("location".to_owned(), location(Some(arg.lines)));
    Value::Object(out)
}

fn need_json(need: &Need) -> Value {
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(need.name));
    if need.required {
        out.insert("required".to_owned(), json!(true));
    }
    out.insert("location".to_owned(), location(Some(need.lines)));
    Value::Object(out)
}

/// Targets as a table.
pub fn targets_text(targets: &[Target]) -> String {
    let names: Vec<String> = targets
        .iter()
        .map(|target| match (target.name.as_str(), target.default) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        })
        .collect();
    let mut rows = vec![["TARGET", "DESCRIPTION"]];
    rows.extend(
        names
            .iter()
            .zip(targets)
            .map(|(name, target)| [name.as_str(), &target.description]),
    );
    columns(&rows, 1)
}

/// Targets as JSON.
pub fn targets_json(targets: &[Target], text: &str) -> String {
    let targets: Vec<Value> = targets
        .iter()
        .map(|target| {
            let mut out = Map::new();
            put(&mut out, "name", &target.name);
            if target.default {
                out.insert("default".to_owned(), json!(true));
            }
            put(&mut out, "description", &target.description);
            put(&mut out, "base", &target.base);
            put(&mut out, "platform", &target.platform);
            out.insert("location".to_owned(), location(Some(target.lines)));
            Value::Object(out)
        })
        .collect();
    let list = json!({ "targets": targets, "sources": [base64(text.as_bytes())] });
    format!("{list:#}\n")
}

/// The questions that there are.
pub fn describe(json: bool) -> String {
    const VERSION: &str = "1.0.0";
    let questions = [
        (
            "outline",
            "List all parameters current build target supports",
        ),
        ("targets", "List all targets current build supports"),
        ("subrequests.describe", "List available subrequest types"),
    ];
    if json {
        let list: Vec<Value> = questions
            .iter()
            .map(|(name, description)| {
                let target = json!({ "name": "target", "description": "Target build stage" });
                let options = match *name {
                    "outline" => json!([target]),
                    "targets" => json!([]),
                    _ => Value::Null,
                };
                let result = |name: &str| json!({ "name": name, "description": "" });
                json!({
                    "name": format!("frontend.{name}"),
                    "version": VERSION,
                    "type": "rpc",
                    "description": description,
                    "opts": options,
                    "inputs": null,
                    "metadata": [result("result.json"), result("result.txt")],
                    "refs": null,
                })
            })
            .collect();
        return format!("{:#}\n", Value::Array(list));
    }
    let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(questions.map(|(name, description)| [name, VERSION, description]));
    columns(&rows, 1)
}

/// Puts a text in unless it is empty, as Go's `omitempty` does.
fn put(out: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        out.insert(key.to_owned(), json!(text));
    }
}

/// Columns as wide as their widest cell and `gap` blanks; the last one is not filled up.
fn columns<const N: usize>(rows: &[[&str; N]], gap: usize) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or(0) + gap
    };
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < N {
                let filled = cell.chars().count();
                out.push_str(&" ".repeat(width(column) - filled));
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use parser::Lines;

    fn outline() -> Outline {
        let lines = Lines { start: 2, end: 3 };
        let arg = |name: &str, value: Option<&str>, description: &str| Arg {
            name: name.to_owned(),
            description: description.to_owned(),
            value: value.map(str::to_owned),
            lines,
        };
        let need = |name: &str, required| Need {
            name: name.to_owned(),
            required,
            lines,
        };
        Outline {
            name: "main".to_owned(),
            description: "the main one".to_owned(),
            args: vec![
                arg("foo", Some("bar"), "this is foo"),
                arg("long_name", None, ""),
            ],
            secrets: vec![need("tok", true), need("b", false)],
            ssh: vec![need("default", false)],
        }
    }

    #[test]
    fn outlines() {
        insta::assert_snapshot!("outline_text", outline_text(&outline()));
        insta::assert_snapshot!("outline_json", outline_json(&outline(), "FROM x\n"));
        assert_eq!(outline_text(&Outline::default()), "");
    }

    #[test]
    fn targets() {
        let dockerfile = parser::parse("# a first\nFROM x AS a\nFROM --platform=$P y\n").dockerfile;
        let targets = planner::outline::targets(&dockerfile);
        insta::assert_snapshot!("targets_text", targets_text(&targets));
        insta::assert_snapshot!("targets_json", targets_json(&targets, "FROM x\n"));
    }

    #[test]
    fn questions() {
        insta::assert_snapshot!("describe_text", describe(false));
        insta::assert_snapshot!("describe_json", describe(true));
    }
}
