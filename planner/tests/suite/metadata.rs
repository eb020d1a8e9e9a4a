//! What instructions leave in the config and in the variables, feature by feature. History texts are in `history`.

use crate::build::{PATH, build, options_of, plan_of};
use planner::config::{ContainerConfig, ImageConfig};
use planner::plan::{Op, RunOp};

fn image(text: &str) -> ImageConfig {
    plan_of(text).targets.remove(0).config
}

fn config(text: &str) -> ContainerConfig {
    image(text).config
}

/// The commands of a plan, in order.
fn runs(text: &str) -> Vec<RunOp> {
    let plan = plan_of(text);
    plan.steps
        .iter()
        .filter_map(|step| match &step.op {
            Op::Run(run) => Some(run.clone()),
            _ => None,
        })
        .collect()
}

fn value(run: &RunOp, name: &str) -> Option<String> {
    let pair = run.env.iter().find(|(known, _)| known == name);
    pair.map(|(_, value)| value.clone())
}

/// Values of some variables at the last command; `-` for one that is not set.
fn shown(text: &str, names: &[&str]) -> String {
    let run = runs(text).pop().expect("a RUN");
    let values = names
        .iter()
        .map(|name| value(&run, name).unwrap_or_else(|| "-".to_owned()));
    values.collect::<Vec<_>>().join(" ")
}

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|&word| word.to_owned()).collect())
}

fn error(text: &str) -> String {
    match build(text, &options_of(text)) {
        Err(errors) => errors[0].message.clone(),
        Ok(_) => panic!("{text}: no error"),
    }
}

fn history(text: &str) -> Vec<String> {
    let target = plan_of(text).targets.remove(0);
    let texts = target
        .history
        .into_iter()
        .filter_map(|entry| entry.created_by);
    texts.collect()
}

#[test]
fn x01_forms_of_commands() {
    for (text, args) in [
        ("RUN [\"a\", \"$B c\"]", &["a", "$B c"][..]),
        ("RUN a \"$B\" c", &["/bin/sh", "-c", "a \"$B\" c"]),
        ("RUN ['a', 'b']", &["/bin/sh", "-c", "['a', 'b']"]),
        ("RUN [\"a\", 1]", &["/bin/sh", "-c", "[\"a\", 1]"]),
        (
            "RUN [ \"a\" = \"b\" ]",
            &["/bin/sh", "-c", "[ \"a\" = \"b\" ]"],
        ),
        ("SHELL [\"zsh\", \"-e\"]\nRUN a", &["zsh", "-e", "a"]),
        ("SHELL [\"zsh\"]\nRUN [\"a\"]", &["a"]),
    ] {
        if text.contains("1]") {
            // All strings, or no list at all.
            assert!(error(&format!("FROM busybox\n{text}\n")).contains("strings only"));
            continue;
        }
        let run = runs(&format!("FROM busybox\n{text}\n")).remove(0);
        assert_eq!(run.args, args, "{text}");
    }
    let rich = runs("FROM rich\nRUN a\n").remove(0);
    assert_eq!(rich.args, ["/bin/bash", "-ec", "a"], "the base's shell");
}

#[test]
fn ce01_ce02_the_last_command_wins() {
    let last = config("FROM busybox\nCMD a\nENTRYPOINT b\nCMD [\"c\"]\nENTRYPOINT d\n");
    assert_eq!(last.cmd, words(&["c"]));
    assert_eq!(last.entrypoint, words(&["/bin/sh", "-c", "d"]));
}

#[test]
fn ce03_an_entry_point_clears_what_the_base_runs() {
    for (text, cmd) in [
        ("FROM busybox\nENTRYPOINT e\n", None),
        (
            "FROM busybox\nCMD a\nENTRYPOINT e\n",
            words(&["/bin/sh", "-c", "a"]),
        ),
        ("FROM busybox AS b\nCMD a\nFROM b\nENTRYPOINT e\n", None),
        ("FROM busybox\nENTRYPOINT []\n", None),
        ("FROM busybox\nLABEL a=b\n", words(&["sh"])),
    ] {
        assert_eq!(config(text).cmd, cmd, "{text}");
    }
}

