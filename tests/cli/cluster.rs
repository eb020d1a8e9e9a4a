//! Steps on a cluster: a server of the test's own, whose workers run this very program.
//!
//! What failures of servers and networks lead to is in `cluster_faults`.

use crate::support::{Project, Run, is_root, with_busybox};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use testkit::reapi::{Counters, Fault, NoMatch, Options, Server, Staging, Worker};
use testkit::registry::FakeRegistry;

/// Steps of all kinds, over entries that are hard to carry.
const DOCKERFILE: &str = "\
FROM busybox AS other
RUN mkdir -p /m/deep && echo bound > /m/deep/x
FROM busybox
ENV GREETING=hello
RUN echo $GREETING > /one && mkdir -p /d && chmod 750 /d && ln /one /hard && ln -s one /soft && ln -s /one /absolute
WORKDIR /work
COPY file .
RUN cat file > copy && touch -d @1000 old && chmod 4711 copy && rm /soft && mkfifo pipe
RUN --mount=type=bind,from=other,source=/m,target=/bound cat /bound/deep/x > /x
RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c touch /t/gone /c/gone && echo $HOME > /home-of-it
USER 1234
RUN --network=none id -u > /tmp/id
";

/// Its RUN steps.
const RUNS: u64 = 6;

pub(crate) fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

pub(crate) fn isa() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm-a64"
    } else {
        "x86-64"
    }
}

pub(crate) fn worker(name: &str, slots: usize) -> Worker {
    Worker::new(name, slots).isa(isa())
}

pub(crate) fn options() -> Options {
    Options {
        workers: vec![worker("worker-1", 2)],
        staging: Staging::CopyOnce,
        ..Options::default()
    }
}

/// The program for workers: this one, without what only debuggers read, which is most of it.
pub(crate) fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let own = env!("CARGO_BIN_EXE_kiln");
        let name = crate::support::unique("kiln-for-workers");
        let small = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
        let mut strip = Command::new("strip");
        let stripped = strip.arg("-o").arg(&small).arg(own).status();
        if !stripped.is_ok_and(|status| status.success()) {
            return own.to_owned();
        }
        // One for all runs of the tests: the name is that of the last.
        let place = small.with_file_name("kiln-for-workers");
        std::fs::rename(&small, &place).unwrap();
        place.to_str().unwrap().to_owned()
    })
}

/// The flag for a server, with more fields.
pub(crate) fn executor(server: &Server, fields: &str) -> String {
    format!(
        "--executor={},binary={}={}{fields}",
        server.url(),
        architecture(),
        program()
    )
}

pub(crate) fn build(project: &Project, args: &[&str]) -> Run {
    project.run(command(project, args))
}

