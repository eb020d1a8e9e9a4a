//! Owners and identities: what commands ask for is what they see afterwards, whatever ids there are to give.

use crate::Case;
use crate::world::World;
use sandbox::{IdMapping, Mount};

pub(crate) const CASES: &[Case] = &[
    ("owners_are_seen_as_they_were_set", seen),
    ("owners_follow_files", follow),
    ("owners_of_links_pipes_and_sockets", unable),
    ("owners_of_new_files_are_their_makers", new_files),
    ("owners_in_set_group_id_folders", set_group_id),
    ("owners_through_a_changed_root", changed_root),
    ("owners_in_other_file_systems", other_file_systems),
    ("owners_of_mounts", mounts),
    ("owners_chown_clears_set_id_bits", set_id_bits),
    ("identities_change_by_the_rules", identities),
    ("identities_are_inherited_by_daemons", daemons),
    ("identities_of_set_id_programs", set_id_programs),
    ("identities_by_su", su),
    ("identities_by_old_calls", old_calls),
    ("identities_of_threads", threads),
    ("identities_many_processes_at_once", many),
    ("owners_table_beside_the_upper", table),
];

#[track_caller]
fn says(world: &World, script: &str, expected: &str) {
    let script = format!("stat() {{ /bin/busybox stat \"$@\"; }}; set -e; {script}");
    let outcome = world.run(&world.sh(&script));
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(text, expected, "{script}");
}

fn seen(world: &World) {
    says(
        world,
        "mkdir /d; touch /d/a; chown 33:42 /d/a; chown 7 /d; chown :9 /d; stat -c '%u:%g' /d/a /d; ls -ln /d | /bin/busybox awk 'NR == 2 { print $3, $4 }'",
        "33:42\n7:9\n33 42\n",
    );
    says(
        world,
        "touch /a; chown 33:42 /a; chown 5 /a; stat -c '%u:%g' /a; chown 0:0 /a; stat -c '%u:%g' /a; chown 65535:70000 /a 2>&1 || true; cd /; stat -c '%u:%g' a",
        if world.is(IdMapping::Subordinate) {
            // The test's user has 65536 ids.
            "5:42\n0:0\nchown: /a: Invalid argument\n0:0\n"
        } else {
            "5:42\n0:0\n65535:70000\n"
        },
    );
    says(
        world,
        "touch /a; exec 5< /a; chown 8:9 /proc/self/fd/5; stat -L -c '%u:%g' /proc/self/fd/5 /dev/fd/5; chown 1:1 /nothing 2>&1 || true",
        "8:9\n8:9\nchown: /nothing: No such file or directory\n",
    );
}

fn follow(world: &World) {
    says(
        world,
        "mkdir /d /e; echo x > /d/a; chown 33:42 /d/a; mv /d/a /e/b; ln /e/b /e/c; cp -a /e/b /e/d; cp /e/b /e/p; stat -c '%n %u:%g' /e/*; rm /e/b; touch /e/b; stat -c '%u:%g' /e/b",
        "/e/b 33:42\n/e/c 33:42\n/e/d 33:42\n/e/p 0:0\n0:0\n",
    );
    // In the next command, from the layer that the first one made.
    let spec = world.sh("mkdir /d; echo x > /d/a; chown 33:42 /d /d/a");
    let upper = spec.root.upper.as_ref().unwrap().0.clone();
    world.run(&spec).ok();
    let mut spec = world
        .sh("stat -c '%u:%g' /d /d/a; echo y >> /d/a; touch /d/b; stat -c '%u:%g' /d /d/a /d/b");
    spec.root.lowers.insert(0, upper);
    assert_eq!(world.run(&spec).ok(), "33:42\n33:42\n33:42\n33:42\n0:0\n");
}

fn unable(world: &World) {
    says(
        world,
        "mkdir /d; cd /d; ln -s nowhere l; /bin/busybox mkfifo p; touch x; ln -s x m; chown -h 33:42 l m; chown 5:6 p; mv l k; chmod 0 x; chown 1:2 x; stat -c '%n %u:%g' k m p x; chown 3:4 m; stat -c '%n %u:%g' m x; rm k; ln -s a k; stat -c '%u:%g' k",
        "k 33:42\nm 33:42\np 5:6\nx 1:2\nm 33:42\nx 3:4\n0:0\n",
    );
}

/// A script as another user.
fn as_user(script: &str) -> String {
    format!("/probe --probe as 1000 1001 sh -c '{script}'")
}

