//! `RUN --mount=type=cache`: whose it is, how long it lasts, who uses it at the same time.

use crate::support::{Project, is_root};
use std::fs;

#[test]
fn ru05_options_of_caches() {
    let owner = if is_root() { "1001 1002" } else { "0 0" };
    let project = Project::new(&format!(
        "FROM busybox AS filled\nRUN mkdir -p /d/sub && echo base > /d/sub/f\n\
         FROM busybox\n\
         RUN --mount=type=cache,target=/mycache touch /mycache/foo\n\
         RUN --mount=type=cache,target=/mycache2 [ ! -f /mycache2/foo ]\n\
         RUN --mount=type=cache,target=/mycache [ -f /mycache/foo ]\n\
         RUN --mount=type=cache,id=/mycache,target=/other [ -f /other/foo ]\n\
         RUN --mount=type=cache,target=/mycache,ro ! touch /mycache/bar && [ -f /mycache/foo ]\n\
         RUN --mount=type=cache,target=/u,uid=1001,gid=1002,mode=0751 [ \"$(stat -c '%u %g %f' /u)\" = \"{owner} 41e9\" ]\n\
         RUN --mount=type=cache,target=/s mkdir /s/sub && touch /s/sub/in\n\
         RUN --mount=type=cache,id=/s,source=sub,target=/part [ -f /part/in ]\n\
         RUN --mount=type=cache,from=filled,source=/d,target=/f [ \"$(cat /f/sub/f)\" = base ] && echo new > /f/sub/g\n\
         RUN --mount=type=cache,from=filled,source=/d,target=/f [ \"$(cat /f/sub/g)\" = new ] && echo more > /f/sub/f\n\
         RUN --mount=type=cache,from=filled,source=/d/sub,target=/f [ \"$(cat /f/f)\" = more ]\n\
         RUN --mount=type=cache,id=twice,target=/1 --mount=type=cache,id=twice,sharing=locked,target=/2 \\\n\
         \x20   touch /1/x && [ -e /2/x ]\n\
         RUN [ ! -e /mycache ] && [ ! -e /u ] && [ ! -e /f ] && [ ! -e /part ]\n",
    ));
    project.build(&[]).ok();
}

#[test]
fn ru05_namespaces_of_caches() {
    let project = Project::new(
        "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c echo $N >> /c/log && cp /c/log /log\n",
    );
    for (namespace, n, expected) in [
        ("one", "1", "1\n"),
        ("two", "2", "2\n"),
        ("one", "3", "1\n3\n"),
    ] {
        let namespace = format!("BUILDKIT_CACHE_MOUNT_NS={namespace}");
        let n = format!("N={n}");
        let args = ["--build-arg", &namespace, "--build-arg", &n, "-o", "out"];
        project.build(&args).ok();
        let log = fs::read_to_string(project.path("out/log")).unwrap();
        assert_eq!(log, expected);
    }
}

/// RU06: a link in a cache leads nowhere out of it.
#[test]
fn ru06_sources_stay_in_their_cache() {
    let project = Project::new(
        "FROM busybox\n\
         RUN --mount=type=cache,target=/c echo mine > /c/mark && ln -s / /c/abs && ln -s ../../../../../../.. /c/up \\\n\
         \x20   && ln -s /etc/hostname /c/file\n\
         RUN --mount=type=cache,id=/c,source=abs,target=/x [ \"$(cat /x/mark)\" = mine ]\n\
         RUN --mount=type=cache,id=/c,source=up,target=/x [ \"$(cat /x/mark)\" = mine ]\n\
         RUN --mount=type=cache,id=/c,source=../../..,target=/x [ \"$(cat /x/mark)\" = mine ]\n",
    );
    project.build(&[]).ok();
    project.write(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=cache,id=/c,source=file,target=/x true\n",
    );
    project
        .build(&[])
        .fails(1, &["find /file in the mount's source", "Dockerfile:2"]);
}

