//! What is in a key, what is not, and that its encoding stays as it is.

use crate::common::{copy, image, mkdir, run, step};
use planner::key::{
    CacheKey, ContentId, Difference, content_key, definition_key, explain, fields, layer_key,
};
use planner::plan::{
    CopyFrom, CopyOp, CopySource, DeviceRequest, ImageOp, MkdirOp, Network, Op, RunMount, RunOp,
    Step, Ulimit, Volume, VolumeAccess,
};
use planner::platform::Platform;

const SOURCE: ContentId = ContentId([7; 32]);

fn key(step: &Step) -> CacheKey {
    definition_key(step, &[CacheKey([1; 32])], Some(&SOURCE))
}

fn of(op: Op) -> CacheKey {
    key(&step(0, op, &[]))
}

/// Each change must give a key of its own.
fn assert_all_differ(original: Op, changes: Vec<Op>) {
    let mut keys = vec![of(original)];
    for change in changes {
        let key = of(change.clone());
        assert!(!keys.contains(&key), "not in the key: {change:?}");
        keys.push(key);
    }
}

#[test]
fn the_encoding_does_not_change_unnoticed() {
    let content = content_key(&step(0, Op::Run(run()), &[]), &[ContentId([2; 32])], None);
    let keys = [
        ("image", of(Op::Image(image()))),
        ("copy", of(Op::Copy(copy()))),
        ("run", of(Op::Run(run()))),
        ("mkdir", of(Op::Mkdir(mkdir()))),
        ("run by content", content),
    ];
    insta::assert_snapshot!(
        "golden_keys",
        keys.map(|(name, key)| format!("{name}: {key}")).join("\n")
    );
}

#[test]
fn every_field_of_a_copy_is_in_its_key() {
    let changed = |change: &dyn Fn(&mut CopyOp)| {
        let mut op = copy();
        change(&mut op);
        Op::Copy(op)
    };
    assert_all_differ(
        Op::Copy(copy()),
        vec![
            changed(&|op| op.base = None),
            changed(&|op| op.from = CopyFrom::Context("other".to_owned())),
            changed(&|op| op.from = CopyFrom::Input(0)),
            changed(&|op| op.from = CopyFrom::Input(1)),
            changed(&|op| op.from = CopyFrom::Scratch),
            changed(&|op| op.sources[0] = CopySource::Path("b*".to_owned())),
            changed(&|op| op.sources.truncate(1)),
            changed(&|op| op.sources.reverse()),
            changed(&|op| {
                op.sources[1] = CopySource::Inline {
                    name: "END".to_owned(),
                    data: "text\n".to_owned(),
                }
            }),
            changed(&|op| {
                op.sources[1] = CopySource::Inline {
                    name: "EOF".to_owned(),
                    data: "txet\n".to_owned(),
                }
            }),
            changed(&|op| op.dest = "/out".to_owned()),
            changed(&|op| op.chown = None),
            changed(&|op| op.chown = Some(String::new())),
            changed(&|op| op.chmod = Some("644".to_owned())),
            changed(&|op| op.link = true),
            changed(&|op| op.parents = true),
            changed(&|op| op.exclude.clear()),
            changed(&|op| op.exclude.push("x".to_owned())),
            changed(&|op| op.unpack = Some(false)),
            changed(&|op| op.unpack = None),
            changed(&|op| op.add = false),
        ],
    );
}

fn device(name: &str, required: bool) -> DeviceRequest {
    DeviceRequest {
        name: name.to_owned(),
        required,
    }
}

fn limit(name: &str, soft: Option<u64>, hard: Option<u64>) -> Ulimit {
    Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    }
}

fn volume() -> Volume {
    Volume {
        source: "/a".to_owned(),
        target: "/a".to_owned(),
        access: VolumeAccess::ReadWrite,
        chown: false,
        noexec: false,
    }
}

