//! The unit tables of BuildKit's parser, instructions and expose packages.
//!
//! Tables hold inputs only where the expectation is code; that is written here then.

use super::equal;
use crate::conformance::SuiteResult;
use crate::conformance::git_tables;
use parser::ast::{Heredoc, Kind, Source, Span, Spanned};
use parser::flag::{self, FlagSpec};
use parser::{Severity, device, heredoc, port, tree};
use serde_json::{Value, json};

type Check = fn(&Value, &mut SuiteResult);

/// Tables by the part of their name behind the file, with what checks them.
const TABLES: [(&str, Check); 21] = [
    ("TestParseGitRef:", git_tables::references),
    ("TestFragmentFormatWithSubdir:", git_tables::with_subdir),
    ("TestFragmentFormat:", git_tables::fragments),
    ("TestParsePortEmptyContainerPort:", ports),
    ("TestPartPortIPV6:", ports),
    ("TestBuilderFlags:", builder_flags),
    ("TestParseDevice:", devices),
    ("TestCopyHeredoc:", copy_heredocs),
    ("TestErrorCasesHeredoc:", errors),
    ("TestErrorCases:", errors),
    ("TestRunHeredoc:", run_heredocs),
    ("TestCommandsAtLeastOneArgument:", at_least_one),
    ("TestCommandsExactlyOneArgument:", exactly_one),
    ("invalidJSONArraysOfStrings", json_invalid),
    ("validJSONArraysOfStrings", json_valid),
    ("TestHeredocsFromLine:", heredocs_of_lines),
    ("TestParseExtractsHeredoc:", extracted_heredocs),
    (
        "TestParseHeredocHelpers:invalidHeredocs",
        |table, result| marks(table, result, "error"),
    ),
    ("TestParseHeredocHelpers:notHeredocs", |table, result| {
        marks(table, result, "none");
    }),
    ("TestParseHeredocHelpers:validHeredocs", |table, result| {
        marks(table, result, "EOF");
    }),
    ("TestParseWords:", words),
];

pub(super) fn run(tables: &Value) -> Vec<SuiteResult> {
    let mut results = Vec::new();
    for (key, table) in tables.as_object().into_iter().flatten() {
        let name = key
            .rsplit_once(".go:")
            .map_or(key.as_str(), |(_, name)| name)
            .trim_start_matches(':');
        let Some((_, check)) = TABLES.iter().find(|(known, _)| name.starts_with(known)) else {
            continue;
        };
        let name = name.split('@').next().unwrap_or(name);
        let mut result = SuiteResult {
            name: format!("parser: {name}"),
            ..SuiteResult::default()
        };
        check(table, &mut result);
        results.push(result);
    }
    results
}

fn rows(table: &Value) -> impl Iterator<Item = &Value> {
    table.as_array().into_iter().flatten()
}

fn string<'v>(row: &'v Value, key: &str) -> &'v str {
    row[key].as_str().unwrap_or_default()
}

fn ports(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let got = port::parse(string(row, "spec")).map(|ports| ports.names());
        let outcome = match got {
            Ok(names) => equal("ports", &json!(names), &row["expected"]),
            Err(message) => equal("error", &json!(message), &row["expError"]),
        };
        result.note(string(row, "name"), outcome);
    }
}

fn builder_flags(table: &Value, result: &mut SuiteResult) {
    const TOGGLES: [&str; 5] = ["bool1", "bool2", "bool3", "bool4", "bool5"];
    const TEXTS: [&str; 4] = ["str1", "str2", "str3", "str4"];
    let wanted = json!([null, false, true, true, true, null, " ", "def3", "my-val"]);
    let words: Vec<Spanned<String>> = rows(table)
        .filter_map(Value::as_str)
        .map(|word| Spanned {
            value: word.to_owned(),
            span: Span::default(),
        })
        .collect();
    let mut specs: Vec<FlagSpec> = TOGGLES.into_iter().map(FlagSpec::toggle).collect();
    specs.extend(TEXTS.into_iter().map(FlagSpec::text));
    let outcome = match flag::read(&words, &[], &specs) {
        Ok(flags) => {
            let mut got: Vec<Value> = TOGGLES
                .iter()
                .map(|name| json!(flags.toggle(name)))
                .collect();
            got.extend(
                TEXTS
                    .iter()
                    .map(|name| json!(flags.text(name).map(|value| value.value))),
            );
            equal("flags", &json!(got), &wanted)
        }
        Err(errors) => Err(format!("{errors:?}")),
    };
    result.note("all", outcome);
    let wrong = [
        ("--bool1=", "missing a value on flag: --bool1"),
        (
            "--bool1=a",
            "expecting boolean value for flag --bool1, not: a",
        ),
        ("--str1", "missing a value on flag: --str1"),
        ("--other=1", "unknown flag: --other"),
        ("bool1", "arg should start with -- : bool1"),
    ];
    for (word, message) in wrong {
        let words = [Spanned {
            value: word.to_owned(),
            span: Span::default(),
        }];
        let got = flag::read(&words, &[], &specs)
            .err()
            .and_then(|errors| errors.into_iter().next());
        result.note(
            word,
            equal(
                "error",
                &json!(got.map(|error| error.message)),
                &json!(message),
            ),
        );
    }
}

