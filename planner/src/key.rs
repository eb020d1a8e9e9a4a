//! Cache keys: one walk over an op feeds a hasher or an explanation, so that the two cannot differ.
//!
//! Encoding, all integers little-endian: the version byte, a purpose byte, then per field the name (u32 length,
//! bytes), a tag byte and the value (text: u64 length, bytes; number: u64; flag: one byte; digest: 32 bytes).
//! Field names are unique within an op and come in a fixed order.
//!
//! Never in a key: proxy variables, contents of secrets, sockets, devices, volumes and cache mounts, where an image's blobs are and
//! what it is called, names and places for people.

mod sources;

use crate::plan::{
    CopyFrom, CopyOp, CopySource, ImageOp, InputIndex, MkdirOp, Network, Op, RunMount, RunOp, Step,
    Volume, VolumeAccess,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

/// Raised whenever the encoding or the meaning of an op changes: old records are then never found.
const VERSION: u8 = 1;

/// A cache key: SHA-256 over our own length-prefixed, versioned encoding.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CacheKey(pub [u8; 32]);

/// Identity of a result's content (mtimes left out), or a digest of the part of it that a step reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContentId(pub [u8; 32]);

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

fn write_hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// A field's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// Not given.
    Absent,
    /// Text.
    Text(&'a str),
    /// A number, an index or a length.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A key or a content identity.
    Digest(&'a [u8; 32]),
}

impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(text: &'a Option<String>) -> Self {
        text.as_deref().map_or(Value::Absent, Value::Text)
    }
}

impl From<Option<u64>> for Value<'_> {
    fn from(number: Option<u64>) -> Self {
        number.map_or(Value::Absent, Value::Number)
    }
}

impl From<Option<bool>> for Value<'_> {
    fn from(flag: Option<bool>) -> Self {
        flag.map_or(Value::Absent, Value::Flag)
    }
}

/// Takes the fields of an op, in order.
pub trait KeyWriter {
    /// One field.
    fn field(&mut self, name: &str, value: Value<'_>);
}

/// What a key is for; keys of different purposes never meet.
#[derive(Clone, Copy)]
enum Purpose {
    Definition = 1,
    Content = 2,
    Layer = 3,
}

struct Hasher(Sha256);

impl Hasher {
    fn new(purpose: Purpose) -> Self {
        let mut sha = Sha256::new();
        sha.update([VERSION, purpose as u8]);
        Self(sha)
    }

    fn finish(self) -> CacheKey {
        CacheKey(self.0.finalize().into())
    }
}

impl KeyWriter for Hasher {
    fn field(&mut self, name: &str, value: Value<'_>) {
        let length = u32::try_from(name.len()).expect("BUG: field names are short");
        self.0.update(length.to_le_bytes());
        self.0.update(name);
        match value {
            Value::Absent => self.0.update([0]),
            Value::Text(text) => {
                self.0.update([1]);
                self.0.update((text.len() as u64).to_le_bytes());
                self.0.update(text);
            }
            Value::Number(number) => {
                self.0.update([2]);
                self.0.update(number.to_le_bytes());
            }
            Value::Flag(flag) => self.0.update([3, u8::from(flag)]),
            Value::Digest(digest) => {
                self.0.update([4]);
                self.0.update(digest);
            }
        }
    }
}

/// One field of a step as people read it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Field {
    /// Name, unique within the step.
    pub name: String,
    /// Value; `-` when it is not given.
    pub value: String,
}

struct Explainer(Vec<Field>);

impl KeyWriter for Explainer {
    fn field(&mut self, name: &str, value: Value<'_>) {
        let mut text = String::new();
        match value {
            Value::Absent => text.push('-'),
            Value::Text(given) => text.push_str(given),
            Value::Number(number) => {
                write!(text, "{number}").expect("BUG: writing to a string cannot fail");
            }
            Value::Flag(flag) => text.push_str(if flag { "yes" } else { "no" }),
            Value::Digest(digest) => write!(text, "{}", ContentId(*digest))
                .expect("BUG: writing to a string cannot fail"),
        }
        self.0.push(Field {
            name: name.to_owned(),
            value: text,
        });
    }
}