#[test]
fn ru20_every_field_of_a_command_but_the_proxies_is_in_its_key() {
    let changed = |change: &dyn Fn(&mut RunOp)| {
        let mut op = run();
        change(&mut op);
        Op::Run(op)
    };
    assert_all_differ(
        Op::Run(run()),
        vec![
            changed(&|op| op.base = None),
            changed(&|op| op.base = Some(1)),
            changed(&|op| op.args[2] = "make all".to_owned()),
            changed(&|op| op.args.push("make".to_owned())),
            changed(&|op| op.env[1].1 = "2".to_owned()),
            changed(&|op| op.env[1].0 = "B".to_owned()),
            changed(&|op| op.env.reverse()),
            changed(&|op| op.env.truncate(1)),
            changed(&|op| op.cwd = "/w".to_owned()),
            changed(&|op| op.user = "daemon".to_owned()),
            changed(&|op| op.mounts.truncate(4)),
            changed(&|op| op.mounts.reverse()),
            changed(&|op| op.network = Network::None),
            changed(&|op| op.network = Network::Host),
            changed(&|op| op.insecure = true),
            changed(&|op| op.hostname = "host".to_owned()),
            changed(&|op| op.extra_hosts[0].1 = "10.0.0.2".to_owned()),
            changed(&|op| op.extra_hosts.clear()),
            changed(&|op| op.files[0].0 = "/dev/pipes/END".to_owned()),
            changed(&|op| op.files[0].1 = "#!/bin/bash\n".to_owned()),
            changed(&|op| op.shm_size = Some(0)),
            changed(&|op| op.devices.push(device("a/b=c", false))),
            changed(&|op| op.devices.push(device("a/b=c", true))),
            changed(&|op| op.devices.push(device("a/b=d", true))),
            changed(&|op| op.ulimits.push(limit("nofile", Some(1), Some(2)))),
            changed(&|op| op.ulimits.push(limit("nproc", Some(1), Some(2)))),
            changed(&|op| op.ulimits.push(limit("nofile", None, Some(2)))),
            changed(&|op| op.ulimits.push(limit("nofile", Some(1), None))),
            changed(&|op| op.volumes.push(volume())),
            changed(&|op| {
                op.volumes.push(Volume {
                    source: "/b".into(),
                    ..volume()
                });
            }),
            changed(&|op| {
                op.volumes.push(Volume {
                    target: "/b".into(),
                    ..volume()
                });
            }),
            changed(&|op| {
                op.volumes.push(Volume {
                    access: VolumeAccess::ReadOnly,
                    ..volume()
                });
            }),
            changed(&|op| {
                op.volumes.push(Volume {
                    access: VolumeAccess::Discard,
                    ..volume()
                });
            }),
            changed(&|op| {
                op.volumes.push(Volume {
                    chown: true,
                    ..volume()
                });
            }),
            changed(&|op| {
                op.volumes.push(Volume {
                    noexec: true,
                    ..volume()
                });
            }),
        ],
    );
    let unseen = changed(&|op| {
        op.proxy_env.clear();
        "for people".clone_into(&mut op.display);
    });
    assert_eq!(of(unseen), of(Op::Run(run())));
}

fn with(mount: RunMount) -> Op {
    Op::Run(RunOp {
        mounts: vec![mount],
        ..run()
    })
}

/// One of the mounts of [`run`], changed.
fn mount(index: usize, change: &dyn Fn(&mut RunMount)) -> Op {
    let mut mount = run().mounts[index].clone();
    change(&mut mount);
    with(mount)
}

macro_rules! set {
    ($kind:ident, $field:ident, $value:expr) => {
        &|mount: &mut RunMount| {
            let RunMount::$kind { $field, .. } = mount else {
                panic!("another mount")
            };
            *$field = $value;
        }
    };
}

#[test]
fn every_field_of_a_bind_mount_is_in_the_key() {
    assert_all_differ(
        mount(0, &|_| {}),
        vec![
            mount(0, set!(Bind, input, None)),
            mount(0, set!(Bind, source, "/x".to_owned())),
            mount(0, set!(Bind, target, "/x".to_owned())),
            mount(0, set!(Bind, readonly, false)),
        ],
    );
    let tmpfs = |target: &str, size| {
        with(RunMount::Tmpfs {
            target: target.to_owned(),
            size,
        })
    };
    assert_all_differ(
        tmpfs("/t", None),
        vec![
            tmpfs("/u", None),
            tmpfs("/t", Some(1)),
            tmpfs("/t", Some(2)),
        ],
    );
}

