//! Flags of RUN that need leave, and devices.

use crate::build::{build, options};
use planner::lower::{Allowed, LowerOptions};
use planner::plan::{DeviceRequest, Network, Op, Plan, RunOp};

fn runs(plan: &Plan) -> Vec<&RunOp> {
    let mut runs = Vec::new();
    for step in &plan.steps {
        if let Op::Run(run) = &step.op {
            runs.push(run);
        }
    }
    runs
}

fn allowed(network_host: bool, security_insecure: bool) -> LowerOptions {
    LowerOptions {
        allowed: Allowed {
            network_host,
            security_insecure,
        },
        ..options()
    }
}

#[test]
fn ru13_ru14_what_a_command_asks_for_must_be_allowed() {
    let network = "FROM busybox\nRUN --network=host true";
    let security = "FROM busybox\nRUN --security=insecure true";
    for (text, options, refused) in [
        (network, allowed(false, true), "network.host"),
        (security, allowed(true, false), "security.insecure"),
    ] {
        let errors = build(text, &options).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].message, format!("{refused} is not allowed"));
        assert_eq!(
            errors[0].help.as_deref(),
            Some(format!("build with --allow {refused}").as_str())
        );
        assert_eq!(errors[0].lines.map(|lines| lines.start), Some(2));
    }
    let both = "FROM busybox\nRUN --network=host --security=insecure true\nRUN --network=none true\nRUN true";
    let (plan, _) = build(both, &allowed(true, true)).unwrap();
    let seen: Vec<_> = runs(&plan)
        .iter()
        .map(|run| (run.network, run.insecure))
        .collect();
    assert_eq!(
        seen,
        [
            (Network::Host, true),
            (Network::None, false),
            (Network::Default, false)
        ]
    );
    // A stage that is not built asks for nothing.
    let unused = "FROM busybox AS unused\nRUN --network=host true\nFROM busybox\nRUN true";
    build(unused, &options()).unwrap();
}

#[test]
fn ru13_the_network_of_the_build_is_allowed_with_it() {
    let options = LowerOptions {
        network: Network::Host,
        ..options()
    };
    let text = "FROM busybox\nRUN --network=host true\nRUN --network=default true\nRUN --network=none true";
    let (plan, _) = build(text, &options).unwrap();
    let seen: Vec<_> = runs(&plan).iter().map(|run| run.network).collect();
    assert_eq!(seen, [Network::Host, Network::Host, Network::None]);
}

#[test]
fn ru15_devices_are_in_the_plan() {
    let text = "FROM busybox\nRUN --device=v.com/c=one,required --device=name=v.com/c true";
    let (plan, _) = build(text, &options()).unwrap();
    let expected =
        [("v.com/c=one", true), ("v.com/c", false)].map(|(name, required)| DeviceRequest {
            name: name.to_owned(),
            required,
        });
    assert_eq!(runs(&plan)[0].devices, expected);
}
