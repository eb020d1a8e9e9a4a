//! Targets, names of steps, and which steps there are.

use crate::build::{build, check, options_of, plan_of};
use planner::plan::{Op, Plan};

fn names(plan: &Plan) -> Vec<&str> {
    plan.steps
        .iter()
        .map(|step| step.origin.name.as_str())
        .collect()
}

#[test]
fn a_target_is_found_by_name_or_number() {
    let text = "FROM busybox AS One\nRUN 1\nFROM busybox\nRUN 2\nFROM busybox AS three\nRUN 3\n";
    for (target, command) in [
        ("", "3"),
        ("one", "1"),
        ("ONE", "1"),
        ("0", "1"),
        ("1", "2"),
        ("Three", "3"),
    ] {
        let options = if target.is_empty() {
            String::new()
        } else {
            format!("# options: --target {target}\n")
        };
        let plan = plan_of(&format!("{options}{text}"));
        let runs: Vec<&str> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.op {
                Op::Run(run) => Some(run.args[2].as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(runs, [command], "{target:?}: nothing else is needed");
    }
}

#[test]
fn a_lone_stage_is_not_named() {
    let image = "FROM docker.io/library/busybox:latest@sha256:amd64-busybox";
    let plan =
        plan_of("FROM busybox AS one\nENV A=1\nRUN make $A $B \"x\"\nworkdir /w\nCOPY a \"$A\"\n");
    let from = format!("[1/4] {image}");
    assert_eq!(
        names(&plan),
        [
            from.as_str(),
            "[2/4] RUN make 1 $B \"x\"",
            "[3/4] WORKDIR /w",
            "[4/4] COPY a 1"
        ]
    );
    let scratch = plan_of("FROM scratch\nCOPY a b\nCOPY c d\n");
    assert_eq!(names(&scratch), ["[1/2] COPY a b", "[2/2] COPY c d"]);
}

#[test]
fn stages_are_named_when_there_is_more_than_one_source() {
    let plan = plan_of(
        "FROM busybox AS build\nRUN a\nFROM build\nRUN b\nFROM scratch\nCOPY --from=1 a b\nCOPY --from=build c d\n",
    );
    let image = "[build 1/2] FROM docker.io/library/busybox:latest@sha256:amd64-busybox";
    let expected = [
        image,
        "[build 2/2] RUN a",
        "[stage-1 1/1] RUN b",
        "[stage-2 1/2] COPY --from=1 a b",
        "[stage-2 2/2] COPY --from=build c d",
    ];
    assert_eq!(names(&plan), expected);
    let from_image = plan_of("FROM scratch\nCOPY --from=alpine a b\n");
    assert_eq!(
        names(&from_image),
        [
            "FROM docker.io/library/alpine:latest@sha256:amd64-alpine",
            "[stage-0 1/1] COPY --from=alpine a b"
        ]
    );
    let mounting = plan_of("FROM scratch\nRUN --mount=type=cache,target=/c x\n");
    assert_eq!(
        names(&mounting),
        ["[stage-0 1/1] RUN --mount=type=cache,target=/c x"]
    );
}

#[test]
fn numbers_are_as_wide_as_the_last_one() {
    let plan = plan_of(&format!("FROM busybox\n{}", "RUN x\nRUN y\n".repeat(5)));
    assert!(plan.steps[0].origin.name.starts_with("[ 1/11] FROM "));
    assert_eq!(plan.steps[8].origin.name, "[ 9/11] RUN y");
    assert_eq!(plan.steps[10].origin.name, "[11/11] RUN y");
}

#[test]
fn platforms_are_named_when_there_are_several() {
    let text = "# options: --platform linux/amd64,linux/arm64\nFROM --platform=$BUILDPLATFORM busybox\nARG TARGETARCH\nRUN x\n";
    let plan = plan_of(text);
    let runs: Vec<&str> = names(&plan)
        .into_iter()
        .filter(|name| name.contains("RUN"))
        .collect();
    assert_eq!(
        runs,
        ["[linux/amd64 2/2] RUN x", "[linux/amd64->arm64 2/2] RUN x"]
    );
}

#[test]
fn equal_steps_are_one_and_unequal_ones_are_not() {
    let count = |text: &str| {
        let plan = plan_of(text);
        check(&plan);
        plan.steps.len()
    };
    let both = |a: &str, b: &str| {
        format!(
            "FROM busybox AS a\n{a}\nFROM busybox AS b\n{b}\nFROM scratch\nCOPY --from=a / /a\nCOPY --from=b / /b\n"
        )
    };
    assert_eq!(count(&both("RUN x", "RUN x")), 4);
    assert_eq!(count(&both("RUN x", "RUN y")), 5);
    assert_eq!(count(&both("RUN x", "ENV A=1\nRUN x")), 5);
    assert_eq!(
        count(&both("COPY x y\nRUN z", "ENV A=1\nCOPY x y\nRUN z")),
        6
    );
    assert_eq!(
        count("FROM busybox\nRUN x\nRUN x\n"),
        3,
        "each on the other's result"
    );
    let two = |line: &str| {
        format!("# options: --platform linux/amd64,linux/arm64\nFROM scratch\n{line}\n")
    };
    assert_eq!(
        count(&two("COPY a b")),
        1,
        "a copy is the same for all platforms"
    );
    assert_eq!(count(&two("RUN a")), 2, "a command is not");
}

#[test]
fn secrets_in_variables_are_masked_in_names() {
    let plan = plan_of("FROM busybox\nENV T=x\nRUN --mount=type=secret,id=t,env=T echo $T\n");
    assert!(
        plan.steps[1].origin.name.ends_with("echo ****"),
        "{}",
        plan.steps[1].origin.name
    );
}

#[test]
fn unused_build_args_are_named_in_one_warning() {
    let warn = |text: &str| {
        build(text, &options_of(text))
            .unwrap()
            .1
            .into_iter()
            .map(|found| found.message)
            .collect::<Vec<_>>()
    };
    let args = "# options: --build-arg B=1 --build-arg A=1 --build-arg http_proxy=x --build-arg SOURCE_DATE_EPOCH=0 --build-arg TARGETOS=x\n";
    assert_eq!(
        warn(&format!("{args}FROM scratch")),
        ["One or more build-args [A B] were not consumed"]
    );
    assert_eq!(
        warn(&format!("{args}ARG A\nFROM scratch\nARG B")),
        Vec::<String>::new()
    );
    assert_eq!(
        warn(&format!(
            "{args}FROM scratch AS other\nARG A B\nFROM scratch"
        )),
        Vec::<String>::new()
    );
}

#[test]
fn fr09_a_base_of_another_platform_is_warned_of() {
    let text = "FROM scratch\nFROM odd\n";
    let parsed = parser::parse(text);
    let options = options_of(text);
    let request = planner::lower::BaseRequest {
        name: "odd".to_owned(),
        platform: crate::common::amd64(),
    };
    let mut base = crate::build::resolve(&request);
    if let planner::lower::ResolvedBase::Image(image) = &mut base {
        image.config.architecture = "arm64".to_owned();
    }
    let lowered =
        planner::lower::lower(&parsed.dockerfile, &options, &[(request, base)].into()).unwrap();
    let planner::lower::Lowered::Plan(plan, warnings) = lowered else {
        panic!("all is known")
    };
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].code, Some("InvalidBaseImagePlatform"));
    assert_eq!(
        warnings[0].message,
        "Base image odd was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
    );
    assert_eq!(
        plan.targets[0].config.architecture, "arm64",
        "not asked for a platform: the base's stays"
    );
}
