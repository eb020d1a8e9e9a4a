//! Execution of actions: stages, output, failures, lost connections, cancellation and time-outs.

use crate::support::{action, client, nothing, run, shell};
use reapi::{Client, Digest, Error, ExecuteOptions, Executed, Stage};
use std::future::pending;
use std::sync::Mutex;
use std::time::Duration;
use testkit::reapi::{Fault, LostWorker, NoMatch, Options, Server, Worker};
use tokio::sync::Notify;

fn options() -> ExecuteOptions {
    ExecuteOptions {
        queue_timeout: Some(Duration::from_secs(60)),
        run_timeout: Duration::from_secs(60),
        properties: vec![("ISA".to_owned(), "arm-a64".to_owned())],
        ..ExecuteOptions::default()
    }
}

async fn execute(client: &Client, action: Digest) -> Result<Executed, Error> {
    client.execute(action, &options(), &|_| {}, pending()).await
}

#[test]
fn a_command_runs_and_its_result_is_found_later() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let action = shell(&client, "cat input; echo made > out; echo warned >&2").await;
        let stages = Mutex::new(Vec::new());
        let done = client
            .execute(
                action,
                &options(),
                &|stage| stages.lock().unwrap().push(stage),
                pending(),
            )
            .await
            .unwrap();
        assert_eq!((done.result.exit_code, done.from_cache), (0, false));
        assert_eq!(done.timing().worker, "worker-1");
        let result = &done.result;
        let stdout = client.content_of(&result.stdout_raw, result.stdout_digest.as_ref(), 100);
        assert_eq!(stdout.await.unwrap(), "some input");
        let stages = stages.into_inner().unwrap();
        assert!(
            stages
                .iter()
                .any(|stage| matches!(stage, Stage::Executing { .. })),
            "{stages:?}"
        );
        let again = execute(&client, action).await.unwrap();
        assert!(again.from_cache);
        let found = client.action_result(action, &["out"]).await.unwrap();
        let file = found.unwrap().output_files.remove(0);
        let made = client.content_of(&file.contents, file.digest.as_ref(), 100);
        assert_eq!(made.await.unwrap(), "made\n");
        assert_eq!(server.executions().len(), 1);
    });
}

#[test]
fn a_command_that_fails_is_no_error() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let action = shell(&client, "exit 7").await;
        let done = execute(&client, action).await.unwrap();
        assert_eq!(done.result.exit_code, 7);
    });
}

#[test]
fn the_status_comes_before_the_exit_code() {
    for (code, lost) in [(14, true), (13, true), (10, true), (7, false), (3, false)] {
        let server = Server::start(Options::default());
        let client = client(&server);
        run(async {
            let action = shell(&client, "true").await;
            server.inject(Fault::StatusInResponse { code });
            let error = execute(&client, action).await.unwrap_err();
            assert!(matches!(error, Error::Execution { .. }), "{error:?}");
            assert_eq!(error.is_worker_lost(), lost, "{code}");
        });
    }
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let action = shell(&client, "true").await;
        server.inject(Fault::StatusInResponse { code: 4 });
        let error = execute(&client, action).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    });
}

#[test]
fn blobs_that_the_server_lacks_are_named() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let (digest, blobs) = action("true", &[]);
        let lacking = Digest::of(b"some input");
        let rest = blobs.into_iter().filter(|blob| blob.digest != lacking);
        client.upload(rest.collect(), &nothing).await.unwrap();
        let error = execute(&client, digest).await.unwrap_err();
        assert!(error.is_missing_blobs(), "{error:?}");
        assert_eq!(error.missing_blobs(), [lacking]);
        let absent = Digest::of(b"no such action");
        let error = execute(&client, absent).await.unwrap_err();
        assert!(error.is_missing_blobs(), "{error:?}");
    });
}

#[test]
fn operations_are_followed_over_broken_streams() {
    for fault in [Fault::BreakOperations, Fault::NoWait, Fault::LoseOperations] {
        let server = Server::start(Options::default());
        let client = client(&server);
        run(async {
            let action = shell(&client, "echo ran").await;
            if fault == Fault::NoWait {
                server.inject(Fault::NoWait);
                server.inject_times(Fault::BreakOperations, 1);
            } else {
                server.inject_times(fault.clone(), 2);
            }
            let done = execute(&client, action).await.unwrap();
            assert_eq!(done.result.exit_code, 0, "{fault:?}");
        });
    }
}

#[test]
fn a_restart_of_the_server_is_survived() {
    let server = Mutex::new(Server::start(Options::default()));
    let client = client(&server.lock().unwrap());
    run(async {
        // Runs until it is killed the first time, and ends at once the second time.
        let marker = tempfile::tempdir().unwrap();
        let path = marker.path().join("ran").display().to_string();
        let script = format!("test -e {path} && exit 0; touch {path}; sleep 100");
        let action = shell(&client, &script).await;
        let started = Notify::new();
        let tell = when_executing(&started);
        let opts = options();
        let work = client.execute(action, &opts, &tell, pending());
        let restart = async {
            started.notified().await;
            while !marker.path().join("ran").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::block_in_place(|| server.lock().unwrap().restart());
        };
        let (done, ()) = tokio::join!(work, restart);
        match done {
            Ok(done) => assert_eq!(done.result.exit_code, 0),
            Err(error) => assert!(error.is_worker_lost(), "{error:?}"),
        }
    });
}

