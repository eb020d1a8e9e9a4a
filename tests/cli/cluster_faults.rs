//! Clusters that fail or lie: each build ends in the right image or in an error that says why, and nothing wrong is in
//! the store afterwards.

use crate::cluster::{at_rest, build, digest, executor, options};
use crate::support::Project;
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
