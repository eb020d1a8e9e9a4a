//! `kiln login` and `kiln logout`.
//!
//! A login is tried out at the registry before it is kept: in the file of credentials, or with the helper that the
//! file names. What a password is goes nowhere else.

use super::print_line;
use crate::args::{LoginArgs, LogoutArgs, RegistryArgs};
use crate::environment::Environment;
use crate::error::Failure;
use crate::prompt;
use crate::registry_options;
use executor::remote::Remote;
use planner::scheduler::Cancel;
use registry_client::{
    ClientOptions, Credential, CredentialFile, CredentialSource, HelperSettings, Kept, Secret,
};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Docker's registry, as references name it.
const DOCKER: &str = "docker.io";
/// Longest password read from standard input, in bytes.
const PASSWORD_LIMIT: u64 = 64 * 1024;

/// Logs in.
pub fn run(args: &LoginArgs, environment: &Environment) -> Result<(), Failure> {
    check(args)?;
    let registry = registry_name(args.server.as_deref().unwrap_or_default())?;
    let options = options(&args.registry, environment)?;
    let path = file_path(&args.registry, environment)?;
    let file = CredentialFile::open(&path, helpers(&options))?;
    if args.get_login {
        return match file.credential(&registry)? {
            Some(Credential::Password { username, .. }) => {
                print_line(&username);
                Ok(())
            }
            Some(_) => {
                print_line("<token>");
                Ok(())
            }
            None => Err(Failure::Other(format!("not logged into {registry}"))),
        };
    }
    let remote = Remote::new(&options, &Cancel::default());
    let known = file.credential(&registry)?;
    if asks_for_known(args)
        && let Some(known) = &known
    {
        tell(args, "Authenticating with existing credentials...");
        match remote.login(&registry, known) {
            Ok(_) => {
                tell(args, "Login Succeeded");
                return Ok(());
            }
            Err(error) => {
                let failure = Failure::from(error);
                if !prompt::available() {
                    return Err(failure);
                }
                tell(args, "Login did not succeed; asking for other credentials");
            }
        }
    }
    let credential = asked(args, known.as_ref(), &registry)?;
    let accepted = remote.login(&registry, &credential)?;
    if accepted.unasked {
        warn(&format!(
            "{registry} asks for no credentials, so these were not tried"
        ));
    }
    let kept = match accepted.identity_token {
        Some(token) => Credential::Identity(token),
        None => credential,
    };
    keep(file, &registry, &kept)?;
    for other in earlier_files(&args.registry, environment, &path, &options, &registry)? {
        warn(&format!(
            "{} has credentials for {registry} too, and is looked at first",
            other.display()
        ));
    }
    tell(args, "Login Succeeded");
    Ok(())
}

/// Logs out.
pub fn logout(args: &LogoutArgs, environment: &Environment) -> Result<(), Failure> {
    let options = options(&args.registry, environment)?;
    let path = file_path(&args.registry, environment)?;
    let mut file = CredentialFile::open(&path, helpers(&options))?;
    if args.all {
        let mut removed = false;
        for registry in file.registries()? {
            removed |= file.erase(&registry)?;
        }
        if removed {
            file.save()?;
        }
        print_line("Removed login credentials for all registries");
        return Ok(());
    }
    let registry = registry_name(args.server.as_deref().unwrap_or_default())?;
    if file.erase(&registry)? {
        file.save()?;
        print_line(&format!("Removing login credentials for {registry}"));
    } else {
        print_line(&format!("Not logged in to {registry}"));
    }
    for other in earlier_files(&args.registry, environment, &path, &options, &registry)? {
        let flag = format!("kiln logout --authfile {}", other.display());
        warn(&format!(
            "{} still has credentials for {registry}; `{flag} {registry}` removes them",
            other.display()
        ));
    }
    Ok(())
}

fn check(args: &LoginArgs) -> Result<(), Failure> {
    let wrong = |text: &str| Err(Failure::Usage(text.to_owned()));
    if args.registry.creds.is_some() {
        return wrong("a login takes --username and --password-stdin, not --creds");
    }
    if args.password.is_some() && args.password_stdin {
        return wrong("--password and --password-stdin are mutually exclusive");
    }
    if args.password_stdin && args.username.as_ref().is_none_or(String::is_empty) {
        return wrong("must provide --username with --password-stdin");
    }
    if args.password.is_some() {
        warn("using --password via the CLI is insecure. Use --password-stdin");
    }
    Ok(())
}

/// Only who names neither user nor password may mean the login that is there.
fn asks_for_known(args: &LoginArgs) -> bool {
    args.username.is_none() && args.password.is_none() && !args.password_stdin
}