fn new_files(world: &World) {
    let make = as_user(
        "umask 027; cd /tmp; echo x > f; echo y >> f; mkdir d; ln -s f l; /bin/busybox mkfifo p; echo z > d/g; /bin/busybox mktemp -p /tmp >/dev/null; id -u; id -g",
    );
    says(
        world,
        &format!("{make}; cd /tmp; stat -c '%n %u:%g %a' d d/g f p; stat -c '%u:%g' l tmp.*"),
        "1000\n1001\nd 1000:1001 750\nd/g 1000:1001 640\nf 1000:1001 640\np 1000:1001 640\n1000:1001\n1000:1001\n",
    );
    let by_user = as_user("chown 1000 /tmp/f; chown :1001 /tmp/f; chown 0 /tmp/f 2>&1; true");
    says(
        world,
        &format!("touch /tmp/f; chown 1000:1000 /tmp/f; {by_user}; stat -c '%u:%g' /tmp/f"),
        "chown: /tmp/f: Operation not permitted\n1000:1001\n",
    );
    let mut spec = world.sh("id -u; id -g; id -G; touch /tmp/x; stat -c '%u %g' /tmp/x");
    (spec.uid, spec.gid, spec.groups) = (1000, 1001, vec![1001, 7, 2000]);
    assert_eq!(
        world.run(&spec).ok(),
        "1000\n1001\n1001 7 2000\n1000 1001\n"
    );
}

fn set_group_id(world: &World) {
    says(
        world,
        "mkdir /d; chown 0:50 /d; chmod 2775 /d; touch /d/f; mkdir /d/e; echo x > /d/e/g; ln -s x /d/l; stat -c '%n %u:%g %a' /d/f /d/e /d/e/g; stat -c '%u:%g' /d/l",
        "/d/f 0:50 644\n/d/e 0:50 2755\n/d/e/g 0:50 644\n0:50\n",
    );
}

fn changed_root(world: &World) {
    says(
        world,
        "mkdir -p /r/bin /r/d; cp /bin/busybox /r/bin/sh; cp /bin/busybox /r/bin/busybox; touch /f; chroot /r /bin/sh -c '/bin/busybox touch /f /d/g; /bin/busybox ln -s /f /d/l; /bin/busybox chown 33:42 /f; cd /d; /bin/busybox chown 5:6 g; /bin/busybox chown 9:8 l; /bin/busybox stat -c %u:%g /f g l /d/g; /bin/busybox stat -L -c %u:%g l'; stat -c '%u:%g' /r/f /r/d/g /r/d/l /f",
        "9:8\n5:6\n0:0\n5:6\n9:8\n9:8\n5:6\n0:0\n0:0\n",
    );
}

fn other_file_systems(world: &World) {
    says(
        world,
        "touch /dev/shm/f; ln -s x /dev/shm/l; chown 33:42 /dev/shm/f; chown -h 5:6 /dev/shm/l; stat -c '%u:%g' /dev/shm/f /dev/shm/l; stat -c '%u:%g' /proc/self/status",
        "33:42\n5:6\n0:0\n",
    );
}

/// Files in memory and sockets of the host have the owners that are asked for, though they can carry none.
fn mounts(world: &World) {
    let socket = world.folder().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let file = |target: &str, (uid, gid)| Mount::File {
        target: target.to_owned(),
        data: b"content".to_vec(),
        mode: 0o440,
        uid,
        gid,
    };
    let mut spec = world.sh(
        "/bin/busybox stat -c '%u:%g %a' /secret /run/other /plain; \
         cat /secret; if chown 1 /secret; then echo given; fi; /bin/busybox stat -c '%u:%g' /agent",
    );
    spec.mounts = vec![
        file("/secret", (5, 6)),
        file("/run/other", (7, 0)),
        file("/plain", (0, 0)),
        Mount::Bind {
            source: socket,
            subpath: String::new(),
            target: "/agent".to_owned(),
            readonly: false,
            nosuid: true,
            noexec: true,
            owner: Some((5, 6)),
        },
    ];
    let outcome = world.run(&spec);
    let socket = if world.is(IdMapping::Single) {
        "5:6"
    } else {
        "0:0"
    };
    let expected = format!("5:6 440\n7:0 440\n0:0 440\ncontent{socket}\n");
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
}

