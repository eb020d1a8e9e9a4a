//! What a worker is asked to do and what it answers: plain data, versioned, in JSON. Both sides may have other versions of
//! the program: what one does not know is refused and not guessed.

use crate::request::NetworkSettings;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::Digest;
use planner::plan::{InputIndex, Network, RunMount, RunOp};
use rustix::io::Errno;
use sandbox::{Isolation, Resources, RootKind, Security};
use serde::{Deserialize, Serialize};

/// Version of [`Spec`] and [`Report`].
const VERSION: u32 = 1;
/// The program in the input root.
pub const PROGRAM: &str = "kiln";
/// Its subcommand.
pub const SUBCOMMAND: &str = "run-step";
/// Folder of the merged root file system in the input root (and in `mnt/N`).
pub const ROOTFS: &str = "rootfs";
/// Folder of the layers' indexes in the input root (and in `mnt/N`): `000.idx`, `001.idx`, ..., base first.
pub const META: &str = "meta";
/// Folder of content whose names engines cannot carry, by BLAKE3 in hex, in the input root (and in `mnt/N`).
pub const EXTRA: &str = "extra";
/// Folder of the inputs of bind and cache mounts, by number.
pub const MOUNTS: &str = "mnt";
/// A specification that is too long for arguments.
pub const SPEC_FILE: &str = "spec.json";
/// The layer, as a zstd-compressed tar.
pub const LAYER_BLOB: &str = "out/layer.tar.zst";
/// The layer's index.
pub const LAYER_INDEX: &str = "out/layer.idx";
/// The [`Report`], which is there only when everything else is.
pub const REPORT: &str = "out/meta.json";
/// Longest piece of a specification in one argument, in bytes: the kernel takes 128 KiB.
const PIECE: usize = 100 << 10;
/// Longest specification in arguments, in bytes.
const MOST_IN_ARGUMENTS: usize = 1 << 20;
/// Longest report that is read, in bytes.
const MOST_REPORT: usize = 4 << 20;

/// Name in [`META`] of a layer's index; layers count from the base.
#[must_use]
pub fn index_name(layer: usize) -> String {
    format!("{layer:03}.idx")
}

/// What the engine that stages files says it carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Staged {
    /// All permission bits.
    pub modes: bool,
    /// Times, in seconds at least.
    pub times: bool,
}

/// A step for a worker. All of it is part of the identity of an action.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Version of this format.
    pub version: u32,
    /// The command. Inputs of its mounts are numbers of folders in `mnt/`; its base is `rootfs/` where it has one.
    pub op: RunOp,
    /// Layers of the root, as many as there are indexes in `meta/`.
    pub layers: usize,
    /// The same for each folder in `mnt/`.
    pub inputs: Vec<usize>,
    /// What the staging carries.
    pub staged: Staged,
    /// Name servers and the like in place of the worker's.
    pub name_servers: Vec<String>,
    /// Search domains in place of the worker's.
    pub search: Vec<String>,
    /// Resolver options in place of the worker's.
    pub resolver_options: Vec<String>,
    /// What the command may do.
    pub security: Security,
    /// Limits of the command.
    pub resources: Resources,
    /// Limits that cannot be set are an error; otherwise they are noted.
    pub strict_limits: bool,
    /// The least isolation.
    pub isolation: Isolation,
    /// The way to put roots together; `None` takes the best that works there.
    pub root: Option<RootKind>,
}

/// Why a specification cannot be made or read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The step needs something that only the machine of the build has.
    #[error("it needs {0}, which this machine alone has")]
    Local(&'static str),
    /// Not base64, not JSON, missing or unknown fields.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Another version of this format.
    #[error("has version {found}, and this program knows version {VERSION}")]
    Version {
        /// That version.
        found: u32,
    },
}

