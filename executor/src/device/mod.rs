//! Devices of `RUN --device`: which of those that this host describes a name means, whether the build may have them,
//! and what a command gets by them.
//!
//! Specifications are those of the Container Device Interface (<https://github.com/cncf-tags/container-device-interface>).
//! Nothing is mounted here.

mod spec;

use crate::Error;
use crate::request::DeviceGrants;
use planner::plan::{DeviceRequest, Op, Plan, Step};
use serde_json::Value;
use spec::{Registered, is_name};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Marks the devices of a class, which a request may name instead of a device.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Says that a build may have a device without being allowed to.
const AUTOALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// What a command gets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Edits {
    /// Variables.
    pub(crate) env: Vec<(String, String)>,
    /// Device nodes: on the host, in the command.
    pub(crate) nodes: Vec<(PathBuf, String)>,
    /// Mounts.
    pub(crate) mounts: Vec<EditMount>,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Programs that would have to be run outside of the command, as people read them.
    hooks: Vec<String>,
    /// Other things that are not done.
    unknown: Vec<String>,
}

/// A mount that a device brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EditMount {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) readonly: bool,
    pub(crate) noexec: bool,
    pub(crate) tmpfs: bool,
}

/// Devices that this host describes.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    known: BTreeMap<String, Registered>,
    /// Files that could not be read, with reasons.
    unread: Vec<String>,
}

impl Devices {
    /// Reads all specifications; of two folders with a device the later one's counts.
    pub(crate) fn read(folders: &[PathBuf]) -> Self {
        let mut devices = Self::default();
        for folder in folders {
            devices.read_folder(folder);
        }
        devices
    }

    fn read_folder(&mut self, folder: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut here: BTreeMap<String, Registered> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for path in paths {
            match spec::read(&path) {
                None => {}
                Some(Err(reason)) => self.unread.push(format!("{}: {reason}", path.display())),
                Some(Ok(found)) => {
                    for (name, device) in found {
                        if here.insert(name.clone(), device).is_some() {
                            twice.insert(name);
                        }
                    }
                }
            }
        }
        for name in twice {
            here.remove(&name);
            self.unread
                .push(format!("{name}: described twice in {}", folder.display()));
        }
        self.known.extend(here);
    }

    /// The devices that a request means, by name. None is an error only when it is required.
    fn find(&self, name: &str, required: bool) -> Result<Vec<String>, Error> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let kind_is_valid = kind
            .split_once('/')
            .is_some_and(|(vendor, class)| is_name(vendor, "_-.") && is_name(class, "_-"));
        if !kind_is_valid {
            return Err(Error::Device {
                message: format!("invalid device {name:?}"),
                help: Some("a device is named VENDOR/CLASS or VENDOR/CLASS=NAME".to_owned()),
            });
        }
        let prefix = format!("{kind}=");
        let of_kind = self
            .known
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix));
        let found: Vec<String> = match device {
            "" => of_kind.map(|(name, _)| name.clone()).take(1).collect(),
            "*" => of_kind.map(|(name, _)| name.clone()).collect(),
            _ if self.known.contains_key(name) => vec![name.to_owned()],
            class => of_kind
                .filter(|(_, known)| known.annotations.get(CLASS).is_some_and(|c| c == class))
                .map(|(name, _)| name.clone())
                .collect(),
        };
        if found.is_empty() && required {
            let unread = (!self.unread.is_empty())
                .then(|| format!("not usable: {}", self.unread.join("; ")));
            return Err(Error::Device {
                message: format!("required device {name:?} is not registered"),
                help: unread,
            });
        }
        Ok(found)
    }

    /// The devices that requests mean, if the build may have them, and the names of optional ones that are not there.
    fn granted(
        &self,
        requests: &[DeviceRequest],
        grants: &DeviceGrants,
    ) -> Result<(Vec<String>, Vec<String>), Error> {
        let mut allowed = BTreeSet::new();
        for name in grants.names.values() {
            // A grant for what is not there is a grant of nothing.
            allowed.extend(self.find(name, false)?);
        }
        let (mut devices, mut missing, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for request in requests {
            let name = grants.names.get(&request.name).unwrap_or(&request.name);
            let found = self.find(name, request.required)?;
            if found.is_empty() {
                missing.push(request.name.clone());
            }
            for device in found {
                if devices.contains(&device) || refused.contains(&device) {
                    continue;
                }
                if grants.all || allowed.contains(&device) || self.is_for_all(&device) {
                    devices.push(device);
                } else {
                    refused.push(device);
                }
            }
        }
        let message = match refused.as_slice() {
            [] => return Ok((devices, missing)),
            [one] => format!("device {one} is requested by the build but not allowed"),
            many => format!(
                "devices {} are requested by the build but not allowed",
                many.join(", ")
            ),
        };
        Err(Error::Device {
            message,
            help: Some(format!(
                "build with --allow device={} or, for all devices, --allow device",
                refused[0]
            )),
        })
    }

    fn is_for_all(&self, device: &str) -> bool {
        let value = self
            .known
            .get(device)
            .and_then(|known| known.annotations.get(AUTOALLOW));
        value.is_some_and(|value| parser::value::boolean(value) == Some(true))
    }

    /// What a command gets by its devices, and the names of optional ones that are not there.
    pub(crate) fn edits(
        &self,
        requests: &[DeviceRequest],
        grants: &DeviceGrants,
    ) -> Result<(Edits, Vec<String>), Error> {
        let (devices, missing) = self.granted(requests, grants)?;
        let mut edits = Edits::default();
        let mut specs = BTreeSet::new();
        for name in &devices {
            let known = &self.known[name];
            // What holds for all devices of a specification is done once.
            if specs.insert(known.path.clone()) {
                edits.add(&known.common).map_err(|e| unfit(name, &e))?;
            }
            edits.add(&known.own).map_err(|e| unfit(name, &e))?;
            if let Some(hook) = edits.hooks.first() {
                return Err(unfit(
                    name,
                    &format!(
                        "it needs a hook of the container runtime, which is not supported: {hook}"
                    ),
                ));
            }
            if let Some(field) = edits.unknown.first() {
                return Err(unfit(name, &format!("{field} is not supported")));
            }
        }
        Ok((edits, missing))
    }

    /// The first step that asks for what it cannot have, before anything runs.
    pub(crate) fn check<'a>(
        plan: &'a Plan,
        folders: &[PathBuf],
        grants: &DeviceGrants,
    ) -> Result<Self, Box<(Error, &'a Step)>> {
        let mut devices = None;
        for step in &plan.steps {
            let Op::Run(run) = &step.op else { continue };
            if run.devices.is_empty() {
                continue;
            }
            let devices = devices.get_or_insert_with(|| Self::read(folders));
            if let Err(error) = devices.edits(&run.devices, grants) {
                return Err(Box::new((error, step)));
            }
        }
        Ok(devices.unwrap_or_default())
    }
}

