//! Schemes, proxies, and servers that are not there or not what they should be.

use crate::support::{chain, client, quick, reference};
use registry_client::{Client, ClientOptions, Error, Reference};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};
use testkit::registry::{Action, FakeRegistry, Fault};

/// A client that reaches every host but loopback through a proxy, which is a fake registry.
fn proxied(proxy: &FakeRegistry, insecure: &[&str]) -> Client {
    let address = proxy.url().replace("http://", "http://me:hidden@");
    Client::new(ClientOptions {
        http_proxy: Some(address.clone()),
        https_proxy: Some(address),
        insecure: insecure.iter().map(|host| (*host).to_owned()).collect(),
        ..quick()
    })
}

#[tokio::test]
async fn hosts_marked_insecure_are_spoken_to_in_http() {
    let proxy = FakeRegistry::start();
    let image = proxy.put_image("library/app", Some("latest"), "amd64", &[]);
    let client = proxied(&proxy, &["registry-1.docker.io", "plain.example:5000"]);
    for name in ["app", "plain.example:5000/library/app"] {
        let found = client.resolve(&Reference::parse(name).unwrap()).await;
        let found = found.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(found.digest().to_string(), image);
    }
    let requests = proxy.requests();
    let heads: Vec<_> = requests
        .iter()
        .filter(|request| request.method == "HEAD")
        .collect();
    assert_eq!(heads[0].host, "registry-1.docker.io");
    assert_eq!(heads[1].host, "plain.example:5000");
    // HTTPS was tried first, through a tunnel, with the proxy's credentials.
    assert_eq!(requests[0].method, "CONNECT");
    assert_eq!(
        requests[0].header("proxy-authorization"),
        Some("Basic bWU6aGlkZGVu")
    );
    assert_eq!(
        heads[0].header("proxy-authorization"),
        Some("Basic bWU6aGlkZGVu")
    );
}

#[tokio::test]
async fn other_hosts_are_never_spoken_to_in_http() {
    let proxy = FakeRegistry::start();
    proxy.put_image("app", Some("latest"), "amd64", &[]);
    let client = proxied(&proxy, &[]);
    let error = client
        .resolve(&Reference::parse("strict.example/app").unwrap())
        .await
        .unwrap_err();
    assert!(!chain(&error).contains("hidden"), "{}", chain(&error));
    assert!(!format!("{error:?}").contains("hidden"));
    assert!(
        proxy
            .requests()
            .iter()
            .all(|request| request.method == "CONNECT")
    );
}

#[tokio::test]
async fn loopback_is_reached_without_a_proxy() {
    let (proxy, registry) = (FakeRegistry::start(), FakeRegistry::start());
    registry.put_image("app", Some("latest"), "amd64", &[]);
    proxied(&proxy, &[])
        .resolve(&reference(&registry, "app"))
        .await
        .unwrap();
    assert!(proxy.requests().is_empty());
}

#[tokio::test]
async fn proxies_that_cannot_be_used_are_named() {
    for (proxy, expected) in [
        (
            "socks5://me:hidden@p.example:1080",
            "only http:// and https:// proxies are supported",
        ),
        ("http://", "could not use the proxy"),
    ] {
        let options = ClientOptions {
            http_proxy: Some(proxy.to_owned()),
            ..quick()
        };
        let error = Client::new(options)
            .resolve(&Reference::parse("localhost:1/app").unwrap())
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!format!("{error:?} {error}").contains("hidden"));
    }
}

#[tokio::test]
async fn nobody_listening_is_told_soon() {
    let start = Instant::now();
    let error = client()
        .resolve(&Reference::parse("127.0.0.1:1/app").unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Send { .. }), "{error}");
    let text = chain(&error);
    assert!(
        text.starts_with("could not GET http://127.0.0.1:1/v2/: "),
        "{text}"
    );
    assert!(text.contains("Connection refused"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// A server that answers every connection with the same bytes.
fn blurting(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    address
}

#[tokio::test]
async fn servers_that_speak_something_else() {
    for answer in [
        &b"SSH-2.0-server\r\n"[..],
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ] {
        let address = blurting(answer);
        let name = Reference::parse(&format!("{address}/app")).unwrap();
        let error = client().resolve(&name).await.unwrap_err();
        assert!(matches!(error, Error::Send { .. }), "{error:?}");
    }
}

/// What a TLS server says to plain HTTP can also be what an odd HTTP server says to a ping.
#[tokio::test]
async fn a_ping_answered_with_400_is_no_obstacle() {
    let registry = FakeRegistry::start();
    let image = registry.put_image("app", Some("latest"), "amd64", &[]);
    registry.fault(Fault::on("GET", "/v2/").status(400).times(1));
    let found = client().resolve(&reference(&registry, "app")).await;
    assert_eq!(found.unwrap().digest().to_string(), image);
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let registry = FakeRegistry::start();
    registry.fault(Fault::on_any("/manifests/").with(Action::Delay(Duration::from_secs(3))));
    let start = Instant::now();
    let error = client()
        .resolve(&reference(&registry, "app"))
        .await
        .unwrap_err();
    assert!(chain(&error).contains("timed out"), "{}", chain(&error));
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[test]
fn making_a_client_is_free() {
    let start = Instant::now();
    for _ in 0..100 {
        let _ = Client::new(ClientOptions {
            registries_conf: Some("/nonexistent".into()),
            http_proxy: Some("bad proxy".to_owned()),
            ..ClientOptions::default()
        });
    }
    assert!(start.elapsed() < Duration::from_millis(100));
}
