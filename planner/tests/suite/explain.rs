//! Why steps are not cached: pairs of builds, and what is said of the second.

use crate::build::{build, options_of};
use planner::explain::{
    Cause, Change, Ended, Evidence, FileChanges, Kind, Lost, Memo, ReadFile, Reason, compare_files,
    keep_recorded, reads_context, reasons,
};
use planner::key::{CacheKey, ContentId, definition_key};
use std::fmt::Write as _;

/// Path, mode, content.
type File = (&'static str, u32, &'static str);

const FILES: &[File] = &[
    ("src", 0o040_755, ""),
    ("src/a", 0o100_644, "aa"),
    ("src/b", 0o100_644, "bb"),
    ("src/link", 0o120_777, "a"),
];

fn digest(files: &[File]) -> ContentId {
    let mut bytes = [0_u8; 32];
    for (index, byte) in format!("{files:?}").bytes().enumerate() {
        bytes[index % 32] = bytes[index % 32].wrapping_mul(31).wrapping_add(byte);
    }
    ContentId(bytes)
}

/// What is remembered of a build of this text, all of whose steps ended well.
fn memos(text: &str, files: &[File]) -> Vec<Memo> {
    let (plan, _) = build(text, &options_of(text)).unwrap();
    let mut memos: Vec<Memo> = Vec::new();
    for step in &plan.steps {
        let inputs: Vec<CacheKey> = step
            .inputs
            .iter()
            .map(|input| memos[input.0 as usize].key)
            .collect();
        let source = reads_context(step).then(|| digest(files));
        let key = definition_key(step, &inputs, source.as_ref());
        let mut memo = Memo::of(step, key, source.as_ref());
        memo.ended = Ended::Cached;
        memos.push(memo);
    }
    memos
}

struct Known<'a> {
    old: &'a [File],
    new: &'a [File],
    lost: Lost,
}

fn read<'a>(files: &'a [File]) -> Vec<ReadFile<'a>> {
    let file = |(path, mode, content): &'a File| ReadFile {
        path,
        mode: *mode,
        content,
    };
    files.iter().map(file).collect()
}

impl Evidence for Known<'_> {
    fn files(&self, _past: &Memo, _now: usize) -> Option<FileChanges> {
        Some(compare_files(&read(self.old), &read(self.new)))
    }

    fn lost(&self, _now: usize) -> Lost {
        self.lost
    }
}

/// The reasons for those steps of the second build whose key the first does not have, or that are not looked up.
fn compare(old: (&str, &[File]), new: (&str, &[File])) -> (Vec<Memo>, Vec<Option<Reason>>) {
    let (past, now) = (memos(old.0, old.1), memos(new.0, new.1));
    let mut missed: Vec<bool> = Vec::new();
    for memo in &now {
        let stale = memo.no_cache || memo.inputs.iter().any(|input| missed[*input]);
        missed.push(stale || past.iter().all(|old| old.key != memo.key));
    }
    let known = Known {
        old: old.1,
        new: new.1,
        lost: Lost::Record,
    };
    let reasons = reasons(&past, &now, &missed, &known);
    (now, reasons)
}

fn told(now: &[Memo], reasons: &[Option<Reason>]) -> String {
    let mut text = String::new();
    for (memo, reason) in now.iter().zip(reasons) {
        let Some(reason) = reason else { continue };
        let _ = writeln!(text, "  {}", memo.text.replace('\n', "\\n"));
        let _ = writeln!(text, "    {:?}: {}", reason.cause, reason.phrase);
        for field in &reason.fields {
            let (old, new) = (field.old.as_deref(), field.new.as_deref());
            let _ = writeln!(text, "    {}: {old:?} -> {new:?}", field.name);
        }
        if !reason.parents.is_empty() {
            let parents: Vec<&str> = reason
                .parents
                .iter()
                .map(|parent| now[*parent].text.as_str())
                .collect();
            let _ = writeln!(text, "    by way of: {}", parents.join(" < "));
        }
    }
    text
}

const BASE: &str =
    "FROM busybox AS one\nARG N=1\nENV E=x\nCOPY src /src\nRUN make\nFROM one\nRUN test\n";

/// What is replaced by what.
type Edits = &'static [(&'static str, &'static str)];

