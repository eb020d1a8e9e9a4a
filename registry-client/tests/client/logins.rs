//! From a registry's demand and the user's credentials to a request that is let in.

use crate::push::memory;
use crate::support::{chain, noise, quick};
use registry_client::{
    BlobSource, Client, ClientOptions, Credential, CredentialSource, Error, Login, PushedHow,
    Reference, Secret,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testkit::http::{Answer, Request, Web};
use testkit::registry::sha256;
use testkit::{DockerRegistry, RegistrySetup, TokenServer, TokenSetup, pairs};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn index() -> Answer {
    Answer::ok(INDEX).with("Content-Type", "application/vnd.oci.image.index.v1+json")
}

fn flag(username: &str, password: &str) -> CredentialSource {
    CredentialSource::Login {
        name: "--creds".to_owned(),
        registry: None,
        login: Login {
            username: username.to_owned(),
            password: Secret::new(password),
        },
    }
}

/// As a file would say it for this registry.
fn stored(host: &str, entry: &str) -> CredentialSource {
    CredentialSource::Json {
        name: "/home/me/config.json".to_owned(),
        text: Secret::new(format!(r#"{{"auths":{{"{host}":{entry}}}}}"#)),
    }
}

fn client(credentials: Vec<CredentialSource>) -> Client {
    Client::new(ClientOptions {
        credentials,
        ..quick()
    })
}

fn reference(host: &str, name: &str) -> Reference {
    Reference::parse(&format!("{host}/{name}")).unwrap()
}

fn ann() -> Vec<(String, String)> {
    vec![("ann".to_owned(), "hidden".to_owned())]
}

/// A registry with a token service of its own; `None` without the programs it takes.
fn started(setup: TokenSetup) -> Option<(TokenServer, DockerRegistry)> {
    let tokens = TokenServer::start(setup)?;
    let setup = RegistrySetup {
        token: Some(tokens.service()),
        ..RegistrySetup::default()
    };
    let registry = DockerRegistry::start(&setup)?;
    Some((tokens, registry))
}

/// Pushes an image of these layers, and says how each layer came there.
async fn push(
    client: &Client,
    name: &Reference,
    layers: &[Arc<dyn BlobSource>],
    from: &[Reference],
) -> Result<Vec<PushedHow>, Error> {
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    client.push_blob(name, &memory(&config[..]), &[]).await?;
    let mut how = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let pushed = client.push_blob(name, layer, from).await?;
        how.push(pushed.how);
        descriptors.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "size": pushed.size, "digest": pushed.digest.to_string(),
        }));
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(), "digest": sha256(config),
        },
    });
    let bytes = manifest.to_string();
    client
        .put_manifest(name, MANIFEST, bytes.as_bytes())
        .await?;
    Ok(how)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g01_tokens_for_pushes_mounts_and_pulls() {
    let setup = TokenSetup {
        users: ann(),
        ..TokenSetup::default()
    };
    let Some((tokens, registry)) = started(setup) else {
        return;
    };
    let host = registry.host();
    let client = client(vec![flag("ann", "hidden")]);
    let (first, second) = (reference(&host, "team/a:1"), reference(&host, "team/b:1"));
    let layers = [memory(noise(100_000)), memory(noise(200_000))];
    let how = push(&client, &first, &layers, &[]).await.unwrap();
    assert_eq!(how, [PushedHow::Uploaded; 2]);
    let how = push(&client, &second, &layers, std::slice::from_ref(&first)).await;
    assert_eq!(how.unwrap(), [PushedHow::Mounted; 2]);
    client.manifest(&second, None).await.unwrap();
    let scopes: Vec<String> = tokens
        .requests()
        .iter()
        .map(|request| {
            let fields = pairs(&request.query).into_iter();
            let scopes = fields.filter(|(key, _)| key == "scope");
            scopes.map(|(_, scope)| scope).collect::<Vec<_>>().join(" ")
        })
        .collect();
    // One token each for what is done, however many requests that takes.
    let expected = [
        "repository:team/a:pull,push",
        "repository:team/b:pull,push",
        "repository:team/a:pull repository:team/b:pull,push",
        "repository:team/b:pull",
    ];
    assert_eq!(scopes, expected);
    for request in tokens.requests() {
        assert!(request.header("authorization").is_some() && !request.query.contains("hidden"));
    }
    // Who is not let in hears with what he came.
    let nobody = self::client(Vec::new());
    let error = nobody.manifest(&first, None).await.unwrap_err();
    assert!(error.is_denied());
    assert!(
        error
            .hint()
            .unwrap()
            .ends_with(&format!("`kiln login {host}`"))
    );
    let wrong = self::client(vec![flag("ann", "hidden-wrong")]);
    let error = wrong.manifest(&first, None).await.unwrap_err();
    let told = chain(&error);
    assert!(
        told.contains("with the credentials from --creds: "),
        "{told}"
    );
    assert!(told.contains("incorrect username or password"), "{told}");
    assert!(
        !format!("{told} {error:?} {wrong:?}").contains("hidden"),
        "{told}"
    );
}

