//! A token service on loopback, whose JSON web tokens docker-registry believes.
//!
//! Specifications: "Docker Registry v2 authentication via central service", "Oauth2 Token Authentication" and "JWT
//! structure" of the distribution project.

use crate::http::{Answer, Request, Web};
use crate::{Authority, TokenService};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

const SERVICE: &str = "test registry";
const ISSUER: &str = "test tokens";
/// How long docker-registry takes a token after its end.
const LEEWAY: i64 = 60;

/// How a token service behaves.
#[derive(Clone, Debug)]
pub struct TokenSetup {
    /// Names and passwords. They may do everything; others may pull from `public/...`.
    pub users: Vec<(String, String)>,
    /// Seconds that a registry takes a token for, its leeway included.
    pub lifetime: i64,
    /// What the answers say it is, where they say so.
    pub told_lifetime: Option<u64>,
    /// Tokens are given for POST alone.
    pub only_post: bool,
    /// Refresh tokens are given to all who log in, not only to those who ask for one.
    pub always_refresh: bool,
}

impl Default for TokenSetup {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            lifetime: 300,
            told_lifetime: Some(300),
            only_post: false,
            always_refresh: false,
        }
    }
}

#[derive(Default)]
struct Given {
    /// Refresh token to user.
    refresh: BTreeMap<String, String>,
    number: u32,
}

struct State {
    setup: TokenSetup,
    key: EcdsaKeyPair,
    random: SystemRandom,
    /// DER in base64.
    certificate: String,
    given: Mutex<Given>,
}

/// A running token service; ends when dropped.
pub struct TokenServer {
    web: Web,
    authority: Authority,
    state: Arc<State>,
}

impl std::fmt::Debug for TokenServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenServer").finish_non_exhaustive()
    }
}

impl TokenServer {
    /// Starts one. `None`, said loudly, where openssl is not installed.
    ///
    /// # Panics
    /// Keys cannot be made.
    #[must_use]
    pub fn start(setup: TokenSetup) -> Option<Self> {
        let authority = Authority::new()?;
        let signer = authority.signer();
        let read = |path| std::fs::read_to_string(path).expect("openssl wrote it");
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &der(&read(&signer.key)),
            &random,
        )
        .expect("openssl makes keys of this kind");
        let state = Arc::new(State {
            setup,
            key,
            random,
            certificate: STANDARD.encode(der(&read(&signer.certificate))),
            given: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        let web = Web::start(move |request| serving.answer(request));
        Some(Self {
            web,
            authority,
            state,
        })
    }

    /// For a registry that is to trust it.
    #[must_use]
    pub fn service(&self) -> TokenService {
        TokenService {
            realm: self.web.url("/token"),
            service: SERVICE.to_owned(),
            issuer: ISSUER.to_owned(),
            root_certificates: self.authority.certificate(),
        }
    }

    /// What was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.web.requests()
    }

    /// A refresh token for a user, as an earlier login would have got.
    #[must_use]
    pub fn refresh_token(&self, user: &str) -> String {
        self.state.refresh_token(user)
    }

    /// Takes no refresh token any more.
    pub fn forget_refresh_tokens(&self) {
        self.state.given().refresh.clear();
    }
}

impl State {
    fn given(&self) -> std::sync::MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh_token(&self, user: &str) -> String {
        let mut given = self.given();
        given.number += 1;
        let token = format!("refresh-secret-{}", given.number);
        given.refresh.insert(token.clone(), user.to_owned());
        token
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.path != "/token" {
            return Answer::status(404);
        }
        let post = request.method == "POST";
        if self.setup.only_post && !post {
            return Answer::status(405);
        }
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let fields = pairs(if post { &body } else { &request.query });
        let field = |name: &str| {
            let found = fields.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let user = if post {
            match field("grant_type") {
                "password" => self.user(field("username"), field("password")),
                "refresh_token" => self
                    .given()
                    .refresh
                    .get(field("refresh_token"))
                    .cloned()
                    .ok_or(()),
                _ => Err(()),
            }
        } else {
            self.basic(request.header("authorization"))
        };
        let Ok(user) = user else {
            let body = json!({"details": "incorrect username or password"});
            return json_answer(401, &body);
        };
        let scopes: Vec<&str> = fields
            .iter()
            .filter(|(key, _)| key == "scope")
            .flat_map(|(_, value)| value.split(' '))
            .collect();
        let token = self.token(&user, &scopes);
        let mut body = json!({"access_token": token});
        if !post {
            body["token"] = json!(token);
        }
        if let Some(seconds) = self.setup.told_lifetime {
            body["expires_in"] = json!(seconds);
        }
        let asked = field("offline_token") == "true" || field("access_type") == "offline";
        if !user.is_empty() && (self.setup.always_refresh || asked) {
            body["refresh_token"] = json!(self.refresh_token(&user));
        }
        json_answer(200, &body)
    }

    /// The user of a header; empty for nobody.
    fn basic(&self, header: Option<&str>) -> Result<String, ()> {
        let Some(header) = header else {
            return Ok(String::new());
        };
        let pair = header.strip_prefix("Basic ").ok_or(())?;
        let pair = STANDARD.decode(pair).map_err(|_| ())?;
        let pair = String::from_utf8(pair).map_err(|_| ())?;
        let (name, password) = pair.split_once(':').ok_or(())?;
        self.user(name, password)
    }

    fn user(&self, name: &str, password: &str) -> Result<String, ()> {
        let given = (name.to_owned(), password.to_owned());
        let known = self.setup.users.contains(&given);
        known.then(|| name.to_owned()).ok_or(())
    }

    fn token(&self, user: &str, scopes: &[&str]) -> String {
        let access: Vec<Value> = scopes
            .iter()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let actions: Vec<&str> = actions
                    .split(',')
                    .filter(|action| {
                        let open = *action == "pull" && name.starts_with("public/");
                        !user.is_empty() || open
                    })
                    .collect();
                let some = !actions.is_empty();
                some.then(|| json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let number = {
            let mut given = self.given();
            given.number += 1;
            given.number
        };
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "jti": number.to_string(),
            "iat": now, "nbf": now - 10, "exp": now + self.setup.lifetime - LEEWAY,
            "access": access,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .expect("an EC key signs anything");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    Answer {
        status,
        ..Answer::ok(body.to_string())
    }
    .with("Content-Type", "application/json")
}

/// The fields of a query string or form.
#[must_use]
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescaped(key), unescaped(value))
        })
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first block of a PEM file.
fn der(pem: &str) -> Vec<u8> {
    let body: String = pem
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    STANDARD.decode(body).expect("PEM holds base64")
}
