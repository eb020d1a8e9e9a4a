//! Outlines and lists of targets.

use crate::build::{options_of, resolve};
use planner::lower::{Outlined, outline};
use planner::outline::{Outline, targets};
use std::collections::BTreeMap;

fn outlined(text: &str) -> Outline {
    let dockerfile = parser::parse(text).dockerfile;
    let mut bases = BTreeMap::new();
    loop {
        match outline(&dockerfile, &options_of(text), &bases).unwrap() {
            Outlined::Need(requests) => {
                let answers = requests.into_iter().map(|request| {
                    let answer = resolve(&request);
                    (request, answer)
                });
                bases.extend(answers.collect::<Vec<_>>());
            }
            Outlined::Outline(outline) => return outline,
        }
    }
}

/// `LINE NAME=VALUE description`
fn args(text: &str) -> Vec<String> {
    let shown = outlined(text).args.into_iter().map(|arg| {
        format!(
            "{} {}={} {}",
            arg.lines.start,
            arg.name,
            arg.value.as_deref().unwrap_or("-"),
            arg.description
        )
        .trim_end()
        .to_owned()
    });
    shown.collect()
}

const STAGES: &str = "ARG one=1
# two second
ARG two=${one}2 three=$two
ARG four
ARG base=scratch
FROM $base AS first
ARG x=1
ARG three
RUN --mount=type=secret,id=a --mount=type=secret,target=/x/b,required --mount=type=secret,id=c,env=C --mount=type=ssh,id=k,required=true true

# second the second one
FROM first AS second
# x over
ARG x=2 y=$x
RUN --mount=type=secret,id=a,required --mount=type=ssh true

FROM scratch
# not mine
ARG z=9
COPY --from=second / /
ARG y TARGETOS
";

#[test]
fn arguments_of_all_stages_that_are_needed() {
    assert_eq!(
        args(STAGES),
        [
            "1 one=1",
            "3 two=12 second",
            "3 three=12",
            "5 base=scratch",
            "14 x=2 over",
            "19 z=9",
            "21 y=-",
        ]
    );
    assert_eq!(
        args(&format!(
            "{STAGES}# options: --target second --build-arg x=ARG --build-arg two=2222\n"
        )),
        [
            "3 two=2222 second",
            "3 three=2222",
            "5 base=scratch",
            "14 x=ARG over",
            "14 y=ARG",
        ]
    );
}

#[test]
fn an_argument_made_from_itself_comes_from_what_it_was() {
    let text = "ARG FOO=123\nARG ABC=abc\nARG DEF=def\nARG FOO=${FOO}${ABC}\nARG BAR=${FOO}456\n\
        ARG FOO=${FOO}456${BAR}\nFROM scratch\nARG FOO\nARG INFOO=123\nARG INBAR=${INFOO}456\n\
        ARG INFOO=${INFOO}456${INBAR}\n";
    assert_eq!(
        args(text),
        [
            "2 ABC=abc",
            "5 BAR=123abc456",
            "6 FOO=123abc456123abc456",
            "10 INBAR=123456",
            "11 INFOO=123456123456",
        ]
    );
}

#[test]
fn secrets_and_agents() {
    let outline = outlined(STAGES);
    assert_eq!(
        (outline.name.as_str(), outline.description.as_str()),
        ("", "")
    );
    let shown = |needs: &[planner::outline::Need]| -> Vec<String> {
        needs
            .iter()
            .map(|need| format!("{} {} {}", need.lines.start, need.name, need.required))
            .collect()
    };
    assert_eq!(
        shown(&outline.secrets),
        ["9 b true", "9 c false", "15 a true"]
    );
    assert_eq!(shown(&outline.ssh), ["9 k true", "15 default false"]);
    let second = outlined(&format!("{STAGES}# options: --target second\n"));
    assert_eq!(second.name, "second");
    assert_eq!(second.description, "the second one");
}

#[test]
fn every_stage_is_a_target() {
    let text = "ARG p\n# main the first\n# one\nFROM --platform=$p base:$v AS Main\nFROM scratch\n";
    let found = targets(&parser::parse(text).dockerfile);
    let shown: Vec<String> = found
        .iter()
        .map(|target| {
            format!(
                "{:?} {} {:?} {:?} {:?} {}",
                target.name,
                target.default,
                target.description,
                target.base,
                target.platform,
                target.lines.start
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "\"main\" false \"the first\" \"base:$v\" \"$p\" 4",
            "\"\" true \"\" \"scratch\" \"\" 5",
        ]
    );
}