/// A title, what is changed in [`BASE`], and the files of the second build.
const DOCKERFILES: &[(&str, Edits, &[File])] = &[
    ("nothing", &[], FILES),
    ("an argument", &[("N=1", "N=2")], FILES),
    ("an argument is new", &[("ENV E", "ARG M=3\nENV E")], FILES),
    ("an argument is gone", &[("ARG N=1\n", "")], FILES),
    ("a variable", &[("E=x", "E=y")], FILES),
    ("a command", &[("make", "make -j")], FILES),
    (
        "the form of a command",
        &[("make", "[\"make\", \"all\"]")],
        FILES,
    ),
    (
        "a long command",
        &[(
            "make",
            "make && make install && make check && make clean && make distclean",
        )],
        FILES,
    ),
    (
        "the shell",
        &[("COPY", "SHELL [\"/bin/bash\", \"-c\"]\nCOPY")],
        FILES,
    ),
    ("the user", &[("RUN make", "USER app\nRUN make")], FILES),
    (
        "a mount",
        &[("RUN make", "RUN --mount=type=cache,target=/c make")],
        FILES,
    ),
    (
        "the network",
        &[("RUN make", "RUN --network=none make")],
        FILES,
    ),
    (
        "flags of a copy",
        &[("COPY src", "COPY --chown=1:1 --chmod=600 src")],
        FILES,
    ),
    ("the destination of a copy", &[("/src", "/dst")], FILES),
    ("another base", &[("busybox", "debian")], FILES),
    (
        "another platform",
        &[("FROM busybox", "FROM --platform=linux/arm64 busybox")],
        FILES,
    ),
    (
        "a new instruction",
        &[("RUN make", "RUN first\nRUN make")],
        FILES,
    ),
    ("an instruction gone", &[("RUN make\n", "")], FILES),
    (
        "two instructions change places",
        &[("COPY src /src\nRUN make", "RUN make\nCOPY src /src")],
        FILES,
    ),
    (
        "a working directory",
        &[("RUN make", "WORKDIR /w\nRUN make")],
        FILES,
    ),
    (
        "no cache",
        &[("FROM busybox", "# options: --no-cache\nFROM busybox")],
        FILES,
    ),
    (
        "no cache for a stage",
        &[(
            "FROM busybox",
            "# options: --no-cache-filter one\nFROM busybox",
        )],
        FILES,
    ),
    (
        "a bound context",
        &[("RUN make", "RUN --mount=type=bind,target=/ctx make")],
        FILES,
    ),
    (
        "a mode",
        &[],
        &[
            ("src", 0o040_755, ""),
            ("src/a", 0o100_664, "aa"),
            ("src/b", 0o100_644, "bb"),
            ("src/link", 0o120_777, "a"),
        ],
    ),
    (
        "a mode that Git keeps",
        &[],
        &[
            ("src", 0o040_755, ""),
            ("src/a", 0o100_755, "aa"),
            ("src/b", 0o100_644, "bb"),
            ("src/link", 0o120_777, "a"),
        ],
    ),
    (
        "files",
        &[],
        &[
            ("src", 0o040_755, ""),
            ("src/b", 0o120_777, "a"),
            ("src/c", 0o100_644, "cc"),
            ("src/link", 0o120_777, "b"),
        ],
    ),
    (
        "files and an argument",
        &[("N=1", "N=2")],
        &[("src", 0o040_755, "")],
    ),
];

#[test]
fn explanations_are_as_recorded() {
    let mut text = String::new();
    for (title, edits, files) in DOCKERFILES {
        let mut changed = BASE.to_owned();
        for (from, to) in *edits {
            assert!(changed.contains(from), "{title}");
            changed = changed.replace(from, to);
        }
        let (now, reasons) = compare((BASE, FILES), (&changed, files));
        let _ = write!(text, "{title}\n{}", told(&now, &reasons));
    }
    insta::with_settings!({ omit_expression => true }, {
        insta::assert_snapshot!("explanations", text);
    });
}

