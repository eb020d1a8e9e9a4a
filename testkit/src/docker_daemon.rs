//! A daemon with the part of Docker's API that loading images needs, on a Unix socket. It keeps what it is sent by the
//! rules of the real ones (Docker's own storage, Docker over containerd, Podman), refuses what they refuse, and
//! remembers every request.

use crate::{digest_of, digest_reader};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How a daemon keeps images.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// Docker's own: by layer.
    Layers,
    /// Docker over containerd: by blob.
    Content,
    /// Podman's service: archives must be whole.
    Podman,
}

/// An image that the daemon has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadedImage {
    /// Config digest, or the manifest's or index's over containerd.
    pub id: String,
    /// As the daemon shows them.
    pub names: BTreeSet<String>,
    /// Digests of unpacked layers, base first.
    pub layers: Vec<String>,
    /// Manifests with all their blobs.
    manifests: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    images: Vec<LoadedImage>,
    blobs: BTreeSet<String>,
    requests: Vec<String>,
    archives: Vec<BTreeSet<String>>,
    failure: Option<String>,
    lost: bool,
    stalls: bool,
}

/// The daemon; it stops when dropped.
#[derive(Debug)]
pub struct FakeDocker {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeDocker {
    /// Starts it without images.
    ///
    /// # Panics
    /// The socket cannot be made.
    #[must_use]
    pub fn start(socket: &Path, storage: Storage) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket can be made");
        let (state, stop): (Arc<Mutex<State>>, Arc<AtomicBool>) = Default::default();
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that goes away is no failure of the daemon's.
                    let _ = serve(&stream, storage, &shared);
                });
            }
        });
        Self {
            socket: socket.to_owned(),
            state,
            stop,
            thread: Some(thread),
        }
    }

    /// For `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Method and path of every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// The files of every archive that came whole.
    #[must_use]
    pub fn archives(&self) -> Vec<BTreeSet<String>> {
        self.state().archives.clone()
    }

    /// What it has, newest first.
    #[must_use]
    pub fn images(&self) -> Vec<LoadedImage> {
        self.state().images.clone()
    }

    /// The next load fails with this message.
    pub fn fail_next(&self, message: &str) {
        self.state().failure = Some(message.to_owned());
    }

    /// Layers and blobs are gone while the images still say that they are there.
    pub fn lose_content(&self) {
        let mut state = self.state();
        state.blobs.clear();
        state.lost = true;
    }

    /// Archives are taken and never answered.
    pub fn stall(&self) {
        self.state().stalls = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for FakeDocker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &UnixStream, storage: Storage, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let request = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
        let mut is_chunked = false;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            is_chunked |= header.to_lowercase().trim() == "transfer-encoding: chunked";
        }
        lock(state).requests.push(request.clone());
        let body = if is_chunked {
            read_chunks(&mut reader)?
        } else {
            Vec::new()
        };
        let (status, answer) = if request.starts_with("POST /images/load") {
            if lock(state).stalls {
                std::thread::sleep(std::time::Duration::from_secs(60));
            }
            (200, load(&body, storage, &mut lock(state)))
        } else {
            answer(&request, storage, &mut lock(state))
        };
        // The answer to a question comes in chunks, as a Go server sends what it does not know the length of.
        let mut out = stream;
        write!(
            out,
            "HTTP/1.1 {status} X\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        for part in answer.as_bytes().chunks(1000) {
            write!(out, "{:x}\r\n", part.len())?;
            out.write_all(part)?;
            out.write_all(b"\r\n")?;
        }
        out.write_all(b"0\r\n\r\n")?;
    }
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let begun = body.len();
        reader.take(size).read_to_end(&mut body)?;
        if (body.len() - begun) as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn answer(request: &str, storage: Storage, state: &mut State) -> (u16, String) {
    let (method, target) = request.split_once(' ').unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let image = path
        .strip_prefix("/images/")
        .and_then(|rest| rest.rsplit_once('/'));
    let found = |state: &State, id: &str| state.images.iter().position(|image| image.id == id);
    match (method, path, image) {
        ("GET", "/_ping", _) => (200, "OK".to_owned()),
        ("GET", "/version", _) => {
            let name = if storage == Storage::Podman {
                "Podman Engine"
            } else {
                "Engine"
            };
            (200, json!({"Components": [{"Name": name}]}).to_string())
        }
        ("GET", "/info", _) => {
            let status = if storage == Storage::Content {
                json!([["driver-type", "io.containerd.snapshotter.v1"]])
            } else {
                json!([["Supports d_type", "true"]])
            };
            (200, json!({"DriverStatus": status}).to_string())
        }
        ("GET", "/images/json", _) => {
            let describe = |image: &LoadedImage| {
                let manifests: Vec<Value> = image
                    .manifests
                    .iter()
                    .map(|digest| json!({"ID": digest, "Available": true, "Kind": "image"}))
                    .collect();
                json!({"Id": image.id, "Manifests": manifests})
            };
            let list: Vec<Value> = state.images.iter().map(describe).collect();
            (200, Value::from(list).to_string())
        }
        ("GET", _, Some((id, "json"))) => match found(state, id) {
            Some(position) => {
                let image = &state.images[position];
                let answer =
                    json!({"Id": id, "RepoTags": image.names, "RootFS": {"Layers": image.layers}});
                (200, answer.to_string())
            }
            None => (
                404,
                json!({"message": format!("No such image: {id}")}).to_string(),
            ),
        },
        ("POST", _, Some((id, "tag"))) => {
            let value = |key: &str| {
                let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
                pairs
                    .find(|(name, _)| *name == key)
                    .map_or("", |(_, value)| value)
            };
            let name = format!("{}:{}", value("repo"), value("tag"));
            let Some(position) = found(state, id) else {
                return (404, json!({"message": "no such image"}).to_string());
            };
            give_name(state, &name);
            state.images[position].names.insert(name);
            (201, String::new())
        }
        _ => (404, json!({"message": "page not found"}).to_string()),
    }
}

