//! Build checks: each rule with Dockerfiles that it finds fault with and others that it does not.

use planner::checks::{self, IgnoredFiles, RULES};
use planner::lower::{LowerOptions, Lowered, ResolvedBase, ResolvedImage, lower};
use planner::platform::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// Runs all checks as a build does; findings as `LINE RULE: message`, errors as `LINE error: message`.
fn run(dockerfile: &str, options: &LowerOptions) -> Vec<String> {
    let parsed = parser::parse(dockerfile);
    let mut found = match checks::file(&parsed, options) {
        Ok(found) => found,
        Err(message) => return vec![format!("0 error: {message}")],
    };
    let mut bases = BTreeMap::new();
    loop {
        match lower(&parsed.dockerfile, options, &bases) {
            Ok(Lowered::Need(requests)) => {
                for request in requests {
                    bases.insert(request, arm_image());
                }
            }
            Ok(Lowered::Plan(_, warnings)) => break found.extend(warnings),
            Err(errors) => break found.extend(errors),
        }
    }
    let shown = found.iter().map(|finding| {
        let line = finding.lines.map_or(0, |lines| lines.start);
        format!(
            "{line} {}: {}",
            finding.code.unwrap_or("error"),
            finding.message
        )
    });
    shown.collect()
}

/// The only base image there is.
fn arm_image() -> ResolvedBase {
    let mut config = planner::config::ImageConfig {
        os: "linux".to_owned(),
        architecture: "arm64".to_owned(),
        ..Default::default()
    };
    config.config.working_dir = "/home".to_owned();
    config.config.shell = None;
    ResolvedBase::Image(Box::new(ResolvedImage {
        reference: "docker.io/library/base:latest".to_owned(),
        manifest_digest: String::new(),
        diff_ids: vec!["sha256:00".to_owned()],
        config,
        history: Vec::new(),
        source: String::new(),
    }))
}

fn options() -> LowerOptions {
    let platform = Platform::new("linux", "amd64", "");
    LowerOptions {
        platforms: vec![platform.clone()],
        build_platform: platform,
        ignored: IgnoredFiles::new(|path| path == "secret.txt" || path.starts_with('.')),
        ..LowerOptions::default()
    }
}

/// Rule, Dockerfile, findings. The rule's own findings come without its name.
type Row = (&'static str, &'static str, &'static [&'static str]);

