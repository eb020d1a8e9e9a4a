//! What SOURCE_DATE_EPOCH stands for.

use crate::build::options;
use planner::lower::{EpochSource, LowerOptions, epoch_source};

fn source(text: &str, args: &[(&str, &str)], contexts: &[&str]) -> Result<EpochSource, String> {
    let options = LowerOptions {
        build_args: args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        named_contexts: contexts.iter().map(|name| (*name).to_owned()).collect(),
        ..options()
    };
    let parsed = parser::parse(text);
    epoch_source(&parsed.dockerfile, &options).map_err(|errors| {
        let lines = errors[0].lines.map_or(0, |lines| lines.start);
        format!("{lines}: {}", errors[0].message)
    })
}

#[test]
fn a04_values_and_names() {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let named = EpochSource::Named("src".to_owned());
    type Args = &'static [(&'static str, &'static str)];
    let cases: [(&str, Args, EpochSource); 10] = [
        ("FROM scratch\n", &[], EpochSource::Unset),
        ("FROM scratch\n", &[(NAME, "12")], EpochSource::Seconds(12)),
        ("FROM scratch\n", &[(NAME, "")], EpochSource::Unset),
        ("FROM scratch\n", &[(NAME, "context")], EpochSource::Context),
        ("FROM scratch\n", &[(NAME, "src")], named.clone()),
        // An ARG in a stage is the stage's own affair.
        (
            "FROM scratch\nARG SOURCE_DATE_EPOCH=5\n",
            &[],
            EpochSource::Unset,
        ),
        (
            "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n",
            &[],
            EpochSource::Seconds(5),
        ),
        (
            "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n",
            &[(NAME, "7")],
            EpochSource::Seconds(7),
        ),
        (
            "ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n",
            &[(NAME, "")],
            EpochSource::Unset,
        ),
        ("ARG SOURCE_DATE_EPOCH=src\nFROM scratch\n", &[], named),
    ];
    for (text, args, expected) in cases {
        assert_eq!(
            source(text, args, &["src"]),
            Ok(expected),
            "{text} {args:?}"
        );
    }
}

#[test]
fn a04_a_stage_with_one_remote_add() {
    let text = "ARG SOURCE_DATE_EPOCH=Src\nARG HOST=example.com\nFROM scratch AS src\nARG V=1\n\
        ADD --checksum=sha256:$V https://${HOST}/src-$V.tar /\nFROM scratch\n";
    let EpochSource::Remote(remote) = source(text, &[("V", "2")], &[]).unwrap() else {
        panic!("no remote source");
    };
    assert_eq!(remote.stage, "src");
    assert_eq!(remote.source, "https://example.com/src-2.tar");
    assert_eq!(remote.checksum.as_deref(), Some("sha256:2"));
    assert_eq!(remote.lines.start, 5);
}

#[test]
fn a04_refusals() {
    let stage = |body: &str| format!("ARG SOURCE_DATE_EPOCH=src\n{body}\nFROM scratch\n");
    let cases = [
        (
            stage("FROM busybox AS src\nADD http://a/b /"),
            "2: SOURCE_DATE_EPOCH stage must use FROM scratch",
        ),
        (
            stage("FROM scratch AS src"),
            "2: SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
        ),
        (
            stage("FROM scratch AS src\nADD http://a/b /\nADD http://a/c /"),
            "4: SOURCE_DATE_EPOCH stage must contain exactly one remote ADD",
        ),
        (
            stage("FROM scratch AS src\nADD http://a/b http://a/c /"),
            "3: SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source",
        ),
        (
            stage("FROM scratch AS src\nADD file /"),
            "3: SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD",
        ),
        (
            stage("FROM scratch AS src\nCOPY Dockerfile /Dockerfile"),
            "3: SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported COPY instruction",
        ),
        (stage(""), "1: invalid SOURCE_DATE_EPOCH: src"),
        (
            "ARG SOURCE_DATE_EPOCH=-4\nFROM scratch\n".to_owned(),
            "1: invalid SOURCE_DATE_EPOCH: -4: the time is before 1970-01-01",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(source(&text, &[], &[]), Err(expected.to_owned()), "{text}");
    }
    assert_eq!(
        source("FROM scratch\n", &[("SOURCE_DATE_EPOCH", "x")], &[]),
        Err("0: invalid SOURCE_DATE_EPOCH: x".to_owned())
    );
}
