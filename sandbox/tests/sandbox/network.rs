//! The private network of a build, on machines of the tests' own: a network namespace with a way to another one, a resolver
//! on loopback, and the devices and routes that a case wants. Making one takes root; what is tested runs as each user.

use crate::world::{PATH, World, chain, run_in};
use crate::{Counts, add, skip, users};
use sandbox::{
    Exit, Mode, Network, NetworkKind, NetworkOptions, NetworkProgram, Options, RunSpec, Sandbox,
};
use std::io::Write;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const PROGRAMS: [NetworkProgram; 2] = [NetworkProgram::Pasta, NetworkProgram::Slirp4netns];
/// Where the other namespace is.
const SERVER: &str = "198.18.0.1:8077";
/// Says how a machine is made: `$1` this program, `$2` the case, then the command to run.
const MACHINE: &str = r#"
set -e
self=$1; case=$2; shift 2
ip link set lo up
mount -t tmpfs tmpfs /dev/net
case $case in
    no-device) ;;
    closed-device) mknod -m 600 /dev/net/tun c 10 200 ;;
    *) mknod -m 666 /dev/net/tun c 10 200 ;;
esac
# A namespace in which something of /proc is covered is given no new one.
[ "$case" != neighbours ] || mount --bind /dev/null /proc/interrupts
echo "nameserver 127.0.0.1" > /dev/net/resolv.conf
mount --bind /dev/net/resolv.conf /etc/resolv.conf
"$self" --serve-names & names=$!
if [ "$case" != offline ]; then
    unshare --net "$self" --serve & server=$!
    until [ "$(readlink /proc/$server/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link add out0 type veth peer name in0 netns $server
    ip addr add 198.18.0.2/24 dev out0
    ip link set out0 up
    nsenter --target $server --net sh -c \
        'ip link set lo up; ip addr add 198.18.0.1/24 dev in0; ip link set in0 up'
    ip route add default via 198.18.0.1
fi
"$@" && code=0 || code=$?
exit $code
"#;

type Case = (&'static str, fn(&World));

const CASES: &[Case] = &[
    ("out", way_out),
    ("names", names),
    ("shared", shared),
    ("host", host_access),
    ("ends", ends),
    ("programs", programs),
    ("offline", offline),
    ("no-device", no_device),
    ("closed-device", closed_device),
    ("neighbours", neighbours),
];

/// Runs all cases as root and as each user. They are not part of the other tests, whose machine has no network to rely on.
pub(crate) fn run_all(filters: &[&str]) -> Counts {
    let wanted: Vec<&str> = CASES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| {
            filters
                .iter()
                .all(|filter| format!("network::{name}").contains(filter))
        })
        .collect();
    let mut counts = Counts::default();
    if wanted.is_empty() {
        return counts;
    }
    for tool in ["pasta", "slirp4netns", "ip", "unshare"] {
        let places = std::env::split_paths("/usr/bin:/bin:/usr/sbin:/sbin");
        if !places.into_iter().any(|place| place.join(tool).exists()) {
            return skip("tests of networks", &format!("{tool} is not installed"));
        }
    }
    for name in wanted {
        counts = add(counts, in_machine(name, None));
        for user in users::USERS {
            let counted = users::prepared(user, |prefix, program| {
                in_machine(name, Some((prefix, program)))
            });
            counts = add(
                counts,
                counted.unwrap_or_else(|reason| skip(&format!("network::{name}"), &reason)),
            );
        }
    }
    counts
}

fn in_machine(case: &str, user: Option<(&[String], &Path)>) -> Counts {
    let own = std::fs::read_link("/proc/self/exe").unwrap();
    let (prefix, program) = user.unwrap_or((&[], &own));
    let status = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["sh", "-c", MACHINE, "machine"])
        .arg(&own)
        .arg(case)
        .args(if prefix.is_empty() {
            None
        } else {
            Some("setpriv")
        })
        .args(prefix)
        .arg(program)
        .args(["--in-machine", case])
        .current_dir("/")
        .env_remove("HOME")
        .env_remove("TMPDIR")
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Counts {
            passed: 1,
            ..Counts::default()
        },
        other => {
            println!("network::{case}: {other:?}");
            Counts {
                failed: 1,
                ..Counts::default()
            }
        }
    }
}

