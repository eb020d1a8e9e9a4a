//! Variables and the forms of commands, as they come out in plans and configs. Each test names the features that it covers.

use crate::build::{PATH, build, options_of, plan_of};
use planner::config::ContainerConfig;
use planner::plan::{CopyOp, CopySource, Op, RunMount, RunOp};

fn config(text: &str) -> ContainerConfig {
    plan_of(text).targets.remove(0).config.config
}

/// The value of `ENV got=...` after these lines.
#[track_caller]
fn got(before: &str, word: &str) -> String {
    let text = format!("FROM scratch\n{before}\nENV got={word}\n");
    let env = config(&text).env.unwrap_or_default();
    let found = env.iter().find_map(|pair| pair.strip_prefix("got="));
    found
        .unwrap_or_else(|| panic!("{text}\n{env:?}"))
        .to_owned()
}

fn last_run(text: &str) -> RunOp {
    let plan = plan_of(text);
    let mut runs = plan.steps.into_iter().rev();
    runs.find_map(|step| match step.op {
        Op::Run(run) => Some(run),
        _ => None,
    })
    .expect("a RUN")
}

fn last_copy(text: &str) -> CopyOp {
    let plan = plan_of(text);
    let mut copies = plan.steps.into_iter().rev();
    copies
        .find_map(|step| match step.op {
            Op::Copy(copy) => Some(copy),
            _ => None,
        })
        .expect("a COPY")
}

#[test]
fn v01_plain_braced_and_special() {
    for (word, expected) in [
        ("$a", "1"),
        ("${a}b$ab", "1b2"),
        ("<$none>", "<>"),
        ("<$1$@$*$#$?$-$$$!$0>", "<>"),
        ("$a.$", "1.$"),
    ] {
        assert_eq!(got("ENV a=1 ab=2", word), expected, "{word}");
    }
}

#[test]
fn v02_defaults_and_alternatives() {
    for (word, expected) in [
        ("${none:-x}|${none-x}|${empty:-x}|${empty-x}", "x|x|x|"),
        ("${a:+x}|${a+x}|${empty:+x}|${empty+x}|${none+x}", "x|x||x|"),
        ("${none:-${none:-$a}${a}}", "11"),
        ("${none:-a:b}", "a:b"),
    ] {
        assert_eq!(got("ENV a=1 empty=", word), expected, "{word}");
    }
}

#[test]
fn v03_required_variables() {
    assert_eq!(got("ENV a=1", "${a:?no}${a?no}"), "11");
    for (text, message) in [
        ("FROM scratch\nARG V\nENV a=\"${V:?give it}\"", "V: give it"),
        ("ARG V\nFROM ${V:?which}", "V: which"),
        ("ARG V=${W?no}\nFROM scratch", "W: no"),
    ] {
        let found = build(text, &options_of(text)).unwrap_err();
        assert!(found[0].message.contains(message), "{found:?}");
    }
    let given = "# options: --build-arg V=busybox\nARG V\nFROM ${V:?which}";
    assert_eq!(plan_of(given).steps.len(), 1);
}

#[test]
fn v04_prefixes_and_suffixes() {
    for (word, expected) in [
        ("${p#*/}", "b/c.tar.gz"),
        ("${p##*/}", "c.tar.gz"),
        ("${p%.*}", "a/b/c.tar"),
        ("${p%%.*}", "a/b/c"),
        ("${p#?/}", "b/c.tar.gz"),
        ("${s#\\*}", "x*y"),
        ("${s#\\?}", "*x*y"),
    ] {
        assert_eq!(got("ENV p=a/b/c.tar.gz s=*x*y", word), expected, "{word}");
    }
}

#[test]
fn v05_replacements() {
    for (word, expected) in [
        ("${p/o/0}", "f0o-foo"),
        ("${p//o/0}", "f00-f00"),
        ("${p//f??/$q}", "bar-bar"),
        ("${p/none/x}", "foo-foo"),
        ("${p//-/}", "foofoo"),
    ] {
        assert_eq!(got("ENV p=foo-foo q=bar", word), expected, "{word}");
    }
}