/// What a step of two builds at once saw: its own mark, the other's, or both.
fn at_the_same_time(sharing: &str) -> Vec<String> {
    // Each waits for the other for some time, but not for ever.
    let project = Project::new(&format!(
        "FROM busybox\nARG ME\n\
         RUN --mount=type=cache,target=/c,sharing={sharing} touch /c/in-$ME; \\\n\
         \x20   for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \\\n\
         \x20   [ $(ls /c | wc -l) = 2 ] && break; sleep 0.1; done; ls /c | wc -l > /seen; sleep 0.5; rm /c/in-$ME\n",
    ));
    let start = |me: &str| {
        let args = [
            "--build-arg",
            &format!("ME={me}"),
            "-o",
            &format!("out-{me}"),
        ];
        project.start(project.build_command(&args))
    };
    let (one, two) = (start("one"), start("two"));
    one.finish().ok();
    two.finish().ok();
    ["one", "two"]
        .map(|me| {
            let seen = project.path(&format!("out-{me}/seen"));
            fs::read_to_string(seen).unwrap().trim().to_owned()
        })
        .into()
}

#[test]
fn ru05_shared_caches_are_used_together() {
    assert_eq!(at_the_same_time("shared"), ["2", "2"]);
}

#[test]
fn ru05_locked_caches_are_used_in_turn() {
    assert_eq!(at_the_same_time("locked"), ["1", "1"]);
}

#[test]
fn ru05_private_caches_are_others_while_in_use() {
    assert_eq!(at_the_same_time("private"), ["1", "1"]);
    let project = Project::new(
        "FROM busybox AS one\nRUN --mount=type=cache,target=/c,sharing=private sleep 3; touch /c/x; ls /c > /seen\n\
         FROM busybox AS two\nRUN --mount=type=cache,target=/c,sharing=private sleep 3; touch /c/y; ls /c > /seen\n\
         FROM scratch\nCOPY --from=one /seen /one\nCOPY --from=two /seen /two\n",
    );
    project.build(&["-o", "out"]).ok();
    let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
    assert_eq!((read("one"), read("two")), ("x\n".into(), "y\n".into()));
}

/// Steps that want the same caches in different order end, and so do two stages with nested caches.
#[test]
fn ru05_steps_never_wait_for_each_other() {
    let project = Project::new(
        "FROM busybox AS b1\n\
         RUN --mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz echo 1\n\
         RUN --mount=type=cache,id=a,target=/a,sharing=locked --mount=type=cache,id=b,target=/b,sharing=locked sleep 0.3\n\
         FROM busybox AS b2\n\
         RUN --mount=type=cache,target=/foo/bar --mount=type=cache,target=/foo/bar/baz echo 2\n\
         RUN --mount=type=cache,id=b,target=/b,sharing=locked --mount=type=cache,id=a,target=/a,sharing=locked sleep 0.3\n\
         FROM scratch\nCOPY --from=b1 /etc/passwd p1\nCOPY --from=b2 /etc/passwd p2\n",
    );
    for _ in 0..5 {
        project.build(&["--no-cache"]).ok();
    }
}

#[test]
fn ru05_waiting_for_a_cache_ends_with_ctrl_c() {
    let project = Project::new(
        "FROM busybox\nARG ME\nRUN --mount=type=cache,target=/c,sharing=locked echo $ME-has-$((1+1)); sleep 20\n",
    );
    let start = |me: &str| {
        let arg = format!("ME={me}");
        project.start(project.build_command(&["--build-arg", &arg]))
    };
    let mut first = start("first");
    first.wait_for("first-has-2");
    let mut second = start("second");
    second.wait_for("RUN --mount=type=cache");
    std::thread::sleep(std::time::Duration::from_millis(300));
    second.signal(rustix::process::Signal::INT);
    let ended = second.finish();
    assert_eq!(ended.status, 130, "{}", ended.stderr);
    assert!(!ended.stderr.contains("second-has-2"), "{}", ended.stderr);
    first.signal(rustix::process::Signal::INT);
    first.finish().fails(130, &[]);
}