const ROWS: &[Row] = &[
    (
        "StageNameCasing",
        "FROM scratch AS Build\nFROM scratch AS ok\n",
        &["1 Stage name 'Build' should be lowercase"],
    ),
    (
        "FromAsCasing",
        "FROM scratch as a\nFROM scratch AS b\nFROM scratch As c\n",
        &[
            "1 'as' and 'FROM' keywords' casing do not match",
            "3 'As' and 'FROM' keywords' casing do not match",
        ],
    ),
    (
        "FromAsCasing",
        "from scratch AS a\nfrom scratch as b\n",
        &["1 'AS' and 'from' keywords' casing do not match"],
    ),
    // A keyword in mixed case is another rule's finding.
    ("FromAsCasing", "From scratch as a\n", &[]),
    (
        "NoEmptyContinuation",
        "FROM scratch\nCOPY a \\\n\nb \\\n  # a comment is none\n /\nCOPY c \\\n d\n",
        &["6 Empty continuation line"],
    ),
    (
        "ConsistentInstructionCasing",
        "FROM scratch\ncopy a /\nEnv a=b\nENV c=d\n",
        &[
            "2 Command 'copy' should match the case of the command majority (uppercase)",
            "3 Command 'Env' should match the case of the command majority (uppercase)",
        ],
    ),
    (
        "ConsistentInstructionCasing",
        "ARG A\nfrom scratch\ncopy a /\nCOPY b /\n",
        &["4 Command 'COPY' should match the case of the command majority (lowercase)"],
    ),
    (
        "DuplicateStageName",
        "FROM scratch AS a\nFROM scratch AS A\nFROM scratch AS b\n",
        &["2 Duplicate stage name \"a\", stage names should be unique"],
    ),
    (
        "ReservedStageName",
        "FROM scratch AS context\nFROM scratch AS Scratch\nFROM scratch AS contexts\n",
        &[
            "1 Stage name should not use the same name as reserved stage \"context\"",
            "2 Stage name should not use the same name as reserved stage \"scratch\"",
        ],
    ),
    (
        "JSONArgsRecommended",
        "FROM scratch\nCMD a\nENTRYPOINT b\nONBUILD CMD c\n",
        &[
            "2 JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            "3 JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
        ],
    ),
    (
        "JSONArgsRecommended",
        "FROM scratch\nCMD [\"a\"]\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT b\n",
        &[],
    ),
    (
        "MaintainerDeprecated",
        "FROM scratch\nMAINTAINER me\n",
        &["2 Maintainer instruction is deprecated in favor of using label"],
    ),
    ("MaintainerDeprecated", "FROM scratch\nLABEL a=b\n", &[]),
    (
        "UndefinedArgInFrom",
        "ARG tag=x\nARG none\nFROM base:${tag}${none}${tog}\nFROM --platform=$BUILDPLATFROM$BUILDPLATFORM base\n",
        &[
            "3 FROM argument 'tog' is not declared (did you mean tag?)",
            "4 FROM argument 'BUILDPLATFROM' is not declared (did you mean BUILDPLATFORM?)",
        ],
    ),
    (
        "WorkdirRelativePath",
        "FROM base AS a\nWORKDIR x\nWORKDIR y\nFROM a\nWORKDIR z\n",
        &["2 Relative workdir \"x\" can have unexpected results if the base image changes"],
    ),
    (
        "WorkdirRelativePath",
        "FROM base\nWORKDIR /a\nWORKDIR b\n",
        &[],
    ),
    (
        "UndefinedVar",
        "FROM scratch\nENV FOO=1 LONGER=$FO\nCOPY $a${a} $a /\nRUN echo $not_ours\n",
        &[
            "2 Usage of undefined variable '$FO'",
            "3 Usage of undefined variable '$a'",
            "3 Usage of undefined variable '$a'",
        ],
    ),
    (
        "UndefinedVar",
        "FROM scratch\nENV FOO=1\nLABEL a=$FO ${PAHT}=1\nUSER $u\nVOLUME $v\nWORKDIR /$w\nSTOPSIGNAL 9$s\nARG x=$q y=$x\n",
        &[
            "3 Usage of undefined variable '$FO' (did you mean $FOO?)",
            "3 Usage of undefined variable '$PAHT' (did you mean $PATH?)",
            "4 Usage of undefined variable '$u'",
            "5 Usage of undefined variable '$v'",
            "6 Usage of undefined variable '$w'",
            "7 Usage of undefined variable '$s'",
            "8 Usage of undefined variable '$q'",
        ],
    ),
    (
        "UndefinedVar",
        "FROM scratch\nCOPY --chown=$o --chmod=7$m --exclude=$e <<EOF <<\"RAW\" /d/\n$h \\$i\nEOF\n$j\nRAW\nRUN --mount=type=cache,target=/$k true\n",
        &[
            "2 Usage of undefined variable '$o'",
            "2 Usage of undefined variable '$m'",
            "2 Usage of undefined variable '$e'",
            "2 Usage of undefined variable '$h'",
            "7 Usage of undefined variable '$k'",
        ],
    ),
    (
        "UndefinedVar",
        "ARG g\nFROM scratch AS a\nARG b\nARG g\nARG TARGETARCH\nCOPY $b$g$TARGETARCH$PATH '$c' \\$d /\nFROM a\nENV x=$b\n",
        &[],
    ),
    (
        "MultipleInstructionsDisallowed",
        "FROM scratch AS a\nCMD [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE\nENTRYPOINT [\"x\"]\nFROM a\nCMD [\"c\"]\nENTRYPOINT [\"d\"]\nENTRYPOINT [\"e\"]\n",
        &[
            "2 Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            "4 Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used",
            "9 Multiple ENTRYPOINT instructions should not be used in the same stage because only the last one will be used",
        ],
    ),
    (
        "LegacyKeyValueFormat",
        "FROM scratch\nENV a b\nLABEL c d\nENV e=f\nenv g h\n",
        &[
            "2 \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            "3 \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
            "5 \"env key=value\" should be used instead of legacy \"env key value\" format",
        ],
    ),
    (
        "InvalidBaseImagePlatform",
        "FROM base\n",
        &[
            "1 Base image base was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
        ],
    ),
    (
        "InvalidBaseImagePlatform",
        "FROM --platform=arm64 base\n",
        &[],
    ),
    (
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM base\nFROM --platform=${TARGETPLATFORM:-x} base\nFROM --platform=$BUILDPLATFORM base\nFROM --platform=$TARGETOS/$TARGETARCH base\n",
        &[
            "1 Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            "2 Setting platform to predefined ${TARGETPLATFORM:-x} in FROM is redundant as this is the default behavior",
        ],
    ),
    (
        "SecretsUsedInArgOrEnv",
        "ARG TOKEN\nFROM scratch\nARG API_KEY=1 apikey keyboard\nENV DB_Password=1 SECRET_FILE=x PUBLIC_KEY=y token_version=1\n",
        &[
            "3 Do not use ARG or ENV instructions for sensitive data (ARG \"API_KEY\")",
            "3 Do not use ARG or ENV instructions for sensitive data (ARG \"apikey\")",
            "4 Do not use ARG or ENV instructions for sensitive data (ENV \"DB_Password\")",
        ],
    ),
    (
        "InvalidDefaultArgInFrom",
        "ARG V\nARG ok=1\nFROM base:$V\nFROM base:$ok\nFROM a/$V/b\nFROM ${V:-scratch}\n",
        &[
            "3 Default value for ARG base:$V results in empty or invalid base image name",
            "5 Default value for ARG a/$V/b results in empty or invalid base image name",
        ],
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/arm64 base\nFROM --platform=linux/arm64 base AS build-arm64\nFROM --platform=linux/arm64 base AS my-linux\nFROM --platform=$BUILDPLATFORM base\n",
        &["1 FROM --platform flag should not use constant value \"linux/arm64\""],
    ),
    (
        "CopyIgnoredFile",
        "FROM scratch AS a\nCOPY secret.txt ./secret.txt .env /d/\nADD x/../secret.txt https://example.com/secret.txt /d/\nCOPY . /\nFROM scratch\nCOPY --from=a secret.txt /\n",
        &[
            "2 Attempting to Copy file \"secret.txt\" that is excluded by .dockerignore",
            "2 Attempting to Copy file \"secret.txt\" that is excluded by .dockerignore",
            "2 Attempting to Copy file \".env\" that is excluded by .dockerignore",
            "3 Attempting to Add file \"secret.txt\" that is excluded by .dockerignore",
        ],
    ),
    (
        "InvalidDefinitionDescription",
        "# check=experimental=InvalidDefinitionDescription\n# bad\nARG foo\n# foo good\nARG foo\n# bad\nARG a b\n# bad\nFROM scratch AS x\n# Y bad\nFROM scratch AS Y\n#\nARG z\n# unnamed\nFROM scratch\n# check=skip=FromAsCasing\nFROM scratch AS q\n",
        &[
            "3 Comment for ARG should follow the format: `# foo <description>`",
            "7 Comment for ARG should follow the format: `# <arg_key> <description>`",
            "9 Comment for FROM should follow the format: `# x <description>`",
            "11 Comment for FROM should follow the format: `# y <description>`",
        ],
    ),
    (
        "InvalidDefinitionDescription",
        "# bad\n\nFROM scratch AS x\n",
        &[],
    ),
    (
        "ExposeProtoCasing",
        "FROM scratch\nEXPOSE 80/TCP 81/udp 82\n",
        &["2 Defined protocol '80/TCP' in EXPOSE instruction should be lowercase"],
    ),
    (
        "ExposeInvalidFormat",
        "FROM scratch\nEXPOSE 80 8080:80 127.0.0.1:90:90 [::1]:70:70/udp\n",
        &[
            "2 EXPOSE instruction should not define an IP address or host-port mapping, found '8080:80'",
            "2 EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:90:90'",
            "2 EXPOSE instruction should not define an IP address or host-port mapping, found '[::1]:70:70/udp'",
        ],
    ),
];