fn asked(
    args: &LoginArgs,
    known: Option<&Credential>,
    registry: &str,
) -> Result<Credential, Failure> {
    let no_terminal =
        || Failure::Other("cannot perform an interactive login from a non TTY device".to_owned());
    let stored = match known {
        Some(Credential::Password { username, .. }) => username.as_str(),
        _ => "",
    };
    let username = match &args.username {
        Some(username) => username.clone(),
        None => {
            let question = match stored {
                "" => format!("Username for {registry}: "),
                stored => format!("Username for {registry} ({stored}): "),
            };
            let answer = prompt::line(&question)?.ok_or_else(no_terminal)?;
            match answer.trim() {
                "" => stored.to_owned(),
                answer => answer.to_owned(),
            }
        }
    };
    if username.is_empty() {
        return Err(Failure::Usage("username is empty".to_owned()));
    }
    let password = if args.password_stdin {
        password_from_stdin()?
    } else if let Some(password) = &args.password {
        password.clone()
    } else {
        prompt::password("Password: ")?.ok_or_else(no_terminal)?
    };
    if password.is_empty() {
        return Err(Failure::Usage("password is empty".to_owned()));
    }
    Ok(Credential::Password { username, password })
}

fn password_from_stdin() -> Result<Secret, Failure> {
    let failed = |reason: &str| {
        Failure::Other(format!(
            "could not read the password from standard input: {reason}"
        ))
    };
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(PASSWORD_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error.to_string()))?;
    if bytes.len() as u64 > PASSWORD_LIMIT {
        return Err(failed("it is too long"));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
}

fn keep(mut file: CredentialFile, registry: &str, credential: &Credential) -> Result<(), Failure> {
    let path = file.path().to_owned();
    let kept = file.store(registry, credential)?;
    file.save()?;
    if kept == Kept::File {
        warn(&format!(
            "your credentials are stored unencrypted in '{}'. Configure a credential helper (credsStore) to remove this warning",
            path.display()
        ));
    }
    Ok(())
}

/// Files that builds look at before ours, and that have something for the registry.
fn earlier_files(
    args: &RegistryArgs,
    environment: &Environment,
    ours: &Path,
    options: &ClientOptions,
    registry: &str,
) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    if registry_options::auth_file(args, environment).is_some() {
        return Ok(found);
    }
    for source in &options.credentials {
        let CredentialSource::File { path, .. } = source else {
            continue;
        };
        if path == ours {
            break;
        }
        let file = CredentialFile::open(path, helpers(options))?;
        if file.credential(registry)?.is_some() {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn options(args: &RegistryArgs, environment: &Environment) -> Result<ClientOptions, Failure> {
    let without = RegistryArgs {
        creds: None,
        ..args.clone()
    };
    registry_options::client_options(&without, environment)
}

fn helpers(options: &ClientOptions) -> HelperSettings {
    HelperSettings {
        prepare: options.prepare_program,
        timeout: options.timeouts.helper,
    }
}

fn file_path(args: &RegistryArgs, environment: &Environment) -> Result<PathBuf, Failure> {
    if let Some(path) = registry_options::auth_file(args, environment) {
        return Ok(path);
    }
    let folder = environment.docker_config().ok_or_else(|| {
        let message = "no place for credentials: set HOME or DOCKER_CONFIG, or give --authfile";
        Failure::Usage(message.to_owned())
    })?;
    Ok(folder.join("config.json"))
}

/// `host[:port]`, with a `/path` for a part of a registry, from all that people give.
fn registry_name(server: &str) -> Result<String, Failure> {
    let server = server.trim();
    let url = ["https://", "http://"]
        .iter()
        .find_map(|scheme| server.strip_prefix(scheme));
    let rest = url.unwrap_or(server).trim_end_matches('/');
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let version = path == "v1" || path == "v2";
    let docker = ["", "docker.io", "index.docker.io", "registry-1.docker.io"];
    if docker.contains(&host) && (path.is_empty() || version) {
        return Ok(DOCKER.to_owned());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if host.is_empty() || !host.chars().all(fits) {
        return Err(Failure::Usage(format!(
            "{server:?} is not the name of a registry"
        )));
    }
    if url.is_some() || path.is_empty() || version {
        return Ok(host.to_owned());
    }
    Ok(rest.to_owned())
}

fn tell(args: &LoginArgs, line: &str) {
    if !args.quiet {
        print_line(line);
    }
}

#[expect(clippy::print_stderr, reason = "warnings are for people, not results")]
fn warn(text: &str) {
    eprintln!("WARNING: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_registries() {
        let cases = [
            ("", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("r.example", "r.example"),
            ("https://r.example:5000/", "r.example:5000"),
            ("http://r.example/v2/", "r.example"),
            ("https://r.example/any", "r.example"),
            ("r.example/v1", "r.example"),
            ("r.example/team/app", "r.example/team/app"),
            ("[::1]:5000", "[::1]:5000"),
        ];
        for (server, expected) in cases {
            assert_eq!(
                registry_name(server).ok().as_deref(),
                Some(expected),
                "{server}"
            );
        }
        for bad in ["a b", "user@host", "?x"] {
            assert!(registry_name(bad).is_err(), "{bad}");
        }
    }
}
