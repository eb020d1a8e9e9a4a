//! Whatever a Dockerfile holds, lowering gives a sound plan or findings, and never panics.

use crate::build::{build, check, options_of};
use proptest::prelude::*;

/// Instructions whose parts refer to stages, arguments and files that may or may not be there.
fn instruction() -> impl Strategy<Value = String> {
    let stage = prop_oneof![
        Just("a"),
        Just("b"),
        Just("C"),
        Just("0"),
        Just("1"),
        Just("7"),
        Just("alpine"),
        Just("dir"),
        Just("scratch")
    ];
    let word = prop_oneof![
        Just("x".to_owned()),
        Just("$A".to_owned()),
        Just("${A:-d}".to_owned()),
        Just("${B:?gone}".to_owned()),
        Just("\"q $A\"".to_owned()),
        Just("/".to_owned()),
        Just("../..".to_owned()),
        "[ -~]{0,12}",
    ];
    prop_oneof![
        3 => (stage.clone(), word.clone()).prop_map(|(from, w)| format!("COPY --from={from} {w} /d/")),
        3 => (stage.clone(), word.clone()).prop_map(|(from, w)| format!("RUN --mount=type=bind,from={from},target=/m,source={w} x")),
        2 => (stage.clone(), "[a-c]").prop_map(|(base, name)| format!("FROM {base} AS {name}")),
        2 => (stage, "[a-c]").prop_map(|(base, name)| format!("FROM --platform=$BUILDPLATFORM {base} AS {name}")),
        1 => Just("FROM triggers".to_owned()),
        2 => word.clone().prop_map(|w| format!("RUN {w}")),
        2 => word.clone().prop_map(|w| format!("COPY {w} {w}")),
        2 => word.clone().prop_map(|w| format!("RUN --mount=type=cache,target={w} --mount=type=secret,id={w} x")),
        2 => word.clone().prop_map(|w| format!("ENV A={w} B=1")),
        2 => word.clone().prop_map(|w| format!("ARG A={w} C")),
        1 => word.clone().prop_map(|w| format!("WORKDIR {w}")),
        1 => word.clone().prop_map(|w| format!("ONBUILD RUN {w}")),
        1 => word.clone().prop_map(|w| format!("ONBUILD COPY --from=a {w} /x")),
        1 => word.clone().prop_map(|w| format!("EXPOSE {w}\nVOLUME {w}\nUSER {w}")),
        1 => word.prop_map(|w| format!("RUN <<EOF\n{w}\nEOF\nCOPY <<EOF {w}\n{w}\nEOF")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn lowering_never_panics(first in instruction(), lines in prop::collection::vec(instruction(), 0..12)) {
        let contexts = "--build-context dir --build-context b";
        let text = format!("# options: --platform linux/amd64,linux/arm64 {contexts}\nFROM busybox AS a\n{first}\n{}\n", lines.join("\n"));
        match build(&text, &options_of(&text)) {
            Ok((plan, _)) => check(&plan),
            Err(findings) => prop_assert!(!findings.is_empty()),
        }
    }
}
