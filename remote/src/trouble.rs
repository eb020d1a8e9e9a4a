//! What a failed call means: no connection, silence, or the server's word. Read out of the causes that the libraries wrap into
//! each other.

use crate::endpoint::Deadlines;
use crate::error::{ConnectFailure, Error, Failure, told};
use std::error::Error as StdError;
use std::io;
use std::time::Duration;
use tonic::{Code, Status};

/// Why one try of a call failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// There is no connection, or it broke.
    Connect(ConnectFailure),
    /// Nothing came for that long.
    Silent(Duration),
    /// The server answered with a status.
    Answer(Failure),
    /// An error that has nothing to do with the connection, and is to be given to the caller as it is.
    Fatal(Box<Error>),
}

impl Trouble {
    pub(crate) fn of(status: &Status, deadlines: Deadlines) -> Self {
        let Some(cause) = status.source() else {
            return Self::answered(status);
        };
        if cause.downcast_ref::<tonic::TimeoutExpired>().is_some() {
            return Self::Silent(deadlines.call);
        }
        Self::Connect(connect_failure(cause, deadlines))
    }

    /// A status without a cause on this side: the server's, or one made of an HTTP status.
    fn answered(status: &Status) -> Self {
        let message = status.message();
        let proxied = matches!(
            status.code(),
            Code::Unavailable | Code::Unauthenticated | Code::PermissionDenied
        );
        // The library's words for an answer without a status of gRPC.
        let foreign = message.contains("mapped from HTTP status code")
            || message.contains("grpc-status header missing");
        if foreign && message.contains("HTTP status code 200") {
            return Self::Connect(ConnectFailure::Broken(
                "the stream ended without a status".to_owned(),
            ));
        }
        if foreign && !proxied {
            return Self::Connect(ConnectFailure::NotGrpc(told(message)));
        }
        Self::Answer(Failure::of(status))
    }

    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connect(failure) => failure.is_transient(),
            Self::Silent(_) => true,
            Self::Answer(failure) => failure.is_transient(),
            Self::Fatal(_) => false,
        }
    }

    /// The server's status.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Answer(failure) => Some(failure.code),
            _ => None,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Answer(failure) => failure.retry_after,
            _ => None,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Fatal(Box::new(error))
    }
}

/// The innermost cause that says something.
fn connect_failure(cause: &(dyn StdError + 'static), deadlines: Deadlines) -> ConnectFailure {
    let mut last = cause.to_string();
    let mut names = false;
    let mut current = Some(cause);
    while let Some(error) = current {
        if let Some(tls) = tls_failure(error) {
            return tls;
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return ConnectFailure::Refused,
                io::ErrorKind::TimedOut => return ConnectFailure::TimedOut(deadlines.connect),
                _ => {}
            }
        }
        last = error.to_string();
        names |= last.contains("dns error");
        if last.contains("HTTP/2 was not negotiated") {
            return ConnectFailure::NotHttp2("it does not offer it in its handshake".to_owned());
        }
        // An HTTP/1 answer, or a TLS alert, read as a frame.
        if last.contains("frame with invalid size")
            || last.contains("http2 error") && last.contains("invalid")
        {
            return ConnectFailure::NotHttp2(told(&last));
        }
        if last.contains("deadline has elapsed") || last.contains("handshake timeout") {
            return ConnectFailure::TimedOut(deadlines.connect);
        }
        current = error.source();
    }
    if names {
        return ConnectFailure::Name(told(&last));
    }
    ConnectFailure::Broken(told(&last))
}

fn tls_failure(error: &(dyn StdError + 'static)) -> Option<ConnectFailure> {
    // An I/O error does not give what it wraps as its source, but its source's source.
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return tls_failure(io.get_ref()?);
    }
    let tls = error.downcast_ref::<rustls::Error>()?;
    Some(match tls {
        rustls::Error::InvalidMessage(_) => ConnectFailure::NotTls,
        rustls::Error::AlertReceived(alert) => ConnectFailure::Certificate(format!(
            "the server refused ours, or that there is none ({alert:?})"
        )),
        other => ConnectFailure::Certificate(told(&other.to_string())),
    })
}
