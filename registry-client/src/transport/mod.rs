//! One HTTP exchange: which client (plain, verified, unverified), redirects, limits per host, readable failures.
//!
//! Knows nothing of repositories or tokens, and tries nothing twice: `retry` counts attempts, the operations loop.

pub(crate) mod body;
mod certificates;
mod clients;
mod echo;
pub(crate) mod hosts;
pub(crate) mod redact;
mod response;
pub(crate) mod retry;

pub(crate) use body::Body;
pub(crate) use response::Response;

use crate::failure::{Failure, transport_failure};
use crate::{ClientOptions, Error};
use body::Progress;
use clients::{Clients, Trust};
use echo::Secrets;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, LOCATION,
};
use reqwest::{Method, Url};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Redirects followed for one request.
const REDIRECT_LIMIT: usize = 10;
/// What a registry is asked first.
const PING: &str = "/v2/";
/// Requests to one host at a time, when not set.
const REQUESTS_PER_HOST: usize = 6;
/// How many times longer than usual the answer to a PUT may take.
const COMMIT_PATIENCE: u32 = 5;

/// A request, which can be sent again: its body is made anew each time.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Sent to the URL's own origin only, never past a redirect to another.
    pub(crate) authorization: Option<HeaderValue>,
    /// TLS of the URL's host is not verified.
    pub(crate) unverified: bool,
    /// Not a registry: no host is spared verification, and redirects may lead anywhere, as with any web page.
    pub(crate) page: bool,
    pub(crate) body: Body,
}

impl Request {
    /// A request with neither headers nor body, of a host whose TLS is verified.
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            authorization: None,
            unverified: false,
            page: false,
            body: Body::Empty,
        }
    }
}

/// Sends requests.
pub(crate) struct Transport {
    options: Arc<ClientOptions>,
    clients: Clients,
    permits: Mutex<HashMap<(String, bool), Arc<Semaphore>>>,
}

impl Transport {
    pub(crate) fn new(options: Arc<ClientOptions>) -> Self {
        Self {
            clients: Clients::new(Arc::clone(&options)),
            options,
            permits: Mutex::new(HashMap::new()),
        }
    }

    /// Whether the caller's settings allow this host to be spoken to without verified TLS.
    pub(crate) fn may_be_insecure(&self, host: &str, port: Option<u16>) -> bool {
        self.options.insecure_all
            || (hosts::is_loopback(host) && !self.options.verify_loopback)
            || hosts::listed(&self.options.insecure, host, port)
    }

    /// Sends once, following redirects. Any status of the last server is an answer, not an error.
    pub(crate) async fn send(&self, request: &Request) -> Result<Response, Error> {
        let method = method_name(&request.method);
        let mut url = request.url.clone();
        let mut authorization = request.authorization.clone();
        for _ in 0..=REDIRECT_LIMIT {
            let response = self.exchange(request, &url, authorization.as_ref()).await?;
            let Some(next) = self.redirect_target(request, &response)? else {
                return Ok(response);
            };
            if next.origin() != url.origin() {
                authorization = None;
            }
            tracing::debug!(
                from = redact::url(&url),
                to = redact::url(&next),
                "redirected"
            );
            url = next;
        }
        Err(Error::Redirect {
            url: redact::url(&request.url),
            location: redact::url(&url),
            reason: match method {
                "HEAD" => "too many redirects of a HEAD request",
                _ => "too many redirects",
            },
        })
    }

    /// Sends once; a redirect is an answer too.
    pub(crate) async fn send_once(&self, request: &Request) -> Result<Response, Error> {
        let authorization = request.authorization.as_ref();
        self.exchange(request, &request.url, authorization).await
    }

