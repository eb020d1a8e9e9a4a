//! Where credentials are found, and that nobody sees them whom they are not for.

use crate::support::{chain, quick};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use registry_client::{
    Client, ClientOptions, Credential, CredentialFile, CredentialSource, Error, HelperSettings,
    Kept, Login, Reference, Secret, Timeouts,
};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::http::{Answer, Request, Web};

const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

/// A registry with empty images that takes any password.
fn open_registry() -> Web {
    Web::start(|request| {
        if request.header("authorization").is_none() {
            return Answer::status(401).with("WWW-Authenticate", "Basic realm=\"test\"");
        }
        Answer::ok(INDEX).with("Content-Type", "application/vnd.oci.image.index.v1+json")
    })
}

fn json(name: &str, text: &str) -> CredentialSource {
    CredentialSource::Json {
        name: name.to_owned(),
        text: Secret::new(text),
    }
}

fn login(name: &str, registry: Option<&str>, pair: (&str, &str)) -> CredentialSource {
    CredentialSource::Login {
        name: name.to_owned(),
        registry: registry.map(str::to_owned),
        login: Login {
            username: pair.0.to_owned(),
            password: Secret::new(pair.1),
        },
    }
}

fn with(credentials: Vec<CredentialSource>) -> ClientOptions {
    ClientOptions {
        credentials,
        ..quick()
    }
}

/// Asks for an image; gives the credentials that the registry saw with it.
async fn shown(
    registry: &Web,
    options: ClientOptions,
    repository: &str,
) -> Result<Option<String>, Error> {
    let name = format!("{}/{repository}:1", registry.authority());
    let before = registry.requests().len();
    let name = Reference::parse(&name).unwrap();
    Client::new(options).manifest(&name, None).await?;
    let requests = registry.requests();
    let manifest = |request: &&Request| request.path.contains("/manifests/");
    let request = requests[before..].iter().find(manifest).unwrap();
    let header = request.header("authorization").unwrap();
    let pair = STANDARD.decode(header.strip_prefix("Basic ").unwrap());
    Ok(Some(String::from_utf8(pair.unwrap()).unwrap()))
}

fn auth(pair: &str) -> String {
    format!("{{\"auth\":\"{}\"}}", STANDARD.encode(pair))
}

