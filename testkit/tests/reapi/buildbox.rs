//! The real server starts, is as the module says, and leaves nothing behind.

use crate::client::{Node, Script, connect, output};
use testkit::reapi::{Buildbox, BuildboxSetup};

const TIME: i64 = 1_000_000_000;

/// `/bin` with busybox, and entries of several kinds; with node properties or without.
fn root(told: bool) -> Option<Vec<Node>> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let Some(busybox) = busybox.iter().find_map(|path| std::fs::read(path).ok()) else {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED: busybox is not installed\n",
        );
        return None;
    };
    let told = |mode| told.then_some((mode, TIME));
    let links = ["sh", "stat", "id", "sleep", "ls", "echo", "cp", "cat"];
    let mut bin = vec![Node::File("busybox", busybox, true, None)];
    bin.extend(links.map(|name| Node::Link(name, "busybox", None)));
    let tree = vec![
        Node::File("plain", b"plain".to_vec(), false, told(0o640)),
        Node::File("suid", b"suid".to_vec(), true, told(0o4755)),
        Node::Folder("sticky", Vec::new(), told(0o1777)),
        Node::Link("link", "/nowhere", told(0o777)),
    ];
    Some(vec![
        Node::Folder("bin", bin, None),
        Node::Folder("tree", tree, None),
    ])
}

async fn staged(server: &Buildbox, told: bool) -> Option<Vec<String>> {
    let script = "cd /tree; stat -c '%n %a %Y' plain suid sticky; cp plain /out/file";
    let script = Script {
        root: root(told)?,
        outputs: vec!["out/file".to_owned()],
        ..Script::new(script)
    };
    let script = script.platform(&Buildbox::properties());
    let channel = connect(&server.url()).await;
    let response = script.run(&channel).await;
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 0, "{}", server.log());
    assert_eq!(result.output_files[0].path, "out/file");
    let said = output(&channel, &result).await;
    Some(said.lines().map(str::to_owned).collect())
}

async fn check(fuse: bool) {
    let setup = BuildboxSetup {
        fuse,
        ..BuildboxSetup::default()
    };
    let Some(mut server) = Buildbox::start(&setup) else {
        return;
    };
    if server.fuse() != fuse {
        return;
    }
    let Some(told) = staged(&server, true).await else {
        return;
    };
    assert_eq!(
        told,
        [
            "plain 640 1000000000",
            "suid 4755 1000000000",
            "sticky 1777 1000000000"
        ]
    );
    let folder = if fuse { 755 } else { 777 };
    assert_eq!(
        staged(&server, false).await.unwrap(),
        [
            "plain 644 1321009871",
            "suid 755 1321009871",
            &format!("sticky {folder} 1321009871"),
        ]
    );
    server.stop();
    assert_eq!((server.children(), server.mounts()), (0, Vec::new()));
    // What it had is there when it comes back.
    server.start_again();
    assert!(staged(&server, false).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn buildbox_stages_through_fuse() {
    check(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildbox_stages_copies() {
    check(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buildbox_that_crashes_in_the_middle_of_a_command_leaves_no_process_and_no_mount() {
    let Some(mut server) = Buildbox::start(&BuildboxSetup::default()) else {
        return;
    };
    let Some(root) = root(false) else {
        return;
    };
    let script = Script {
        root,
        ..Script::new("sleep 600")
    };
    let channel = connect(&server.url()).await;
    let action = script.send(&channel).await;
    let running = tokio::spawn(async move {
        let mut client = testkit::reapi::proto::execution_client::ExecutionClient::new(channel);
        let request = testkit::reapi::proto::ExecuteRequest {
            action_digest: Some(action),
            ..Default::default()
        };
        let mut stream = client.execute(request).await?.into_inner();
        while stream.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    });
    while server.children() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    server.crash();
    assert!(running.await.unwrap().is_err());
    assert_eq!((server.children(), server.mounts()), (0, Vec::new()));
}
