//! The readers of what registries send, each by itself: for tests that feed them bytes of any kind.
//!
//! Nothing here is for users of the client.

use crate::auth::Challenge;
use crate::push::received;
use crate::transport::{follow, redact, retry};
use crate::{blob, lists, manifest, registry_message};
use oci_spec::image::Descriptor;
use reqwest::Url;

/// A part of an answer that has a reader of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A manifest or index.
    Manifest,
    /// An index of referrers.
    Descriptors,
    /// The body of an error.
    Errors,
    /// `WWW-Authenticate`
    Challenges,
    /// `Link`
    Link,
    /// `Location`, of a registry that is spoken to in HTTPS.
    Location,
    /// `Range` of an upload.
    Range,
    /// `Content-Range`
    ContentRange,
    /// `Retry-After`
    RetryAfter,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 9] = [
        Self::Manifest,
        Self::Descriptors,
        Self::Errors,
        Self::Challenges,
        Self::Link,
        Self::Location,
        Self::Range,
        Self::ContentRange,
        Self::RetryAfter,
    ];

    /// What the client makes of these bytes, as text; `None` when it refuses them.
    #[must_use]
    pub fn read(self, bytes: &[u8]) -> Option<String> {
        let text = || std::str::from_utf8(bytes).ok();
        match self {
            Self::Manifest => {
                let (digest, kind) = manifest::read_any(bytes)?;
                Some(format!("{digest} {kind}"))
            }
            Self::Descriptors => {
                let read: Vec<Descriptor> = serde_json::from_slice(bytes).ok()?;
                Some(read.len().to_string())
            }
            Self::Errors => {
                let messages = registry_message::parse(bytes);
                let shown: Vec<String> = messages.iter().map(ToString::to_string).collect();
                Some(shown.join("|"))
            }
            Self::Challenges => Some(Challenge::schemes(text()?).join(" ")),
            Self::Link => lists::next_link(text()?).map(str::to_owned),
            Self::Location => {
                let from = Url::parse("https://registry.example/v2/a/blobs/uploads/").ok()?;
                let text = text()?;
                let shown = redact::text(text);
                follow(&from, text, |_, _| false)
                    .ok()
                    .map(|url| format!("{url} {} {shown}", redact::url(&url)))
            }
            Self::Range => received(text()?).map(|bytes| bytes.to_string()),
            Self::ContentRange => blob::range_start(text()?).map(|start| start.to_string()),
            Self::RetryAfter => {
                let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
                retry::retry_after(text()?, date).map(|wait| wait.as_secs().to_string())
            }
        }
    }
}
