//! BuildGrid with bots of the tests runs actions; a bot works for the server of the tests' own kind of actions.

use crate::client::{self, Script, connect, output};
use testkit::reapi::{BuildGrid, Fault, Options, Worker};

const PLATFORM: [(&str, &str); 2] = [("ISA", "x86-64"), ("OSFamily", "linux")];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "installs BuildGrid: a minute and 180 MB"]
async fn buildgrid_runs_actions_on_bots() {
    let options = Options {
        workers: vec![Worker::new("one", 1), Worker::new("two", 1)],
        ..Options::default()
    };
    let Some(server) = BuildGrid::start(options) else {
        return;
    };
    let channel = connect(&server.url()).await;
    let script = Script::new("cat input; cp input out/file; exit 3").platform(&PLATFORM);
    let answer = script.run(&channel).await;
    assert_eq!(
        answer.status.unwrap_or_default().code,
        0,
        "{}",
        server.log()
    );
    let result = answer.result.unwrap();
    assert_eq!(result.exit_code, 3);
    assert_eq!(output(&channel, &result).await, "from the input root");
    assert_eq!(
        result.output_files[0].digest.as_ref().unwrap().size_bytes,
        19
    );

    // A worker that dies is replaced by the server itself.
    server.bot().inject_times(Fault::kill_worker(""), 1);
    let script = Script::new("sleep 0.1; echo again").platform(&PLATFORM);
    let answer = script.run(&channel).await;
    assert_eq!(answer.result.unwrap().exit_code, 0);
    assert_eq!(server.bot().counters().actions_run, 3);

    let script = Script::new("sleep 1000").platform(&PLATFORM);
    let action = script.send(&channel).await;
    let mut stream = client::start(&channel, &action).await;
    let name = stream.message().await.unwrap().unwrap().name;
    while server.bot().counters().live_children == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    client::cancel(&channel, &name).await.unwrap();
    while server.bot().counters().live_children > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
