//! What a RUN is for the sandbox: its layers, mounts, user, environment, privileges and limits.

use super::{KnownUsers, lowers};
use crate::Error;
use crate::build::backend::{self, Executor, Work};
use crate::build::mounts::{self, Held, StepGround};
use crate::build::network::{self, Reach};
use crate::build::{secrets, volumes};
use crate::copy::{self, UserIds};
use crate::device::{EditMount, Edits};
use crate::snapshot::Snapshot;
use oci_spec::image::Digest;
use planner::plan::{RunMount, RunOp, Step};
use planner::scheduler::StepEvent;
use sandbox::{Mount, Overlay, RunSpec};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// The command over its layers, which must be unpacked already; without an upper.
pub(crate) fn spec(
    executor: &Executor<'_>,
    step: &Step,
    op: &RunOp,
    work: &Work<'_>,
    held: &mut Held<'_>,
) -> Result<RunSpec, Error> {
    let base = work.base(op.base);
    let lowers = lowers(executor, &base, work)?;
    let user = user(executor, &op.user, &base, &lowers)?;
    let mut lowers = mounts::folders(lowers, held)?;
    let (edits, missing) = executor
        .devices
        .edits(&op.devices, &executor.request.devices)?;
    for name in missing {
        let note = format!("optional device {name:?} is not registered");
        work.events.event(step.id, StepEvent::Note(note));
    }
    let ground = StepGround {
        executor,
        step: step.id,
        work,
    };
    let mut env = environment(op, &user, &edits, secrets::env(&ground, op)?);
    let mut trusted = None;
    if let Some(authorities) = &executor.authorities {
        let view = backend::view(executor.space, &base)?;
        let (layer, mount) = authorities.equip(executor.space, &view, held, &mut env)?;
        lowers.splice(0..0, layer);
        trusted = Some(mount);
    }
    let network = network::of(op.network, executor.request.network);
    let reach = Reach::of(network, executor.space.sandbox()?)?;
    if let Some(note) = network::lost_proxy(&env, reach)
        && !executor.proxy_told.swap(true, Ordering::SeqCst)
    {
        work.events.event(step.id, StepEvent::Note(note));
    }
    let mut all_mounts = mounts::files_of_the_runtime(op, reach, &executor.request.run.network)?;
    all_mounts.extend(trusted);
    all_mounts.extend(edits.mounts.iter().map(edit_mount));
    all_mounts.extend(volumes::mounts(executor, op, &user, held)?);
    all_mounts.extend(mounts::mounts(&ground, op, held)?);
    let mut groups = user.groups;
    groups.extend(edits.groups);
    Ok(RunSpec {
        root: Overlay {
            lowers,
            upper: None,
        },
        keep: sandbox::Keep::default(),
        mounts: all_mounts,
        args: op.args.clone(),
        env,
        cwd: op.cwd.clone(),
        uid: user.uid,
        gid: user.gid,
        groups,
        network,
        hostname: op.hostname.clone(),
        insecure: op.insecure,
        shm_size: op.shm_size,
        limits: op.ulimits.iter().map(limit).collect(),
        devices: edits.nodes.into_iter().map(device).collect(),
        security: executor.request.run.security.clone(),
        resources: executor.request.run.resources.clone(),
        terminal: false,
    })
}

/// Ids of the user, by the passwd and group files of the root file system. Commands of one build mostly have the
/// same answer: it is looked up again only when a layer holds something of `etc`.
fn user(
    executor: &Executor<'_>,
    name: &str,
    base: &Snapshot,
    lowers: &[(Digest, PathBuf)],
) -> Result<UserIds, Error> {
    let name = if name.is_empty() { "0" } else { name };
    let key = deciding_layers(lowers).map(|layers| (name.to_owned(), layers));
    let known = |users: &KnownUsers, key| {
        let users = users.lock().expect("BUG: no holder of the users panics");
        users.get(key).cloned()
    };
    if let Some(user) = key.as_ref().and_then(|key| known(&executor.users, key)) {
        return Ok(user);
    }
    let view = backend::view(executor.space, base)?;
    let user = copy::resolve_user(name, &view)?;
    if let Some(key) = key {
        executor
            .users
            .lock()
            .expect("BUG: no holder of the users panics")
            .insert(key, user.clone());
    }
    Ok(user)
}

/// Layers with an `etc`, topmost first; `None` when some of it is a link, which may lead anywhere.
fn deciding_layers(lowers: &[(Digest, PathBuf)]) -> Option<Vec<Digest>> {
    let mut layers = Vec::new();
    for (layer, tree) in lowers {
        let kind =
            |path: &str| std::fs::symlink_metadata(tree.join(path)).map(|meta| meta.file_type());
        if kind("etc").is_ok() {
            layers.push(layer.clone());
        }
        for path in ["etc", "etc/passwd", "etc/group"] {
            match kind(path) {
                Ok(kind) if kind.is_symlink() => return None,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // `etc` itself may be a whiteout or a file here.
                Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {}
                Err(_) => return None,
            }
        }
    }
    Some(layers)
}

/// A limit as the sandbox has it.
pub(crate) fn limit(limit: &planner::plan::Ulimit) -> sandbox::Limit {
    sandbox::Limit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    }
}

fn device((source, target): (PathBuf, String)) -> sandbox::Device {
    sandbox::Device { source, target }
}

fn edit_mount(mount: &EditMount) -> Mount {
    let target = mount.target.clone();
    if mount.tmpfs {
        return Mount::Tmpfs {
            target,
            size: None,
            mode: 0o1777,
        };
    }
    Mount::Bind {
        source: mount.source.clone(),
        subpath: String::new(),
        target,
        readonly: mount.readonly,
        nosuid: true,
        noexec: mount.noexec,
        owner: None,
    }
}

fn set(env: &mut Vec<(String, String)>, (name, value): (String, String)) {
    env.retain(|(known, _)| *known != name);
    env.push((name, value));
}

/// The command's environment: as planned, what devices bring, secrets; proxies, HOME and the agent's socket only where
/// nothing else sets them.
pub(crate) fn environment(
    op: &RunOp,
    user: &UserIds,
    edits: &Edits,
    secrets: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let mut env = op.env.clone();
    for (name, value) in &op.proxy_env {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.clone(), value.clone()));
        }
    }
    if !env.iter().any(|(name, _)| name == "HOME") {
        let home = if user.home.is_empty() {
            "/"
        } else {
            &user.home
        };
        env.push(("HOME".to_owned(), home.to_owned()));
    }
    let agent = op.mounts.iter().find_map(|mount| match mount {
        RunMount::Ssh { target, .. } => Some(target.clone()),
        _ => None,
    });
    if let Some(target) = agent
        && !env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK")
    {
        env.push(("SSH_AUTH_SOCK".to_owned(), target));
    }
    for pair in edits.env.iter().cloned().chain(secrets) {
        set(&mut env, pair);
    }
    env
}
