//! The connection to a server: HTTP/2 with or without TLS, and the metadata that every call carries.

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::proto;
use prost::Message;
use std::time::Duration;
use tonic::Request;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// Pings of HTTP/2 while calls are open. Servers close connections that ping more often than every five minutes without being
/// asked to allow it; a dead peer is found sooner by TCP's keep-alive.
const PING: Duration = Duration::from_secs(305);
const PING_ANSWER: Duration = Duration::from_secs(20);
const TCP_IDLE: Duration = Duration::from_secs(30);
const TCP_INTERVAL: Duration = Duration::from_secs(10);
const TCP_PROBES: u32 = 3;
/// What a server may send ahead of what is read, per call and in all.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Header names that gRPC and HTTP/2 keep for themselves.
const OWN_HEADERS: [&str; 7] = [
    "te",
    "content-type",
    "user-agent",
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
];

/// A connection and what every call over it carries.
#[derive(Clone)]
pub(crate) struct Line {
    channel: Channel,
    metadata: MetadataMap,
}

impl Line {
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }
}

/// Checks an endpoint's settings and makes a channel that connects when first used, and again after the connection broke.
pub(crate) fn open(endpoint: &Endpoint) -> Result<Line, Error> {
    let metadata = metadata(endpoint)?;
    let scheme = if endpoint.tls { "https" } else { "http" };
    let setup = |what: &'static str, reason: String| Error::Setup {
        endpoint: endpoint.name(),
        what,
        reason,
    };
    let uri = format!("{scheme}://{}:{}", endpoint.host, endpoint.port);
    let mut transport = tonic::transport::Endpoint::from_shared(uri)
        .and_then(|transport| transport.user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION"))))
        .map_err(|error| setup("address", error.to_string()))?
        .connect_timeout(endpoint.deadlines.connect)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(TCP_IDLE))
        .tcp_keepalive_interval(Some(TCP_INTERVAL))
        .tcp_keepalive_retries(Some(TCP_PROBES))
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING_ANSWER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if endpoint.tls {
        let tls = tls(endpoint)?;
        transport = transport
            .tls_config(tls)
            .map_err(|error| setup("TLS settings", innermost(&error)))?;
    } else if endpoint.authorities.is_some() || endpoint.identity.is_some() {
        return Err(setup(
            "certificates",
            "the address says grpc://, which is without TLS".to_owned(),
        ));
    }
    Ok(Line {
        channel: transport.connect_lazy(),
        metadata,
    })
}

fn tls(endpoint: &Endpoint) -> Result<ClientTlsConfig, Error> {
    let bad = |what: &'static str, reason: &str| Error::Setup {
        endpoint: endpoint.name(),
        what,
        reason: reason.to_owned(),
    };
    let mut tls = ClientTlsConfig::new().timeout(endpoint.deadlines.connect);
    tls = match &endpoint.authorities {
        Some(pem) if !holds(pem, "CERTIFICATE") => {
            return Err(bad(
                "certificate authority",
                "there is no certificate (PEM) in it",
            ));
        }
        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = &endpoint.identity {
        if !holds(certificate, "CERTIFICATE") {
            return Err(bad(
                "client certificate",
                "there is no certificate (PEM) in it",
            ));
        }
        if !holds(key, "PRIVATE KEY") {
            return Err(bad("client key", "there is no private key (PEM) in it"));
        }
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(tls)
}

/// Whether a PEM file has a section of that kind.
fn holds(pem: &[u8], kind: &str) -> bool {
    String::from_utf8_lossy(pem).lines().any(|line| {
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{kind}-----"))
    })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(next) = current.source() {
        current = next;
    }
    crate::error::told(&current.to_string())
}

fn metadata(endpoint: &Endpoint) -> Result<MetadataMap, Error> {
    let mut metadata = MetadataMap::new();
    for (name, value) in &endpoint.headers {
        let bad = |why: &str| Error::Setup {
            endpoint: endpoint.name(),
            what: "header",
            reason: format!("{}: {why}", crate::error::told(name)),
        };
        if OWN_HEADERS.contains(&name.as_str())
            || name.starts_with("grpc-")
            || name.starts_with(':')
        {
            return Err(bad("the protocol keeps this name for itself"));
        }
        let key: AsciiMetadataKey = name
            .parse()
            .map_err(|_| bad("that is no name of a header"))?;
        let mut value: AsciiMetadataValue = value
            .parse()
            .map_err(|_| bad("its value has characters that no header has"))?;
        value.set_sensitive(true);
        metadata.append(key, value);
    }
    let tool = proto::RequestMetadata {
        tool_details: Some(proto::ToolDetails {
            tool_name: "kiln".to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        ..Default::default()
    };
    metadata.insert_bin(
        "build.bazel.remote.execution.v2.requestmetadata-bin",
        MetadataValue::from_bytes(&tool.encode_to_vec()),
    );
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(endpoint: &Endpoint) -> String {
        match open(endpoint) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn settings_are_checked() {
        let plain = || Endpoint::parse("grpc://localhost:1/i").unwrap();
        let tls = || Endpoint::parse("grpcs://localhost:1").unwrap();
        assert_eq!(reason(&plain().with_header("X-Api-Key", "abc")), "");
        for (endpoint, says) in [
            (plain().with_header("content-type", "x"), "content-type"),
            (plain().with_header("grpc-timeout", "x"), "keeps this name"),
            (plain().with_header("a b", "x"), "no name of a header"),
            (
                plain().with_header("key", "hunter2\n2"),
                "characters that no header has",
            ),
            (plain().with_authorities(b"x".to_vec()), "without TLS"),
            (
                tls().with_authorities(b"x".to_vec()),
                "no certificate (PEM)",
            ),
            (
                tls().with_identity(b"x".to_vec(), b"y".to_vec()),
                "no certificate (PEM)",
            ),
        ] {
            let reason = reason(&endpoint);
            assert!(reason.contains(says), "{reason} / {says}");
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }
}
