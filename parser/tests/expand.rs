//! Word expansion: quotes, escapes, operators, word splitting and the options of the lexer.

use parser::expand::{self, Options, Scope};
use proptest::prelude::*;

struct Env(&'static [(&'static str, &'static str)]);

impl Scope for Env {
    fn get(&self, name: &str) -> Option<String> {
        self.0
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

const ENV: Env = Env(&[
    ("A", "alpha"),
    ("EMPTY", ""),
    ("PATH", "/usr/lib/libc.so.6"),
    ("DOLLAR", "$A"),
    ("SPACES", " two  words "),
    ("GROSS", "größe"),
    ("LINES", "one\ntwo"),
]);

fn word(text: &str) -> Result<String, String> {
    expand::word(text, '\\', &ENV, Options::default())
        .map(|found| found.text)
        .map_err(|error| error.message)
}

#[test]
fn words_expand() {
    let table = [
        ("plain", "plain"),
        ("$A ${A}b $Ab", "alpha alphab "),
        ("'$A' \"$A\" \\$A", "$A alpha $A"),
        ("a\"b 'c' $A\"d", "ab 'c' alphad"),
        ("\"\\\" \\$ \\\\ \\n\"", "\" $ \\ \\n"),
        ("\\n\\ x\\", "n x"),
        ("$DOLLAR", "$A"),
        ("$ $. $1 $@x", "$ $.  x"),
        (
            "${A:-x} ${EMPTY:-x} ${EMPTY-x} ${NO:-x} ${NO-x}",
            "alpha x  x x",
        ),
        ("${A:+x} ${EMPTY:+x} ${EMPTY+x} ${NO:+x} ${NO+x}", "x  x  "),
        ("${NO:-${ALSO:-$A}}", "alpha"),
        ("${NO:-\"a } b\"}", "a } b"),
        ("${NO:-a\\}b}", "a}b"),
        ("${A?} ${A:?}", "alpha alpha"),
        (
            "${PATH#*/} ${PATH##*/} ${PATH%.*} ${PATH%%.*}",
            "usr/lib/libc.so.6 libc.so.6 /usr/lib/libc.so /usr/lib/libc",
        ),
        (
            "${PATH#/usr} ${PATH#usr} ${PATH%?}",
            "/lib/libc.so.6 /usr/lib/libc.so.6 /usr/lib/libc.so.",
        ),
        ("${GROSS#gr?} ${GROSS%%ß*}", "ße grö"),
        ("${LINES#*} ${LINES##*}", "one\ntwo \ntwo"),
        (
            "${PATH/lib/LIB} ${PATH//lib/LIB} ${PATH/\\/usr\\//~} ${PATH//l*c/}",
            "/usr/LIB/libc.so.6 /usr/LIB/LIBc.so.6 ~lib/libc.so.6 /usr/.so.6",
        ),
        ("${A//[/x}", "alpha"),
    ];
    for (text, wanted) in table {
        assert_eq!(word(text).as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn replacements_of_all_matches_are_templates() {
    // `$` of the operand is expanded by the lexer, so only an escaped one reaches the template.
    assert_eq!(word("${A//a/<\\$0>}").as_deref(), Ok("<\\a>lph<\\a>"));
    assert_eq!(word("${A//p/'$0$$'}").as_deref(), Ok("alp$ha"));
    assert_eq!(word("${A//p/'${0}${x}$'}").as_deref(), Ok("alp$ha"));
    assert_eq!(word("${A/p/'$0'}").as_deref(), Ok("al$0ha"));
    assert_eq!(word("${A///-}").as_deref(), Ok("-a-l-p-h-a-"));
}

#[test]
fn wrong_words_say_why() {
    let table = [
        (
            "'open",
            "unexpected end of statement while looking for matching single-quote",
        ),
        (
            "\"open",
            "unexpected end of statement while looking for matching double-quote",
        ),
        ("${", "syntax error: missing '}'"),
        ("${A:-x", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:x}", "syntax error: bad substitution"),
        ("${A^}", "unsupported modifier (^) in substitution"),
        ("${A:#x}", "unsupported modifier (:#) in substitution"),
        ("${A/x}", "syntax error: missing '/' in ${}"),
        ("${NO?}", "NO: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${NO:?say $A}", "NO: say alpha"),
        (
            "${A#\\x}",
            "invalid pattern (\\x) in substitution: invalid escape '\\x'",
        ),
    ];
    for (text, wanted) in table {
        assert_eq!(
            word(text),
            Err(format!(
                "failed to process {}: {wanted}",
                parser::quote(text)
            )),
            "{text}"
        );
    }
}

#[test]
fn names_are_reported_once_in_order() {
    let found = expand::word("$NO $A ${NO} ${X:-$Y} $A", '\\', &ENV, Options::default())
        .expect("a fine word");
    assert_eq!(found.matched, ["A"]);
    assert_eq!(found.unmatched, ["NO", "Y", "X"]);
    let error = expand::word("$NO ${X?}", '\\', &ENV, Options::default()).expect_err("X is unset");
    assert_eq!(error.unmatched, ["NO", "X"]);
}

#[test]
fn unquoted_blanks_split() {
    let table: [(&str, &[&str]); 7] = [
        ("a b\tc", &["a", "b", "c"]),
        ("a\\ b 'c d' \"e f\"", &["a b", "c d", "e f"]),
        ("x${SPACES}y", &["x", "two", "words", "y"]),
        ("x\"${SPACES}\"y", &["x two  words y"]),
        ("'' a", &["a"]),
        ("<<  EOF x", &["<<  EOF", "x"]),
        ("", &[]),
    ];
    for (text, wanted) in table {
        let found = expand::words(text, '\\', &ENV, Options::default());
        assert_eq!(
            found.as_deref(),
            Ok(wanted
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
                .as_slice()),
            "{text}"
        );
    }
}

#[test]
fn options_keep_what_they_name() {
    let raw = Options {
        raw_quotes: true,
        raw_escapes: true,
        skip_unset_env: true,
        ..Options::default()
    };
    let table = [
        ("'a' \"b\\\"$A\" \\c", raw, "'a' \"b\\\"alpha\" \\c"),
        (
            "$NO ${NO} ${NO:-x} ${NO/a/b} $A",
            raw,
            "$NO ${NO} ${NO:-x} ${NO/a/b} alpha",
        ),
        (
            "'$A' \"$A\"",
            Options {
                skip_process_quotes: true,
                ..Options::default()
            },
            "'alpha' \"alpha\"",
        ),
        (
            "\\$A",
            Options {
                skip_process_quotes: true,
                ..Options::default()
            },
            "$A",
        ),
    ];
    for (text, options, wanted) in table {
        let found = expand::word(text, '\\', &ENV, options).map(|found| found.text);
        assert_eq!(found.as_deref(), Ok(wanted), "{text}");
    }
    let backtick =
        expand::word("C:\\dir `$A $A", '`', &ENV, Options::default()).map(|found| found.text);
    assert_eq!(backtick.as_deref(), Ok("C:\\dir $A alpha"));
}

#[test]
fn deep_nesting_is_an_error() {
    let text = format!("{}x{}", "${NO:-".repeat(10_000), "}".repeat(10_000));
    assert!(word(&text).is_err());
    let text = format!("{}x{}", "${NO:-".repeat(50), "}".repeat(50));
    assert_eq!(word(&text).as_deref(), Ok("x"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expansion_never_panics(
        text in "([$'\"\\\\`{}:?+#%/*<A-F-]|NO|EMPTY|\\PC){0,40}",
        escape in prop_oneof![Just('\\'), Just('`')],
        bits in 0u8..16,
    ) {
        let options = Options {
            raw_quotes: bits & 1 != 0,
            raw_escapes: bits & 2 != 0,
            skip_unset_env: bits & 4 != 0,
            skip_process_quotes: bits & 8 != 0,
        };
        let one = expand::word(&text, escape, &ENV, options);
        let many = expand::words(&text, escape, &ENV, options);
        prop_assert_eq!(one.is_ok(), many.is_ok());
    }

    #[test]
    fn text_without_marks_stays(text in "[a-z0-9 ./:=,@_-]{0,40}") {
        let found = word(&text);
        prop_assert_eq!(found.as_deref(), Ok(text.as_str()));
    }
}

#[test]
fn substitutions_that_multiply_are_stopped() {
    let mut text = "$A".to_owned();
    for _ in 0..40 {
        text = format!("${{A//?/{text}}}");
    }
    let message = word(&text).unwrap_err();
    assert!(
        message.ends_with("the result is longer than 16777216 bytes"),
        "{}",
        &message[message.len() - 100..]
    );
}

#[test]
fn patterns_that_take_too_long_are_stopped() {
    let value: &str = Box::leak("a".repeat(100_000).into_boxed_str());
    let env: &'static [(&str, &str)] = Box::leak(Box::new([("V", value)]));
    let expanded = |text: &str| {
        expand::word(text, '\\', &Env(env), Options::default()).map(|found| found.text.len())
    };
    let message = expanded("${V//*b/x}").unwrap_err().message;
    assert!(
        message.ends_with("the pattern takes too long on a value of this length"),
        "{message}"
    );
    assert_eq!(expanded("${V//a/xx}"), Ok(200_000));
    assert_eq!(expanded("${V%a}"), Ok(99_999));
}
