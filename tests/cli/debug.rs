//! Sandboxes of failed steps: kept, listed, entered before and after the step's changes, and offered on a terminal.

use crate::support::{Project, Run, able, certificate, wait_until};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DOCKERFILE: &str = "\
FROM busybox AS build
RUN echo one > /one
COPY f /copied
ENV MOOD=bad
WORKDIR /w
USER 12:34
RUN --mount=type=cache,target=/c,uid=12 --mount=type=tmpfs,target=/t --mount=type=secret,id=s,uid=12,env=E \\
    echo made > /open/made; echo cached >> /c/x; rm /open/old; exit 7
";

fn failing() -> Project {
    let project = Project::new(&DOCKERFILE.replace(
        "RUN echo one",
        "RUN mkdir -m 777 -p /open && touch /open/old && chmod 777 /open/old && echo one",
    ));
    project.write("f", "content");
    fs::write(project.path("secret"), "hush").unwrap();
    project
}

/// `kiln debug` with these arguments, not on a terminal.
fn debug(project: &Project, args: &[&str]) -> Run {
    project.kiln(&[&["debug"], args].concat())
}

/// IDs of what is kept.
fn kept(project: &Project) -> Vec<String> {
    let listed = debug(project, &["--list"]).ok();
    let rows = listed.text().lines().skip(1);
    rows.map(|row| row.split(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_failed_step_can_be_entered_before_and_after_its_changes() {
    let project = failing();
    let secret = ["--secret", "id=s,src=secret"];
    let args = [&secret[..], &["--on-failure", "keep"]].concat();
    let run = project
        .build(&args)
        .fails(1, &["exit code: 7", "look inside: kiln debug "]);
    let ids = kept(&project);
    let [id] = ids.as_slice() else {
        panic!("{ids:?}")
    };
    assert!(run.stderr.contains(&format!("kiln debug {id}\n")));

    let inside = |args: &[&str]| debug(&project, args);
    let seen = inside(&[
        "--",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $MOOD; cat /open/made /c/x; ls /open; mount | grep -c ' /t '",
    ]);
    assert_eq!(seen.ok().text(), "12\n34\n/w\nbad\nmade\ncached\nmade\n1");
    // Secrets are not kept, and given again where they are wanted.
    assert_eq!(
        inside(&["--", "sh", "-c", "echo \"<$E>\""]).ok().text(),
        "<>"
    );
    let given = [&secret[..], &["--", "sh", "-c", "echo \"<$E>\""]].concat();
    assert_eq!(inside(&given).ok().text(), "<hush>");
    let kept_files = project.store().join("kept").join(id);
    let found = Command::new("grep")
        .args(["-r", "hush"])
        .arg(&kept_files)
        .output();
    assert_eq!(found.unwrap().stdout, b"", "the secret is on the disk");

    // What is done inside is thrown away.
    inside(&["--", "sh", "-c", "echo more > /open/more; rm /open/made"]).ok();
    assert_eq!(inside(&[id, "--", "ls", "/open"]).ok().text(), "made");
    assert_eq!(
        inside(&["--before", "--", "ls", "/open"]).ok().text(),
        "old"
    );
    // Earlier steps of the stage, by number or name.
    for (step, there) in [("2", "/one"), ("COPY", "/copied")] {
        let target = format!("{}:{step}", &id[..4]);
        inside(&[&target, "--", "ls", "-d", there]).ok();
        inside(&["--before", &target, "--", "ls", "-d", there]).fails(1, &["No such file"]);
    }
    inside(&[":9", "--", "true"]).fails(1, &["no step \"9\"", "[build 2/5] RUN mkdir"]);
    inside(&["--", "sh", "-c", "exit 42"]).fails(42, &[]);
    inside(&["--", "/nowhere"]).fails(127, &["/nowhere"]);
    inside(&[]).fails(2, &["a shell needs a terminal"]);

    // The build's own result is as without: nothing is taken from what was kept.
    project.build(&args).fails(1, &["exit code: 7"]);
    let newer = kept(&project);
    assert!(newer.len() == 1 && newer[0] != *id, "{newer:?}");
    project.kiln(&["prune", "--force"]).ok();
    inside(&["--", "true"]).ok();
    debug(&project, &["--rm", &newer[0][..3]]).ok();
    inside(&["--", "true"]).fails(1, &["no sandbox of a failed step is kept"]);
    assert!(
        fs::read_dir(project.store().join("kept"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn nothing_is_kept_unless_asked_for() {
    let project = failing();
    for args in [&[][..], &["--on-failure", "fail"]] {
        let run = project.build(args).fails(1, &["exit code: 7"]);
        assert!(!run.stderr.contains("look inside"), "{}", run.stderr);
        assert!(kept(&project).is_empty());
    }
    project
        .build(&["--on-failure", "maybe"])
        .fails(2, &["maybe", "shell"]);
    debug(&project, &["--rm"]).fails(2, &["BUILD"]);
    debug(&project, &["deadbeef", "--", "true"]).fails(1, &["no kept sandbox \"deadbeef\""]);
    project.build(&["--on-failure", "keep"]).fails(1, &[]);
    project.kiln(&["prune", "--force", "--all"]).ok();
    assert!(kept(&project).is_empty());
}

/// What `--ca` lent to the failed step is not kept with it, and lent again to who asks.
#[test]
fn authorities_are_not_kept() {
    let bundle = "/etc/ssl/certs/ca-certificates.crt";
    let project = Project::new(&format!(
        "FROM busybox\nCOPY bundle {bundle}\n\
         RUN chmod 600 {bundle} && ln {bundle} /other && grep -c BEGIN {bundle} \"$SSL_CERT_FILE\" && exit 9\n"
    ));
    let (image, company) = (certificate(1), certificate(2));
    project.write("bundle", &image);
    let ca = project.write("ca.pem", &company);
    let lent = ["--ca", ca.to_str().unwrap()];
    for flags in [&[][..], &["--sandbox-root=copy"], &["--isolation=chroot"]] {
        let args = [&lent[..], flags, &["--on-failure=keep", "--progress=plain"]].concat();
        let counts = [
            format!("{bundle}:2"),
            "/run/kiln/ca-certificates.crt:2".to_owned(),
            "exit code: 9".to_owned(),
        ];
        let counts: Vec<&str> = counts.iter().map(String::as_str).collect();
        project.build(&args).fails(1, &counts);
        let upper = project
            .store()
            .join("kept")
            .join(&kept(&project)[0])
            .join("changes/upper");
        for name in [bundle, "/other"] {
            let kept = fs::read_to_string(upper.join(&name[1..])).unwrap();
            assert_eq!(kept, image, "{flags:?} {name}");
        }
        assert!(!upper.join("run").exists(), "{flags:?}");
        let seen = debug(&project, &["--", "grep", "-c", "BEGIN", bundle, "/other"]).ok();
        assert_eq!(seen.text(), format!("{bundle}:1\n/other:1"));
        let count = ["--", "sh", "-c", "grep -c BEGIN $SSL_CERT_FILE"];
        let seen = debug(&project, &[&lent[..], &count].concat()).ok();
        assert_eq!(seen.text(), "2");
    }
}

/// Hangs up the terminal when a test gives up.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command on a terminal, by script(1); answers are typed when what they wait for has appeared. One that begins with `!`
/// is a command that is run beside it.
fn on_terminal(project: &Project, command: &str, answers: &[(&str, &str)]) -> Run {
    let mut script = crate::support::program(Path::new("script"));
    script
        .env_remove("CI")
        .env("TERM", "vt100")
        .env("SHELL", "/bin/sh");
    script.args(["-qefc", command, "/dev/null"]);
    script.current_dir(project.path("."));
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Ended(script.spawn().unwrap());
    let mut stdin = child.0.stdin.take().unwrap();
    let mut stdout = child.0.stdout.take().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&seen);
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stdout.read(&mut buffer) {
            writer.lock().unwrap().extend_from_slice(&buffer[..read]);
        }
    });
    let mut from = 0;
    for (wanted, answer) in answers {
        let text = || String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
        let appeared = wait_until(Duration::from_secs(60), || {
            text().get(from..).is_some_and(|rest| rest.contains(wanted))
        });
        assert!(appeared, "no {wanted:?} in:\n{}", text());
        from += text()[from..].find(wanted).unwrap() + wanted.len();
        let Some(command) = answer.strip_prefix('!') else {
            stdin.write_all(answer.as_bytes()).unwrap();
            continue;
        };
        let mut beside = crate::support::program(Path::new("sh"));
        beside.args(["-c", command]).current_dir(project.path("."));
        assert!(beside.status().unwrap().success(), "{command}");
    }
    let status = child.0.wait().unwrap();
    drop(stdin);
    reader.join().unwrap();
    let text = String::from_utf8_lossy(&seen.lock().unwrap()).replace('\r', "");
    Run {
        status: status.code().unwrap(),
        stdout: Vec::new(),
        stderr: text,
    }
}

#[test]
fn a_shell_is_offered_on_a_terminal() {
    if !able(
        Path::new("/usr/bin/script").exists(),
        "script (package bsdutils)",
    ) {
        return;
    }
    let project = failing();
    let build = |flags: &str| {
        let base = crate::support::with_busybox().join(" ");
        format!(
            "{} --root {} build {base} --secret id=s,src=secret {flags} context",
            env!("CARGO_BIN_EXE_kiln"),
            project.store().display()
        )
    };
    let session = [
        ("[y/N] ", "y\n"),
        (
            "$ ",
            "cat /open/made; echo \"<$E $MOOD>\"; [ -t 0 ] && [ -t 1 ] && echo ter''minal\n",
        ),
        ("terminal", "kill -9 $$\n"),
    ];
    let run = on_terminal(&project, &build(""), &session)
        .fails(1, &["made\n<hush bad>\n", "Dockerfile:7"]);
    let report = run.stderr.find("exit code: 7").unwrap();
    assert!(report < run.stderr.find("[y/N]").unwrap(), "{}", run.stderr);
    assert_eq!(kept(&project).len(), 1);

    // No is the answer of whoever just presses enter, and of Ctrl-C.
    for answer in ["\n", "\u{3}"] {
        let run = on_terminal(&project, &build(""), &[("[y/N] ", answer)]);
        // The shell that script(1) starts gets the signal as well.
        assert!([1, 130].contains(&run.status), "{}", run.stderr);
        assert!(!run.stderr.contains("built-in shell"), "{}", run.stderr);
    }
    let run = on_terminal(&project, &build("--on-failure=fail"), &[]);
    assert!(!run.stderr.contains("[y/N]"));
    let shell = [("$ ", "exit 5\n")];
    on_terminal(
        &project,
        &build("--on-failure=shell --progress=plain"),
        &shell,
    )
    .fails(1, &[]);

    // Ctrl-C belongs to the shell and what runs in it, and the terminal is as it was afterwards.
    let debug = format!(
        "{} --root {} debug; stty -a",
        env!("CARGO_BIN_EXE_kiln"),
        project.store().display()
    );
    let keys = [
        ("$ ", "echo wait''ing; sleep 1000\n"),
        ("waiting", "\u{3}"),
        ("$ ", "echo still''here\n"),
        ("stillhere", "exit\n"),
    ];
    let run = on_terminal(&project, &debug, &keys);
    for setting in ["isig icanon", " echo "] {
        assert!(run.stderr.contains(setting), "{}", run.stderr);
    }
}

/// The terminal is one of the sandbox's own, which the shell controls jobs with, and follows the real one's size.
#[test]
fn a_shell_has_a_terminal_of_its_own() {
    if !able(
        Path::new("/usr/bin/script").exists(),
        "script (package bsdutils)",
    ) {
        return;
    }
    let project = failing();
    project.build(&["--on-failure=keep"]).fails(1, &[]);
    let kiln = format!(
        "{} --root {}",
        env!("CARGO_BIN_EXE_kiln"),
        project.store().display()
    );
    let command = format!("tty > tty; stty rows 21 cols 55; {kiln} debug; stty -a");
    let keys = [
        ("$ ", "tty; ls -ln $(tty); stty size\n"),
        ("/dev/pts/0", ""),
        ("12 ", ""),
        ("21 55", "sh -c 'echo sta''rted; exec sleep 1000'\n"),
        ("started", "\u{1a}"),
        ("Stopped", "kill -9 %1 && echo ki''lled\n"),
        ("killed", "!stty -F \"$(cat tty)\" rows 33 cols 77"),
        (
            "$ ",
            "until stty size | grep 33; do sleep 0.1; done; echo >/dev/tty si''zed\n",
        ),
        ("33 77", ""),
        ("sized", "exit\n"),
    ];
    let is_restored = |run: &Run| {
        for setting in ["isig icanon", " echo "] {
            assert!(run.stderr.contains(setting), "{}", run.stderr);
        }
    };
    let run = on_terminal(&project, &command, &keys);
    is_restored(&run);
    assert!(run.stderr.contains("rows 33"), "{}", run.stderr);

    // Whoever is told to end gives the terminal back.
    let command = format!("sh -c 'echo $$ > pid; exec {kiln} debug'; stty -a");
    let run = on_terminal(&project, &command, &[("$ ", "!kill $(cat pid)")]);
    is_restored(&run);

    // Where no devpts can be mounted it is one of this machine's.
    project
        .build(&["--on-failure=keep", "--isolation=chroot"])
        .fails(1, &[]);
    let keys = [
        ("$ ", "[ -t 0 ] && [ -t 2 ] && echo ter''minal; tty\n"),
        ("terminal", ""),
        ("not a tty", "exit\n"),
    ];
    let run = on_terminal(&project, &format!("{kiln} debug; stty -a"), &keys);
    is_restored(&run);
}
