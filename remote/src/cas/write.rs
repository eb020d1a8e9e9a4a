//! One blob to the server as a stream, resumed where it broke; in zstd where the server takes it and it makes the blob smaller.

use super::{Blob, Content, Uploaded};
use crate::digest::Hasher;
use crate::google::bytestream::byte_stream_client::ByteStreamClient;
use crate::google::bytestream::{QueryWriteStatusRequest, WriteRequest};
use crate::retry::Attempts;
use crate::trouble::Trouble;
use crate::{Client, Code, ConnectFailure, Digest, Error};
use ring::rand::SecureRandom;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc, oneshot};

/// Bytes of one message of a stream.
const PIECE: usize = 1 << 20;
/// How much of a blob is compressed to see whether all of it should be.
const SAMPLE: u64 = 64 << 10;
/// Fast, and most of what there is to gain.
const LEVEL: i32 = 1;
/// Bytes that a resumed transfer must have moved for the failure before to be forgotten.
pub(super) const PROGRESS: u64 = 256 << 10;

/// One upload over all its tries.
struct Upload {
    digest: Digest,
    content: Content,
    resource: String,
    zstd: bool,
}

/// Content of a blob that was read and sent, over all tries; the caller is told each byte once.
struct Told<'a> {
    sent: &'a (dyn Fn(u64) + Send + Sync),
    told: u64,
}

impl Told<'_> {
    fn up_to(&mut self, bytes: u64) {
        if bytes > self.told {
            (self.sent)(bytes - self.told);
            self.told = bytes;
        }
    }
}

impl Client {
    /// Sends one blob as a stream.
    pub(super) async fn write(
        &self,
        blob: &Blob,
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Uploaded, Error> {
        let digest = blob.digest;
        let zstd = self.capabilities().await?.zstd && shrinks(blob).await?;
        let form = if zstd {
            "compressed-blobs/zstd"
        } else {
            "blobs"
        };
        let upload = Upload {
            digest,
            content: blob.content.clone(),
            resource: self.resource(&format!("uploads/{}/{form}/{digest}", uuid())),
            zstd,
        };
        let mut told = Told { sent, told: 0 };
        let mut attempts = Attempts::new(self.endpoint().retry);
        let mut offset = 0;
        let mut wire = 0;
        loop {
            let (moved, answer) = self.write_from(&upload, offset, &mut told).await;
            wire += moved;
            let trouble = match answer {
                Ok(()) => break,
                Err(Trouble::Fatal(error)) => return Err(*error),
                Err(trouble) if trouble.code() == Some(Code::AlreadyExists) => break,
                Err(trouble) => trouble,
            };
            attempts
                .wait_or_give_up(trouble)
                .await
                .map_err(|trouble| self.error(&|| format!("upload blob {digest}"), trouble))?;
            let Some(committed) = self.committed(&upload).await else {
                break;
            };
            if committed >= offset + PROGRESS {
                attempts.progressed();
            }
            offset = committed;
        }
        told.up_to(digest.size());
        Ok(Uploaded {
            blobs: 1,
            bytes: digest.size(),
            sent: wire,
        })
    }

    /// How many bytes of an upload the server has; none when it has the blob.
    async fn committed(&self, upload: &Upload) -> Option<u64> {
        let answer = self
            .unary(
                &|| format!("ask how much of blob {} arrived", upload.digest),
                || QueryWriteStatusRequest {
                    resource_name: upload.resource.clone(),
                },
                |channel, request| async move {
                    ByteStreamClient::new(channel)
                        .query_write_status(request)
                        .await
                },
            )
            .await;
        match answer {
            Ok(answer) if answer.complete => None,
            Ok(answer) => Some(u64::try_from(answer.committed_size).unwrap_or(0)),
            // It knows nothing of the upload, or cannot say: from the start.
            Err(error) => {
                tracing::debug!(%error, "uploads start again");
                Some(0)
            }
        }
    }

    /// One try, from an offset into what goes over the line. Gives the bytes that went, and how it ended.
    async fn write_from(
        &self,
        upload: &Upload,
        offset: u64,
        told: &mut Told<'_>,
    ) -> (u64, Result<(), Trouble>) {
        let line = match self.line().await {
            Ok(line) => line,
            Err(error) => return (0, Err(error.into())),
        };
        let moved = Arc::new(Moved::default());
        let (pieces, received) = mpsc::channel(1);
        let (failed, mut failure) = oneshot::channel();
        let feed = Feed {
            pieces,
            resource: upload.resource.clone(),
            skip: offset,
            offset,
            buffer: Vec::new(),
            moved: Arc::clone(&moved),
        };
        let (digest, content, zstd) = (upload.digest, upload.content.clone(), upload.zstd);
        // The stream must not end before it is known why it does.
        let open = feed.pieces.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send(digest, &content, zstd, feed) {
                // Nobody listens when the call ended first.
                let _ = failed.send(error);
            }
            drop(open);
        });
        let pieces = Pieces(Arc::new(Mutex::new(Some(received))));
        let stream = pieces.stream(Arc::clone(&moved));
        let mut client = ByteStreamClient::new(line.channel());
        let call = client.write(line.request(stream));
        tokio::pin!(call);
        let idle = self.endpoint().deadlines.idle;
        let mut reading = true;
        let answer = loop {
            tokio::select! {
                answer = &mut call => break answer,
                error = &mut failure, if reading => {
                    reading = false;
                    if let Ok(error) = error {
                        return (moved.wire(), Err(error.into()));
                    }
                }
                () = moved.more.notified() => told.up_to(moved.content()),
                () = tokio::time::sleep(idle) => return (moved.wire(), Err(Trouble::Silent(idle))),
            }
        };
        // A stream that ends because its content could not be read is answered too.
        if let Ok(error) = failure.try_recv() {
            return (moved.wire(), Err(error.into()));
        }
        let ended = match answer {
            Ok(answer) => self.accepted(upload, answer.into_inner().committed_size, &moved, offset),
            Err(status) => Err(self.trouble(&status)),
        };
        (moved.wire(), ended)
    }

    /// What the server says of an upload that it has answered.
    fn accepted(
        &self,
        upload: &Upload,
        committed: i64,
        moved: &Moved,
        offset: u64,
    ) -> Result<(), Trouble> {
        // -1: another upload made it superfluous, as the answer before the end also says.
        let whole = upload.digest.size();
        let size = u64::try_from(committed).ok();
        if committed == -1 || size == Some(whole) {
            return Ok(());
        }
        let all_sent = moved.finished.load(Ordering::Acquire) == 1;
        if upload.zstd && (!all_sent || size == Some(offset + moved.wire())) {
            return Ok(());
        }
        Err(Trouble::Connect(ConnectFailure::Broken(format!(
            "the server took {committed} bytes of blob {}",
            upload.digest
        ))))
    }
}

