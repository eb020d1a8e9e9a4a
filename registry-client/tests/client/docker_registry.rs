//! Pulls from Debian's docker-registry on loopback, over HTTP and HTTPS.
//!
//! Where the program is not installed these tests say so and test nothing.

use crate::support::{chain, descriptor, digest, noise, pull, quick};
use oci_spec::image::MediaType;
use registry_client::{Client, ClientOptions, Reference};
use serde_json::json;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::registry::sha256;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Bytes of the blob that is measured with.
const MEASURED: usize = 200_000_000;
/// Set for the run of this program that trusts a test's certificate.
const TRUSTING: &str = "KILN_TEST_TRUSTED_REGISTRY";

/// A running registry; ends when dropped.
struct Registry {
    process: Child,
    port: u16,
    scheme: &'static str,
    _folder: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// `None` when docker-registry is not installed.
    fn start(tls: Option<&Path>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut http = json!({"addr": format!("127.0.0.1:{port}")});
        if let Some(folder) = tls {
            http["tls"] =
                json!({"certificate": folder.join("cert.pem"), "key": folder.join("key.pem")});
        }
        let config = json!({
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}},
            "http": http,
        });
        // JSON is YAML too.
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config.to_string()).unwrap();
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(process) = started else {
            eprintln!("SKIPPED: docker-registry is not installed");
            return None;
        };
        let registry = Self {
            process,
            port,
            scheme: if tls.is_some() { "https" } else { "http" },
            _folder: folder,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.host())
    }

    async fn push_blob(&self, repository: &str, bytes: Vec<u8>) -> String {
        let http = pusher();
        let url = format!("{}/v2/{repository}/blobs/uploads/", self.url());
        let begun = http.post(url).send().await.unwrap();
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let digest = sha256(&bytes);
        let answer = http
            .put(format!("{location}&digest={digest}"))
            .body(bytes)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
        digest
    }

    async fn push_manifest(&self, name: &str, tag: &str, kind: &str, body: String) -> String {
        let http = pusher();
        let url = format!("{}/v2/{name}/manifests/{tag}", self.url());
        let digest = sha256(body.as_bytes());
        let answer = http
            .put(url)
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        digest
    }

    /// Pushes an image of one layer; returns the digests of manifest and layer.
    async fn push_image(
        &self,
        name: &str,
        tag: &str,
        kind: &str,
        layer: Vec<u8>,
    ) -> (String, String) {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(&layer)]}}).to_string();
        let (config_size, layer_size) = (config.len(), layer.len());
        let config = self.push_blob(name, config.into_bytes()).await;
        let layer = self.push_blob(name, layer).await;
        let docker = kind == DOCKER_MANIFEST;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {
                "mediaType": if docker { "application/vnd.docker.container.image.v1+json" } else { "application/vnd.oci.image.config.v1+json" },
                "size": config_size,
                "digest": config,
            },
            "layers": [{
                "mediaType": if docker { "application/vnd.docker.image.rootfs.diff.tar.gzip" } else { "application/vnd.oci.image.layer.v1.tar" },
                "size": layer_size,
                "digest": layer,
            }],
        });
        (
            self.push_manifest(name, tag, kind, manifest.to_string())
                .await,
            layer,
        )
    }
}

/// An HTTP client that pushes to the tests' registries.
fn pusher() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    builder
        .tls_danger_accept_invalid_certs(true)
        .build()
        .unwrap()
}

