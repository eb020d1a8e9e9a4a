//! Clusters that fail or lie: each build ends in the right image or in an error that says why, and nothing wrong is in
//! the store afterwards.

use crate::cluster::{at_rest, build, digest, executor, options};
use crate::support::Project;
use std::net::{TcpListener, TcpStream};
use testkit::reapi::{Fault, Lie, LostWorker, Options, Server};

const DOCKERFILE: &str = "FROM busybox\nRUN echo begun; echo one > /one\nRUN cat /one > /two\n";

/// What a fault ends in.
enum Ends {
    /// The right image.
    Well,
    /// An error with this in it.
    Badly(&'static str),
}

/// Builds under a fault, and once more without it in the same store.
#[track_caller]
fn check(server: &Server, fault: &Fault, times: Option<u64>, ends: &Ends) {
    let here = digest(&Project::new(DOCKERFILE), &[]);
    server.forget();
    let flag = executor(server, ",queue-timeout=3s");
    let project = Project::new(DOCKERFILE);
    match times {
        Some(times) => server.inject_times(fault.clone(), times),
        None => server.inject(fault.clone()),
    }
    match ends {
        Ends::Well => assert_eq!(digest(&project, &[&flag]), here, "{fault:?}"),
        Ends::Badly(says) => {
            let run = build(&project, &[&flag]);
            assert_eq!(run.status, 1, "{fault:?}\n{}", run.stderr);
            assert!(run.stderr.contains(says), "{fault:?}\n{}", run.stderr);
        }
    }
    assert!(server.applied(fault) > 0, "{fault:?}");
    server.clear();
    at_rest(server);
    // The store has nothing that is not right.
    server.forget();
    assert_eq!(digest(&project, &[&flag]), here, "{fault:?}");
}

#[test]
fn a_worker_that_dies_is_replaced_once() {
    for lost_worker in [LostWorker::Unavailable, LostWorker::Aborted] {
        let server = Server::start(Options {
            lost_worker,
            ..options()
        });
        check(&server, &Fault::kill_worker("begun"), Some(1), &Ends::Well);
    }
    let server = Server::start(options());
    let fault = Fault::kill_worker("begun");
    check(&server, &fault, None, &Ends::Badly("could not execute"));
}

#[test]
fn blobs_that_get_lost_are_brought_again() {
    let server = Server::start(options());
    check(&server, &Fault::MissingLies, None, &Ends::Well);
    check(&server, &Fault::EvictAfterHit, Some(1), &Ends::Well);
}

#[test]
fn a_result_that_is_gone_is_made_again() {
    let server = Server::start(options());
    let flag = executor(&server, "");
    let first = digest(&Project::new(DOCKERFILE), &[&flag]);
    assert_eq!(server.counters().actions_run, 2);
    server.inject_times(Fault::EvictAfterHit, 1);
    let other = Project::new(DOCKERFILE);
    assert_eq!(digest(&other, &[&flag]), first);
    assert!((3..=4).contains(&at_rest(&server).actions_run));
}

/// A worker that cannot read what was staged says so, and gets another try; not more than one.
#[test]
fn files_that_a_worker_cannot_read_are_brought_again() {
    let server = Server::start(options());
    let fault = Fault::Result(Lie::Unreadable);
    check(&server, &fault, Some(1), &Ends::Well);
    let says = "its worker could not: it was not to be read";
    check(&server, &fault, None, &Ends::Badly(says));
}

/// With lazy staging it may be the command that cannot read its files, and all that is known is that it failed.
#[test]
fn files_that_a_command_cannot_read_are_brought_again() {
    let server = Server::start(Options {
        node_properties: true,
        ..options()
    });
    let flag = executor(&server, "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let project = Project::new(&format!(
        "FROM busybox\nRUN echo to-be-lost > /x\nRUN nc 127.0.0.1 {port} < /dev/null; grep to-be-lost /x > /y\n"
    ));
    let run = std::thread::scope(|scope| {
        let building = scope.spawn(|| {
            let run = build(&project, &[&flag]);
            // One that ended too early leaves nobody waiting.
            for _ in 0..2 {
                TcpStream::connect(("127.0.0.1", port)).ok();
            }
            run
        });
        // Each execution waits here until its connection is closed.
        let first = listener.accept().unwrap();
        let lost = server.lose(b"to-be-lost\n");
        drop(first);
        drop(listener.accept().unwrap());
        let run = building.join().unwrap().ok();
        assert_eq!(lost, 1);
        run
    });
    let says = "once more: it failed, and the server has lost 1 of its inputs meanwhile";
    assert!(run.stderr.contains(says), "{}", run.stderr);
    assert_eq!(at_rest(&server).actions_run, 3);

    // Where nothing is lost, one question more is asked and that is all.
    let asked = server.calls("FindMissingBlobs");
    project.write("Dockerfile", "FROM busybox\nRUN exit 3\n");
    build(&project, &[&flag]).fails(1, &["exit code: 3"]);
    assert_eq!(at_rest(&server).actions_run, 4);
    assert_eq!(server.calls("FindMissingBlobs"), asked + 2);
}

#[test]
fn lies_are_not_believed() {
    let server = Server::start(options());
    for (fault, says) in [
        (Fault::Result(Lie::AbsentBlobs), "no blob"),
        (Fault::Result(Lie::WrongDigests), "is not used"),
        (Fault::Result(Lie::BrokenDigests), "is not a digest"),
        (Fault::Result(Lie::NoOutputs), "wrote no report"),
        (Fault::Result(Lie::ExitOne), "exit code"),
        (Fault::WrongContent(None), "sent something else"),
        (Fault::StatusInResponse { code: 13 }, "could not execute"),
        (Fault::StallQueue, "no worker of"),
    ] {
        check(&server, &fault, None, &Ends::Badly(says));
    }
}

#[test]
fn a_failure_is_not_made_a_success() {
    let server = Server::start(options());
    let flag = executor(&server, "");
    server.inject(Fault::Result(Lie::ExitZero));
    let project = Project::new("FROM busybox\nRUN echo x > /x; exit 9\n");
    build(&project, &[&flag]).fails(1, &["says exit code 9, and the server 0"]);
    server.clear();
    build(&project, &[&flag]).fails(1, &["exit code: 9"]);
}
