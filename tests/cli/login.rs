//! Logins, and builds from registries that want one: Debian's docker-registry over HTTPS with a private authority, with
//! client certificates, with passwords, and with a token service.

use crate::support::{Project, Run, able};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use testkit::{Authority, DockerRegistry, RegistrySetup, TokenServer, TokenSetup};

const USER: &str = "ann";
const PASSWORD: &str = "pass:word";
/// bcrypt of the password.
const HTPASSWD: &str = "ann:$2b$05$abcdefghijklmnopqrstuuDIEddBSuRWBBEY6g5zv60IAP5bSSfki\n";
/// The credentials as they are sent and kept.
const BASE64: &str = "YW5uOnBhc3M6d29yZA==";

/// A project whose home folder is its own.
struct Home {
    project: Project,
}

impl Home {
    fn new() -> Self {
        let project = Project::new("FROM scratch\n");
        fs::create_dir_all(project.path("home/.docker")).unwrap();
        Self { project }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.project.command(args);
        self.settle(&mut command);
        command
    }

    fn settle(&self, command: &mut Command) {
        command
            .env("HOME", self.project.path("home"))
            .env("XDG_RUNTIME_DIR", self.project.path("run"));
    }

    fn kiln(&self, args: &[&str]) -> Run {
        self.project.run(self.command(args))
    }

    /// Runs it without the terminal that the tests may have.
    fn away(&self, args: &[&str]) -> Run {
        let command = self.command(args);
        let mut away = Command::new("setsid");
        away.arg("-w").arg(command.get_program());
        away.args(command.get_args());
        away.current_dir(self.project.path("."));
        self.settle(&mut away);
        self.project.run(away)
    }

    /// `kiln login` with the password on standard input.
    fn login(&self, args: &[&str], password: &str) -> Run {
        let mut command = self.command(&["login", "-u", USER, "--password-stdin"]);
        command.args(args);
        self.project.run_with(command, password)
    }

    fn config(&self) -> PathBuf {
        self.project.path("home/.docker/config.json")
    }

    fn read(&self) -> String {
        fs::read_to_string(self.config()).unwrap()
    }

    /// Builds from an image of a registry.
    fn build_from(&self, image: &str, args: &[&str]) -> Run {
        self.project
            .write("Dockerfile", format!("FROM {image}\nLABEL built=yes\n"));
        let mut command = self.command(&["build", "--progress", "plain"]);
        command.args(args).arg("context");
        self.project.run(command)
    }

    fn helper(&self, name: &str, script: &str) {
        let path = self.project.path(&format!("bin/docker-credential-{name}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn search_path(&self) -> String {
        let path = std::env::var("PATH").unwrap();
        format!("{}:{path}", self.project.path("bin").display())
    }
}

pub fn htpasswd(folder: &Path) -> PathBuf {
    let path = folder.join("htpasswd");
    fs::write(&path, HTPASSWD).unwrap();
    path
}

/// Puts an image into a registry's storage as it lies on disk, which needs no push.
fn fill(registry: &DockerRegistry, repository: &str) {
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config_digest = testkit::digest_of(config);
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(), "digest": config_digest,
        },
        "layers": [],
    })
    .to_string();
    let manifest_digest = testkit::digest_of(manifest.as_bytes());
    let root = registry.storage().join("docker/registry/v2");
    let repository = root.join("repositories").join(repository);
    for (digest, bytes) in [
        (&config_digest, config.as_slice()),
        (&manifest_digest, manifest.as_bytes()),
    ] {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blob = root.join("blobs/sha256").join(&hex[..2]).join(hex);
        fs::create_dir_all(&blob).unwrap();
        fs::write(blob.join("data"), bytes).unwrap();
        let link = |folder: PathBuf| {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("link"), digest).unwrap();
        };
        link(repository.join("_layers/sha256").join(hex));
        if digest == &manifest_digest {
            link(repository.join("_manifests/revisions/sha256").join(hex));
            link(repository.join("_manifests/tags/1/current"));
            link(repository.join("_manifests/tags/1/index/sha256").join(hex));
        }
    }
}

/// Nothing that a run says is secret.
#[track_caller]
fn discreet(run: &Run, secrets: &[&str]) {
    let all = format!("{}{}", String::from_utf8_lossy(&run.stdout), run.stderr);
    for secret in secrets {
        assert!(!all.contains(secret), "{secret} in:\n{all}");
    }
}