/// A blob whose bytes take their time.
struct Slow {
    bytes: Vec<u8>,
    pause: Duration,
    reads: AtomicU32,
}

impl BlobSource for Slow {
    fn known(&self) -> Option<(oci_spec::image::Digest, u64)> {
        let digest = crate::support::digest(&sha256(&self.bytes));
        Some((digest, self.bytes.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.pause);
        let start = usize::try_from(offset).unwrap().min(self.bytes.len());
        let rest = &self.bytes[start..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g01_tokens_that_run_out_under_way() {
    // The service says that they are good for five minutes; the registry takes them for two seconds.
    let setup = TokenSetup {
        users: ann(),
        lifetime: 2,
        ..TokenSetup::default()
    };
    let Some((tokens, registry)) = started(setup) else {
        return;
    };
    let options = ClientOptions {
        credentials: vec![flag("ann", "hidden")],
        timeouts: ClientOptions::default().timeouts,
        ..quick()
    };
    let client = Client::new(options);
    let name = reference(&registry.host(), "app:1");
    let layers: Vec<Arc<dyn BlobSource>> = (0..3)
        .map(|number| {
            Arc::new(Slow {
                bytes: noise(900_000 + number),
                pause: Duration::from_millis(500),
                reads: AtomicU32::new(0),
            }) as Arc<dyn BlobSource>
        })
        .collect();
    let pushed = push(&client, &name, &layers, &[]).await;
    let how = pushed.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(how, [PushedHow::Uploaded; 3]);
    let pushes = tokens.requests().len();
    assert!(pushes >= 3, "{pushes}");
    let fetched = client.manifest(&name, None).await.unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&fetched.bytes).unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for (layer, source) in manifest["layers"].as_array().unwrap().iter().zip(&layers) {
        let (digest, size) = source.known().unwrap();
        assert_eq!(layer["digest"], digest.to_string());
        let size = usize::try_from(size).unwrap();
        let descriptor = crate::support::descriptor(digest.as_ref(), size);
        let (bytes, result) = crate::support::pull(&client, &name, &descriptor).await;
        result.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(sha256(&bytes), digest.to_string());
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert!(tokens.requests().len() >= pushes + 2);
}

#[tokio::test]
async fn g01_refresh_tokens_of_a_service() {
    let setup = TokenSetup {
        users: ann(),
        always_refresh: true,
        ..TokenSetup::default()
    };
    let Some((tokens, registry)) = started(setup) else {
        return;
    };
    let host = registry.host();
    let client = client(vec![flag("ann", "hidden")]);
    for name in ["a", "b", "c"] {
        let missing = client.resolve(&reference(&host, name)).await.unwrap_err();
        assert!(missing.is_not_found(), "{}", chain(&missing));
        if name == "b" {
            tokens.forget_refresh_tokens();
        }
    }
    let methods: Vec<String> = tokens.requests().iter().map(|r| r.method.clone()).collect();
    // The password goes once, until the refresh token is taken no more.
    assert_eq!(methods, ["GET", "POST", "POST", "GET"]);

    // An identity token stands for the password of the login that it was given for.
    let entry = format!(r#"{{"identitytoken":"{}"}}"#, tokens.refresh_token("ann"));
    let client = self::client(vec![stored(&host, &entry)]);
    let missing = client.resolve(&reference(&host, "a")).await.unwrap_err();
    assert!(missing.is_not_found(), "{}", chain(&missing));
    tokens.forget_refresh_tokens();
    let refused = client.resolve(&reference(&host, "z")).await.unwrap_err();
    let told = chain(&refused);
    assert!(
        refused.is_denied() && !told.contains("refresh-secret"),
        "{told}"
    );
    assert!(
        told.contains(&format!("from /home/me/config.json ({host})")),
        "{told}"
    );
}

#[tokio::test]
async fn g01_services_that_know_oauth_alone() {
    let setup = TokenSetup {
        users: ann(),
        only_post: true,
        told_lifetime: None,
        ..TokenSetup::default()
    };
    let Some((tokens, registry)) = started(setup) else {
        return;
    };
    let client = client(vec![flag("ann", "hidden")]);
    let missing = client.resolve(&reference(&registry.host(), "a")).await;
    assert!(missing.unwrap_err().is_not_found());
    let requests = tokens.requests();
    let form = pairs(&String::from_utf8_lossy(&requests[1].body));
    let field = |name: &str| {
        form.iter()
            .find(|(key, _)| key == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(field("grant_type"), Some("password"));
    assert_eq!(field("username"), Some("ann"));
    assert_eq!(field("password"), Some("hidden"));
    assert_eq!(field("service"), Some("test registry"));
    assert_eq!(field("scope"), Some("repository:a:pull"));
    assert_eq!(requests[1].header("authorization"), None);
    let nobody = self::client(Vec::new());
    let error = nobody
        .resolve(&reference(&registry.host(), "a"))
        .await
        .unwrap_err();
    assert!(chain(&error).contains("405"), "{}", chain(&error));
}

#[tokio::test]
async fn g01_old_logins_do_not_close_what_is_open() {
    let setup = TokenSetup {
        users: ann(),
        ..TokenSetup::default()
    };
    let Some((tokens, registry)) = started(setup) else {
        return;
    };
    let host = registry.host();
    let good = client(vec![flag("ann", "hidden")]);
    for name in ["public/app:1", "closed/app:1"] {
        push(&good, &reference(&host, name), &[], &[])
            .await
            .unwrap();
    }
    let old = client(vec![stored(
        &host,
        r#"{"username":"ann","password":"hidden-old"}"#,
    )]);
    old.manifest(&reference(&host, "public/app:1"), None)
        .await
        .unwrap();
    let error = old
        .manifest(&reference(&host, "closed/app:1"), None)
        .await
        .unwrap_err();
    let told = chain(&error);
    let expected = format!(
        "without credentials, for 127.0.0.1 refused those from /home/me/config.json ({host})"
    );
    assert!(error.is_denied() && told.contains(&expected), "{told}");
    // What is typed for this run is meant, and a push is never without.
    let typed = client(vec![flag("ann", "hidden-old")]);
    let error = typed
        .manifest(&reference(&host, "public/app:1"), None)
        .await;
    assert!(matches!(error, Err(Error::Token { .. })), "{error:?}");
    let error = push(&old, &reference(&host, "public/new:1"), &[], &[])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
    assert!(tokens.requests().len() >= 5);
}

#[tokio::test]
async fn g01_logins_are_tried_out() {
    let setup = TokenSetup {
        users: ann(),
        ..TokenSetup::default()
    };
    let Some((tokens, registry)) = started(setup) else {
        return;
    };
    let host = registry.host();
    let client = client(vec![flag("other", "unused")]);
    let password = |text: &str| Credential::Password {
        username: "ann".to_owned(),
        password: Secret::new(text),
    };
    let logged_in = client.login(&host, &password("hidden")).await.unwrap();
    let token = logged_in.identity_token.clone().unwrap();
    assert!(!logged_in.unasked && !format!("{logged_in:?}").contains(token.expose()));
    assert!(tokens.requests()[0].query.contains("offline_token=true"));
    client
        .login(&host, &Credential::Identity(token))
        .await
        .unwrap();
    let error = client
        .login(&host, &password("hidden-wrong"))
        .await
        .unwrap_err();
    let told = chain(&error);
    assert!(
        told.starts_with("could not get a token for a login"),
        "{told}"
    );
    assert!(error.is_denied() && !told.contains("hidden"), "{told}");

    let open = Web::start(|_| index());
    let logged_in = client.login(&open.authority(), &password("hidden")).await;
    assert!(logged_in.unwrap().unasked);
    let strict = Web::start(|_| Answer::status(401).with("WWW-Authenticate", "Negotiate"));
    let error = client
        .login(&strict.authority(), &password("hidden"))
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("only Negotiate"),
        "{}",
        chain(&error)
    );
    let wrong = Web::start(|_| Answer::status(401).with("WWW-Authenticate", "Basic realm=x"));
    let error = client
        .login(&wrong.authority(), &password("hidden"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Status { status: 401, .. }),
        "{error:?}"
    );
    assert_eq!(wrong.requests().len(), 2);
}

/// A registry that sends to this token service, and takes any token.
fn bearer_registry(challenge: impl Fn(&Request) -> String + Send + Sync + 'static) -> Web {
    Web::start(move |request| match request.header("authorization") {
        Some(_) => index(),
        None => Answer::status(401).with("WWW-Authenticate", challenge(request)),
    })
}

fn token(text: &str) -> Answer {
    Answer::ok(format!(r#"{{"token":"{text}"}}"#))
}

#[tokio::test]
async fn g01_credentials_stay_with_the_service_that_was_named() {
    // A token service that sends elsewhere: the password does not go along.
    let elsewhere = Web::start(|_| token("hidden-token"));
    let target = elsewhere.url("/other");
    let service = Web::start(move |_| Answer::status(307).with("Location", target.clone()));
    let realm = service.url("/token");
    let registry = bearer_registry(move |_| format!("Bearer realm=\"{realm}\",service=\"x\""));
    let host = registry.authority();
    let asked = client(vec![flag("ann", "hidden")]);
    let _ = asked.manifest(&reference(&host, "a:1"), None).await;
    assert!(service.requests()[0].header("authorization").is_some());
    for request in elsewhere.requests() {
        assert_eq!(request.header("authorization"), None);
        assert!(request.body.is_empty() && !request.query.contains("hidden"));
    }
    // A form with a secret in it is not sent on at all.
    let before = elsewhere.requests().len();
    let entry = r#"{"identitytoken":"hidden"}"#;
    let error = client(vec![stored(&host, entry)])
        .manifest(&reference(&host, "a:1"), None)
        .await
        .unwrap_err();
    assert!(chain(&error).contains("307"), "{}", chain(&error));
    assert_eq!(elsewhere.requests().len(), before);

    // A registry that sends to another host for its content shows it no credentials.
    let storage = Web::start(|_| index());
    let target = storage.url("/content");
    let registry = Web::start(move |request| match request.header("authorization") {
        None => Answer::status(401).with("WWW-Authenticate", "Basic realm=x"),
        Some(_) => Answer::status(307).with("Location", target.clone()),
    });
    client(vec![flag("ann", "hidden")])
        .manifest(&reference(&registry.authority(), "a:1"), None)
        .await
        .unwrap();
    assert!(!storage.requests().is_empty());
    for request in storage.requests() {
        assert_eq!(request.header("authorization"), None);
    }
    // One registry's credentials are not another's.
    let other = bearer_registry(|_| "Basic realm=x".to_owned());
    let error = client(vec![stored(
        &host,
        r#"{"username":"a","password":"hidden"}"#,
    )])
    .manifest(&reference(&other.authority(), "a:1"), None)
    .await;
    assert!(
        matches!(error, Err(Error::LoginRequired { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn g01_several_challenges() {
    let service = Web::start(|_| token("one"));
    let realm = service.url("/token");
    let own = realm.clone();
    let cases: Vec<(String, &str, &str)> = vec![
        (
            format!("Basic realm=x, Bearer realm=\"{realm}\""),
            "Bearer one",
            "",
        ),
        (
            format!("Bearer realm=\"{realm}\", Basic realm=x"),
            "Bearer one",
            "",
        ),
        (
            "Negotiate, Basic realm=\"x\"".to_owned(),
            "Basic YW5uOmhpZGRlbg==",
            "",
        ),
        (format!("bEARER rEALM=\"{own}\""), "Bearer one", ""),
        (
            "Negotiate".to_owned(),
            "",
            "it offers only Negotiate authentication, which --creds is not for",
        ),
        (
            "Bearer realm=\"/token\"".to_owned(),
            "",
            "its WWW-Authenticate header has no URL as realm",
        ),
        (
            "Bearer realm=\"file:///token\"".to_owned(),
            "",
            "neither HTTP nor HTTPS",
        ),
    ];
    for (challenge, header, says) in cases {
        let sent = challenge.clone();
        let registry = bearer_registry(move |_| sent.clone());
        let client = client(vec![flag("ann", "hidden")]);
        let result = client
            .manifest(&reference(&registry.authority(), "a:1"), None)
            .await;
        match result {
            Ok(_) => {
                let requests = registry.requests();
                let last = requests.last().unwrap();
                assert_eq!(last.header("authorization"), Some(header), "{challenge}");
            }
            Err(error) => {
                let told = chain(&error);
                assert!(
                    !says.is_empty() && told.contains(says),
                    "{challenge}: {told}"
                );
                assert!(!told.contains("hidden"), "{told}");
            }
        }
    }
}

#[tokio::test]
async fn g01_odd_tokens() {
    // A registry's own token is shown as it is.
    let registry = bearer_registry(|_| "Bearer realm=\"http://127.0.0.1:1/\"".to_owned());
    let host = registry.authority();
    client(vec![stored(&host, r#"{"registrytoken":"hidden"}"#)])
        .manifest(&reference(&host, "a:1"), None)
        .await
        .unwrap();
    let requests = registry.requests();
    assert_eq!(
        requests.last().unwrap().header("authorization"),
        Some("Bearer hidden")
    );

    let long = "x".repeat(100_000);
    let odd = [
        (format!(r#"{{"token":"{long}"}}"#), "its token is too long"),
        (r#"{"token":"hidden\n"}"#.to_owned(), "no header can hold"),
        (
            format!("{{\"token\":\"hidden\"{}}}", " ".repeat(2_000_000)),
            "too long for a token",
        ),
        (
            r#"{"access_token":["hidden"]}"#.to_owned(),
            "not the JSON object of a token",
        ),
        ("[".repeat(100_000), "not the JSON object of a token"),
    ];
    for (body, says) in odd {
        let service = Web::start(move |_| Answer::ok(body.clone()));
        let realm = service.url("/token");
        let registry = bearer_registry(move |_| format!("Bearer realm=\"{realm}\""));
        let name = reference(&registry.authority(), "a:1");
        let error = client(Vec::new()).manifest(&name, None).await.unwrap_err();
        let told = chain(&error);
        assert!(told.contains(says) && !told.contains("hidden"), "{told}");
        assert_eq!(service.requests().len(), 1);
    }
}

#[tokio::test]
async fn g01_scopes_that_only_the_request_shows() {
    let service = Web::start(|request| match request.query.contains("shared") {
        true => token("both"),
        false => token("one"),
    });
    let realm = service.url("/token");
    // The ping names an example, as some registries do; the request for the manifest what it takes.
    let registry = Web::start(move |request| {
        let enough = request
            .header("authorization")
            .is_some_and(|value| value.contains("both"));
        if enough {
            return index();
        }
        let scope = match request.path.as_str() {
            "/v2/" => "repository:user/image:pull",
            _ => "repository:a:pull,annotate repository:shared/base:pull",
        };
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"{scope}\"");
        Answer::status(401).with("WWW-Authenticate", challenge)
    });
    let name = reference(&registry.authority(), "a:1");
    client(Vec::new()).manifest(&name, None).await.unwrap();
    let queries: Vec<_> = service.requests().iter().map(|r| pairs(&r.query)).collect();
    let scopes = |query: &Vec<(String, String)>| -> Vec<String> {
        let scopes = query.iter().filter(|(key, _)| key == "scope");
        scopes.map(|(_, scope)| scope.clone()).collect()
    };
    assert_eq!(scopes(&queries[0]), ["repository:a:pull"]);
    let expected = ["repository:a:annotate,pull", "repository:shared/base:pull"];
    assert_eq!(scopes(&queries[1]), expected);
}