#[tokio::test]
async fn pulls_over_http() {
    let Some(registry) = Registry::start(None) else {
        return;
    };
    let bytes = noise(5_000_000);
    let (oci, layer) = registry
        .push_image("team/app", "oci", MANIFEST, bytes.clone())
        .await;
    let (docker, _) = registry
        .push_image("team/app", "docker", DOCKER_MANIFEST, bytes.clone())
        .await;
    let client = Client::new(quick());
    let name = |text: &str| Reference::parse(&format!("{}/{text}", registry.host())).unwrap();

    let fetched = client.manifest(&name("team/app:oci"), None).await.unwrap();
    assert_eq!(fetched.descriptor.digest().to_string(), oci);
    let body = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{
            "mediaType": MANIFEST,
            "size": fetched.bytes.len(),
            "digest": oci,
            "platform": {"os": "linux", "architecture": "amd64"},
        }],
    });
    let index = registry
        .push_manifest("team/app", "all", INDEX, body.to_string())
        .await;

    let cases = [
        ("team/app:oci", &oci, MediaType::ImageManifest),
        ("team/app:docker", &docker, MediaType::from(DOCKER_MANIFEST)),
        ("team/app:all", &index, MediaType::ImageIndex),
    ];
    for (text, expected, media_type) in cases {
        let found = client.resolve(&name(text)).await.unwrap();
        assert_eq!(found.digest().to_string(), *expected, "{text}");
        assert_eq!(found.media_type(), &media_type, "{text}");
        let fetched = client
            .manifest(&name(text), Some(found.digest()))
            .await
            .unwrap();
        assert_eq!(fetched.descriptor, found, "{text}");
    }
    let child = client
        .manifest(&name("team/app:all"), Some(&digest(&oci)))
        .await
        .unwrap();
    assert_eq!(child.bytes, fetched.bytes);

    let (got, result) = pull(
        &client,
        &name("team/app:all"),
        &descriptor(&layer, bytes.len()),
    )
    .await;
    result.unwrap();
    assert!(got == bytes);

    let error = client.resolve(&name("team/app:none")).await.unwrap_err();
    assert!(error.is_not_found());
    assert!(
        error
            .to_string()
            .contains("MANIFEST_UNKNOWN: manifest unknown"),
        "{error}"
    );
    let error = client.resolve(&name("nobody/nothing")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn pulls_through_a_mirror() {
    let Some(registry) = Registry::start(None) else {
        return;
    };
    let bytes = noise(100_000);
    let (image, layer) = registry
        .push_image("library/app", "1", MANIFEST, bytes.clone())
        .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        registry.host()
    );
    std::fs::write(&path, text).unwrap();
    let client = Client::new(ClientOptions {
        registries_conf: Some(path),
        ..quick()
    });
    let name = Reference::parse("app:1").unwrap();
    assert_eq!(
        client.resolve(&name).await.unwrap().digest().to_string(),
        image
    );
    let (got, result) = pull(&client, &name, &descriptor(&layer, bytes.len())).await;
    result.unwrap();
    assert!(got == bytes);
}

/// Makes a certificate for a name and 127.0.0.1, signed by itself; `None` without openssl.
fn certificate(name: &str) -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    // A certificate for servers must not be one of an authority, which is what openssl makes unless told.
    let config = format!(
        "[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n[dn]\nCN = test\n\
         [ext]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = DNS:{name},IP:127.0.0.1\n"
    );
    std::fs::write(folder.path().join("openssl.cnf"), config).unwrap();
    let made = Command::new("openssl")
        .current_dir(folder.path())
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-config",
            "openssl.cnf",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .stderr(Stdio::null())
        .status();
    match made {
        Ok(status) if status.success() => Some(folder),
        _ => {
            eprintln!("SKIPPED: openssl is not installed");
            None
        }
    }
}

/// A name of this machine that is not plainly loopback and yet leads to 127.0.0.1.
fn own_name() -> Option<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let names = lines
        .filter(|line| line.trim_start().starts_with("127."))
        .flat_map(|line| line.split_whitespace().skip(1));
    names.map(str::to_owned).find(|name| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
            && !name.starts_with("localhost")
    })
}

