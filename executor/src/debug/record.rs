//! What is kept of a failed step besides its changes: enough to make its sandbox again, and those of the steps before it
//! in the same stage. Secrets, agents and proxy variables are not in it, only their names.

use crate::Error;
use crate::build::record::{StepOutput, base_of};
use crate::request::{BuildRequest, DeviceGrants};
use oci_spec::image::Digest;
use planner::plan::{Network, Op, Plan, RunOp, Step};
use planner::platform::Platform;
use sandbox::{Exit, Isolation, Resources, RootKind, Security};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use store::Kept;

/// Version of the record; others count as damaged.
const VERSION: u32 = 1;
/// Name of the folder with the failed step's changes.
pub(crate) const CHANGES: &str = "changes";

/// The record, JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) dockerfile: String,
    pub(crate) exit: Exit,
    pub(crate) settings: Settings,
    /// Steps of the stage that make something, in order; the failed one is last.
    pub(crate) steps: Vec<RecordedStep>,
}

/// What the build said about all commands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) isolation: Isolation,
    pub(crate) root: Option<RootKind>,
    pub(crate) security: Security,
    pub(crate) resources: Resources,
    pub(crate) network: Network,
    devices: bool,
    device_names: BTreeMap<String, String>,
    pub(crate) cdi_spec_dirs: Vec<PathBuf>,
}

/// A step of the stage.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RecordedStep {
    pub(crate) name: String,
    pub(crate) platform: Platform,
    /// For commands.
    pub(crate) run: Option<RunOp>,
    /// What it works with: all inputs of the failed step, its base alone of the others.
    pub(crate) inputs: Vec<StepOutput>,
    /// What it made; the failed one made nothing whole.
    pub(crate) output: Option<StepOutput>,
}

impl Record {
    pub(crate) fn new(
        request: &BuildRequest,
        (plan, step): (&Plan, &Step),
        inputs: &[StepOutput],
        exit: Exit,
    ) -> Self {
        let mut steps = vec![RecordedStep::new(step, inputs.to_vec(), None)];
        let mut below = base_of(&step.op).map(|index| (step.inputs[index], inputs[index].clone()));
        while let Some((id, output)) = below.take() {
            let step = &plan.steps[id.0 as usize];
            if matches!(step.op, Op::Image(_)) {
                break;
            }
            let mut base = output.clone();
            base.chain.pop();
            below = base_of(&step.op).map(|index| (step.inputs[index], base.clone()));
            steps.push(RecordedStep::new(step, vec![base], Some(output)));
        }
        steps.reverse();
        let run = &request.run;
        Self {
            version: VERSION,
            dockerfile: request.dockerfile_name.clone(),
            exit,
            settings: Settings {
                isolation: run.isolation,
                root: run.root,
                security: run.security.clone(),
                resources: run.resources.clone(),
                network: request.network,
                devices: request.devices.all,
                device_names: request.devices.names.clone(),
                cdi_spec_dirs: request.cdi_spec_dirs.clone(),
            },
            steps,
        }
    }

    pub(crate) fn read(kept: &Kept) -> Result<Self, Error> {
        let bytes = kept.record()?;
        let record: Option<Self> = serde_json::from_slice(&bytes).ok();
        record
            .filter(|record| record.version == VERSION && !record.steps.is_empty())
            .ok_or_else(|| {
                Error::Request(format!(
                    "the kept sandbox {} is damaged or of another version of kiln: remove it with `kiln debug --rm {0}`",
                    kept.id()
                ))
            })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: plain fields always serialise")
    }

    /// All layers that its sandboxes need.
    pub(crate) fn layers(&self) -> Vec<Digest> {
        let outputs = self
            .steps
            .iter()
            .flat_map(|step| step.inputs.iter().chain(&step.output));
        let layers: BTreeSet<String> = outputs
            .flat_map(|output| output.snapshot().layers)
            .map(|layer| layer.to_string())
            .collect();
        layers
            .iter()
            .filter_map(|layer| layer.parse().ok())
            .collect()
    }

    pub(crate) fn failed(&self) -> &RecordedStep {
        self.steps.last().expect("BUG: a record has a step")
    }

    /// A step by its number (`3` of `[build 3/5]`) or a part of its name; the failed one without.
    pub(crate) fn step(&self, wanted: Option<&str>) -> Result<&RecordedStep, Error> {
        let Some(wanted) = wanted.filter(|text| !text.is_empty()) else {
            return Ok(self.failed());
        };
        let number = wanted
            .split('/')
            .next()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let found = self.steps.iter().rev().find(|step| match number {
            Some(number) => step.number() == Some(number),
            None => step.name.contains(wanted),
        });
        found.ok_or_else(|| {
            let names: Vec<&str> = self.steps.iter().map(|step| step.name.as_str()).collect();
            Error::Request(format!(
                "no step {wanted:?} in the failed stage; there are:\n  {}",
                names.join("\n  ")
            ))
        })
    }

    pub(crate) fn grants(&self) -> DeviceGrants {
        DeviceGrants {
            all: self.settings.devices,
            names: self.settings.device_names.clone(),
        }
    }
}

impl RecordedStep {
    fn new(step: &Step, inputs: Vec<StepOutput>, output: Option<StepOutput>) -> Self {
        let run = match &step.op {
            Op::Run(op) if output.is_none() => Some(RunOp {
                proxy_env: Vec::new(),
                ..op.clone()
            }),
            Op::Run(op) => Some(RunOp {
                proxy_env: Vec::new(),
                base: op.base.map(|_| 0),
                // Their inputs may never have been made, since the step may have come from the cache.
                mounts: Vec::new(),
                ..op.clone()
            }),
            _ => None,
        };
        Self {
            name: step.origin.name.clone(),
            platform: step.platform.clone(),
            run,
            inputs,
            output,
        }
    }

    /// `3` of `[build 3/5] RUN make`.
    fn number(&self) -> Option<&str> {
        let inside = self.name.strip_prefix('[')?.split_once(']')?.0;
        let fraction = inside.rsplit(' ').next()?;
        Some(fraction.split_once('/')?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_numbers() {
        let step = |name: &str| RecordedStep {
            name: name.to_owned(),
            platform: Platform::host(),
            run: None,
            inputs: Vec::new(),
            output: None,
        };
        for (name, number) in [
            ("[2/4] RUN make", Some("2")),
            ("[build 12/14] RUN [ x ]", Some("12")),
            ("[linux/arm64 stage-1 3/3] COPY a b", Some("3")),
            ("RUN x", None),
        ] {
            assert_eq!(step(name).number(), number, "{name}");
        }
    }
}
