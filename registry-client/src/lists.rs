//! What a registry lists: tags, repositories, and what its search finds. Lists come in pages, whose number and
//! size are bounded here.
//!
//! Names that no reference could have are left out.

use crate::reference::{is_repository, is_tag};
use crate::registry::{Call, Endpoint, Registries, Target};
use crate::registry_message::clean;
use crate::transport::retry::Backoff;
use crate::transport::{Response, Transport};
use crate::{Client, Error, Reference};
use reqwest::header::LINK;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use std::collections::HashSet;

/// Entries asked for at a time.
const PAGE: usize = 1000;
/// Most pages of a list.
const PAGES: usize = 2000;
/// Most bytes of a page.
const PAGE_LIMIT: u64 = 16 * 1024 * 1024;
/// Most bytes of all names of a list.
const LIST_LIMIT: usize = 64 * 1024 * 1024;
/// Where Docker's registry is searched.
const DOCKER_SEARCH_HOST: &str = "index.docker.io";

/// A repository that a search found. The texts are without control characters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Without the registry.
    pub name: String,
    /// As its owner describes it.
    pub description: Option<String>,
    /// How many people have starred it.
    pub star_count: u64,
    /// Kept by Docker.
    pub is_official: bool,
    /// Built by the registry.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Repositories {
    repositories: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct SearchAnswer {
    results: Option<Vec<Found>>,
}