#[test]
fn g01_password_registry() {
    let home = Home::new();
    let setup = RegistrySetup {
        htpasswd: Some(htpasswd(&home.project.path("home"))),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "team/app");
    let host = registry.host();
    let image = format!("{host}/team/app:1");
    let refused = home.build_from(&image, &[]).fails(
        1,
        &[
            "it offers only Basic authentication",
            &format!("kiln login {host}"),
        ],
    );
    discreet(&refused, &[PASSWORD, BASE64]);

    let wrong = home.login(&[&host], "wrong-secret\n");
    let wrong = wrong.fails(1, &["could not log in to", "401", "this login"]);
    discreet(&wrong, &["wrong-secret"]);
    assert!(!home.config().exists());

    fs::write(
        home.config(),
        "{\n\t\"zebra\": {\"b\": 1.5, \"a\": [true, null]},\n\t\"auths\": {\"other.example\": {\"auth\": \"eDp5\"}},\n\t\"detachKeys\": \"ctrl-e\"\n}",
    )
    .unwrap();
    let logged_in = home.login(&[&host], &format!("{PASSWORD}\n")).ok();
    assert_eq!(logged_in.text(), "Login Succeeded");
    assert!(
        logged_in.stderr.contains("stored unencrypted"),
        "{}",
        logged_in.stderr
    );
    let mode = fs::metadata(home.config()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let expected = format!(
        "{{\n\t\"zebra\": {{\n\t\t\"b\": 1.5,\n\t\t\"a\": [\n\t\t\ttrue,\n\t\t\tnull\n\t\t]\n\t}},\n\t\"auths\": {{\n\t\t\"other.example\": {{\n\t\t\t\"auth\": \"eDp5\"\n\t\t}},\n\t\t\"{host}\": {{\n\t\t\t\"auth\": \"{BASE64}\"\n\t\t}}\n\t}},\n\t\"detachKeys\": \"ctrl-e\"\n}}\n"
    );
    assert_eq!(home.read(), expected);
    assert_eq!(
        home.kiln(&["login", "--get-login", &host]).ok().text(),
        USER
    );
    // Those that are there are tried before anybody is asked.
    let again = home.kiln(&["login", &host]).ok();
    assert!(
        again.text().contains("existing credentials"),
        "{}",
        again.text()
    );
    home.build_from(&image, &["-t", "built"]).ok();

    let out = home.kiln(&["logout", &format!("https://{host}/")]).ok();
    assert_eq!(out.text(), format!("Removing login credentials for {host}"));
    assert!(!home.read().contains(&host) && home.read().contains("other.example"));
    let out = home.kiln(&["logout", &host]).ok();
    assert_eq!(out.text(), format!("Not logged in to {host}"));
    home.kiln(&["logout", "--all"]).ok();
    let left: Value = serde_json::from_str(&home.read()).unwrap();
    assert_eq!(left["auths"], serde_json::json!({}));
    assert_eq!(left["zebra"]["b"], 1.5);
}

#[test]
fn g01_credentials_from_flags_and_variables() {
    let home = Home::new();
    let setup = RegistrySetup {
        htpasswd: Some(htpasswd(&home.project.path("home"))),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "app");
    let host = registry.host();
    let image = format!("{host}/app:1");
    home.build_from(&image, &["--creds", "ann:pass:word"]).ok();
    let auths = format!(r#"{{"auths":{{"{host}":{{"auth":"{BASE64}"}}}}}}"#);
    let file = home.project.path("auth.json");
    fs::write(&file, &auths).unwrap();
    home.build_from(&image, &["--authfile", file.to_str().unwrap()])
        .ok();
    let cases: [&[(&str, &str)]; 4] = [
        &[("DOCKER_AUTH_CONFIG", &auths)],
        &[("REGISTRY_AUTH_FILE", file.to_str().unwrap())],
        &[
            ("CI_REGISTRY", &host),
            ("CI_REGISTRY_USER", USER),
            ("CI_REGISTRY_PASSWORD", PASSWORD),
        ],
        &[("KILN_ROOT", "")],
    ];
    for (number, variables) in cases.iter().enumerate() {
        let mut command = home.command(&["build", "--progress", "plain", "--pull"]);
        command.envs(variables.iter().copied()).arg("context");
        let run = home.project.run(command);
        match number {
            3 => run.fails(1, &["only Basic authentication"]),
            _ => run.ok(),
        };
    }
    for (path, expected) in [
        ("run/containers/auth.json", true),
        ("home/.config/containers/auth.json", true),
        ("home/.docker/auth.json", false),
        ("home/.docker/config.json", true),
    ] {
        let path = home.project.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &auths).unwrap();
        let run = home.build_from(&image, &["--pull"]);
        assert_eq!(
            run.status == 0,
            expected,
            "{}: {}",
            path.display(),
            run.stderr
        );
        fs::remove_file(path).unwrap();
    }
    // A mistake is told with the place that it is in, and nothing of what stands there.
    let missing = home.build_from(&image, &["--pull", "--authfile", "missing.json"]);
    missing.fails(1, &["could not read credentials from missing.json"]);
    let broken = format!(r#"{{"auths":{{"{host}":{{"auth":"secret%secret"}}}}}}"#);
    fs::write(&file, broken).unwrap();
    let run = home.build_from(&image, &["--pull", "--authfile", file.to_str().unwrap()]);
    let run = run.fails(
        1,
        &[&format!("auth.json for \"{host}\": its auth is not base64")],
    );
    discreet(&run, &["secret%secret"]);
    let run = home.build_from(&image, &["--pull", "--creds", "ann:wrong-secret"]);
    let run = run.fails(
        1,
        &["401", "with the credentials from --creds", "kiln login"],
    );
    discreet(&run, &["wrong-secret"]);
}

#[test]
fn g01_credential_helpers_keep_logins() {
    let home = Home::new();
    let setup = RegistrySetup {
        htpasswd: Some(htpasswd(&home.project.path("home"))),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "app");
    let host = registry.host();
    let kept = home.project.path("kept");
    home.helper(
        "test",
        &format!(
            "echo \"$1 $#\" >> {0}.log\ncase $1 in\nstore) cat > {0} ;;\nget) cat > {0}.server; cat {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }} ;;\nerase) cat > /dev/null; rm {0} ;;\nlist) echo '{{\"{host}\":\"ann\"}}' ;;\nesac",
            kept.display()
        ),
    );
    fs::write(home.config(), r#"{"credsStore":"test"}"#).unwrap();
    let with_helper = |mut command: Command, input: &str| {
        command.env("PATH", home.search_path());
        home.project.run_with(command, input)
    };
    let mut login = home.command(&["login", "-u", USER, "--password-stdin"]);
    login.arg(&host);
    let run = with_helper(login, PASSWORD).ok();
    assert!(!run.stderr.contains("unencrypted"), "{}", run.stderr);
    assert!(!home.read().contains(BASE64) && home.read().contains(&host));
    let stored: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    assert_eq!(stored["ServerURL"], host.as_str());
    assert_eq!(stored["Username"], USER);
    assert_eq!(stored["Secret"], PASSWORD);

    let image = format!("{host}/app:1");
    home.project.write("Dockerfile", format!("FROM {image}\n"));
    let build = || home.command(&["build", "--pull", "--progress", "plain", "context"]);
    with_helper(build(), "").ok();
    assert_eq!(
        fs::read_to_string(home.project.path("kept.server")).unwrap(),
        host
    );
    let log = fs::read_to_string(home.project.path("kept.log")).unwrap();
    assert!(log.lines().all(|line| line.ends_with(" 1")), "{log}");

    // One that is not installed is named, with the file that wants it.
    let run = home.project.run(build());
    run.fails(
        1,
        &[
            "docker-credential-test",
            "config.json names: the program is not installed",
        ],
    );
    with_helper(home.command(&["logout", &host]), "").ok();
    assert!(!kept.exists() && !home.read().contains(&host));
    with_helper(build(), "").fails(1, &["only Basic authentication"]);
}

#[test]
fn g01_token_service() {
    let home = Home::new();
    let setup = TokenSetup {
        users: vec![(USER.to_owned(), PASSWORD.to_owned())],
        ..TokenSetup::default()
    };
    let Some(tokens) = TokenServer::start(setup) else {
        return;
    };
    let setup = RegistrySetup {
        token: Some(tokens.service()),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "public/app");
    fill(&registry, "private/app");
    let host = registry.host();
    home.build_from(&format!("{host}/public/app:1"), &[]).ok();
    let private = format!("{host}/private/app:1");
    let refused = home.build_from(&private, &[]);
    refused.fails(
        1,
        &["401", &format!("may need a login: `kiln login {host}`")],
    );
    let wrong = home.login(&[&host], "wrong-secret");
    let wrong = wrong.fails(
        1,
        &["could not get a token for a login", "incorrect username"],
    );
    discreet(&wrong, &["wrong-secret"]);

    // The service gives a token to be kept instead of the password.
    home.login(&[&host], PASSWORD).ok();
    assert!(home.read().contains("refresh-secret-") && !home.read().contains(BASE64));
    let mut command = home.command(&["build", "--progress", "plain", "context"]);
    command.env("KILN_LOG", "trace");
    home.project
        .write("Dockerfile", format!("FROM {private}\n"));
    let run = home.project.run(command).ok();
    assert!(run.stderr.contains("credentials found"), "{}", run.stderr);
    discreet(&run, &["refresh-secret", "eyJ", BASE64, PASSWORD]);
    let posts = tokens.requests();
    let posts: Vec<_> = posts
        .iter()
        .filter(|request| request.method == "POST")
        .collect();
    assert_eq!(posts.len(), 1);
    let sent = testkit::pairs(&String::from_utf8_lossy(&posts[0].body));
    let field = |name: &str| sent.iter().find(|(key, _)| key == name).unwrap().1.clone();
    assert_eq!(field("grant_type"), "refresh_token");
    assert_eq!(field("scope"), "repository:private/app:pull");

    tokens.forget_refresh_tokens();
    let refused = home.build_from(&private, &["--pull"]);
    let refused = refused.fails(
        1,
        &[
            "401",
            "with the credentials from",
            "config.json",
            "replaces them",
        ],
    );
    discreet(&refused, &["refresh-secret", "eyJ"]);
    // A password typed for this command, all in one argument, is in no log either.
    let mut command = home.command(&["build", "--pull", "--creds", "ann:pass:word", "context"]);
    command.env("KILN_LOG", "trace");
    let run = home.project.run(command).ok();
    discreet(&run, &["eyJ", BASE64, PASSWORD]);
}

#[test]
fn g07_private_authority_and_client_certificate() {
    let home = Home::new();
    let Some(authority) = Authority::new() else {
        return;
    };
    let server = authority.server();
    let client = authority.client();
    let setup = RegistrySetup {
        tls: Some((server.certificate.clone(), server.key.clone())),
        client_cas: vec![authority.certificate()],
        htpasswd: Some(htpasswd(&home.project.path("home"))),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "app");
    let host = registry.host();
    let image = format!("{host}/app:1");
    let creds = ["--creds", "ann:pass:word"];
    let certs_d = home.project.path("home/.config/containers/certs.d");
    let folder = certs_d.join(&host);
    fs::create_dir_all(&folder).unwrap();

    // Without a certificate of our own.
    fs::copy(authority.certificate(), folder.join("ca.crt")).unwrap();
    let run = home.build_from(&image, &creds);
    run.fails(1, &["received fatal alert", "wants a client certificate"]);
    // Half a pair.
    fs::copy(&client.certificate, folder.join("client.cert")).unwrap();
    let run = home.build_from(&image, &creds);
    run.fails(1, &["client.cert: its key", "client.key is missing"]);
    fs::copy(&client.key, folder.join("client.key")).unwrap();
    home.build_from(&image, &creds).ok();
    home.login(&[&host], PASSWORD).ok();
    home.build_from(&image, &["--pull"]).ok();
    // Another authority is not enough.
    let Some(other) = Authority::new() else {
        return;
    };
    fs::copy(other.certificate(), folder.join("ca.crt")).unwrap();
    let run = home.build_from(&image, &["--pull"]);
    run.fails(1, &["invalid peer certificate", "certificate authority"]);
    home.build_from(&image, &["--pull", "--tls-verify=false"])
        .ok();

    // The same by flags.
    fs::remove_dir_all(&certs_d).unwrap();
    let run = home.build_from(&image, &["--pull", "--tls-verify=true"]);
    run.fails(1, &["UnknownIssuer"]);
    let named = format!("{host}={}", authority.certificate().display());
    let pair = format!(
        "{host}={},{}",
        client.certificate.display(),
        client.key.display()
    );
    let flags = [
        "--registry-certificate",
        &named,
        "--registry-client-cert",
        &pair,
    ];
    home.build_from(&image, &[&["--pull"], &flags[..]].concat())
        .ok();
    let folder = home.project.path("certificates");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(authority.certificate(), folder.join("any.crt")).unwrap();
    fs::copy(&client.certificate, folder.join("any.cert")).unwrap();
    fs::copy(&client.key, folder.join("any.key")).unwrap();
    let flags = ["--pull", "--cert-dir", folder.to_str().unwrap()];
    home.build_from(&image, &flags).ok();
    let run = home.build_from(&image, &["--pull", "--cert-dir", "nowhere"]);
    run.fails(1, &["could not read certificates from nowhere"]);
}

#[test]
fn g07_authority_in_a_variable() {
    let home = Home::new();
    let Some(authority) = Authority::new() else {
        return;
    };
    let server = authority.server();
    let setup = RegistrySetup {
        tls: Some((server.certificate, server.key)),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "app");
    let image = format!("{}/app:1", registry.host());
    home.project.write("Dockerfile", format!("FROM {image}\n"));
    let args = [
        "build",
        "--progress",
        "plain",
        "--tls-verify=true",
        "context",
    ];
    let mut command = home.command(&args);
    command.env("SSL_CERT_FILE", authority.certificate());
    home.project.run(command).ok();
    home.kiln(&args).ok(); // From the store, which has it now.
    let mut command = home.command(&args);
    command.arg("--pull");
    home.project.run(command).fails(1, &["UnknownIssuer"]);
}

#[test]
fn g01_login_arguments() {
    let home = Home::new();
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["login", "-p", "x", "--password-stdin"],
            2,
            "mutually exclusive",
        ),
        (&["login", "--password-stdin"], 2, "must provide --username"),
        (
            &["login", "-u", "x", "-p", "y", "a b"],
            2,
            "not the name of a registry",
        ),
        (&["login", "--creds", "x:y"], 2, "not --creds"),
        (
            &["login", "--get-login", "r.example"],
            1,
            "not logged into r.example",
        ),
        (&["logout", "--all", "r.example"], 2, "cannot be used with"),
    ];
    for (args, status, says) in cases {
        home.kiln(args).fails(status, &[says]);
    }
    let run = home.login(&["127.0.0.1:1"], "");
    run.fails(2, &["password is empty"]);
    let run = home.away(&["login", "127.0.0.1:1"]);
    run.fails(
        1,
        &["cannot perform an interactive login from a non TTY device"],
    );
    let run = home.login(&["--retry", "0", "127.0.0.1:1"], "x");
    run.fails(1, &["could not log in to 127.0.0.1:1"]);
}

/// Answers the questions of a command that has a terminal. Gives all that the terminal showed.
fn at_terminal(home: &Home, args: &[&str], answers: &[(&str, &str)]) -> (bool, String) {
    let command = home.command(args);
    let line: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut script = Command::new("script");
    script.args(["-qefc", &line.join(" "), "/dev/null"]);
    script.current_dir(home.project.path("."));
    home.settle(&mut script);
    let mut child = script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut left = answers.iter();
    let mut next = left.next();
    let mut buffer = [0; 4096];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => shown.extend_from_slice(&buffer[..length]),
        }
        if let Some((question, answer)) = next
            && String::from_utf8_lossy(&shown).contains(question)
        {
            stdin.write_all(format!("{answer}\n").as_bytes()).unwrap();
            next = left.next();
        }
    }
    let ended = child.wait().unwrap().success();
    (ended, String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn g01_passwords_are_asked_for_without_showing_them() {
    let has_script = Command::new("script").arg("--version").output().is_ok();
    if !able(has_script, "script of util-linux") {
        return;
    }
    let home = Home::new();
    let setup = RegistrySetup {
        htpasswd: Some(htpasswd(&home.project.path("home"))),
        ..RegistrySetup::default()
    };
    let Some(registry) = DockerRegistry::start(&setup) else {
        return;
    };
    fill(&registry, "app");
    let host = registry.host();
    let answers = [("Username for", USER), ("Password: ", PASSWORD)];
    let (ended, shown) = at_terminal(&home, &["login", &host], &answers);
    assert!(ended && shown.contains("Login Succeeded"), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    assert!(home.read().contains(BASE64));
    // What is kept is no longer right, so both are asked for again; the name is offered.
    let old = home.read().replace(BASE64, "YW5uOm9sZA==");
    fs::write(home.config(), old).unwrap();
    let answers = [("Username for", ""), ("Password: ", PASSWORD)];
    let (ended, shown) = at_terminal(&home, &["login", &host], &answers);
    assert!(ended && shown.contains("(ann): "), "{shown}");
    assert!(home.read().contains(BASE64));

    home.kiln(&["logout", &host]).ok();
    home.project
        .write("Dockerfile", format!("FROM {host}/app:1\n"));
    let args = ["build", "--progress", "plain", "--creds", USER, "context"];
    let (ended, shown) = at_terminal(&home, &args, &[("Password: ", PASSWORD)]);
    assert!(ended && !shown.contains(PASSWORD), "{shown}");
    home.away(&args).fails(2, &["no terminal to ask on"]);
}
