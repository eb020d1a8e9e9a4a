//! Groups of BuildKit's integration cases about RUN: what their sessions and daemons would give, as flags and files.

use super::builds::Levels;
use super::harness::Case;
use super::integration::replay;
use super::text;
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpListener;

/// The specifications that BuildKit's test of devices writes.
const DEVICES: &str = "\
cdiVersion: \"0.6.0\"
kind: \"vendor1.com/device\"
devices:
- name: foo
  containerEdits:
    env:
    - FOO=injected
";

fn write(case: &Case<'_>, name: &str, content: &str) -> Result<String, String> {
    let path = case.dir.join(name);
    std::fs::create_dir_all(case.dir)
        .and_then(|()| std::fs::write(&path, content))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path.display().to_string())
}

/// The case as if it needed nothing special; what it needed is given by flags.
fn plain(case: &Case<'_>) -> Value {
    let mut value = case.value.clone();
    value["needs"] = json!([]);
    if value["verified"] != Value::Bool(true) {
        // The recorded run had none of what this one gets.
        value["oracle"] = json!({});
    }
    value
}

/// A session's secrets: `FromMap(map[string][]byte{ "mysecret": []byte("pw") })`.
pub fn secrets(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let mut value = plain(&case);
    let mut args = Vec::new();
    for build in value["builds"].as_array_mut().into_iter().flatten() {
        let session = build["session"].to_string().replace("\\\"", "\"");
        for line in session.split("\\n") {
            let words: Vec<&str> = line.split('"').collect();
            if let [_, id, middle, secret, ..] = words[..]
                && middle.contains("[]byte(")
            {
                let path = write(&case, &format!("secret-{id}"), secret)?;
                args.extend(["--secret".to_owned(), format!("id={id},src={path}")]);
            }
        }
        build["session"] = Value::Null;
    }
    let case = Case {
        value: &value,
        ..case
    };
    replay(case, levels, &args)
}

/// `AllowedEntitlements` and the network mode of all commands; a server where the case names its port.
pub fn entitled(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let mut value = plain(&case);
    let mut args = Vec::new();
    for build in value["builds"].as_array_mut().into_iter().flatten() {
        let allowed = build["allowedentitlements"].to_string();
        for (constant, name) in [
            ("EntitlementNetworkHost", "network.host"),
            ("EntitlementSecurityInsecure", "security.insecure"),
        ] {
            if allowed.contains(constant) {
                args.extend(["--allow".to_owned(), name.to_owned()]);
            }
        }
        build["allowedentitlements"] = Value::Null;
        if text(&build["force_network_mode"]) == "host" {
            args.extend(["--network".to_owned(), "host".to_owned()]);
        }
    }
    let mut written = value.to_string();
    if written.contains("hellofs") {
        return Err("left out: needs packages and an image of the network".to_owned());
    }
    if written.contains("«port»") {
        written = written.replace("«port»", &serve_foo()?.to_string());
    }
    let value: Value = serde_json::from_str(&written).map_err(|e| e.to_string())?;
    let case = Case {
        value: &value,
        ..case
    };
    replay(case, levels, &args)
}

/// A listener that answers `foo`, as long as this program runs.
fn serve_foo() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that is gone again has seen what it wanted.
            let _ = stream.and_then(|mut stream| stream.write_all(b"foo\n"));
        }
    });
    Ok(port)
}

/// `/dev/shm` as `mount` shows it has options of the user namespace, and `nodev`: the case's own asserts count.
pub fn resources(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let mut value = case.value.clone();
    if text(&value["name"]) == "testShmSize" {
        value["verified"] = Value::Bool(false);
        value["oracle"] = json!({});
    }
    let case = Case {
        value: &value,
        ..case
    };
    replay(case, levels, &[])
}

/// A folder with the specification of the device.
pub fn device(case: Case<'_>, levels: &mut Levels) -> Result<(), String> {
    let value = plain(&case);
    write(&case, "vendor1-device.yaml", DEVICES)?;
    let folder = case.dir.display().to_string();
    let args = ["--cdi-spec-dir", &folder, "--allow", "device"].map(str::to_owned);
    let case = Case {
        value: &value,
        ..case
    };
    replay(case, levels, &args)
}
