//! Lowering with bases that are made up: what every test of `lower` starts from.

use crate::common::amd64;
use parser::Diagnostic;
use planner::config::{ContainerConfig, HistoryEntry, ImageConfig};
use planner::lower::{
    Allowed, BaseRequest, LowerOptions, Lowered, ResolvedBase, ResolvedImage, lower,
};
use planner::plan::{Network, Plan};
use planner::platform::Platform;
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn options() -> LowerOptions {
    LowerOptions {
        platforms: vec![amd64()],
        build_platform: amd64(),
        ..LowerOptions::default()
    }
}

/// Options as the first comment of a test file gives them: `# options: --target x --build-arg A=1`.
pub(crate) fn options_of(text: &str) -> LowerOptions {
    let mut options = LowerOptions {
        allowed: Allowed {
            network_host: true,
            security_insecure: true,
        },
        ..options()
    };
    let Some(line) = text
        .lines()
        .find_map(|line| line.strip_prefix("# options: "))
    else {
        return options;
    };
    let mut words = line.split(' ');
    while let Some(flag) = words.next() {
        if flag == "--no-cache" {
            options.no_cache = true;
            continue;
        }
        let value = words.next().expect("a flag has a value").to_owned();
        match flag {
            "--target" => options.target = Some(value),
            "--build-arg" => {
                let (name, value) = value.split_once('=').expect("NAME=VALUE");
                options.build_args.insert(name.to_owned(), value.to_owned());
            }
            "--label" => {
                let (name, value) = value.split_once('=').expect("NAME=VALUE");
                options.labels.push((name.to_owned(), value.to_owned()));
            }
            "--platform" => {
                options.platforms = value
                    .split(',')
                    .map(|p| Platform::parse(p, &amd64()).unwrap())
                    .collect();
            }
            "--build-context" => {
                options.named_contexts.insert(value);
            }
            "--no-cache-filter" => options.no_cache_stages.push(value),
            "--network" => options.network = Network::Host,
            "--shm-size" => options.shm_size = value.parse().ok(),
            "--cache-ns" => options.cache_mount_namespace = value,
            other => panic!("{other}?"),
        }
    }
    options
}

/// `dir...` is a folder, `triggers` has ONBUILD, `bare` no environment, anything else is like busybox.
pub(crate) fn resolve(request: &BaseRequest) -> ResolvedBase {
    if request.name.starts_with("dir") {
        return ResolvedBase::Directory(request.name.clone());
    }
    let image = request
        .name
        .trim_start_matches("docker.io/library/")
        .trim_end_matches(":latest");
    let mut container = ContainerConfig {
        env: Some(vec![PATH.to_owned()]),
        cmd: Some(vec!["sh".to_owned()]),
        ..ContainerConfig::default()
    };
    match image {
        "bare" => container = ContainerConfig::default(),
        "triggers" => {
            container.on_build = Some(vec![
                "RUN echo triggered".to_owned(),
                "COPY --from=side /x /y".to_owned(),
            ]);
        }
        "rich" => {
            container.user = "daemon".to_owned();
            container.working_dir = "/srv".to_owned();
            container.entrypoint = Some(vec!["/entry".to_owned()]);
            container.shell = Some(vec!["/bin/bash".to_owned(), "-ec".to_owned()]);
            container.env = Some(vec!["A=base".to_owned(), "PATH=/opt/bin".to_owned()]);
            container.labels = Some(BTreeMap::from([("from".to_owned(), "base".to_owned())]));
        }
        _ => {}
    }
    let platform = request.platform.normalise();
    let diff_ids = if image == "empty" {
        Vec::new()
    } else {
        vec![format!("sha256:{image}-{}", platform.architecture)]
    };
    ResolvedBase::Image(Box::new(ResolvedImage {
        reference: format!("docker.io/library/{image}:latest"),
        manifest_digest: format!("sha256:{}-{image}", platform.architecture),
        diff_ids,
        config: ImageConfig {
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            os_version: (image == "versioned").then(|| "10.0".to_owned()),
            os_features: (image == "versioned").then(|| vec!["feature".to_owned()]),
            config: container,
            ..ImageConfig::default()
        },
        history: vec![HistoryEntry {
            created: Some("2023-11-14T22:13:20Z".to_owned()),
            created_by: Some(format!("base {image}")),
            ..HistoryEntry::default()
        }],
        source: format!("store:{image}"),
    }))
}

