//! A daemon with Docker's API: what it has, and images loaded into it.

use super::http::{Answer, Connection, Upload};
use super::stream::Stream;
use crate::Error;
use crate::request::DockerEndpoint;
use planner::scheduler::Cancel;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

/// How long a daemon may think about a question.
const PATIENCE: Duration = Duration::from_secs(60);
/// Images that are asked for their layers, newest first. Loading without one's help costs time only.
const IMAGES_LIMIT: usize = 400;

/// How a daemon keeps images, which decides what it can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keeping {
    /// Docker's own storage: an image is its config, and a layer that is there is not looked at in an archive.
    Layers,
    /// Docker over containerd's content: an image is its manifest or index, and blobs that are there can be left out.
    Content,
    /// Podman behind Docker's API: archives must be whole.
    Whole,
}

/// The daemon.
pub(crate) struct Docker<'a> {
    endpoint: &'a DockerEndpoint,
    search_path: &'a str,
    cancel: &'a Cancel,
    connection: Option<Connection>,
}

impl<'a> Docker<'a> {
    pub(crate) fn new(
        endpoint: &'a DockerEndpoint,
        search_path: &'a str,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            endpoint,
            search_path,
            cancel,
            connection: None,
        }
    }

    fn connect(&self) -> io::Result<Connection> {
        let mut stream = Stream::connect(self.endpoint, self.search_path, self.cancel)?;
        stream.patience = Some(PATIENCE);
        Ok(Connection::new(stream))
    }

    fn ask(&mut self, method: &str, path: &str) -> io::Result<Answer> {
        let kept = self.connection.take();
        let is_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let answer = match connection.request(method, path) {
            // A daemon may close a connection between two questions.
            Err(_) if is_kept && !self.cancel.is_cancelled() => {
                connection = self.connect()?;
                connection.request(method, path)?
            }
            answer => answer?,
        };
        if answer.keeps {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    /// The answer's JSON; `None` for what is not there.
    fn get(&mut self, path: &str) -> io::Result<Option<Value>> {
        let answer = self.ask("GET", path)?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map(Some)
                .map_err(io::Error::other),
            404 => Ok(None),
            _ => Err(refusal(&answer)),
        }
    }

    fn expect(&mut self, path: &str) -> io::Result<Value> {
        self.get(path)?
            .ok_or_else(|| io::Error::other(format!("{path} is not known to the daemon")))
    }

    /// Asks whether somebody answers.
    pub(crate) fn ping(&mut self) -> io::Result<()> {
        match self.ask("GET", "/_ping")? {
            Answer { status: 200, .. } => Ok(()),
            answer => Err(refusal(&answer)),
        }
    }

    pub(crate) fn keeping(&mut self) -> io::Result<Keeping> {
        let version = self.expect("/version")?;
        let components = version["Components"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_podman = |component: &Value| {
            component["Name"]
                .as_str()
                .is_some_and(|name| name.starts_with("Podman"))
        };
        if components.iter().any(is_podman) {
            return Ok(Keeping::Whole);
        }
        let info = self.expect("/info")?;
        let status = info["DriverStatus"].as_array().cloned().unwrap_or_default();
        let is_content =
            |pair: &Value| pair[0] == "driver-type" && pair[1] == "io.containerd.snapshotter.v1";
        Ok(if status.iter().any(is_content) {
            Keeping::Content
        } else {
            Keeping::Layers
        })
    }

    /// The names of an image, if it is there.
    pub(crate) fn names_of(&mut self, id: &str) -> io::Result<Option<Vec<String>>> {
        let image = self.get(&format!("/images/{id}/json"))?;
        Ok(image.map(|image| strings(&image["RepoTags"])))
    }

    /// How many of these layers, from the base up, are there already as a part of some image.
    pub(crate) fn shared_layers(&mut self, diff_ids: &[String]) -> io::Result<usize> {
        let images = self.expect("/images/json")?;
        let mut best = 0;
        for image in images.as_array().into_iter().flatten().take(IMAGES_LIMIT) {
            let Some(id) = image["Id"].as_str() else {
                continue;
            };
            let Some(image) = self.get(&format!("/images/{id}/json"))? else {
                continue;
            };
            let layers = strings(&image["RootFS"]["Layers"]);
            let shared = layers
                .iter()
                .zip(diff_ids)
                .take_while(|(a, b)| a == b)
                .count();
            best = best.max(shared);
            if best == diff_ids.len() {
                break;
            }
        }
        Ok(best)
    }

    /// Digests of manifests that are there with all of their content.
    pub(crate) fn manifests(&mut self) -> io::Result<BTreeSet<String>> {
        let images = self.expect("/images/json?manifests=1")?;
        let manifests = images.as_array().into_iter().flatten();
        Ok(manifests
            .flat_map(|image| image["Manifests"].as_array().into_iter().flatten())
            .filter(|manifest| manifest["Available"] == true && manifest["Kind"] == "image")
            .filter_map(|manifest| Some(manifest["ID"].as_str()?.to_owned()))
            .collect())
    }

    /// Gives an image one more name: a repository with a tag.
    pub(crate) fn tag(&mut self, id: &str, name: &str) -> io::Result<()> {
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (name, "latest"),
        };
        match self.ask(
            "POST",
            &format!("/images/{id}/tag?repo={repository}&tag={tag}"),
        )? {
            Answer {
                status: 200..=299, ..
            } => Ok(()),
            answer => Err(refusal(&answer)),
        }
    }

    /// Sends an archive; `write` writes it.
    pub(crate) fn load(
        &mut self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let fail = |source| self.failed(source);
        let stream = Stream::connect(self.endpoint, self.search_path, self.cancel).map_err(fail)?;
        let mut connection = Connection::new(stream);
        let mut upload: Upload<'_> = connection
            .upload("/images/load?quiet=1", "application/x-tar")
            .map_err(fail)?;
        if let Err(error) = write(&mut upload) {
            // A daemon that stops reading says why.
            let answer =
                (!self.cancel.is_cancelled() && is_broken_pipe(&error)).then(|| upload.give_up());
            let reason = answer.flatten().and_then(|answer| verdict(&answer).err());
            return Err(reason.map_or(error, fail));
        }
        let answer = upload.finish().map_err(fail)?;
        verdict(&answer).map_err(fail)
    }

    /// The error of an exchange with this daemon.
    pub(crate) fn failed(&self, source: io::Error) -> Error {
        Error::Load {
            receiver: format!("Docker at {} ({})", self.endpoint.host, self.endpoint.name),
            source,
        }
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    let Error::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
    )
}

fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| Some(item.as_str()?.to_owned()))
        .collect()
}

/// What a daemon says in an answer other than success.
fn refusal(answer: &Answer) -> io::Error {
    let message = serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|body| {
            Some(
                body["message"]
                    .as_str()
                    .or(body["cause"].as_str())?
                    .to_owned(),
            )
        })
        .or_else(|| {
            // Not even a daemon's answer: what a web server says for people, if it is short.
            let text = std::str::from_utf8(&answer.body).ok()?.trim();
            let is_plain = !text.is_empty() && text.len() < 200 && !text.contains(['<', '\n']);
            is_plain.then(|| format!("status {}: {text}", answer.status))
        })
        .unwrap_or_else(|| format!("status {}", answer.status));
    io::Error::other(message)
}

/// The outcome of a load: messages in a row, with a failure among them. Docker over containerd tells of a layer that
/// is not there as if it were progress.
fn verdict(answer: &Answer) -> io::Result<()> {
    if answer.status != 200 {
        return Err(refusal(answer));
    }
    for message in serde_json::Deserializer::from_slice(&answer.body).into_iter::<Value>() {
        let message = message.map_err(io::Error::other)?;
        let text = |value: &Value| value.as_str().map(|text| text.trim().to_owned());
        let error = text(&message["errorDetail"]["message"]).or_else(|| text(&message["error"]));
        if let Some(error) = error {
            return Err(io::Error::other(error));
        }
        if let Some(line) = text(&message["stream"]).filter(|line| line.starts_with("Error ")) {
            return Err(io::Error::other(line));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_failed_is_told_from_one_that_did_not() {
        let answer = |status, body: &str| Answer {
            status,
            body: body.as_bytes().to_vec(),
            keeps: false,
        };
        verdict(&answer(
            200,
            "{\"stream\":\"Loaded image: a:1\\n\"}\n{\"stream\":\"Loaded image: a:2\\n\"}",
        ))
        .unwrap();
        verdict(&answer(200, "")).unwrap();
        for (status, body, says) in [
            (
                200,
                "{\"stream\":\"x\"}{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}",
                "no space",
            ),
            (200, "{\"error\":\"old\"}", "old"),
            (
                200,
                "{\"stream\":\"Error unpacking image a:1: apply\\n\"}",
                "Error unpacking",
            ),
            (500, "{\"message\":\"boom\"}", "boom"),
            (502, "<html>", "status 502"),
            (
                400,
                "Client sent an HTTP request to an HTTPS server.\n",
                "status 400: Client sent",
            ),
            (200, "<html>", "expected value"),
        ] {
            let error = verdict(&answer(status, body)).unwrap_err().to_string();
            assert!(error.contains(says), "{body}: {error}");
        }
    }
}
