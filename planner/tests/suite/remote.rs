//! ADD of what is elsewhere: the steps it becomes, their keys, and its mistakes.

use crate::build::{build, check, options, plan_of};
use crate::common::step;
use planner::key::{CacheKey, ContentId, definition_key};
use planner::plan::{CopyFrom, CopyOp, CopySource, Op, Plan};
use planner::source::{GitMtime, GitSource, HttpSource};

fn copies(plan: &Plan) -> Vec<&CopyOp> {
    let mut copies = Vec::new();
    for step in &plan.steps {
        if let Op::Copy(copy) = &step.op {
            copies.push(copy);
        }
    }
    copies
}

fn error(line: &str) -> String {
    let errors = build(&format!("FROM scratch\n{line}"), &options()).expect_err(line);
    assert_eq!(errors[0].lines.map(|lines| lines.start), Some(2), "{line}");
    errors[0].message.clone()
}

#[test]
fn ac22_urls_become_steps_of_their_own() {
    let plan = plan_of(
        "FROM scratch\nARG V=1\nADD --chmod=755 http://h/a-$V.tar local /d/\nADD http://h/a-1.tar http://h/ /e/",
    );
    check(&plan);
    let names: Vec<&str> = plan
        .steps
        .iter()
        .map(|step| step.origin.name.as_str())
        .collect();
    assert_eq!(names[0], "http://h/a-1.tar", "{names:?}");
    assert_eq!(plan.steps.len(), 4, "equal sources are one step: {names:?}");
    let [first, second] = copies(&plan)[..] else {
        panic!("two copies: {names:?}");
    };
    assert_eq!(first.from, CopyFrom::Context("context".to_owned()));
    assert_eq!(second.from, CopyFrom::Scratch);
    let remote = |path: &str, input| CopySource::Input {
        input,
        path: path.to_owned(),
        unpack: false,
    };
    assert_eq!(
        first.sources,
        [remote("a-1.tar", 0), CopySource::Path("local".to_owned())]
    );
    assert_eq!(second.sources, [remote("a-1.tar", 1), remote("*", 2)]);
    let history = plan.targets[0].history.iter();
    let texts: Vec<&str> = history
        .filter_map(|entry| entry.created_by.as_deref())
        .filter(|text| text.starts_with("ADD"))
        .collect();
    assert_eq!(
        texts,
        [
            "ADD --chmod=755 http://h/a-1.tar local /d/ # buildkit",
            "ADD http://h/a-1.tar http://h/ /e/ # buildkit"
        ]
    );
}

#[test]
fn ac21_urls_are_unpacked_only_when_asked() {
    for (flag, expected) in [
        ("", false),
        ("--unpack=true ", true),
        ("--unpack ", true),
        ("--unpack=false ", false),
    ] {
        let plan = plan_of(&format!("FROM scratch\nADD {flag}http://h/a.tar /\n"));
        assert!(
            matches!(&copies(&plan)[0].sources[..], [CopySource::Input { unpack, .. }] if *unpack == expected),
            "{flag}"
        );
    }
}

#[test]
fn ac24_git_repositories_become_steps_of_their_own() {
    let plan = plan_of(
        "FROM scratch\nADD --keep-git-dir=true https://h/x.git#v1 /a\nADD git@h:x.git?subdir=s&submodules=false&mtime=commit /b",
    );
    check(&plan);
    let sources: Vec<&GitSource> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.op {
            Op::Git(git) => Some(git),
            _ => None,
        })
        .collect();
    let [first, second] = sources[..] else {
        panic!("two repositories: {sources:?}");
    };
    assert!(first.keep_git_dir && first.submodules);
    assert_eq!(first.reference, "v1");
    assert!(!second.keep_git_dir && !second.submodules);
    assert_eq!(
        (second.subdir.as_str(), second.mtime),
        ("s", GitMtime::Commit)
    );
}