#[test]
fn v06_quotes_and_escapes() {
    for (word, expected) in [
        ("\\$a", "$a"),
        ("\\${a}", "${a}"),
        ("'$a'", "$a"),
        ("\"$a b\"", "1 b"),
        ("a\\ b", "a b"),
        ("\"'$a'\"", "'1'"),
        ("'\"$a\"'", "\"$a\""),
        ("\"\\$a\\\\\"", "$a\\"),
    ] {
        assert_eq!(got("ENV a=1", word), expected, "{word}");
    }
}

#[test]
fn v07_the_escape_of_the_directive() {
    let text = "# escape=`\nFROM scratch\nENV a=1\nENV got=`$a-c:\\$a\n";
    let env = config(text).env.unwrap();
    assert_eq!(env.last().unwrap(), "got=$a-c:\\1");
}

#[test]
fn v08_one_instruction_sees_what_was_before() {
    let text = "FROM scratch\nENV a=old\nENV a=new b=$a\nENV c=$a\n";
    let env = config(text).env.unwrap();
    assert_eq!(env[1..], ["a=new", "b=old", "c=new"]);
    let labels = config("FROM scratch\nENV a=1\nLABEL x=$a y=$x")
        .labels
        .unwrap();
    assert_eq!((labels["x"].as_str(), labels["y"].as_str()), ("1", ""));
}

#[test]
fn v09_where_variables_count() {
    let text = "FROM scratch\nENV p=/p n=7 s=SIGTERM k=key\nEXPOSE $n\nUSER $n:$n\nVOLUME $p\nWORKDIR $p\nSTOPSIGNAL $s\nLABEL $k=$n\n\
                HEALTHCHECK CMD echo $n\nARG d=$n\nENV e=$d\n";
    let config = config(text);
    assert!(config.exposed_ports.unwrap().contains_key("7/tcp"));
    assert_eq!(config.user, "7:7");
    assert!(config.volumes.unwrap().contains_key("/p"));
    assert_eq!(config.working_dir, "/p");
    assert_eq!(config.stop_signal.as_deref(), Some("SIGTERM"));
    assert_eq!(config.labels.unwrap()["key"], "7");
    assert_eq!(config.healthcheck.unwrap().test, ["CMD-SHELL", "echo $n"]);
    assert!(config.env.unwrap().contains(&"e=7".to_owned()));

    let copy = last_copy(
        "FROM scratch\nENV p=/p n=7\nCOPY --chown=$n:$n --chmod=$n --exclude=*.$n $p/$n <<E $p/d/\nhi $n\nE\n",
    );
    assert_eq!(copy.chown.as_deref(), Some("7:7"));
    assert_eq!(copy.chmod.as_deref(), Some("7"));
    assert_eq!(copy.exclude, ["*.7"]);
    assert_eq!(copy.dest, "/p/d/");
    assert_eq!(copy.sources[0], CopySource::Path("/p/7".to_owned()));
    let CopySource::Inline { data, .. } = &copy.sources[1] else {
        panic!("{copy:?}")
    };
    assert_eq!(data, "hi 7\n");

    let run = last_run("FROM busybox\nENV n=7\nRUN --mount=type=cache,id=i$n,target=/t$n x\n");
    let [RunMount::Cache { id, target, .. }] = run.mounts.as_slice() else {
        panic!("{run:?}")
    };
    assert_eq!((id.as_str(), target.as_str()), ("i7", "/t7"));
    for text in [
        "FROM scratch\nENV n=none\nRUN --network=$n x",
        "FROM scratch\nENV n=sandbox\nRUN --security=$n x",
    ] {
        assert!(build(text, &options_of(text)).is_err(), "{text}");
    }
    // Triggers are expanded where they run.
    let stages = "FROM scratch AS a\nENV n=1\nONBUILD ENV got=$n\nFROM a\n";
    assert!(
        self::config(stages)
            .env
            .unwrap()
            .contains(&"got=1".to_owned())
    );
}

