//! Certificates of authorities that commands shall trust (`--ca`): in the bundles that the image has, and in a file of their
//! own that the usual variables name. None of it gets into a layer, a key or the image's configuration.
//!
//! A bundle is not mounted but laid over the image's layers, because tools that renew it put a new file in its place, which a
//! mount would refuse. What a command changed of it, or took along, is cut out of the change again.

use crate::Error;
use crate::build::mounts::Held;
use crate::snapshot::View;
use crate::space::Space;
use crate::tree::{FileTree as _, Kind};
use base64::Engine as _;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use sandbox::Mount;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lays changed bundles over an image.
pub(crate) const TASK_LAY: &str = "lay-bundles";
/// Cuts what was laid over out of a change.
pub(crate) const TASK_CUT: &str = "cut-bundles";

/// Bundles of Debian, Ubuntu, Arch and Alpine; Fedora and RHEL; openSUSE; Alpine's OpenSSL.
const BUNDLES: [&str; 5] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
/// Longest bundle, in bytes.
const BUNDLE_LIMIT: u64 = 16 << 20;
/// What tells our certificates from the same ones that an image brings itself, as a comment between them.
const HEADING: &str = "# Trusted during this build only.";
/// Where commands find all certificates whatever the image has.
const OWN: &str = "/run/kiln/ca-certificates.crt";
/// Variables by which programs are told of a bundle.
const VARIABLES: [&str; 10] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "DENO_CERT",
    "NIX_SSL_CERT_FILE",
];

/// The certificates of a build, ready to be appended to a bundle.
#[derive(Debug)]
pub(crate) struct Authorities {
    block: String,
}

impl Authorities {
    /// Reads and checks the files; `None` when there are none.
    pub(crate) fn load(files: &[PathBuf]) -> Result<Option<Self>, Error> {
        let mut block = String::new();
        for path in files {
            let bytes = std::fs::read(path).map_err(|source| Error::Io {
                op: "read the certificates of",
                path: path.clone(),
                source,
            })?;
            let text = String::from_utf8_lossy(&bytes);
            let certificates = certificates(&text).map_err(|reason| {
                Error::Request(format!(
                    "could not use {} as --ca: {reason}",
                    path.display()
                ))
            })?;
            block.extend(certificates);
        }
        Ok((!block.is_empty()).then(|| Self {
            // A bundle may lack its last line's end.
            block: format!("\n{HEADING}\n{block}"),
        }))
    }

    /// Gives a command the certificates: puts a layer above its others where the image has bundles.
    pub(crate) fn equip(
        &self,
        space: &Space,
        view: &View,
        held: &mut Held<'_>,
        env: &mut Vec<(String, String)>,
    ) -> Result<(Option<PathBuf>, Mount), Error> {
        let mut lay = Lay::default();
        let mut own = None;
        for name in BUNDLES {
            let path = view.resolve(name.as_bytes(), true)?;
            let Some(entry) = view.entry(&path)? else {
                continue;
            };
            if !matches!(entry.kind, Kind::File { .. })
                || lay.files.iter().any(|(known, ..)| *known == path)
            {
                continue;
            }
            let Some(mut bundle) = view.read(&path, BUNDLE_LIMIT)? else {
                continue;
            };
            bundle.extend(self.block.as_bytes());
            own.get_or_insert_with(|| bundle.clone());
            for end in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let folder = &path[..end.0];
                if !lay.folders.iter().any(|(known, _)| known == folder)
                    && let Some(entry) = view.entry(folder)?
                {
                    lay.folders.push((folder.to_owned(), attributes(&entry)));
                }
            }
            lay.files.push((path, attributes(&entry), bundle));
        }
        for name in VARIABLES {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_owned(), OWN.to_owned()));
            }
        }
        let mount = Mount::File {
            target: OWN.to_owned(),
            data: own.unwrap_or_else(|| self.block.clone().into_bytes()),
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        if lay.files.is_empty() {
            return Ok((None, mount));
        }
        // The layer's top stands for the image's.
        let root = view.entry(b"")?;
        lay.folders
            .extend(root.map(|entry| (Vec::new(), attributes(&entry))));
        lay.layer = held.folder("bundles")?;
        held.bundles = lay.files.iter().map(|(path, ..)| path.clone()).collect();
        space.task::<_, ()>(TASK_LAY, &lay)?;
        Ok((Some(lay.layer), mount))
    }

    /// Takes the certificates out of what a command changed.
    pub(crate) fn cut(
        &self,
        space: &Space,
        upper: &Path,
        bundles: &[Vec<u8>],
    ) -> Result<(), Error> {
        if bundles.is_empty() {
            return Ok(());
        }
        let cut = Cut {
            upper: upper.to_owned(),
            files: bundles.to_vec(),
            block: self.block.clone(),
        };
        space.task::<_, ()>(TASK_CUT, &cut)
    }
}

/// The certificates of a text in PEM, without what stands between them.
fn certificates(text: &str) -> Result<Vec<String>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let number = found.len() + 1;
        let body = &rest[at + BEGIN.len()..];
        let end = body
            .find(END)
            .ok_or_else(|| format!("certificate {number} has no end"))?;
        let base64: String = body[..end].split_whitespace().collect();
        let der = base64::engine::general_purpose::STANDARD
            .decode(&base64)
            .map_err(|_| format!("certificate {number} is not base64"))?;
        // An ASN.1 sequence with a length of two bytes or more.
        if der.len() < 64 || der[0] != 0x30 || der[1] & 0x80 == 0 {
            return Err(format!("certificate {number} is not a certificate"));
        }
        let mut lines = vec![BEGIN];
        let chunks = base64.as_bytes().chunks(64);
        lines.extend(chunks.map(|line| std::str::from_utf8(line).unwrap_or_default()));
        lines.push(END);
        lines.push("");
        found.push(lines.join("\n"));
        rest = &body[end + END.len()..];
    }
    if found.is_empty() {
        return Err(
            "there is no certificate in PEM (-----BEGIN CERTIFICATE-----) in it".to_owned(),
        );
    }
    Ok(found)
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
}