#[test]
fn ce04_the_shell_stays() {
    let text = "FROM busybox AS b\nSHELL [\"zsh\", \"-c\"]\nFROM b\nCMD a\nENTRYPOINT e\nHEALTHCHECK CMD h\n";
    let config = config(text);
    assert_eq!(config.shell, words(&["zsh", "-c"]));
    assert_eq!(config.cmd, words(&["zsh", "-c", "a"]));
    assert_eq!(config.entrypoint, words(&["zsh", "-c", "e"]));
    assert_eq!(config.healthcheck.unwrap().test, ["CMD-SHELL", "h"]);
    assert!(error("FROM busybox\nSHELL zsh -c\n").contains("JSON form"));
}

#[test]
fn ce05_health_checks() {
    let check = |line: &str| {
        let config = config(&format!("FROM busybox\nHEALTHCHECK {line}\n"));
        config.healthcheck.unwrap()
    };
    assert_eq!(check("NONE").test, ["NONE"]);
    assert_eq!(check("CMD [\"a\", \"b c\"]").test, ["CMD", "a", "b c"]);
    assert_eq!(check("CMD a $B").test, ["CMD-SHELL", "a $B"]);
    let all = check(
        "--interval=1m30s --timeout=1ms --start-period=0s --start-interval=1h --retries=3 CMD a",
    );
    assert_eq!(
        (
            all.interval,
            all.timeout,
            all.start_period,
            all.start_interval,
            all.retries
        ),
        (90_000_000_000, 1_000_000, 0, 3_600_000_000_000, 3)
    );
    assert_eq!(check("CMD a\nHEALTHCHECK CMD b").test, ["CMD-SHELL", "b"]);
    for (line, says) in [
        ("--retries=-1 CMD a", "--retries cannot be negative (-1)"),
        ("--interval=500us CMD a", "cannot be less than 1ms"),
        ("NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("CMD", "Missing command after HEALTHCHECK CMD"),
        ("RUN a", "Unknown type \"RUN\" in HEALTHCHECK (try CMD)"),
    ] {
        let found = error(&format!("FROM busybox\nHEALTHCHECK {line}\n"));
        assert!(found.contains(says), "{line}: {found}");
    }
}

#[test]
fn ce06_stop_signals() {
    for (line, signal) in [
        ("STOPSIGNAL SIGTERM", "SIGTERM"),
        ("STOPSIGNAL 9", "9"),
        ("ARG S=SIGRTMIN+3\nSTOPSIGNAL $S", "SIGRTMIN+3"),
        ("STOPSIGNAL KILL", "KILL"),
    ] {
        let text = format!("FROM busybox\n{line}\n");
        assert_eq!(config(&text).stop_signal.as_deref(), Some(signal), "{line}");
    }
    assert!(!error("FROM busybox\nSTOPSIGNAL SIGNOPE\n").is_empty());
}

#[test]
fn fr01_fr05_bases() {
    for (base, reference) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox AS x", "docker.io/library/busybox:latest"),
    ] {
        let plan = plan_of(&format!("FROM {base}\n"));
        let Op::Image(image) = &plan.steps[0].op else {
            panic!("no image");
        };
        assert_eq!(image.reference, reference);
    }
    assert_eq!(plan_of("FROM scratch\nLABEL a=b\n").targets[0].rootfs, None);
}

#[test]
fn fr02_fr06_global_args() {
    let text = "ARG P=linux/arm64\nARG B=busy\nFROM --platform=$P ${B}box\nRUN x\n";
    let run = runs(text).remove(0);
    assert_eq!((value(&run, "B"), value(&run, "P")), (None, None));
    assert_eq!(image(text).architecture, "arm64");
    let text = "ARG G=global\nFROM busybox\nARG G\nARG H=$G\nRUN x\n";
    assert_eq!(shown(text, &["G", "H"]), "global global");
    let given = format!("# options: --build-arg G=flag\n{text}");
    assert_eq!(shown(&given, &["G", "H"]), "flag flag");
    assert!(error("FROM $NOPE\n").contains("should not be blank"));
}

