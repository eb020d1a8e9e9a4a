//! History texts and folded configs, instruction by instruction.

use crate::build::{PATH, build, options, plan_of};
use planner::config::{ContainerConfig, HealthConfig};
use planner::lower::LowerOptions;
use planner::plan::{Op, RunOp, Target};
use std::collections::BTreeMap;

fn target(text: &str, options: &LowerOptions) -> Target {
    let (mut plan, _) = build(text, options).unwrap_or_else(|errors| panic!("{text}\n{errors:?}"));
    plan.targets.remove(0)
}

fn config(text: &str) -> ContainerConfig {
    target(text, &options()).config.config
}

/// The last command of the target.
fn last_run(text: &str) -> RunOp {
    let plan = plan_of(text);
    let run = |op: &Op| {
        if let Op::Run(run) = op {
            Some(run.clone())
        } else {
            None
        }
    };
    plan.steps
        .iter()
        .rev()
        .find_map(|step| run(&step.op))
        .expect("there is a RUN")
}

fn env(run: &RunOp, name: &str) -> Option<String> {
    run.env
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.clone())
}

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|&word| word.to_owned()).collect())
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn history_says_what_buildkit_says() {
    let cases = [
        ("RUN echo hi", "RUN /bin/sh -c echo hi # buildkit", false),
        ("RUN [\"ls\", \"-l\"]", "RUN ls -l # buildkit", false),
        (
            "RUN --network=none --mount=type=tmpfs,target=/t echo hi",
            "RUN /bin/sh -c echo hi # buildkit",
            false,
        ),
        (
            "RUN <<EOF\necho h1\necho h2\nEOF",
            "RUN /bin/sh -c echo h1\necho h2\n # buildkit",
            false,
        ),
        (
            "RUN <<EOF\n#!/bin/sh\nEOF",
            "RUN /bin/sh -c /dev/pipes/EOF # buildkit",
            false,
        ),
        (
            "RUN cat <<EOF\nx\nEOF",
            "RUN /bin/sh -c cat <<EOF\nx\nEOF # buildkit",
            false,
        ),
        ("COPY a b dir/", "COPY a b dir/ # buildkit", false),
        ("COPY [\"a b\", \"c\"]", "COPY a b c # buildkit", false),
        (
            "COPY --exclude=x --link --chmod=640 --chown=1:2 --parents a b",
            "COPY --parents --chown=1:2 --chmod=640 a b # buildkit",
            false,
        ),
        ("COPY --from=alpine /a /b", "COPY /a /b # buildkit", false),
        (
            "COPY <<EOF x /d/\nt\nEOF",
            "COPY x <<EOF /d/ # buildkit",
            false,
        ),
        (
            "ADD --unpack=false x.tar /",
            "ADD x.tar / # buildkit",
            false,
        ),
        ("WORKDIR /w/", "WORKDIR /w/", false),
        ("WORKDIR rel/x", "WORKDIR /rel/x", false),
        ("WORKDIR /", "WORKDIR /", true),
        ("ENV V=\"q $X\" W='$V' X=a\\ b", "ENV V=q  W=$V X=a b", true),
        ("ENV V val two", "ENV V=val two", true),
        ("ARG a=1 b", "ARG a=1 b", true),
        ("ARG TARGETARCH", "ARG TARGETARCH=amd64", true),
        (
            "LABEL k=v k2=\"a b\" \"k 3\"='$V'",
            "LABEL k=v k2=a b k 3=$V",
            true,
        ),
        (
            "EXPOSE 1234/udp 2375 80-82/TCP",
            "EXPOSE [1234/udp 2375/tcp 80/tcp 81/tcp 82/tcp]",
            true,
        ),
        ("VOLUME /a /b", "VOLUME [/a /b]", true),
        ("USER nobody:users", "USER nobody:users", true),
        ("CMD echo $V", "CMD [\"/bin/sh\" \"-c\" \"echo $V\"]", true),
        ("CMD []", "CMD []", true),
        (
            "ENTRYPOINT [\"e\", \"f\"]",
            "ENTRYPOINT [\"e\" \"f\"]",
            true,
        ),
        ("SHELL [\"/bin/sh\", \"-ec\"]", "SHELL [/bin/sh -ec]", true),
        ("STOPSIGNAL 9", "STOPSIGNAL 9", true),
        ("MAINTAINER me <a@b>", "MAINTAINER me <a@b>", true),
        (
            "HEALTHCHECK --interval=5s --timeout=3s --start-period=1m30s --start-interval=250ms --retries=2 CMD curl -f x",
            "HEALTHCHECK {Test:[CMD-SHELL curl -f x] Interval:5s Timeout:3s StartPeriod:1m30s StartInterval:250ms Retries:2}",
            true,
        ),
        (
            "HEALTHCHECK NONE",
            "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
            true,
        ),
    ];
    for (instruction, expected, empty) in cases {
        let history = target(&format!("FROM busybox\n{instruction}\n"), &options()).history;
        let entry = history.last().expect("an entry");
        assert_eq!(entry.created_by.as_deref(), Some(expected), "{instruction}");
        assert_eq!(
            (entry.empty_layer, entry.step.is_none()),
            (empty, empty),
            "{instruction}"
        );
        assert_eq!(entry.comment.as_deref(), Some("buildkit.dockerfile.v0"));
        assert_eq!(
            (history.len(), &entry.created),
            (2, &None),
            "the base's entry and ours"
        );
    }
}

