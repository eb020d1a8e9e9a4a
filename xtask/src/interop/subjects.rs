//! The images that Kiln pushes.

use super::Bench;
use crate::shell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// What a container of every image prints.
pub const SAYS: &str = "hello from kiln";

/// An image in the registry.
#[derive(Debug)]
pub struct Subject {
    /// What is special about it.
    pub name: &'static str,
    /// With tag or digest.
    pub reference: String,
    /// How its layers are compressed.
    pub compression: &'static str,
}

/// Name, tag in the registry, and keys of the output.
const OUTPUTS: &[(&str, &str, &str)] = &[
    ("one platform, gzip", "one:1", ""),
    ("zstd", "zstd:1", ",compression=zstd,force-compression=true"),
    (
        "estargz",
        "estargz:1",
        ",compression=estargz,force-compression=true",
    ),
    (
        "uncompressed",
        "plain:1",
        ",compression=uncompressed,force-compression=true",
    ),
    ("docker media types", "docker:1", ",oci-mediatypes=false"),
    ("nested path", "a/b/c/d-e/f_g:v1.2.3", ""),
];

/// Builds and pushes all of them.
pub fn push_all(bench: &Bench) -> Result<Vec<Subject>, String> {
    let dir = context(bench)?;
    let mut subjects = Vec::new();
    for (name, tag, keys) in OUTPUTS {
        let reference = format!("{}/{tag}", bench.registry.host());
        let output = format!("type=image,name={reference},push=true{keys}");
        shell::output(kiln(bench).arg("-o").arg(output).arg(&dir))?;
        subjects.push(Subject {
            name,
            reference,
            compression: keys
                .split(['=', ','])
                .find(|word| ["zstd", "uncompressed"].contains(word))
                .unwrap_or("gzip"),
        });
    }
    let plain = |name, reference| Subject {
        name,
        reference,
        compression: "gzip",
    };
    let reference = format!("{}/several:1", bench.registry.host());
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    shell::output(
        kiln(bench)
            .args(platforms)
            .args(["--push", "-t", &reference])
            .arg(&dir),
    )?;
    subjects.push(plain("two platforms", reference));
    let reference = format!("{}/layers:100", bench.registry.host());
    shell::output(
        kiln(bench)
            .arg("-f")
            .arg(dir.join("Dockerfile.layers"))
            .args(["--push", "-t", &reference])
            .arg(&dir),
    )?;
    subjects.push(plain("100 layers", reference));
    let name = format!("{}/by-digest", bench.registry.host());
    let metadata = bench.work.path().join("metadata.json");
    let output =
        format!("type=image,name={name},push=true,push-by-digest=true,name-canonical=true");
    shell::output(
        kiln(bench)
            .arg("--metadata-file")
            .arg(&metadata)
            .arg("-o")
            .arg(output)
            .arg(&dir),
    )?;
    let text = std::fs::read(&metadata).map_err(|error| error.to_string())?;
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let digest = value["containerimage.digest"]
        .as_str()
        .ok_or("no digest in the metadata")?;
    subjects.push(plain("by digest", format!("{name}@{digest}")));
    // Built into the store first, pushed by name later.
    let reference = format!("{}/later:1", bench.registry.host());
    shell::output(kiln(bench).args(["-t", &reference]).arg(&dir))?;
    shell::output(&mut command(bench, &["push", &reference]))?;
    subjects.push(plain("kiln push", reference));
    Ok(subjects)
}

/// Kiln with a store of its own.
pub fn command(bench: &Bench, args: &[&str]) -> Command {
    let mut command = Command::new(&bench.kiln);
    command
        .arg("--root")
        .arg(bench.work.path().join("store"))
        .args(args)
        .env_remove("DOCKER_CONFIG");
    command
}

fn kiln(bench: &Bench) -> Command {
    let layout = shell::root().join("testdata/images/busybox");
    let mut command = command(bench, &["build", "-q", "--build-context"]);
    command.arg(format!("busybox=oci-layout://{}", layout.display()));
    command
}

fn context(bench: &Bench) -> Result<PathBuf, String> {
    let dir = bench.work.path().join("context");
    let mut layers = String::from("FROM busybox\n");
    for number in 0..99 {
        let _ = writeln!(layers, "COPY hello /hello{number}");
    }
    layers.push_str("CMD [\"cat\", \"/hello98\"]\n");
    let dockerfile = "FROM busybox\nCOPY hello /hello\nCMD [\"cat\", \"/hello\"]\n";
    std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
    for (name, text) in [
        ("Dockerfile", dockerfile),
        ("Dockerfile.layers", &layers),
        ("hello", &format!("{SAYS}\n")),
    ] {
        std::fs::write(dir.join(name), text).map_err(|error| error.to_string())?;
    }
    Ok(dir)
}