#[test]
fn fr03_fr04_stage_names() {
    let text = "FROM busybox AS Build-1.x_y\nENV A=1\nFROM BUILD-1.X_Y\nRUN x\n";
    assert_eq!(shown(text, &["A"]), "1");
    assert!(error("FROM busybox AS 1a\n").contains("invalid name for build stage: \"1a\""));
}

#[test]
fn fr07_stages_start_anew_or_inherit() {
    let first = "FROM busybox AS a\nENV A=1\nARG G=2\nLABEL l=1\nUSER u\nWORKDIR /w\nEXPOSE 1\nVOLUME /v\nSTOPSIGNAL 3\n\
        MAINTAINER m\nCMD c\n";
    let fresh = image(&format!("{first}FROM busybox\nRUN x\n"));
    assert_eq!(fresh, image("FROM busybox\nRUN x\n"));
    let text = format!("{first}FROM a\nRUN x\n");
    let derived = image(&text);
    assert_eq!(derived, image(first));
    assert_eq!(shown(&text, &["A", "G"]), "1 2");
}

#[test]
fn fr08_unused_stages_make_no_step() {
    let plan = plan_of("FROM busybox AS unused\nRUN no\nFROM busybox\nRUN yes\n");
    assert_eq!(plan.steps.len(), 2);
}

#[test]
fn fr12_named_contexts_take_the_place_of_bases() {
    let text = "# options: --build-context busybox\nFROM busybox\n";
    assert_eq!(plan_of(text).steps.len(), 1);
    let text = "# options: --build-context dir\nFROM busybox\nCOPY --from=dir a /\n";
    assert!(
        plan_of(text)
            .steps
            .iter()
            .any(|step| matches!(step.op, Op::Copy(_)))
    );
}

#[test]
fn fr14_triggers_run_right_after_from() {
    let text = "FROM busybox AS side\nRUN mk\nFROM triggers\nRUN own\n";
    let texts = history(text);
    let at = |part: &str| texts.iter().position(|text| text.contains(part));
    assert!(at("echo triggered").unwrap() < at("/x /y").unwrap());
    assert!(at("/x /y").unwrap() < at("own").unwrap());
    assert_eq!(config(text).on_build, None);
}

#[test]
fn m02_labels_do_not_come_with_copied_files() {
    let text = "FROM busybox AS a\nLABEL from=a\nRUN x\nFROM busybox\nCOPY --from=a /x /\n";
    assert_eq!(config(text).labels, None);
}

#[test]
fn m03_env_forms() {
    for (line, env) in [
        (
            "ENV A=1 B=\"2 3\" C='$A' D=e\\ f",
            &["A=1", "B=2 3", "C=$A", "D=e f"][..],
        ),
        ("ENV A b  c", &["A=b  c"]),
        ("ENV A=1\nENV B=2\nENV A=3", &["A=3", "B=2"]),
        ("ENV A=1\nENV A=2 B=$A", &["A=2", "B=1"]),
        ("ENV E=", &["E="]),
    ] {
        let env: Vec<&str> = [&[PATH][..], env].concat();
        assert_eq!(
            config(&format!("FROM busybox\n{line}\n")).env,
            words(&env),
            "{line}"
        );
    }
    assert!(error("FROM busybox\nENV A\n").contains("must have two arguments"));
    assert!(error("FROM busybox\nENV =b\n").contains("names can not be blank"));
}

