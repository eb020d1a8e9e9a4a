//! Files behind URLs: downloaded into the store's blobs, and asked for again only as far as the server says that
//! they changed.
//!
//! What was learnt of a URL is kept in a record under a key of its own: entity tag, time, digest and name. Credentials
//! come from the secrets `HTTP_AUTH_HEADER_<host>` and `HTTP_AUTH_TOKEN_<host>` and go to the URL's own origin only.

use super::{Progress, Sources};
use crate::Error;
use oci_spec::image::Digest;
use planner::git_url::redacted;
use planner::scheduler::Cancel;
use planner::source::HttpSource;
use registry_client::{Download, DownloadHead, Downloaded, Flow, Receiver};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use store::{BlobWriter, Store};

/// Name of a file that neither the server nor the URL names.
const UNNAMED: &str = "__unnamed__";

/// A downloaded file; its content is a blob of the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HttpFile {
    /// Digest of the content.
    pub(crate) digest: String,
    /// Bytes.
    pub(crate) size: u64,
    /// A single path component.
    pub(crate) name: String,
    /// `Last-Modified` in seconds since 1970; 0 when the server said nothing.
    pub(crate) mtime: i64,
}

/// What is known of a URL from the last time.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    etag: Option<String>,
    modified: Option<String>,
    /// Name in its Content-Disposition.
    disposition: Option<String>,
    digest: String,
    size: u64,
    mtime: i64,
}

impl Known {
    fn file(&self, source: &HttpSource) -> HttpFile {
        HttpFile {
            digest: self.digest.clone(),
            size: self.size,
            name: file_name(source, self.disposition.as_deref()),
            mtime: self.mtime,
        }
    }
}

impl Sources<'_> {
    /// Brings a file into the store, or makes sure that the one that is there is still the server's.
    ///
    /// # Errors
    /// No answer, an error status, content of another digest than the one asked for.
    pub(crate) fn download(
        &self,
        source: &HttpSource,
        progress: Progress<'_>,
    ) -> Result<HttpFile, Error> {
        let key = record_key(&source.url);
        let known = self.known(&key)?;
        if let (Some(known), Some(checksum)) = (&known, &source.checksum)
            && known.digest == *checksum
        {
            return Ok(known.file(source));
        }
        let download = Download {
            url: source.url.clone(),
            authorization: self.authorization(&source.url)?,
            etag: known.as_ref().and_then(|known| known.etag.clone()),
            modified: known.as_ref().and_then(|known| known.modified.clone()),
        };
        let mut sink = Sink {
            store: self.store,
            cancel: self.cancel,
            progress,
            known: download.etag.as_deref(),
            writer: None,
            total: 0,
        };
        let downloaded = self
            .remote
            .download(&redacted(&source.url), &download, &mut sink)?;
        let found = match (downloaded, known) {
            (Downloaded::Complete(head), _) => sink.keep(&head)?,
            (Downloaded::NotModified(_) | Downloaded::Stopped(_), Some(known)) => known,
            (Downloaded::NotModified(_) | Downloaded::Stopped(_), None) => {
                return Err(Error::Source {
                    message: format!(
                        "{} was said to be unchanged, but was never downloaded",
                        redacted(&source.url)
                    ),
                    help: None,
                });
            }
        };
        self.remember(&key, &found)?;
        if let Some(expected) = &source.checksum
            && *expected != found.digest
        {
            return Err(Error::Source {
                message: format!(
                    "digest mismatch for {}: {} (expected: {expected})",
                    redacted(&source.url),
                    found.digest
                ),
                help: None,
            });
        }
        Ok(found.file(source))
    }

    fn known(&self, key: &[u8; 32]) -> Result<Option<Known>, Error> {
        let known = self
            .store
            .record(key)?
            .and_then(|payload| serde_json::from_slice::<Known>(&payload).ok());
        Ok(known.filter(|known| {
            Digest::try_from(known.digest.as_str())
                .is_ok_and(|digest| self.store.blob_size(&digest) == Some(known.size))
        }))
    }

    fn remember(&self, key: &[u8; 32], known: &Known) -> Result<(), Error> {
        let payload = serde_json::to_vec(known).expect("BUG: plain fields are JSON");
        let digest = crate::build::manifest::digest(&known.digest)?;
        Ok(self.store.put_record(key, &payload, &[digest])?)
    }

    fn authorization(&self, url: &str) -> Result<Option<String>, Error> {
        let host = host_name(url);
        if let Some(token) = self.credential(&format!("HTTP_AUTH_TOKEN_{host}"))? {
            return Ok(Some(format!("Bearer {token}")));
        }
        self.credential(&format!("HTTP_AUTH_HEADER_{host}"))
    }
}

/// Writes a body into a blob.
struct Sink<'a> {
    store: &'a Store,
    cancel: &'a Cancel,
    progress: Progress<'a>,
    /// Entity tag of the body that the store has.
    known: Option<&'a str>,
    writer: Option<BlobWriter>,
    total: u64,
}

impl Sink<'_> {
    fn keep(self, head: &DownloadHead) -> Result<Known, Error> {
        let writer = self.writer.expect("BUG: a complete body has begun");
        let (digest, size) = writer.commit(None)?;
        Ok(Known {
            etag: head.etag.clone(),
            modified: head.modified.clone(),
            disposition: head.disposition.as_deref().and_then(disposition_name),
            digest: digest.to_string(),
            size,
            mtime: head.modified_time().unwrap_or(0),
        })
    }
}