fn unfit(device: &str, reason: &str) -> Error {
    Error::Device {
        message: format!("device {device} cannot be given to a command: {reason}"),
        help: None,
    }
}

impl Edits {
    /// Adds `containerEdits`.
    fn add(&mut self, edits: &Value) -> Result<(), String> {
        let Value::Object(edits) = edits else {
            return Ok(());
        };
        for (field, value) in edits {
            let items = value.as_array().map_or(&[][..], Vec::as_slice);
            match field.as_str() {
                "env" => {
                    for item in items {
                        let (name, value) = item
                            .as_str()
                            .and_then(|text| text.split_once('='))
                            .ok_or_else(|| format!("{item} is not NAME=VALUE"))?;
                        self.env.push((name.to_owned(), value.to_owned()));
                    }
                }
                "deviceNodes" => {
                    for item in items {
                        let target = text(item, "path")?;
                        let source = text(item, "hostPath").unwrap_or_else(|_| target.clone());
                        self.nodes.push((source.into(), target));
                    }
                }
                "mounts" => {
                    for item in items {
                        self.mounts.push(mount(item)?);
                    }
                }
                "additionalGids" => self.groups.extend(
                    items
                        .iter()
                        .filter_map(Value::as_u64)
                        .filter_map(|id| u32::try_from(id).ok()),
                ),
                "hooks" => {
                    for item in items {
                        let name = text(item, "hookName").unwrap_or_default();
                        self.hooks.push(format!("{name} {}", text(item, "path")?));
                    }
                }
                _ if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => {}
                other => self.unknown.push(other.to_owned()),
            }
        }
        Ok(())
    }
}

fn mount(item: &Value) -> Result<EditMount, String> {
    let options: Vec<&str> = item["options"]
        .as_array()
        .map(|options| options.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let kind = item["type"].as_str().unwrap_or("bind");
    if !["", "bind", "tmpfs", "none"].contains(&kind) {
        return Err(format!("a mount of type {kind} is not supported"));
    }
    Ok(EditMount {
        source: text(item, "hostPath")?.into(),
        target: text(item, "containerPath")?,
        readonly: options.contains(&"ro"),
        noexec: options.contains(&"noexec"),
        tmpfs: kind == "tmpfs",
    })
}

fn text(item: &Value, field: &str) -> Result<String, String> {
    let text = item[field].as_str().filter(|text| !text.is_empty());
    text.map(str::to_owned)
        .ok_or_else(|| format!("{field} is missing"))
}

#[cfg(test)]
mod tests;
