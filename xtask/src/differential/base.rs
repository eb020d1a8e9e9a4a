//! The base images: the busybox that ships, with users, links and odd modes on top, under several configs.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// Time of the entries added here.
const TIME: u64 = 1_300_000_000;

/// Names of the variants; each is a tag.
pub const VARIANTS: &[&str] = &[
    "plain", "rich", "user", "nopath", "shell", "onb1", "onb2", "onb3",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1001:App:/home/app:/bin/sh
lone:x:1002:4242::/:/bin/sh
odd line
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUP: &str = "root:x:0:
daemon:x:1:
app:x:1001:
extra:x:2000:app,lone
nogroup:x:65534:
";

/// One entry: name, type, mode, owner, group, content or link target.
type Row = (&'static str, u8, u32, u64, u64, &'static str);

const FIRST: &[Row] = &[
    ("data/", b'5', 0o755, 0, 0, ""),
    ("data/one", b'0', 0o644, 0, 0, "one"),
    ("data/private", b'0', 0o600, 5, 6, "private"),
    ("data/two/", b'5', 0o750, 5, 6, ""),
    ("data/two/three", b'0', 0o644, 0, 0, "three"),
    ("data/link", b'2', 0o777, 0, 0, "one"),
    ("data/hard", b'1', 0o644, 0, 0, "data/one"),
    ("etc/group", b'0', 0o644, 0, 0, GROUP),
    ("etc/hostname", b'0', 0o644, 0, 0, ""),
    ("etc/hosts", b'0', 0o644, 0, 0, ""),
    ("etc/passwd", b'0', 0o644, 0, 0, PASSWD),
    ("etc/resolv.conf", b'0', 0o644, 0, 0, ""),
    ("exist", b'0', 0o640, 0, 0, "it exists"),
    ("gone", b'0', 0o644, 0, 0, "hidden by the next layer"),
    ("home/app/", b'5', 0o700, 1000, 1001, ""),
    ("home/app/.profile", b'0', 0o644, 1000, 1001, "# profile"),
    ("old/", b'5', 0o755, 0, 0, ""),
    ("old/hidden", b'0', 0o644, 0, 0, "hidden"),
    ("ro/", b'5', 0o555, 0, 0, ""),
    ("sgid/", b'5', 0o2775, 0, 1001, ""),
    ("sp ace/", b'5', 0o755, 0, 0, ""),
    ("sp ace/f", b'0', 0o644, 0, 0, "space"),
    ("srv/", b'5', 0o755, 0, 0, ""),
    ("srv/real/", b'5', 0o755, 0, 0, ""),
    ("srv/real/f", b'0', 0o644, 0, 0, "real"),
    ("stick/", b'5', 0o1777, 0, 0, ""),
    ("suid", b'0', 0o4755, 0, 0, "suid"),
    ("chain", b'2', 0o777, 0, 0, "lnk"),
    ("dang", b'2', 0o777, 0, 0, "/no/where"),
    ("lnk", b'2', 0o777, 0, 0, "/srv/real"),
    ("lnkfile", b'2', 0o777, 0, 0, "/exist"),
    ("loop", b'2', 0o777, 0, 0, "loop2"),
    ("loop2", b'2', 0o777, 0, 0, "loop"),
    ("rlnk", b'2', 0o777, 0, 0, "srv/real"),
    ("up", b'2', 0o777, 0, 0, "../../../data"),
];
const SECOND: &[Row] = &[
    (".wh.gone", b'0', 0o644, 0, 0, ""),
    ("old/", b'5', 0o711, 0, 0, ""),
    ("old/.wh..wh..opq", b'0', 0o644, 0, 0, ""),
    ("old/new", b'0', 0o644, 0, 0, "new"),
];

/// Writes each variant as a layout folder of its name below `out`; triggers name the plain one by its address.
pub fn write(busybox: &Path, out: &Path, plain: &str) -> Result<(), String> {
    let source = |digest: &str| -> Result<Vec<u8>, String> {
        let path = busybox.join("blobs").join(digest.replace(':', "/"));
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let parse = |bytes: &[u8]| -> Result<Value, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let top = std::fs::read(busybox.join("index.json")).map_err(|error| error.to_string())?;
    let index = parse(&source(&text(&parse(&top)?["manifests"][0]["digest"]))?)?;
    let manifest = parse(&source(&text(&index["manifests"][0]["digest"]))?)?;
    let config = parse(&source(&text(&manifest["config"]["digest"]))?)?;
    let lowest = source(&text(&manifest["layers"][0]["digest"]))?;
    for variant in VARIANTS {
        let dir = out.join(variant);
        let mut layout = Layout::new(&dir)?;
        let mut layers = vec![layout.put("layer.v1.tar+gzip", &lowest)?];
        let mut diff_ids = vec![config["rootfs"]["diff_ids"][0].clone()];
        let mut history = vec![json!({"created_by": "busybox"})];
        for rows in [FIRST, SECOND] {
            let tar = tar_of(rows).map_err(|error| error.to_string())?;
            diff_ids.push(Value::String(digest_of(&tar)));
            let packed = gzip(&tar).map_err(|error| error.to_string())?;
            layers.push(layout.put("layer.v1.tar+gzip", &packed)?);
            history.push(json!({"created_by": "hard cases"}));
        }
        history.push(json!({"created_by": "CMD [\"sh\"]", "empty_layer": true}));
        let mut config = config_of(variant, plain);
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        config["history"] = Value::Array(history);
        layout.finish(&config, &layers)?;
    }
    Ok(())
}

fn config_of(variant: &str, plain: &str) -> Value {
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let inner = match variant {
        "rich" => json!({
            "Env": [path, "BASEV=from base", "E=base=e"],
            "Entrypoint": ["/entry", "point"],
            "Cmd": ["base", "cmd"],
            "WorkingDir": "/srv/work",
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
            "Volumes": {"/vol": {}},
            "Labels": {"base": "label", "l1": "base"},
            "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 7_000_000_000_u64, "Retries": 4},
        }),
        "user" => {
            json!({"Env": [path, "HOME=/home/app"], "User": "app", "WorkingDir": "/home/app"})
        }
        "nopath" => json!({"Env": ["ONLY=this"], "Entrypoint": ["e"]}),
        "shell" => json!({"Env": [path], "Shell": ["/bin/sh", "-ec"], "Cmd": ["sh"]}),
        "onb1" => json!({"Env": [path], "OnBuild": [
            "ENV FROMONB=1", "RUN echo onbuild > /onbuild", "COPY a.txt /onb/", "LABEL onb=yes",
        ]}),
        "onb2" => json!({"Env": [path], "OnBuild": [
            "ARG A=onb", "RUN echo \"$A\" > /onba", "WORKDIR /onb/work", "USER app",
        ]}),
        "onb3" => json!({"Env": [path], "OnBuild": [
            format!("COPY --from={plain} /etc/passwd /onbpw"), "HEALTHCHECK NONE", "CMD [\"onb\"]",
        ]}),
        _ => json!({"Env": [path], "Cmd": ["sh"]}),
    };
    json!({"architecture": "amd64", "os": "linux", "created": "2011-03-13T07:06:40Z",
        "author": "base author", "config": inner})
}

struct Layout<'a> {
    dir: &'a Path,
}

impl<'a> Layout<'a> {
    fn new(dir: &'a Path) -> Result<Self, String> {
        std::fs::create_dir_all(dir.join("blobs/sha256")).map_err(|error| error.to_string())?;
        Ok(Self { dir })
    }

    fn put(&mut self, kind: &str, content: &[u8]) -> Result<Value, String> {
        let digest = digest_of(content);
        std::fs::write(
            self.dir.join("blobs").join(digest.replace(':', "/")),
            content,
        )
        .map_err(|error| error.to_string())?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest,
            "size": content.len(),
        }))
    }

    fn finish(&mut self, config: &Value, layers: &[Value]) -> Result<(), String> {
        let config = self.put("config.v1+json", config.to_string().as_bytes())?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let descriptor = self.put("manifest.v1+json", manifest.to_string().as_bytes())?;
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        let write = |name: &str, text: String| {
            std::fs::write(self.dir.join(name), text).map_err(|error| error.to_string())
        };
        write("index.json", index.to_string())?;
        write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned())
    }
}

fn digest_of(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn tar_of(rows: &[Row]) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for &(name, kind, mode, uid, gid, text) in rows {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(TIME);
        header.set_path(name)?;
        let is_link = matches!(kind, b'1' | b'2');
        if is_link {
            header.set_link_name(text)?;
        }
        let content = if is_link { "" } else { text };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes())?;
    }
    builder.into_inner()
}