fn devices(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let input = string(row, "input");
        let outcome = match device::parse(input) {
            Ok(device) => equal(
                "device",
                &json!({"Name": device.name, "Required": device.required}),
                &row["expected"],
            ),
            Err(message) if string(&row["expectedErr"], "go").contains(&message) => Ok(()),
            Err(message) => Err(message),
        };
        result.note(input, outcome);
    }
}

/// Parses an instruction behind a FROM.
fn instruction(text: &str) -> Result<Kind, String> {
    let parsed = parser::parse(&format!("FROM scratch\n{text}"));
    if let Some(found) = parsed
        .diagnostics
        .iter()
        .find(|found| found.severity == Severity::Error)
    {
        return Err(found.message.clone());
    }
    let stage = parsed
        .dockerfile
        .stages
        .into_iter()
        .next()
        .ok_or("no stage")?;
    stage
        .instructions
        .into_iter()
        .next()
        .map(|instruction| instruction.kind)
        .ok_or_else(|| "no instruction".to_owned())
}

fn copy_heredocs(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let text = string(row, "dockerfile");
        let outcome = instruction(text).and_then(|kind| match kind {
            Kind::Copy(copy) => {
                let mut paths = Vec::new();
                let mut contents = Vec::new();
                for source in &copy.sources {
                    match source {
                        Source::Path(path) => paths.push(json!(path.value)),
                        Source::Heredoc(doc) => {
                            contents.push(
                                json!({"Data": doc.body(), "Expand": doc.expand, "Path": doc.name}),
                            );
                        }
                    }
                }
                let mut got = json!({"DestPath": copy.dest.value});
                if !paths.is_empty() {
                    got["SourcePaths"] = json!(paths);
                }
                if !contents.is_empty() {
                    got["SourceContents"] = json!(contents);
                }
                equal("copy", &got, &row["sourcesAndDest"])
            }
            other => Err(format!("got {other:?}")),
        });
        result.note(text, outcome);
    }
}

fn run_heredocs(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let text = string(row, "dockerfile");
        let outcome = instruction(text).and_then(|kind| match kind {
            Kind::Run(run) => {
                equal("command", &json!(run.command.args), &row["command"])?;
                equal("shell", &json!(run.command.shell), &row["shell"])?;
                let files: Vec<Value> = run
                    .heredocs
                    .iter()
                    .map(|doc| {
                        let mut file = json!({"Name": doc.name, "Data": doc.content});
                        if doc.chomp {
                            file["Chomp"] = json!(true);
                        }
                        file
                    })
                    .collect();
                let wanted = if row["files"].is_null() {
                    json!([])
                } else {
                    row["files"].clone()
                };
                equal("files", &json!(files), &wanted)
            }
            other => Err(format!("got {other:?}")),
        });
        result.note(text, outcome);
    }
}

fn wants_error(text: &str, wanted: &str) -> Result<(), String> {
    match instruction(text) {
        Err(message) if message.contains(wanted) => Ok(()),
        other => Err(format!("got {other:?}, wanted {wanted:?}")),
    }
}

fn errors(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let text = string(row, "dockerfile");
        result.note(text, wants_error(text, string(row, "expectedError")));
    }
}

fn at_least_one(table: &Value, result: &mut SuiteResult) {
    for command in rows(table).filter_map(Value::as_str) {
        result.note(
            command,
            wants_error(
                command,
                &format!("{command} requires at least one argument"),
            ),
        );
    }
}

fn exactly_one(table: &Value, result: &mut SuiteResult) {
    for command in rows(table).filter_map(Value::as_str) {
        result.note(
            command,
            wants_error(command, &format!("{command} requires exactly one argument")),
        );
    }
}

fn json_invalid(table: &Value, result: &mut SuiteResult) {
    for text in rows(table).filter_map(Value::as_str) {
        let outcome = match tree::json_strings(text) {
            Err(_) => Ok(()),
            Ok(found) => Err(format!("got {found:?}, wanted an error")),
        };
        result.note(text, outcome);
    }
}