#[test]
fn a_bound_context_that_changed_is_told_at_its_user() {
    let text = "FROM busybox\nRUN --mount=type=bind,target=/ctx make\n";
    let (now, reasons) = compare(
        (text, FILES),
        (text, &[("src", 0o040_755, ""), ("src/a", 0o100_644, "new")]),
    );
    let run = now.iter().position(|memo| memo.kind == Kind::Run).unwrap();
    let reason = reasons[run].as_ref().unwrap();
    assert_eq!(reason.cause, Cause::Parent);
    assert!(
        reason.phrase.contains("src/a (content)"),
        "{}",
        reason.phrase
    );
}

#[test]
fn the_first_build_has_nothing_to_compare_with() {
    let now = memos(BASE, FILES);
    let known = Known {
        old: FILES,
        new: FILES,
        lost: Lost::Record,
    };
    let missed = vec![true; now.len()];
    assert!(
        reasons(&[], &now, &missed, &known)
            .iter()
            .all(Option::is_none)
    );
}

/// The cause for the last step, where its key is as before and yet it missed.
fn cause_of_last(ended: Ended, lost: Lost) -> Cause {
    let now = memos(BASE, FILES);
    let mut past = now.clone();
    past.last_mut().unwrap().ended = ended;
    let mut missed = vec![false; now.len()];
    *missed.last_mut().unwrap() = true;
    let known = Known {
        old: FILES,
        new: FILES,
        lost,
    };
    let found = reasons(&past, &now, &missed, &known);
    found.last().unwrap().as_ref().unwrap().cause
}

#[test]
fn what_the_store_lost_and_what_failed() {
    assert_eq!(cause_of_last(Ended::Ran, Lost::Record), Cause::RecordGone);
    assert_eq!(cause_of_last(Ended::Cached, Lost::Layer), Cause::LayerGone);
    assert_eq!(cause_of_last(Ended::Failed, Lost::Record), Cause::Failed);
    assert_eq!(cause_of_last(Ended::Waiting, Lost::Record), Cause::Stopped);
}

#[test]
fn a_base_that_is_only_not_here_is_no_miss_to_explain() {
    let now = memos(BASE, FILES);
    let mut missed = vec![false; now.len()];
    missed[0] = true;
    let known = Known {
        old: FILES,
        new: FILES,
        lost: Lost::Record,
    };
    assert_eq!(reasons(&now, &now, &missed, &known)[0], None);
}

/// A build that failed keeps what was known of the results before it.
#[test]
fn a_failed_build_does_not_forget() {
    let first = memos(BASE, FILES);
    let failing = BASE.replace("make", "make broken");
    let mut second = memos(&failing, FILES);
    let run = second
        .iter()
        .position(|memo| memo.text == "RUN make broken")
        .unwrap();
    second[run].ended = Ended::Failed;
    for memo in &mut second[run + 1..] {
        memo.ended = Ended::Waiting;
    }
    let failed_under = second[run].key;
    keep_recorded(&first, &mut second);
    assert_eq!(second[run].key, first[run].key);
    assert_eq!(second[run].failed, Some(failed_under));

    let known = Known {
        old: FILES,
        new: FILES,
        lost: Lost::Record,
    };
    let again = memos(&failing, FILES);
    let mut missed = vec![false; again.len()];
    missed[run] = true;
    let reason = reasons(&second, &again, &missed, &known)[run]
        .clone()
        .unwrap();
    assert_eq!(reason.cause, Cause::Failed);

    let mended = memos(&BASE.replace("make", "make mended"), FILES);
    let reason = reasons(&second, &mended, &missed, &known)[run]
        .clone()
        .unwrap();
    assert_eq!(reason.phrase, "command make -> make mended");
}

#[test]
fn ten_thousand_changes_are_kept_and_all_are_counted() {
    let names: Vec<String> = (0..12_000).map(|number| format!("f{number:05}")).collect();
    let files = |content: &'static str| -> Vec<ReadFile<'_>> {
        names
            .iter()
            .map(|path| ReadFile {
                path,
                mode: 0o100_644,
                content,
            })
            .collect()
    };
    let changes = compare_files(&files("old"), &files("new"));
    assert_eq!((changes.total, changes.count), (12_000, 12_000));
    assert_eq!(changes.changed.len(), 10_000);
    assert_eq!(changes.changed[0].changes, [Change::Content]);
    assert!(!changes.modes_only);
}
