//! Sources of ADD that are elsewhere: which words name files behind URLs or Git repositories, and what is wrong with them.

use super::builder::NewStep;
use super::graph::Command;
use super::stage::{Inputs, Lowering, StageState};
use crate::git_url::{GitUrl, redacted};
use crate::plan::{CopySource, Op, Origin};
use crate::source::HttpSource;
use parser::ast::Transfer;

/// What brings each of the sources; `None` for a path of the context.
pub(super) fn classify(
    words: &[String],
    transfer: &Transfer,
    add: bool,
    checksum: Option<&str>,
) -> Result<Vec<Option<Op>>, String> {
    let parsed: Vec<_> = words.iter().map(|word| GitUrl::parse(word)).collect();
    if checksum.is_some() {
        if !add {
            return Err("checksum can't be specified for COPY".to_owned());
        }
        let [word] = words else {
            return Err("checksum can't be specified for multiple sources".to_owned());
        };
        if !is_http(word) && !matches!(&parsed[0], Ok(Some(git)) if !git.looks_local) {
            return Err("checksum requires HTTP(S) or Git sources".to_owned());
        }
    }
    words
        .iter()
        .zip(parsed)
        .map(|(word, git)| match git? {
            Some(git) if !git.looks_local => {
                if !add {
                    return Err("source can't be a git ref for COPY".to_owned());
                }
                let source = git.source(transfer.keep_git_dir, checksum)?;
                Ok(Some(Op::Git(source)))
            }
            _ if is_http(word) => {
                if !add {
                    return Err("source can't be a URL for COPY".to_owned());
                }
                check_digest(checksum)?;
                Ok(Some(Op::Http(HttpSource {
                    filename: HttpSource::name_in_url(word),
                    url: word.clone(),
                    checksum: checksum.map(str::to_owned),
                })))
            }
            _ => Ok(None),
        })
        .collect()
}

impl Lowering<'_, '_> {
    /// The source that a step of its own brings.
    pub(super) fn remote_source(
        &mut self,
        state: &StageState,
        command: &Command<'_>,
        (word, op): (&str, Op),
        transfer: &Transfer,
        inputs: &mut Inputs,
    ) -> CopySource {
        let (path, unpack) = match &op {
            Op::Http(http) => {
                // Without a name of its own it is the only file there is.
                let name = http.filename.as_deref();
                let path = name.map_or_else(|| "*".to_owned(), super::paths::escape_pattern);
                (path, transfer.unpack.unwrap_or(false))
            }
            _ => ("/".to_owned(), false),
        };
        let step = self.builder.add(NewStep {
            op,
            inputs: Vec::new(),
            origin: Origin {
                name: redacted(word),
                stage: state.naming.label.clone(),
                span: Some(command.place.span),
                lines: Some(command.place.lines),
                ..Origin::default()
            },
            no_cache: false,
            platform: state.platform.clone(),
        });
        CopySource::Input {
            input: inputs.add(step),
            path,
            unpack,
        }
    }
}

fn is_http(word: &str) -> bool {
    word.starts_with("http://") || word.starts_with("https://")
}

/// `algorithm:hex`; messages as they are known from digests of images.
fn check_digest(checksum: Option<&str>) -> Result<(), String> {
    let Some(checksum) = checksum else {
        return Ok(());
    };
    let format = || Err("invalid checksum digest format".to_owned());
    let Some((algorithm, encoded)) = checksum.split_once(':') else {
        return format();
    };
    let plain = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b))
    };
    if !plain(algorithm, b".+_-") || encoded.is_empty() {
        return format();
    }
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm".to_owned()),
    };
    if encoded.len() != length {
        return Err("invalid checksum digest length".to_owned());
    }
    if !encoded
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return format();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_digest;

    #[test]
    fn ac26_digests_are_checked() {
        let good = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(check_digest(Some(&good)), Ok(()));
        assert_eq!(check_digest(None), Ok(()));
        let upper = format!("sha256:{}", "AB".repeat(32));
        for (text, message) in [
            ("md5", "invalid checksum digest format"),
            ("sha256:", "invalid checksum digest format"),
            ("SHA256:ab", "invalid checksum digest format"),
            (upper.as_str(), "invalid checksum digest format"),
            ("md5:abcd", "unsupported digest algorithm"),
            ("sha256:abcd", "invalid checksum digest length"),
        ] {
            assert_eq!(check_digest(Some(text)), Err(message.to_owned()), "{text}");
        }
    }
}