pub(crate) fn command(project: &Project, args: &[&str]) -> Command {
    let mut command = project.build_command(args);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

fn project() -> Project {
    let project = Project::new(DOCKERFILE);
    let file = project.write("file", "content\n");
    // Commands can see it: with another time it is another step for a worker.
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let file = std::fs::File::open(file).unwrap();
    file.set_modified(time).unwrap();
    project
}

/// Digest of the image that a build gives.
#[track_caller]
pub(crate) fn digest(project: &Project, args: &[&str]) -> String {
    let file = project.path("metadata.json");
    let path = file.display().to_string();
    let mut all = vec!["--metadata-file", &path, "-t", "it"];
    all.extend(args);
    build(project, &all).ok();
    let metadata = std::fs::read(&file).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    metadata["containerimage.digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Nothing of what was started is left.
#[track_caller]
pub(crate) fn at_rest(server: &Server) -> Counters {
    let mut counters = server.counters();
    let rested = crate::support::wait_until(Duration::from_secs(10), || {
        counters = server.counters();
        counters.live_children == 0
    });
    assert!(rested, "{counters:?}");
    counters
}

#[test]
fn a_worker_makes_what_this_machine_makes() {
    let here = digest(&project(), &[]);
    for (node_properties, staging) in [(true, Staging::Copy), (false, Staging::CopyOnce)] {
        let server = Server::start(Options {
            node_properties,
            staging,
            ..options()
        });
        let flag = executor(&server, "");
        let project = project();
        assert_eq!(digest(&project, &[&flag]), here, "{node_properties}");
        assert_eq!(server.counters().actions_run, RUNS);
        // What is known here is asked of nobody.
        let calls = server.counters().calls;
        let again = build(&project, &[&flag]).ok();
        assert_eq!(server.counters().calls, calls);
        assert_eq!(again.step("RUN cat file"), "CACHED");

        // Another machine runs nothing.
        let other = self::project();
        assert_eq!(digest(&other, &[&flag]), here);
        assert_eq!(at_rest(&server).actions_run, RUNS);
        let told = build(&self::project(), &[&flag, "--no-cache"]).ok();
        assert!(
            told.stderr.contains("on worker worker-1: queued"),
            "{}",
            told.stderr
        );
        assert_eq!(server.counters().actions_run, 2 * RUNS);
    }
}

#[test]
fn what_a_worker_found_is_told() {
    let server = Server::start(options());
    let flag = executor(&server, "");
    let dockerfile = "FROM busybox\nRUN echo to-out; echo to-err >&2; echo x > /x\n";
    for (log_streams, project) in [
        (false, Project::new(dockerfile)),
        (true, Project::new(dockerfile)),
    ] {
        let server = Server::start(Options {
            log_streams,
            ..options()
        });
        let flag = executor(&server, "");
        let run = build(&project, &[&flag]).ok();
        for line in ["to-out", "to-err"] {
            let found = run.stderr.lines().filter(|it| it.ends_with(line));
            assert_eq!(found.count(), 1, "{}", run.stderr);
        }
    }
    let first = build(&Project::new(dockerfile), &[&flag]).ok();
    assert!(!first.stderr.contains("remote hit"));
    let second = build(&Project::new(dockerfile), &[&flag]).ok();
    assert!(second.stderr.contains("remote hit"), "{}", second.stderr);
}

#[test]
fn a_command_that_fails_there_fails_here() {
    let server = Server::start(Options {
        cache_failed: true,
        ..options()
    });
    let flag = executor(&server, "");
    let project = Project::new("FROM busybox\nRUN echo the reason >&2; exit 42\n");
    for _ in 0..2 {
        build(&project, &[&flag]).fails(
            1,
            &[
                "the reason",
                "did not complete successfully: exit code: 42",
                "Dockerfile:2",
            ],
        );
    }
    // What failed is run again, whoever kept it.
    assert_eq!(at_rest(&server).actions_run, 2);
    let project = Project::new("FROM busybox\nRUN kill -9 $$\n");
    build(&project, &[&flag]).fails(1, &["exit code: 137"]);
}

/// Two steps run at once that each wait for the other's worker to have begun.
#[test]
fn stages_run_on_as_many_workers_as_there_are() {
    let stages = |count: usize| {
        let mut text = String::new();
        for stage in 0..count {
            text.push_str(&format!(
                "FROM busybox AS s{stage}\nRUN sleep 1 && echo {stage} > /out\n"
            ));
        }
        text.push_str("FROM scratch\n");
        for stage in 0..count {
            text.push_str(&format!("COPY --from=s{stage} /out /{stage}\n"));
        }
        Project::new(&text)
    };
    let server = Server::start(Options {
        workers: vec![worker("one", 1), worker("two", 1)],
        ..options()
    });
    let flag = executor(&server, "");
    build(&stages(4), &[&flag, "--jobs", "1"]).ok();
    let ran = server.executions();
    assert_eq!(ran.len(), 4);
    let overlap = ran.iter().any(|one| {
        ran.iter().any(|other| {
            one.worker != other.worker
                && other.started > one.started
                && one.ended.is_some_and(|ended| other.started < ended)
        })
    });
    assert!(overlap, "{ran:?}");
    at_rest(&server);
}

#[test]
fn what_only_this_machine_has_stays_here() {
    let server = Server::start(options());
    let flag = executor(&server, "");
    let project = Project::new(
        "FROM busybox\nRUN --mount=type=secret,id=s,target=/s test -s /s && echo ok > /seen\nRUN echo there > /there\n",
    );
    let secret = project.write("secret", "unspeakable");
    let secret = format!("--secret=id=s,src={}", secret.display());
    let run = build(&project, &[&flag, &secret]).ok();
    assert!(
        run.stderr.contains("runs on this machine: it has a secret"),
        "{}",
        run.stderr
    );
    assert_eq!(at_rest(&server).actions_run, 1);
    let proxy = "--build-arg=HTTP_PROXY=http://user:unspeakable@127.0.0.1:1";
    let project = Project::new("FROM busybox\nRUN echo \"[$HTTP_PROXY]\" > /p\n");
    let run = build(&project, &[&flag, proxy]).ok();
    assert!(run.stderr.contains("it has proxies"), "{}", run.stderr);
    assert_eq!(server.counters().actions_run, 1);
    let allowed = executor(&server, ",allow=proxy");
    let project = Project::new("FROM busybox\nRUN echo \"[$HTTP_PROXY]\" && exit 3\n");
    build(&project, &[&allowed, proxy]).fails(1, &["[]"]);
    for blob in server.blobs() {
        let bytes = server.blob(&blob).unwrap();
        let is_there = bytes.windows(11).any(|part| part == b"unspeakable");
        // The program that the tests made knows the word; no message is as long.
        assert!(bytes.len() > 1 << 20 || !is_there, "{blob}");
    }
}

#[test]
fn no_worker_for_a_platform_is_told() {
    // Enough of a program for a look at it.
    let mut program = vec![0_u8; 64];
    program[..6].copy_from_slice(b"\x7fELF\x02\x01");
    program[18] = 22;
    let dockerfile = "FROM scratch\nCOPY f /f\nRUN [\"/f\"]\n";
    for no_match in [NoMatch::Queue, NoMatch::Error] {
        let server = Server::start(Options {
            no_match,
            ..options()
        });
        let project = Project::new(dockerfile);
        project.write("f", "f");
        let without = executor(&server, "");
        build(&project, &[&without, "--platform", "linux/s390x"]).fails(
            1,
            &[
                "there is no kiln program for s390x workers",
                "binary=s390x=FILE",
            ],
        );
        let path = project.write("program", &program);
        let flag = executor(
            &server,
            &format!(",binary=s390x={},queue-timeout=1s", path.display()),
        );
        build(&project, &[&flag, "--platform", "linux/s390x"])
            .fails(1, &["no worker of", "ISA=s390x", "queue-timeout="]);
        assert_eq!(at_rest(&server).actions_run, 0);
    }
}

#[test]
fn a_step_that_nobody_takes_runs_here_where_that_is_allowed() {
    let server = Server::start(Options {
        workers: vec![worker("other", 1).with("Pool", "large")],
        ..Options::default()
    });
    let flag = executor(&server, ",property=Pool=small,queue-timeout=1s");
    let project = Project::new("FROM busybox\nRUN echo a > /a\nRUN echo b > /b\n");
    build(&project, &[&flag]).fails(1, &["Pool=small"]);
    let run = build(&project, &[&flag, "--executor-fallback=local"]).ok();
    let told = run.stderr.matches("runs on this machine").count();
    assert_eq!(told, 2, "{}", run.stderr);
    // It is waited for once.
    assert_eq!(server.calls("Execute"), 2);

    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let flag = format!(
        "--executor=grpc://{nobody},binary={}={}",
        architecture(),
        program()
    );
    let project = Project::new("FROM busybox\nRUN echo a > /a\n");
    build(&project, &[&flag]).fails(1, &["could not connect", "--executor-fallback=local"]);
    build(&project, &[&flag, "--executor-fallback=local"]).ok();
}

#[test]
fn a_cancelled_build_ends_its_steps_there() {
    let server = Server::start(options());
    let flag = executor(&server, "");
    let project = Project::new("FROM busybox\nRUN echo begun; sleep 1000\n");
    let started = project.start(command(&project, &[&flag]));
    let running = crate::support::wait_until(Duration::from_secs(60), || {
        server.counters().live_children > 1
    });
    assert!(running, "{}", started.stderr());
    started.signal(rustix::process::Signal::INT);
    let run = started.finish();
    assert_eq!(run.status, 130, "{}", run.stderr);
    assert_eq!(at_rest(&server).cancellations, 1);

    // So does a step that fails beside it.
    let project = Project::new(
        "FROM busybox AS a\nRUN echo begun; sleep 1000\nFROM busybox AS b\nRUN sleep 1; exit 7\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n",
    );
    build(&project, &[&flag]).fails(1, &["exit code: 7"]);
    at_rest(&server);
}

#[test]
fn a_plan_says_what_the_cluster_has() {
    let server = Server::start(options());
    let flag = executor(&server, "");
    let project = Project::new("FROM busybox\nRUN echo a > /a\n");
    let plan = |project: &Project| {
        let mut command = project.command(&["plan", "--format", "{{.Result}}"]);
        command.args(with_busybox()).arg(&flag).arg("context");
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        project.run(command).ok().text().to_owned()
    };
    build(&project, &[&flag]).ok();
    assert_eq!(plan(&project), "HIT\nHIT");
    let other = Project::new("FROM busybox\nRUN echo a > /a\n");
    // The base is not here: what the step is for a worker is not known.
    assert_eq!(plan(&other), "MISS\nUNKNOWN");
    other.write("Dockerfile", "FROM busybox\nRUN echo b > /b\n");
    build(&other, &[]).ok();
    assert_eq!(plan(&other), "HIT\nHIT");
    other.write("Dockerfile", "FROM busybox\nRUN echo a > /a\n");
    assert_eq!(plan(&other), "HIT\nREMOTE HIT");
    other.write("Dockerfile", "FROM busybox\nRUN echo c > /c\n");
    assert_eq!(plan(&other), "HIT\nMISS");
    assert_eq!(server.counters().actions_run, 1);
}

/// What a step is for a worker is remembered: a base that is not here any more is brought for steps that run, and not for
/// what the cluster knows.
#[test]
fn a_base_is_not_brought_for_what_the_cluster_has() {
    let registry = FakeRegistry::start();
    let name = format!("{}/team/base:1", registry.host());
    let maker = Project::new("FROM busybox\nENV A=b\n");
    maker.build(&["--push", "-t", &name]).ok();
    let server = Server::start(options());
    let flag = executor(&server, "");
    let project = Project::new(&format!("FROM {name}\nRUN echo a > /a\n"));
    let args = [flag.as_str(), "-o", "type=cacheonly"];
    let plan = |project: &Project| -> serde_json::Value {
        let mut command = project.command(&["plan", "--format", "json"]);
        command.args(args).arg("context");
        serde_json::from_str(project.run(command).ok().text()).unwrap()
    };
    project.build(&args).ok();
    let manifest = registry.tagged("team/base", "1").unwrap();
    let manifest = registry.manifest("team/base", &manifest).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let layers = || registry.count("GET", layer);
    assert_eq!((layers(), at_rest(&server).actions_run), (1, 1));

    let lose_all = || {
        for kind in ["layers", "blobs"] {
            std::fs::remove_dir_all(project.store().join(kind)).unwrap();
        }
    };
    lose_all();
    let foreseen = plan(&project);
    assert_eq!(foreseen["steps"][1]["result"], "REMOTE HIT", "{foreseen}");
    assert_eq!(foreseen["steps"][1]["cache"], server.url());
    assert_eq!(foreseen["pull"]["layers"], 1);
    assert!(foreseen["pull"]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(foreseen["runs"], false);
    let run = project.build(&args).ok();
    assert!(run.stderr.contains("remote hit"), "{}", run.stderr);
    assert_eq!(
        (layers(), at_rest(&server).actions_run),
        (1, 1),
        "{}",
        run.stderr
    );

    // It is, where nobody has the result.
    lose_all();
    server.forget();
    assert_eq!(plan(&project)["steps"][1]["result"], "MISS");
    project.build(&args).ok();
    assert_eq!((layers(), at_rest(&server).actions_run), (2, 2));
}

#[test]
fn owners_come_back() {
    if !is_root() {
        return;
    }
    let text =
        "FROM busybox\nRUN mkdir /o && touch /o/f && chown 12:34 /o/f && mknod /o/null c 1 3\n";
    let server = Server::start(options());
    let flag = executor(&server, "");
    let project = Project::new(text);
    assert_eq!(digest(&project, &[&flag]), digest(&Project::new(text), &[]));
}

/// What is said of a step that first waits for a worker, then has one, and is cancelled.
fn said_meanwhile(progress: &str, queued: &str, running: &str) -> String {
    let server = Server::start(options());
    server.inject(Fault::StallQueue);
    let flag = executor(&server, "");
    let project = Project::new("FROM busybox\nRUN sleep 1000\n");
    let started = project.start(command(&project, &[&flag, "--progress", progress]));
    for text in [queued, running] {
        let is_said = || started.stderr().contains(text);
        let limit = Duration::from_secs(120);
        assert!(
            crate::support::wait_until(limit, is_said),
            "{}",
            started.stderr()
        );
        server.clear();
    }
    started.signal(rustix::process::Signal::INT);
    let run = started.finish();
    assert_eq!(run.status, 130, "{}", run.stderr);
    at_rest(&server);
    run.stderr
}

#[test]
fn a_waiting_step_says_where_it_is() {
    let said = said_meanwhile("plain", " queued\n", " running on worker-1\n");
    for state in [" queued\n", " running on worker-1\n"] {
        assert_eq!(said.matches(state).count(), 1, "{said}");
    }
    assert!(!said.contains("sent to the cluster"), "{said}");

    let said = said_meanwhile("tty", " => => queued ", " => => running on worker-1 ");
    let line = said.lines().rfind(|line| line.contains("=> => queued"));
    let (_, time) = line.unwrap().rsplit_once(' ').unwrap();
    assert!(
        time.strip_suffix('s')
            .is_some_and(|it| it.parse::<f64>().is_ok()),
        "{said}"
    );

    let said = said_meanwhile(
        "rawjson",
        "\"id\":\"queued\"",
        "\"id\":\"running on worker-1\"",
    );
    assert_eq!(statuses(&said, "queued"), ["", "completed"]);
    assert_eq!(statuses(&said, "running on worker-1"), ["", "completed"]);

    // One that ends, and one whose result is there.
    let server = Server::start(options());
    let flag = executor(&server, "");
    let project = || Project::new("FROM busybox\nRUN echo a > /a\n");
    let first = build(&project(), &[&flag, "--progress=rawjson"]).ok();
    for state in ["sent to the cluster", "fetching the result"] {
        assert_eq!(statuses(&first.stderr, state), ["", "completed"], "{state}");
    }
    let second = build(&project(), &[&flag, "--progress=rawjson"]).ok();
    assert!(statuses(&second.stderr, "sent to the cluster").is_empty());
    assert_eq!(statuses(&second.stderr, "fetching the result").len(), 2);
}

/// What BuildKit's statuses of a name say: begun, or completed.
fn statuses(said: &str, id: &str) -> Vec<&'static str> {
    let lines = said.lines().map(serde_json::from_str::<serde_json::Value>);
    let lines: Vec<serde_json::Value> = lines.map_while(Result::ok).collect();
    let all = lines.iter().filter_map(|line| line["statuses"].as_array());
    let wanted = all.flatten().filter(|status| status["id"] == id);
    let wanted = wanted.map(|status| {
        assert!(
            status["started"].is_string() && status["vertex"].is_string(),
            "{status}"
        );
        let is_over = status["completed"].is_string();
        if is_over { "completed" } else { "" }
    });
    wanted.collect()
}