/// Lowers with [`resolve`]; the findings of parser or planner when there is an error among them.
pub(crate) fn build(
    text: &str,
    options: &LowerOptions,
) -> Result<(Plan, Vec<Diagnostic>), Vec<Diagnostic>> {
    let parsed = parser::parse(text);
    if parsed
        .diagnostics
        .iter()
        .any(|found| found.severity == parser::Severity::Error)
    {
        return Err(parsed.diagnostics);
    }
    let mut bases = BTreeMap::new();
    for _ in 0..10 {
        match lower(&parsed.dockerfile, options, &bases)? {
            Lowered::Plan(plan, warnings) => return Ok((plan, warnings)),
            Lowered::Need(requests) => {
                assert!(!requests.is_empty(), "asks for nothing");
                for request in requests {
                    let resolved = resolve(&request);
                    assert!(bases.insert(request, resolved).is_none(), "asks twice");
                }
            }
        }
    }
    panic!("lowering never ends");
}

pub(crate) fn plan_of(text: &str) -> Plan {
    build(text, &options_of(text))
        .unwrap_or_else(|errors| panic!("{text}\n{errors:?}"))
        .0
}

/// A plan as text.
pub(crate) fn dump(plan: &Plan, warnings: &[Diagnostic]) -> String {
    let mut out = String::new();
    for step in &plan.steps {
        let flags = if step.no_cache { " no-cache" } else { "" };
        let lines = step
            .origin
            .lines
            .map(|lines| format!("{}-{}", lines.start, lines.end))
            .unwrap_or_default();
        let inputs: Vec<String> = step
            .inputs
            .iter()
            .map(|input| input.0.to_string())
            .collect();
        writeln!(out, "{} {}", step.id.0, step.origin.name).unwrap();
        writeln!(
            out,
            "  stage={} lines={lines} inputs=[{}] platform={}{flags}",
            step.origin.stage,
            inputs.join(","),
            step.platform
        )
        .unwrap();
        writeln!(out, "  {}", serde_json::to_string(&step.op).unwrap()).unwrap();
    }
    for target in &plan.targets {
        let rootfs = target
            .rootfs
            .map_or("scratch".to_owned(), |id| id.0.to_string());
        writeln!(out, "target {} = {rootfs}", target.platform).unwrap();
        writeln!(out, "  {}", serde_json::to_string(&target.config).unwrap()).unwrap();
        for entry in &target.history {
            let made_by = match (entry.step, entry.empty_layer) {
                (Some(step), false) => format!("{:>2}", step.0),
                (None, true) => " -".to_owned(),
                (None, false) => " b".to_owned(),
                (Some(step), true) => panic!("step {step:?} of an empty layer"),
            };
            writeln!(
                out,
                "  {made_by} {}",
                entry.created_by.as_deref().unwrap_or("").escape_debug()
            )
            .unwrap();
        }
    }
    for warning in warnings {
        writeln!(out, "warning: {}", warning.message).unwrap();
    }
    out
}

/// Every plan: ids in order, inputs before users, indices in range, no two equal steps, no step unused.
pub(crate) fn check(plan: &Plan) {
    use planner::plan::{CopyFrom, CopySource, Op, RunMount};
    let mut used = vec![false; plan.steps.len()];
    for (index, step) in plan.steps.iter().enumerate() {
        assert_eq!(step.id.0 as usize, index);
        for input in &step.inputs {
            assert!((input.0 as usize) < index, "{step:?}");
            used[input.0 as usize] = true;
        }
        let mut indices = Vec::new();
        match &step.op {
            Op::Image(_) | Op::Http(_) | Op::Git(_) => {}
            Op::Copy(op) => {
                indices.extend(op.base);
                if let CopyFrom::Input(input) = op.from {
                    indices.push(input);
                }
                indices.extend(op.sources.iter().filter_map(|source| match source {
                    CopySource::Input { input, .. } => Some(*input),
                    _ => None,
                }));
            }
            Op::Mkdir(op) => indices.extend(op.base),
            Op::Run(op) => {
                indices.extend(op.base);
                for mount in &op.mounts {
                    match mount {
                        RunMount::Bind { input, .. } => indices.extend(input),
                        RunMount::Cache { from, .. } => indices.extend(from),
                        _ => {}
                    }
                }
            }
        }
        indices.sort_unstable();
        indices.dedup();
        let all: Vec<usize> = (0..step.inputs.len()).collect();
        assert_eq!(indices, all, "each input is used and there: {step:?}");
        let twin = plan.steps[..index].iter().find(|other| {
            other.op == step.op && other.inputs == step.inputs && other.platform == step.platform
        });
        assert!(twin.is_none(), "{step:?} stands twice");
    }
    for target in &plan.targets {
        if let Some(rootfs) = target.rootfs {
            used[rootfs.0 as usize] = true;
        }
    }
    assert!(used.iter().all(|used| *used), "a step that no target needs");
}
