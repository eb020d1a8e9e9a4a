//! One registry as a client knows it: how to speak to it (found by a ping) and requests to a repository of it.
//!
//! Does not choose between registry and mirrors, and does not look into bodies.

use crate::auth::{Access, Authorizer, Demand};
use crate::transport::{Body, Request, Response, Transport, hosts};
use crate::{ClientOptions, Error, Reference, RetryPolicy};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The host that serves Docker's registry.
const DOCKER_API_HOST: &str = "registry-1.docker.io";

/// A repository at a place.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `registry-1.docker.io`, `localhost:5000`.
    pub(crate) host: String,
    pub(crate) repository: String,
    /// By registries.conf.
    pub(crate) insecure: bool,
    /// Another endpoint can be asked after this one.
    pub(crate) mirror: bool,
}

impl Endpoint {
    pub(crate) fn new(reference: &Reference, insecure: bool, mirror: bool) -> Self {
        let host = match reference.registry.as_str() {
            "docker.io" => DOCKER_API_HOST,
            host => host,
        };
        Self {
            host: host.to_owned(),
            repository: reference.repository.clone(),
            insecure,
            mirror,
        }
    }

    pub(crate) fn is_docker(&self) -> bool {
        self.host == DOCKER_API_HOST
    }

    /// `library/busybox/manifests/latest`.
    pub(crate) fn path(&self, kind: &str, selector: &str) -> String {
        format!("{}/{kind}/{selector}", self.repository)
    }

    /// What a token must allow for these actions: `repository:library/busybox:pull,push`.
    pub(crate) fn scope(&self, actions: &str) -> String {
        format!("repository:{}:{actions}", self.repository)
    }

    /// For messages: `localhost:5000/library/busybox:latest`.
    pub(crate) fn name(&self, selector: &str) -> String {
        let separator = if selector.contains(':') { '@' } else { ':' };
        format!("{}/{}{separator}{selector}", self.host, self.repository)
    }
}

/// What a ping found out.
#[derive(Clone, Debug)]
pub(crate) struct Contact {
    /// `https://host/v2/`.
    pub(crate) base: Url,
    pub(crate) demand: Demand,
}

type Contacts = HashMap<(String, bool), Arc<OnceCell<Contact>>>;

/// A GET or HEAD of what a pull may read.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// `manifests`, `blobs`.
    pub(crate) kind: &'static str,
    /// A tag or digest.
    pub(crate) selector: &'a str,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Where a call goes.
pub(crate) enum Target {
    /// Below the registry's `/v2/`.
    Path(String),
    /// What the registry itself gave as a location.
    Url(Url),
}

/// Any request to a registry. It can be sent again.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Body,
    /// What a token must allow: scopes with blanks between them.
    pub(crate) scope: String,
}

impl Call {
    /// Without headers and body.
    pub(crate) fn new(method: Method, path: String, scope: String) -> Self {
        Self {
            method,
            target: Target::Path(path),
            headers: Vec::new(),
            body: Body::Empty,
            scope,
        }
    }
}

/// All registries of a client.
pub(crate) struct Registries {
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) transport: Transport,
    pub(crate) authorizer: Authorizer,
    contacts: Mutex<Contacts>,
}

impl Registries {
    pub(crate) fn new(options: Arc<ClientOptions>) -> Self {
        Self {
            transport: Transport::new(Arc::clone(&options)),
            authorizer: Authorizer::new(&options),
            options,
            contacts: Mutex::default(),
        }
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        self.options.retry
    }

    /// Sends once, with a token where the registry wants one. A refused token is replaced once.
    pub(crate) async fn ask(&self, endpoint: &Endpoint, ask: Ask<'_>) -> Result<Response, Error> {
        let call = Call {
            headers: ask.headers,
            ..Call::new(
                ask.method,
                endpoint.path(ask.kind, ask.selector),
                endpoint.scope("pull"),
            )
        };
        self.call(endpoint, &call).await
    }