impl Spec {
    /// For a command; with the inputs that `mnt/0`, `mnt/1`, ... must be. Proxies are left out, as they are in no key, and of
    /// secrets and agents there are names alone. The numbers of layers and the settings are the caller's to fill in.
    ///
    /// # Errors
    /// Commands with devices, volumes, or the host's network.
    pub fn of(op: &RunOp) -> Result<(Self, Vec<InputIndex>), SpecError> {
        if !op.devices.is_empty() {
            return Err(SpecError::Local("devices"));
        }
        if !op.volumes.is_empty() {
            return Err(SpecError::Local("volumes"));
        }
        if op.network == Network::Host {
            return Err(SpecError::Local("the network of its host"));
        }
        let mut op = op.clone();
        op.proxy_env.clear();
        op.display.clear();
        op.base = op.base.map(|_| 0);
        let mut inputs: Vec<InputIndex> = Vec::new();
        let mut number = |input: &mut Option<InputIndex>| {
            let Some(wanted) = *input else { return };
            let known = inputs.iter().position(|known| *known == wanted);
            *input = Some(known.unwrap_or_else(|| {
                inputs.push(wanted);
                inputs.len() - 1
            }));
        };
        for mount in &mut op.mounts {
            match mount {
                RunMount::Bind { input, .. } => number(input),
                RunMount::Cache { from, .. } => number(from),
                // Of secrets and agents there are names alone: the worker has its own.
                RunMount::Tmpfs { .. } | RunMount::Secret { .. } | RunMount::Ssh { .. } => {}
            }
        }
        let spec = Self {
            version: VERSION,
            op,
            layers: 0,
            inputs: vec![0; inputs.len()],
            staged: Staged::default(),
            name_servers: Vec::new(),
            search: Vec::new(),
            resolver_options: Vec::new(),
            security: Security::default(),
            resources: Resources::default(),
            strict_limits: false,
            isolation: Isolation::default(),
            root: None,
        };
        Ok((spec, inputs))
    }

    /// As JSON, the same for equal specifications.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: a specification has string keys only")
    }

    /// Arguments of the command that carries this step out in the input root, the program first; and the content of
    /// [`SPEC_FILE`], where it is too long for arguments.
    #[must_use]
    pub fn arguments(&self) -> (Vec<String>, Option<Vec<u8>>) {
        let mut arguments = vec![format!("./{PROGRAM}"), SUBCOMMAND.to_owned()];
        let json = self.to_json();
        if json.len() > MOST_IN_ARGUMENTS {
            arguments.push(format!("--spec-file={SPEC_FILE}"));
            return (arguments, Some(json));
        }
        let text = STANDARD.encode(&json);
        let pieces = text.as_bytes().chunks(PIECE);
        arguments.extend(pieces.map(|piece| format!("--spec={}", String::from_utf8_lossy(piece))));
        (arguments, None)
    }

    /// From the values of `--spec`, in order.
    ///
    /// # Errors
    /// Not a specification of this version.
    pub fn from_pieces(pieces: &[String]) -> Result<Self, SpecError> {
        let json = STANDARD.decode(pieces.concat());
        let json = json.map_err(|error| SpecError::Unreadable(error.to_string()))?;
        Self::from_json(&json)
    }

    /// From JSON.
    ///
    /// # Errors
    /// Not a specification of this version.
    pub fn from_json(json: &[u8]) -> Result<Self, SpecError> {
        check_version(json)?;
        let spec: Self = serde_json::from_slice(json)
            .map_err(|error| SpecError::Unreadable(error.to_string()))?;
        let known = |input: &Option<InputIndex>| input.is_none_or(|at| at < spec.inputs.len());
        let fits = spec.op.mounts.iter().all(|mount| match mount {
            RunMount::Bind { input, .. } => known(input),
            RunMount::Cache { from, .. } => known(from),
            RunMount::Tmpfs { .. } | RunMount::Secret { .. } | RunMount::Ssh { .. } => true,
        });
        if fits {
            Ok(spec)
        } else {
            let reason = "a mount of something that was not sent".to_owned();
            Err(SpecError::Unreadable(reason))
        }
    }

    /// How names are found.
    #[must_use]
    pub fn resolver(&self) -> NetworkSettings {
        NetworkSettings {
            program: None,
            name_servers: self.name_servers.clone(),
            search: self.search.clone(),
            options: self.resolver_options.clone(),
        }
    }
}

/// Looks at the version alone, before fields that another version may have.
fn check_version(json: &[u8]) -> Result<(), SpecError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } =
        serde_json::from_slice(json).map_err(|error| SpecError::Unreadable(error.to_string()))?;
    if version == VERSION {
        Ok(())
    } else {
        Err(SpecError::Version { found: version })
    }
}