#[test]
fn onbuild_itself_leaves_no_history() {
    let target = target(
        "FROM busybox\nONBUILD RUN echo a\nONBUILD COPY <<EOF /x\ntext\nEOF\n",
        &options(),
    );
    assert_eq!(target.history.len(), 1);
    assert_eq!(
        target.config.config.on_build,
        words(&["RUN echo a", "COPY <<EOF /x\ntext\nEOF"])
    );
}

#[test]
fn commands_are_told_the_args_in_force() {
    let given = LowerOptions {
        build_args: BTreeMap::from([("B".to_owned(), "cli".to_owned())]),
        ..options()
    };
    let text = "ARG G=global\nFROM busybox AS base\nARG A=1 B\nARG U\nFROM base\nARG G\nARG A=2\nENV B=env\nRUN x\n";
    let history = target(text, &given).history;
    let run = history.last().and_then(|entry| entry.created_by.as_deref());
    assert_eq!(
        run,
        Some("RUN |4 A=2 B=env U= G=global /bin/sh -c x # buildkit")
    );
}

#[test]
fn entrypoint_clears_the_base_s_command_only() {
    let cases = [
        ("ENTRYPOINT [\"e\"]", words(&["e"]), None),
        (
            "CMD [\"c\"]\nENTRYPOINT [\"e\"]",
            words(&["e"]),
            words(&["c"]),
        ),
        (
            "ENTRYPOINT [\"e\"]\nCMD [\"c\"]",
            words(&["e"]),
            words(&["c"]),
        ),
        (
            "CMD [\"c\"]\nFROM base\nENTRYPOINT [\"e\"]",
            words(&["e"]),
            None,
        ),
        ("ENTRYPOINT []", None, None),
        ("CMD a\nCMD b", None, words(&["/bin/sh", "-c", "b"])),
        (
            "SHELL [\"zsh\"]\nENTRYPOINT e f",
            words(&["zsh", "e f"]),
            None,
        ),
        (
            "SHELL [\"zsh\"]\nFROM base\nCMD x",
            None,
            words(&["zsh", "x"]),
        ),
    ];
    for (instructions, entrypoint, cmd) in cases {
        let config = config(&format!("FROM busybox AS base\n{instructions}\n"));
        assert_eq!(
            (config.entrypoint, config.cmd),
            (entrypoint, cmd),
            "{instructions}"
        );
    }
}

#[test]
fn health_checks_are_inherited_and_replaced() {
    let check = |text: &str| config(text).healthcheck;
    let command = HealthConfig {
        test: vec!["CMD".to_owned(), "curl".to_owned()],
        interval: 5_000_000_000,
        retries: 2,
        ..HealthConfig::default()
    };
    let base = "FROM busybox AS base\nHEALTHCHECK --interval=5s --retries=2 CMD [\"curl\"]\n";
    assert_eq!(check(base), Some(command.clone()));
    assert_eq!(check(&format!("{base}FROM base\nRUN x\n")), Some(command));
    let none = HealthConfig {
        test: vec!["NONE".to_owned()],
        ..HealthConfig::default()
    };
    assert_eq!(
        check(&format!("{base}FROM base\nHEALTHCHECK NONE\n")),
        Some(none)
    );
}

#[test]
fn a_path_is_there_even_when_the_base_has_none() {
    assert_eq!(config("FROM bare").env, words(&[PATH]));
    assert_eq!(config("FROM scratch").env, words(&[PATH]));
    assert_eq!(config("FROM scratch").working_dir, "/");
    assert_eq!(config("FROM busybox").working_dir, "");
    assert_eq!(config("FROM bare\nENV PATH=/x").env, words(&["PATH=/x"]));
}