    async fn exchange(
        &self,
        request: &Request,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, Error> {
        let method = method_name(&request.method);
        let permit = self.permit(url, request.body.is_upload()).await;
        let (client, trust) = self.client(request, url).await?;
        let mut builder = client
            .request(request.method.clone(), url.clone())
            // Content is verified as stored; a proxy that compresses on the way would break that.
            .header(ACCEPT_ENCODING, "identity");
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        let progress = Arc::new(Progress::default());
        if let Some(length) = request.body.length() {
            builder = builder.header(CONTENT_LENGTH, length);
        }
        if let Some(body) = request.body.stream(&progress) {
            builder = builder.body(body);
        }
        let idle = self.options.timeouts.idle;
        // The answer to a PUT comes only when the registry has put together and hashed what it got.
        let patience = if request.method == Method::PUT {
            idle * COMMIT_PATIENCE
        } else {
            idle
        };
        let sent = progress.watch(builder.send(), idle, patience).await;
        if let Some(source) = progress.failure() {
            return Err(Error::Source {
                url: redact::url(url),
                source,
            });
        }
        let Some(sent) = sent else {
            return Err(Error::Stalled {
                method,
                url: redact::url(url),
                bytes: progress.taken(),
                window: idle,
            });
        };
        let answer = match sent {
            Ok(answer) => answer,
            Err(error) => return Err(self.not_sent(method, url, trust, error).await),
        };
        tracing::debug!(
            method,
            url = redact::url(url),
            status = answer.status().as_u16(),
            "answered"
        );
        Ok(Response::new(
            method,
            url.clone(),
            answer,
            self.options.timeouts,
            (Secrets::of(authorization, &request.body), permit),
        ))
    }

    async fn not_sent(
        &self,
        method: &'static str,
        url: &Url,
        trust: Trust,
        error: reqwest::Error,
    ) -> Error {
        let mut source = error.without_url();
        let mut failure = transport_failure(&source);
        if trust != Trust::Plain
            && failure == Failure::Broken
            && url.path() == PING
            && let Some(told) = self.tls_refusal(url, trust).await
        {
            source = told;
            failure = transport_failure(&source);
        }
        if trust != Trust::Plain && failure == Failure::NotTls {
            return Error::PlainHttp {
                registry: authority(url),
            };
        }
        Error::Send {
            method,
            url: redact::url(url),
            source,
        }
    }

    /// A server that wants a client certificate says so after the connection stands (TLS 1.3), which HTTP/2
    /// tells as a connection that broke. Asked once more in HTTP/1.1, it shows.
    async fn tls_refusal(&self, url: &Url, trust: Trust) -> Option<reqwest::Error> {
        let client = self.clients.telling(&authority(url), trust).await.ok()?;
        let sent = client
            .get(url.clone())
            .timeout(self.options.timeouts.connect)
            .send();
        let error = sent.await.err()?.without_url();
        (transport_failure(&error) == Failure::ClientCertificate).then_some(error)
    }

    /// Where an answer redirects to, if it does and that is safe.
    fn redirect_target(
        &self,
        request: &Request,
        response: &Response,
    ) -> Result<Option<Url>, Error> {
        let redirects = match response.status().as_u16() {
            301 | 302 | 307 | 308 => true,
            // What follows would be a GET, whatever this was.
            303 => matches!(request.method, Method::GET | Method::HEAD),
            _ => false,
        };
        let Some(location) = response.header(&LOCATION).filter(|_| redirects) else {
            return Ok(None);
        };
        follow(response.url(), location, |host, port| {
            request.page || self.may_be_insecure(host, port)
        })
        .map(Some)
        .map_err(|reason| Error::Redirect {
            url: redact::url(response.url()),
            location: redact::text(location),
            reason,
        })
    }

    /// The `Location` of an answer that is no redirect.
    pub(crate) fn location(&self, response: &Response) -> Result<Option<Url>, Error> {
        let location = response.header(&LOCATION);
        location
            .map(|location| self.linked(response, location))
            .transpose()
    }

    /// A URL that a registry gives for what it has, absolute or relative. Registries behind a proxy that ends
    /// TLS may call themselves by plain HTTP; they are not.
    pub(crate) fn linked(&self, response: &Response, location: &str) -> Result<Url, Error> {
        let from = response.url();
        let mut text = location.to_owned();
        if let Ok(mut url) = Url::parse(location)
            && (url.scheme(), from.scheme()) == ("http", "https")
            && url.host() == from.host()
            && url.set_scheme("https").is_ok()
            && url.set_port(from.port()).is_ok()
        {
            text = url.into();
        }
        follow(from, &text, |host, port| self.may_be_insecure(host, port)).map_err(|reason| {
            Error::Redirect {
                url: redact::url(from),
                location: redact::text(location),
                reason,
            }
        })
    }

    async fn client(
        &self,
        request: &Request,
        url: &Url,
    ) -> Result<(reqwest::Client, Trust), Error> {
        if url.scheme() == "http" {
            return Ok((self.clients.common(Trust::Plain).await?, Trust::Plain));
        }
        if request.page {
            let client = self.clients.common(Trust::Verified).await?;
            return Ok((client, Trust::Verified));
        }
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default();
        let same_host = request.unverified && url.origin() == request.url.origin();
        let trust = if same_host || self.may_be_insecure(host, port) {
            Trust::Unverified
        } else {
            Trust::Verified
        };
        // Loopback is believed for want of anything better to go by.
        let named = self.options.insecure_all || hosts::listed(&self.options.insecure, host, port);
        let only_loopback = hosts::is_loopback(host) && !named;
        let authority = authority(url);
        self.clients.of(&authority, trust, only_loopback).await
    }

    /// Uploads are counted apart: one that waits for a blob to grow must not keep back the download that the
    /// blob is made of.
    async fn permit(&self, url: &Url, upload: bool) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
            let limit = match self.options.requests_per_host {
                0 => REQUESTS_PER_HOST,
                limit => limit,
            };
            let entry = permits.entry((authority(url), upload));
            Arc::clone(entry.or_insert_with(|| Arc::new(Semaphore::new(limit))))
        };
        semaphore
            .acquire_owned()
            .await
            .expect("BUG: the semaphore of a host is never closed")
    }
}

