//! What a worker answered, checked before any of it is believed: its report, and the layer that goes with it.
//!
//! Nothing is recorded here. A layer enters the store only as what its digest and its diff_id say it is. It is fetched
//! at once, although what comes of the build may not need it: a step would be recorded by what a worker says of its
//! layer, and by `Report::identity` even an older layer taken for it, before anybody has looked; and the action of
//! the next step over it is made of its files.

use super::Cluster;
use crate::Error;
use crate::build::backend::Work;
use crate::layer::{self, Form, Incoming, Written};
use crate::space::Space;
use crate::worker::{Ended, LAYER_BLOB, PackedLayer, REPORT, Report};
use oci_spec::image::{Descriptor, Digest as LayerDigest, MediaType};
use planner::plan::StepId;
use planner::scheduler::StepEvent;
use reapi::{Digest, proto};
use std::io::Write as _;
use std::str::FromStr as _;

/// Longest report, in bytes.
const MOST_REPORT: u64 = 4 << 20;

/// Why an answer is of no use.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Something of it is gone, or the worker did not come to its end: the step may be carried out again.
    Lost(Error),
    /// It is wrong.
    Wrong(Error),
}

impl Unusable {
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Lost(error) | Self::Wrong(error) => error,
        }
    }

    fn of(error: reapi::Error) -> Self {
        let is_lost = error.is_not_found() || error.is_transient();
        let error = Error::from(error);
        if is_lost {
            Self::Lost(error)
        } else {
            Self::Wrong(error)
        }
    }
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Self::Wrong(error)
    }
}

/// An answer that fits together.
#[derive(Debug)]
pub(crate) struct Answer {
    pub report: Report,
    layer: Option<Digest>,
}

/// The report of an action's result. A result without one is of a worker that did not come to its end.
pub(crate) fn read(
    cluster: &Cluster<'_>,
    work: &Work<'_>,
    result: &proto::ActionResult,
) -> Result<Answer, Unusable> {
    let wrong = |reason: String| Unusable::Wrong(cluster.answer(reason));
    let Some(file) = output(result, REPORT) else {
        let reason = format!(
            "its worker wrote no report (exit code {})",
            result.exit_code
        );
        return Err(Unusable::Lost(cluster.answer(reason)));
    };
    let digest = digest_of(file).map_err(Unusable::of)?;
    let json = if file.contents.is_empty() {
        let read = cluster.client.read(digest, MOST_REPORT);
        let read = cluster.network.run(work.cancel, read)?;
        read.map_err(Unusable::of)?
    } else {
        file.contents.clone().into()
    };
    if Digest::of(&json) != digest {
        return Err(wrong("its report is not what its digest says".to_owned()));
    }
    let report = Report::from_json(&json).map_err(|error| wrong(format!("its report {error}")))?;
    if i32::from(report.exit.status()) != result.exit_code {
        return Err(wrong(format!(
            "its report says exit code {}, and the server {}",
            report.exit.status(),
            result.exit_code
        )));
    }
    let layer = match (&report.exit, &report.blob) {
        (Ended::Code(0), Some(blob)) => {
            let file = output(result, LAYER_BLOB);
            let file = file.ok_or_else(|| wrong("it has no layer".to_owned()))?;
            let digest = digest_of(file).map_err(Unusable::of)?;
            let said = format!("sha256:{}", digest.hex());
            if blob.digest.to_string() != said || blob.size != digest.size() {
                return Err(wrong("its layer is not the one of its report".to_owned()));
            }
            Some(digest)
        }
        _ => None,
    };
    Ok(Answer { report, layer })
}

/// Bytes of the layer that a result has, as the server says.
pub(crate) fn layer_size(result: &proto::ActionResult) -> u64 {
    let digest = output(result, LAYER_BLOB).map(digest_of);
    digest.map_or(0, |digest| digest.map_or(0, |digest| digest.size()))
}

fn output<'r>(result: &'r proto::ActionResult, path: &str) -> Option<&'r proto::OutputFile> {
    result.output_files.iter().find(|file| file.path == path)
}

fn digest_of(file: &proto::OutputFile) -> Result<Digest, reapi::Error> {
    Digest::from_proto(&file.digest.clone().unwrap_or_default())
}

impl Answer {
    /// Brings the layer of a command that succeeded into the store, and checks that it is what the report says.
    pub(crate) fn layer(
        &self,
        cluster: &Cluster<'_>,
        space: &Space,
        (step, work): (StepId, &Work<'_>),
    ) -> Result<Written, Unusable> {
        let (Some(digest), Some(diff_id), Some(blob)) =
            (self.layer, &self.report.diff_id, &self.report.blob)
        else {
            return Err(cluster.answer("it has no layer".to_owned()).into());
        };
        space.in_turn(format!("fetch {diff_id}"), || {
            let store = space.store();
            if !layer::is_readable(store, diff_id)? {
                fetch(cluster, space, (digest, diff_id, blob), (step, work))?;
            }
            let known = store.layer(diff_id).map_err(Error::from)?;
            let known = known.and_then(|meta| Some((meta.identity?, meta.size?)));
            let Some((identity, size)) = known else {
                return Err(Error::Layer {
                    layer: diff_id.to_string(),
                    reason: "nothing is known of it".to_owned(),
                }
                .into());
            };
            if self.report.identity.as_ref() != Some(&identity) {
                let reason = "its layer has another identity than its report says".to_owned();
                return Err(cluster.answer(reason).into());
            }
            Ok(Written {
                diff_id: diff_id.clone(),
                size,
                identity,
            })
        })
    }
}

fn fetch(
    cluster: &Cluster<'_>,
    space: &Space,
    (digest, diff_id, blob): (Digest, &LayerDigest, &PackedLayer),
    (step, work): (StepId, &Work<'_>),
) -> Result<(), Unusable> {
    let store = space.store();
    let mut writer = store.blob_writer().map_err(Error::from)?;
    let file = writer.reader().map_err(Error::from)?;
    let told = |done: u64| {
        let event = StepEvent::Transfer {
            what: blob.digest.to_string(),
            done,
            total: blob.size,
        };
        work.events.event(step, event);
    };
    let read = cluster.client.read_to(digest, &mut writer, &told);
    let read = cluster.network.run(work.cancel, read)?;
    read.map_err(Unusable::of)?;
    let failed = |source| Error::Io {
        op: "write",
        path: blob.digest.to_string().into(),
        source,
    };
    writer.flush().map_err(failed)?;
    writer
        .commit(Some((&blob.digest, Some(blob.size))))
        .map_err(Error::from)?;
    let descriptor = Descriptor::new(
        MediaType::from(blob.media_type.as_str()),
        blob.size,
        LayerDigest::from_str(blob.digest.as_ref())
            .map_err(|_| cluster.answer("its layer's digest is none".to_owned()))?,
    );
    let (announcer, news) = layer::announcer().map_err(failed)?;
    announcer.whole().map_err(failed)?;
    let incoming = Incoming {
        diff_id,
        blob: &descriptor,
        descriptors: (file.into(), news),
    };
    incoming
        .unpack(space, Form::Readable)?
        .put(store, &descriptor)?;
    Ok(())
}
