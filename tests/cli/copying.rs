//! COPY and ADD as users write them: what lands where, with which attributes, and what is refused. The rules of placing
//! in all their corners are tested in `executor`.

use crate::support::{Project, Run, with_busybox};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use testkit::Kind;

/// Builds this Dockerfile; the files of the result as `path mode uid:gid size`, folders with a slash, links with an arrow.
fn built(project: &Project, dockerfile: &str) -> Result<Vec<String>, Run> {
    project.write("Dockerfile", dockerfile);
    let dest = project.path("out.tar");
    let output = format!("type=tar,dest={}", dest.display());
    let run = project.build(&["-o", &output]);
    if run.status != 0 {
        return Err(run);
    }
    let mut lines: Vec<String> = testkit::tar_entries(&dest)
        .unwrap()
        .into_iter()
        .filter(|entry| entry.path != ".")
        .map(|entry| {
            let (mode, owner) = (entry.mode, format!("{}:{}", entry.uid, entry.gid));
            match (entry.kind, entry.link) {
                (Kind::Dir, _) => format!("{}/ {mode:o} {owner}", entry.path),
                (_, Some(link)) => format!("{} -> {link}", entry.path),
                _ => format!("{} {mode:o} {owner} {}", entry.path, entry.size),
            }
        })
        .collect();
    lines.sort();
    Ok(lines)
}

/// A Dockerfile from scratch and what it gives, or what its error says.
type Case<'a> = (&'a str, Result<&'a [&'a str], &'a str>);

#[track_caller]
fn check(project: &Project, cases: &[Case<'_>]) {
    for (dockerfile, expected) in cases {
        let found = built(project, &format!("FROM scratch\n{dockerfile}\n"));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, *expected, "{dockerfile}"),
            (Err(run), Err(says)) => {
                assert!(run.stderr.contains(says), "{dockerfile}\n{}", run.stderr);
            }
            (Ok(found), Err(_)) => panic!("{dockerfile} is built: {found:?}"),
            (Err(run), Ok(_)) => panic!("{dockerfile}\n{}", run.stderr),
        }
    }
}

/// Files of 1, 2, 3 ... bytes, so that sizes tell them apart.
fn project() -> Project {
    let project = Project::new("FROM scratch\n");
    for (path, content) in [
        ("a.txt", "1"),
        ("b.txt", "22"),
        ("with space", "333"),
        ("d/one", "4444"),
        ("d/sub/two", "55555"),
        ("e/one", "666666"),
        ("arr[0].txt", "7777777"),
    ] {
        let path = project.write(path, content);
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    }
    for folder in ["d", "d/sub", "e"] {
        mode(&project, folder, 0o755);
    }
    project
}