#[test]
fn ac26_mistakes() {
    let sum = "0".repeat(64);
    for (line, message) in [
        ("COPY http://h/x /", "source can't be a URL for COPY"),
        (
            "COPY https://h/x.git /",
            "source can't be a git ref for COPY",
        ),
        ("COPY git@h:x.git /", "source can't be a git ref for COPY"),
        (
            "ADD --checksum=sha256:00 a b",
            "checksum requires HTTP(S) or Git sources",
        ),
        (
            "ADD --checksum=sha256:00 http://h/a http://h/b /x/",
            "checksum can't be specified for multiple sources",
        ),
        (
            "ADD --checksum=sha256:00 http://h/a /",
            "invalid checksum digest length",
        ),
        (
            "ADD --checksum=00 http://h/a /",
            "invalid checksum digest format",
        ),
        (
            "ADD --checksum=ab https://h/x.git?checksum=cd /",
            "checksum mismatch \"ab\" != \"cd\"",
        ),
        (
            "ADD --keep-git-dir=false https://h/x.git?keep-git-dir=true /",
            "inconsistent keep-git-dir configuration",
        ),
        (
            "ADD https://h/x.git?tag=a#b /",
            "ref conflicts: \"b\" vs \"refs/tags/a\"",
        ),
        ("ADD https://h/x.git?nope=a /", "unexpected query \"nope\""),
    ] {
        assert_eq!(error(line), message, "{line}");
    }
    let line = format!("ARG C=sha256:{sum}\nADD --checksum=$C http://h/a /");
    let plan = plan_of(&format!("FROM scratch\n{line}"));
    let expected = Op::Http(HttpSource {
        url: "http://h/a".to_owned(),
        checksum: Some(format!("sha256:{sum}")),
        filename: Some("a".to_owned()),
    });
    assert_eq!(plan.steps[0].op, expected);
}

#[test]
fn passwords_are_neither_in_names_nor_in_history() {
    let plan =
        plan_of("FROM scratch\nADD http://me:hunter2@h/x /x\nADD https://hunter2@h/y.git /y\n");
    let shown: Vec<&str> = plan
        .steps
        .iter()
        .map(|step| step.origin.name.as_str())
        .chain(
            plan.targets[0]
                .history
                .iter()
                .filter_map(|entry| entry.created_by.as_deref()),
        )
        .collect();
    assert!(
        shown.iter().all(|text| !text.contains("hunter2")),
        "{shown:?}"
    );
    assert!(!format!("{plan:?}").contains("hunter2"));
}

#[test]
fn ca07_sources_are_known_by_what_they_bring() {
    let key = |op: Op, content: u8| {
        definition_key(&step(0, op, &[]), &[], Some(&ContentId([content; 32])))
    };
    let http = |url: &str| {
        Op::Http(HttpSource {
            url: url.to_owned(),
            checksum: None,
            filename: None,
        })
    };
    assert_eq!(key(http("http://a/x"), 1), key(http("http://b/x"), 1));
    assert_ne!(key(http("http://a/x"), 1), key(http("http://a/x"), 2));
    let git = |change: &dyn Fn(&mut GitSource)| {
        let mut source = GitSource {
            remote: "https://h/x.git".to_owned(),
            reference: "main".to_owned(),
            checksum: None,
            subdir: String::new(),
            keep_git_dir: false,
            submodules: true,
            mtime: GitMtime::Checkout,
            fetch_by_commit: false,
        };
        change(&mut source);
        key(Op::Git(source), 1)
    };
    let original = git(&|_| {});
    assert_eq!(
        original,
        git(&|source| source.remote = "git@h:x".to_owned())
    );
    assert_eq!(original, git(&|source| source.reference = "v1".to_owned()));
    let changes: [CacheKey; 5] = [
        git(&|source| source.subdir = "s".to_owned()),
        git(&|source| source.keep_git_dir = true),
        git(&|source| source.submodules = false),
        git(&|source| source.mtime = GitMtime::Commit),
        git(&|source| {
            source.keep_git_dir = true;
            source.remote = "git@h:x".to_owned();
        }),
    ];
    for (index, change) in changes.iter().enumerate() {
        assert_ne!(*change, original, "{index}");
        assert!(!changes[..index].contains(change), "{index}");
    }
}