/// Findings of one rule, without its name, sorted by line.
fn of_rule(rule: &str, found: &[String]) -> Vec<String> {
    let own = found.iter().filter_map(|finding| {
        let (line, rest) = finding.split_once(' ')?;
        let message = rest.strip_prefix(rule)?.strip_prefix(": ")?;
        Some(format!("{line} {message}"))
    });
    let mut own: Vec<String> = own.collect();
    own.sort_by_key(|finding| {
        let line = finding
            .split(' ')
            .next()
            .and_then(|n| n.parse::<u32>().ok());
        line.unwrap_or(0)
    });
    own
}

/// Each rule has rows that it finds fault with:
/// L:StageNameCasing, L:FromAsCasing, L:NoEmptyContinuation, L:ConsistentInstructionCasing, L:DuplicateStageName,
/// L:ReservedStageName, L:JSONArgsRecommended, L:MaintainerDeprecated, L:UndefinedArgInFrom,
/// L:WorkdirRelativePath, L:UndefinedVar, L:MultipleInstructionsDisallowed, L:LegacyKeyValueFormat,
/// L:InvalidBaseImagePlatform, L:RedundantTargetPlatform, L:SecretsUsedInArgOrEnv, L:InvalidDefaultArgInFrom,
/// L:FromPlatformFlagConstDisallowed, L:CopyIgnoredFile, L:InvalidDefinitionDescription, L:ExposeProtoCasing,
/// L:ExposeInvalidFormat.
#[test]
fn rules_find_what_they_should() {
    let mut tested = BTreeSet::new();
    for (rule, dockerfile, expected) in ROWS {
        // Stages that the target does not need are checked apart from it, as `--check` does.
        let options = LowerOptions {
            all_stages: true,
            ..options()
        };
        let found = run(dockerfile, &options);
        assert_eq!(of_rule(rule, &found), *expected, "{rule}:\n{dockerfile}");
        if !expected.is_empty() {
            tested.insert(*rule);
        }
    }
    let all: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(tested, all, "a rule without a row");
}

