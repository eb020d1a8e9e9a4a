//! What is secret is seen by the commands that it is for, and by nothing else: not while they run, not afterwards.

use crate::support::{Project, Run, able, files_below, unique, wait_until};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Files below a folder that hold one of these texts. Compressed ones are not looked into: the builds here write none.
fn holding(folder: &Path, needles: &[&str]) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["-r", "-o", "-a", "-F"]);
    for needle in needles {
        grep.args(["-e", needle]);
    }
    let found = String::from_utf8_lossy(&grep.arg(folder).output().unwrap().stdout).into_owned();
    found.lines().map(str::to_owned).collect()
}

/// A process that has one of some texts in its arguments or environment.
#[derive(Debug)]
struct Holder {
    pid: u32,
    /// Where, and the name of its program.
    place: String,
    text: String,
}

fn processes_with(needles: &[&str]) -> Vec<Holder> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        for file in ["cmdline", "environ"] {
            // Processes end while they are looked at, and those of others cannot be.
            let Ok(bytes) = fs::read(entry.path().join(file)) else {
                continue;
            };
            let has = |needle: &&&str| {
                bytes
                    .windows(needle.len())
                    .any(|window| window == needle.as_bytes())
            };
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.extend(needles.iter().filter(has).map(|needle| Holder {
                pid,
                place: format!("{file} of {}", name.trim()),
                text: (*needle).to_owned(),
            }));
        }
    }
    found
}

/// The processes of a run's command, known by what it sleeps.
fn commands(sleep: &str) -> Vec<u32> {
    processes_with(&[sleep])
        .into_iter()
        .filter(|holder| holder.place.ends_with("of sh") || holder.place.ends_with("of sleep"))
        .map(|holder| holder.pid)
        .collect()
}

/// The sleep itself: the command goes on when it is killed.
fn sleeping(sleep: &str) -> Vec<rustix::process::Pid> {
    processes_with(&[sleep])
        .into_iter()
        .filter(|holder| holder.place == "cmdline of sleep")
        .filter_map(|holder| rustix::process::Pid::from_raw(holder.pid.try_into().unwrap()))
        .collect()
}