#[test]
fn variables_keep_their_place_and_see_the_state_before() {
    let config = config("FROM busybox\nENV A=1 B=2\nENV A=3 C=$A D=$PATH\nENV PATH=$PATH:/extra\n");
    let path = PATH.trim_start_matches("PATH=");
    let expected = [
        format!("{PATH}:/extra"),
        "A=3".into(),
        "B=2".into(),
        "C=1".into(),
        format!("D={path}"),
    ];
    assert_eq!(config.env.unwrap(), expected);
}

#[test]
fn args_reach_commands_but_not_the_config() {
    let text = "FROM busybox AS base\nARG A=1\nARG N\nENV E=$A\nFROM base\nRUN x\n";
    let run = last_run(text);
    assert_eq!(
        (env(&run, "A"), env(&run, "N"), env(&run, "E")),
        (Some("1".into()), None, Some("1".into()))
    );
    assert_eq!(config(text).env, words(&[PATH, "E=1"]));
}

#[test]
fn env_wins_over_an_arg_before_it_and_in_later_stages() {
    assert_eq!(
        env(&last_run("FROM busybox\nARG V=arg\nENV V=env\nRUN x"), "V"),
        Some("env".into())
    );
    assert_eq!(
        env(
            &last_run("FROM busybox AS b\nENV V=env\nARG V=arg\nFROM b\nRUN x"),
            "V"
        ),
        Some("env".into())
    );
}

#[test]
fn proxies_need_no_arg_and_stay_out_of_the_environment() {
    let given = "# options: --build-arg https_proxy=http://p --build-arg NO_PROXY=x\n";
    let run = last_run(&format!("{given}FROM busybox\nRUN x\n"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        run.proxy_env,
        [
            pair("HTTPS_PROXY", "http://p"),
            pair("https_proxy", "http://p"),
            pair("NO_PROXY", "x"),
            pair("no_proxy", "x")
        ]
    );
    assert_eq!(env(&run, "https_proxy"), None);
    let history = &plan_of(&format!("{given}FROM busybox\nRUN x\n")).targets[0].history;
    assert_eq!(
        history[1].created_by.as_deref(),
        Some("RUN /bin/sh -c x # buildkit")
    );
    let declared = last_run(&format!("{given}FROM busybox\nARG https_proxy\nRUN x\n"));
    assert_eq!(env(&declared, "https_proxy"), Some("http://p".into()));
}

#[test]
fn working_directories_chain_and_own_the_command_s_place() {
    for (instructions, workdir, cwd) in [
        ("", "", "/"),
        ("WORKDIR /a\nWORKDIR b\n", "/a/b", "/a/b"),
        ("ENV D=/d\nWORKDIR $D/x\nWORKDIR ..\n", "/d", "/d"),
        ("WORKDIR /w/\n", "/w/", "/w"),
        ("WORKDIR rel\n", "/rel", "/rel"),
    ] {
        let text = format!("FROM busybox\n{instructions}RUN pwd\n");
        assert_eq!(config(&text).working_dir, workdir, "{instructions}");
        assert_eq!(last_run(&text).cwd, cwd, "{instructions}");
    }
    assert_eq!(last_run("FROM rich\nRUN pwd").cwd, "/srv");
    assert_eq!(last_run("FROM rich\nWORKDIR x\nRUN pwd").cwd, "/srv/x");
}

#[test]
fn the_target_s_platform_is_in_the_config() {
    let arch = |text: &str| {
        let config = &plan_of(text).targets[0].config;
        (
            config.os.clone(),
            config.architecture.clone(),
            config.variant.clone(),
        )
    };
    let named = |os: &str, arch: &str, variant: Option<&str>| {
        (os.to_owned(), arch.to_owned(), variant.map(str::to_owned))
    };
    assert_eq!(arch("FROM busybox"), named("linux", "amd64", None));
    assert_eq!(
        arch("FROM --platform=linux/arm64 busybox"),
        named("linux", "arm64", None)
    );
    assert_eq!(
        arch("# options: --platform linux/arm/v6\nFROM busybox"),
        named("linux", "arm", Some("v6"))
    );
    assert_eq!(
        arch("# options: --platform darwin/ppc64le\nFROM scratch"),
        named("darwin", "ppc64le", None)
    );
    assert_eq!(
        arch("# options: --platform linux/arm64\nFROM --platform=$BUILDPLATFORM busybox"),
        named("linux", "arm64", None)
    );
}