/// The key known without running anything: op, definition keys of the inputs, digest of context files it reads.
#[must_use]
pub fn definition_key(
    step: &Step,
    input_keys: &[CacheKey],
    source_digest: Option<&ContentId>,
) -> CacheKey {
    let mut hasher = Hasher::new(Purpose::Definition);
    write_step(step, source_digest, &mut hasher);
    for (index, key) in input_keys.iter().enumerate() {
        hasher.field(&format!("input {index}"), Value::Digest(&key.0));
    }
    hasher.finish()
}

/// The key made of what a step really reads: op, identities of the inputs (or of the parts read), context files.
#[must_use]
pub fn content_key(
    step: &Step,
    input_identities: &[ContentId],
    source_digest: Option<&ContentId>,
) -> CacheKey {
    let mut hasher = Hasher::new(Purpose::Content);
    write_step(step, source_digest, &mut hasher);
    for (index, identity) in input_identities.iter().enumerate() {
        hasher.field(&format!("input {index}"), Value::Digest(&identity.0));
    }
    hasher.finish()
}

/// The key of a `COPY --link` step's own layer, which does not depend on the base it is stacked on, unless that says
/// what the names of its owners mean. `None` for every other step. Its result (base and layer) still has keys that
/// include the base.
#[must_use]
pub fn layer_key(
    step: &Step,
    input_identities: &[ContentId],
    source_digest: Option<&ContentId>,
) -> Option<CacheKey> {
    let Op::Copy(copy) = &step.op else {
        return None;
    };
    if !copy.link {
        return None;
    }
    let detached = CopyOp {
        base: None,
        ..copy.clone()
    };
    let mut hasher = Hasher::new(Purpose::Layer);
    write_copy(&detached, &mut hasher);
    write_source(source_digest, &mut hasher);
    for (index, identity) in input_identities.iter().enumerate() {
        if Some(index) != copy.base {
            hasher.field(&format!("input {index}"), Value::Digest(&identity.0));
        } else if names_owner(copy) {
            hasher.field("accounts", Value::Digest(&identity.0));
        }
    }
    Some(hasher.finish())
}

/// Whether owners are given by names, which the accounts of the base resolve.
fn names_owner(copy: &CopyOp) -> bool {
    let owner = copy.chown.as_deref().unwrap_or_default();
    !owner.is_empty() && owner.split(':').any(|part| part.parse::<u32>().is_err())
}

/// The fields that are in the step's keys, apart from its inputs.
#[must_use]
pub fn fields(step: &Step, source_digest: Option<&ContentId>) -> Vec<Field> {
    let mut explainer = Explainer(Vec::new());
    write_step(step, source_digest, &mut explainer);
    explainer.0
}

/// One difference between two steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// The field.
    pub name: String,
    /// Its value before; `None` when it was not there.
    pub old: Option<String>,
    /// Its value now; `None` when it is gone.
    pub new: Option<String>,
}

/// What differs between a recorded step and the present one: in the order of the present one, then what is gone.
#[must_use]
pub fn explain(old: &[Field], new: &[Field]) -> Vec<Difference> {
    let before: BTreeMap<&str, &str> = old
        .iter()
        .map(|f| (f.name.as_str(), f.value.as_str()))
        .collect();
    let now: BTreeMap<&str, &str> = new
        .iter()
        .map(|f| (f.name.as_str(), f.value.as_str()))
        .collect();
    let changed = new
        .iter()
        .filter(|f| before.get(f.name.as_str()) != Some(&f.value.as_str()))
        .map(|f| Difference {
            name: f.name.clone(),
            old: before.get(f.name.as_str()).map(|&value| value.to_owned()),
            new: Some(f.value.clone()),
        });
    let gone = old
        .iter()
        .filter(|f| !now.contains_key(f.name.as_str()))
        .map(|f| Difference {
            name: f.name.clone(),
            old: Some(f.value.clone()),
            new: None,
        });
    let mut differences: Vec<Difference> = changed.chain(gone).collect();
    let kept_order = |fields: &[Field]| {
        fields
            .iter()
            .map(|f| f.name.clone())
            .filter(|n| before.contains_key(n.as_str()) && now.contains_key(n.as_str()))
            .collect()
    };
    let (order_before, order_now): (Vec<String>, Vec<String>) = (kept_order(old), kept_order(new));
    if differences.is_empty() && order_before != order_now {
        differences.push(Difference {
            name: "order".to_owned(),
            old: Some(order_before.join(", ")),
            new: Some(order_now.join(", ")),
        });
    }
    differences
}