fn json_valid(table: &Value, result: &mut SuiteResult) {
    for (text, wanted) in table.as_object().into_iter().flatten() {
        let outcome =
            tree::json_strings(text).and_then(|found| equal("strings", &json!(found), wanted));
        result.note(text, outcome);
    }
}

fn heredocs_of_lines(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        let line = string(row, "line");
        let outcome = heredoc::marks(line).and_then(|marks| {
            let names: Vec<String> = marks.into_iter().map(|mark| mark.name).collect();
            let wanted = if row["heredocNames"].is_null() {
                json!([])
            } else {
                row["heredocNames"].clone()
            };
            equal("names", &json!(names), &wanted)
        });
        result.note(line, outcome);
    }
}

fn marks(table: &Value, result: &mut SuiteResult, wanted: &str) {
    for word in rows(table).filter_map(Value::as_str) {
        let got = match heredoc::mark(word) {
            Ok(Some(mark)) => mark.name,
            Ok(None) => "none".to_owned(),
            Err(_) => "error".to_owned(),
        };
        result.note(word, equal("mark", &json!(got), &json!(wanted)));
    }
}

fn words(table: &Value, result: &mut SuiteResult) {
    for row in rows(table) {
        for (line, input) in rows(&row["input"]).filter_map(Value::as_str).enumerate() {
            let got = tree::words(input, '\\');
            let outcome = if line == 0 {
                equal("words", &json!(got), &row["expect"])
            } else {
                Err("more than one line".to_owned())
            };
            result.note(input, outcome);
        }
    }
}

/// The file of the table, instruction by instruction; the table has what each must give.
const HEREDOC_FILE: &str = concat!(
    "\nFROM alpine:3.6\n\nENV NAME=me\n\nRUN ls\n\nUSER <<INVALID\nINVALID\n\n",
    "RUN <<EMPTY\nEMPTY\n\nRUN 3<<EMPTY2\nEMPTY2\n\nRUN \"<<NOHEREDOC\"\n\n",
    "RUN <<INDENT\n\tfoo\n\tbar\nINDENT\n\nRUN <<-UNINDENT\n\tbaz\n\tquux\nUNINDENT\n\n",
    "RUN <<-UNINDENT2\n\tbaz\n\tquux\n\tUNINDENT2\n\nRUN <<-EXPAND\n\texpand $NAME\nEXPAND\n\n",
    "RUN <<-'NOEXPAND'\n\tdon't expand $NAME\nNOEXPAND\n\n",
    "RUN <<COPY\necho hello world\necho foo bar\nCOPY\n\n",
    "RUN <<COMMENT\n# internal comment\necho hello world\necho foo bar # trailing comment\nCOMMENT\n\n",
    "RUN --mount=type=cache,target=/foo <<MOUNT\necho hello\nMOUNT\n\n",
    "COPY <<FILE1 <<FILE2 /dest\ncontent 1\nFILE1\ncontent 2\nFILE2\n\n",
    "COPY <<EOF /quotes\n\"foo\"\n'bar'\nEOF\n\nCOPY <<X <<Y /dest\nY\nX\nX\nY\n\n",
    "RUN <<COMPLEX python3\nprint('hello world')\nCOMPLEX\n\nCOPY <<file.txt /dest\nhello world\nfile.txt\n\n",
    "RUN <<eo'f'\necho foo\neof\n\nRUN <<eo\\'f\necho foo\neo'f\n\nRUN <<'e'o\\'f\necho foo\neo'f\n\n",
    "RUN <<'one two'\necho bar\none two\n\nRUN <<$EOF\n$EOF\n\nRUN <<  EOF\nEOF\n\nRUN <<  EOF  > foo\nEOF\n",
);

fn extracted_heredocs(table: &Value, result: &mut SuiteResult) {
    let found = tree::parse(HEREDOC_FILE);
    for (index, wanted) in rows(table).enumerate() {
        let node = found.nodes.get(index + 1);
        let got: Vec<Value> = node
            .map(|node| node.heredocs.as_slice())
            .unwrap_or_default()
            .iter()
            .map(as_go)
            .collect();
        let wanted = if wanted.is_null() {
            json!([])
        } else {
            wanted.clone()
        };
        let label = node.map_or_else(|| index.to_string(), |node| node.original.clone());
        result.note(&label, equal("heredocs", &json!(got), &wanted));
    }
}

/// As the table writes it: fields with zero values are missing.
fn as_go(doc: &Heredoc) -> Value {
    let mut value = json!({"Name": doc.name, "Content": doc.content, "Expand": doc.expand});
    if doc.chomp {
        value["Chomp"] = json!(true);
    }
    if doc.fd != 0 {
        value["FileDescriptor"] = json!(doc.fd);
    }
    value
}
