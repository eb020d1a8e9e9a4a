//! Servers that are no gRPC servers, or answer with anything.

use crate::support::run;
use proptest::prelude::*;
use reapi::{Client, ConnectFailure, Digest, Endpoint, Error, Retry};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// A server that answers every connection with these bytes.
fn answering(bytes: &'static [u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(bytes);
            // To the end of what comes, so that no reset overtakes the answer.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while matches!(stream.read(&mut request), Ok(1..)) {}
        }
    });
    let retry = Retry {
        tries: 2,
        budget: Duration::from_secs(1),
        first: Duration::from_millis(1),
    };
    Client::new(
        Endpoint::parse(&format!("grpc://{address}"))
            .unwrap()
            .with_retry(retry),
    )
}

#[test]
fn an_http1_server() {
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope"
            as &[u8],
        b"HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n",
    ] {
        let client = answering(answer);
        match run(client.capabilities()) {
            Err(Error::Connect {
                source: ConnectFailure::NotHttp2(_),
                ..
            }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_server_that_hangs_up() {
    let client = answering(b"");
    let error = run(client.find_missing(&[Digest::of(b"x")])).unwrap_err();
    let Error::Connect { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*source, ConnectFailure::HungUp("a TLS port wants grpcs://"));
    assert!(error.is_transient());
}

/// An HTTP/2 server that answers each call's headers and body with anything.
mod scripted {
    use super::*;
    use reapi::prost::Message;
    use reapi::proto;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn any_message_decodes_or_fails(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // What the client does with messages that decode is in the tests of the crate's modules.
            let _ = proto::ExecuteResponse::decode(bytes.as_slice());
            if let Ok(result) = proto::ActionResult::decode(bytes.as_slice()) {
                let _ = reapi::Timing::of(&result);
            }
        }
    }
}