/// How a step ended on the worker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// The command's exit code.
    Code(i32),
    /// The signal that ended the command.
    Signal(i32),
    /// The command could not be started, or its changes not captured.
    Error(String),
}

impl Ended {
    /// The exit status of the worker's process: the command's own, 128 and the number of a signal, 125 where there is none.
    #[must_use]
    pub fn status(&self) -> u8 {
        let status = match self {
            Self::Code(code) => *code,
            Self::Signal(signal) => 128 + signal,
            Self::Error(_) => return 125,
        };
        u8::try_from(status & 0xff).unwrap_or(125)
    }
}

/// The layer's blob.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackedLayer {
    /// Digest of [`LAYER_BLOB`].
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// How exactly the root was staged, over the root and all mounts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StagedReport {
    /// Entries.
    pub files: u64,
    /// Those that the worker made anew.
    pub fixed: u64,
    /// Bytes of content that were copied for that.
    pub copied_bytes: u64,
}

/// Times of a step, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Millis {
    /// Finding a folder for what is written, and the sandbox.
    pub start: u64,
    /// Making the root exact.
    pub stage: u64,
    /// The command.
    pub run: u64,
    /// Finding its changes.
    pub capture: u64,
    /// Compressing them.
    pub pack: u64,
}

/// What a worker tells about a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// How it ended. Nothing that follows about a layer is there unless the command succeeded.
    pub exit: Ended,
    /// The number of the system's error that kept the worker from it, where it was one. Older workers do not tell.
    #[serde(default)]
    pub errno: Option<i32>,
    /// Why it failed, where a limit is known to be the cause.
    #[serde(default)]
    pub verdict: Option<String>,
    /// diff_id of the layer.
    #[serde(default)]
    pub diff_id: Option<Digest>,
    /// Identity of the layer's content, in hex.
    #[serde(default)]
    pub identity: Option<String>,
    /// Its blob.
    #[serde(default)]
    pub blob: Option<PackedLayer>,
    /// Entries of the layer.
    #[serde(default)]
    pub entries: u64,
    /// Bytes of the layer's tar.
    #[serde(default)]
    pub bytes: u64,
    /// How the command was isolated: `full`, `nested`, `chroot`.
    #[serde(default)]
    pub isolation: String,
    /// How its root was put together: `overlay`, `copy`, ...
    #[serde(default)]
    pub root: String,
    /// Where changes were written.
    #[serde(default)]
    pub scratch: String,
    /// How ids were mapped.
    #[serde(default)]
    pub ids: String,
    /// What was not as it should be.
    #[serde(default)]
    pub notes: Vec<String>,
    /// How exactly files were staged.
    #[serde(default)]
    pub staged: StagedReport,
    /// Times.
    #[serde(default)]
    pub ms: Millis,
    /// Version of the worker's program.
    #[serde(default)]
    pub kiln: String,
}