fn write_step(step: &Step, source_digest: Option<&ContentId>, w: &mut dyn KeyWriter) {
    match &step.op {
        Op::Image(image) => write_image(image, w),
        Op::Copy(copy) => write_copy(copy, w),
        Op::Run(run) => {
            write_run(run, w);
            w.field("platform", Value::Text(&step.platform.to_string()));
        }
        Op::Mkdir(mkdir) => write_mkdir(mkdir, w),
        Op::Http(http) => sources::write_http(http, w),
        Op::Git(git) => sources::write_git(git, w),
    }
    match (&step.op, source_digest) {
        (Op::Http(_) | Op::Git(_), Some(digest)) => w.field("content", Value::Digest(&digest.0)),
        _ => write_source(source_digest, w),
    }
}

fn write_source(source_digest: Option<&ContentId>, w: &mut dyn KeyWriter) {
    if let Some(digest) = source_digest {
        w.field("context files", Value::Digest(&digest.0));
    }
}

fn write_image(image: &ImageOp, w: &mut dyn KeyWriter) {
    let ImageOp {
        reference: _,
        manifest_digest: _,
        diff_ids,
        source: _,
    } = image;
    w.field("op", Value::Text("image"));
    for (index, diff_id) in diff_ids.iter().enumerate() {
        w.field(&format!("diff_id {index}"), Value::Text(diff_id));
    }
}

fn write_copy(copy: &CopyOp, w: &mut dyn KeyWriter) {
    let CopyOp {
        base,
        from,
        sources,
        dest,
        chown,
        chmod,
        link,
        parents,
        exclude,
        unpack,
        add,
    } = copy;
    w.field("op", Value::Text("copy"));
    w.field("add", Value::Flag(*add));
    w.field("base", index_value(*base));
    match from {
        CopyFrom::Context(name) => w.field("from context", Value::Text(name)),
        CopyFrom::Input(index) => w.field("from input", index_value(Some(*index))),
        CopyFrom::Scratch => w.field("from scratch", Value::Absent),
    }
    for (index, source) in sources.iter().enumerate() {
        match source {
            CopySource::Path(path) => w.field(&format!("source {index}"), Value::Text(path)),
            CopySource::Input {
                input,
                path,
                unpack,
            } => {
                w.field(&format!("source {index} input"), index_value(Some(*input)));
                w.field(&format!("source {index}"), Value::Text(path));
                w.field(&format!("source {index} unpack"), Value::Flag(*unpack));
            }
            CopySource::Inline { name, data } => {
                w.field(&format!("heredoc {index} name"), Value::Text(name));
                w.field(&format!("heredoc {index}"), Value::Text(data));
            }
        }
    }
    w.field("destination", Value::Text(dest));
    w.field("chown", chown.into());
    w.field("chmod", chmod.into());
    w.field("link", Value::Flag(*link));
    w.field("parents", Value::Flag(*parents));
    for (index, pattern) in exclude.iter().enumerate() {
        w.field(&format!("exclude {index}"), Value::Text(pattern));
    }
    w.field("unpack", (*unpack).into());
}

fn write_run(run: &RunOp, w: &mut dyn KeyWriter) {
    let RunOp {
        base,
        args,
        display: _,
        env,
        proxy_env: _,
        cwd,
        user,
        mounts,
        network,
        insecure,
        hostname,
        extra_hosts,
        files,
        shm_size,
        devices,
        ulimits,
        volumes,
    } = run;
    w.field("op", Value::Text("run"));
    w.field("base", index_value(*base));
    for (index, arg) in args.iter().enumerate() {
        w.field(&format!("argument {index}"), Value::Text(arg));
    }
    for (name, value) in env {
        w.field(&format!("env {name}"), Value::Text(value));
    }
    w.field("working directory", Value::Text(cwd));
    w.field("user", Value::Text(user));
    for (index, mount) in mounts.iter().enumerate() {
        write_mount(&format!("mount {index}"), mount, w);
    }
    let network = match network {
        Network::Default => "default",
        Network::None => "none",
        Network::Host => "host",
    };
    w.field("network", Value::Text(network));
    w.field("insecure", Value::Flag(*insecure));
    w.field("host name", Value::Text(hostname));
    for (index, (name, address)) in extra_hosts.iter().enumerate() {
        w.field(&format!("extra host {index}"), Value::Text(name));
        w.field(&format!("extra host {index} address"), Value::Text(address));
    }
    for (index, (path, content)) in files.iter().enumerate() {
        w.field(&format!("file {index} path"), Value::Text(path));
        w.field(&format!("file {index}"), Value::Text(content));
    }
    w.field("shm size", (*shm_size).into());
    for (index, device) in devices.iter().enumerate() {
        w.field(&format!("device {index}"), Value::Text(&device.name));
        w.field(
            &format!("device {index} required"),
            Value::Flag(device.required),
        );
    }
    for (index, limit) in ulimits.iter().enumerate() {
        w.field(&format!("ulimit {index}"), Value::Text(&limit.name));
        w.field(&format!("ulimit {index} soft"), limit.soft.into());
        w.field(&format!("ulimit {index} hard"), limit.hard.into());
    }
    for (index, volume) in volumes.iter().enumerate() {
        write_volume(&format!("volume {index}"), volume, w);
    }
}