/// Takes a name away from whoever has it.
fn give_name(state: &mut State, name: &str) {
    for image in &mut state.images {
        image.names.remove(name);
    }
}

fn load(body: &[u8], storage: Storage, state: &mut State) -> String {
    let files = match files_of(body) {
        Ok(files) => files,
        Err(error) => return failure(&error.to_string()),
    };
    state.archives.push(files.keys().cloned().collect());
    if let Some(message) = state.failure.take() {
        return failure(&message);
    }
    let loaded = match storage {
        Storage::Content => load_content(&files, state),
        _ => load_layers(&files, storage, state),
    };
    match loaded {
        Ok((image, names)) => {
            for name in &names {
                give_name(state, name);
            }
            state.lost = false;
            state.images.retain(|known| known.id != image.id);
            state.images.insert(0, image);
            let lines = names
                .iter()
                .map(|name| json!({"stream": format!("Loaded image: {name}\n")}).to_string());
            lines.collect::<Vec<_>>().join("\n")
        }
        Err(message) if storage == Storage::Content => {
            json!({"stream": format!("Error unpacking image: {message}\n")}).to_string()
        }
        Err(message) => failure(&message),
    }
}

fn failure(message: &str) -> String {
    json!({"errorDetail": {"message": message}, "error": message}).to_string()
}

fn files_of(body: &[u8]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(body).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = entry.path()?.display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(path, content);
        }
    }
    Ok(files)
}

type Loaded = Result<(LoadedImage, BTreeSet<String>), String>;

fn parse(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Result<Value, String> {
    let bytes = files
        .get(path)
        .ok_or(format!("open {path}: no such file or directory"))?;
    serde_json::from_slice(bytes).map_err(|error| format!("{path}: {error}"))
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items
        .filter_map(|item| Some(item.as_str()?.to_owned()))
        .collect()
}

/// By `manifest.json`, as Docker's own storage and Podman do it.
fn load_layers(files: &BTreeMap<String, Vec<u8>>, storage: Storage, state: &State) -> Loaded {
    let manifest = &parse(files, "manifest.json")?[0];
    let path = manifest["Config"].as_str().unwrap_or_default();
    let config = parse(files, path)?;
    let (diff_ids, layers) = (
        texts(&config["rootfs"]["diff_ids"]),
        texts(&manifest["Layers"]),
    );
    if diff_ids.len() != layers.len() {
        return Err("invalid manifest, layers length mismatch".to_owned());
    }
    for (position, (diff_id, path)) in diff_ids.iter().zip(&layers).enumerate() {
        let chain = &diff_ids[..=position];
        let is_known = !state.lost
            && state
                .images
                .iter()
                .any(|image| image.layers.starts_with(chain));
        match files.get(path) {
            // Not even looked at.
            _ if is_known && storage == Storage::Layers => {}
            Some(layer) => {
                let plain = crate::tarball::decoded(layer.as_slice()).and_then(digest_reader);
                let (digest, _) = plain.map_err(|error| error.to_string())?;
                if digest != *diff_id {
                    return Err(format!("layer {path} is {digest}, not {diff_id}"));
                }
            }
            None => return Err(format!("open {path}: no such file or directory")),
        }
    }
    let names: BTreeSet<String> = texts(&manifest["RepoTags"]).into_iter().collect();
    let image = LoadedImage {
        id: digest_of(&files[path]),
        names: names.clone(),
        layers: diff_ids,
        manifests: Vec::new(),
    };
    Ok((image, names))
}

/// By `index.json`, as containerd does it.
fn load_content(files: &BTreeMap<String, Vec<u8>>, state: &mut State) -> Loaded {
    for (path, content) in files {
        let Some(hex) = path.strip_prefix("blobs/sha256/") else {
            continue;
        };
        let digest = digest_of(content);
        if digest != format!("sha256:{hex}") {
            return Err(format!("{path} is {digest}"));
        }
        state.blobs.insert(digest);
    }
    let index = parse(files, "index.json")?;
    let entries = index["manifests"].as_array().cloned().unwrap_or_default();
    let root = entries
        .first()
        .and_then(|entry| entry["digest"].as_str())
        .ok_or("no manifest")?
        .to_owned();
    let names = entries
        .iter()
        .filter_map(|entry| entry["annotations"]["io.containerd.image.name"].as_str())
        .map(|name| name.trim_start_matches("docker.io/library/").to_owned())
        .collect::<BTreeSet<_>>();
    let blob = |digest: &str| parse(files, &format!("blobs/{}", digest.replacen(':', "/", 1)));
    let top = blob(&root)?;
    let manifests = match top["manifests"].as_array() {
        Some(list) => list
            .iter()
            .filter_map(|entry| Some(entry["digest"].as_str()?.to_owned()))
            .collect(),
        None => vec![root.clone()],
    };
    for digest in &manifests {
        let manifest = blob(digest)?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for part in layers.chain([&manifest["config"]]) {
            let digest = part["digest"].as_str().unwrap_or_default();
            if !state.blobs.contains(digest) {
                return Err(format!("content digest {digest}: not found"));
            }
        }
    }
    let image = LoadedImage {
        id: root,
        names: names.clone(),
        layers: Vec::new(),
        manifests,
    };
    Ok((image, names))
}
