//! Builds with RUN, in real namespaces over the base that ships. Not the usual harness: the sandbox re-executes this
//! program, and `init_if_child` must come first in `main`.
//!
//! Arguments that are not options filter the tests by name. Where the host has no namespaces it says so and fails
//! only when `KILN_TEST_NEEDS_SANDBOX` is set.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests without the usual harness"
)]

mod build_support;

use build_support::{NOW, Place, Recorder, failure_text, layout_context, output};
use executor::Error;
use executor::request::{BuildRequest, OutputKind, SecretSource};
use planner::plan::Network;
use planner::scheduler::Cancel;
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, Instant};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("a_command_makes_a_layer", a_command_makes_a_layer),
    (
        "a_second_build_runs_no_command",
        a_second_build_runs_no_command,
    ),
    ("the_environment_of_a_command", the_environment_of_a_command),
    (
        "a_failing_command_is_told_with_its_output",
        a_failing_command_is_told_with_its_output,
    ),
    (
        "a_command_that_changes_nothing_still_has_a_layer",
        a_command_that_changes_nothing_still_has_a_layer,
    ),
    ("deletions_are_in_the_layer", deletions_are_in_the_layer),
    ("bind_mounts", bind_mounts),
    (
        "cache_mounts_last_and_are_in_no_layer",
        cache_mounts_last_and_are_in_no_layer,
    ),
    (
        "cache_mounts_filled_from_a_stage",
        cache_mounts_filled_from_a_stage,
    ),
    ("tmpfs_and_secrets", tmpfs_and_secrets),
    ("missing_secrets", missing_secrets),
    ("users", users),
    ("networks_and_hosts", networks_and_hosts),
    ("heredocs", heredocs),
    (
        "equal_content_cuts_off_what_follows",
        equal_content_cuts_off_what_follows,
    ),
    (
        "two_stores_make_the_same_image",
        two_stores_make_the_same_image,
    ),
    ("cancelling_stops_the_command", cancelling_stops_the_command),
    (
        "nothing_of_the_runtime_is_in_a_layer",
        nothing_of_the_runtime_is_in_a_layer,
    ),
    ("steps_run_at_the_same_time", steps_run_at_the_same_time),
];

