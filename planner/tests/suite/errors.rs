//! What stops a build before anything runs: message and line.

use crate::build::{build, options_of};
use parser::{Diagnostic, Severity};
use planner::lower::{BaseRequest, Lowered, lower, wanted_by};
use std::collections::BTreeMap;

fn errors(text: &str) -> Vec<Diagnostic> {
    match build(text, &options_of(text)) {
        Ok((plan, _)) => panic!("{text}\nis built: {plan:?}"),
        Err(errors) => errors
            .into_iter()
            .filter(|found| found.severity == Severity::Error)
            .collect(),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn errors_name_what_is_wrong_and_where() {
    let from_variable = "variable expansion is not supported for --from, define a new stage with FROM using ARG from \
                         global scope as a workaround";
    let cases: [(&str, &str, Option<u32>); 27] = [
        (
            "# options: --target biuld\nFROM scratch AS build",
            "target stage \"biuld\" could not be found (did you mean build?)",
            None,
        ),
        (
            "# options: --target 7\nFROM scratch",
            "target stage \"7\" could not be found",
            None,
        ),
        (
            "FROM $NOTHING",
            "base name ($NOTHING) should not be blank",
            Some(1),
        ),
        (
            "ARG VERSION\nFROM ${VERSIO}",
            "base name (${VERSIO}) should not be blank",
            Some(2),
        ),
        (
            "ARG IMAGE=x\nFROM ${IMAG}",
            "base name (${IMAG}) should not be blank (did you mean IMAGE?)",
            Some(2),
        ),
        (
            "FROM --platform=$NONE busybox",
            "empty platform value from expression $NONE",
            Some(1),
        ),
        (
            "FROM --platform=$TARGETPLATFOM busybox",
            "empty platform value from expression $TARGETPLATFOM (did you mean TARGETPLATFORM?)",
            Some(1),
        ),
        (
            "FROM --platform=linux/amd64/v1/x busybox",
            "failed to parse platform linux/amd64/v1/x: \"linux/amd64/v1/x\": cannot parse platform specifier: invalid argument",
            Some(1),
        ),
        (
            "FROM busybox AS a\nCOPY --from=a x y",
            "circular dependency detected on stage: a",
            Some(2),
        ),
        (
            "FROM busybox AS a\nCOPY --from=b x y\nFROM busybox AS b\nRUN --mount=from=a,target=/a x",
            "circular dependency detected on stage: a",
            Some(4),
        ),
        (
            "FROM busybox AS a\nCOPY --from=b x y\nFROM busybox AS b\nFROM a",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
            Some(2),
        ),
        (
            "FROM busybox AS a\nRUN --mount=from=b,target=/b x\nFROM busybox AS b\nFROM a",
            "cannot mount from stage \"b\" to \"RUN --mount=from=b,target=/b x\", stage needs to be defined before current command",
            Some(2),
        ),
        (
            "FROM scratch\nCOPY --from=3 x y",
            "invalid stage index 3",
            Some(2),
        ),
        (
            "ARG s=0\nFROM scratch\nCOPY --from=$s x y",
            from_variable,
            Some(3),
        ),
        (
            "FROM scratch\nEXPOSE 80/icmp",
            "invalid port: \"80/icmp\": invalid proto: icmp",
            Some(2),
        ),
        (
            "FROM scratch\nSTOPSIGNAL SIGNOPE",
            "invalid signal: SIGNOPE",
            Some(2),
        ),
        (
            "FROM scratch\nARG e\nVOLUME $e",
            "VOLUME specified can not be an empty string",
            Some(3),
        ),
        (
            "FROM scratch\nCOPY --chmod=888 a b",
            "invalid chmod parameter: '888'. it should be octal string and between 0 and 07777",
            Some(2),
        ),
        (
            "FROM scratch\nCOPY http://example.com/x /",
            "source can't be a URL for COPY",
            Some(2),
        ),
        (
            "FROM scratch\nCOPY git://example.com/x /",
            "source can't be a git ref for COPY",
            Some(2),
        ),
        (
            "FROM scratch\nADD --checksum=sha256:00 a b",
            "checksum requires HTTP(S) or Git sources",
            Some(2),
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/ x",
            "invalid mount target \"/\"",
            Some(2),
        ),
        (
            "ARG SHARING=shred\nFROM scratch\nARG SHARING\nRUN --mount=type=cache,target=/c,sharing=$SHARING x",
            "unsupported sharing value \"shred\"",
            Some(4),
        ),
        (
            "FROM scratch\nARG FOO\nARG BAR=${FOO:?\"foo missing\"}",
            "FOO: foo missing",
            Some(3),
        ),
        ("ARG FOO=${BAR:?nope}\nFROM scratch", "BAR: nope", Some(1)),
        (
            "FROM scratch\nENV A=${B-x",
            "syntax error: missing '}'",
            Some(2),
        ),
        ("ARG x=1", "dockerfile contains no stages to build", None),
    ];
    for (text, message, line) in cases {
        let found = errors(text);
        assert_eq!(found.len(), 1, "{text}\n{found:?}");
        let said = match &found[0].help {
            Some(help) => format!("{} ({help})", found[0].message),
            None => found[0].message.clone(),
        };
        assert!(said.contains(message), "{text}\n{said}");
        assert_eq!(found[0].lines.map(|lines| lines.start), line, "{text}");
    }
}

#[test]
fn all_errors_are_found_at_once() {
    let found = errors(
        "FROM scratch\nEXPOSE x\nSTOPSIGNAL y\nFROM scratch\nCOPY --from=0 a b\nVOLUME ${z:?no}\n",
    );
    assert_eq!(found.len(), 3, "{found:?}");
    let once =
        errors("# options: --platform linux/amd64,linux/arm64\nFROM scratch\nSTOPSIGNAL y\n");
    assert_eq!(once.len(), 1, "platforms share their findings: {once:?}");
}

/// Everything that parser and planner say of a file before any base is known: lines and the start of each message.
fn checked(text: &str) -> Vec<(u32, String)> {
    let parsed = parser::parse(text);
    let broken = parsed
        .diagnostics
        .iter()
        .any(|found| found.severity == Severity::Error);
    let mut found = if broken {
        planner::lower::check(&parsed, &options_of(text))
    } else {
        match lower(&parsed.dockerfile, &options_of(text), &BTreeMap::new()) {
            Ok(_) => Vec::new(),
            Err(found) => found,
        }
    };
    found.retain(|found| found.severity == Severity::Error);
    for error in &found {
        assert!(error.help.is_some(), "no hint: {error:?}");
    }
    let line = |error: &Diagnostic| error.lines.map_or(0, |lines| lines.start);
    found
        .iter()
        .map(|error| (line(error), error.message.clone()))
        .collect()
}

#[track_caller]
fn says(text: &str, expected: &[(u32, &str)]) {
    let found = checked(text);
    let fits = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|((line, message), (at, part))| line == at && message.contains(part));
    assert!(fits, "{text}\n{found:#?}");
}

#[test]
fn parser_and_planner_report_together() {
    says(
        "ARG A=${B\nFROM $A AS build\nRUM make\nCOPY --form=x a b\nRUN --mount=type=cahe,target=/c true\n\
         EXPOSE 80/icmp\nENV C='x\nVOLUME $C\nCOPY --from=9 a b\n",
        &[
            (1, "unsupported modifier"),
            (3, "unknown instruction: RUM"),
            (4, "unknown flag: --form"),
            (5, "unsupported mount type"),
            (6, "invalid proto: icmp"),
            (7, "looking for matching single-quote"),
            (9, "invalid stage index 9"),
        ],
    );
    says(
        "FROM busybox AS build\nCOPY --form=x a b\nRUN --mount=type=cahe,target=/c true\nEXPOSE 80/icmp\n\
         ENV C='x\nVOLUME $C\nSTOPSIGNAL SIGNOPE\nCOPY --from=9 a b\nFROM build\nUSER ${U-\n",
        &[
            (2, "unknown flag: --form"),
            (3, "unsupported mount type \"cahe\""),
            (4, "invalid proto: icmp"),
            (5, "looking for matching single-quote"),
            (7, "invalid signal: SIGNOPE"),
            (8, "invalid stage index 9"),
            (10, "missing '}'"),
        ],
    );
}

#[test]
fn nothing_is_said_that_follows_from_another_error() {
    // The name of the stage is lost with its FROM.
    says(
        "# options: --target second\nFROM busybox AS first\nFORM busybox AS second\nCOPY --from=first a b\nCOPY --from=1 a b\n",
        &[(3, "unknown instruction: FORM")],
    );
    says(
        "FROM a b\nENV X=${Y:?needed}\n",
        &[(1, "either one or three arguments")],
    );
    // So is what a wrong line would have set.
    says(
        "FROM scratch\nENV A 'x\nVOLUME $A\nENV B=$A\nVOLUME $B\nFROM scratch\nVOLUME $Z",
        &[(7, "VOLUME specified can not be an empty string")],
    );
    says(
        "ARG A=${B:?b}\nARG C=${A:?a}\nFROM $C\nARG C\nENV D=${C:?c}",
        &[(1, "B: b")],
    );
    says("RUM x\n", &[(1, "unknown instruction: RUM")]);
    says(
        "FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nCOPY --from=a x y\nFROM b\n",
        &[(4, "circular dependency detected on stage: a")],
    );
}

#[test]
fn errors_do_not_wait_for_bases_and_do_not_guess_what_they_set() {
    says(
        "FROM busybox\nRUN --mount=type=cache,target=/ x\nSTOPSIGNAL nope",
        &[(2, "invalid mount target"), (3, "invalid signal")],
    );
    says(
        "FROM busybox\nVOLUME $DATA\nENV A=$B\nSTOPSIGNAL $A\nUSER ${U:?}\nWORKDIR $W\nEXPOSE $P\n\
         RUN --mount=type=cache,target=. x\nRUN --mount=type=$T,target=/x x\n",
        &[],
    );
    says("FROM scratch\nVOLUME $DATA", &[(2, "VOLUME specified")]);
}

#[test]
fn errors_point_at_the_word() {
    let text = "FROM scratch\nENV A=1 \\\n    B=\"${C:?no}\"\nCOPY a \"b\n";
    let found = errors(text);
    let slices: Vec<&str> = found
        .iter()
        .map(|error| &text[error.span.unwrap().start as usize..error.span.unwrap().end as usize])
        .collect();
    assert_eq!(slices, ["\"${C:?no}\"", "\"b"], "{found:?}");
    assert_eq!(found[0].lines.unwrap().start, 2);
    assert_eq!(found[0].lines.unwrap().end, 3);
}

#[test]
fn an_unknown_target_names_the_stages() {
    let help = |text: &str| errors(text)[0].help.clone().unwrap_or_default();
    assert_eq!(
        help("# options: --target biuld\nFROM scratch AS build\nFROM scratch AS test"),
        "did you mean build? The stages are build, test"
    );
    assert_eq!(
        help("# options: --target x\nFROM scratch AS build\nFROM scratch"),
        "the stages are build"
    );
    assert_eq!(
        help("# options: --target x\nFROM scratch"),
        "no stage of the Dockerfile has a name"
    );
}

#[test]
fn unused_build_args_are_named_with_what_was_meant() {
    let text = "# options: --build-arg VERSOIN=1 --build-arg OTHER=2\nARG VERSION\nFROM scratch";
    let (_, warnings) = build(text, &options_of(text)).unwrap();
    assert_eq!(
        warnings[0].message,
        "One or more build-args [OTHER VERSOIN] were not consumed"
    );
    assert_eq!(warnings[0].help.as_deref(), Some("did you mean VERSION?"));
}

#[test]
fn errors_in_stages_that_are_not_built_do_not_matter() {
    let text = "FROM scratch AS broken\nSTOPSIGNAL nope\nFROM scratch\n";
    assert!(build(text, &options_of(text)).is_ok());
}

#[test]
fn a_bad_trigger_is_reported_at_the_from() {
    let parsed = parser::parse("FROM scratch\nFROM bad\n");
    let options = options_of("");
    let request = BaseRequest {
        name: "bad".to_owned(),
        platform: crate::common::amd64(),
    };
    let mut base = crate::build::resolve(&request);
    if let planner::lower::ResolvedBase::Image(image) = &mut base {
        image.config.config.on_build = Some(vec!["RNU x".to_owned()]);
    }
    let found = lower(
        &parsed.dockerfile,
        &options,
        &BTreeMap::from([(request, base)]),
    )
    .unwrap_err();
    assert!(found[0].message.contains("RNU"), "{found:?}");
    let help = found[0].help.as_deref().unwrap();
    assert_eq!(
        help,
        "did you mean RUN?; the base image has the trigger ONBUILD RNU x"
    );
    assert_eq!(found[0].lines.map(|lines| lines.start), Some(2));
}

#[test]
fn who_wants_a_base_is_known() {
    let parsed =
        parser::parse("FROM busybox AS builder\nFROM scratch\nCOPY --from=bulider /x /x\n");
    let options = options_of("");
    let bases = BTreeMap::new();
    let Ok(Lowered::Need(needed)) = lower(&parsed.dockerfile, &options, &bases) else {
        panic!("bases are needed")
    };
    let [request] = needed.as_slice() else {
        panic!("only what the target needs: {needed:?}")
    };
    let by = wanted_by(&parsed.dockerfile, &options, &bases, request).unwrap();
    assert_eq!(by.lines.start, 3);
    assert_eq!(by.suggestion.as_deref(), Some("builder"));
}

#[test]
fn bases_are_asked_for_once_and_only_when_needed() {
    let text = "FROM a AS unused\nFROM b AS used\nFROM scratch\nCOPY --from=used / /\nCOPY --from=c / /\nCOPY --from=c /x /\nRUN --mount=from=d,target=/d x\n";
    let parsed = parser::parse(text);
    let Ok(Lowered::Need(needed)) = lower(&parsed.dockerfile, &options_of(""), &BTreeMap::new())
    else {
        panic!("bases are needed")
    };
    let names: Vec<&str> = needed.iter().map(|request| request.name.as_str()).collect();
    assert_eq!(names, ["b", "c", "d"]);
}