#[test]
fn every_field_of_a_cache_mount_is_in_the_key() {
    assert_all_differ(
        mount(1, &|_| {}),
        vec![
            mount(1, set!(Cache, id, "x".to_owned())),
            mount(1, set!(Cache, target, "/x".to_owned())),
            mount(1, set!(Cache, from, Some(0))),
            mount(1, set!(Cache, source, "/x".to_owned())),
            mount(1, set!(Cache, sharing, "locked".to_owned())),
            mount(1, set!(Cache, mode, 0o700)),
            mount(1, set!(Cache, uid, 1)),
            mount(1, set!(Cache, gid, 1)),
            mount(1, set!(Cache, readonly, true)),
        ],
    );
}

#[test]
fn every_field_of_a_secret_and_an_agent_is_in_the_key() {
    assert_all_differ(
        mount(3, &|_| {}),
        vec![
            mount(3, set!(Secret, id, "x".to_owned())),
            mount(3, set!(Secret, target, None)),
            mount(3, set!(Secret, env, Some("K".to_owned()))),
            mount(3, set!(Secret, required, true)),
            mount(3, set!(Secret, mode, 0)),
            mount(3, set!(Secret, uid, 1)),
            mount(3, set!(Secret, gid, 1)),
        ],
    );
    assert_all_differ(
        mount(4, &|_| {}),
        vec![
            mount(4, set!(Ssh, id, "x".to_owned())),
            mount(4, set!(Ssh, target, "/x".to_owned())),
            mount(4, set!(Ssh, required, true)),
            mount(4, set!(Ssh, mode, 0)),
            mount(4, set!(Ssh, uid, 1)),
            mount(4, set!(Ssh, gid, 1)),
        ],
    );
}

#[test]
fn directories_and_images_are_known_by_what_they_hold() {
    let dir = |change: &dyn Fn(&mut MkdirOp)| {
        let mut op = mkdir();
        change(&mut op);
        Op::Mkdir(op)
    };
    assert_all_differ(
        Op::Mkdir(mkdir()),
        vec![
            dir(&|op| op.base = None),
            dir(&|op| op.path = "/v".to_owned()),
            dir(&|op| op.user = "1".to_owned()),
        ],
    );
    let base = |change: &dyn Fn(&mut ImageOp)| {
        let mut op = image();
        change(&mut op);
        Op::Image(op)
    };
    assert_all_differ(
        Op::Image(image()),
        vec![
            base(&|op| op.diff_ids.truncate(1)),
            base(&|op| op.diff_ids.reverse()),
            base(&|op| op.diff_ids[0] = "sha256:03".to_owned()),
        ],
    );
    let elsewhere = base(&|op| {
        op.reference = "mirror/busybox".to_owned();
        op.manifest_digest = "sha256:bb".to_owned();
        op.source = "elsewhere".to_owned();
    });
    assert_eq!(of(elsewhere), of(Op::Image(image())));
}

#[test]
fn inputs_and_context_files_are_in_the_key_and_people_s_names_are_not() {
    let original = step(0, Op::Run(run()), &[]);
    let keys = [
        definition_key(&original, &[], None),
        definition_key(&original, &[CacheKey([1; 32])], None),
        definition_key(&original, &[CacheKey([2; 32])], None),
        definition_key(&original, &[CacheKey([1; 32]), CacheKey([2; 32])], None),
        definition_key(&original, &[CacheKey([2; 32]), CacheKey([1; 32])], None),
        definition_key(&original, &[CacheKey([1; 32])], Some(&SOURCE)),
        definition_key(&original, &[CacheKey([1; 32])], Some(&ContentId([8; 32]))),
        content_key(&original, &[], None),
        content_key(&original, &[ContentId([1; 32])], None),
    ];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{index}");
    }
    let mut renamed = original.clone();
    renamed.origin.name = "[2/2] RUN make".to_owned();
    renamed.no_cache = true;
    assert_eq!(key(&renamed), key(&original));
}