    /// Sends once, with a token where the registry wants one. A refused token is replaced once. Another
    /// origin than the registry's gets no token.
    pub(crate) async fn call(&self, endpoint: &Endpoint, call: &Call) -> Result<Response, Error> {
        let contact = self.contact(endpoint).await?;
        let url = match &call.target {
            Target::Url(url) => url.clone(),
            Target::Path(path) => contact.base.join(path).map_err(|error| Error::Protocol {
                url: contact.base.to_string(),
                reason: error.to_string(),
            })?,
        };
        let own = url.origin() == contact.base.origin();
        let mut request = Request {
            headers: call.headers.clone(),
            unverified: own && self.is_insecure(endpoint),
            body: call.body.clone(),
            ..Request::new(call.method.clone(), url)
        };
        if !own {
            return self.transport.send(&request).await;
        }
        let access = Access {
            registry: &endpoint.host,
            repository: &endpoint.repository,
            scope: &call.scope,
            plain: contact.base.scheme() == "http",
            unverified: self.is_insecure(endpoint),
            retry: self.retry(),
        };
        // What needs no scope is open to all, unless the registry says otherwise.
        let mut login = None;
        if !call.scope.is_empty() {
            let granted = self
                .authorizer
                .authorization(&self.transport, &contact.demand, &access, None)
                .await?;
            request.authorization = granted.header;
            login = granted.login;
        }
        let mut response = self.transport.send(&request).await?;
        response.login = login;
        if response.status() != StatusCode::UNAUTHORIZED
            || response.url().origin() != request.url.origin()
        {
            return Ok(response);
        }
        let demand = Demand::of(&response);
        if !demand.may_be_met_after(request.authorization.as_ref()) {
            return Ok(response);
        }
        drop(response);
        let rejected = request.authorization.take();
        let granted = self
            .authorizer
            .authorization(&self.transport, &demand, &access, rejected.as_ref())
            .await?;
        request.authorization = granted.header;
        let mut response = self.transport.send(&request).await?;
        response.login = granted.login;
        Ok(response)
    }

    /// A URL outside any registry (a foreign layer's), without credentials.
    pub(crate) async fn fetch_foreign(
        &self,
        url: &Url,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Response, Error> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default();
        let allowed = match url.scheme() {
            "https" => true,
            "http" => self.transport.may_be_insecure(host, port),
            _ => false,
        };
        if !allowed {
            return Err(Error::Protocol {
                url: crate::transport::redact::url(url),
                reason: "a layer's URL must be HTTPS".to_owned(),
            });
        }
        let request = Request {
            headers,
            ..Request::new(Method::GET, url.clone())
        };
        self.transport.send(&request).await
    }

    pub(crate) fn is_insecure(&self, endpoint: &Endpoint) -> bool {
        let (host, port) = hosts::split(&endpoint.host);
        endpoint.insecure || self.transport.may_be_insecure(host, port)
    }

    pub(crate) async fn contact(&self, endpoint: &Endpoint) -> Result<Contact, Error> {
        let insecure = self.is_insecure(endpoint);
        let cell = {
            let mut contacts = self.contacts.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = contacts.entry((endpoint.host.clone(), insecure));
            Arc::clone(entry.or_default())
        };
        cell.get_or_try_init(|| self.ping(endpoint, insecure))
            .await
            .cloned()
    }

    /// Loopback is asked in HTTP first: a TLS server answers that at once, while a plain server may wait
    /// for the rest of a TLS greeting for ever. Other insecure registries are asked in HTTPS first.
    async fn ping(&self, endpoint: &Endpoint, insecure: bool) -> Result<Contact, Error> {
        let (host, _) = hosts::split(&endpoint.host);
        let schemes: &[&str] = match (hosts::is_loopback(host), insecure) {
            (true, _) => &["http", "https"],
            (false, true) => &["https", "http"],
            (false, false) => &["https"],
        };
        let mut first_error = None;
        let mut doubtful = None;
        for scheme in schemes {
            match self.ping_with(endpoint, scheme, insecure).await {
                Ok((contact, StatusCode::BAD_REQUEST)) => {
                    // What a TLS server says to plain HTTP.
                    doubtful.get_or_insert(contact);
                }
                Ok((contact, _)) => return Ok(contact),
                // It does speak this scheme.
                Err(error @ Error::Status { .. }) => return Err(error),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        match (doubtful, first_error) {
            // It does speak TLS, only not with us.
            (Some(_), Some(error)) if error.is_tls() => Err(error),
            (Some(contact), _) => Ok(contact),
            (None, Some(error)) => Err(error),
            (None, None) => unreachable!("BUG: a registry is always asked in some scheme"),
        }
    }

    async fn ping_with(
        &self,
        endpoint: &Endpoint,
        scheme: &str,
        insecure: bool,
    ) -> Result<(Contact, StatusCode), Error> {
        let text = format!("{scheme}://{}/v2/", endpoint.host);
        let base = Url::parse(&text).map_err(|error| Error::Protocol {
            url: text,
            reason: error.to_string(),
        })?;
        let request = Request {
            unverified: insecure,
            ..Request::new(Method::GET, base.clone())
        };
        let response = self.transport.send(&request).await?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(response.into_error().await);
        }
        let demand = Demand::of(&response).without_scope();
        Ok((Contact { base, demand }, status))
    }
}