/// One case, on its machine, as its user.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let world = match World::new() {
        Ok(world) => world,
        Err(reason) => {
            println!("no world: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let mapping = format!("{:?}", world.sandbox().id_mapping()).to_lowercase();
    let started = Instant::now();
    let (name, body) = CASES
        .iter()
        .find(|(name, _)| Some(*name) == args.first().map(String::as_str))
        .unwrap();
    body(&world);
    let took = started.elapsed().as_millis();
    println!("test {mapping}::network::{name} ... ok ({took} ms)");
    world.remove();
    ExitCode::SUCCESS
}

/// Answers on TCP and UDP in the other namespace, until it is killed.
pub(crate) fn serve() -> ExitCode {
    let listener = TcpListener::bind("0.0.0.0:8077").unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let from = stream.peer_addr().unwrap().ip();
        writeln!(stream, "seen {from}").unwrap();
    }
    ExitCode::SUCCESS
}

/// A name server on loopback that knows one address, for all names.
pub(crate) fn serve_names() -> ExitCode {
    const HEAD: usize = 12;
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let mut buffer = [0; 512];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        let question = &buffer[HEAD..len];
        let end = question.iter().position(|byte| *byte == 0).unwrap() + 5;
        let question = &question[..end];
        let is_ipv4 = question[end - 4..] == [0, 1, 0, 1];
        let mut answer = buffer[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
        answer.extend(question);
        if is_ipv4 {
            answer.extend([0xc0, HEAD as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend([203, 0, 113, 7]);
        }
        socket.send_to(&answer, from).unwrap();
    }
}

fn start(world: &World, network: NetworkOptions) -> Sandbox {
    let options = Options {
        stores: vec![world.store()],
        network,
        ..Options::default()
    };
    Sandbox::start(&options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn with(program: NetworkProgram) -> NetworkOptions {
    NetworkOptions {
        program: Some(program),
        ..NetworkOptions::default()
    }
}

fn private(world: &World, script: &str) -> RunSpec {
    RunSpec {
        network: Network::Private,
        ..world.sh(script)
    }
}

fn say(world: &World, sandbox: &Sandbox, script: &str) -> String {
    match run_in(sandbox, &private(world, script)) {
        Ok(outcome) => format!("{}{}", outcome.stdout, outcome.stderr),
        Err(error) => panic!("{}", chain(&error)),
    }
}

fn hear(address: &str) -> String {
    format!("/probe --probe tcp {address}")
}

fn network_notes(sandbox: &Sandbox) -> Vec<String> {
    let notes = sandbox.notes();
    notes
        .into_iter()
        .filter(|note| note.contains("network"))
        .collect()
}

/// A service of the host: on its loopback, on all its addresses, and on a socket without a file.
fn services() -> (u16, String) {
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = local.local_addr().unwrap().port();
    let name = format!("test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let hidden = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    std::thread::spawn(move || {
        for stream in local.incoming() {
            let _ = stream.unwrap().write_all(b"local service\n");
        }
    });
    std::thread::spawn(move || {
        for stream in hidden.incoming() {
            let _ = stream.unwrap().write_all(b"hidden service\n");
        }
    });
    (port, name)
}

/// FEATURES: the private network reaches other machines, and nothing of the host's own.
fn way_out(world: &World) {
    let (port, hidden) = services();
    for program in PROGRAMS {
        let sandbox = start(world, with(program));
        sandbox.prepare_network();
        let network = sandbox
            .network()
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(network.kind, NetworkKind::Program(program));
        assert_eq!(network.host, None);
        let seen = say(world, &sandbox, &hear(SERVER));
        assert_eq!(seen, "seen 198.18.0.2\n", "{program:?}");
        let gateway = say(
            world,
            &sandbox,
            "ip route | grep default | tr ' ' '\\n' | grep '^[0-9.]*$'",
        );
        for address in ["127.0.0.1", "10.0.2.2", "198.18.0.2", gateway.trim()] {
            let answer = say(world, &sandbox, &hear(&format!("{address}:{port}")));
            assert!(answer.starts_with("no"), "{program:?} {address}: {answer}");
        }
        let of_host = RunSpec {
            network: Network::Host,
            ..world.sh(&hear(&format!("127.0.0.1:{port}")))
        };
        assert_eq!(world.run(&of_host).ok(), "local service\n");
        for (network, found) in [
            (Network::Private, "no\n"),
            (Network::Host, "hidden service\n"),
        ] {
            let mut spec = world.probe("abstract");
            spec.args.push(hidden.clone());
            spec.network = network;
            assert_eq!(run_in(&sandbox, &spec).unwrap().stdout, found);
        }
        assert_eq!(network_notes(&sandbox), [""; 0]);
        let devices = say(world, &sandbox, "ls /sys/class/net");
        assert!(
            devices.contains("lo\n") && devices.lines().count() == 2,
            "{devices}"
        );
    }
    let sandbox = start(world, NetworkOptions::default());
    let network = sandbox.network().unwrap();
    assert_eq!(network.kind, NetworkKind::Program(NetworkProgram::Pasta));
}

fn names(world: &World) {
    for program in PROGRAMS {
        let sandbox = start(world, with(program));
        let server = sandbox.network().unwrap().name_server.unwrap();
        let mut spec = private(world, "busybox nslookup -type=a some.example");
        spec.mounts.push(crate::world::file(
            "/etc/resolv.conf",
            &format!("nameserver {server}\n"),
        ));
        let outcome = run_in(&sandbox, &spec).unwrap();
        assert!(
            outcome.stdout.contains("203.0.113.7"),
            "{program:?}: {outcome:?}"
        );
    }
}

fn shared(world: &World) {
    for program in PROGRAMS {
        let sandbox = start(world, with(program));
        std::thread::scope(|scope| {
            let listening = scope.spawn(|| {
                say(
                    world,
                    &sandbox,
                    "echo from a sister | busybox nc -l -p 7000 -w 10",
                )
            });
            let script = "for try in $(seq 100); do /probe --probe tcp 127.0.0.1:7000 | grep from && break; sleep 0.1; done";
            assert_eq!(say(world, &sandbox, script), "from a sister\n");
            listening.join().unwrap();
        });
        let namespace = |network| {
            let mut spec = world.sh("ls -l /proc/self/ns/net | tr ' ' '\\n' | grep net:");
            spec.network = network;
            run_in(&sandbox, &spec).unwrap().ok()
        };
        let (private, none) = (namespace(Network::Private), namespace(Network::None));
        assert_eq!(private, namespace(Network::Private));
        assert!(private != none && private != namespace(Network::Host));
        let own = world.sh("ls /sys/class/net");
        assert_eq!(run_in(&sandbox, &own).unwrap().ok(), "lo\n");
    }
}

/// Only when it is asked for.
fn host_access(world: &World) {
    let (port, _) = services();
    for program in PROGRAMS {
        let network = NetworkOptions {
            host_access: true,
            ..with(program)
        };
        let sandbox = start(world, network);
        let host: IpAddr = sandbox.network().unwrap().host.unwrap();
        let script = hear(&format!("{host}:{port}"));
        assert_eq!(
            say(world, &sandbox, &script),
            "local service\n",
            "{program:?}"
        );
    }
}

fn processes(names: &[&str]) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if names.iter().any(|wanted| name.starts_with(wanted)) {
            found.push((pid, name.trim().to_owned()));
        }
    }
    found
}

/// Killed callers, helpers and keepers, and builds that end, leave no process; with the last one goes the device.
fn ends(world: &World) {
    const ALL: [&str; 4] = ["pas", "slirp4netns", "kiln-network", "kiln-sandbox"];
    let others = processes(&ALL).len();
    let none_left = |how: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while processes(&ALL).len() > others {
            assert!(
                Instant::now() < deadline,
                "after {how}: {:?}",
                processes(&ALL)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    for program in PROGRAMS {
        let sandbox = start(world, with(program));
        sandbox.network().unwrap();
        assert!(
            processes(&[comm(program)]).len() == 1,
            "{:?}",
            processes(&ALL)
        );
        drop(sandbox);
        none_left("its end");
        for victim in ["caller", "kiln-sandbox", "kiln-network"] {
            let mut child = Command::new("/proc/self/exe")
                .args([
                    "--network-victim",
                    world.store().to_str().unwrap(),
                    program.name(),
                ])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let stdout = child.stdout.as_mut().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
            assert_eq!(line, "ready\n");
            let pid = if victim == "caller" {
                child.id()
            } else {
                // The last of that name: the world's own helper is the other.
                processes(&[victim])
                    .into_iter()
                    .map(|(pid, _)| pid)
                    .max()
                    .unwrap()
            };
            let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(status.unwrap().success());
            if victim == "kiln-network" {
                let deadline = Instant::now() + Duration::from_secs(10);
                while !processes(&[comm(program)]).is_empty() {
                    assert!(Instant::now() < deadline, "{:?}", processes(&ALL));
                    std::thread::sleep(Duration::from_millis(10));
                }
                child.kill().unwrap();
            } else if victim == "kiln-sandbox" {
                child.kill().unwrap();
            }
            child.wait().unwrap();
            none_left(victim);
        }
    }
}

/// Starts a network and waits for its own end.
pub(crate) fn victim(args: &[String]) -> ExitCode {
    let program = PROGRAMS
        .into_iter()
        .find(|program| program.name() == args[1]);
    let sandbox = Sandbox::start(&Options {
        stores: vec![args[0].clone().into()],
        network: with(program.unwrap()),
        ..Options::default()
    })
    .unwrap();
    sandbox.network().unwrap();
    println!("ready");
    std::thread::sleep(Duration::from_secs(600));
    ExitCode::FAILURE
}

/// Missing ones, and those that do not work.
fn programs(world: &World) {
    let none = NetworkOptions {
        search_path: "/nowhere".to_owned(),
        ..NetworkOptions::default()
    };
    let sandbox = start(world, none.clone());
    assert_eq!(say(world, &sandbox, "true"), "");
    assert_eq!(say(world, &sandbox, &hear(SERVER)), "seen 198.18.0.2\n");
    assert_eq!(sandbox.network().unwrap().kind, NetworkKind::Host);
    assert_eq!(
        network_notes(&sandbox),
        [
            "commands use the host's network and reach its local services: neither pasta (package passt) nor slirp4netns (package slirp4netns) is installed; `--network=none` isolates"
        ]
    );
    for program in PROGRAMS {
        let sandbox = start(
            world,
            NetworkOptions {
                program: Some(program),
                ..none.clone()
            },
        );
        let error = chain(&sandbox.network().unwrap_err());
        assert!(
            error.starts_with(&format!("could not find {} (", program.name())),
            "{error}"
        );
        assert!(run_in(&sandbox, &private(world, "true")).is_err());
        assert_eq!(
            run_in(&sandbox, &world.sh("true")).unwrap().exit,
            Exit::Code(0)
        );
    }
    // A pasta that fails: the other one is taken, and it is said why.
    let folder = tempfile::tempdir_in(world.outside()).unwrap();
    let path = folder.path().join("pasta");
    std::fs::write(&path, "#!/bin/sh\necho no luck today >&2\nexit 3\n").unwrap();
    for place in [world.outside(), folder.path(), &path] {
        std::fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }
    let broken = folder.path().to_str().unwrap();
    let search_path = format!("{broken}:/usr/bin:/usr/sbin");
    let sandbox = start(
        world,
        NetworkOptions {
            search_path,
            ..NetworkOptions::default()
        },
    );
    let slirp = NetworkKind::Program(NetworkProgram::Slirp4netns);
    assert_eq!(sandbox.network().unwrap().kind, slirp);
    assert_eq!(
        sandbox.notes().last().unwrap(),
        "pasta failed: no luck today"
    );
    let search_path = broken.to_owned();
    let sandbox = start(
        world,
        NetworkOptions {
            search_path,
            ..NetworkOptions::default()
        },
    );
    assert_eq!(sandbox.network().unwrap().kind, NetworkKind::Host);
    assert!(network_notes(&sandbox)[0].contains("local services: pasta failed: no luck today;"));
}

fn offline(world: &World) {
    let sandbox = start(world, NetworkOptions::default());
    assert_eq!(say(world, &sandbox, "ls /sys/class/net"), "lo\n");
    assert_eq!(sandbox.network().unwrap().kind, NetworkKind::Loopback);
    assert_eq!(
        network_notes(&sandbox),
        ["this machine has no network, so commands have the loopback interface only"]
    );
}

fn no_device(world: &World) {
    let sandbox = start(world, NetworkOptions::default());
    assert_eq!(sandbox.network().unwrap().kind, NetworkKind::Host);
    let note = &network_notes(&sandbox)[0];
    assert!(
        note.contains("/dev/net/tun cannot be opened: No such file"),
        "{note}"
    );
    assert!(note.contains("modprobe tun"), "{note}");
    let sandbox = start(world, with(NetworkProgram::Slirp4netns));
    assert!(chain(&sandbox.network().unwrap_err()).contains("modprobe tun"));
}

/// For root only: it opens the device to its build; a user is told how.
fn closed_device(world: &World) {
    let sandbox = start(world, NetworkOptions::default());
    let network = sandbox.network().unwrap();
    if rustix::process::geteuid().is_root() {
        assert_eq!(network.kind, NetworkKind::Program(NetworkProgram::Pasta));
        return;
    }
    assert_eq!(network.kind, NetworkKind::Host);
    let note = &network_notes(&sandbox)[0];
    assert!(
        note.contains("Permission denied (os error 13) (chmod 0666 /dev/net/tun)"),
        "{note}"
    );
}

/// What a program's process is called.
/// Where `/proc` is the surrounding one's, the processes that keep the build's network are in sight, and out of reach.
fn neighbours(world: &World) {
    assert_eq!(world.sandbox().mode(), Mode::Nested);
    for program in PROGRAMS {
        let sandbox = start(world, with(program));
        sandbox.network().unwrap();
        for wanted in [comm(program), "kiln-network", "kiln-sandbox"] {
            let found = processes(&[wanted]);
            assert!(!found.is_empty(), "{wanted}");
            for (pid, name) in found {
                let look = private(world, &format!("cat /proc/{pid}/comm"));
                let seen = run_in(&sandbox, &look).unwrap().ok();
                assert_eq!(seen.trim(), name);
                let mut spec = world.probe("reach");
                spec.args.push(pid.to_string());
                spec.network = Network::Private;
                let answers = run_in(&sandbox, &spec).unwrap().ok();
                assert_eq!(answers.lines().count(), 14, "{answers}");
                let reached: Vec<&str> = answers
                    .lines()
                    .filter(|line| line.ends_with(" 0"))
                    .collect();
                assert_eq!(reached, [""; 0], "{program:?} {name}");
            }
        }
    }
}

fn comm(program: NetworkProgram) -> &'static str {
    match program {
        // Debian's names itself after another name of the same file.
        NetworkProgram::Pasta => "pas",
        NetworkProgram::Slirp4netns => "slirp4netns",
    }
}
