//! The HTTP clients: one each for plain, verified and unverified connections, and one for every host with
//! certificates of its own. Each is made when first needed: reading the certificate authorities takes tens of
//! milliseconds.

use super::certificates::Material;
use super::{hosts, redact};
use crate::{ClientOptions, Error};
use reqwest::{Proxy, Url};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// `User-Agent` when not set.
const USER_AGENT: &str = concat!("kiln/", env!("CARGO_PKG_VERSION"));

/// How far a server is to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Trust {
    /// No TLS, so no certificate authorities need to be read.
    Plain,
    Verified,
    Unverified,
}

type Shared<K, V> = Mutex<HashMap<K, Arc<OnceCell<V>>>>;

pub(super) struct Clients {
    options: Arc<ClientOptions>,
    common: Shared<Trust, reqwest::Client>,
    /// By `host[:port]`.
    materials: Shared<String, Option<Arc<Material>>>,
    own: Shared<(String, Trust), reqwest::Client>,
}

impl Clients {
    pub(super) fn new(options: Arc<ClientOptions>) -> Self {
        Self {
            options,
            common: Mutex::default(),
            materials: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// The client for hosts with nothing special.
    pub(super) async fn common(&self, trust: Trust) -> Result<reqwest::Client, Error> {
        let cell = cell(&self.common, trust);
        let client = cell.get_or_try_init(|| self.make(trust, None)).await?;
        Ok(client.clone())
    }

    /// The client for a host, which has its own certificates where there are some for it. With `only_loopback`
    /// it is unverified because of its address alone, and is verified where there is an authority for it.
    pub(super) async fn of(
        &self,
        authority: &str,
        trust: Trust,
        only_loopback: bool,
    ) -> Result<(reqwest::Client, Trust), Error> {
        let material = cell(&self.materials, authority.to_owned());
        let material = material.get_or_try_init(|| self.load(authority)).await?;
        let Some(material) = material else {
            return Ok((self.common(trust).await?, trust));
        };
        let trust = if material.skip_verify {
            Trust::Unverified
        } else if only_loopback && !material.authorities.is_empty() {
            Trust::Verified
        } else {
            trust
        };
        let cell = cell(&self.own, (authority.to_owned(), trust));
        let client = cell
            .get_or_try_init(|| self.make(trust, Some(Arc::clone(material))))
            .await?;
        Ok((client.clone(), trust))
    }

    /// A client for one request to a host: without HTTP/2, whose errors do not tell what TLS refused.
    pub(super) async fn telling(
        &self,
        authority: &str,
        trust: Trust,
    ) -> Result<reqwest::Client, Error> {
        let own = self.load(authority).await?;
        let options = Arc::clone(&self.options);
        let building = tokio::task::spawn_blocking(move || {
            let builder = builder(&options, trust, own.as_deref())?;
            made(builder.http1_only())
        });
        building
            .await
            .expect("BUG: building an HTTP client panicked")
    }

    async fn load(&self, authority: &str) -> Result<Option<Arc<Material>>, Error> {
        let options = Arc::clone(&self.options);
        let authority = authority.to_owned();
        let loading =
            tokio::task::spawn_blocking(move || Material::load(&options.certificates, &authority));
        let material = loading.await.expect("BUG: reading certificates panicked")?;
        Ok(material.map(Arc::new))
    }

    async fn make(
        &self,
        trust: Trust,
        own: Option<Arc<Material>>,
    ) -> Result<reqwest::Client, Error> {
        let options = Arc::clone(&self.options);
        let building =
            tokio::task::spawn_blocking(move || made(builder(&options, trust, own.as_deref())?));
        building
            .await
            .expect("BUG: building an HTTP client panicked")
    }
}

fn cell<K: std::hash::Hash + Eq, V>(shared: &Shared<K, V>, key: K) -> Arc<OnceCell<V>> {
    let mut cells = shared.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(cells.entry(key).or_default())
}

fn made(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Error> {
    builder.build().map_err(|error| Error::Setup {
        source: error.without_url(),
    })
}

fn builder(
    options: &ClientOptions,
    trust: Trust,
    own: Option<&Material>,
) -> Result<reqwest::ClientBuilder, Error> {
    // Fails when a provider is installed already, which then serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let agent = match options.user_agent.as_str() {
        "" => USER_AGENT,
        agent => agent,
    };
    // `no_proxy` also keeps the library from reading proxies out of the environment.
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .user_agent(agent)
        .connect_timeout(options.timeouts.connect);
    if let Some(proxy) = proxy(options)? {
        builder = builder.proxy(proxy);
    }
    builder = match trust {
        Trust::Plain => builder.tls_certs_only([]),
        Trust::Unverified => builder.tls_danger_accept_invalid_certs(true),
        Trust::Verified => builder,
    };
    if let Some(material) = own {
        if trust == Trust::Verified && !material.authorities.is_empty() {
            builder = builder.tls_certs_merge(material.authorities.iter().cloned());
        }
        if let Some(identity) = &material.identity {
            builder = builder.identity(identity.clone());
        }
    }
    Ok(builder)
}

fn proxy(options: &ClientOptions) -> Result<Option<Proxy>, Error> {
    let http = proxy_url(options.http_proxy.as_deref())?;
    let https = proxy_url(options.https_proxy.as_deref())?;
    if http.is_none() && https.is_none() {
        return Ok(None);
    }
    let direct = options.no_proxy.clone().unwrap_or_default();
    Ok(Some(Proxy::custom(move |url| {
        if hosts::bypasses_proxy(&direct, url) {
            return None;
        }
        match url.scheme() {
            "https" => https.clone(),
            _ => http.clone(),
        }
    })))
}

/// `http://proxy:3128`, or without a scheme as many environments have it.
fn proxy_url(text: Option<&str>) -> Result<Option<Url>, Error> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bad = |reason: &str| Error::Proxy {
        url: redact::text(text),
        reason: reason.to_owned(),
    };
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("only http:// and https:// proxies are supported"));
    }
    if !url.has_host() {
        return Err(bad("it names no host"));
    }
    Ok(Some(url))
}
