//! Every error that a Dockerfile alone can cause: BuildKit's words, the line, and a hint.

use crate::build::{build, options_of};
use parser::Severity;

/// A Dockerfile, a part of the message, and the line.
type Case = (&'static str, &'static str, u32);

#[track_caller]
fn all_say(cases: &[Case]) {
    for (text, message, line) in cases {
        let Err(found) = build(text, &options_of(text)) else {
            panic!("{text}\nis built")
        };
        let errors: Vec<_> = found
            .iter()
            .filter(|found| found.severity == Severity::Error)
            .collect();
        assert_eq!(errors.len(), 1, "{text}\n{errors:?}");
        let error = errors[0];
        assert!(error.message.contains(message), "{text}\n{error:?}");
        let at = error.lines.map_or(0, |lines| lines.start);
        assert_eq!(at, *line, "{text}\n{error:?}");
        let hint = error.help.as_deref().unwrap_or_default();
        assert!(!hint.is_empty(), "no hint: {text}\n{error:?}");
        assert_ne!(hint, error.message, "{text}");
    }
}

#[test]
fn f02_f10_f11_f12_lines_and_instructions() {
    all_say(&[
        ("", "the Dockerfile cannot be empty", 0),
        ("# only a comment\n", "file with no instructions", 0),
        ("ARG a", "dockerfile contains no stages to build", 0),
        ("RUN x\n", "no build stage in current context", 1),
        (
            "ARG a\n\nENV a=b\nFROM scratch",
            "no build stage in current context",
            3,
        ),
        ("FROM scratch\nFOO bar", "unknown instruction: FOO", 2),
        ("FROM scratch\nENVS a=b", "unknown instruction: ENVS", 2),
        ("FROM scratch\n&& make", "unknown instruction: &&", 2),
        (
            "# escape=/\nFROM scratch",
            "invalid escape token '/' does not match ` or \\",
            1,
        ),
        (
            "# escape=\\\n# escape=`\nFROM scratch",
            "only one escape parser directive can be used",
            2,
        ),
        (
            "# syntax=a\n# syntax=b\nFROM scratch",
            "only one syntax parser directive can be used",
            2,
        ),
        (
            "# check=skip=all\n# check=error=true\nFROM scratch",
            "only one check parser directive can be used",
            2,
        ),
        (
            "FROM scratch\nCOPY <<A <<B /\n1\nA\n2\n",
            "unterminated heredoc",
            2,
        ),
    ]);
    let long = format!("FROM scratch\nENV a={}\n", "x".repeat(65_536));
    let parsed = parser::parse(&long);
    let said = &parsed.diagnostics[0];
    assert!(
        said.message
            .contains("dockerfile line greater than max allowed size of 65535")
    );
    assert_eq!(said.lines.unwrap().start, 2);
    assert!(said.help.is_some());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn arguments() {
    all_say(&[
        ("FROM scratch\nENV", "ENV requires at least one argument", 2),
        (
            "FROM scratch\nLABEL",
            "LABEL requires at least one argument",
            2,
        ),
        ("FROM scratch\nARG", "ARG requires at least one argument", 2),
        (
            "FROM scratch\nEXPOSE",
            "EXPOSE requires at least one argument",
            2,
        ),
        (
            "FROM scratch\nVOLUME",
            "VOLUME requires at least one argument",
            2,
        ),
        (
            "FROM scratch\nSHELL []",
            "SHELL requires at least one argument",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK",
            "HEALTHCHECK requires at least one argument",
            2,
        ),
        (
            "FROM scratch\nONBUILD",
            "ONBUILD requires at least one argument",
            2,
        ),
        ("FROM scratch\nENV a", "ENV must have two arguments", 2),
        ("FROM scratch\nLABEL a", "LABEL must have two arguments", 2),
        (
            "FROM scratch\nENV a=b c",
            "can't find = in \"c\". Must be of the form: name=value",
            2,
        ),
        ("FROM scratch\nENV =b", "ENV names can not be blank", 2),
        ("FROM scratch\nLABEL =b", "LABEL names can not be blank", 2),
        ("FROM scratch\nARG =b", "ARG names can not be blank", 2),
        (
            "FROM scratch\nUSER",
            "USER requires exactly one argument",
            2,
        ),
        (
            "FROM scratch\nWORKDIR",
            "WORKDIR requires exactly one argument",
            2,
        ),
        (
            "FROM scratch\nSTOPSIGNAL",
            "STOPSIGNAL requires exactly one argument",
            2,
        ),
        (
            "FROM scratch\nMAINTAINER",
            "MAINTAINER requires exactly one argument",
            2,
        ),
        (
            "FROM scratch\nCOPY a",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            2,
        ),
        (
            "FROM scratch\nADD",
            "ADD requires at least two arguments",
            2,
        ),
        (
            "FROM scratch\nCOPY a <<X\nX\n",
            "COPY cannot accept a heredoc as a destination",
            2,
        ),
        (
            "FROM scratch\nADD a <<X\nX\n",
            "ADD cannot accept a heredoc as a destination",
            2,
        ),
        (
            "FROM scratch\nSHELL sh -c",
            "SHELL requires the arguments to be in JSON form",
            2,
        ),
        (
            "FROM scratch\nVOLUME [\"\"]",
            "VOLUME specified can not be an empty string",
            2,
        ),
        ("FROM a b", "FROM requires either one or three arguments", 1),
        ("FROM", "FROM requires either one or three arguments", 1),
        (
            "FROM a AS b c",
            "FROM requires either one or three arguments",
            1,
        ),
        (
            "FROM scratch AS 1a",
            "invalid name for build stage: \"1a\", name can't start with a number or contain symbols",
            1,
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn flags_and_options() {
    all_say(&[
        ("FROM --form=a scratch", "unknown flag: --form", 1),
        (
            "FROM scratch\nCOPY --chwon=1 a b",
            "unknown flag: --chwon",
            2,
        ),
        ("FROM scratch\nUSER --a b", "unknown flag: --a", 2),
        (
            "FROM scratch\nCOPY --chown a b",
            "missing a value on flag: --chown",
            2,
        ),
        (
            "FROM scratch\nCOPY --link= a b",
            "missing a value on flag: --link",
            2,
        ),
        (
            "FROM scratch\nCOPY --link=on a b",
            "expecting boolean value for flag --link, not: on",
            2,
        ),
        (
            "FROM scratch\nCOPY --chown=1 --chown=2 a b",
            "duplicate flag specified: --chown",
            2,
        ),
        (
            "FROM scratch\nRUN --network=lan x",
            "invalid network mode \"lan\"",
            2,
        ),
        (
            "FROM scratch\nRUN --security=high x",
            "security \"high\" is not valid",
            2,
        ),
        (
            "FROM scratch\nRUN --device=v/c=a,v/c=b x",
            "unexpected key 'v/c' in 'v/c=b'",
            2,
        ),
        (
            "FROM scratch\nRUN --device=name=a,name=b x",
            "device name already set to a",
            2,
        ),
        (
            "FROM scratch\nRUN --device=a,required=maybe x",
            "invalid value for required: maybe",
            2,
        ),
        (
            "FROM scratch\nRUN --device=a,b x",
            "invalid field 'b' must be a key=value pair",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK NONE x",
            "HEALTHCHECK NONE takes no arguments",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK CMD",
            "Missing command after HEALTHCHECK CMD",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK TCP x",
            "Unknown type \"TCP\" in HEALTHCHECK (try CMD)",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK --retries=-1 CMD x",
            "--retries cannot be negative (-1)",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK --retries=x CMD x",
            "parsing \"x\": invalid syntax",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK --interval=1us CMD x",
            "Interval \"interval\" cannot be less than 1ms",
            2,
        ),
        (
            "FROM scratch\nHEALTHCHECK --timeout=5 CMD x",
            "missing unit in duration \"5\"",
            2,
        ),
        ("FROM scratch\nSTOPSIGNAL SIGNO", "invalid signal: SIGNO", 2),
        (
            "FROM scratch\nONBUILD ONBUILD RUN x",
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
            2,
        ),
        (
            "FROM scratch\nONBUILD FROM x",
            "FROM isn't allowed as an ONBUILD trigger",
            2,
        ),
        (
            "FROM scratch\nONBUILD MAINTAINER x",
            "MAINTAINER isn't allowed as an ONBUILD trigger",
            2,
        ),
        ("FROM scratch\nONBUILD RNU x", "unknown instruction: RNU", 2),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn ru12_mounts() {
    all_say(&[
        (
            "FROM scratch\nRUN --mount=type=tmp,target=/x x",
            "unsupported mount type \"tmp\" (did you mean tmpfs?)",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=volume x",
            "unsupported mount type \"volume\"",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=typ=cache x",
            "unexpected key 'typ' in 'typ=cache' (did you mean type?)",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target x",
            "invalid field 'target' must be a key=value pair",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=required,target=/x x",
            "unexpected key 'required' for mount type 'bind'",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=/x,size=1m x",
            "unexpected key 'size' for mount type 'bind'",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=/x,rw=maybe x",
            "invalid value for rw: maybe",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=tmpfs,target=/x,size=big x",
            "invalid value for size: big",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/x,mode=rwx x",
            "invalid value rwx for mode",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/x,uid=me x",
            "invalid value me for uid",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/x,gid=us x",
            "invalid value us for gid",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=/x,mode=700 x",
            "mode not allowed for \"bind\" type mounts",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=tmpfs,target=/x,uid=1 x",
            "uid not allowed for \"tmpfs\" type mounts",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=/x,gid=1 x",
            "gid not allowed for \"bind\" type mounts",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=/x,sharing=locked x",
            "invalid cache sharing set for bind mount",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/x,sharing=lock x",
            "unsupported sharing value \"lock\"",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=secret,from=a x",
            "secret mount should not have a from",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=secret,id=a,sharing=shared x",
            "secret mount should not define sharing",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=secret x",
            "invalid secret mount. one of source, target required",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=secret,id=a,source=b x",
            "both source and id can't be set",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=type=ssh,source=b x",
            "ssh does not support source",
            2,
        ),
        (
            "FROM scratch\nARG E\nRUN --mount=type=secret,id=$E,env=A,target=$E x",
            "one of source, target required",
            3,
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/ x",
            "invalid mount target \"/\"",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=from=$a,target=/x x",
            "'from' doesn't support variable expansion, define alias stage instead",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=/x,a\\\"b x",
            "failed to parse csv mounts",
            2,
        ),
        (
            "FROM scratch\nRUN --mount=target=${A?where} x",
            "A: where",
            2,
        ),
    ]);
}

#[test]
fn fr10_fr11_stages() {
    all_say(&[
        ("FROM $A", "base name ($A) should not be blank", 1),
        (
            "FROM --platform=$A scratch",
            "empty platform value from expression $A",
            1,
        ),
        (
            "FROM --platform=${A?no} scratch",
            "failed to process arguments for platform ${A?no}",
            1,
        ),
        (
            "FROM --platform=a/b/c/d scratch",
            "failed to parse platform a/b/c/d",
            1,
        ),
        (
            "FROM scratch AS a\nFROM a AS b\nCOPY --from=b x y",
            "circular dependency detected on stage: b",
            3,
        ),
        (
            "FROM scratch AS a\nCOPY --from=b x y\nFROM scratch AS b\nFROM a",
            "cannot copy from stage \"b\", it needs to be defined before current stage \"a\"",
            2,
        ),
        (
            "FROM scratch AS a\nRUN --mount=from=b,target=/x x\nFROM scratch AS b\nFROM a",
            "cannot mount from stage \"b\" to",
            2,
        ),
        (
            "FROM scratch\nCOPY --from=5 x y",
            "invalid stage index 5",
            2,
        ),
        (
            "ARG A=0\nFROM scratch\nCOPY --from=$A x y",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            3,
        ),
        (
            "# options: --target no\nFROM scratch AS a",
            "target stage \"no\" could not be found",
            0,
        ),
    ]);
}

#[test]
fn sources() {
    all_say(&[
        (
            "FROM scratch\nCOPY https://example.com/a /",
            "source can't be a URL for COPY",
            2,
        ),
        (
            "FROM scratch\nCOPY git@example.com:a/b.git /",
            "source can't be a git ref for COPY",
            2,
        ),
        (
            "FROM scratch\nCOPY --chmod=9 a b",
            "invalid chmod parameter: '9'. it should be octal string and between 0 and 07777",
            2,
        ),
        (
            "FROM scratch\nADD --checksum=sha256:00 a b",
            "checksum requires HTTP(S) or Git sources",
            2,
        ),
        (
            "FROM scratch\nADD --checksum=sha256:00 a b c/",
            "checksum can't be specified for multiple sources",
            2,
        ),
    ]);
}

#[test]
fn ac24_git_urls() {
    let table = [
        ("branch=a&tag=b", "branch conflicts with tag"),
        ("ref=a&ref=b", "query \"ref\" has multiple values"),
        ("branch=", "query \"branch\" has no value"),
        ("depth=1", "unexpected query \"depth\""),
        (
            "keep-git-dir=maybe",
            "invalid keep-git-dir value: \"maybe\"",
        ),
        ("submodules=maybe", "invalid submodules value: \"maybe\""),
        ("mtime=now", "invalid mtime value: \"now\""),
        ("ref=a#b", "ref conflicts: \"b\" vs \"a\""),
        ("subdir=a#b:c", "subdir conflicts: \"c\" vs \"a\""),
    ];
    for (query, message) in table {
        let text = format!("FROM scratch\nADD https://example.com/a.git?{query} /");
        let found = build(&text, &options_of("")).unwrap_err();
        assert!(found[0].message.contains(message), "{text}\n{found:?}");
        assert_eq!(found[0].lines.unwrap().start, 2, "{text}");
        assert!(found[0].help.is_some(), "{text}\n{found:?}");
    }
}

#[test]
fn m11_ports() {
    all_say(&[
        ("FROM scratch\nEXPOSE 80/icmp", "invalid proto: icmp", 2),
        ("FROM scratch\nEXPOSE /tcp", "no port specified", 2),
        ("FROM scratch\nEXPOSE x", "invalid containerPort: x", 2),
        ("FROM scratch\nEXPOSE 9-8", "invalid containerPort: 9-8", 2),
        (
            "FROM scratch\nEXPOSE 70000",
            "invalid containerPort: 70000",
            2,
        ),
        ("FROM scratch\nEXPOSE 80-", "invalid containerPort: 80-", 2),
        ("FROM scratch\nEXPOSE x:80", "invalid hostPort: x", 2),
        (
            "FROM scratch\nEXPOSE 1-3:1-2",
            "invalid ranges specified for container and host Ports: 1-2 and 1-3",
            2,
        ),
        (
            "FROM scratch\nEXPOSE 1.2.3:1:1",
            "invalid IP address: 1.2.3",
            2,
        ),
    ]);
}

/// V03, V12: what cannot be expanded, and where.
#[test]
fn v03_v12_expansion() {
    all_say(&[
        (
            "FROM scratch\nENV a='b",
            "unexpected end of statement while looking for matching single-quote",
            2,
        ),
        (
            "FROM scratch\nUSER \"b",
            "unexpected end of statement while looking for matching double-quote",
            2,
        ),
        ("FROM scratch\nUSER ${", "syntax error: missing '}'", 2),
        ("FROM scratch\nUSER ${a-b", "syntax error: missing '}'", 2),
        (
            "FROM scratch\nUSER ${}",
            "syntax error: bad substitution",
            2,
        ),
        (
            "FROM scratch\nUSER ${:-x}",
            "syntax error: bad substitution",
            2,
        ),
        (
            "FROM scratch\nUSER ${a/b}",
            "syntax error: missing '/' in ${}",
            2,
        ),
        (
            "FROM scratch\nUSER ${a^}",
            "unsupported modifier (^) in substitution",
            2,
        ),
        (
            "FROM scratch\nUSER ${a:*x}",
            "unsupported modifier (:*) in substitution",
            2,
        ),
        (
            "FROM scratch\nENV a=b\nUSER ${a#\\z}",
            "invalid pattern (\\z) in substitution",
            3,
        ),
        ("FROM scratch\nUSER ${a:?give a}", "a: give a", 2),
        (
            "FROM scratch\nENV a=\nUSER ${a:?}",
            "a: is not allowed to be empty",
            3,
        ),
        (
            "FROM scratch\nUSER ${a?}",
            "a: is not allowed to be unset",
            2,
        ),
    ]);
}

#[test]
fn x06_json_arrays_have_strings_only() {
    for name in ["RUN", "CMD", "ENTRYPOINT", "SHELL", "VOLUME"] {
        let text = format!("FROM scratch\n{name} [\"a\", 1]");
        let found = build(&text, &options_of("")).unwrap_err();
        let expected = "when using JSON array syntax, arrays must be comprised of strings only";
        assert_eq!(found[0].message, expected, "{name}");
        assert_eq!(found[0].lines.unwrap().start, 2, "{name}");
        assert!(found[0].help.is_some(), "{name}");
    }
}