/// The URL a redirect leads to, unless that is less safe than where it comes from.
pub(crate) fn follow(
    from: &Url,
    location: &str,
    may_be_insecure: impl Fn(&str, Option<u16>) -> bool,
) -> Result<Url, &'static str> {
    let mut next = from.join(location).map_err(|_| "it is not a URL")?;
    next.set_fragment(None);
    let host = next.host_str().unwrap_or_default();
    match next.scheme() {
        "https" => Ok(next),
        "http" if from.scheme() == "http" => Ok(next),
        "http" if may_be_insecure(host, next.port_or_known_default()) => Ok(next),
        "http" => Err("it leads from HTTPS to plain HTTP"),
        _ => Err("it is neither HTTP nor HTTPS"),
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "GET",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_never_less_safe() {
        let cases = [
            ("https://a/x", "https://b/y", Ok("https://b/y")),
            ("https://a/x", "y?z#f", Ok("https://a/y?z")),
            ("https://a/x", "//b/y", Ok("https://b/y")),
            (
                "https://a/x",
                "http://b/y",
                Err("it leads from HTTPS to plain HTTP"),
            ),
            (
                "https://a/x",
                "http://a/y",
                Err("it leads from HTTPS to plain HTTP"),
            ),
            ("https://a/x", "http://insecure/y", Ok("http://insecure/y")),
            ("http://a/x", "http://b/y", Ok("http://b/y")),
            ("http://a/x", "https://b/y", Ok("https://b/y")),
            (
                "http://a/x",
                "file:///y",
                Err("it is neither HTTP nor HTTPS"),
            ),
            ("http://a/x", "http://[b", Err("it is not a URL")),
        ];
        for (from, location, expected) in cases {
            let url = Url::parse(from).unwrap();
            let next = follow(&url, location, |host, _| host == "insecure");
            let next = next.as_ref().map(Url::as_str).map_err(|reason| *reason);
            assert_eq!(next, expected, "{from} to {location}");
        }
    }
}