/// What went over the line in one try.
#[derive(Default)]
struct Moved {
    wire: AtomicU64,
    content: AtomicU64,
    /// 1 when the last message went.
    finished: AtomicU64,
    more: Notify,
}

impl Moved {
    fn wire(&self) -> u64 {
        self.wire.load(Ordering::Acquire)
    }

    fn content(&self) -> u64 {
        self.content.load(Ordering::Acquire)
    }
}

/// The pieces of one try. When it is dropped, whoever still holds the stream gets its end, and the reader's next piece is refused.
struct Pieces(Arc<Mutex<Option<mpsc::Receiver<WriteRequest>>>>);

impl Pieces {
    fn stream(
        &self,
        moved: Arc<Moved>,
    ) -> impl futures_util::Stream<Item = WriteRequest> + Send + 'static {
        let shared = Arc::clone(&self.0);
        let next = move || {
            let (shared, moved) = (Arc::clone(&shared), Arc::clone(&moved));
            async move {
                let piece = poll_fn(|context| {
                    let mut receiver = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    match receiver.as_mut() {
                        Some(receiver) => receiver.poll_recv(context),
                        None => std::task::Poll::Ready(None),
                    }
                })
                .await?;
                moved
                    .wire
                    .fetch_add(piece.data.len() as u64, Ordering::AcqRel);
                if piece.finish_write {
                    moved.finished.store(1, Ordering::Release);
                }
                moved.more.notify_one();
                Some(piece)
            }
        };
        futures_util::stream::unfold((), move |()| {
            let piece = next();
            async move { Some((piece.await?, ())) }
        })
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Reads all content, compares it with the digest, and sends it. The last message goes only when the content is right.
fn send(digest: Digest, content: &Content, zstd: bool, feed: Feed) -> Result<(), Error> {
    let unread = |source| Error::Source { digest, source };
    let mut reader = open(content).map_err(unread)?.take(digest.size() + 1);
    let moved = Arc::clone(&feed.moved);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    let mut out = if zstd {
        let encoder = zstd::stream::write::Encoder::new(feed, LEVEL).map_err(unread)?;
        Out::Zstd(encoder)
    } else {
        Out::Plain(feed)
    };
    loop {
        let count = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unread(error)),
        };
        hasher.update(&buffer[..count]);
        if out.write_all(&buffer[..count]).is_err() {
            // The call has ended: it knows why.
            return Ok(());
        }
        moved
            .content
            .store(hasher.size().min(digest.size()), Ordering::Release);
    }
    let got = hasher.finish();
    if got != digest {
        return Err(Error::Changed { digest, got });
    }
    // Also an end that nobody waits for any more.
    let _ = out.finish();
    Ok(())
}