fn write_volume(name: &str, volume: &Volume, w: &mut dyn KeyWriter) {
    let Volume {
        source,
        target,
        access,
        chown,
        noexec,
    } = volume;
    let access = match access {
        VolumeAccess::ReadWrite => "rw",
        VolumeAccess::ReadOnly => "ro",
        VolumeAccess::Discard => "O",
    };
    let mut put = |part: &str, value: Value<'_>| w.field(&format!("{name} {part}"), value);
    put("source", Value::Text(source));
    put("target", Value::Text(target));
    put("access", Value::Text(access));
    put("chown", Value::Flag(*chown));
    put("noexec", Value::Flag(*noexec));
}

fn write_mount(name: &str, mount: &RunMount, w: &mut dyn KeyWriter) {
    let mut put = |part: &str, value: Value<'_>| w.field(&format!("{name} {part}"), value);
    match mount {
        RunMount::Bind {
            input,
            source,
            target,
            readonly,
        } => {
            put("type", Value::Text("bind"));
            put("from", index_value(*input));
            put("source", Value::Text(source));
            put("target", Value::Text(target));
            put("readonly", Value::Flag(*readonly));
        }
        RunMount::Cache {
            id,
            target,
            from,
            source,
            sharing,
            mode,
            uid,
            gid,
            readonly,
        } => {
            put("type", Value::Text("cache"));
            put("id", Value::Text(id));
            put("target", Value::Text(target));
            put("from", index_value(*from));
            put("source", Value::Text(source));
            put("sharing", Value::Text(sharing));
            put("mode", Value::Text(&format!("{mode:04o}")));
            put("uid", Value::Number((*uid).into()));
            put("gid", Value::Number((*gid).into()));
            put("readonly", Value::Flag(*readonly));
        }
        RunMount::Tmpfs { target, size } => {
            put("type", Value::Text("tmpfs"));
            put("target", Value::Text(target));
            put("size", (*size).into());
        }
        RunMount::Secret {
            id,
            target,
            env,
            required,
            mode,
            uid,
            gid,
        } => {
            put("type", Value::Text("secret"));
            put("id", Value::Text(id));
            put("target", target.into());
            put("env", env.into());
            put("required", Value::Flag(*required));
            put("mode", Value::Text(&format!("{mode:04o}")));
            put("uid", Value::Number((*uid).into()));
            put("gid", Value::Number((*gid).into()));
        }
        RunMount::Ssh {
            id,
            target,
            required,
            mode,
            uid,
            gid,
        } => {
            put("type", Value::Text("ssh"));
            put("id", Value::Text(id));
            put("target", Value::Text(target));
            put("required", Value::Flag(*required));
            put("mode", Value::Text(&format!("{mode:04o}")));
            put("uid", Value::Number((*uid).into()));
            put("gid", Value::Number((*gid).into()));
        }
    }
}

fn write_mkdir(mkdir: &MkdirOp, w: &mut dyn KeyWriter) {
    let MkdirOp { base, path, user } = mkdir;
    w.field("op", Value::Text("mkdir"));
    w.field("base", index_value(*base));
    w.field("path", Value::Text(path));
    w.field("user", Value::Text(user));
}

fn index_value(index: Option<InputIndex>) -> Value<'static> {
    index.map_or(Value::Absent, |index| Value::Number(index as u64))
}
