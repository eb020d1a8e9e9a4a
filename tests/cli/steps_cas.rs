//! `--remote-cache` at a server of the Remote Execution API: steps in its action cache, layers in its storage.

use crate::caches::{DOCKERFILE, machine, ran};
use crate::steps::build;
use serde_json::Value;
use testkit::reapi::{Fault, Options, Server};

fn at(server: &Server, more: &str) -> String {
    format!("--remote-cache={}{more}", server.url())
}

/// A server with the steps of one machine; with the image's ID.
fn shared(options: Options) -> (Server, String) {
    let server = Server::start(options);
    let (id, run) = build(&machine(), &[&at(&server, "")]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    assert!(!run.stderr.contains("remote cache"), "{}", run.stderr);
    (server, id)
}

/// Each of the four steps by definition and by content.
const RECORDS: usize = 8;

#[test]
fn another_store_runs_nothing_and_asks_once() {
    let complete = Options {
        complete_results: true,
        ..Options::default()
    };
    for options in [Options::default(), complete] {
        let (server, id) = shared(options);
        assert_eq!(server.actions().len(), RECORDS);
        let (before, sent) = (server.counters(), server.counters().bytes_in);
        let there = machine();
        let (again, run) = build(&there, &[&at(&server, "")]);
        assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
        assert_eq!(again, id, "the same image, times and all");
        let calls = |method: &str| {
            let before = before.calls.get(method).copied().unwrap_or_default();
            server.calls(method) - before
        };
        assert_eq!(calls("GetActionResult"), 1);
        assert_eq!(calls("UpdateActionResult"), 0);
        assert_eq!(calls("FindMissingBlobs"), 0);
        assert_eq!(server.counters().bytes_in, sent);
        // All is here now, and nobody is asked.
        let asked = server.counters();
        let (_, run) = build(&there, &[&at(&server, "")]);
        assert_eq!(ran(&run).len(), 0);
        assert_eq!(server.counters().calls, asked.calls);
        assert_eq!(server.counters().actions_run, 0, "nothing is executed");
    }
}

#[test]
fn nothing_under_a_hit_is_downloaded() {
    let (server, _) = shared(Options::default());
    let given = server.counters().bytes_out;
    let there = machine();
    let run = there
        .build(&[&at(&server, ",mode=ro"), "-o", "type=cacheonly"])
        .ok();
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    assert_eq!(server.counters().bytes_out, given);
    there.write("Dockerfile", DOCKERFILE.replace("> /size", "> /count"));
    let run = there
        .build(&[&at(&server, ",mode=ro"), "-o", "type=cacheonly"])
        .ok();
    assert_eq!(ran(&run).len(), 1, "{}", run.stderr);
    assert!(server.counters().bytes_out > given);
    assert_eq!(server.actions().len(), RECORDS, "mode=ro writes nothing");
}

#[test]
fn a_server_that_takes_nothing_is_only_read() {
    let server = Server::start(Options {
        cache_writes: false,
        ..Options::default()
    });
    let (_, run) = build(&machine(), &[&at(&server, "")]);
    assert_eq!(ran(&run).len(), 4);
    let told = "it takes nothing from here, and is only read";
    assert_eq!(run.stderr.matches(told).count(), 1, "{}", run.stderr);
    assert!(server.blobs().is_empty(), "nothing is sent in vain");
}

#[test]
fn evicted_layers_are_made_again_and_sent_again() {
    let (server, _) = shared(Options::default());
    for blob in server.blobs() {
        server.evict(&blob);
    }
    let (_, run) = build(&machine(), &[&at(&server, "")]);
    assert!(!ran(&run).is_empty(), "{}", run.stderr);
    assert!(run.stderr.contains("is not used"), "{}", run.stderr);
    let (_, run) = build(&machine(), &[&at(&server, "")]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
}

#[test]
fn instances_and_salts_keep_tenants_apart() {
    let server = Server::start(Options {
        instance: "team".to_owned(),
        ..Options::default()
    });
    build(&machine(), &[&at(&server, ",salt=one")]);
    let (_, run) = build(&machine(), &[&at(&server, ",salt=two,mode=ro")]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    let (_, run) = build(&machine(), &[&at(&server, ",salt=one,mode=ro")]);
    assert_eq!(ran(&run).len(), 0, "{}", run.stderr);
    let (_, run) = build(
        &machine(),
        &[&at(&server, ",mode=ro").replace("/team", "/other")],
    );
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    // It is not taken for an empty one.
    let says = "has no instance \"other\"";
    assert!(run.stderr.contains(says), "{}", run.stderr);
}

#[test]
fn a_cache_that_is_needed_fails_the_build_before_anything_runs() {
    let mut server = Server::start(Options {
        instance: "team".to_owned(),
        ..Options::default()
    });
    let needed = at(&server, ",ignore-error=false");
    let project = machine();
    build(&project, &[&needed]);

    let wrong = needed.replace("/team", "/other");
    let says = [
        "remote cache",
        "cannot be asked",
        "has no instance \"other\"",
    ];
    machine().build(&[&wrong]).fails(1, &says);
    server.inject(Fault::status("GetActionResult", 7));
    let run = machine().build(&[&needed]);
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    run.fails(1, &["cannot be asked"]);
    server.clear();
    server.down();
    let cold = machine();
    let run = cold.build(&[&needed]);
    assert_eq!(ran(&run), [""; 0], "{}", run.stderr);
    run.fails(1, &["cannot be asked", "could not connect"]);
    // Also where all is in the store.
    project.build(&[&needed]).fails(1, &["cannot be asked"]);
    cold.build(&[&at(&server, "")]).ok();
}

#[test]
fn lies_give_no_wrong_build() {
    type Lie<'l> = (&'l str, &'l dyn Fn(&mut Value));
    let lies: [Lie<'_>; 4] = [
        ("another diff_id", &|record| {
            record["layers"][0]["diff_id"] = format!("sha256:{}", "a".repeat(64)).into();
        }),
        ("absurd sizes", &|record| {
            for layer in record["layers"].as_array_mut().unwrap() {
                layer["blob"]["size"] = u64::MAX.into();
            }
        }),
        ("the record of another step", &|record| {
            record["records"][0]["key"] = "0".repeat(64).into();
            record["records"][0]["content"] = "1".repeat(64).into();
        }),
        ("no record", &|record| *record = Value::Null),
    ];
    for (name, lie) in lies {
        let (server, _) = shared(Options::default());
        for action in server.actions() {
            let mut result = server.result(&action).unwrap();
            let mut record = serde_json::from_slice(&result.stdout_raw).unwrap();
            lie(&mut record);
            result.stdout_raw = record.to_string().into_bytes();
            result.stdout_digest = None;
            server.set_result(&action, result);
        }
        let there = machine();
        let run = there.build(&["-o", "out", &at(&server, "")]).ok();
        let read = |file: &str| std::fs::read_to_string(there.path("out").join(file)).unwrap();
        let made = [read("taken"), read("size")];
        assert_eq!(made, ["onebuilt\n", "9\n"], "{name}: {}", run.stderr);
        assert!(!ran(&run).is_empty(), "{name}: {}", run.stderr);
    }
}

#[test]
fn servers_that_fail_hold_nothing_up() {
    let methods = ["GetActionResult", "UpdateActionResult", "FindMissingBlobs"];
    for method in methods {
        let server = Server::start(Options::default());
        server.inject(Fault::status(method, 13));
        let (_, run) = build(&machine(), &[&at(&server, "")]);
        assert_eq!(ran(&run).len(), 4, "{method}: {}", run.stderr);
        let told = run.stderr.matches("remote cache").count();
        assert_eq!(told, 1, "{method}: {}", run.stderr);
    }
    let (_, run) = build(&machine(), &["--remote-cache=grpc://127.0.0.1:1"]);
    assert_eq!(ran(&run).len(), 4, "{}", run.stderr);
    let told = run.stderr.matches("it is not used").count();
    assert_eq!(told, 1, "{}", run.stderr);
}

#[test]
fn many_writers_lose_no_step() {
    let server = Server::start(Options::default());
    crate::steps::writers_lose_no_step(&at(&server, ""));
}
