//! Makes the files of a case: contexts from their ops, with what stands for servers put in.

use super::archives;
use crate::shell;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

/// Stands for the registry of the recorded runs; images "pushed" there are in the store.
pub const REGISTRY: &str = "localhost:5000";

/// Why a case goes whose files only a program can make.
const CODE: &str = "left out: the corpus holds only code for a file's content";

/// mtime of every context file in the recorded runs.
const CONTEXT_MTIME: &str = "@1485449953";

/// What the placeholders of the corpora's texts stand for in this run.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// `{http}`.
    pub http: String,
}

impl Texts {
    /// A text with its placeholders filled in.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{registry}", REGISTRY)
            .replace("{http}", &self.http)
    }
}

/// Writes the ops of one context into a folder.
pub fn context(dir: &Path, ops: &Value, texts: &Texts) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    for op in ops.as_array().into_iter().flatten() {
        apply(dir, op, texts).map_err(|error| {
            if error.starts_with(super::builds::LEFT_OUT) {
                error
            } else {
                format!("context op {op}: {error}")
            }
        })?;
    }
    shell::output(Command::new("find").arg(dir).args([
        "-exec",
        "touch",
        "-h",
        "-d",
        CONTEXT_MTIME,
        "{}",
        "+",
    ]))?;
    Ok(())
}

fn apply(dir: &Path, op: &Value, texts: &Texts) -> Result<(), String> {
    let text = |key: &str| op[key].as_str().unwrap_or_default();
    let path = dir.join(text("path").trim_start_matches('/'));
    let failed = |error: std::io::Error| error.to_string();
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match text("op") {
        "file" if op["content"].is_null() && op["size"].as_u64().unwrap_or(0) > 0 => {
            let bytes = archives::make(text("path"))
                .ok_or("left out: the corpus does not hold a file of the context")?;
            std::fs::write(&path, bytes).map_err(failed)?;
        }
        "file" => std::fs::write(&path, content(&op["content"], texts)?).map_err(failed)?,
        "dir" => std::fs::create_dir_all(&path).map_err(failed)?,
        "symlink" => return symlink(text("target"), &path).map_err(failed),
        "hardlink" => return std::fs::hard_link(dir.join(text("target")), &path).map_err(failed),
        "chmod" => {}
        "createSocket" => {
            let path = dir.join(op["args"][0].as_str().unwrap_or_default());
            let mode = op["args"][1]
                .as_u64()
                .and_then(|mode| u32::try_from(mode).ok());
            // The socket's file stays when the listener goes.
            std::os::unix::net::UnixListener::bind(&path).map_err(failed)?;
            return std::fs::set_permissions(
                &path,
                std::fs::Permissions::from_mode(mode.unwrap_or(0o600)),
            )
            .map_err(failed);
        }
        "chown" => {
            let id = |key: &str| op[key].as_u64().and_then(|id| u32::try_from(id).ok());
            return std::os::unix::fs::lchown(&path, id("uid"), id("gid")).map_err(failed);
        }
        other => return Err(format!("unknown op {other:?}")),
    }
    if let Some(mode) = op["mode"].as_str() {
        let mode = u32::from_str_radix(mode.trim_start_matches("0o"), 8)
            .map_err(|error| error.to_string())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

/// File content: text, `{"base64"}`, `{"tar": [...]}`, `{"gzip": ...}`.
pub fn content(value: &Value, texts: &Texts) -> Result<Vec<u8>, String> {
    if let Some(text) = value.as_str() {
        return Ok(texts.fill(text).into_bytes());
    }
    if value.is_null() {
        return Ok(Vec::new());
    }
    if let Some(headers) = value["tar"].as_array() {
        return tar_file(headers);
    }
    if !value["gzip"].is_null() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder
            .write_all(&content(&value["gzip"], texts)?)
            .map_err(|error| error.to_string())?;
        return encoder.finish().map_err(|error| error.to_string());
    }
    if let Some(text) = value["base64"].as_str() {
        return base64(text).ok_or_else(|| "bad base64".to_owned());
    }
    Err(CODE.to_owned())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut word: u32 = 0;
    let mut bits = 0;
    for c in text
        .bytes()
        .filter(|c| !c.is_ascii_whitespace() && *c != b'=')
    {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            .iter()
            .position(|&known| known == c)?;
        word = word << 6 | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(word >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

fn tar_file(headers: &[Value]) -> Result<Vec<u8>, String> {
    let mut builder = tar::Builder::new(Vec::new());
    for header in headers {
        let data = header["Content"].as_str().unwrap_or_default().as_bytes();
        let mut entry = tar::Header::new_gnu();
        let kind = header["Typeflag"]["go"].as_str().unwrap_or("tar.TypeReg");
        entry.set_entry_type(match kind {
            "tar.TypeDir" => tar::EntryType::Directory,
            "tar.TypeSymlink" => tar::EntryType::Symlink,
            "tar.TypeLink" => tar::EntryType::Link,
            "tar.TypeReg" => tar::EntryType::Regular,
            other => return Err(format!("tar type {other}")),
        });
        if !header["Name"]["go"].is_null() || !header["Content"]["go"].is_null() {
            return Err(CODE.to_owned());
        }
        entry.set_mode(u32::try_from(header["Mode"].as_u64().unwrap_or(0)).unwrap_or(0));
        entry.set_uid(header["Uid"].as_u64().unwrap_or(0));
        entry.set_gid(header["Gid"].as_u64().unwrap_or(0));
        entry.set_mtime(1_485_449_953);
        entry.set_size(data.len() as u64);
        let name = header["Name"].as_str().unwrap_or_default();
        if let Some(link) = header["Linkname"].as_str() {
            builder
                .append_link(&mut entry, name, link)
                .map_err(|error| error.to_string())?;
        } else {
            builder
                .append_data(&mut entry, name, data)
                .map_err(|error| error.to_string())?;
        }
    }
    builder.into_inner().map_err(|error| error.to_string())
}
