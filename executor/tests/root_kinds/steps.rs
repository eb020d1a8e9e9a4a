//! The steps that are compared. `probe` is this program inside the root.

/// How many sequences of random changes are compared.
const RANDOM: u32 = 24;

/// Name and script of every step.
pub(crate) fn all() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = STEPS
        .iter()
        .map(|(name, script)| ((*name).to_owned(), (*script).to_owned()))
        .collect();
    for seed in 0..RANDOM {
        // Each second one over the layers of others, up to five of one stage.
        let before = if seed % 2 == 0 { 0 } else { 1 + seed / 2 % 4 };
        let steps = (0..=before).rev().map(|step| match (step, seed % 3) {
            // Few changes of what an earlier one made.
            (0, 0) => format!("probe random {seed} /t; chmod u-s /t/top || :; echo more >> /t/top; touch -d @5 /etc"),
            _ => format!("probe random {} /t", seed + 1000 * step),
        });
        let script: Vec<String> = steps.collect();
        all.push((format!("random-{seed}"), script.join("\n--\n")));
    }
    all
}

/// What fuse-overlayfs itself makes of a step that has one layer everywhere else. The users' documentation tells it.
pub(crate) enum ByFuse {
    /// There is no layer; the words are said.
    Refused(&'static str),
    /// There is the same layer, or none: a command fails or the step is refused.
    SameOrFails,
    /// There is another layer, or none.
    Other,
}

const LINKED: ByFuse = ByFuse::Refused("which is a file with several names in the layers below");

/// A file that has several names in a layer is one file to fuse-overlayfs, names are at most 251 bytes long, a folder's set
/// time is lost when something in it is copied up later, and a whiteout made where something was removed undoes that.
const BY_FUSE: [(&str, ByFuse); 9] = [
    ("chown-all", LINKED),
    ("hard-link-to-linked", LINKED),
    ("in-place-after-in-place", ByFuse::Other),
    ("linked-changed", LINKED),
    ("linked-chmod", LINKED),
    ("linked-moved", LINKED),
    ("long-and-odd-names", ByFuse::Refused("File name too long")),
    ("times", ByFuse::Other),
    ("whiteouts-of-its-own", ByFuse::Other),
];

/// What fuse-overlayfs makes of a step, where that is not what the others do. Random changes do any of that.
pub(crate) fn by_fuse(name: &str) -> Option<&'static ByFuse> {
    if name.starts_with("random-") {
        return Some(&ByFuse::SameOrFails);
    }
    let found = BY_FUSE.iter().find(|(step, _)| *step == name);
    found.map(|(_, what)| what)
}