/// Files with an entry for `team/app` of a host, and what of it is shown.
fn entries(host: &str, good: &str, other: &str) -> Vec<(&'static str, String, &'static str)> {
    vec![
        (
            "host",
            format!(r#"{{"auths":{{"{host}":{good}}}}}"#),
            "me:pw",
        ),
        (
            "url",
            format!(r#"{{"auths":{{"https://{host}/v1/":{good}}}}}"#),
            "me:pw",
        ),
        (
            "version",
            format!(r#"{{"auths":{{"{host}/v2/":{good}}}}}"#),
            "me:pw",
        ),
        (
            "exact before others",
            format!(r#"{{"auths":{{"http://{host}":{other},"{host}":{good}}}}}"#),
            "me:pw",
        ),
        (
            "repository before host",
            format!(r#"{{"auths":{{"{host}":{other},"{host}/team":{good}}}}}"#),
            "me:pw",
        ),
        (
            "longest",
            format!(r#"{{"auths":{{"{host}/team/app":{good},"{host}/team":{other}}}}}"#),
            "me:pw",
        ),
        (
            "whole words",
            format!(r#"{{"auths":{{"{host}/tea":{other},"{host}":{good}}}}}"#),
            "me:pw",
        ),
        (
            "plain",
            format!(r#"{{"auths":{{"{host}":{{"username":"me","password":"p:w"}}}}}}"#),
            "me:p:w",
        ),
        (
            "auth before plain",
            format!(
                r#"{{"auths":{{"{host}":{{"auth":"{}","username":"x","password":"y"}}}}}}"#,
                STANDARD.encode("me:pw")
            ),
            "me:pw",
        ),
        (
            "no padding",
            format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6cA"}}}}}}"#),
            "me:p",
        ),
        (
            "zeros at the end",
            format!(r#"{{"auths":{{"{host}":{}}}}}"#, auth("me:pw\0\0")),
            "me:pw",
        ),
        (
            "empty entry",
            format!(r#"{{"auths":{{"{host}":{{}},"https://{host}":{good}}}}}"#),
            "me:pw",
        ),
        (
            "twice",
            format!(r#"{{"auths":{{"{host}":{other},"{host}":{good}}}}}"#),
            "me:pw",
        ),
        (
            "other keys",
            format!(r#"{{"HttpHeaders":{{"X":"y"}},"auths":{{"{host}":{good}}},"credsStore":""}}"#),
            "me:pw",
        ),
    ]
}

#[tokio::test]
async fn g01_entries_of_files() {
    let registry = open_registry();
    let host = registry.authority();
    let good = auth("me:pw");
    for (name, text, expected) in entries(&host, &good, &auth("other:pw")) {
        let options = with(vec![json("VARIABLE", &text)]);
        let seen = shown(&registry, options, "team/app").await;
        let seen = seen.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        assert_eq!(seen.as_deref(), Some(expected), "{name}");
    }
    for text in [
        String::new(),
        "{}".to_owned(),
        r#"{"auths":null}"#.to_owned(),
        format!(r#"{{"auths":{{"other.example":{good}}}}}"#),
        format!(r#"{{"auths":{{"{host}0":{good}}}}}"#),
    ] {
        let error = shown(&registry, with(vec![json("VARIABLE", &text)]), "app").await;
        assert!(
            matches!(error, Err(Error::LoginRequired { .. })),
            "{text}: {error:?}"
        );
    }
}

#[tokio::test]
async fn g01_first_place_wins() {
    let registry = open_registry();
    let host = registry.authority();
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let file = |name: &str, key: &str, pair: &str| {
        fs::write(
            path(name),
            format!(r#"{{"auths":{{"{key}":{}}}}}"#, auth(pair)),
        )
        .unwrap();
        CredentialSource::File {
            path: path(name),
            required: false,
        }
    };
    let part = format!("{host}/team");
    let sources = vec![
        login("elsewhere", Some("r.example"), ("no", "no")),
        file("missing.json", "r.example", "no:no"),
        file("auth.json", &part, "team:pw"),
        file("config.json", &host, "all:pw"),
        login("GITLAB", Some(&format!("https://{host}/")), ("last", "pw")),
    ];
    fs::remove_file(path("missing.json")).unwrap();
    let see = |repository: &'static str, sources: &[CredentialSource]| {
        let options = with(sources.to_vec());
        let registry = &registry;
        async move { shown(registry, options, repository).await.unwrap().unwrap() }
    };
    assert_eq!(see("team/app", &sources).await, "team:pw");
    // Podman's file names a part of the registry alone.
    assert_eq!(see("other/app", &sources).await, "all:pw");
    assert_eq!(see("app", &sources[4..]).await, "last:pw");
    // Docker's client takes a key with a path for the whole registry.
    assert_eq!(
        see("other", &[file("config.json", &part, "docker:pw")]).await,
        "docker:pw"
    );
    let flag = login("--creds", None, ("flag", "pw"));
    assert_eq!(
        see("team/app", &[vec![flag], sources].concat()).await,
        "flag:pw"
    );
}

/// Files that make no sense for a host, and what is said of them.
fn mistakes(host: &str) -> Vec<(String, &'static str)> {
    vec![
        (
            "{\"auths\": hidden}".to_owned(),
            "VARIABLE: it is not JSON (line 1, column 11)",
        ),
        (
            "[\"hidden\"]".to_owned(),
            "VARIABLE: it is not a JSON object",
        ),
        (
            r#"{"auths":["hidden"]}"#.to_owned(),
            "VARIABLE for \"auths\": it is not an object",
        ),
        (
            format!(r#"{{"auths":{{"{host}":"hidden"}}}}"#),
            "it is not an object",
        ),
        (
            format!(r#"{{"auths":{{"{host}":{{"auth":"hidden!"}}}}}}"#),
            "its auth is not base64",
        ),
        (
            format!(r#"{{"auths":{{"{host}":{{"auth":"aGlkZGVu"}}}}}}"#),
            "its auth is not user:password in base64",
        ),
        (
            format!(r#"{{"auths":{{"{host}":{{"auth":"//8="}}}}}}"#),
            "its auth is not text in base64",
        ),
        (
            format!(r#"{{"auths":{{"{host}":{{"username":["hidden"]}}}}}}"#),
            "its username is not a text",
        ),
        (
            r#"{"credsStore":["hidden"]}"#.to_owned(),
            "\"credsStore\": it is not a text",
        ),
        (
            format!(r#"{{"credHelpers":{{"{host}":7}}}}"#),
            "its helper is not a text",
        ),
        (
            format!(r#"{{"credHelpers":{{"{host}":"../hidden"}}}}"#),
            "its name cannot be that of a program",
        ),
        (
            format!(r#"{{"credHelpers":{{"{host}":"not-there"}}}}"#),
            "docker-credential-not-there, which VARIABLE names: the program is not installed",
        ),
    ]
}

#[tokio::test]
async fn g01_mistakes_are_told_without_secrets() {
    let registry = open_registry();
    let host = registry.authority();
    for (text, expected) in mistakes(&host) {
        let options = with(vec![json("VARIABLE", &text)]);
        let error = shown(&registry, options, "app").await.unwrap_err();
        let told = chain(&error);
        assert!(told.contains(expected), "{told}");
        let told = told.replace("docker-credential-../hidden", "");
        assert!(
            !told.contains("hidden") && !told.contains("aGlkZGVu"),
            "{told}"
        );
    }
    // What is not needed need not be right.
    let text = r#"{"auths":{"other.example":{"auth":"!"}}}"#;
    let error = shown(&registry, with(vec![json("V", text)]), "app").await;
    assert!(
        matches!(error, Err(Error::LoginRequired { .. })),
        "{error:?}"
    );
    let missing = CredentialSource::File {
        path: "/nowhere/auth.json".into(),
        required: true,
    };
    let error = shown(&registry, with(vec![missing]), "app")
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("/nowhere/auth.json"),
        "{}",
        chain(&error)
    );
}

/// The folder with the helpers of these tests.
fn helpers() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = TempDir::new().unwrap();
        let scripts = [
            (
                "good",
                r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"me\",\"Secret\":\"$s\"}""#,
            ),
            (
                "none",
                "cat > /dev/null; echo credentials not found in native keychain; exit 1",
            ),
            (
                "broken",
                "cat > /dev/null; echo the keychain is locked; echo hidden; exit 1",
            ),
            ("silent", "exit 3"),
            ("odd", r#"echo '{"Secret":"hidden"}'; exit 1"#),
            ("garbage", "echo hidden"),
            ("slow", "exec sleep 60"),
            ("flood", "yes noise"),
        ];
        for (name, script) in scripts {
            let path = folder.path().join(format!("docker-credential-{name}"));
            fs::write(
                &path,
                format!("#!/bin/sh\n[ \"$1\" = get ] || exit 9\n{script}\n"),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        folder
    });
    folder.path()
}

fn find_helpers(command: &mut Command) {
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", helpers().display()));
}

fn helped(text: &str) -> ClientOptions {
    ClientOptions {
        prepare_program: Some(find_helpers),
        timeouts: Timeouts {
            helper: Duration::from_secs(3),
            ..quick().timeouts
        },
        ..with(vec![json("VARIABLE", text)])
    }
}

#[tokio::test]
async fn g01_helpers_are_asked() {
    let registry = open_registry();
    let host = registry.authority();
    let good = auth("file:pw");
    let own = format!(r#"{{"credHelpers":{{"{host}":"good"}},"credsStore":"silent"}}"#);
    let seen = shown(&registry, helped(&own), "app").await.unwrap();
    assert_eq!(seen, Some(format!("me:{host}")));
    let general = r#"{"credsStore":"good"}"#;
    let seen = shown(&registry, helped(general), "app").await.unwrap();
    assert_eq!(seen, Some(format!("me:{host}")));
    // The file is asked where the helper knows nothing, and before it for a part of the registry.
    let both = format!(r#"{{"auths":{{"{host}":{good}}},"credsStore":"none"}}"#);
    let seen = shown(&registry, helped(&both), "app").await.unwrap();
    assert_eq!(seen.as_deref(), Some("file:pw"));
    let part = format!(r#"{{"auths":{{"{host}/app":{good}}},"credsStore":"silent"}}"#);
    let seen = shown(&registry, helped(&part), "app").await.unwrap();
    assert_eq!(seen.as_deref(), Some("file:pw"));
    // An empty name turns the general one off.
    let off = format!(r#"{{"credHelpers":{{"{host}":""}},"credsStore":"silent"}}"#);
    let error = shown(&registry, helped(&off), "app").await;
    assert!(
        matches!(error, Err(Error::LoginRequired { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn g01_helpers_that_fail() {
    let registry = open_registry();
    let cases = [
        ("broken", "the keychain is locked"),
        ("silent", "exit status: 3"),
        ("odd", "exit status: 1"),
        ("garbage", "its answer is not JSON"),
        ("slow", "it did not answer within 3 seconds"),
        ("flood", "docker-credential-flood"),
    ];
    for (name, expected) in cases {
        let options = helped(&format!(r#"{{"credsStore":"{name}"}}"#));
        let started = Instant::now();
        let error = shown(&registry, options, "app").await.unwrap_err();
        let told = chain(&error);
        let start = format!("could not get credentials of {}", registry.authority());
        assert!(
            told.starts_with(&start) && told.contains(expected),
            "{told}"
        );
        assert!(
            told.contains("which VARIABLE names") && !told.contains("hidden"),
            "{told}"
        );
        assert!(started.elapsed() < Duration::from_secs(20), "{name}");
    }
}

fn settings() -> HelperSettings {
    HelperSettings {
        prepare: Some(find_helpers),
        timeout: Duration::from_secs(3),
    }
}

fn opened(path: &Path) -> CredentialFile {
    CredentialFile::open(path, settings()).unwrap()
}

fn password(username: &str, password: &str) -> Credential {
    Credential::Password {
        username: username.to_owned(),
        password: Secret::new(password),
    }
}

#[test]
fn g01_logins_are_kept_in_files() {
    let folder = TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("new/config.json");
    for (registry, key) in [
        ("docker.io", "https://index.docker.io/v1/"),
        ("r.example:5000", "r.example:5000"),
        ("r.example/team", "r.example/team"),
    ] {
        let mut file = opened(&path);
        assert_eq!(file.credential(registry).unwrap(), None);
        let kept = file.store(registry, &password("me", "p:w")).unwrap();
        assert_eq!(kept, Kept::File);
        file.save().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(&format!("\"{key}\": {{\n\t\t\t\"auth\": \"bWU6cDp3\"")),
            "{text}"
        );
        let kept = opened(&path).credential(registry).unwrap();
        assert_eq!(kept, Some(password("me", "p:w")));
    }
    let modes = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (modes(&path), modes(path.parent().unwrap())),
        (0o600, 0o700)
    );
    let token = Credential::Identity(Secret::new("hidden"));
    let mut file = opened(&path);
    file.store("docker.io", &token).unwrap();
    assert!(!format!("{file:?} {token:?}").contains("hidden"));
    file.save().unwrap();
    assert_eq!(opened(&path).credential("docker.io").unwrap(), Some(token));
    assert_eq!(opened(&path).registries().unwrap().len(), 3);

    // A link stays one, and an older spelling of the same registry is replaced.
    let link = folder.path().join("link.json");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let old = format!(
        r#"{{"auths":{{"https://r.example/v1/":{},"a":{{}}}},"x":1}}"#,
        auth("old:pw")
    );
    fs::write(&path, old).unwrap();
    let mut file = opened(&link);
    file.store("r.example", &password("me", "pw")).unwrap();
    file.save().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("\"https://r.example/v1/\"") && !text.contains("\"r.example\""),
        "{text}"
    );
    assert!(
        text.contains("\"a\": {}") && text.contains("\"x\": 1"),
        "{text}"
    );
    fs::write(
        &path,
        text.replace(
            "\"a\"",
            "\"https://r.example/v1/\": {\"auth\": \"b2xkOnB3\"}, \"a\"",
        ),
    )
    .unwrap();
    let mut file = opened(&link);
    file.store("r.example", &password("me", "pw2")).unwrap();
    file.save().unwrap();
    let found = opened(&link).credential("r.example").unwrap();
    assert_eq!(found, Some(password("me", "pw2")));
    let mut file = opened(&link);
    assert!(file.erase("r.example").unwrap() && !file.erase("r.example").unwrap());
    file.save().unwrap();
    assert_eq!(opened(&path).registries().unwrap(), ["a"]);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Files of any content are read without a panic, and what they say in errors is no value of theirs.
    #[test]
    fn any_file_can_be_read(
        text in "(\\{|\\}|\"auths\"|\"auth\"|\"credHelpers\"|:|,|\"r.example\"|\"[a-zA-Z=/.]{0,9}\"|\\[|\\]|null|[0-9]|\\PC){0,30}"
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, &text).unwrap();
        if let Ok(file) = CredentialFile::open(&path, settings()) {
            let _ = file.registries();
            if !text.contains("cred") {
                let _ = file.credential("r.example/team");
            }
        }
    }

    /// What was kept is found again, whatever else is in the file.
    #[test]
    fn logins_are_found_again(
        name in "[a-zA-Z0-9_.@-]{1,12}",
        secret in "\\PC{1,20}",
        others in proptest::collection::btree_map("[a-z]{1,5}\\.example(/[a-z]{1,3})?", "[a-z]{1,5}", 0..5),
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("config.json");
        let mut file = opened(&path);
        for (registry, user) in &others {
            file.store(registry, &password(user, "pw")).unwrap();
        }
        file.store("own.example:5000", &password(&name, &secret)).unwrap();
        file.save().unwrap();
        let file = opened(&path);
        prop_assert_eq!(file.credential("own.example:5000").unwrap(), Some(password(&name, &secret)));
        for (registry, user) in &others {
            prop_assert_eq!(file.credential(registry).unwrap(), Some(password(user, "pw")));
        }
    }
}
