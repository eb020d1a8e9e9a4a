//! Steps and plans made by hand.

use planner::config::ImageConfig;
use planner::plan::{
    CopyFrom, CopyOp, CopySource, ImageOp, MkdirOp, Network, Op, Origin, Plan, RunMount, RunOp,
    Step, StepId, Target,
};
use planner::platform::Platform;

pub(crate) fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

pub(crate) fn step(id: u32, op: Op, inputs: &[u32]) -> Step {
    Step {
        id: StepId(id),
        op,
        inputs: inputs.iter().map(|input| StepId(*input)).collect(),
        origin: Origin {
            name: format!("step {id}"),
            ..Origin::default()
        },
        no_cache: false,
        platform: amd64(),
    }
}

/// A plan whose targets are the steps named.
pub(crate) fn plan(steps: Vec<Step>, targets: &[u32]) -> Plan {
    let target = |id: &u32| Target {
        platform: amd64(),
        rootfs: Some(StepId(*id)),
        config: ImageConfig::default(),
        history: Vec::new(),
    };
    Plan {
        steps,
        targets: targets.iter().map(target).collect(),
    }
}

pub(crate) fn image() -> ImageOp {
    ImageOp {
        reference: "docker.io/library/busybox:latest".to_owned(),
        manifest_digest: "sha256:aa".to_owned(),
        diff_ids: vec!["sha256:01".to_owned(), "sha256:02".to_owned()],
        source: "somewhere".to_owned(),
    }
}

pub(crate) fn copy() -> CopyOp {
    CopyOp {
        base: Some(0),
        from: CopyFrom::Context("context".to_owned()),
        sources: vec![
            CopySource::Path("a*".to_owned()),
            CopySource::Inline {
                name: "EOF".to_owned(),
                data: "text\n".to_owned(),
            },
        ],
        dest: "/out/".to_owned(),
        chown: Some("1:2".to_owned()),
        chmod: None,
        link: false,
        parents: false,
        exclude: vec!["*.md".to_owned()],
        unpack: Some(true),
        add: true,
    }
}

pub(crate) fn run() -> RunOp {
    RunOp {
        base: Some(0),
        args: vec!["/bin/sh".to_owned(), "-c".to_owned(), "make".to_owned()],
        display: "/bin/sh -c make".to_owned(),
        env: vec![
            ("PATH".to_owned(), "/bin".to_owned()),
            ("A".to_owned(), "1".to_owned()),
        ],
        proxy_env: vec![("HTTP_PROXY".to_owned(), "http://proxy".to_owned())],
        cwd: "/".to_owned(),
        user: String::new(),
        mounts: vec![
            RunMount::Bind {
                input: Some(0),
                source: "/src".to_owned(),
                target: "/mnt".to_owned(),
                readonly: true,
            },
            RunMount::Cache {
                id: "/cache".to_owned(),
                target: "/cache".to_owned(),
                from: None,
                source: "/".to_owned(),
                sharing: "shared".to_owned(),
                mode: 0o755,
                uid: 0,
                gid: 0,
                readonly: false,
            },
            RunMount::Tmpfs {
                target: "/tmp".to_owned(),
                size: None,
            },
            RunMount::Secret {
                id: "key".to_owned(),
                target: Some("/run/secrets/key".to_owned()),
                env: None,
                required: false,
                mode: 0o400,
                uid: 0,
                gid: 0,
            },
            RunMount::Ssh {
                id: "default".to_owned(),
                target: "/run/buildkit/ssh_agent.0".to_owned(),
                required: false,
                mode: 0o600,
                uid: 0,
                gid: 0,
            },
        ],
        network: Network::Default,
        insecure: false,
        hostname: "buildkitsandbox".to_owned(),
        extra_hosts: vec![("db".to_owned(), "10.0.0.1".to_owned())],
        files: vec![("/dev/pipes/EOF".to_owned(), "#!/bin/sh\n".to_owned())],
        shm_size: None,
        devices: Vec::new(),
        ulimits: Vec::new(),
        volumes: Vec::new(),
    }
}

pub(crate) fn mkdir() -> MkdirOp {
    MkdirOp {
        base: Some(0),
        path: "/w".to_owned(),
        user: String::new(),
    }
}

/// A command that reads all its inputs.
pub(crate) fn command(id: u32, text: &str, inputs: &[u32]) -> Step {
    let mounts = (1..inputs.len())
        .map(|input| RunMount::Bind {
            input: Some(input),
            source: "/".to_owned(),
            target: format!("/in{input}"),
            readonly: true,
        })
        .collect();
    let op = RunOp {
        base: (!inputs.is_empty()).then_some(0),
        args: vec![text.to_owned()],
        display: text.to_owned(),
        mounts,
        ..run()
    };
    step(id, Op::Run(op), inputs)
}

/// A copy of a context into nothing.
pub(crate) fn context(id: u32, name: &str) -> Step {
    let op = CopyOp {
        base: None,
        from: CopyFrom::Context(name.to_owned()),
        sources: vec![CopySource::Path("/".to_owned())],
        ..copy()
    };
    step(id, Op::Copy(op), &[])
}
