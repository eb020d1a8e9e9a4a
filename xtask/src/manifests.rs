//! The manifests of the guides: against the schemas of Kubernetes (strictly: no unknown fields), and against what the pages
//! say of them. Nothing is deployed.

use crate::shell;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What checks them. The version says the newest Kubernetes whose schemas it has.
const TOOLS: [&str; 3] = [
    "kubernetes-validate==1.37.0",
    "jsonnet==0.22.0",
    "PyYAML>=6,<7",
];

/// Versions of Kubernetes that the pages name: the first that has all fields by default, and the newest.
const VERSIONS: [&str; 2] = ["1.33", "1.37"];

/// What the schemas do not know.
const RULES: &str = include_str!("manifests.py");

/// Checks all of them.
pub fn run() -> Result<(), String> {
    let tools = tools()?;
    println!("{}", check(&tools, &folder())?);
    Ok(())
}

fn folder() -> PathBuf {
    shell::root().join("docs/guides/remote-kubernetes")
}

/// A Python environment with the tools, made once.
fn tools() -> Result<PathBuf, String> {
    let environment = shell::target_dir().join("manifests-1.37.0");
    let done = environment.join("done");
    if !done.is_file() {
        let mut make = Command::new("python3");
        shell::output(make.args(["-m", "venv", "--clear"]).arg(&environment))?;
        let mut install = Command::new(environment.join("bin/pip"));
        install.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary=:all:",
        ]);
        shell::output(install.args(TOOLS))?;
        std::fs::write(&done, "").map_err(|error| format!("{}: {error}", done.display()))?;
    }
    Ok(environment)
}

/// What was looked at, in words.
fn check(tools: &Path, folder: &Path) -> Result<String, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    for version in VERSIONS {
        schemas(tools, &files, version)?;
    }
    rules(tools, folder)
}

/// What is wrong is on its standard output.
fn schemas(tools: &Path, files: &[PathBuf], version: &str) -> Result<(), String> {
    let mut validate = Command::new(tools.join("bin/kubernetes-validate"));
    validate.args(["--strict", "--kubernetes-version", version]);
    let output = validate.args(files).output();
    let output = output.map_err(|error| format!("could not start {validate:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Err(said + &String::from_utf8_lossy(&output.stderr))
}

fn rules(tools: &Path, folder: &Path) -> Result<String, String> {
    let mut rules = Command::new(tools.join("bin/python"));
    shell::output(rules.args(["-c", RULES]).arg(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A copy of all, with one of them changed.
    fn changed(file: &str, from: &str, to: &str) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let path = copy.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        copy
    }

    #[test]
    fn manifests_of_the_guides_are_valid() {
        let tools = match tools() {
            Ok(tools) => tools,
            Err(reason) => {
                eprintln!("SKIPPED: no schemas of Kubernetes: {reason}");
                return;
            }
        };
        let said = check(&tools, &folder()).unwrap();
        assert!(said.contains("15 documents"), "{said}");

        // Neither what is misspelt nor what is too much passes.
        for (file, from, to, says) in [
            (
                "worker-amd64.yaml",
                "procMount: Unmasked",
                "procMounts: Unmasked",
                "'procMounts' was unexpected",
            ),
            (
                "network.yaml",
                "port: 8981",
                "port: [1]",
                "[1] is not valid",
            ),
        ] {
            let copy = changed(file, from, to);
            let failed = schemas(&tools, &[copy.path().join(file)], VERSIONS[1]);
            let failed = failed.unwrap_err();
            assert!(failed.contains(says), "{failed}");
        }
        for (file, from, to, says) in [
            (
                "worker-amd64.yaml",
                "drop: [\"ALL\"]",
                "add: [\"SYS_ADMIN\"]",
                "may do too much",
            ),
            (
                "worker-arm64.yaml",
                "value: arm-a64",
                "value: x86-64",
                "is not one for arm64",
            ),
            (
                "worker-arm64.yaml",
                "name: runner-config\n              mountPath: /config",
                "name: internal-tls\n              mountPath: /config",
                "the runner has the key",
            ),
            (
                "config.yaml",
                "local common = import",
                "local common import",
                "storage.jsonnet",
            ),
        ] {
            let copy = changed(file, from, to);
            let failed = rules(&tools, copy.path()).unwrap_err();
            assert!(failed.contains(says), "{failed}");
        }
    }
}