fn mode(project: &Project, path: &str, mode: u32) {
    let path = project.path("context").join(path);
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn link(project: &Project, target: &str, path: &str) {
    symlink(target, project.path("context").join(path)).unwrap();
}

/// Several sources to a name without a slash: the classic builder refused that; here, as in BuildKit, the last one wins.
#[test]
fn ac01_ac02_words_json_and_several_sources() {
    let several: &[&str] = &["x/ 755 0:0", "x/a.txt 644 0:0 1", "x/b.txt 644 0:0 2"];
    check(
        &project(),
        &[
            ("COPY a.txt /x", Ok(&["x 644 0:0 1"])),
            (
                "COPY [\"with space\", \"/to here\"]",
                Ok(&["to here 644 0:0 3"]),
            ),
            (
                "ADD [\"with space\", \"/to here\"]",
                Ok(&["to here 644 0:0 3"]),
            ),
            ("COPY a.txt b.txt /x/", Ok(several)),
            ("COPY ?.txt /x/", Ok(several)),
            ("COPY a.txt b.txt /x", Ok(&["x 644 0:0 2"])),
            ("ADD a.txt b.txt /x", Ok(&["x 644 0:0 2"])),
            ("COPY a.txt", Err("COPY requires at least two arguments")),
        ],
    );
}

#[test]
fn ac03_ac04_folders_give_their_content_and_files_keep_their_place() {
    let project = project();
    check(
        &project,
        &[
            (
                "COPY d /x",
                Ok(&[
                    "x/ 755 0:0",
                    "x/one 644 0:0 4",
                    "x/sub/ 755 0:0",
                    "x/sub/two 644 0:0 5",
                ]),
            ),
            (
                "COPY d e /x/",
                Ok(&[
                    "x/ 755 0:0",
                    "x/one 644 0:0 6",
                    "x/sub/ 755 0:0",
                    "x/sub/two 644 0:0 5",
                ]),
            ),
            (
                "COPY a.txt /x\nCOPY d /x",
                Err("cannot copy to non-directory: /x"),
            ),
            (
                "COPY d/sub /x\nCOPY a.txt /x",
                Ok(&["x/ 755 0:0", "x/a.txt 644 0:0 1", "x/two 644 0:0 5"]),
            ),
            (
                "COPY d /x/a.txt\nCOPY a.txt /x/",
                Err("cannot replace to directory /x/a.txt with file"),
            ),
        ],
    );
}

#[test]
fn ac05_ac06_sources_stay_in_the_context_and_wildcards_are_of_go() {
    let project = project();
    project.write("../outside", "88888888");
    link(&project, "../outside", "escape");
    check(
        &project,
        &[
            (
                "COPY /a.txt ../../b.txt /x/",
                Ok(&["x/ 755 0:0", "x/a.txt 644 0:0 1", "x/b.txt 644 0:0 2"]),
            ),
            ("COPY a.txt/ /x", Ok(&["x 644 0:0 1"])),
            ("COPY ../outside /x", Err("\"/outside\": not found")),
            ("COPY escape /x", Err("\"/escape\": not found")),
            (
                "COPY [a-b].tx? /x/",
                Ok(&["x/ 755 0:0", "x/a.txt 644 0:0 1", "x/b.txt 644 0:0 2"]),
            ),
            (
                "COPY [^a].txt /x/",
                Ok(&["x/ 755 0:0", "x/b.txt 644 0:0 2"]),
            ),
            (
                "COPY arr[[]0].txt /x/",
                Ok(&["x/ 755 0:0", "x/arr[0].txt 644 0:0 7"]),
            ),
            ("COPY \\a.txt /x", Ok(&["x 644 0:0 1"])),
            (
                "COPY a.txt nothing*  /x/",
                Ok(&["x/ 755 0:0", "x/a.txt 644 0:0 1"]),
            ),
            ("COPY nothing /x/", Err("\"/nothing\": not found")),
        ],
    );
}

#[test]
fn ac07_ac08_destinations_and_attributes() {
    let project = project();
    mode(&project, "a.txt", 0o4751);
    mode(&project, "d", 0o2770);
    check(
        &project,
        &[
            (
                "WORKDIR /w\nCOPY a.txt rel/to\nCOPY b.txt ./",
                Ok(&[
                    "w/ 755 0:0",
                    "w/b.txt 644 0:0 2",
                    "w/rel/ 755 0:0",
                    "w/rel/to 4751 0:0 1",
                ]),
            ),
            (
                "COPY --chown=7:8 d /p/q",
                Ok(&[
                    "p/ 755 7:8",
                    "p/q/ 755 7:8",
                    "p/q/one 644 7:8 4",
                    "p/q/sub/ 755 7:8",
                    "p/q/sub/two 644 7:8 5",
                ]),
            ),
        ],
    );
    project.write(".dockerignore", "*\n!d\n");
    check(
        &project,
        &[(
            "COPY . /all/",
            Ok(&[
                "all/ 755 0:0",
                "all/d/ 2770 0:0",
                "all/d/one 644 0:0 4",
                "all/d/sub/ 755 0:0",
                "all/d/sub/two 644 0:0 5",
            ]),
        )],
    );
}

#[test]
fn ac09_links_are_followed_when_they_are_named() {
    let project = project();
    link(&project, "a.txt", "file-link");
    link(&project, "d", "dir-link");
    link(&project, "../one", "d/sub/up");
    check(
        &project,
        &[
            ("COPY file-link /x", Ok(&["x 644 0:0 1"])),
            (
                "COPY dir-link /x",
                Ok(&[
                    "x/ 755 0:0",
                    "x/one 644 0:0 4",
                    "x/sub/ 755 0:0",
                    "x/sub/two 644 0:0 5",
                    "x/sub/up -> ../one",
                ]),
            ),
            (
                "COPY d/sub /s\nCOPY <<EOF /s/new\nx\nEOF\nCOPY a.txt /s/up2",
                Ok(&[
                    "s/ 755 0:0",
                    "s/new 644 0:0 2",
                    "s/two 644 0:0 5",
                    "s/up -> ../one",
                    "s/up2 644 0:0 1",
                ]),
            ),
        ],
    );
}

#[test]
fn ac10_ac11_special_files_and_names() {
    let project = project();
    let folder = project.path("context/s");
    std::fs::create_dir(&folder).unwrap();
    mode(&project, "s", 0o755);
    std::fs::write(folder.join("größe ☂"), "x").unwrap();
    std::fs::set_permissions(folder.join("größe ☂"), PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::hard_link(folder.join("größe ☂"), folder.join("hard")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap());
    let fifo = rustix::fs::Mode::from(0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, folder.join("fifo"), fifo).unwrap();
    let found =
        built(&project, "FROM scratch\nCOPY s /x\n").unwrap_or_else(|run| panic!("{}", run.stderr));
    assert_eq!(
        found,
        [
            "x/ 755 0:0",
            "x/fifo 600 0:0 0",
            "x/größe ☂ 644 0:0 1",
            "x/hard -> x/größe ☂"
        ]
    );
}

#[test]
fn ac12_heredocs_are_files() {
    check(
        &project(),
        &[
            (
                "ARG V=abc\nCOPY <<one <<-\"two\" a.txt /x/\n$V\none\n\t$V\n\ttwo\n",
                Ok(&[
                    "x/ 755 0:0",
                    "x/a.txt 644 0:0 1",
                    "x/one 644 0:0 4",
                    "x/two 644 0:0 3",
                ]),
            ),
            ("COPY <<EOF /file\n\nEOF\n", Ok(&["file 644 0:0 1"])),
            (
                "COPY --chmod=755 --chown=1 <<EOF /file\nEOF\n",
                Ok(&["file 755 1:1 0"]),
            ),
            ("ADD <<EOF /file\n12\nEOF\n", Ok(&["file 644 0:0 3"])),
        ],
    );
}

#[test]
fn ac13_from_stages_and_contexts() {
    let project = project();
    for (dockerfile, expected) in [
        (
            "FROM scratch AS s\nCOPY d /d\nFROM scratch\nCOPY --from=s /d/one /x\n",
            "x 644 0:0 4",
        ),
        (
            "FROM scratch\nCOPY d /d\nFROM scratch\nCOPY --from=0 d/sub/two /x\n",
            "x 644 0:0 5",
        ),
        (
            "FROM scratch AS Up\nCOPY a.txt /\nFROM scratch\nCOPY --from=uP a.txt /x\n",
            "x 644 0:0 1",
        ),
    ] {
        let found = built(&project, dockerfile).unwrap_or_else(|run| panic!("{}", run.stderr));
        assert_eq!(found, [expected], "{dockerfile}");
    }
    let run = built(
        &project,
        "ARG S=s\nFROM scratch AS s\nFROM scratch\nCOPY --from=$S / /\n",
    );
    let stderr = run.unwrap_err().stderr;
    assert!(
        stderr.contains("variable expansion is not supported for --from"),
        "{stderr}"
    );
    // An image.
    project.write(
        "Dockerfile",
        "FROM scratch\nCOPY --from=busybox /bin/busybox /x\n",
    );
    let layout = with_busybox();
    project.build(&[&layout[0], &layout[1]]).ok();
}

#[test]
fn ac14_names_of_owners_are_those_of_the_stage() {
    let project = project();
    project.write(
        "passwd",
        "root:x:0:0::/root:/bin/sh\napp:x:7:8::/:/bin/sh\n",
    );
    project.write("group", "root:x:0:\nstaff:x:50:\n");
    let accounts = "COPY passwd group /etc/\n";
    for (owner, expected) in [
        ("app", Ok("x 644 7:8 1")),
        ("app:staff", Ok("x 644 7:50 1")),
        (":staff", Ok("x 644 0:50 1")),
        ("9", Ok("x 644 9:9 1")),
        ("9:staff", Ok("x 644 9:50 1")),
        ("nobody-here", Err("nobody-here")),
    ] {
        let dockerfile =
            format!("FROM scratch\n{accounts}ARG O={owner}\nCOPY --chown=$O a.txt /x\n");
        match (built(&project, &dockerfile), expected) {
            (Ok(found), Ok(line)) => assert_eq!(found.last().unwrap(), line, "{owner}"),
            (Err(run), Err(says)) => assert!(run.stderr.contains(says), "{}", run.stderr),
            (Ok(found), Err(_)) => panic!("{owner}: {found:?}"),
            (Err(run), Ok(_)) => panic!("{owner}: {}", run.stderr),
        }
    }
}

#[test]
fn ac15_ac16_modes_are_octal_or_symbolic() {
    let project = project();
    mode(&project, "a.txt", 0o640);
    let wrong = "invalid chmod parameter";
    check(
        &project,
        &[
            ("COPY --chmod=755 a.txt /x", Ok(&["x 755 0:0 1"])),
            (
                "ARG M=04711\nCOPY --chmod=${M} a.txt /x",
                Ok(&["x 4711 0:0 1"]),
            ),
            ("COPY --chmod=+x a.txt /x", Ok(&["x 751 0:0 1"])),
            ("COPY --chmod=u=rwX,go=rX a.txt /x", Ok(&["x 644 0:0 1"])),
            ("COPY --chmod=g=u,o-rwx a.txt /x", Ok(&["x 660 0:0 1"])),
            ("ADD --chmod=a-w a.txt /x", Ok(&["x 440 0:0 1"])),
            ("COPY --chmod=u+s a.txt /x", Ok(&["x 4640 0:0 1"])),
            (
                "COPY --chmod=go-rwx,u=rwX d/sub /x",
                Ok(&["x/ 755 0:0", "x/two 600 0:0 5"]),
            ),
            ("COPY --chmod=abc a.txt /x", Err(wrong)),
            ("COPY --chmod=999 a.txt /x", Err(wrong)),
        ],
    );
}

#[test]
fn ac17_linked_layers_know_nothing_below() {
    let project = project();
    link(&project, "d", "to-d");
    let below = "COPY d /d\nCOPY <<EOF /w/x\nEOF\n";
    check(
        &project,
        &[
            (
                // Without --link the destination is what is there.
                &format!("{below}COPY --chmod=700 a.txt /w/"),
                Ok(&[
                    "d/ 755 0:0",
                    "d/one 644 0:0 4",
                    "d/sub/ 755 0:0",
                    "d/sub/two 644 0:0 5",
                    "w/ 755 0:0",
                    "w/a.txt 700 0:0 1",
                    "w/x 644 0:0 0",
                ]),
            ),
            (
                &format!("{below}COPY --link --chown=5:5 a.txt /w/"),
                Ok(&[
                    "d/ 755 0:0",
                    "d/one 644 0:0 4",
                    "d/sub/ 755 0:0",
                    "d/sub/two 644 0:0 5",
                    "w/ 755 5:5",
                    "w/a.txt 644 5:5 1",
                    "w/x 644 0:0 0",
                ]),
            ),
            (
                // What is a file below is replaced by the folder.
                "COPY a.txt /w\nCOPY --link b.txt /w/",
                Ok(&["w/ 755 0:0", "w/b.txt 644 0:0 2"]),
            ),
            (
                "COPY a.txt /w\nCOPY --link=false b.txt /w/",
                Err("mkdir /w: not a directory"),
            ),
        ],
    );
}

#[test]
fn ac18_parents_and_the_pivot() {
    let project = project();
    project.write("x/y/z/deep", "999999999");
    for folder in ["x", "x/y", "x/y/z"] {
        mode(&project, folder, 0o755);
    }
    mode(&project, "x/y/z/deep", 0o644);
    mode(&project, "d", 0o711);
    let deep: &[&str] = &[
        "p/ 755 0:0",
        "p/y/ 755 0:0",
        "p/y/z/ 755 0:0",
        "p/y/z/deep 644 0:0 9",
    ];
    check(
        &project,
        &[
            (
                "COPY --parents d/sub/two a.txt /p/",
                Ok(&[
                    "p/ 755 0:0",
                    "p/a.txt 644 0:0 1",
                    "p/d/ 711 0:0",
                    "p/d/sub/ 755 0:0",
                    "p/d/sub/two 644 0:0 5",
                ]),
            ),
            ("COPY --parents x/./y/z/deep /p/", Ok(deep)),
            ("COPY --parents ./x/./y /p/", Ok(deep)),
            (
                "COPY --parents **/one /p/",
                Ok(&[
                    "p/ 755 0:0",
                    "p/d/ 711 0:0",
                    "p/d/one 644 0:0 4",
                    "p/e/ 755 0:0",
                    "p/e/one 644 0:0 6",
                ]),
            ),
            (
                "COPY --parents x/**/deep /p/",
                Ok(&[
                    "p/ 755 0:0",
                    "p/x/ 755 0:0",
                    "p/x/y/ 755 0:0",
                    "p/x/y/z/ 755 0:0",
                    "p/x/y/z/deep 644 0:0 9",
                ]),
            ),
            (
                "COPY --parents d/nothing /p/",
                Err("\"/d/nothing\": not found"),
            ),
            (
                "COPY --parents=false d/one /p/",
                Ok(&["p/ 755 0:0", "p/one 644 0:0 4"]),
            ),
        ],
    );
}

#[test]
fn ac19_exclusions_and_their_exceptions() {
    check(
        &project(),
        &[
            (
                "COPY --exclude=**/one --exclude=*.txt --exclude=Dockerfile --exclude=with* . /x/",
                Ok(&[
                    "x/ 755 0:0",
                    "x/d/ 755 0:0",
                    "x/d/sub/ 755 0:0",
                    "x/d/sub/two 644 0:0 5",
                    "x/e/ 755 0:0",
                ]),
            ),
            (
                "COPY --exclude=* --exclude=!d/sub . /x/",
                Ok(&[
                    "x/ 755 0:0",
                    "x/d/ 755 0:0",
                    "x/d/sub/ 755 0:0",
                    "x/d/sub/two 644 0:0 5",
                ]),
            ),
            (
                "ARG E=su*\nCOPY --exclude=$E d /x/",
                Ok(&["x/ 755 0:0", "x/one 644 0:0 4"]),
            ),
            (
                "ADD --exclude=one d/ /x/",
                Ok(&["x/ 755 0:0", "x/sub/ 755 0:0", "x/sub/two 644 0:0 5"]),
            ),
            (
                "COPY --exclude=a nothing /x/",
                Err("lstat /nothing: no such file or directory"),
            ),
        ],
    );
}

#[test]
fn ac20_ac21_archives_are_told_by_content() {
    let project = project();
    let tar = testkit::archive(&[
        testkit::Entry::dir("t/").mode(0o750).owner(7, 8),
        testkit::Entry::file("t/f", "12").mode(0o600).owner(7, 8),
    ])
    .unwrap();
    project.write("plain", &tar);
    project.write("not.tar.gz", "not an archive");
    project.write("cut.tar.gz", [0x1f, 0x8b, 8, 0, 0, 0]);
    for name in ["plain", "not.tar.gz", "cut.tar.gz"] {
        mode(&project, name, 0o644);
    }
    let unpacked: &[&str] = &["x/ 755 0:0", "x/t/ 750 7:8", "x/t/f 600 7:8 2"];
    let whole = format!("x/plain 644 0:0 {}", tar.len());
    check(
        &project,
        &[
            ("ADD plain /x/", Ok(unpacked)),
            ("ADD --unpack plain /x/", Ok(unpacked)),
            (
                "ADD --chown=1:2 plain /x/",
                Ok(&["x/ 755 1:2", "x/t/ 750 1:2", "x/t/f 600 1:2 2"]),
            ),
            ("ADD --unpack=false plain /x/", Ok(&["x/ 755 0:0", &whole])),
            ("COPY plain /x/", Ok(&["x/ 755 0:0", &whole])),
            (
                "ADD not.tar.gz cut.tar.gz /x/",
                Ok(&[
                    "x/ 755 0:0",
                    "x/cut.tar.gz 644 0:0 6",
                    "x/not.tar.gz 644 0:0 14",
                ]),
            ),
        ],
    );
}

/// The image's id, and how the COPY of a second build ended.
fn again(project: &Project) -> (String, String) {
    let run = project
        .build(&["--iidfile", &project.path("id").display().to_string()])
        .ok();
    (
        std::fs::read_to_string(project.path("id")).unwrap(),
        run.step("COPY"),
    )
}

#[test]
fn ac27_content_mode_and_links_are_in_the_key_and_times_are_not() {
    let project = project();
    link(&project, "one", "d/link");
    project.write("Dockerfile", "FROM scratch\nCOPY d /x\n");
    let (first, _) = again(&project);
    let one = project.path("context/d/one");
    let touch = |path: &Path| {
        let later = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
        let file = std::fs::File::options().write(true).open(path);
        file.and_then(|file| file.set_modified(later)).unwrap();
    };
    touch(&one);
    project.write("unrelated", "x");
    assert_eq!(again(&project), (first.clone(), "CACHED".to_owned()));
    mode(&project, "d/one", 0o600);
    let (second, step) = again(&project);
    assert_ne!((&second, step.as_str()), (&first, "CACHED"));
    mode(&project, "d/one", 0o644);
    std::fs::remove_file(project.path("context/d/link")).unwrap();
    link(&project, "sub", "d/link");
    let (third, step) = again(&project);
    assert_ne!((&third, step.as_str()), (&first, "CACHED"));
    project.write("d/one", "4445");
    let (fourth, step) = again(&project);
    assert_ne!((&fourth, step.as_str()), (&third, "CACHED"));
}

#[test]
fn ac28_an_ignored_source_is_not_there() {
    let project = project();
    project.write(".dockerignore", "# comment\na.txt\nd/sub\n");
    check(
        &project,
        &[
            ("COPY a.txt /x", Err("\"/a.txt\": not found")),
            ("COPY a.txt /x", Err(".dockerignore")),
            ("ADD d/sub/two /x", Err("\"/d/sub/two\": not found")),
            ("COPY d /x/", Ok(&["x/ 755 0:0", "x/one 644 0:0 4"])),
        ],
    );
}

#[test]
fn ac29_a_dockerfile_on_standard_input_has_no_files() {
    let project = project();
    let mut command = project.command(&["build", "--progress", "plain"]);
    command.arg("-");
    let dockerfile = "FROM scratch\nCOPY a.txt /x\n";
    let run = project.run_with(command, dockerfile);
    run.fails(1, &["\"/a.txt\": not found"]);
    let mut command = project.command(&["build", "--progress", "plain"]);
    command.arg("-");
    project
        .run_with(command, "FROM scratch\nCOPY <<EOF /x\nEOF\n")
        .ok();
}
