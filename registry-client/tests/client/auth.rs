//! Anonymous bearer tokens.

use crate::support::{chain, client, descriptor, pull, quick, reference};
use registry_client::{Client, ClientOptions, Error};
use testkit::registry::{Action, FakeRegistry, Fault};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_token_serves_a_repository() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    registry.put_image("team/app", Some("1"), "amd64", &[]);
    let client = client();
    let name = reference(&registry, "team/app:1");
    let mut pulls = Vec::new();
    for number in 0..8_u8 {
        let digest = registry.put_blob(vec![number; 100]);
        let (client, name) = (client.clone(), name.clone());
        pulls.push(tokio::spawn(async move {
            pull(&client, &name, &descriptor(&digest, 100)).await.1
        }));
    }
    for result in pulls {
        result.await.unwrap().unwrap();
    }
    client.resolve(&name).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
    let requests = registry.requests();
    let asked = requests
        .iter()
        .find(|request| request.path.starts_with("/token"))
        .unwrap();
    assert!(asked.path.contains("service=fake"), "{}", asked.path);
    assert!(
        asked.path.contains("scope=repository%3Ateam%2Fapp%3Apull"),
        "{}",
        asked.path
    );
    assert_eq!(asked.header("authorization"), None);

    registry.put_image("other", Some("1"), "amd64", &[]);
    client
        .resolve(&reference(&registry, "other:1"))
        .await
        .unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    registry.put_image("app", Some("1"), "amd64", &[]);
    let client = client();
    let name = reference(&registry, "app:1");
    client.resolve(&name).await.unwrap();
    registry.revoke_tokens();
    client.resolve(&name).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 2);

    registry.fault(Fault::on_any("/manifests/").with(Action::Answer {
        status: 401,
        headers: vec![(
            "WWW-Authenticate".to_owned(),
            format!("Bearer realm=\"{}/token\",service=\"fake\"", registry.url()),
        )],
        body: Vec::new(),
    }));
    let error = client.manifest(&name, None).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert_eq!(registry.count("GET", "/token"), 3);
}

#[tokio::test]
async fn a_registry_that_asks_only_at_the_manifest() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    registry.put_image("app", Some("1"), "amd64", &[]);
    let fine = Action::Answer {
        status: 200,
        headers: Vec::new(),
        body: Vec::new(),
    };
    registry.fault(Fault::on("GET", "/v2/").with(fine).times(1));
    client()
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
    assert_eq!(registry.count("HEAD", "/manifests/"), 2);
}

#[tokio::test]
async fn tokens_near_their_end_are_not_used() {
    // Lifetimes below a minute count as a minute, as the token specification has it.
    let registry = FakeRegistry::start();
    registry.require_tokens(1);
    registry.put_image("app", Some("1"), "amd64", &[]);
    let client = client();
    let name = reference(&registry, "app:1");
    client.resolve(&name).await.unwrap();
    client.resolve(&name).await.unwrap();
    assert_eq!(registry.count("GET", "/token"), 1);
}

#[tokio::test]
async fn token_services_may_fail_for_a_while() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    registry.put_image("app", Some("1"), "amd64", &[]);
    registry.fault(Fault::on("GET", "/token").status(503).times(2));
    client()
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap();
    assert_eq!(registry.count("GET", "/token"), 3);
}

#[tokio::test]
async fn token_failures_say_what_was_wanted_and_hide_secrets() {
    let answer = |body: &str| Action::Answer {
        status: 200,
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    };
    let cases = [
        (
            Fault::on("GET", "/token").error(403, "DENIED", "no anonymous pulls"),
            "DENIED: no anonymous pulls",
        ),
        (
            Fault::on("GET", "/token").with(answer("<html>hidden")),
            "not the JSON object of a token",
        ),
        (
            Fault::on("GET", "/token").with(answer(r#"{"token":5,"x":"hidden"}"#)),
            "not the JSON object",
        ),
        (
            Fault::on("GET", "/token").with(answer("{}")),
            "it has no token",
        ),
        (
            Fault::on("GET", "/token").with(answer(r#"{"token":"hidden\u0001"}"#)),
            "no header can hold",
        ),
        (
            Fault::on("GET", "/token").with(Action::Huge(1 << 30)),
            "too long for a token",
        ),
    ];
    for (fault, expected) in cases {
        let registry = FakeRegistry::start();
        registry.require_tokens(300);
        registry.fault(fault);
        let error = client()
            .resolve(&reference(&registry, "app:1"))
            .await
            .unwrap_err();
        let text = chain(&error);
        let start = format!(
            "could not get a token for repository:app:pull from {}/token: ",
            registry.url()
        );
        assert!(
            text.starts_with(&start) && text.contains(expected),
            "{text}"
        );
        assert!(
            !text.contains("hidden") && !format!("{error:?}").contains("hidden"),
            "{text}"
        );
        assert_eq!(registry.count("GET", "/token"), 1);
    }
}

#[tokio::test]
async fn the_oauth_name_of_a_token_is_known() {
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    let body = br#"{"access_token":"other-name"}"#.to_vec();
    let answer = Action::Answer {
        status: 200,
        headers: Vec::new(),
        body,
    };
    registry.fault(Fault::on("GET", "/token").with(answer));
    client()
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap_err();
    let requests = registry.requests();
    let head = requests
        .iter()
        .find(|request| request.method == "HEAD")
        .unwrap();
    assert_eq!(head.header("authorization"), Some("Bearer other-name"));
}

#[tokio::test]
async fn challenges_that_cannot_be_met() {
    let challenge = |value: &str| Action::Answer {
        status: 401,
        headers: vec![("WWW-Authenticate".to_owned(), value.to_owned())],
        body: Vec::new(),
    };
    let cases = [
        (
            "Basic realm=\"x\"",
            "without a login: it offers only Basic authentication",
        ),
        ("Bearer service=\"x\"", "has no URL as realm"),
        ("Bearer realm=\"ftp://x/token\"", "neither HTTP nor HTTPS"),
    ];
    for (header, expected) in cases {
        let registry = FakeRegistry::start();
        registry.fault(Fault::on("GET", "/v2/").with(challenge(header)));
        let error = client()
            .resolve(&reference(&registry, "app:1"))
            .await
            .unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
    // Basic beside Bearer is no obstacle.
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    registry.put_image("app", Some("1"), "amd64", &[]);
    let both = format!(
        "Basic realm=\"x\", Bearer realm=\"{}/token\"",
        registry.url()
    );
    registry.fault(Fault::on("GET", "/v2/").with(challenge(&both)).times(1));
    client()
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_secret_is_in_debug_output() {
    let options = ClientOptions {
        https_proxy: Some("http://me:hidden@proxy.example:3128".to_owned()),
        ..quick()
    };
    let shown = format!("{:?} {:?}", options, Client::new(options.clone()));
    assert!(
        shown.contains("proxy.example") && !shown.contains("hidden"),
        "{shown}"
    );
    let registry = FakeRegistry::start();
    registry.require_tokens(300);
    let client = client();
    let error = client
        .resolve(&reference(&registry, "app:1"))
        .await
        .unwrap_err();
    let shown = format!("{client:?} {error:?} {error}");
    assert!(matches!(error, Error::Status { status: 404, .. }));
    assert!(!shown.contains("secret-token"), "{shown}");
}