#[test]
fn v10_commands_are_left_to_the_shell() {
    let text =
        "FROM busybox\nENV a=1\nRUN echo $a ${a}\nCMD echo $a\nENTRYPOINT [\"$a\", \"${a}\"]\n";
    assert_eq!(last_run(text).args, ["/bin/sh", "-c", "echo $a ${a}"]);
    let config = config(text);
    assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "echo $a"]);
    assert_eq!(config.entrypoint.unwrap(), ["$a", "${a}"]);
}

#[test]
fn v11_words_split_in_lists_only() {
    let text =
        "FROM scratch\nENV p=\"80 81\"\nEXPOSE $p\nVOLUME $p\nLABEL l=$p\nENV e=$p\nWORKDIR $p\n";
    let config = config(text);
    let ports: Vec<String> = config.exposed_ports.unwrap().into_keys().collect();
    assert_eq!(ports, ["80/tcp", "81/tcp"]);
    assert!(config.volumes.unwrap().contains_key("80 81"));
    assert_eq!(config.labels.unwrap()["l"], "80 81");
    assert!(config.env.unwrap().contains(&"e=80 81".to_owned()));
    assert_eq!(config.working_dir, "/80 81");
    let quoted = self::config("FROM scratch\nENV p=\"80\"\nEXPOSE \"$p\" 82\n");
    assert_eq!(quoted.exposed_ports.unwrap().len(), 2);
}

#[test]
fn x02_exec_form_has_no_shell() {
    let text = "FROM busybox\nENV a=1\nSHELL [\"/bin/bash\", \"-c\"]\nRUN [\"echo\", \"$a\"]\nCMD [\"$a\"]\n";
    assert_eq!(last_run(text).args, ["echo", "$a"]);
    assert_eq!(config(text).cmd.unwrap(), ["$a"]);
}

#[test]
fn x03_shell_form_is_put_behind_the_shell() {
    let text = "FROM busybox\nRUN a  b\nSHELL [\"/bin/bash\", \"-eo\", \"pipefail\", \"-c\"]\nCMD c\nENTRYPOINT d  e\nRUN f\n";
    assert_eq!(
        last_run(text).args,
        ["/bin/bash", "-eo", "pipefail", "-c", "f"]
    );
    let config = config(text);
    assert_eq!(
        config.cmd.unwrap(),
        ["/bin/bash", "-eo", "pipefail", "-c", "c"]
    );
    assert_eq!(config.entrypoint.unwrap()[4..], ["d  e"]);
    assert_eq!(
        last_run("FROM busybox\nRUN a  b").args,
        ["/bin/sh", "-c", "a  b"]
    );
}

#[test]
fn x04_empty_exec_forms() {
    let reset = config("FROM rich\nCMD [\"x\"]\nCMD []\nENTRYPOINT []\n");
    assert_eq!((reset.cmd, reset.entrypoint), (None, None));
    let kept = config("FROM rich\nUSER x\n");
    assert_eq!(kept.entrypoint.unwrap(), ["/entry"]);
    let found = build("FROM busybox\nRUN []\n", &options_of("")).unwrap_err();
    assert_eq!(found[0].message, "arguments are required");
    assert!(found[0].help.is_some());
}

#[test]
fn x05_path_where_the_base_has_none() {
    for (base, expected) in [("scratch", PATH), ("bare", PATH), ("rich", "PATH=/opt/bin")] {
        let env = config(&format!("FROM {base}\nUSER x\n")).env.unwrap();
        let paths: Vec<&String> = env
            .iter()
            .filter(|pair| pair.starts_with("PATH="))
            .collect();
        assert_eq!(paths, [expected], "{base}");
    }
    let own = config("FROM bare\nENV PATH=/x:$PATH\n").env.unwrap();
    let expected = PATH.replace("PATH=", "PATH=/x:");
    assert_eq!(own, [expected]);
}