#[test]
fn only_commands_are_bound_to_a_platform() {
    let arm64 = |op: Op| Step {
        platform: Platform::new("linux", "arm64", ""),
        ..step(0, op, &[])
    };
    assert_ne!(key(&arm64(Op::Run(run()))), of(Op::Run(run())));
    for op in [Op::Image(image()), Op::Copy(copy()), Op::Mkdir(mkdir())] {
        assert_eq!(key(&arm64(op.clone())), of(op));
    }
}

#[test]
fn a_linked_layer_does_not_depend_on_its_base() {
    let link = |from| {
        step(
            0,
            Op::Copy(CopyOp {
                link: true,
                from,
                ..copy()
            }),
            &[],
        )
    };
    let from_stage = link(CopyFrom::Input(1));
    let (base, other_base, files) = (ContentId([1; 32]), ContentId([2; 32]), ContentId([3; 32]));
    let layer = layer_key(&from_stage, &[base, files], None);
    assert!(layer.is_some());
    assert_eq!(layer, layer_key(&from_stage, &[other_base, files], None));
    assert_ne!(layer, layer_key(&from_stage, &[base, other_base], None));
    assert_ne!(layer, layer_key(&from_stage, &[base, files], Some(&SOURCE)));
    assert_ne!(
        content_key(&from_stage, &[base, files], None),
        content_key(&from_stage, &[other_base, files], None)
    );
    assert_eq!(
        layer_key(&step(0, Op::Copy(copy()), &[]), &[base], None),
        None
    );
    assert_eq!(
        layer_key(&step(0, Op::Run(run()), &[]), &[base], None),
        None
    );
}

#[test]
fn cp_a_linked_layer_depends_on_the_accounts_that_its_owner_s_names_are_looked_up_in() {
    let key = |owner: &str, base: u8| {
        let op = CopyOp {
            link: true,
            chown: Some(owner.to_owned()),
            ..copy()
        };
        let step = step(0, Op::Copy(op), &[]);
        layer_key(&step, &[ContentId([base; 32])], None).unwrap()
    };
    for named in ["app", "app:app", "1:app", "app:1", "1:", ":1"] {
        assert_ne!(key(named, 1), key(named, 2), "{named}");
    }
    for numbered in ["", "1", "1:1"] {
        assert_eq!(key(numbered, 1), key(numbered, 2), "{numbered}");
    }
}

#[test]
fn fields_say_what_is_in_the_key() {
    let text = |op: Op| {
        let lines = fields(&step(0, op, &[]), Some(&SOURCE))
            .into_iter()
            .map(|field| format!("{}: {}", field.name, field.value.escape_debug()));
        lines.collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!("copy_fields", text(Op::Copy(copy())));
    insta::assert_snapshot!("run_fields", text(Op::Run(run())));
}

#[test]
fn a_miss_is_explained_by_the_fields_that_differ() {
    let old = fields(&step(0, Op::Run(run()), &[]), None);
    let mut op = run();
    op.env[1].1 = "2".to_owned();
    op.args[2] = "make all".to_owned();
    op.extra_hosts.clear();
    op.mounts.truncate(1);
    op.env.push(("NEW".to_owned(), "x".to_owned()));
    let new = fields(&step(0, Op::Run(op), &[]), Some(&SOURCE));
    let lines: Vec<String> = explain(&old, &new)
        .into_iter()
        .filter(|difference| !difference.name.starts_with("mount"))
        .map(|Difference { name, old, new }| {
            format!(
                "{name}: {} -> {}",
                old.unwrap_or("(none)".into()),
                new.unwrap_or("(none)".into())
            )
        })
        .collect();
    insta::assert_snapshot!("explanation", lines.join("\n"));
    assert_eq!(explain(&old, &old), []);
    let mut reordered = old.clone();
    let first_env = reordered
        .iter()
        .position(|field| field.name == "env PATH")
        .expect("PATH is a field");
    reordered.swap(first_env, first_env + 1);
    assert_eq!(
        explain(&old, &reordered).len(),
        1,
        "an order that changed the key is named"
    );
}
