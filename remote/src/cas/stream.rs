//! One blob from the server as a stream, resumed where it broke.

use super::LARGEST_ANSWER;
use super::write::PROGRESS;
use crate::digest::Hasher;
use crate::google::bytestream::ReadRequest;
use crate::google::bytestream::byte_stream_client::ByteStreamClient;
use crate::retry::Attempts;
use crate::trouble::Trouble;
use crate::{Client, Code, Digest, Error};
use std::io::{self, Write};
use std::sync::Arc;
use tonic::Streaming;

/// Where a blob's content goes; counts and hashes it, and takes no byte more than the digest says.
pub(super) struct Sink<'a> {
    digest: Digest,
    hasher: Hasher,
    out: &'a mut (dyn Write + Send),
    received: &'a (dyn Fn(u64) + Send + Sync),
    /// The reason of the last refusal to take bytes.
    refused: Option<Refused>,
}

#[derive(Clone, Copy)]
enum Refused {
    TooMuch,
    NotWritten,
}

impl<'a> Sink<'a> {
    pub(super) fn new(
        digest: Digest,
        out: &'a mut (dyn Write + Send),
        received: &'a (dyn Fn(u64) + Send + Sync),
    ) -> Self {
        Self {
            digest,
            hasher: Hasher::new(),
            out,
            received,
            refused: None,
        }
    }

    /// Why bytes were not taken; `error` is from writing them, or from decoding them first.
    fn error(&self, error: io::Error, endpoint: Arc<str>) -> Error {
        let digest = self.digest;
        match self.refused {
            Some(Refused::NotWritten) => Error::Sink {
                digest,
                source: error,
            },
            Some(Refused::TooMuch) => Error::Corrupt {
                digest,
                endpoint,
                got: format!("more than {} bytes", digest.size()),
            },
            None => Error::Corrupt {
                digest,
                endpoint,
                got: "bytes that are no zstd".to_owned(),
            },
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.digest.size() - self.hasher.size() {
            self.refused = Some(Refused::TooMuch);
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.out
            .write_all(bytes)
            .inspect_err(|_| self.refused = Some(Refused::NotWritten))?;
        self.hasher.update(bytes);
        (self.received)(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Client {
    /// Streams a blob into a sink and compares it with its digest.
    pub(super) async fn stream(&self, sink: &mut Sink<'_>) -> Result<(), Error> {
        let digest = sink.digest;
        let mut zstd = self.endpoint().compressed_reads
            && digest.size() > 0
            && self.capabilities().await?.zstd;
        let mut attempts = Attempts::new(self.endpoint().retry);
        while sink.hasher.size() < digest.size() {
            let before = sink.hasher.size();
            let ended = if zstd {
                self.stream_zstd(sink).await
            } else {
                self.stream_plain(sink).await
            };
            // Only plain content can be resumed anywhere.
            zstd = false;
            if sink.hasher.size() >= before + PROGRESS {
                attempts.progressed();
            }
            let trouble = match ended {
                Ok(()) if sink.hasher.size() == digest.size() => break,
                Ok(()) => Trouble::Connect(crate::ConnectFailure::Broken(format!(
                    "the stream of blob {digest} ended after {} bytes",
                    sink.hasher.size()
                ))),
                Err(Trouble::Fatal(error)) => return Err(*error),
                Err(trouble) if trouble.code() == Some(Code::NotFound) => {
                    return Err(Error::NotFound {
                        digest,
                        endpoint: self.endpoint().name(),
                    });
                }
                Err(trouble) => trouble,
            };
            attempts
                .wait_or_give_up(trouble)
                .await
                .map_err(|trouble| self.error(&|| format!("read blob {digest}"), trouble))?;
        }
        let got = sink.hasher.clone().finish();
        if got != digest {
            return Err(Error::Corrupt {
                digest,
                endpoint: self.endpoint().name(),
                got: got.to_string(),
            });
        }
        Ok(())
    }

    async fn stream_plain(&self, sink: &mut Sink<'_>) -> Result<(), Trouble> {
        let digest = sink.digest;
        let mut pieces = self
            .pieces(
                self.resource(&format!("blobs/{digest}")),
                sink.hasher.size(),
            )
            .await?;
        while let Some(piece) = pieces.next(self).await? {
            let wrote = sink.write_all(&piece);
            wrote.map_err(|error| sink.error(error, self.endpoint().name()))?;
        }
        Ok(())
    }

    async fn stream_zstd(&self, sink: &mut Sink<'_>) -> Result<(), Trouble> {
        let digest = sink.digest;
        let resource = self.resource(&format!("compressed-blobs/zstd/{digest}"));
        let mut pieces = self.pieces(resource, 0).await?;
        let endpoint = self.endpoint().name();
        let mut decoder = zstd::stream::write::Decoder::new(&mut *sink)
            .map_err(|source| Error::Sink { digest, source })?;
        let failed = loop {
            match pieces.next(self).await? {
                Some(piece) => {
                    if let Err(error) = decoder.write_all(&piece) {
                        break Some(error);
                    }
                }
                None => break decoder.flush().err(),
            }
        };
        drop(decoder);
        match failed {
            Some(error) => Err(sink.error(error, endpoint).into()),
            None => Ok(()),
        }
    }

    /// `INSTANCE/rest`, or only the rest for the default instance.
    pub(crate) fn resource(&self, rest: &str) -> String {
        match self.endpoint().instance() {
            "" => rest.to_owned(),
            instance => format!("{instance}/{rest}"),
        }
    }

    /// Starts to read a resource.
    pub(crate) async fn pieces(&self, resource: String, offset: u64) -> Result<Pieces, Trouble> {
        let line = self.line().await?;
        let request = line.request(ReadRequest {
            resource_name: resource,
            read_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            read_limit: 0,
        });
        let mut client =
            ByteStreamClient::new(line.channel()).max_decoding_message_size(LARGEST_ANSWER);
        let within = self.endpoint().deadlines.idle;
        match tokio::time::timeout(within, client.read(request)).await {
            Ok(Ok(answer)) => Ok(Pieces {
                stream: answer.into_inner(),
            }),
            Ok(Err(status)) => Err(self.trouble(&status)),
            Err(_) => Err(Trouble::Silent(within)),
        }
    }
}

/// A resource's content as it comes.
pub(crate) struct Pieces {
    stream: Streaming<crate::google::bytestream::ReadResponse>,
}

impl Pieces {
    /// The next piece with something in it; none at the end.
    pub(crate) async fn next(&mut self, client: &Client) -> Result<Option<Vec<u8>>, Trouble> {
        let within = client.endpoint().deadlines.idle;
        let next = async {
            loop {
                match self.stream.message().await? {
                    Some(piece) if piece.data.is_empty() => {}
                    piece => return Ok(piece),
                }
            }
        };
        match tokio::time::timeout(within, next).await {
            Ok(Ok(piece)) => Ok(piece.map(|piece| piece.data)),
            Ok(Err(status)) => Err(client.trouble(&status)),
            Err(_) => Err(Trouble::Silent(within)),
        }
    }
}