fn open(content: &Content) -> io::Result<Box<dyn Read + Send>> {
    match content {
        Content::Bytes(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
        Content::Source(source) => source.open(),
    }
}

enum Out {
    Plain(Feed),
    Zstd(zstd::stream::write::Encoder<'static, Feed>),
}

impl Out {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(feed) => feed.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Plain(feed) => feed.end(),
            Self::Zstd(encoder) => encoder.finish()?.end(),
        }
    }
}

/// Cuts what goes over the line into messages.
struct Feed {
    pieces: mpsc::Sender<WriteRequest>,
    resource: String,
    /// Bytes that the server has already.
    skip: u64,
    offset: u64,
    buffer: Vec<u8>,
    moved: Arc<Moved>,
}

impl Feed {
    fn push(&mut self, finish_write: bool) -> io::Result<()> {
        let data = std::mem::take(&mut self.buffer);
        let length = data.len() as u64;
        let piece = WriteRequest {
            // Needed in the first one only, but some servers want it in each.
            resource_name: self.resource.clone(),
            write_offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            finish_write,
            data,
        };
        self.offset += length;
        self.pieces
            .blocking_send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn end(mut self) -> io::Result<()> {
        self.push(true)
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = self.skip.min(bytes.len() as u64);
        self.skip -= skipped;
        let skipped = usize::try_from(skipped).unwrap_or(bytes.len());
        let mut rest = &bytes[skipped..];
        while !rest.is_empty() {
            // A full buffer waits for more, so that the last message is never empty.
            if self.buffer.len() == PIECE {
                self.push(false)?;
            }
            let (now, later) = rest.split_at(rest.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            rest = later;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether compressing is worth it: what is compressed or encrypted already is not made smaller.
async fn shrinks(blob: &Blob) -> Result<bool, Error> {
    let (digest, content) = (blob.digest, blob.content.clone());
    let sample = move || {
        let mut start = Vec::new();
        open(&content)?.take(SAMPLE).read_to_end(&mut start)?;
        let packed = zstd::bulk::compress(&start, LEVEL)?;
        Ok(packed.len() < start.len() - start.len() / 10)
    };
    match tokio::task::spawn_blocking(sample).await {
        Ok(answer) => answer.map_err(|source| Error::Source { digest, source }),
        Err(_) => Ok(false),
    }
}

/// A random name of an upload (RFC 9562, version 4).
fn uuid() -> String {
    let mut bytes = [0; 16];
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_err() {
        // Without random numbers: unique in this process, which is what resuming needs.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        bytes[8..12].copy_from_slice(&std::process::id().to_be_bytes());
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_have_names_of_their_own() {
        let (one, two) = (uuid(), uuid());
        assert_ne!(one, two);
        assert_eq!(one.len(), 36);
        assert_eq!(&one[14..15], "4");
    }

    /// What a feed sends for content written in pieces of some length.
    fn fed(length: usize, step: usize, skip: u64) -> Vec<WriteRequest> {
        let (pieces, mut received) = mpsc::channel(64);
        let mut feed = Feed {
            pieces,
            resource: "r".to_owned(),
            skip,
            offset: skip,
            buffer: Vec::new(),
            moved: Arc::new(Moved::default()),
        };
        let content: Vec<u8> = (0..length).map(|i| (i / 7) as u8).collect();
        for part in content.chunks(step) {
            feed.write_all(part).unwrap();
        }
        feed.end().unwrap();
        std::iter::from_fn(|| received.try_recv().ok()).collect()
    }

    #[test]
    fn messages_cover_the_content_from_the_offset() {
        for (length, step, skip) in [
            (1, 1, 0),
            (PIECE, 1000, 0),
            (PIECE + 1, PIECE + 1, 0),
            (3 * PIECE, 4096, 5),
            (3 * PIECE, 4096, PIECE as u64),
            (2 * PIECE, 999, 2 * PIECE as u64),
        ] {
            let messages = fed(length, step, skip);
            let mut offset = skip;
            for (index, message) in messages.iter().enumerate() {
                assert_eq!(message.write_offset as u64, offset);
                assert_eq!(message.finish_write, index + 1 == messages.len());
                let from = offset as usize;
                let expected: Vec<u8> = (from..from + message.data.len())
                    .map(|i| (i / 7) as u8)
                    .collect();
                assert_eq!(message.data, expected);
                assert!(message.data.len() <= PIECE);
                offset += message.data.len() as u64;
            }
            assert_eq!(offset, length as u64);
        }
    }
}