fn set_id_bits(world: &World) {
    says(
        world,
        "cp /bin/busybox /x; chmod 6755 /x; chown 33:42 /x; stat -c '%a %u:%g' /x; chmod 4755 /x; chown 0:0 /x; stat -c '%a %u:%g' /x",
        "755 33:42\n755 0:0\n",
    );
}

fn identities(world: &World) {
    assert_eq!(
        world.run(&world.probe("identities")).ok(),
        "0 0 0 | 0 0 0 | \n\
         groups: 4 5\n\
         seteuid 42: 0 42 0 | 7 7 7 | 4 5\n\
         setgroups as 42: EPERM\n\
         back: 0 0 0 | 7 7 7 | 4 5\n\
         setuid 42: 42 42 42 | 7 7 7 | 4 5\n\
         seteuid 0: EPERM\n\
         setresgid 0: EPERM\n\
         setfsuid 0: 42 42\n"
    );
}

fn daemons(world: &World) {
    let daemon = as_user(
        "(/bin/busybox setsid sh -c \"sleep 0.3; echo x > /tmp/late; id -u > /tmp/who\" &) ; exit 0",
    );
    says(
        world,
        &format!(
            "{daemon}; while [ ! -s /tmp/who ]; do sleep 0.05; done; cat /tmp/who; stat -c '%u:%g' /tmp/late; id -u"
        ),
        "1000\n1000:1001\n0\n",
    );
}

fn set_id_programs(world: &World) {
    let user = as_user("/s --probe four-ids; /g --probe four-ids; /p --probe four-ids");
    says(
        world,
        &format!(
            "for f in s g p; do cp /probe /$f; chown 33:50 /$f; done; chmod 4755 /s; chmod 2755 /g; {user}; /s --probe four-ids"
        ),
        "1000 33 1001 1001\n1000 1000 1001 50\n1000 1000 1001 1001\n0 33 0 0\n",
    );
}

fn su(world: &World) {
    says(
        world,
        "/bin/busybox su ann -c 'id -un; /bin/busybox whoami; touch /tmp/hers'; stat -c '%u:%g' /tmp/hers",
        "ann\nann\n1000:1000\n",
    );
}

fn old_calls(world: &World) {
    if cfg!(not(target_arch = "x86_64")) {
        return;
    }
    assert_eq!(
        world.run(&world.probe("old-calls")).ok(),
        "chown16 0\nstat 33:42\nstat64 33:42\nchown32 0\nstat 33:65534\nstat64 33:60000\nsetuid32 0\ngetuid16 1000\ngeteuid32 1000\nchown32 -1\n"
            .replace("33:65534", "33:60000")
    );
}

fn threads(world: &World) {
    assert_eq!(
        world.run(&world.probe("thread-identities")).ok(),
        "0 1000 0\n1000\n"
    );
}

/// Neither a slow command nor many at once keep the first process from reaping.
fn many(world: &World) {
    let work = "for i in 1 2 3 4 5 6 7 8; do (for j in $(seq 20); do touch /tmp/$i.$j; chown $i:$j /tmp/$i.$j; [ $(stat -c %u:%g /tmp/$i.$j) = $i:$j ] || echo wrong; done) & done; wait";
    says(
        world,
        &format!("{work}; ls /tmp | wc -l; stat -c '%u:%g' /tmp/8.20"),
        "160\n8:20\n",
    );
}

fn table(world: &World) {
    if !world.is(IdMapping::Single) {
        assert!(!world.sandbox().records_owners());
        return;
    }
    assert!(
        world.sandbox().records_owners(),
        "{:?}",
        world.sandbox().notes()
    );
    let spec = world.sh("mkdir /d; ln -s x /d/l; touch /d/f; chown -h 33:42 /d/l /d/f");
    let (upper, work) = spec.root.upper.clone().unwrap();
    world.run(&spec).ok();
    let mut value = [0; 32];
    let length = rustix::fs::lgetxattr(upper.join("d/f"), sandbox::OWNER_ATTRIBUTE, &mut value);
    assert_eq!(
        sandbox::parse_owner(&value[..length.unwrap()]),
        Some((33, 42))
    );
    let records = sandbox::owner_table(&work).unwrap();
    let [link] = records.as_slice() else {
        panic!("{records:?}");
    };
    assert_eq!(
        (link.path.as_slice(), link.uid, link.gid),
        (&b"/d/l"[..], 33, 42)
    );
    let inode =
        std::os::unix::fs::MetadataExt::ino(&std::fs::symlink_metadata(upper.join("d/l")).unwrap());
    assert_eq!(link.inode, inode);
}