impl Client {
    /// All tags of a reference's repository.
    ///
    /// # Errors
    /// No such repository, refused, unreachable, a list without an end.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        let endpoint = self.inner.home(reference).await?;
        let path = format!("{}?n={PAGE}", endpoint.path("tags", "list"));
        let call = Call::new(Method::GET, path, endpoint.scope("pull"));
        let read = |body: &[u8]| {
            let page: Tags = serde_json::from_slice(body)?;
            Ok(page.tags.unwrap_or_default())
        };
        let registries = &self.inner.registries;
        let mut tags = registries.list(&endpoint, call, &read).await?;
        tags.retain(|tag| is_tag(tag));
        Ok(tags)
    }

    /// All repositories of a registry (`host[:port]`), where it tells them.
    ///
    /// # Errors
    /// Not told, refused, unreachable, a list without an end.
    pub async fn catalog(&self, host: &str) -> Result<Vec<String>, Error> {
        let endpoint = self.registry(host).await?;
        let call = Call::new(
            Method::GET,
            format!("_catalog?n={PAGE}"),
            "registry:catalog:*".to_owned(),
        );
        let read = |body: &[u8]| {
            let page: Repositories = serde_json::from_slice(body)?;
            Ok(page.repositories.unwrap_or_default())
        };
        let registries = &self.inner.registries;
        let mut repositories = registries.list(&endpoint, call, &read).await?;
        repositories.retain(|repository| is_repository(repository));
        Ok(repositories)
    }

    /// Searches a registry (`docker.io`, `host[:port]`) for repositories.
    ///
    /// # Errors
    /// The registry has no search, refused, unreachable.
    pub async fn search(&self, host: &str, term: &str, limit: usize) -> Result<Vec<Found>, Error> {
        let mut endpoint = self.registry(host).await?;
        if endpoint.is_docker() {
            DOCKER_SEARCH_HOST.clone_into(&mut endpoint.host);
        }
        let mut query = Url::parse("http://localhost/").expect("BUG: a constant URL is valid");
        query
            .query_pairs_mut()
            .append_pair("q", term)
            .append_pair("n", &limit.to_string());
        let path = format!("../v1/search?{}", query.query().unwrap_or_default());
        let call = Call::new(Method::GET, path, String::new());
        let registries = &self.inner.registries;
        let mut backoff = Backoff::new(registries.retry(), false);
        loop {
            let answered = async {
                let mut response = registries.call(&endpoint, &call).await?;
                match response.status() {
                    StatusCode::OK => read_found(&mut response, limit).await,
                    StatusCode::NOT_FOUND
                    | StatusCode::METHOD_NOT_ALLOWED
                    | StatusCode::GONE
                    | StatusCode::NOT_IMPLEMENTED => Err(Error::NoSearch {
                        registry: host.to_owned(),
                    }),
                    _ => Err(response.into_error().await),
                }
            };
            match answered.await {
                Ok(found) => return Ok(found),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// A registry as a whole.
    async fn registry(&self, host: &str) -> Result<Endpoint, Error> {
        // The settings of registries.conf are found by names of images.
        let some = Reference::parse(&format!("{host}/x"))?;
        let named = match host {
            "index.docker.io" => "docker.io",
            host => host,
        };
        if some.registry != named {
            return Err(Error::Reference {
                text: host.to_owned(),
                reason: "it is not the name of a registry".to_owned(),
            });
        }
        self.inner.home(&some).await
    }
}

async fn read_found(response: &mut Response, limit: usize) -> Result<Vec<Found>, Error> {
    let Some(body) = response.read_within(PAGE_LIMIT).await? else {
        return Err(response.protocol_error("it is too long for the answer to a search"));
    };
    let answer: SearchAnswer = serde_json::from_slice(&body)
        .map_err(|_| response.protocol_error("it is not the answer to a search"))?;
    let mut found = answer.results.unwrap_or_default();
    found.truncate(limit);
    for entry in &mut found {
        entry.name = clean(&entry.name);
        entry.description = entry.description.as_deref().map(clean);
    }
    Ok(found)
}

/// Reads the names of a page.
type ReadPage<'a> = &'a (dyn Fn(&[u8]) -> serde_json::Result<Vec<String>> + Sync);

impl Registries {
    /// All pages of a list.
    async fn list(
        &self,
        endpoint: &Endpoint,
        mut call: Call,
        read: ReadPage<'_>,
    ) -> Result<Vec<String>, Error> {
        let mut all: Vec<String> = Vec::new();
        let mut seen = HashSet::new();
        let mut bytes = 0;
        let mut backoff = Backoff::new(self.retry(), false);
        loop {
            let answered = async {
                let mut response = self.call(endpoint, &call).await?;
                if !response.status().is_success() {
                    return Err(response.into_error().await);
                }
                let Some(body) = response.read_within(PAGE_LIMIT).await? else {
                    return Err(response.protocol_error("a page of its list is too long"));
                };
                let names = read(&body)
                    .map_err(|_| response.protocol_error("it is not the JSON of a list"))?;
                let next = next_page(&self.transport, &response)?;
                Ok((names, next, response.shown_url()))
            };
            let (names, next, shown) = match answered.await {
                Ok(page) => page,
                Err(error) => {
                    backoff.after(error).await?;
                    continue;
                }
            };
            backoff.progressed();
            bytes += names.iter().map(|name| name.len() + 32).sum::<usize>();
            all.extend(names);
            let Some(next) = next else {
                return Ok(all);
            };
            let endless = |reason: &str| Error::Protocol {
                url: shown,
                reason: reason.to_owned(),
            };
            if let Target::Url(url) = &next
                && !seen.insert(url.to_string())
            {
                return Err(endless(
                    "its list leads back to a page that was read already",
                ));
            }
            if seen.len() > PAGES || bytes > LIST_LIMIT {
                return Err(endless("its list is too long"));
            }
            call.target = next;
        }
    }
}

/// Where the next page of a list is (RFC 8288, relation `next`); always at the same server.
pub(crate) fn next_page(
    transport: &Transport,
    response: &Response,
) -> Result<Option<Target>, Error> {
    let Some(link) = response.headers(&LINK).find_map(next_link) else {
        return Ok(None);
    };
    let url = transport.linked(response, link)?;
    if url.origin() != response.url().origin() {
        return Err(response.protocol_error("the next page of its list is at another server"));
    }
    Ok(Some(Target::Url(url)))
}

/// The target of the link to the next page in a header with any number of links.
pub(crate) fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        // Parameters end where the next link begins.
        let end = after.find(",<").or_else(|| after.find(", <"));
        let (parameters, others) = match end {
            Some(end) => after.split_at(end),
            None => (after, ""),
        };
        let is_next = parameters.split(';').any(|parameter| {
            let Some((name, value)) = parameter.split_once('=') else {
                return false;
            };
            let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel")
                && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.trim());
        }
        rest = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let cases = [
            (
                r#"</v2/_catalog?last=b&n=2>; rel="next""#,
                Some("/v2/_catalog?last=b&n=2"),
            ),
            ("<a>; rel=next", Some("a")),
            (
                r#"<a>; rel="prev", <b>; title="x"; REL="next last""#,
                Some("b"),
            ),
            (r#"<a>;rel="prev",<b>;rel="next""#, Some("b")),
            ("<a,b>; rel=next", Some("a,b")),
            (r#"<a>; rel="prev""#, None),
            ("<a>", None),
            ("<a", None),
            ("a>; rel=next", None),
            ("", None),
        ];
        for (header, expected) in cases {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }
}
