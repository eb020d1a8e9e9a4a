//! Keys and agents against OpenSSH's own programs.

use super::*;
use std::process::Command;

/// Whether OpenSSH's programs are here to compare with.
#[allow(clippy::print_stderr, reason = "says what it skips")]
fn has_openssh() -> bool {
    let there = Command::new("ssh-keygen").arg("-?").output().is_ok();
    if !there {
        eprintln!("SKIPPED: needs ssh-keygen");
    }
    there
}

fn keygen(args: &[&str]) {
    let made = Command::new("ssh-keygen").arg("-q").args(args).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// A request for a signature of `data` by a key, as a client sends it.
fn sign_request(key: &Key, data: &[u8], flags: u32) -> Vec<u8> {
    let mut request = vec![13];
    key::push_text(&mut request, key.public());
    key::push_text(&mut request, data);
    request.extend(flags.to_be_bytes());
    request
}

#[test]
fn ru10_keys_of_all_kinds_sign_what_openssh_accepts() {
    if !has_openssh() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, args) in [
        ("ed25519", &["-t", "ed25519"][..]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("rsa-pem", &["-t", "rsa", "-b", "3072", "-m", "PEM"]),
        ("rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-m", "PKCS8"]),
        ("p256", &["-t", "ecdsa", "-b", "256"]),
        ("p256-pem", &["-t", "ecdsa", "-b", "256", "-m", "PEM"]),
        ("p384-pkcs8", &["-t", "ecdsa", "-b", "384", "-m", "PKCS8"]),
    ] {
        let path = folder.path().join(name);
        let file = path.to_str().unwrap();
        keygen(&[args, &["-N", "", "-C", "a comment", "-f", file]].concat());
        let keys = [key::read(&path).unwrap()];
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        let mut words = public.split(' ');
        let (kind, blob) = (words.next().unwrap(), words.next().unwrap());
        let blob = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, blob);
        assert_eq!(keys[0].public(), blob.unwrap(), "{name}");
        // What ssh-keygen -Y signs and checks (PROTOCOL.sshsig): made by hand around a signature of ours.
        let message = b"a message";
        let hash = ring::digest::digest(&ring::digest::SHA512, message);
        let head = |out: &mut Vec<u8>| {
            for text in [&b"kiln"[..], b"", b"sha512"] {
                key::push_text(out, text);
            }
        };
        let mut data = b"SSHSIG".to_vec();
        head(&mut data);
        key::push_text(&mut data, hash.as_ref());
        let answer = agent::answer(&sign_request(&keys[0], &data, 4), &keys).unwrap();
        assert_eq!(answer[0], 14, "{name}");
        let mut armoured = b"SSHSIG\0\0\0\x01".to_vec();
        key::push_text(&mut armoured, keys[0].public());
        head(&mut armoured);
        armoured.extend(&answer[1..]);
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, armoured);
        let signature = folder.path().join("signature");
        let armour =
            format!("-----BEGIN SSH SIGNATURE-----\n{text}\n-----END SSH SIGNATURE-----\n");
        std::fs::write(&signature, armour).unwrap();
        let allowed = folder.path().join("allowed");
        std::fs::write(&allowed, format!("me {kind} {}", words_of(&public))).unwrap();
        let mut check = Command::new("ssh-keygen");
        check.args(["-Y", "verify", "-I", "me", "-n", "kiln", "-f"]);
        check.arg(&allowed).arg("-s").arg(&signature);
        let message_file = folder.path().join("message");
        std::fs::write(&message_file, message).unwrap();
        check.stdin(File::open(&message_file).unwrap());
        let checked = check.output().unwrap();
        assert!(checked.status.success(), "{name}: {checked:?}");
    }
}

fn words_of(public: &str) -> &str {
    public.split(' ').nth(1).unwrap()
}

#[test]
fn ru10_keys_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    for text in [
        "",
        "no key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ] {
        std::fs::write(&path, text).unwrap();
        let error = key::read(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("failed to parse {}", path.display())),
            "{error}"
        );
    }
    if !has_openssh() {
        return;
    }
    for (name, format) in [("own", "RFC4716"), ("pem", "PEM"), ("pkcs8", "PKCS8")] {
        let path = folder.path().join(name);
        let file = path.to_str().unwrap();
        keygen(&["-t", "ecdsa", "-m", format, "-N", "secret", "-f", file]);
        let error = key::read(&path).unwrap_err().to_string();
        assert!(error.contains("passphrase protected"), "{error}");
    }
}

#[test]
fn ru10_agents_are_asked_for_signatures_only() {
    let keys: [Key; 0] = [];
    for (request, expected) in [
        (&[11][..], &[12, 0, 0, 0, 0][..]),
        (&[13], &[5]),
        (&[13, 0, 0, 0, 9, 1], &[5]),
        (&[17], &[5]),
        (&[19], &[5]),
        (&[22], &[5]),
        (&[27], &[5]),
    ] {
        assert_eq!(
            agent::answer(request, &keys).unwrap(),
            expected,
            "{request:?}"
        );
    }
    // What an agent behind is not even sent: adding, removing, locking.
    let (mut near, far) = UnixStream::pair().unwrap();
    drop(far);
    for refused in [17, 18, 19, 20, 21, 22, 23, 25, 26] {
        assert_eq!(agent::ask(&[refused], &mut near).unwrap(), [5]);
    }
    assert!(agent::ask(&[11], &mut near).is_err());
}

#[test]
fn ru10_a_socket_ends_with_its_forward() {
    use std::io::{Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let agents = Agents(BTreeMap::from([(
        "default".to_owned(),
        Source::Keys(Arc::new(Vec::new())),
    )]));
    let error = agents.forward("other", true, folder.path()).unwrap_err();
    assert_eq!(error.to_string(), "unset ssh forward key other");
    assert!(
        agents
            .forward("other", false, folder.path())
            .unwrap()
            .is_none()
    );
    let error = Agents::default().forward("default", true, folder.path());
    assert_eq!(
        error.unwrap_err().to_string(),
        "no SSH key \"default\" forwarded from the client"
    );
    let forward = agents
        .forward("default", true, folder.path())
        .unwrap()
        .unwrap();
    let mut stream = UnixStream::connect(forward.path()).unwrap();
    stream.write_all(&[0, 0, 0, 1, 11]).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0, 0, 0, 5, 12, 0, 0, 0, 0]);
    let path = forward.path().to_owned();
    drop(forward);
    assert_eq!(stream.read(&mut answer).unwrap(), 0);
    assert!(UnixStream::connect(path).is_err());
}