#[test]
fn nobody_offers_what_is_asked_for() {
    for (no_match, waited) in [(NoMatch::Queue, true), (NoMatch::Error, false)] {
        let server = Server::start(Options {
            no_match,
            ..Options::default()
        });
        let client = client(&server);
        run(async {
            let (digest, blobs) = action("true", &[("ISA", "arm-a64")]);
            client.upload(blobs, &nothing).await.unwrap();
            // An answer at once is not cut short, however slow the machine.
            let patience = if waited { 500 } else { 60_000 };
            let options = ExecuteOptions {
                queue_timeout: Some(Duration::from_millis(patience)),
                ..options()
            };
            let error = client
                .execute(digest, &options, &|_| {}, pending())
                .await
                .unwrap_err();
            assert!(
                error.to_string().contains("offers ISA=arm-a64"),
                "{error} {error:?}"
            );
            match error {
                Error::NoWorker { waited: time, .. } => assert_eq!(!time.is_zero(), waited),
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn an_action_that_runs_too_long_is_ended() {
    let server = Server::start(Options::default());
    let client = client(&server);
    run(async {
        let action = shell(&client, "sleep 100").await;
        let options = ExecuteOptions {
            run_timeout: Duration::from_millis(500),
            ..options()
        };
        let error = client
            .execute(action, &options, &|_| {}, pending())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert_eq!(server.calls("CancelOperation"), 1);
    });
}

/// Tells that the command is being carried out.
fn when_executing(started: &Notify) -> impl Fn(Stage) {
    |stage| {
        if matches!(stage, Stage::Executing { .. }) {
            started.notify_one();
        }
    }
}

#[test]
fn cancelling_is_asked_for_again() {
    let server = Server::start(Options::default());
    let busy = Fault::status("CancelOperation", 14);
    server.inject_times(busy.clone(), 2);
    let client = client(&server);
    run(async {
        let action = shell(&client, "sleep 100").await;
        let started = Notify::new();
        let tell = when_executing(&started);
        let opts = options();
        let done = client.execute(action, &opts, &tell, started.notified());
        assert!(matches!(done.await, Err(Error::Cancelled { .. })));
        while server.counters().live_children > 0 || server.counters().actions_run == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(server.applied(&busy), 2);
}

#[test]
fn cancelling_and_dropping_end_the_command() {
    for (dropped, no_cancel) in [(false, false), (true, false), (false, true)] {
        let server = Server::start(Options::default());
        if no_cancel {
            server.inject(Fault::NoCancel);
        }
        let client = client(&server);
        run(async {
            let action = shell(&client, "sleep 100").await;
            let started = Notify::new();
            let tell = when_executing(&started);
            let opts = options();
            if dropped {
                let work = client.execute(action, &opts, &tell, pending());
                tokio::select! {
                    done = work => panic!("{done:?}"),
                    () = started.notified() => {}
                }
            } else {
                let error = client
                    .execute(action, &opts, &tell, started.notified())
                    .await
                    .unwrap_err();
                assert!(matches!(error, Error::Cancelled { .. }), "{error:?}");
            }
            while server.calls("CancelOperation") == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
}

#[test]
fn output_is_told_while_the_command_runs() {
    let server = Server::start(Options {
        log_streams: true,
        ..Options::default()
    });
    let client = client(&server);
    run(async {
        let gate = tempfile::tempdir().unwrap();
        let path = gate.path().join("go").display().to_string();
        let script = format!(
            "echo early; echo problem >&2; while ! test -e {path}; do sleep 0.02; done; echo late"
        );
        let action = shell(&client, &script).await;
        let output = Mutex::new((Vec::new(), Vec::new()));
        let tell = |stage| {
            let mut output = output.lock().unwrap();
            match stage {
                Stage::Stdout(piece) => output.0.extend(piece),
                Stage::Stderr(piece) => output.1.extend(piece),
                _ => {}
            }
            // The command goes on only when its first words have been told.
            if output.0 == b"early\n" && output.1 == b"problem\n" {
                std::fs::write(&path, "").unwrap();
            }
        };
        let done = client
            .execute(action, &options(), &tell, pending())
            .await
            .unwrap();
        assert_eq!(done.result.exit_code, 0);
        let (stdout, stderr) = output.into_inner().unwrap();
        assert_eq!(stderr, b"problem\n");
        assert_eq!(done.streamed_stdout, stdout.len() as u64);
        assert!(b"early\nlate\n".starts_with(&stdout), "{stdout:?}");
        assert_eq!(done.streamed_stderr, 8);
    });
}

#[test]
fn a_worker_that_dies_is_told_apart() {
    for lost in [
        LostWorker::Unavailable,
        LostWorker::Aborted,
        LostWorker::Stream,
        LostWorker::Retried,
    ] {
        let server = Server::start(Options {
            lost_worker: lost,
            workers: vec![Worker::new("one", 1), Worker::new("two", 1)],
            ..Options::default()
        });
        let client = client(&server);
        run(async {
            let action = shell(&client, "echo half; sleep 0.2").await;
            server.inject_times(Fault::kill_worker("half"), 1);
            match (lost, execute(&client, action).await) {
                (LostWorker::Unavailable | LostWorker::Aborted, Err(error)) => {
                    assert!(error.is_worker_lost(), "{error:?}");
                }
                // A stream that breaks is followed again, and then the other worker has it.
                (LostWorker::Stream, Err(error)) => {
                    assert!(error.is_transient(), "{error:?}");
                }
                (LostWorker::Stream | LostWorker::Retried, Ok(done)) => {
                    assert_eq!(done.result.exit_code, 0);
                }
                other => panic!("{other:?}"),
            }
        });
    }
}
