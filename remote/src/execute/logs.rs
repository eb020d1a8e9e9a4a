//! Output of commands while they run, for servers that name streams for it.

use super::Stage;
use crate::retry::Attempts;
use crate::trouble::Trouble;
use crate::{Client, Code};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Pieces that wait to be told.
const WAITING: usize = 16;
/// How long the rest of the streams may take once the action has ended: what is in them is in the result as well.
const REST: Duration = Duration::from_secs(2);
/// A stream may be named before it is there.
const NOT_THERE_YET: Duration = Duration::from_millis(200);
const TIMES_NOT_THERE: u32 = 25;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Output {
    Stdout,
    Stderr,
}

/// The output of one execution.
#[derive(Debug)]
pub(super) struct Logs {
    /// Dropped when the action ended: the readers' end is the end.
    sender: Option<mpsc::Sender<(Output, Bytes)>>,
    receiver: mpsc::Receiver<(Output, Bytes)>,
    readers: JoinSet<()>,
    stdout: Option<String>,
    stderr: Option<String>,
    /// Bytes that were told.
    pub(super) streamed_stdout: u64,
    /// Bytes that were told.
    pub(super) streamed_stderr: u64,
}

impl Logs {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender: Some(sender),
            receiver,
            readers: JoinSet::new(),
            stdout: None,
            stderr: None,
            streamed_stdout: 0,
            streamed_stderr: 0,
        }
    }

    /// Starts to read streams that the server has named; each output has one, the first that was named.
    pub(super) fn follow(&mut self, client: &Client, stdout: &str, stderr: &str) {
        let Some(sender) = &self.sender else { return };
        let outputs = [
            (Output::Stdout, &mut self.stdout, stdout),
            (Output::Stderr, &mut self.stderr, stderr),
        ];
        for (output, known, name) in outputs {
            if name.is_empty() || known.is_some() {
                continue;
            }
            *known = Some(name.to_owned());
            let reader = read(client.clone(), name.to_owned(), output, sender.clone());
            self.readers.spawn(reader);
        }
    }

    /// The next piece of output. Waits for ever when no stream has been named.
    pub(super) async fn next(&mut self) -> Option<Stage> {
        let (output, piece) = self.receiver.recv().await?;
        let length = piece.len() as u64;
        Some(match output {
            Output::Stdout => {
                self.streamed_stdout += length;
                Stage::Stdout(piece)
            }
            Output::Stderr => {
                self.streamed_stderr += length;
                Stage::Stderr(piece)
            }
        })
    }

    /// Tells the rest, as far as it comes in time.
    pub(super) async fn rest(&mut self, tell: &(dyn Fn(Stage) + Send + Sync)) {
        self.sender = None;
        let all = async {
            while let Some(piece) = self.next().await {
                tell(piece);
            }
        };
        if tokio::time::timeout(REST, all).await.is_err() {
            tracing::debug!("the streams of output did not end");
        }
        self.readers.abort_all();
    }
}

/// Reads one stream to its end, or until nobody wants it.
async fn read(client: Client, name: String, output: Output, sender: mpsc::Sender<(Output, Bytes)>) {
    let mut offset = 0;
    let mut attempts = Attempts::new(client.endpoint().retry);
    let mut not_there = 0;
    loop {
        let before = offset;
        let trouble = match read_from(&client, &name, output, &sender, &mut offset).await {
            Ok(()) => return,
            Err(trouble) => trouble,
        };
        if offset > before {
            attempts.progressed();
        }
        match trouble {
            // A command may be silent for as long as it likes.
            Trouble::Silent(_) => continue,
            Trouble::Answer(failure)
                if failure.code == Code::NotFound && not_there < TIMES_NOT_THERE =>
            {
                not_there += 1;
                tokio::time::sleep(NOT_THERE_YET).await;
            }
            trouble => {
                if let Err(trouble) = attempts.wait_or_give_up(trouble).await {
                    tracing::debug!(?trouble, ?output, "no output while the action runs");
                    return;
                }
            }
        }
    }
}

async fn read_from(
    client: &Client,
    name: &str,
    output: Output,
    sender: &mpsc::Sender<(Output, Bytes)>,
    offset: &mut u64,
) -> Result<(), Trouble> {
    let mut pieces = client.pieces(name.to_owned(), *offset).await?;
    while let Some(piece) = pieces.next(client).await? {
        *offset += piece.len() as u64;
        if sender.send((output, Bytes::from(piece))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