#[tokio::test]
async fn pulls_over_https() {
    let name = own_name();
    let Some(folder) = certificate(name.as_deref().unwrap_or("unused.example")) else {
        return;
    };
    let Some(registry) = Registry::start(Some(folder.path())) else {
        return;
    };
    // Loopback: HTTP is tried, answered with 400, and then HTTPS without verification.
    let reference = Reference::parse(&format!("127.0.0.1:{}/app", registry.port)).unwrap();
    let error = Client::new(quick()).resolve(&reference).await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
    assert!(error.to_string().contains("https://127.0.0.1"), "{error}");

    // Bodies come over HTTP/2 here.
    let bytes = noise(20_000_000);
    let blob = registry.push_blob("app", bytes.clone()).await;
    let client = Client::new(quick());
    let (got, result) = pull(&client, &reference, &descriptor(&blob, bytes.len())).await;
    result.unwrap();
    assert!(got == bytes);

    let Some(name) = name else {
        eprintln!("SKIPPED: /etc/hosts has no further name for 127.0.0.1");
        return;
    };
    // Another name: the certificate is verified, and nobody knows it.
    let text = format!("{name}:{}/app", registry.port);
    let reference = Reference::parse(&text).unwrap();
    let error = Client::new(quick()).resolve(&reference).await.unwrap_err();
    assert!(
        chain(&error).contains("invalid peer certificate"),
        "{}",
        chain(&error)
    );
    assert!(error.hint().is_some() && !error.is_retryable());

    let insecure = ClientOptions {
        insecure: vec![name],
        ..quick()
    };
    let error = Client::new(insecure).resolve(&reference).await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));

    // With SSL_CERT_FILE it is known; the variable can only be set for another process.
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "docker_registry::trusts_ssl_cert_file",
            "--ignored",
            "--nocapture",
        ])
        .env("SSL_CERT_FILE", folder.path().join("cert.pem"))
        .env(TRUSTING, text)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[tokio::test]
#[ignore = "run by pulls_over_https with a certificate"]
async fn trusts_ssl_cert_file() {
    let Ok(text) = std::env::var(TRUSTING) else {
        return;
    };
    let reference = Reference::parse(&text).unwrap();
    let error = Client::new(quick()).resolve(&reference).await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
}

#[tokio::test]
async fn plain_http_behind_a_name_needs_leave() {
    let Some(name) = own_name() else {
        eprintln!("SKIPPED: /etc/hosts has no further name for 127.0.0.1");
        return;
    };
    let Some(registry) = Registry::start(None) else {
        return;
    };
    let reference = Reference::parse(&format!("{name}:{}/app", registry.port)).unwrap();
    let error = Client::new(quick()).resolve(&reference).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "could not speak TLS with {name}:{}: it answers in plain HTTP",
            registry.port
        )
    );
    let leave = ClientOptions {
        insecure: vec![format!("{name}:{}", registry.port)],
        ..quick()
    };
    let error = Client::new(leave).resolve(&reference).await.unwrap_err();
    assert!(error.is_not_found(), "{}", chain(&error));
}

/// Prints speed and peak memory of a large pull, beside curl's.
#[tokio::test]
#[ignore = "a measurement; run it by name with --release --nocapture"]
async fn measure_a_large_pull() {
    let Some(folder) = certificate("unused.example") else {
        return;
    };
    for tls in [None, Some(folder.path())] {
        let Some(registry) = Registry::start(tls) else {
            return;
        };
        let blob = registry.push_blob("app", noise(MEASURED)).await;
        for round in 0..3 {
            let peers = time_peers(&format!("{}/v2/app/blobs/{blob}", registry.url()));
            let ours = time_pull(&registry, &blob).await;
            eprintln!("{} round {round}: {peers}, {ours}", registry.scheme);
        }
    }
}

fn time_peers(url: &str) -> String {
    let run = |command: &str| {
        let start = Instant::now();
        let status = Command::new("sh")
            .args(["-c", command])
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        start.elapsed()
    };
    let plain = run(&format!("curl -sk -o /dev/null {url}"));
    let summed = run(&format!("curl -sk {url} | sha256sum"));
    format!("curl {plain:.0?}, curl | sha256sum {summed:.0?}")
}

async fn time_pull(registry: &Registry, blob: &str) -> String {
    // Makes the peak of this process start from what it is now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let reference = Reference::parse(&format!("{}/app", registry.host())).unwrap();
    let client = Client::new(quick());
    let start = Instant::now();
    let _ = client.resolve(&reference).await;
    let first_answer = start.elapsed();
    let mut received = 0;
    let mut sink = |chunk: &[u8]| {
        received += chunk.len();
        Ok(())
    };
    let start = Instant::now();
    let descriptor = descriptor(blob, MEASURED);
    client
        .blob(&reference, &descriptor, &mut sink)
        .await
        .unwrap();
    let ours = start.elapsed();
    assert_eq!(received, MEASURED);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    format!("verified pull {ours:.0?} (client and first answer {first_answer:.1?}), {peak}")
}
