//! What templates give and how bad ones fail, as a table against what Go's `text/template` with Docker's functions gives;
//! and that no template panics or runs away.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::time::{Duration, Instant};

const FIELDS: Schema = Schema {
    type_name: "*formatter.imageContext",
    fields: &[
        ("Labels", FieldKind::Map),
        ("Cmd", FieldKind::List),
        ("User", FieldKind::Text),
    ],
    open: false,
};

fn data() -> Value {
    json!({
        "Repository": "busybox", "Tag": "latest", "Size": 4_261_550, "Dangling": false, "Ratio": 2.5, "Nothing": null,
        "Names": ["b:1", "a:2"], "Empty": [],
        "Config": {"Env": ["PATH=/bin", "A=b"], "Labels": {"k": "v", "org.x": "y"}, "Cmd": null},
        "Platforms": [{"Os": "linux", "Arch": "amd64"}, {"Os": "linux", "Arch": "arm64"}],
    })
}

fn render(text: &str) -> Result<String, String> {
    let template = Template::parse(text).map_err(|error| error.to_string())?;
    template
        .render(&data(), &FIELDS)
        .map_err(|error| error.to_string())
}

/// A template and what it gives; `ERR` and the message when it fails.
const CASES: &[(&str, &str)] = &[
    ("", ""),
    ("plain }} text", "plain }} text"),
    ("{{.Repository}}:{{.Tag}}", "busybox:latest"),
    (
        "{{ .Size }}|{{.Dangling}}|{{.Ratio}}|{{.Nothing}}",
        "4261550|false|2.5|<nil>",
    ),
    (
        "{{.Names}} {{.Config.Labels}} {{.Empty}}",
        "[b:1 a:2] map[k:v org.x:y] []",
    ),
    ("{{index .Platforms 0}}", "{amd64 linux}"),
    (
        "{{.Config.Labels.k}} {{.Config.Labels.none}}",
        "v <no value>",
    ),
    (
        r#"{{index .Config.Labels "org.x"}}{{index .Config.Labels "none"}}"#,
        "y",
    ),
    (
        r#"{{.Config.Cmd}}{{.Config.User}}{{len .Config.Cmd}}"#,
        "[]0",
    ),
    (
        "{{json .Names}} {{json .Tag}} {{json .Nothing}}",
        r#"["b:1","a:2"] "latest" null"#,
    ),
    (r#"{{json (index .Config.Env 1)}}"#, r#""A=b""#),
    ("{{range .Names}}<{{.}}>{{end}}", "<b:1><a:2>"),
    (
        "{{range $i, $n := .Names}}{{$i}}={{$n}} {{end}}",
        "0=b:1 1=a:2 ",
    ),
    (
        "{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}",
        "k:v;org.x:y;",
    ),
    ("{{range .Empty}}x{{else}}none{{end}}", "none"),
    (
        "{{range .Names}}{{if eq . \"a:2\"}}{{break}}{{end}}{{.}}{{end}}",
        "b:1",
    ),
    (
        "{{range .Names}}{{if eq . \"b:1\"}}{{continue}}{{end}}{{.}}{{end}}",
        "a:2",
    ),
    (
        "{{range .Platforms}}{{.Os}}/{{.Arch}} {{$.Tag}} {{end}}",
        "linux/amd64 latest linux/arm64 latest ",
    ),
    ("{{range 3}}{{.}}{{end}}", "012"),
    (
        "{{if .Dangling}}d{{else if eq .Tag \"latest\"}}l{{else}}o{{end}}",
        "l",
    ),
    (
        "{{if .Platforms}}a{{end}}{{if .Empty}}b{{end}}{{if .Config}}c{{end}}{{if 0}}d{{end}}",
        "ac",
    ),
    (
        "{{with .Config}}{{len .Env}}{{end}}{{with .Empty}}x{{else}}y{{end}}",
        "2y",
    ),
    ("{{with .Nothing}}x{{else with .Tag}}{{.}}{{end}}", "latest"),
    (
        "{{$x := .Tag}}{{$x}}{{$x = \"new\"}}{{$x}}{{if true}}{{$x := 1}}{{$x}}{{end}}{{$x}}",
        "latestnew1new",
    ),
    (
        "{{$c := .Config}}{{$c.Labels.k}}{{(index .Platforms 1).Arch}}",
        "varm64",
    ),
    (
        "{{.Tag | upper | printf \"%s-%s\" .Repository}}",
        "busybox-LATEST",
    ),
    (
        r#"{{join .Names ", "}} {{join .Config.Env "|"}}"#,
        "b:1, a:2 PATH=/bin|A=b",
    ),
    (
        r#"{{index (split "a/b/c" "/") 1}}{{split "a,b" ","}}"#,
        "b[a b]",
    ),
    (
        r#"{{lower "ABC"}}{{title "two words"}}{{upper "x"}}"#,
        "abcTwo WordsX",
    ),
    (
        "{{truncate .Repository 4}} {{truncate .Tag 40}}",
        "busy latest",
    ),
    (r#"{{pad "x" 1 2}}|{{pad "" 1 1}}|"#, " x  ||"),
    (r#"{{len .Names}}{{len .Tag}}{{len "é"}}"#, "262"),
    (
        r#"{{print "a" 1 2 "b" "c"}}{{println "x" 1}}"#,
        "a1 2bcx 1\n",
    ),
    (
        r#"{{printf "%-8s|%8s|%q|%v|%05d|%.2f|%x|%t|%T|%%" "ab" "cd" "e\"" .Names 42 2.5 255 true 1}}"#,
        "ab      |      cd|\"e\\\"\"|[b:1 a:2]|00042|2.50|ff|true|int|%",
    ),
    (
        r#"{{printf "%d %s" "x"}}{{printf "%s" "a" 1}}{{printf "%"}}"#,
        "%!d(string=x) %!s(MISSING)a%!(EXTRA int=1)%!(NOVERB)",
    ),
    (
        r#"{{printf "%6.2f|%+d|%-5d|%c|%U|%e" 3.14159 7 3 'x' 9731 12345.678}}"#,
        "  3.14|+7|3    |x|U+2603|1.234568e+04",
    ),
    (
        "{{eq 1 1}}{{eq .Tag \"x\" \"latest\"}}{{ne 1 2}}{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge \"b\" \"a\"}}",
        "truetruetruetruetruefalsetrue",
    ),
    (
        "{{and true 0}}{{and 1 2}}{{or 0 \"x\"}}{{or \"\" 0}}{{not true}}{{not .Empty}}",
        "02x0falsetrue",
    ),
    ("{{or .Tag .Unknown}}", "latest"),
    (
        "{{0x1f}} {{1_000}} {{017}} {{0b11}} {{1.5e3}} {{'a'}} {{-3}} {{+4}}",
        "31 1000 15 3 1500 97 -3 4",
    ),
    (
        "{{\"a\\tb\\n\\\"\\u00e9\\x41\"}}{{`raw \\n`}}{{true}}",
        "a\tb\n\"éAraw \\ntrue",
    ),
    (
        "a  {{- .Tag -}}  b {{- \"x\" }} c {{ \"y\" -}}\n d",
        "alatestbx c yd",
    ),
    ("{{/* nothing */}}a {{- /* b */ -}} c", "ac"),
    ("{{slice .Tag 1 3}} {{slice .Names 1}}", "at [a:2]"),
    (
        "{{html \"<a&'>\"}} {{urlquery \"a b/c\"}}",
        "&lt;a&amp;&#39;&gt; a+b%2Fc",
    ),
    ("{{println}}{{\"\\n\"}}", "\n\n"),
    ("{{ .Tag\n}}", "latest"),
    (
        "{{define}}",
        "ERR template: :1:2: named templates are not supported: {{define}}",
    ),
    (
        "{{.Foo}}",
        "ERR template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.imageContext",
    ),
    (
        "ab\n{{.Config.Foo}}",
        "ERR template: :2:9: executing \"\" at <.Config.Foo>: can't evaluate field Foo in type *formatter.imageContext",
    ),
    (
        "{{.Tag.Foo}}",
        "ERR template: :1:6: executing \"\" at <.Tag.Foo>: can't evaluate field Foo in type string",
    ),
    (
        "{{.Nothing.Foo}}",
        "ERR template: :1:10: executing \"\" at <.Nothing.Foo>: nil pointer evaluating interface {}.Foo",
    ),
    (
        "{{index .Names 7}}",
        "ERR template: :1:2: executing \"\" at <index>: error calling index: index out of range: 7",
    ),
    (
        "{{len}}",
        "ERR template: :1:2: executing \"\" at <len>: wrong number of args for len: want 1 got 0",
    ),
    (
        "{{len 3}}",
        "ERR template: :1:2: executing \"\" at <len>: error calling len: len of type int",
    ),
    (
        "{{lt 1 \"a\"}}",
        "ERR template: :1:2: executing \"\" at <lt>: error calling lt: incompatible types for comparison",
    ),
    (
        "{{.Tag 1}}",
        "ERR template: :1:2: executing \"\" at <.Tag>: Tag has arguments but cannot be invoked as function",
    ),
    (
        "{{range .Tag}}{{end}}",
        "ERR template: :1:8: executing \"\" at <.Tag>: range can't iterate over latest",
    ),
    (
        "{{upper 1}}",
        "ERR template: :1:2: executing \"\" at <upper>: wrong type for value; expected string; got int",
    ),
    ("{{", "ERR template: :1:0: unclosed action"),
    ("{{}}", "ERR template: :1:2: missing value for command"),
    ("{{.Foo", "ERR template: :1:0: unclosed action"),
    (
        "{{foo}}",
        "ERR template: :1:2: function \"foo\" not defined",
    ),
    ("{{$x}}", "ERR template: :1:2: undefined variable \"$x\""),
    (
        "{{if true}}{{$y := 1}}{{end}}{{$y}}",
        "ERR template: :1:31: undefined variable \"$y\"",
    ),
    ("{{end}}", "ERR template: :1:7: unexpected {{end}}"),
    ("{{if .Tag}}", "ERR template: :1:11: unexpected EOF"),
    (
        "{{range}}{{end}}",
        "ERR template: :1:7: missing value for range",
    ),
    (
        "{{break}}",
        "ERR template: :1:2: {{break}} outside {{range}}",
    ),
    ("{{(.Tag}}", "ERR template: :1:7: unclosed left paren"),
    ("{{.Tag)}}", "ERR template: :1:6: unexpected right paren"),
    (
        "{{\"abc}}",
        "ERR template: :1:2: unterminated quoted string",
    ),
    ("{{1x}}", "ERR template: :1:2: bad number syntax: \"1x\""),
    (
        "{{.Tag | 1}}",
        "ERR template: :1:9: non executable command in pipeline stage 2",
    ),
    ("{{/* x}}", "ERR template: :1:2: unclosed comment"),
    (
        "{{\"a\".Foo}}",
        "ERR template: :1:5: unexpected . after term",
    ),
];

#[test]
fn what_templates_give() {
    for &(text, wanted) in CASES {
        let wanted = match wanted.strip_prefix("ERR ") {
            Some(message) => Err(format!("template parsing error: {message}")),
            None => Ok(wanted.to_owned()),
        };
        assert_eq!(render(text), wanted, "{text}");
    }
}

#[test]
fn a_json_document_without_a_type() {
    let schema = Schema {
        type_name: "",
        ..FIELDS
    };
    let unknown = Template::parse("{{.Foo}}")
        .unwrap()
        .render(&data(), &schema);
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "template parsing error: template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""
    );
    let open = Template::parse("{{.Foo}}{{.Config.Foo}}").unwrap();
    assert_eq!(
        open.render(&data(), &Schema::OPEN).unwrap(),
        "<no value><no value>"
    );
    let renamed = Template::parse("{{.ID}}").unwrap();
    assert_eq!(renamed.render(&json!({"Id": "x"}), &schema).unwrap(), "x");
}

#[test]
fn lists() {
    let columns = Columns {
        type_name: "*formatter.imageContext",
        default: "{{.ID}}\t{{.Tag}}\t{{if .Tag}}{{.Size}}{{else}}N/A{{end}}",
        headings: &[("ID", "IMAGE ID"), ("Tag", "TAG"), ("Size", "SIZE")],
    };
    let rows = [
        json!({"ID": "0123456789ab", "Tag": "a-long-tag-name", "Size": "1MB"}),
        json!({"ID": "x", "Tag": "", "Size": "2MB"}),
    ];
    let list = |format: Option<&str>| List::new(format, columns).unwrap().render(&rows).unwrap();
    let table = "IMAGE ID       TAG               SIZE\n0123456789ab   a-long-tag-name   1MB\nx                                N/A\n";
    assert_eq!(list(None), table);
    assert_eq!(list(Some("table")), table);
    assert_eq!(
        list(Some("table {{.Size}}\\t{{upper .Tag}}\\t{{json .ID}}")),
        "SIZE      TAG               IMAGE ID\n1MB       A-LONG-TAG-NAME   \"0123456789ab\"\n2MB                         \"x\"\n"
    );
    assert_eq!(list(Some("{{.ID}}")), "0123456789ab\nx\n");
    assert_eq!(
        list(Some("{{.ID}}\\t{{.Tag}}")),
        "0123456789ab\ta-long-tag-name\nx\t\n"
    );
    let json: Vec<Value> = list(Some("json"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json, rows);
    let empty = List::new(None, columns).unwrap().render(&[]).unwrap();
    assert_eq!(
        empty,
        "IMAGE ID  TAG       SIZE\n".replace("IMAGE ID  ", "IMAGE ID   ")
    );
    assert!(List::new(Some("{{"), columns).is_err());
    assert!(
        List::new(Some("{{.Foo}}"), columns)
            .unwrap()
            .render(&rows)
            .is_err()
    );
}

/// Programs that would take for ever, or write for ever, end with an error soon.
#[test]
fn no_template_runs_away() {
    let nested = |depth: usize, inner: &str| {
        format!(
            "{}{inner}{}",
            "{{range 1000}}".repeat(depth),
            "{{end}}".repeat(depth)
        )
    };
    let doubling = format!(
        "{{{{$x := \"xxxxxxxx\"}}}}{}{{{{$x}}}}",
        "{{$x = printf \"%s%s\" $x $x}}".repeat(64)
    );
    for text in [
        nested(12, "x"),
        nested(12, "{{json $}}"),
        nested(12, ""),
        "{{range 18446744073709551615}}{{end}}".to_owned(),
        doubling,
        format!(
            "{{{{$x := printf \"%9999s\" \"%9999s\"}}}}{}",
            "{{$x = printf \"%s%s\" $x $x}}".repeat(20) + "{{printf $x 1}}"
        ),
        "{{".repeat(10_000),
        "{{(".repeat(10_000),
        format!("{{{{{}1{}}}}}", "(".repeat(1000), ")".repeat(1000)),
        "{{if 1}}".repeat(10_000),
        "{{if 1}}".to_owned() + &"{{else if 1}}".repeat(10_000),
        "x".repeat(1 << 20),
    ] {
        let started = Instant::now();
        assert!(render(&text).is_err(), "{}", &text[..60]);
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{}",
            &text[..60]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// No text makes the engine panic.
    #[test]
    fn any_text(text in "\\PC{0,60}") {
        let _ = render(&text);
        let _ = render(&format!("{{{{{text}}}}}"));
    }

    /// Neither does anything made of the words of the language.
    #[test]
    fn any_words(words in proptest::collection::vec(proptest::sample::select(&[
        "{{", "}}", "{{-", " -}}", " ", "|", "(", ")", ".", "$", "$x", ":=", "=", ",", "if", "with", "range", "else", "end",
        "break", "index", "len", "json", "printf", "slice", "split", "join", "truncate", "eq", "lt", "and", "not", "nil",
        ".Names", ".Config", ".Tag", ".Labels", ".Nothing", "\"%5d\"", "\"\"", "0", "-1", "1e9", "18446744073709551615",
        "'x'", "`r`", "/*", "*/", "true", "é", "\n",
    ][..]), 0..24)) {
        let text = words.concat();
        if let Ok(out) = render(&text) {
            prop_assert!(out.len() < 256 << 20);
        }
        let _ = render(&format!("{{{{{}}}}}", words.join(" ")));
    }
}