const STEPS: &[(&str, &str)] = &[
    ("nothing", ":"),
    (
        "create",
        "echo x > /new; mkdir -p /a/b/c; echo y > /a/b/c/d; touch /empty",
    ),
    ("overwrite", "echo other > /etc/issue"),
    ("append", "echo more >> /opt/app/deep/c"),
    ("write-in-place", "probe poke /opt/app/a"),
    ("same-size-and-time", "probe set-back /opt/app/a"),
    (
        "same-content",
        "cat /etc/issue > /x; cat /x > /etc/issue; rm /x",
    ),
    (
        "opened-only",
        "probe open /opt/app/a; probe open /etc/owned",
    ),
    (
        "truncated",
        "truncate -s 3 /etc/issue; truncate -s 0 /etc/passwd",
    ),
    (
        "chmod",
        "chmod 4751 /etc/issue; chmod 1777 /opt; chmod 700 /opt/empty",
    ),
    ("chmod-same", "chmod 644 /etc/issue; chmod 755 /opt"),
    ("chmod-root", "chmod 711 /"),
    (
        "chown",
        "chown 5:6 /etc/issue /opt/empty; chown -h 7:8 /etc/link",
    ),
    ("chown-all", "chown -R 5:6 /opt /linked1 /t"),
    (
        "chown-takes-set-uid",
        "chmod 4755 /etc/issue; chown 9 /etc/issue",
    ),
    (
        "xattr",
        "probe set-xattr /etc/issue user.x 01; probe set-xattr /opt/empty user.y 0203",
    ),
    ("xattr-removed", "probe remove-xattr /etc/owned user.color"),
    (
        "xattr-of-overlays",
        "mkdir /d; echo x > /d/f; probe try-xattr /d user.overlay.opaque 79; probe try-xattr /opt user.overlay.opaque 79; probe try-xattr /d/f user.overlay.whiteout 79",
    ),
    (
        "capability",
        "probe set-xattr /opt/app/b security.capability 0100000200200000000000000000000000000000",
    ),
    (
        "times",
        "touch -d @1000 /etc/issue /opt /opt/empty /t/top; probe time /opt/app/a 5 123456789; touch -d @77 -h /etc/link",
    ),
    ("delete-file", "rm /etc/issue /t/linked"),
    ("delete-folder", "rm -r /opt"),
    ("delete-in-opaque", "rm /back/z"),
    ("empty-a-folder", "rm -r /opt/app/*"),
    ("folder-by-file", "rm -r /opt; echo file > /opt"),
    ("folder-by-link", "rm -r /opt; ln -s /etc /opt"),
    (
        "file-by-folder",
        "rm /etc/issue; mkdir /etc/issue; echo x > /etc/issue/in",
    ),
    (
        "file-by-folder-and-back",
        "rm /etc/issue; mkdir /etc/issue; rmdir /etc/issue; echo back > /etc/issue",
    ),
    (
        "folder-by-file-and-back",
        "rm -r /opt/app; echo x > /opt/app; rm /opt/app; mkdir /opt/app; echo b > /opt/app/b",
    ),
    (
        "folder-by-folder",
        "rm -r /opt/app; mkdir /opt/app; echo new > /opt/app/b",
    ),
    (
        "folder-by-same-folder",
        "rmdir /opt/empty; mkdir /opt/empty",
    ),
    (
        "folder-within-folder",
        "rm -r /opt; mkdir -p /opt/app/deep; echo d > /opt/app/deep/d",
    ),
    ("hard-links", "echo one > /h1; ln /h1 /h2; ln /h1 /etc/h3"),
    ("hard-link-to-lower", "ln /etc/issue /etc/issue2"),
    ("hard-link-to-linked", "ln /linked1 /linked4"),
    (
        "linked-changed",
        "echo x >> /linked1; cat /linked2 /t/linked",
    ),
    ("linked-removed", "rm /linked1"),
    ("linked-chmod", "chmod 600 /linked2"),
    ("linked-moved", "mv /linked1 /t/moved"),
    (
        "symlinks",
        "ln -s /somewhere /s; rm /etc/link; ln -s other /etc/link; ln -s x /opt/app/s",
    ),
    (
        "move-file",
        "mv /etc/issue /opt/issue; mv /opt/app/a /opt/app/aa",
    ),
    ("move-over", "mv /opt/app/a /opt/app/b"),
    ("move-folder", "mv /opt/app /srv"),
    (
        "move-new-folder",
        "mkdir -p /n/m; echo x > /n/m/x; mv /n /o; mv /o/m /opt/m",
    ),
    (
        "whiteout-then-again",
        "rm /etc/issue\n--\necho again > /etc/issue",
    ),
    (
        "opaque-then-add",
        "rm -r /opt/app; mkdir /opt/app\n--\necho more > /opt/app/more; chmod 700 /opt/app",
    ),
    (
        "removed-twice",
        "echo x > /new\n--\nrm /new\n--\necho y > /new",
    ),
    (
        "folder-again-over-whiteout",
        "rm -r /opt\n--\nmkdir -p /opt/app; echo x > /opt/app/x",
    ),
    ("back-over-whiteout", "mkdir /gone; echo n > /gone/n"),
    ("fifo", "mkfifo /fifo; mkfifo -m 600 /opt/fifo"),
    (
        "socket",
        "probe socket /socket; rm /etc/issue; probe socket /etc/issue",
    ),
    (
        "whiteouts-of-its-own",
        "mknod /w c 0 0 || :; rm /etc/issue; mknod /etc/issue c 0 0 || :",
    ),
    ("sparse", "truncate -s 1G /sparse; echo end >> /sparse"),
    ("long-and-odd-names", "probe odd-names /odd"),
    (
        "deep",
        "d=/deep; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do d=$d/folder$i; mkdir -p $d; echo $i > $d/f; done\n--\nrm /deep/folder1/folder2/folder3/f",
    ),
    (
        "mount-points",
        "echo x > /tools/beside; test -d /tools/here",
    ),
    (
        "copied-up-parents",
        "chmod 700 /opt/app/deep\n--\necho x > /opt/app/deep/c",
    ),
    (
        "many",
        "mkdir /many; i=0; while [ $i -lt 300 ]; do echo $i > /many/$i; i=$((i+1)); done\n--\nrm /many/1*; chmod 600 /many/2*",
    ),
    (
        "in-place-after-in-place",
        "echo one > /etc/issue; echo n > /new; ln /new /new2\n--\nprobe poke /etc/issue; echo m >> /new\n--\nprobe poke /etc/issue; chmod 600 /new2; probe set-xattr /new user.x 01\n--\ncat /new /new2 /etc/issue > /all",
    ),
    (
        "come-and-gone",
        "echo x > /opt/app/tmp; rm /opt/app/tmp; mkdir /etc/t; rmdir /etc/t\n--\necho y > /opt/app/deep/y",
    ),
    (
        "renamed-again",
        "mkdir /n; echo 1 > /n/1; mv /etc/issue /n/i\n--\nmv /n /o\n--\nmv /o/i /etc/issue; rm -r /o\n--\nmkdir /o /n; echo x >> /etc/issue",
    ),
    (
        "opaque-again",
        "rm -r /opt; mkdir /opt; echo 1 > /opt/a\n--\nrm -r /opt; mkdir -p /opt/app; echo 2 > /opt/app/a\n--\nrm -r /opt/app; echo 3 > /opt/app\n--\nrm /opt/app; mkdir /opt/app",
    ),
    (
        "attributes-back-and-forth",
        "chmod 700 /opt /etc; probe set-xattr /opt user.a 01\n--\nprobe remove-xattr /opt user.a; chmod 755 /opt\n--\nchown 5:6 /opt; touch /opt/x\n--\nrm /opt/x; chown 0:0 /opt",
    ),
    (
        "left-running",
        "(while :; do echo x > /running; done) & echo done > /done; until rm -f /running && mkdir /running 2>/dev/null; do :; done",
    ),
];