fn main() -> ExitCode {
    sandbox::init_if_child(executor::TASKS);
    let filters: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if std::env::args().any(|argument| argument == "--list") {
        for (name, _) in TESTS {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = unable() {
        println!("SKIPPED: no test of RUN was done, because {reason}");
        return if std::env::var_os("KILN_TEST_NEEDS_SANDBOX").is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        };
    }
    let mut failed = 0;
    for (name, test) in TESTS {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let ended = std::panic::catch_unwind(test);
        println!(
            "test {name} ... {}",
            if ended.is_ok() { "ok" } else { "FAILED" }
        );
        failed += usize::from(ended.is_err());
    }
    if failed > 0 {
        println!("{failed} failed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Why commands cannot be run here.
fn unable() -> Option<String> {
    if !testkit::busybox_layout().join("index.json").exists() {
        return Some("the base image is not in testdata/images/busybox".to_owned());
    }
    let place = Place::new();
    let space = executor::space::Space::new(place.store.clone());
    space
        .sandbox()
        .err()
        .map(|error| executor::error::chain(&error))
}

fn request(place: &Place, dockerfile: &str) -> BuildRequest {
    let mut request = place.request(dockerfile);
    request.named_contexts.insert(
        "base".to_owned(),
        layout_context(&testkit::busybox_layout(), None),
    );
    request
}

fn build(place: &Place, request: &BuildRequest) -> (executor::build::BuildResult, Recorder) {
    let ui = Recorder::default();
    let result = place.build_with(request, &ui);
    let result =
        result.unwrap_or_else(|failure| panic!("{}\n{}", failure_text(&failure), ui.output()));
    (result, ui)
}

fn run(dockerfile: &str) -> (Place, String) {
    let place = Place::new();
    let request = request(&place, dockerfile);
    let (_, ui) = build(&place, &request);
    let text = ui.output();
    (place, text)
}

fn config(place: &Place, digest: &Option<String>) -> Value {
    place.image(digest.as_deref().unwrap()).1
}

fn a_command_makes_a_layer() {
    let place = Place::new();
    let request = request(
        &place,
        "FROM base\nRUN echo hello > /made && echo shown && echo bad >&2\n",
    );
    let (result, ui) = build(&place, &request);
    assert_eq!(result.executed, 2);
    assert!(ui.output().contains("shown") && ui.output().contains("bad"));
    let files = place.files(&request);
    assert_eq!(files["made"], "file 644 0:0 hello");
    let history = config(&place, &result.digest)["history"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(
        history.last().unwrap()["created_by"],
        "RUN /bin/sh -c echo hello > /made && echo shown && echo bad >&2 # buildkit"
    );
}

fn a_second_build_runs_no_command() {
    let place = Place::new();
    let mut request = request(
        &place,
        "FROM base\nRUN date +%s%N > /time\nRUN cat /time > /copy\n",
    );
    let (first, _) = build(&place, &request);
    request.now = NOW + 60;
    let (second, ui) = build(&place, &request);
    assert_eq!(second.executed, 0);
    assert_eq!(first.digest, second.digest);
    assert!(ui.output().is_empty());
}

fn the_environment_of_a_command() {
    let dockerfile = "FROM base\nARG FROM_ARG=1\nENV FROM_ENV=2\nWORKDIR /work\nRUN env; pwd; hostname; id -u; cat /etc/hosts\n";
    let (_, text) = run(dockerfile);
    for expected in [
        "FROM_ARG=1",
        "FROM_ENV=2",
        "HOME=/root",
        "PATH=/usr/local/sbin",
        "/work",
        "buildkitsandbox",
        "127.0.0.1\tlocalhost",
    ] {
        assert!(text.contains(expected), "{expected} is not in:\n{text}");
    }
}

fn a_failing_command_is_told_with_its_output() {
    let place = Place::new();
    let request = request(
        &place,
        "FROM base\n\nRUN for i in 1 2 3; do echo line $i; done; exit 7\n",
    );
    let failure = place.build(&request).unwrap_err();
    let Error::Command {
        command,
        exit,
        left,
        ..
    } = &failure.error
    else {
        panic!("{}", failure_text(&failure))
    };
    assert_eq!(*exit, sandbox::Exit::Code(7));
    assert!(command.starts_with("/bin/sh -c for i"));
    assert_eq!(left.tail, "line 1\nline 2\nline 3");
    assert_eq!(
        std::fs::read_to_string(left.log.as_ref().unwrap()).unwrap(),
        "line 1\nline 2\nline 3\n"
    );
    assert!(
        failure
            .error
            .to_string()
            .ends_with("did not complete successfully: exit code: 7")
    );
    assert_eq!(failure.origin.unwrap().lines.unwrap().start, 3);
    let mut missing = request.clone();
    missing.dockerfile = "FROM base\nRUN [\"/no/such/program\"]\n".to_owned();
    let failure = place.build(&missing).unwrap_err();
    assert!(
        matches!(
            failure.error,
            Error::Command {
                exit: sandbox::Exit::Code(127),
                ..
            }
        ),
        "{}",
        failure_text(&failure)
    );
}

fn a_command_that_changes_nothing_still_has_a_layer() {
    let place = Place::new();
    let request = request(&place, "FROM base\nRUN true\n");
    let (result, _) = build(&place, &request);
    let config = config(&place, &result.digest);
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
    assert_eq!(
        config["history"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["empty_layer"] != true)
            .count(),
        layers
    );
    assert_ne!(
        config["history"].as_array().unwrap().last().unwrap()["empty_layer"],
        true
    );
}

fn deletions_are_in_the_layer() {
    let place = Place::new();
    place.file("d/a", "1").file("d/b", "2");
    let request = request(
        &place,
        "FROM base\nCOPY d /d\nRUN rm /d/a && rm -r /var && mkdir /var && echo new > /var/f\n",
    );
    build(&place, &request);
    let files = place.files(&request);
    assert!(!files.contains_key("d/a") && files.contains_key("d/b"));
    assert_eq!(files["var/f"], "file 644 0:0 new");
    assert!(!files.contains_key("var/spool"));
}

fn bind_mounts() {
    let place = Place::new();
    place.file("a", "from context").file("sub/b", "below");
    let dockerfile = "FROM base AS other\nRUN echo staged > /staged\nFROM base\n\
        RUN --mount=target=/ctx --mount=from=other,source=/staged,target=/one cat /ctx/a /one && ! touch /ctx/new\n\
        RUN --mount=target=/rw,source=sub,rw cat /rw/b && echo x > /rw/new && cat /rw/new\n\
        RUN test ! -e /rw/new\n";
    let request = request(&place, dockerfile);
    let (_, ui) = build(&place, &request);
    assert!(
        ui.output().contains("from context")
            && ui.output().contains("staged")
            && ui.output().contains("below")
    );
    let files = place.files(&request);
    assert!(
        !files
            .keys()
            .any(|path| path.starts_with("ctx/") || path.starts_with("rw/"))
    );
}

fn cache_mounts_last_and_are_in_no_layer() {
    let place = Place::new();
    let dockerfile = "FROM base\nRUN --mount=type=cache,target=/cache,id=c echo $(cat /cache/n 2>/dev/null)x > /cache/n && cat /cache/n\n\
        RUN --mount=type=cache,target=/other,id=c,ro cat /other/n\n\
        RUN --mount=type=cache,target=/owned,mode=0700,uid=5,gid=6 stat -c '%a %u %g' /owned\n";
    let mut request = request(&place, dockerfile);
    let (_, ui) = build(&place, &request);
    assert!(ui.output().contains("700 5 6"), "{}", ui.output());
    request.no_cache = true;
    let (_, ui) = build(&place, &request);
    assert!(ui.output().contains("xx\nxx\n"), "{}", ui.output());
    request.no_cache = false;
    assert!(!place.files(&request).contains_key("cache/n"));
}

fn cache_mounts_filled_from_a_stage() {
    let place = Place::new();
    let dockerfile = "FROM base AS fill\nRUN mkdir /d && echo filled > /d/f\nFROM base\n\
        RUN --mount=type=cache,from=fill,source=/d,target=/c cat /c/f && echo more > /c/g\n\
        RUN --mount=type=cache,from=fill,source=/d,target=/c cat /c/f /c/g\n";
    let (_, ui) = build(&place, &request(&place, dockerfile));
    assert!(ui.output().contains("filled\nmore\n"), "{}", ui.output());
}

fn tmpfs_and_secrets() {
    let place = Place::new();
    let dockerfile = "FROM base\n\
        RUN --mount=type=tmpfs,target=/t echo x > /t/f && grep ' /t tmpfs' /proc/mounts\n\
        RUN --mount=type=secret,id=s cat /run/secrets/s && stat -c '%a %u' /run/secrets/s\n\
        RUN --mount=type=secret,id=s,target=/x/y,mode=0444,uid=5 stat -c '%a %u' /x/y\n\
        RUN --mount=type=secret,id=s,env=SECRET echo in env $SECRET\n";
    let mut request = request(&place, dockerfile);
    request
        .secrets
        .insert("s".to_owned(), SecretSource::Value(b"s3cr3t".to_vec()));
    let (_, ui) = build(&place, &request);
    let text = ui.output();
    assert!(
        text.contains("s3cr3t400 0") && text.contains("444 5") && text.contains("in env s3cr3t"),
        "{text}"
    );
    let files = place.files(&request);
    assert!(files.values().all(|line| !line.contains("s3cr3t")));
    assert!(
        !files.contains_key("run/secrets/s")
            && !files.contains_key("t/f")
            && !files.contains_key("x/y")
    );
    request
        .secrets
        .insert("s".to_owned(), SecretSource::Value(b"other".to_vec()));
    assert_eq!(
        build(&place, &request).0.executed,
        0,
        "a secret's value is in no key"
    );
}

fn missing_secrets() {
    let place = Place::new();
    build(
        &place,
        &request(
            &place,
            "FROM base\nRUN --mount=type=secret,id=s test ! -e /run/secrets/s\n",
        ),
    );
    let failure = place
        .build(&request(
            &place,
            "FROM base\nRUN --mount=type=secret,id=s,required true\n",
        ))
        .unwrap_err();
    assert!(
        failure_text(&failure).contains("secret s: not found"),
        "{}",
        failure_text(&failure)
    );
}

fn users() {
    let dockerfile = "FROM base\nRUN echo 'me:x:1234:77::/home/me:/bin/sh' >> /etc/passwd && echo 'more:x:88:me' >> /etc/group\n\
        USER me\nRUN id -u; id -g; id -G; echo home $HOME; touch /tmp/mine\nUSER 99:98\nRUN id -u; id -g\n";
    let (place, text) = run(dockerfile);
    assert!(text.contains("1234\n77\n77 88\nhome /home/me"), "{text}");
    assert!(text.contains("99\n98\n"), "{text}");
    assert_eq!(
        place.files(&request(&place, dockerfile))["tmp/mine"],
        "file 644 1234:77"
    );
    let place = Place::new();
    let failure = place
        .build(&request(&place, "FROM base\nUSER nobodyhere\nRUN true\n"))
        .unwrap_err();
    assert!(
        failure_text(&failure).contains("nobodyhere"),
        "{}",
        failure_text(&failure)
    );
}

fn networks_and_hosts() {
    let place = Place::new();
    let dockerfile = "FROM base\nRUN --network=none ls /sys/class/net; cat /etc/hosts\n";
    let mut request = request(&place, dockerfile);
    request.extra_hosts = vec![("name".to_owned(), "10.1.2.3".to_owned())];
    let (_, ui) = build(&place, &request);
    assert!(ui.output().contains("10.1.2.3\tname"), "{}", ui.output());
    request.network = Network::None;
    request.dockerfile =
        "FROM base\nRUN ! grep -qv -e lo: -e face -e Inter /proc/net/dev\n".to_owned();
    build(&place, &request);
}

fn heredocs() {
    let dockerfile = "FROM base\nRUN <<EOF\necho first\necho second\nEOF\nRUN <<EOF sh -s arg\necho $1\nEOF\n\
        RUN <<-\"EOF\"\n\t#!/bin/sh\n\techo script $0\nEOF\nCOPY <<EOF /file\ncontent\nEOF\n";
    let (place, text) = run(dockerfile);
    assert!(text.contains("first\nsecond"), "{text}");
    let files = place.files(&request(&place, dockerfile));
    assert_eq!(files["file"], "file 644 0:0 content");
    assert!(
        !files.keys().any(|path| path.starts_with("dev/pipes")),
        "{files:?}"
    );
}

fn equal_content_cuts_off_what_follows() {
    let place = Place::new();
    place.file("in", "one");
    let request = request(
        &place,
        "FROM base\nCOPY in /in\nRUN wc -c < /in > /size && rm /in\nRUN cp /size /size2\n",
    );
    let (first, _) = build(&place, &request);
    place.file("in", "two");
    let (second, _) = build(&place, &request);
    assert_eq!(first.executed, 4);
    // The layer with the new file is below, so the last step sees other layers of which only one differs.
    assert!(second.executed <= 3);
    let bound = request_with(
        &request,
        "FROM base AS count\nCOPY in /in\nRUN wc -c < /in > /size\nFROM base\nCOPY --from=count /size /size\nRUN cp /size /size2\n",
    );
    build(&place, &bound);
    place.file("in", "six");
    let (again, _) = build(&place, &bound);
    assert_eq!(
        again.executed, 2,
        "the stage before runs, what takes its equal result does not"
    );
}

fn request_with(request: &BuildRequest, dockerfile: &str) -> BuildRequest {
    BuildRequest {
        dockerfile: dockerfile.to_owned(),
        ..request.clone()
    }
}

fn two_stores_make_the_same_image() {
    let digest = |now: i64| {
        let place = Place::new();
        place.file("a", "one");
        let mut request = request(
            &place,
            "FROM base\nCOPY a /a\nRUN cp /a /b && mkdir /x && echo y > /x/y\n",
        );
        request.now = now;
        request.source_date_epoch = Some(1_500_000_000);
        request.outputs = vec![output(OutputKind::Oci, &place.path("o.tar"))];
        (
            build(&place, &request).0.digest,
            std::fs::read(place.path("o.tar")).unwrap(),
        )
    };
    assert_eq!(digest(NOW), digest(NOW + 1000));
}

fn cancelling_stops_the_command() {
    let place = Place::new();
    let request = request(
        &place,
        "FROM base\nRUN (trap '' TERM; sleep 100) & echo begun; sleep 100\n",
    );
    let cancel = Cancel::default();
    let ui = Recorder {
        stop_at: Some((b"begun".to_vec(), cancel.clone())),
        ..Recorder::default()
    };
    let before = Instant::now();
    let failure = executor::build::build(&place.store, &request, &ui, &cancel, None).unwrap_err();
    assert!(
        matches!(failure.error, Error::Cancelled),
        "{}",
        failure_text(&failure)
    );
    assert!(before.elapsed() < Duration::from_secs(20));
    assert!(place.store.references().unwrap().is_empty());
}

fn nothing_of_the_runtime_is_in_a_layer() {
    let place = Place::new();
    let request = request(
        &place,
        "FROM scratch\nCOPY --from=base /bin/busybox /bin/busybox\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\n",
    );
    build(&place, &request);
    let files: Vec<String> = place.files(&request).into_keys().collect();
    assert_eq!(files, ["bin", "bin/busybox", "made"]);
}

fn steps_run_at_the_same_time() {
    let place = Place::new();
    let stages: String = (0..3)
        .map(|n| format!("FROM base AS s{n}\nRUN --mount=type=cache,id=meet,target=/m touch /m/{n}; for i in $(seq 300); do [ -e /m/0 ] && [ -e /m/1 ] && [ -e /m/2 ] && echo met > /o{n} && exit 0; sleep 0.1; done; exit 1\n"))
        .collect();
    let dockerfile = format!(
        "{stages}FROM scratch\nCOPY --from=s0 /o0 /\nCOPY --from=s1 /o1 /\nCOPY --from=s2 /o2 /\n"
    );
    build(&place, &request(&place, &dockerfile));
}
