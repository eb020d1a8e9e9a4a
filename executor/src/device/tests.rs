//! Specifications in folders of their own.

use super::*;
use crate::request::DeviceGrants;

const FIRST: &str = r#"
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
annotations:
  org.mobyproject.buildkit.device.autoallow: true
containerEdits:
  env:
  - COMMON=yes
devices:
- name: foo
  containerEdits:
    env: ["FOO=injected"]
    deviceNodes:
    - path: /dev/vendor
      hostPath: /dev/null
      permissions: rw
    mounts:
    - hostPath: /usr/lib
      containerPath: /opt/lib
      options: [ro, nosuid, bind]
    additionalGids: [44]
- name: bar
  annotations:
    org.mobyproject.buildkit.device.class: fast
  containerEdits:
    env: ["BAR=injected"]
"#;
const SECOND: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor2.com/gpu", "devices": [
    {"name": "0", "containerEdits": {"env": ["GPU=0"]}},
    {"name": "1", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/usr/bin/hook"}]}},
    {"name": "2", "containerEdits": {"intelRdt": {"closID": "x"}}}
]}"#;

fn devices() -> (tempfile::TempDir, Devices) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("first.yaml"), FIRST).unwrap();
    std::fs::write(folder.path().join("second.json"), SECOND).unwrap();
    std::fs::write(folder.path().join("readme.txt"), "kind: x").unwrap();
    let devices = Devices::read(&[folder.path().join("none"), folder.path().to_owned()]);
    (folder, devices)
}

fn request(name: &str) -> DeviceRequest {
    DeviceRequest {
        name: name.to_owned(),
        required: true,
    }
}

fn all() -> DeviceGrants {
    DeviceGrants {
        all: true,
        ..DeviceGrants::default()
    }
}

#[test]
fn ru15_names_of_devices() {
    let (_folder, devices) = devices();
    for (name, expected) in [
        ("vendor1.com/device=foo", &["vendor1.com/device=foo"][..]),
        ("vendor1.com/device", &["vendor1.com/device=bar"]),
        (
            "vendor1.com/device=*",
            &["vendor1.com/device=bar", "vendor1.com/device=foo"],
        ),
        ("vendor1.com/device=fast", &["vendor1.com/device=bar"]),
        ("vendor1.com/device=none", &[]),
        ("vendor3.com/device", &[]),
    ] {
        assert_eq!(devices.find(name, false).unwrap(), expected, "{name}");
        assert_eq!(
            devices.find(name, true).is_err(),
            expected.is_empty(),
            "{name}"
        );
    }
    let error = devices.find("vendor3.com/device=x", true).unwrap_err();
    assert_eq!(
        error.to_string(),
        "required device \"vendor3.com/device=x\" is not registered"
    );
    for bad in ["foo", "foo=bar", "/x", "a/", "1a/b", "a!/b=c"] {
        let error = devices.find(bad, false).unwrap_err().to_string();
        assert_eq!(error, format!("invalid device {bad:?}"));
    }
}

#[test]
fn ru15_devices_must_be_allowed() {
    let (_folder, devices) = devices();
    let none = DeviceGrants::default();
    assert!(
        devices
            .edits(&[request("vendor1.com/device")], &none)
            .is_ok()
    );
    let gpu = [request("vendor2.com/gpu=0")];
    let error = devices.edits(&gpu, &none).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device vendor2.com/gpu=0 is requested by the build but not allowed"
    );
    assert!(
        error
            .help()
            .unwrap()
            .contains("--allow device=vendor2.com/gpu=0")
    );
    for granted in ["vendor2.com/gpu=0", "vendor2.com/gpu=*", "vendor2.com/gpu"] {
        let names = BTreeMap::from([(granted.to_owned(), granted.to_owned())]);
        let grants = DeviceGrants { all: false, names };
        assert!(devices.edits(&gpu, &grants).is_ok(), "{granted}");
    }
    let names = BTreeMap::from([("my/alias".to_owned(), "vendor2.com/gpu=0".to_owned())]);
    let grants = DeviceGrants { all: false, names };
    let (edits, _) = devices.edits(&[request("my/alias")], &grants).unwrap();
    assert_eq!(edits.env, [("GPU".to_owned(), "0".to_owned())]);
}

#[test]
fn ru15_what_a_command_gets() {
    let (_folder, devices) = devices();
    let requests = [
        request("vendor1.com/device=foo"),
        request("vendor1.com/device=*"),
    ];
    let (edits, missing) = devices.edits(&requests, &all()).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = Edits {
        env: vec![
            pair("COMMON", "yes"),
            pair("FOO", "injected"),
            pair("BAR", "injected"),
        ],
        nodes: vec![("/dev/null".into(), "/dev/vendor".to_owned())],
        mounts: vec![EditMount {
            source: "/usr/lib".into(),
            target: "/opt/lib".to_owned(),
            readonly: true,
            noexec: false,
            tmpfs: false,
        }],
        groups: vec![44],
        ..Edits::default()
    };
    assert_eq!((edits, missing), (expected, Vec::new()));
    let optional = DeviceRequest {
        required: false,
        ..request("vendor9.com/x")
    };
    let (edits, missing) = devices.edits(&[optional], &all()).unwrap();
    assert_eq!(
        (edits, missing),
        (Edits::default(), vec!["vendor9.com/x".to_owned()])
    );
    for (device, says) in [("1", "createContainer /usr/bin/hook"), ("2", "intelRdt")] {
        let error = devices
            .edits(&[request(&format!("vendor2.com/gpu={device}"))], &all())
            .unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn ru15_bad_files_are_told_when_a_device_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.yaml", "kind: [1"),
        ("b.json", "{}"),
        (
            "c.yaml",
            "kind: vendor/class\ncdiVersion: '0.5.0'\ndevices: [{name: x}]",
        ),
        (
            "d.yaml",
            "kind: vendor/class\ncdiVersion: '0.5.0'\ndevices: [{name: x}]",
        ),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let devices = Devices::read(&[folder.path().to_owned()]);
    let error = devices.find("vendor/class=x", true).unwrap_err();
    let help = error.help().unwrap();
    for part in [
        "a.yaml",
        "b.json: kind is missing",
        "vendor/class=x: described twice",
    ] {
        assert!(help.contains(part), "{help}");
    }
}