fn attributes(entry: &crate::tree::Entry) -> Attributes {
    Attributes {
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
    }
}

/// Request of [`TASK_LAY`]. Folders come before what is in them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Lay {
    layer: PathBuf,
    folders: Vec<(Vec<u8>, Attributes)>,
    files: Vec<(Vec<u8>, Attributes, Vec<u8>)>,
}

/// The task of the same name. The folder is ours alone: there are no links in it.
pub(crate) fn lay_task(lay: &Lay) -> Result<(), Error> {
    let place = |path: &[u8]| lay.layer.join(std::ffi::OsStr::from_bytes(path));
    let failed = |path: &[u8]| {
        let path = place(path);
        move |source| Error::Io {
            op: "lay certificates over",
            path: path.clone(),
            source,
        }
    };
    for (path, attributes, bundle) in &lay.files {
        let file = place(path);
        let parent = file.parent().unwrap_or(&lay.layer);
        std::fs::create_dir_all(parent).map_err(failed(path))?;
        std::fs::write(&file, bundle).map_err(failed(path))?;
        give(&file, attributes).map_err(failed(path))?;
    }
    for (path, attributes) in lay.folders.iter().rev() {
        give(&place(path), attributes).map_err(failed(path))?;
    }
    Ok(())
}

fn give(path: &Path, attributes: &Attributes) -> std::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    // Ids that do not exist here are nobody's in the image's own layers as well.
    let _ = rustix::fs::chownat(rustix::fs::CWD, path, Some(uid), Some(gid), flags);
    std::fs::set_permissions(path, PermissionsExt::from_mode(attributes.mode))?;
    let time = Timespec {
        tv_sec: attributes.mtime,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?)
}

/// Request of [`TASK_CUT`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cut {
    upper: PathBuf,
    files: Vec<Vec<u8>>,
    block: String,
}

/// The task of the same name.
pub(crate) fn cut_task(cut: &Cut) -> Result<(), Error> {
    let failed = |source: std::io::Error| Error::Io {
        op: "take certificates out of",
        path: cut.upper.clone(),
        source,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let upper =
        rustix::fs::open(&cut.upper, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    for path in &cut.files {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = rustix::fs::openat2(&upper, path.as_slice(), flags, Mode::empty(), resolve);
        // Not changed, removed, or in a place that became another.
        let Ok(fd) = opened else { continue };
        let file = File::from(fd);
        if file.metadata().map_err(failed)?.is_file() {
            cut_file(file, cut.block.as_bytes()).map_err(failed)?;
        }
    }
    Ok(())
}

fn cut_file(mut file: File, block: &[u8]) -> std::io::Result<()> {
    let modified = file.metadata()?.modified()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let before = text.len();
    let find = |text: &[u8]| text.windows(block.len()).position(|part| part == block);
    while let Some(at) = find(&text) {
        text.drain(at..at + block.len());
    }
    if text.len() == before {
        return Ok(());
    }
    file.rewind()?;
    file.write_all(&text)?;
    file.set_len(text.len() as u64)?;
    file.set_modified(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(bytes: &[u8]) -> String {
        let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn certificates_are_checked() {
        let mut der = vec![7; 300];
        der[..4].copy_from_slice(&[0x30, 0x82, 1, 0x28]);
        let one = pem(&der);
        let text = format!(
            "# an authority\r\n{one}words\n{}",
            one.replace('\n', "\r\n")
        );
        let found = certificates(&text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], found[1]);
        assert!(
            found[0]
                .lines()
                .all(|line| line.len() <= 64 && !line.ends_with('\r'))
        );
        for (text, reason) in [
            ("", "no certificate in PEM"),
            ("-----BEGIN PRIVATE KEY-----", "no certificate in PEM"),
            (
                "-----BEGIN CERTIFICATE-----\nMII",
                "certificate 1 has no end",
            ),
            (&pem(b"short"), "certificate 1 is not a certificate"),
            (
                &format!("{one}{}", pem(&[1; 300])),
                "certificate 2 is not a certificate",
            ),
            (
                &one.replacen('B', "*", 30).replace("*EGIN", "BEGIN"),
                "is not base64",
            ),
        ] {
            let error = certificates(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn what_was_laid_over_is_cut_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        for (text, left) in [
            ("image\n\nours\n", "image\n"),
            ("image\n\nours\nmore\n", "image\nmore\n"),
            ("image\n", "image\n"),
            ("\nours\n", ""),
            ("image\n\nours\nimage\n\nours\n", "image\nimage\n"),
        ] {
            std::fs::write(&path, text).unwrap();
            let cut = Cut {
                upper: folder.path().to_owned(),
                files: vec![
                    b"bundle".to_vec(),
                    b"../bundle".to_vec(),
                    b"no/such".to_vec(),
                ],
                block: "\nours\n".to_owned(),
            };
            cut_task(&cut).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), left);
        }
    }
}
