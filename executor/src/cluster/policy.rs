//! Which steps may leave this machine. What only this machine has, or is to be seen only here, keeps a step here whatever
//! the fallback says.

use crate::build::network;
use crate::request::{BuildRequest, CacheMounts, ExecutorSettings, OnFailure};
use crate::worker::is_id;
use planner::plan::{RunMount, RunOp};

/// Where a step runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// On a worker.
    Cluster,
    /// Here, because of this.
    Here(&'static str),
}

/// Decides for a step.
pub(crate) fn place(
    settings: &ExecutorSettings,
    request: &BuildRequest,
    op: &RunOp,
    verifying: bool,
) -> Place {
    why_here(settings, request, op, verifying).map_or(Place::Cluster, Place::Here)
}

fn why_here(
    settings: &ExecutorSettings,
    request: &BuildRequest,
    op: &RunOp,
    verifying: bool,
) -> Option<&'static str> {
    let allow = settings.allow;
    let travels = |id: &str| match &request.cache_mounts {
        CacheMounts::None => false,
        CacheMounts::All => true,
        CacheMounts::Ids(ids) => ids
            .iter()
            .any(|wanted| id == wanted || id.ends_with(&format!("/{wanted}"))),
    };
    for mount in &op.mounts {
        match mount {
            RunMount::Secret { .. } if !allow.secret => {
                return Some("it has a secret (allow=secret: workers have their own)");
            }
            RunMount::Ssh { .. } if !allow.ssh => {
                return Some("it has an SSH agent (allow=ssh: workers have their own)");
            }
            RunMount::Secret { id, .. } | RunMount::Ssh { id, .. } if !is_id(id) => {
                return Some("it has a secret or SSH agent whose id is no file name");
            }
            RunMount::Cache { id, .. } if travels(id) => {
                return Some("its cache mounts travel with --cache-mounts");
            }
            _ => {}
        }
    }
    match network::of(op.network, request.network) {
        sandbox::Network::Host if !allow.host_network => return Some("it has the host's network"),
        sandbox::Network::Private if !settings.network => {
            return Some("it has a network, and workers have none (network=off)");
        }
        _ => {}
    }
    if op.insecure {
        return Some("it runs with --security=insecure");
    }
    if !op.devices.is_empty() {
        return Some("it has devices");
    }
    if !op.volumes.is_empty() {
        return Some("it has volumes of this machine");
    }
    if !op.proxy_env.is_empty() && !allow.proxy {
        return Some("it has proxies (allow=proxy runs it without them)");
    }
    if !request.run.ca.is_empty() {
        return Some("it trusts certificates of --ca");
    }
    if request.run.on_failure != OnFailure::Fail {
        return Some("its sandbox is to be kept if it fails (--on-failure=fail lets it go)");
    }
    if verifying {
        return Some("it is compared with what the cache has");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::EndpointSettings;
    use planner::plan::{DeviceRequest, Network, Volume, VolumeAccess};
    use std::path::PathBuf;

    fn op() -> RunOp {
        RunOp {
            args: vec!["true".to_owned()],
            ..RunOp::default()
        }
    }

    type Change = fn(&mut ExecutorSettings, &mut BuildRequest, &mut RunOp);

    fn cache(op: &mut RunOp) {
        op.mounts = vec![RunMount::Cache {
            id: "ns/apt".to_owned(),
            target: "/c".to_owned(),
            from: None,
            source: String::new(),
            sharing: "shared".to_owned(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            readonly: false,
        }];
    }

    fn secret(op: &mut RunOp, id: &str) {
        op.mounts = vec![RunMount::Secret {
            id: id.to_owned(),
            target: None,
            env: Some("S".to_owned()),
            required: true,
            mode: 0o400,
            uid: 0,
            gid: 0,
        }];
    }

    fn agent(op: &mut RunOp) {
        op.mounts = vec![RunMount::Ssh {
            id: "default".to_owned(),
            target: "/agent".to_owned(),
            required: true,
            mode: 0o600,
            uid: 0,
            gid: 0,
        }];
    }

    #[track_caller]
    fn check(cases: &[(&str, Change)]) {
        for (says, change) in cases {
            let mut settings = ExecutorSettings::new(EndpointSettings::default());
            let (mut request, mut op) = (BuildRequest::default(), op());
            change(&mut settings, &mut request, &mut op);
            match place(&settings, &request, &op, false) {
                Place::Cluster => assert_eq!(*says, ""),
                Place::Here(why) => {
                    assert!(!says.is_empty() && why.contains(*says), "{says} {why}");
                }
            }
        }
    }

    #[test]
    fn secrets_and_agents_go_where_there_are_some() {
        let cases: [(&str, Change); 7] = [
            ("it has a secret", |_, _, op| secret(op, "s")),
            ("it has a secret", |settings, _, op| {
                secret(op, "s");
                settings.allow.ssh = true;
            }),
            ("", |settings, _, op| {
                secret(op, "s");
                settings.allow.secret = true;
            }),
            ("no file name", |settings, _, op| {
                secret(op, "../s");
                settings.allow.secret = true;
            }),
            ("it has an SSH agent", |_, _, op| agent(op)),
            ("it has an SSH agent", |settings, _, op| {
                agent(op);
                settings.allow.secret = true;
            }),
            ("", |settings, _, op| {
                agent(op);
                settings.allow.ssh = true;
            }),
        ];
        check(&cases);
    }

    #[test]
    fn what_stays_here_and_why() {
        let cases: [(&str, Change); 17] = [
            ("", |_, _, _| {}),
            ("", |_, _, op| op.network = Network::None),
            ("", |_, _, op| cache(op)),
            ("travel", |_, request, op| {
                cache(op);
                request.cache_mounts = CacheMounts::Ids(vec!["apt".to_owned()]);
            }),
            ("", |_, request, op| {
                cache(op);
                request.cache_mounts = CacheMounts::Ids(vec!["other".to_owned()]);
            }),
            ("host's network", |_, _, op| op.network = Network::Host),
            ("host's network", |_, request, _| {
                request.network = Network::Host;
            }),
            ("", |settings, _, op| {
                op.network = Network::Host;
                settings.allow.host_network = true;
            }),
            ("network=off", |settings, _, _| settings.network = false),
            ("", |settings, _, op| {
                settings.network = false;
                op.network = Network::None;
            }),
            ("insecure", |_, _, op| op.insecure = true),
            ("devices", |_, _, op| {
                op.devices = vec![DeviceRequest {
                    name: "a/b=c".to_owned(),
                    required: true,
                }];
            }),
            ("volumes", |_, _, op| {
                op.volumes = vec![Volume {
                    source: "/a".to_owned(),
                    target: "/a".to_owned(),
                    access: VolumeAccess::ReadOnly,
                    chown: false,
                    noexec: false,
                }];
            }),
            ("proxies", |_, _, op| {
                op.proxy_env = vec![("http_proxy".to_owned(), "x".to_owned())];
            }),
            ("", |settings, _, op| {
                op.proxy_env = vec![("http_proxy".to_owned(), "x".to_owned())];
                settings.allow.proxy = true;
            }),
            ("--ca", |_, request, _| {
                request.run.ca = vec![PathBuf::from("ca.pem")];
            }),
            ("--on-failure", |_, request, _| {
                request.run.on_failure = OnFailure::Keep(1);
            }),
        ];
        check(&cases);
        let settings = ExecutorSettings::new(EndpointSettings::default());
        let verified = place(&settings, &BuildRequest::default(), &op(), true);
        assert!(matches!(verified, Place::Here(_)));
    }
}