#[test]
fn m04_m05_args() {
    let lists = "FROM busybox\nARG A=1 B C=\"x y\"\nARG D=$A$C E=\nENV F=f\nARG H=$F\nRUN x\n";
    assert_eq!(
        shown(lists, &["A", "B", "C", "D", "E", "H"]),
        "1 - x y 1x y  f"
    );
    let scope = "FROM busybox AS a\nRUN before\nARG A=1\nFROM busybox\nRUN x\n";
    assert_eq!(shown(scope, &["A"]), "-");
    let inherited = "FROM busybox AS a\nARG A=1\nFROM a\nRUN x\n";
    assert_eq!(shown(inherited, &["A"]), "1");
    let line = runs("FROM busybox\nRUN one\nARG A=1\nRUN two\n");
    assert_eq!(value(&line[0], "A"), None);
    assert_eq!(value(&line[1], "A"), Some("1".to_owned()));
}

#[test]
fn m08_platform_args() {
    let names = [
        "TARGETPLATFORM",
        "TARGETARCH",
        "TARGETVARIANT",
        "BUILDPLATFORM",
        "TARGETSTAGE",
    ];
    let text = format!(
        "# options: --platform linux/arm/v7\nFROM busybox AS out\nARG {}\nRUN x\n",
        names.join(" ")
    );
    assert_eq!(shown(&text, &names), "linux/arm/v7 arm v7 linux/amd64 out");
    assert_eq!(
        shown("FROM busybox\nRUN x\n", &["TARGETARCH"]),
        "-",
        "not without ARG"
    );
}

#[test]
fn m10_commands_say_their_args() {
    let texts = history("FROM busybox\nARG A=1 B\nRUN x\nENV A=2\nRUN y\n");
    assert_eq!(texts[2], "RUN |2 A=1 B= /bin/sh -c x # buildkit");
    assert_eq!(texts[4], "RUN |2 A=2 B= /bin/sh -c y # buildkit");
}

#[test]
fn m12_volumes() {
    let volumes = |line: &str| {
        let config = config(&format!("FROM busybox\n{line}\n"));
        config.volumes.unwrap().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(volumes("VOLUME /a /b /a"), ["/a", "/b"]);
    assert_eq!(volumes("VOLUME [\"/a b\", \"/c\"]"), ["/a b", "/c"]);
    assert_eq!(volumes("ENV V=/v\nVOLUME $V/x"), ["/v/x"]);
    assert!(error("FROM busybox\nVOLUME [\"\"]\n").contains("can not be an empty string"));
}

#[test]
fn m16_maintainer_is_the_author() {
    let image = image("FROM busybox\nMAINTAINER Me <me@example.com>\n");
    assert_eq!(image.author.as_deref(), Some("Me <me@example.com>"));
}

#[test]
fn m17_and_fr13_what_the_config_says_of_the_platform() {
    let image = image("# options: --platform linux/arm/v6\nFROM busybox\nLABEL a=b\n");
    assert_eq!(
        (
            image.os.as_str(),
            image.architecture.as_str(),
            image.variant.as_deref()
        ),
        ("linux", "arm", Some("v6"))
    );
    assert_eq!(image.os_version, None);
    let kept = |text: &str| {
        let image = self::image(text);
        (image.os_version, image.os_features.is_some())
    };
    assert_eq!(
        kept("FROM versioned\nLABEL a=b\n"),
        (Some("10.0".to_owned()), true)
    );
    let copied = "FROM versioned AS v\nFROM busybox\nCOPY --from=v /a /\n";
    assert_eq!(kept(copied), (None, false));
    let entries = plan_of("FROM busybox\nLABEL a=b\nRUN x\n")
        .targets
        .remove(0)
        .history;
    let empty: Vec<bool> = entries.iter().map(|entry| entry.empty_layer).collect();
    assert_eq!(empty, [false, true, false]);
}

#[test]
fn m11_ports_that_expand_to_nothing_leave_no_list() {
    assert_eq!(config("FROM scratch\nEXPOSE $none\n").exposed_ports, None);
    let ports = config("FROM scratch\nEXPOSE 80 $none\n").exposed_ports;
    assert_eq!(
        ports.expect("a list").into_keys().collect::<Vec<_>>(),
        ["80/tcp"]
    );
}
