//! Who takes an image that is to be loaded: the Docker that the environment, the client's configuration or a key of
//! `--output` names, Podman, containerd. Reads the client's contexts; connects to nobody.

use super::usage;
use crate::environment::Environment;
use crate::error::Failure;
use executor::request::{DockerEndpoint, DockerTls, LoadTarget, Receiver};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Docker's socket where nothing else is said.
const SOCKET: &str = "/var/run/docker.sock";

/// Keys of `type=docker` that say where to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadKeys {
    /// `to=docker|podman|containerd`.
    pub to: Option<String>,
    /// `context=NAME` of the docker client.
    pub context: Option<String>,
    /// `namespace=NAME` of containerd.
    pub namespace: Option<String>,
}

/// Finds the receiver.
pub fn resolve(keys: &LoadKeys, environment: &Environment) -> Result<LoadTarget, Failure> {
    let to = keys.to.as_deref().unwrap_or("docker");
    if keys.context.is_some() && to != "docker" {
        return Err(invalid("context is a key of to=docker"));
    }
    if keys.namespace.is_some() && to != "containerd" {
        return Err(invalid("namespace is a key of to=containerd"));
    }
    let receiver = match to {
        "docker" => return docker(keys, environment),
        "podman" => Receiver::Podman,
        "containerd" => Receiver::Containerd {
            namespace: keys.namespace.clone(),
        },
        _ => {
            return Err(invalid(&format!(
                "unknown receiver {to:?}: expected docker, podman or containerd"
            )));
        }
    };
    Ok(LoadTarget {
        receiver,
        required: true,
    })
}

fn docker(keys: &LoadKeys, environment: &Environment) -> Result<LoadTarget, Failure> {
    let folder = environment.docker_config();
    let named = match &keys.context {
        Some(name) => Some(name.clone()),
        None if environment.get("DOCKER_HOST").is_some() => None,
        None => environment
            .get("DOCKER_CONTEXT")
            .map(str::to_owned)
            .or_else(|| current_context(folder.as_deref()?)),
    };
    let named = named.filter(|name| name != "default");
    let (endpoint, is_named) = match named {
        Some(name) => (context(&name, folder.as_deref())?, true),
        None => by_environment(environment, folder.as_deref())?,
    };
    Ok(LoadTarget {
        receiver: Receiver::Docker(endpoint),
        required: is_named || keys.to.is_some() || keys.context.is_some(),
    })
}

/// `DOCKER_HOST` with its TLS variables, or the usual socket; whether somebody named it.
fn by_environment(
    environment: &Environment,
    folder: Option<&Path>,
) -> Result<(DockerEndpoint, bool), Failure> {
    let Some(host) = environment.get("DOCKER_HOST") else {
        let rootless = environment
            .get("XDG_RUNTIME_DIR")
            .map(|folder| Path::new(folder).join("docker.sock"))
            .filter(|socket| !Path::new(SOCKET).exists() && socket.exists());
        let socket = rootless.unwrap_or_else(|| SOCKET.into());
        let endpoint = DockerEndpoint {
            name: "default".to_owned(),
            host: format!("unix://{}", socket.display()),
            tls: None,
        };
        return Ok((endpoint, false));
    };
    let wants_tls = environment.get("DOCKER_TLS_VERIFY").is_some();
    if !wants_tls && environment.get("DOCKER_TLS").is_some() {
        return Err(Failure::Usage(
            "DOCKER_TLS without DOCKER_TLS_VERIFY is not supported: a daemon that nobody verifies could be anybody"
                .to_owned(),
        ));
    }
    let tls = if wants_tls && !host.starts_with("unix://") {
        let folder = environment
            .get("DOCKER_CERT_PATH")
            .map(PathBuf::from)
            .or_else(|| folder.map(Path::to_owned));
        let folder = folder.ok_or_else(|| {
            Failure::Usage("DOCKER_TLS_VERIFY is set, and DOCKER_CERT_PATH is not".to_owned())
        })?;
        Some(tls_of(&folder))
    } else {
        None
    };
    let endpoint = DockerEndpoint {
        name: "DOCKER_HOST".to_owned(),
        host: host.to_owned(),
        tls,
    };
    Ok((endpoint, true))
}

fn tls_of(folder: &Path) -> DockerTls {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    DockerTls {
        ca: folder.join("ca.pem"),
        identity: certificate.exists().then_some((certificate, key)),
    }
}

fn current_context(folder: &Path) -> Option<String> {
    let config: Value = read_json(&folder.join("config.json"))?;
    let name = config["currentContext"].as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// A context of the docker client's, by name.
fn context(name: &str, folder: Option<&Path>) -> Result<DockerEndpoint, Failure> {
    let unknown = || {
        Failure::Other(format!(
            "docker context {name:?} is not known: `docker context ls` lists them"
        ))
    };
    let contexts = folder.ok_or_else(unknown)?.join("contexts");
    let entries = std::fs::read_dir(contexts.join("meta")).map_err(|_| unknown())?;
    for entry in entries.flatten() {
        let Some(meta) = read_json(&entry.path().join("meta.json")) else {
            continue;
        };
        if meta["Name"] != name {
            continue;
        }
        let endpoint = &meta["Endpoints"]["docker"];
        let host = endpoint["Host"].as_str().filter(|host| !host.is_empty());
        let Some(host) = host else {
            return Err(Failure::Other(format!(
                "docker context {name:?} has no docker endpoint"
            )));
        };
        let tls = contexts.join("tls").join(entry.file_name()).join("docker");
        let has_tls = tls.join("ca.pem").exists();
        if endpoint["SkipTLSVerify"] == true && !host.starts_with("unix://") {
            return Err(Failure::Other(format!(
                "docker context {name:?} skips the verification of certificates, which is not supported"
            )));
        }
        return Ok(DockerEndpoint {
            name: name.to_owned(),
            host: host.to_owned(),
            tls: has_tls.then(|| tls_of(&tls)),
        });
    }
    Err(unknown())
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn invalid(reason: &str) -> Failure {
    usage(format!("invalid value for '--output': {reason}"))
}