#[test]
fn d08_rules_can_be_skipped() {
    for (rule, dockerfile, expected) in ROWS {
        if expected.is_empty() || *rule == "InvalidDefinitionDescription" {
            continue;
        }
        for skip in [format!("skip={rule}"), "skip=all".to_owned()] {
            let options = LowerOptions {
                all_stages: true,
                ..options()
            };
            let text = format!("# check={skip}\n{dockerfile}");
            assert!(of_rule(rule, &run(&text, &options)).is_empty(), "{text}");
        }
    }
}

#[test]
fn d09_the_build_arg_takes_the_place_of_the_directive() {
    let mut options = options();
    let name = "BUILDKIT_DOCKERFILE_CHECK".to_owned();
    let dockerfile = "# check=skip=all\nFROM scratch as a\nCMD x\n";
    assert!(run(dockerfile, &options).is_empty());
    options
        .build_args
        .insert(name.clone(), "skip=JSONArgsRecommended".to_owned());
    let expected = ["2 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"];
    assert_eq!(run(dockerfile, &options), expected);
    options.build_args.insert(name, String::new());
    assert_eq!(run(dockerfile, &options).len(), 2);
}

#[test]
fn d10_a_comment_above_an_instruction_counts_for_it_alone() {
    let dockerfile = "\n# check=skip=StageNameCasing,FromAsCasing\nFROM scratch as A\n# about this\n# check=skip=LegacyKeyValueFormat\nENV a b\nENV c d\n# check=skip=MultipleInstructionsDisallowed\nCMD [\"a\"]\nCMD [\"b\"]\n# check=skip=\nMAINTAINER x\n# check=nonsense\nLABEL a b\n";
    assert_eq!(
        run(dockerfile, &options()),
        [
            "12 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label",
            "7 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            "14 LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
        ]
    );
}

#[test]
fn d08_options_that_cannot_be_read_are_errors() {
    for (check, message) in [
        ("skip", "invalid check option \"skip\""),
        ("skip=a;bogus=1", "invalid check option \"bogus\""),
        ("x=", "invalid check option \"x\""),
        (
            "error=maybe",
            "failed to parse check option \"error=maybe\": strconv.ParseBool: parsing \"maybe\": invalid syntax",
        ),
    ] {
        assert_eq!(
            run(&format!("# check={check}\nFROM scratch\n"), &options()),
            [format!("0 error: failed to parse check options: {message}")]
        );
    }
    for check in ["", " ", "error=1", "error=F; skip = A,B ;experimental=all"] {
        assert!(checks::Config::parse(check).is_ok(), "{check}");
    }
}