/// What progress as JSON carries in base64, as text.
fn decoded(lines: &str) -> String {
    use base64::Engine as _;
    let words = lines.split('"');
    let texts =
        words.filter_map(|word| base64::engine::general_purpose::STANDARD.decode(word).ok());
    texts
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

struct Secrets {
    /// In a file given by `--secret`.
    file: String,
    /// In a variable given by `--secret`.
    variable: String,
    /// In a proxy's address.
    password: String,
    /// Lines of a private key.
    key: Vec<String>,
}

impl Secrets {
    fn needles(&self) -> Vec<&str> {
        let texts = [&self.file, &self.variable, &self.password];
        texts
            .into_iter()
            .chain(&self.key)
            .map(String::as_str)
            .collect()
    }
}

fn build(project: &Project, secrets: &Secrets, sleep: &str, more: &[&str]) -> Run {
    let file = format!("id=file,src={}", project.path("private/file").display());
    let mut args = vec![
        "--debug".to_owned(),
        "--secret".to_owned(),
        file,
        "--secret".to_owned(),
        "id=variable,env=E2E_SECRET".to_owned(),
        "--build-arg".to_owned(),
        "HTTPS_PROXY".to_owned(),
    ];
    if !secrets.key.is_empty() {
        args.push("--ssh".to_owned());
        args.push(format!("default={}", project.path("private/key").display()));
    }
    args.extend(more.iter().map(|&arg| arg.to_owned()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut command = project.build_command(&args);
    command.env("E2E_SECRET", &secrets.variable);
    command.env(
        "HTTPS_PROXY",
        format!("http://user:{}@proxy:1", secrets.password),
    );
    let started = project.start(command);
    let builder = started.id();
    if !wait_until(Duration::from_secs(30), || !sleeping(sleep).is_empty()) {
        panic!("the command does not run:\n{}", started.finish().stderr);
    }
    let entitled = commands(sleep);
    let needles = secrets.needles();
    // The user gave the builder its environment.
    let (entitled, others): (Vec<_>, Vec<_>) = processes_with(&needles)
        .into_iter()
        .filter(|holder| holder.pid != builder)
        .partition(|holder| entitled.contains(&holder.pid));
    assert!(others.is_empty(), "{others:?}");
    assert!(
        entitled
            .iter()
            .any(|holder| holder.text == secrets.variable),
        "the search finds what is there"
    );
    let files = holding(&project.store(), &needles);
    assert!(files.is_empty(), "{files:?} while the command runs");
    let sleeping = sleeping(sleep);
    assert!(!sleeping.is_empty(), "the command still runs");
    for pid in sleeping {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    started.finish()
}

/// CLI:secret, CLI:ssh, CLI:debug: secrets leave no trace.
#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn secrets_leave_no_trace_anywhere() {
    let sleep = format!("100.{}", std::process::id());
    let project = Project::new(&format!(
        "FROM busybox\nARG MARK\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=VARIABLE --mount=type=ssh \\\n\
         \x20   --mount=type=secret,id=file,target=/etc/key,env=BOTH --mount=type=cache,target=/cache \\\n\
         \x20   [ ${{#VARIABLE}} -gt 9 ] && cmp /etc/key /run/secrets/file && [ \"$BOTH\" = \"$(cat /etc/key)\" ] && \\\n\
         \x20   [ -n \"$HTTPS_PROXY\" ] && echo now-it-sleeps-$((1+1)) $MARK && {{ sleep {sleep} || true; }}\n\
         RUN --mount=type=secret,id=file,required wc -c < /run/secrets/file > /length\n\
         RUN --mount=type=secret,id=variable,env=V [ -n \"$V\" ]\n"
    ));
    let mut secrets = Secrets {
        file: unique("hush"),
        variable: unique("quiet"),
        password: unique("word"),
        key: Vec::new(),
    };
    fs::create_dir(project.path("private")).unwrap();
    fs::write(project.path("private/file"), &secrets.file).unwrap();
    let key = project.path("private/key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .output();
    if able(made.is_ok_and(|made| made.status.success()), "ssh-keygen") {
        let text = fs::read_to_string(&key).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("-----"));
        // The first line holds only what all such files begin with.
        secrets.key = lines.skip(1).map(str::to_owned).collect();
    }

    let mut said = Vec::new();
    for (number, progress) in ["plain", "rawjson", "tty"].into_iter().enumerate() {
        let mark = format!("MARK={number}");
        let archive = format!("type=oci,dest=oci-{number}.tar,compression=uncompressed");
        let docker = format!("type=docker,dest=docker-{number}.tar,compression=uncompressed");
        let metadata = format!("metadata-{number}");
        let id = format!("id-{number}");
        let run = build(
            &project,
            &secrets,
            &sleep,
            &[
                "--progress",
                progress,
                "--build-arg",
                &mark,
                "-t",
                "x",
                "-o",
                &archive,
                "-o",
                &docker,
                "-o",
                "type=image",
                "-o",
                "type=local,dest=files",
                "--metadata-file",
                &metadata,
                "--iidfile",
                &id,
            ],
        )
        .ok();
        said.push(run.stderr.clone() + run.text());
    }
    said.push(
        project
            .kiln(&["history", "--no-trunc", "x"])
            .ok()
            .text()
            .to_owned(),
    );
    said.push(
        project
            .kiln(&["inspect", "--raw", "x"])
            .ok()
            .text()
            .to_owned(),
    );

    // A build that fails leaves a log and a report.
    let failing = "FROM busybox\n\
         RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=VARIABLE --mount=type=ssh \\\n\
         \x20   echo now-it-sleeps-$((1+1)); sleep SLEEP; false\n";
    project.write("Dockerfile", failing.replace("SLEEP", &sleep));
    let run = build(&project, &secrets, &sleep, &["--progress", "plain"]);
    assert_eq!(run.status, 1, "{}", run.stderr);
    said.push(run.stderr);

    assert!(files_below(&project.store()).len() > 20);
    let folder = project.path(".");
    let given = project.path("private");
    for needle in secrets.needles() {
        for text in &said {
            assert!(!text.contains(needle), "{needle} in\n{text}");
            assert!(!decoded(text).contains(needle), "{needle} in\n{text}");
        }
    }
    assert!(
        said.iter()
            .any(|text| decoded(text).contains("now-it-sleeps-2"))
    );
    let (there, elsewhere): (Vec<String>, Vec<String>) = holding(&folder, &secrets.needles())
        .into_iter()
        .partition(|found| Path::new(found).starts_with(&given));
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert!(!there.is_empty(), "the search finds what is there");
}

/// Answers requests that carry this token with a body, others with 401, as long as the tests run.
fn serve(token: &str, body: Vec<u8>) -> String {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let token = token.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let knows = head.iter().any(|line| line.contains(&token));
            let (status, body) = if knows {
                ("200 OK", &body[..])
            } else {
                ("401 Unauthorized", &b"who?"[..])
            };
            let start = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(start.as_bytes());
            if !head[0].starts_with("HEAD") {
                let _ = stream.write_all(body);
            }
        }
    });
    address
}

#[test]
fn tokens_of_urls_leave_no_trace() {
    let token = unique("token");
    let project = Project::new("FROM busybox\nCOPY file /file\nRUN cat /file\n");
    project.write("file", "content");
    let tar = project.path("context.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(project.path("context"));
    pack.arg("-cf").arg(&tar).arg(".");
    assert!(pack.status().unwrap().success());
    let address = serve(&token, fs::read(&tar).unwrap());
    let url = format!("http://{address}/context.tar");
    let build = |secrets: &[&str]| {
        let mut command =
            project.command(&["--debug", "build", "--progress", "plain", "-o", "out"]);
        command.args(crate::support::with_busybox());
        for secret in secrets {
            command.args(["--secret", secret]);
        }
        command.env("E2E_TOKEN", &token).arg(&url);
        project.run(command)
    };
    build(&[]).fails(1, &["401"]);
    let run = build(&["id=HTTP_AUTH_TOKEN_127.0.0.1,env=E2E_TOKEN"]).ok();
    assert_eq!(
        fs::read_to_string(project.path("out/file")).unwrap(),
        "content"
    );
    assert!(!run.stderr.contains(&token), "{}", run.stderr);
    let found = holding(&project.path("."), &[&token]);
    assert!(found.is_empty(), "{found:?}");
}
