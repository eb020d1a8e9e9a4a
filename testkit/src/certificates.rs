//! A certificate authority for tests, made with the `openssl` command.

use crate::Scratch;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An authority and the certificates that it gives.
#[derive(Debug)]
pub struct Authority {
    folder: Scratch,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Certificate.
    pub certificate: PathBuf,
    /// Key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one. `None`, said loudly, where openssl is not installed.
    ///
    /// # Panics
    /// openssl fails.
    #[must_use]
    pub fn new() -> Option<Self> {
        let authority = Self {
            folder: Scratch::new(),
        };
        let found = Command::new("openssl")
            .arg("version")
            .stdout(Stdio::null())
            .status();
        if found.is_err() {
            let mut stderr = std::io::stderr();
            let _ = std::io::Write::write_all(&mut stderr, b"SKIPPED: openssl is not installed\n");
            return None;
        }
        authority.run(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-days",
            "30",
            "-subj",
            "/CN=test authority",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
        ]);
        Some(authority)
    }

    /// Its own certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// A certificate for servers on loopback.
    ///
    /// # Panics
    /// openssl fails.
    #[must_use]
    pub fn server(&self) -> Pair {
        let names = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost,DNS:registry.test";
        self.give("server", &[names, "extendedKeyUsage=serverAuth"])
    }

    /// A certificate for a client.
    ///
    /// # Panics
    /// openssl fails.
    #[must_use]
    pub fn client(&self) -> Pair {
        self.give("client", &["extendedKeyUsage=clientAuth"])
    }

    /// A certificate and key to sign with.
    ///
    /// # Panics
    /// openssl fails.
    #[must_use]
    pub fn signer(&self) -> Pair {
        self.give("signer", &["keyUsage=digitalSignature"])
    }

    fn give(&self, name: &str, extensions: &[&str]) -> Pair {
        let file = |extension: &str| format!("{name}.{extension}");
        let subject = format!("/CN={name}");
        let (key, request, certificate, settings) =
            (file("key"), file("csr"), file("cert"), file("ext"));
        self.folder
            .write(&settings, extensions.join("\n"))
            .expect("a scratch folder can be written");
        self.run(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &request,
            "-subj",
            &subject,
        ]);
        self.run(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            &certificate,
            "-days",
            "30",
            "-extfile",
            &settings,
        ]);
        Pair {
            certificate: self.folder.join(&certificate),
            key: self.folder.join(&key),
        }
    }

    fn run(&self, args: &[&str]) {
        let folder: &Path = self.folder.path();
        let output = Command::new("openssl")
            .args(args)
            .current_dir(folder)
            .output()
            .expect("openssl can be run");
        assert!(
            output.status.success(),
            "openssl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