impl Receiver for Sink<'_> {
    fn begin(&mut self, head: &DownloadHead) -> io::Result<Flow> {
        // Some servers send everything again although the tag is the one asked about.
        if let (Some(known), Some(etag)) = (self.known, head.etag.as_deref())
            && strong(known) == strong(etag)
        {
            return Ok(Flow::Stop);
        }
        self.total = head.length.unwrap_or(0);
        self.writer = Some(self.store.blob_writer().map_err(io::Error::other)?);
        Ok(Flow::Continue)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let writer = self
            .writer
            .as_mut()
            .expect("BUG: bytes come after the beginning");
        writer.write_all(bytes)?;
        (self.progress)(writer.size(), self.total);
        Ok(())
    }
}

/// An entity tag without the mark of a weak one.
fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

fn record_key(url: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"kiln http source 1\n");
    hasher.update(url);
    hasher.finalize().into()
}

/// Host of a URL without user and port.
fn host_name(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest[..end]
        .rsplit_once('@')
        .map_or(&rest[..end], |(_, host)| host);
    match authority
        .strip_prefix('[')
        .and_then(|v6| v6.split_once(']'))
    {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// The name asked for, the server's, the URL's.
fn file_name(source: &HttpSource, disposition: Option<&str>) -> String {
    let from_url = || HttpSource::name_in_url(&source.url);
    source
        .filename
        .clone()
        .or_else(|| disposition.map(str::to_owned))
        .or_else(from_url)
        .and_then(|name| component(&name))
        .unwrap_or_else(|| UNNAMED.to_owned())
}

/// A single path component, whatever a server says.
fn component(name: &str) -> Option<String> {
    let base = name.rsplit('/').next().unwrap_or(name);
    let plain = !matches!(base, "" | "." | "..") && base.len() <= 255 && !base.contains('\0');
    plain.then(|| base.to_owned())
}

/// The `filename` of a Content-Disposition (RFC 6266), the extended form first.
fn disposition_name(value: &str) -> Option<String> {
    let mut plain = None;
    for (key, value) in parameters(value) {
        match key.as_str() {
            "filename*" => {
                let decoded = value.split_once("''").and_then(|(charset, encoded)| {
                    charset
                        .eq_ignore_ascii_case("utf-8")
                        .then(|| percent_decoded(encoded))?
                });
                if let Some(name) = decoded.as_deref().and_then(component) {
                    return Some(name);
                }
            }
            "filename" if !value.ends_with('/') => plain = component(&value),
            _ => {}
        }
    }
    plain
}

/// `; key=value` pairs behind the first word, quotes resolved, keys in lower case.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let mut value = String::new();
        let mut end = after.len();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            while let Some((at, c)) = characters.next() {
                match c {
                    '"' => {
                        end = at + 2;
                        break;
                    }
                    '\\' => value.extend(characters.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
        } else {
            end = after.find(';').unwrap_or(after.len());
            value.push_str(after[..end].trim());
        }
        found.push((
            key.trim_matches([' ', ';', '\t']).to_ascii_lowercase(),
            value,
        ));
        rest = after[end..].trim_start().trim_start_matches(';');
    }
    found
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ac22_names_of_files() {
        let name = |url: &str, disposition: Option<&str>| {
            let source = HttpSource {
                url: url.to_owned(),
                checksum: None,
                filename: None,
            };
            file_name(&source, disposition.and_then(disposition_name).as_deref())
        };
        for (url, disposition, expected) in [
            ("http://h/a/b.txt?x=/y", None, "b.txt"),
            ("http://h/a%20b", None, "a b"),
            ("http://h/", None, UNNAMED),
            ("http://h", None, UNNAMED),
            (
                "http://h/a",
                Some("attachment; filename=\"c \\\"d\\\".txt\""),
                "c \"d\".txt",
            ),
            (
                "http://h/a",
                Some("attachment; filename=c.txt; x=y"),
                "c.txt",
            ),
            (
                "http://h/a",
                Some("attachment; filename=old; filename*=UTF-8''n%C3%BC"),
                "nü",
            ),
            (
                "http://h/a",
                Some("attachment; filename=\"../../etc/passwd\""),
                "passwd",
            ),
            ("http://h/a", Some("attachment; filename=\"..\""), "a"),
            ("http://h/a", Some("attachment; filename=\"x/\""), "a"),
            (
                "http://h/a",
                Some("attachment; filename=\"unclosed"),
                "unclosed",
            ),
            ("http://h/a", Some("inline"), "a"),
            ("http://h/a", Some(";;;==\"\""), "a"),
        ] {
            assert_eq!(name(url, disposition), expected, "{url} {disposition:?}");
        }
    }

    #[test]
    fn ac23_hosts_of_urls() {
        for (url, host) in [
            ("https://h/x", "h"),
            ("https://h:1/x", "h"),
            ("https://me:p@w@h:1?x", "h"),
            ("http://[::1]:80/x", "::1"),
        ] {
            assert_eq!(host_name(url), host);
        }
    }
}