impl Report {
    /// Of a step that ended so, with nothing else said.
    #[must_use]
    pub fn of(exit: Ended) -> Self {
        Self {
            version: VERSION,
            exit,
            errno: None,
            verdict: None,
            diff_id: None,
            identity: None,
            blob: None,
            entries: 0,
            bytes: 0,
            isolation: String::new(),
            root: String::new(),
            scratch: String::new(),
            ids: String::new(),
            notes: Vec::new(),
            staged: StagedReport::default(),
            ms: Millis::default(),
            kiln: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether a file that was staged could not be read: what engines that stage lazily say when it cannot be brought.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        let of_files = [Errno::IO, Errno::STALE].map(Errno::raw_os_error);
        self.errno.is_some_and(|errno| of_files.contains(&errno))
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: a report has string keys only")
    }

    /// From JSON that somebody else has written.
    ///
    /// # Errors
    /// Not a report of this version; one of success without a layer.
    pub fn from_json(json: &[u8]) -> Result<Self, SpecError> {
        if json.len() > MOST_REPORT {
            return Err(SpecError::Unreadable(format!("{} bytes", json.len())));
        }
        check_version(json)?;
        let report: Self = serde_json::from_slice(json)
            .map_err(|error| SpecError::Unreadable(error.to_string()))?;
        let has_layer = report.diff_id.is_some() && report.blob.is_some();
        if report.exit == Ended::Code(0) && !has_layer {
            let reason = "a command that succeeded and no layer".to_owned();
            return Err(SpecError::Unreadable(reason));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(mounts: Vec<RunMount>) -> RunOp {
        RunOp {
            base: Some(3),
            args: vec!["/bin/sh".to_owned(), "-c".to_owned(), "make".to_owned()],
            display: "/bin/sh -c make".to_owned(),
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            proxy_env: vec![("http_proxy".to_owned(), "http://user:word@proxy".to_owned())],
            cwd: "/".to_owned(),
            mounts,
            ..RunOp::default()
        }
    }

    fn bind(input: InputIndex) -> RunMount {
        RunMount::Bind {
            input: Some(input),
            source: "/".to_owned(),
            target: format!("/m{input}"),
            readonly: true,
        }
    }

    #[test]
    fn a_spec_comes_back_from_arguments_and_from_a_file() {
        let (spec, inputs) = Spec::of(&op(vec![bind(5), bind(2), bind(5)])).unwrap();
        assert_eq!(inputs, [5, 2]);
        let numbers = spec.op.mounts.iter().map(|mount| match mount {
            RunMount::Bind { input, .. } => *input,
            _ => None,
        });
        assert!(numbers.eq([Some(0), Some(1), Some(0)]));
        let (arguments, file) = spec.arguments();
        assert_eq!(file, None);
        let pieces = |arguments: &[String]| -> Vec<String> {
            let values = arguments.iter().filter_map(|it| it.strip_prefix("--spec="));
            values.map(str::to_owned).collect()
        };
        assert_eq!(Spec::from_pieces(&pieces(&arguments)).unwrap(), spec);
        let text = String::from_utf8(spec.to_json()).unwrap();
        assert!(!text.contains("word"), "{text}");

        let mut long = spec.clone();
        long.op.files = vec![("/f".to_owned(), "x".repeat(400 << 10))];
        let (arguments, file) = long.arguments();
        assert_eq!(file, None);
        assert!(arguments.len() > 4 && arguments.iter().all(|it| it.len() < 128 << 10));
        assert_eq!(Spec::from_pieces(&pieces(&arguments)).unwrap(), long);

        long.op.files = vec![("/f".to_owned(), "x".repeat(2 << 20))];
        let (arguments, file) = long.arguments();
        assert_eq!(arguments, ["./kiln", "run-step", "--spec-file=spec.json"]);
        assert_eq!(Spec::from_json(&file.unwrap()).unwrap(), long);
    }

    #[test]
    fn what_another_version_writes_is_refused() {
        let (spec, _) = Spec::of(&op(Vec::new())).unwrap();
        let text = String::from_utf8(spec.to_json()).unwrap();
        let newer = text.replacen("\"version\":1", "\"version\":2,\"more\":1", 1);
        assert_eq!(
            Spec::from_json(newer.as_bytes()),
            Err(SpecError::Version { found: 2 })
        );
        let unknown = text.replacen('{', "{\"more\":1,", 1);
        assert!(matches!(
            Spec::from_json(unknown.as_bytes()),
            Err(SpecError::Unreadable(_))
        ));
        let missing = Spec {
            inputs: Vec::new(),
            ..Spec::of(&op(vec![bind(5)])).unwrap().0
        };
        assert!(Spec::from_json(&missing.to_json()).is_err());
        let hollow = Report::of(Ended::Code(0)).to_json();
        assert!(Report::from_json(&hollow).is_err());
        let failed = Report::of(Ended::Signal(9));
        assert_eq!(Report::from_json(&failed.to_json()).unwrap(), failed);
        assert_eq!(failed.exit.status(), 137);
    }

    #[test]
    fn a_report_says_that_files_could_not_be_read() {
        // As workers of before wrote it.
        let old = br#"{"version":1,"exit":{"error":"x: Input/output error (os error 5)"}}"#;
        let old = Report::from_json(old).unwrap();
        assert_eq!((old.errno, old.is_unreadable()), (None, false));
        for (errno, is_unreadable) in [(5, true), (116, true), (2, false), (13, false)] {
            let report = Report {
                errno: Some(errno),
                ..Report::of(Ended::Error("x".to_owned()))
            };
            let report = Report::from_json(&report.to_json()).unwrap();
            assert_eq!(report.is_unreadable(), is_unreadable, "{errno}");
        }
    }
}
