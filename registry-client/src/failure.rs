//! Why a request got no answer, read out of the causes that the HTTP library wraps into each other.

use rustls::AlertDescription;

/// Why a request got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Name resolution, TCP connect or a timeout before the connection stood.
    Connect,
    /// The server does not speak TLS.
    NotTls,
    /// The server's certificate was refused, or TLS failed for another lasting reason.
    Certificate,
    /// The server refused our certificate, or that we have none.
    ClientCertificate,
    /// The connection broke later.
    Broken,
}

/// Looks through the causes, because the HTTP library wraps TLS errors several times.
pub(crate) fn transport_failure(error: &reqwest::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(failure) = tls_failure(current) {
            return failure;
        }
        cause = current.source();
    }
    if error.is_connect() {
        Failure::Connect
    } else {
        Failure::Broken
    }
}

fn tls_failure(error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    // An I/O error does not give what it wraps as its source, but its source's source.
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return tls_failure(io.get_ref()?);
    }
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidMessage(_) => Some(Failure::NotTls),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired,
        ) => Some(Failure::ClientCertificate),
        _ => Some(Failure::Certificate),
    }
}
