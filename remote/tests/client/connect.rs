//! Connections: who is let in, and what people are told when there is none.

use crate::support::{client, endpoint, run};
use reapi::{Client, ConnectFailure, Deadlines, Digest, Endpoint, Error, Retry};
use std::fs;
use std::net::TcpListener;
use std::time::Duration;
use testkit::Authority;
use testkit::reapi::{Options, Server, Tls};

fn failure(endpoint: Endpoint) -> ConnectFailure {
    let retry = Retry {
        tries: 2,
        budget: Duration::from_secs(1),
        first: Duration::from_millis(1),
    };
    let client = Client::new(endpoint.with_retry(retry));
    match run(client.capabilities()) {
        Err(Error::Connect { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn capabilities_are_read() {
    let server = Server::start(Options {
        instance: "main".to_owned(),
        ..Options::default()
    });
    let told = run(client(&server).capabilities()).unwrap();
    assert!(told.cache && told.exec_enabled && told.update_enabled && told.zstd);
    assert!(told.carries("unix_mode") && !told.carries("uid"));
    let other = Server::start(Options {
        sha256: false,
        ..Options::default()
    });
    let error = run(client(&other).capabilities()).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
}

#[test]
fn an_unknown_instance_is_named() {
    let server = Server::start(Options {
        instance: "main".to_owned(),
        ..Options::default()
    });
    let address = format!("grpc://{}/other", server.address());
    let client = Client::new(Endpoint::parse(&address).unwrap());
    let error = run(client.capabilities()).unwrap_err();
    assert!(matches!(error, Error::Instance { .. }), "{error:?}");
    assert!(
        error.to_string().contains("no instance \"other\""),
        "{error}"
    );
}

#[test]
fn nobody_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let refused = failure(Endpoint::parse(&format!("grpc://{address}")).unwrap());
    assert_eq!(refused, ConnectFailure::Refused);
    let name = failure(Endpoint::parse("grpc://no-such-host.invalid:1").unwrap());
    assert!(matches!(name, ConnectFailure::Name(_)), "{name:?}");
}

#[test]
fn a_server_that_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let time = Duration::from_millis(200);
    let deadlines = Deadlines {
        connect: time,
        call: time,
        idle: time,
    };
    let retry = Retry {
        tries: 1,
        ..Retry::default()
    };
    for scheme in ["grpc", "grpcs"] {
        let endpoint = Endpoint::parse(&format!("{scheme}://{address}")).unwrap();
        let client = Client::new(endpoint.with_deadlines(deadlines).with_retry(retry));
        let error = run(client.find_missing(&[Digest::of(b"x")])).unwrap_err();
        let late = matches!(
            error,
            Error::Deadline { .. }
                | Error::Connect {
                    source: ConnectFailure::TimedOut(_),
                    ..
                }
        );
        assert!(late, "{error:?}");
    }
}

#[test]
fn headers_let_in_and_are_not_told() {
    let server = Server::start(Options {
        headers: vec![("authorization".to_owned(), "Bearer hunter2".to_owned())],
        ..Options::default()
    });
    let error = run(client(&server).capabilities()).unwrap_err();
    assert!(error.to_string().contains("capabilities"), "{error}");
    let allowed = endpoint(&server).with_header("Authorization", "Bearer hunter2");
    run(Client::new(allowed).capabilities()).unwrap();
    let wrong = endpoint(&server).with_header("authorization", "Bearer hunter3");
    let error = run(Client::new(wrong).capabilities()).unwrap_err();
    assert!(!format!("{error:?}").contains("hunter3"), "{error:?}");
}

#[test]
fn tls_with_and_without_a_client_certificate() {
    let Some(authority) = Authority::new() else {
        return;
    };
    let pem = || fs::read(authority.certificate()).unwrap();
    let options = |client_ca| Options {
        tls: Some(Tls {
            pair: authority.server(),
            client_ca,
        }),
        ..Options::default()
    };
    let server = Server::start(options(None));
    let address = format!("grpcs://localhost:{}", server.address().port());
    let at = |address: &str| Endpoint::parse(address).unwrap();
    run(Client::new(at(&address).with_authorities(pem())).capabilities()).unwrap();
    let unknown = Authority::new().unwrap();
    let other = fs::read(unknown.certificate()).unwrap();
    let refused = failure(at(&address).with_authorities(other));
    assert!(
        matches!(refused, ConnectFailure::Certificate(_)),
        "{refused:?}"
    );
    let plain = failure(at(&address.replace("grpcs", "grpc")));
    assert!(
        matches!(
            plain,
            ConnectFailure::NotHttp2(_) | ConnectFailure::HungUp("a TLS port wants grpcs://")
        ),
        "{plain:?}"
    );

    let mutual = Server::start(options(Some(authority.certificate())));
    let address = format!("grpcs://localhost:{}", mutual.address().port());
    let refused = failure(at(&address).with_authorities(pem()));
    assert!(
        matches!(
            refused,
            ConnectFailure::Certificate(_)
                | ConnectFailure::HungUp("it may want a client certificate")
        ),
        "{refused:?}"
    );
    let pair = authority.client();
    let (certificate, key) = (
        fs::read(pair.certificate).unwrap(),
        fs::read(pair.key).unwrap(),
    );
    let ours = at(&address)
        .with_authorities(pem())
        .with_identity(certificate, key);
    run(Client::new(ours).capabilities()).unwrap();
}

#[test]
fn tls_to_a_server_without() {
    let server = Server::start(Options::default());
    let endpoint = Endpoint::parse(&format!("grpcs://{}", server.address())).unwrap();
    let plain = failure(endpoint.with_authorities(authority_of_nobody()));
    assert_eq!(plain, ConnectFailure::NotTls);
}

/// Any certificate: the handshake fails before it matters.
fn authority_of_nobody() -> Vec<u8> {
    Authority::new().map_or_else(
        || b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_vec(),
        |authority| fs::read(authority.certificate()).unwrap(),
    )
}
