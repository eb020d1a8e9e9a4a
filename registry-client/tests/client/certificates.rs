//! Certificate authorities and client certificates, from the folders where Docker, Podman and containerd have them.

use crate::support::{chain, quick};
use registry_client::{CertificateOptions, Client, ClientOptions, Error, Reference};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use testkit::{Authority, DockerRegistry, Pair, RegistrySetup};

struct Stage {
    authority: Authority,
    client: Pair,
    registry: DockerRegistry,
    folder: TempDir,
}

impl Stage {
    /// A registry that wants a client certificate, and an empty `certs.d`.
    fn start() -> Option<Self> {
        let authority = Authority::new()?;
        let (server, client) = (authority.server(), authority.client());
        let setup = RegistrySetup {
            tls: Some((server.certificate, server.key)),
            client_cas: vec![authority.certificate()],
            ..RegistrySetup::default()
        };
        Some(Self {
            registry: DockerRegistry::start(&setup)?,
            authority,
            client,
            folder: TempDir::new().unwrap(),
        })
    }

    /// An empty folder of this name in `certs.d`, which has no other.
    fn only(&self, name: &str) -> PathBuf {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn own(&self) -> PathBuf {
        self.only(&self.registry.host())
    }

    fn fill(&self, folder: &Path) {
        fs::copy(self.authority.certificate(), folder.join("ca.crt")).unwrap();
        fs::copy(&self.client.certificate, folder.join("client.cert")).unwrap();
        fs::copy(&self.client.key, folder.join("client.key")).unwrap();
    }

    async fn ask(&self, options: ClientOptions) -> Result<(), Error> {
        let options = ClientOptions {
            verify_loopback: true,
            certificates: CertificateOptions {
                certs_d: vec!["/nowhere".into(), self.folder.path().to_owned()],
                ..options.certificates
            },
            timeouts: ClientOptions::default().timeouts,
            ..options
        };
        let name = format!("{}/app:1", self.registry.host());
        let client = Client::new(options);
        match client.resolve(&Reference::parse(&name).unwrap()).await {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => panic!("there is no such image"),
        }
    }

    async fn works(&self, what: &str) {
        if let Err(error) = self.ask(quick()).await {
            panic!("{what}: {}", chain(&error));
        }
    }

    async fn fails(&self, says: &str) {
        let told = chain(&self.ask(quick()).await.unwrap_err());
        assert!(told.contains(says), "{says}: {told}");
    }
}

#[tokio::test]
async fn g07_folders_of_certificates() {
    let Some(stage) = Stage::start() else {
        return;
    };
    stage.only("other.example");
    stage.fails("invalid peer certificate").await;
    stage.fill(&stage.own());
    stage.works("own folder").await;
    stage.fill(&stage.only("_default"));
    stage.works("folder for all").await;

    let folder = stage.own();
    fs::copy(stage.authority.certificate(), folder.join("a.crt")).unwrap();
    let error = stage.ask(quick()).await.unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(
        hint.contains("wants a client certificate"),
        "{} {hint}",
        chain(&error)
    );
    fs::copy(&stage.client.key, folder.join("b.key")).unwrap();
    stage.fails("b.cert is missing").await;
    fs::rename(folder.join("b.key"), folder.join("c.key")).unwrap();
    fs::copy(&stage.client.certificate, folder.join("b.cert")).unwrap();
    stage
        .fails("b.key is missing; certificates of authorities end in .crt")
        .await;
    fs::rename(folder.join("c.key"), folder.join("b.key")).unwrap();
    stage.works("pair of another name").await;
    fs::write(folder.join("b.key"), "hidden").unwrap();
    let told = chain(&stage.ask(quick()).await.unwrap_err());
    assert!(told.contains("are no certificate and key in PEM"), "{told}");
    assert!(!told.contains("hidden"), "{told}");
    for content in [
        "",
        "text",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        let folder = stage.own();
        fs::write(folder.join("ca.crt"), content).unwrap();
        stage.fails("ca.crt").await;
    }
}

#[tokio::test]
async fn g07_hosts_toml() {
    let Some(stage) = Stage::start() else {
        return;
    };
    let host = stage.registry.host();
    let ca = stage.authority.certificate();
    let (ca, certificate, key) = (
        ca.display(),
        stage.client.certificate.display(),
        stage.client.key.display(),
    );
    let cases = [
        format!(
            "server = \"https://{host}\"\nca = \"{ca}\"\nclient = [[\"{certificate}\", \"{key}\"]]\n"
        ),
        format!(
            "[host.\"https://{host}\"]\nca = [\"{ca}\"]\nclient = [[\"{certificate}\", \"{key}\"]]\n"
        ),
        format!(
            "[host.\"{host}\"]\nskip_verify = true\nclient = [[\"{certificate}\", \"{key}\"]]\n"
        ),
        format!("ca = \"{ca}\"\n[host.\"https://{host}/v2\"]\nclient = \"both.pem\"\n"),
    ];
    for text in cases {
        let folder = stage.own();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let both = read(&stage.client.certificate) + &read(&stage.client.key);
        fs::write(folder.join("both.pem"), both).unwrap();
        fs::write(folder.join("hosts.toml"), &text).unwrap();
        stage.works(&text).await;
    }
    for (text, says) in [
        ("ca = 5", "hosts.toml: ca must be the name of a file"),
        ("ca = \"missing.pem\"", "could not read certificates from"),
        ("ca = ", "hosts.toml"),
        (
            "[host.\"https://mirror.example\"]\nskip_verify = true",
            "invalid peer certificate",
        ),
    ] {
        fs::write(stage.own().join("hosts.toml"), text).unwrap();
        stage.fails(says).await;
    }
}

#[tokio::test]
async fn g07_certificates_of_single_registries() {
    let Some(stage) = Stage::start() else {
        return;
    };
    let options = |host: &str| ClientOptions {
        certificates: CertificateOptions {
            authorities: vec![(host.to_owned(), stage.authority.certificate())],
            clients: vec![(
                host.to_owned(),
                stage.client.certificate.clone(),
                stage.client.key.clone(),
            )],
            ..CertificateOptions::default()
        },
        ..quick()
    };
    for host in [stage.registry.host(), "127.0.0.1".to_owned()] {
        if let Err(error) = stage.ask(options(&host)).await {
            panic!("{host}: {}", chain(&error));
        }
    }
    assert!(stage.ask(options("127.0.0.1:1")).await.is_err());
    let unverified = ClientOptions {
        insecure_all: true,
        ..options("127.0.0.1:1")
    };
    assert!(
        stage.ask(unverified).await.is_err(),
        "without a client certificate"
    );
}
