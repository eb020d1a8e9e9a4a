//! How registries are reached, from flags and the environment. No file is read here.
//!
//! Credentials are looked for in this order, and the first place that has some for a repository wins: `--creds`,
//! `DOCKER_AUTH_CONFIG` (the content of a config.json), then the files. These are the one of `--authfile` or else of
//! `REGISTRY_AUTH_FILE` alone, or else those of Podman (`$XDG_RUNTIME_DIR/containers/auth.json`,
//! `~/.config/containers/auth.json`) and of Docker (`$DOCKER_CONFIG/config.json`, `~/.docker/config.json`). Last come
//! the variables that GitLab sets for its own registry.

use crate::args::RegistryArgs;
use crate::environment::Environment;
use crate::error::Failure;
use crate::prompt;
use registry_client::{
    CertificateOptions, ClientOptions, CredentialSource, Login, RetryPolicy, Secret,
};
use std::path::PathBuf;

/// The settings of a client. Asks for the password of `--creds` where it has none.
pub fn client_options(
    args: &RegistryArgs,
    environment: &Environment,
) -> Result<ClientOptions, Failure> {
    let proxy = |name: &str| {
        let value = environment.get(name);
        value
            .or_else(|| environment.get(&name.to_lowercase()))
            .map(str::to_owned)
    };
    Ok(ClientOptions {
        http_proxy: proxy("HTTP_PROXY"),
        https_proxy: proxy("HTTPS_PROXY"),
        no_proxy: proxy("NO_PROXY"),
        registries_conf: environment.registries_conf(),
        registries_conf_dirs: environment.registries_conf_dirs(),
        short_name_aliases: environment.short_name_aliases(),
        policy: environment.policy(),
        insecure: args.insecure_registries.clone(),
        insecure_all: args.insecure || args.tls_verify == Some(false),
        verify_loopback: args.tls_verify == Some(true) && !args.insecure,
        credentials: credentials(args, environment)?,
        certificates: certificates(args, environment),
        prepare_program: Some(sandbox::end_with_caller),
        retry: retry(args),
        user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..ClientOptions::default()
    })
}

fn retry(args: &RegistryArgs) -> RetryPolicy {
    let mut policy = RetryPolicy::default();
    if let Some(retries) = args.retry {
        policy.attempts = retries.saturating_add(1);
    }
    if let Some(delay) = args.retry_delay {
        policy.base = delay;
        policy.max = delay;
    }
    policy
}

fn credentials(
    args: &RegistryArgs,
    environment: &Environment,
) -> Result<Vec<CredentialSource>, Failure> {
    let mut sources = Vec::new();
    if let Some(creds) = &args.creds {
        sources.push(CredentialSource::Login {
            name: "--creds".to_owned(),
            registry: None,
            login: login(&creds.username, creds.password.as_ref())?,
        });
    }
    if let Some(text) = environment.get("DOCKER_AUTH_CONFIG") {
        sources.push(CredentialSource::Json {
            name: "DOCKER_AUTH_CONFIG".to_owned(),
            text: Secret::new(text),
        });
    }
    let files = match auth_file(args, environment) {
        Some(path) => vec![CredentialSource::File {
            path,
            required: args.authfile.is_some(),
        }],
        None => default_files(environment),
    };
    sources.extend(files);
    for (host, user, password) in [
        ("CI_REGISTRY", "CI_REGISTRY_USER", "CI_REGISTRY_PASSWORD"),
        (
            "CI_DEPENDENCY_PROXY_SERVER",
            "CI_DEPENDENCY_PROXY_USER",
            "CI_DEPENDENCY_PROXY_PASSWORD",
        ),
    ] {
        let values = [host, user, password].map(|name| environment.get(name));
        if let [Some(registry), Some(username), Some(password)] = values {
            sources.push(CredentialSource::Login {
                name: user.to_owned(),
                registry: Some(registry.to_owned()),
                login: Login {
                    username: username.to_owned(),
                    password: Secret::new(password),
                },
            });
        }
    }
    Ok(sources)
}

/// The one file of credentials, if flag or variable name one.
pub fn auth_file(args: &RegistryArgs, environment: &Environment) -> Option<PathBuf> {
    let variable = || environment.get("REGISTRY_AUTH_FILE").map(PathBuf::from);
    args.authfile.clone().or_else(variable)
}

fn default_files(environment: &Environment) -> Vec<CredentialSource> {
    let runtime = match environment.get("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join("containers"),
        None => {
            PathBuf::from("/run/containers").join(rustix::process::getuid().as_raw().to_string())
        }
    };
    let config = environment
        .config_home()
        .map(|folder| folder.join("containers"));
    let podman = [Some(runtime), config].into_iter().flatten();
    let podman = podman.map(|folder| folder.join("auth.json"));
    let docker = environment
        .docker_config()
        .map(|folder| folder.join("config.json"));
    podman
        .chain(docker)
        .map(|path| CredentialSource::File {
            path,
            required: false,
        })
        .collect()
}

/// A login whose password may have to be asked for.
pub fn login(username: &str, password: Option<&Secret>) -> Result<Login, Failure> {
    if username.is_empty() {
        let message = "invalid value for '--creds': the user name is empty";
        return Err(Failure::Usage(message.to_owned()));
    }
    let password = match password {
        Some(password) => password.clone(),
        None => prompt::password("Password: ")?.ok_or_else(|| {
            Failure::Usage("'--creds' has no password, and there is no terminal to ask on".into())
        })?,
    };
    Ok(Login {
        username: username.to_owned(),
        password,
    })
}

fn certificates(args: &RegistryArgs, environment: &Environment) -> CertificateOptions {
    let user = environment.config_home().into_iter().flat_map(|folder| {
        [
            folder.join("containers/certs.d"),
            folder.join("docker/certs.d"),
        ]
    });
    let docker = environment
        .docker_config()
        .map(|folder| folder.join("certs.d"));
    let system = ["/etc/containers", "/etc/docker", "/etc/containerd"]
        .map(|folder| PathBuf::from(folder).join("certs.d"));
    CertificateOptions {
        folder: args.cert_dir.clone(),
        certs_d: user.chain(docker).chain(system).collect(),
        authorities: args.registry_certificates.clone(),
        clients: args.registry_client_certificates.clone(),
    }
}
