//! Names that RUN looks up from a private network: machines of their own, with IPv6 only or a name server of their own.

use crate::support::{Project, Run, able, is_root, program, wait_until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Network and mounts of a machine: this one's files with another resolver. Ends with the test.
struct Machine {
    child: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    fn new(project: &Project, resolver: &str, commands: &str) -> Self {
        let conf = project.path("resolv.conf");
        fs::write(&conf, format!("nameserver {resolver}\n")).unwrap();
        let ready = project.path("ready");
        let _ = fs::remove_file(&ready);
        let script = format!(
            "set -e; ip link set lo up; ip link add d0 type veth peer name d1; ip link set d1 up; ip link set d0 up\n{commands}\n\
             mount --bind {} /etc/resolv.conf; touch {}; exec sleep 1000",
            conf.display(),
            ready.display()
        );
        let mut command = program(Path::new("unshare"));
        command.args(["--mount", "--net", "sh", "-c", &script]);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let mut machine = Self { child };
        let is_ready = wait_until(Duration::from_secs(30), || {
            ready.exists() || machine.child.try_wait().unwrap().is_some()
        });
        assert!(is_ready && ready.exists(), "no machine");
        machine
    }

    /// Opens something in the machine's network and works with it on a thread.
    fn serve<T>(
        &self,
        open: impl FnOnce() -> T + Send + 'static,
        work: impl FnOnce(T) + Send + 'static,
    ) {
        let network = File::open(format!("/proc/{}/ns/net", self.child.id())).unwrap();
        let (opened, is_open) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).unwrap();
            let socket = open();
            opened.send(()).unwrap();
            work(socket);
        });
        is_open.recv().unwrap();
    }

    fn build(&self, project: &Project, args: &[&str]) -> Run {
        let build = project.build_command(args);
        let mut command = program(Path::new("nsenter"));
        let pid = self.child.id().to_string();
        command.args(["--target", &pid, "--mount", "--net", "--"]);
        command.args(["sh", "-c", "cd \"$0\" && exec \"$@\""]);
        command.arg(project.path("."));
        command.arg(build.get_program()).args(build.get_args());
        for (name, value) in build.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        project.run(command)
    }
}

/// Answers every question for a name with this address, or with none of that kind.
fn name_server(socket: &UdpSocket, answer: IpAddr) {
    let mut question = [0; 512];
    while let Ok((read, asker)) = socket.recv_from(&mut question) {
        let question = &question[..read];
        let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
        let (kind, bytes) = match answer {
            IpAddr::V4(address) => (1, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        let is_asked = question[end - 3] == kind;
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, u8::from(is_asked), 0, 0, 0, 0]);
        reply.extend(&question[12..end]);
        if is_asked {
            reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0]);
            reply.push(u8::try_from(bytes.len()).unwrap());
            reply.extend(&bytes);
        }
        socket.send_to(&reply, asker).unwrap();
    }
}

const DOCKERFILE: &str =
    "FROM busybox\nRUN cat /etc/resolv.conf > /conf; nslookup service.example > /answer\n";

fn is_able() -> bool {
    let exists = |path: &&str| Path::new(path).exists();
    let needed = ["/usr/bin/pasta", "/usr/bin/nsenter", "/dev/net/tun"];
    let ip = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"];
    able(
        is_root() && needed.iter().all(exists) && ip.iter().any(|path| Path::new(path).exists()),
        "root, pasta, /dev/net/tun, ip and nsenter",
    )
}

/// RU13: what the command sees as its resolver, and that it works.
#[test]
fn ru13_names_behind_pasta() {
    if !is_able() {
        return;
    }
    let v6 = "ip addr add fd10::2/64 dev d0 nodad; ip addr add fd11::1/128 dev lo nodad; ip -6 route add default via fd10::1";
    let v4 = "ip addr add 192.0.2.2/24 dev d0; ip addr add 198.51.100.1/32 dev lo; ip route add default via 192.0.2.1";
    for (commands, resolver, service, told) in [
        // A machine with IPv6 only.
        (v6, "::1", "fd11::1", "fd00:6b69:6c6e::53"),
        (v6, "fd11::1", "fd11::1", "fd11::1"),
        (v4, "127.0.0.1", "198.51.100.1", "169.254.1.1"),
        // Answers come from the server that was asked.
        (v4, "198.51.100.1", "198.51.100.1", "198.51.100.1"),
    ] {
        let project = Project::new(DOCKERFILE);
        let machine = Machine::new(&project, resolver, commands);
        let (at, address): (IpAddr, IpAddr) = (resolver.parse().unwrap(), service.parse().unwrap());
        machine.serve(
            move || UdpSocket::bind((at, 53)).unwrap(),
            move |socket| name_server(&socket, address),
        );
        let run = machine.build(
            &project,
            &["--network=pasta", "--progress=plain", "-o", "out"],
        );
        assert_eq!(run.status, 0, "{resolver}: {}", run.stderr);
        let read = |name: &str| fs::read_to_string(project.path("out").join(name)).unwrap();
        assert_eq!(read("conf"), format!("nameserver {told}\n"));
        let answer = read("answer");
        assert!(
            answer.contains(&format!("Address: {service}\n")),
            "{answer}"
        );
    }
}

/// RU13: a name server that no command can ask is told about, with what helps.
#[test]
fn ru13_names_that_cannot_be_looked_up() {
    if !is_able() {
        return;
    }
    let project = Project::new("FROM busybox\nRUN true\n");
    let commands = "ip addr add 192.0.2.2/24 dev d0; ip route add default via 192.0.2.1";
    let machine = Machine::new(&project, "::1", commands);
    let run = machine.build(&project, &["--progress=plain"]).ok();
    let told = "commands cannot ask this machine's name server ::1";
    assert_eq!(run.stderr.matches(told).count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("--network=host"));
}