#[test]
fn findings_before_the_first_error_are_told() {
    let dockerfile = "FROM scratch AS A\nMAINTAINER x\nBADCMD\nFROM scratch AS B\n";
    let parsed = parser::parse(dockerfile);
    let found = checks::file(&parsed, &options()).unwrap();
    let rules: Vec<_> = found.iter().filter_map(|finding| finding.code).collect();
    assert_eq!(rules, ["StageNameCasing", "MaintainerDeprecated"]);
}

#[test]
fn only_the_stages_of_the_target_are_checked_in_a_build() {
    let dockerfile = "FROM scratch AS a\nENV a b\nFROM scratch AS b\nENV c d\n";
    let found = |options: LowerOptions| of_rule("LegacyKeyValueFormat", &run(dockerfile, &options));
    assert_eq!(found(options()).len(), 1);
    let target = Some("a".to_owned());
    assert!(
        found(LowerOptions {
            target,
            ..options()
        })[0]
            .starts_with("2 ")
    );
    let all_stages = true;
    assert_eq!(
        found(LowerOptions {
            all_stages,
            ..options()
        })
        .len(),
        2
    );
}

#[test]
fn triggers_are_told_at_the_from() {
    let dockerfile = "FROM scratch AS a\nONBUILD ENV x y\nFROM a\nCMD [\"a\"]\n";
    let found = run(dockerfile, &options());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("3 LegacyKeyValueFormat"), "{found:?}");
}

#[test]
fn several_platforms_are_checked_once() {
    let mut options = options();
    options.platforms.push(Platform::new("linux", "arm64", ""));
    assert_eq!(run("FROM scratch\nENV a b\n", &options).len(), 1);
}

#[test]
fn the_error_names_each_rule_once() {
    let parsed = parser::parse("FROM scratch as A\nMAINTAINER x\nMAINTAINER y\n");
    let found = checks::file(&parsed, &options()).unwrap();
    assert_eq!(
        checks::violations(&found).as_deref(),
        Some("lint violation found for rules: StageNameCasing, FromAsCasing, MaintainerDeprecated")
    );
    assert_eq!(checks::violations(&[]), None);
    assert_eq!(
        checks::short(&found[0]),
        "StageNameCasing: Stage name 'A' should be lowercase (line 1)"
    );
}

#[test]
fn pages_are_named_after_rules() {
    let page = |name: &str| checks::rule(name).unwrap().url();
    for (name, part) in [
        ("JSONArgsRecommended", "json-args-recommended"),
        ("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env"),
        ("UndefinedVar", "undefined-var"),
    ] {
        assert_eq!(
            page(name),
            format!("https://docs.docker.com/go/dockerfile/rule/{part}/")
        );
    }
}

/// Pages that people read: one a rule, each with its name at the head, its examples, and how to skip it.
#[test]
fn every_rule_has_a_page_and_every_page_a_rule() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks");
    let mut pages = BTreeSet::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        pages.insert(name.strip_suffix(".md").unwrap().to_owned());
    }
    let index = std::fs::read_to_string(dir.join("README.md")).unwrap();
    assert!(pages.remove("README"));
    let rules: BTreeSet<String> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
    assert_eq!(pages, rules);
    for rule in RULES {
        let name = rule.name;
        assert!(
            index.contains(&format!("| [{name}]({name}.md) |")),
            "{name}"
        );
        let page = std::fs::read_to_string(dir.join(format!("{name}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        // The examples are what they say they are, as far as the file alone decides.
        let examples: Vec<&str> = page
            .split("```dockerfile\n")
            .skip(1)
            .take(2)
            .map(|rest| rest.split("```").next().unwrap())
            .collect();
        let options = LowerOptions {
            all_stages: true,
            ignored: IgnoredFiles::new(|path| path.ends_with(".tmp")),
            ..options()
        };
        if name == "InvalidBaseImagePlatform" {
            continue;
        }
        let found = |text: &str| of_rule(name, &run(text, &options));
        assert!(!found(examples[0]).is_empty(), "{name}: bad example");
        assert!(found(examples[1]).is_empty(), "{name}: good example");
    }
}
