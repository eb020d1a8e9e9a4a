//! Random contexts and Dockerfiles, and random edits of them. Commands give the same result whenever they run: they
//! ask for no time, no order of a folder and no number of a file.

use super::kinds::{self, Kind};
use super::random::Random;
use super::world::{Node, Piece, Stage, Way, World, move_files};
use std::collections::BTreeMap;

const PATHS: &[&str] = &[
    "a",
    "b.txt",
    "c.txt",
    "dir/x",
    "dir/y.txt",
    "dir/sub/z",
    "src/main.c",
    "src/lib/lib.h",
    "src/gen/g.txt",
    "t.tar",
];
const LINKS: &[(&str, &[&str])] = &[
    ("link", &["a", "b.txt", "dir", "src/main.c", "a", "nowhere"]),
    ("dir/link", &["x", "../a", "sub", "x", "../b.txt", "../src"]),
    (
        "src/dirlink",
        &["../dir", "lib", "gen", "main.c", "lib", "/a"],
    ),
];
const SOURCES: &[&str] = &[
    ".",
    ".",
    ".",
    "a",
    "b.txt",
    "dir",
    "dir/",
    "dir",
    "d*",
    "*.txt",
    "s*",
    "dir/*",
    "src",
    "src",
    "src/*/*.?*",
    "src/gen",
    "link",
    "dir/link",
    "src/dirlink",
    "./a",
    "?.txt",
    "t.tar",
];
const FOLDERS: &[&str] = &[
    "/w/", "/w/", "/w/d/", "/o/", "./", "/w/a/b/", "/new/", "in/",
];
const PLACES: &[&str] = &["/w/f", "/o/g", "/w/a", "/one", "sub"];
const COPY_FLAGS: &[&str] = &[
    "--chmod=600",
    "--chmod=755",
    "--chmod=u+x,go-w",
    "--chown=1:2",
    "--chown=5",
    "--link",
    "--link",
    "--parents",
    "--exclude=*.txt",
    "--exclude=dir/sub",
    "--exclude=**/x",
];
const STAGE_SOURCES: &[&str] = &[
    "/w",
    "/w/",
    "/o",
    "/o/base",
    "/o/*",
    "/etc/group",
    "/w/b*",
    "/bin/cat",
    "/w/*.txt",
];
const COMMANDS: &[&str] = &[
    "echo line >> /o/log",
    "cat /w/a /w/*.txt > /o/cat 2>/dev/null || true",
    "ls -R /w > /o/ls 2>/dev/null || true",
    "rm -rf /w/dir /w/src",
    "rm -f /w/a /o/log",
    "mv /w/dir /w/moved 2>/dev/null || true",
    "mv /o/log /o/moved 2>/dev/null || true",
    "mkdir -p /w && chmod 700 /w /o",
    "chmod -R go-rwx /o",
    "ln -f /o/base /o/hard",
    "ln -sf base /o/soft",
    "mkdir -p /w/x/y /o/d",
    "chown -R 5:6 /o",
    "rm -rf /o/copy && cp -R /w /o/copy 2>/dev/null || true",
    "echo $A-$E-$P > /o/env",
    "id -u > /o/id; pwd > /o/pwd",
    "stat -c '%n %a %u %g' /w/* > /o/stat 2>/dev/null || true",
    "find /w /o -type f 2>/dev/null | sort | xargs cksum > /new-sums; mv /new-sums /o/sums",
    "wc -c < /w/a > /o/size 2>/dev/null || true",
    "test -e /w/a && touch /o/has || true",
    "rm -rf /w && mkdir /w && echo new > /w/only",
    "true",
    "chmod 755 /o",
    "truncate -s 70000 /o/sparse",
    "dd if=/dev/zero of=/o/zeros bs=1k count=9 2>/dev/null",
    "test -e /w || exit 3",
    "cp /bin/true /o/tool && chmod 4755 /o/tool",
    "rm -rf /etc/group; echo g > /etc/group",
    "sed -i s/e/E/ /o/base",
    "cat /proc/1/comm > /dev/null; echo x > /tmp/t; rm /tmp/t",
];
const MOUNTS: &[&str] = &[
    "RUN --mount=type=bind,target=/m cat /m/a > /o/ma 2>/dev/null || true",
    "RUN --mount=type=bind,source=dir,target=/m find /m -type f | sort | xargs cksum > /o/mb || true",
    "RUN --mount=type=bind,target=/m,rw echo x > /m/new; ls /m > /o/mc",
    "RUN --mount=type=tmpfs,target=/t echo x > /t/a; ls /t > /o/mt",
    "RUN --mount=type=bind,from=STAGE,source=/o,target=/m ls /m > /o/md",
    "RUN --mount=type=bind,from=STAGE,target=/m cat /m/o/base > /o/me",
];
const METADATA: &[&str] = &[
    "WORKDIR /w",
    "WORKDIR /o",
    "WORKDIR sub",
    "WORKDIR $E",
    "ENV E=1",
    "ENV E=2",
    "ENV P=p$A",
    "ENV FREE=$A",
    "ARG A=1",
    "ARG A=2",
    "ARG A",
    "ARG UNUSED=x",
    "LABEL l=$A",
    "USER 1000",
    "USER 0",
    "USER root",
    "USER 0",
    "USER 5:6",
    "CMD [\"x\"]",
    "EXPOSE 80",
    "VOLUME /w/v",
    "STOPSIGNAL 9",
    "SHELL [\"/bin/sh\", \"-ec\"]",
];
const HEREDOCS: &[&str] = &[
    "RUN <<E\necho one > /o/h\necho $A >> /o/h || true\nE",
    "COPY <<E /w/h.txt\ntext $A $E\nE",
    "COPY <<\"E\" /o/raw\ntext $A\nE",
    "COPY --chmod=750 <<E <<F /w/\none\nE\ntwo\nF",
    "RUN <<E cat > /o/in\nkept\nE",
];
const ADDS: &[&str] = &[
    "ADD t.tar /w/t/",
    "ADD t.tar /o/",
    "ADD --chown=3:4 t.tar /w/",
    "ADD --unpack=false t.tar /w/",
    "ADD --link t.tar /w/l/",
    "ADD a dir /w/",
];
const IGNORES: &[&str] = &[
    "c.txt",
    "**/y.txt",
    "src/gen/*",
    "!src/gen/g.txt",
    "**/x",
    "!dir/x",
    "src/*.c",
    "Dockerfile",
    "dir/su*",
    "# note",
    "*.txt",
    "!b.txt",
    "dir",
];
const MODES: &[u32] = &[0o644, 0o600, 0o755, 0o664, 0o4755, 0o640];
const FOLDER_MODES: &[u32] = &[0o755, 0o700, 0o775, 0o1777];

/// A history: a state, and what becomes of it by so many edits.
pub fn history(random: &mut Random, edits: usize, only: Option<&[Kind]>) -> Vec<World> {
    let kinds = only.map_or_else(|| kinds::drawn(random), <[Kind]>::to_vec);
    let mut states = vec![first(random, kinds)];
    for _ in 0..edits {
        let mut next = states.last().unwrap().clone().quiet();
        if random.chance(10) {
            let known = &states[random.below(states.len())];
            next = known.clone().quiet();
            next.edit = format!("back to after: {}", known.edit);
        } else {
            next.edit = edit(random, &mut next);
            if random.chance(25) {
                let more = edit(random, &mut next);
                next.edit = format!("{}; {more}", next.edit);
            }
        }
        happens(random, &mut next);
        states.push(next);
    }
    states
}

/// What goes on around an edit.
fn happens(random: &mut Random, next: &mut World) {
    if random.chance(6) {
        let stages: Vec<String> = (0..next.stages.len())
            .filter(|_| random.chance(60))
            .map(|stage| format!("s{stage}"))
            .collect();
        next.flags = if stages.is_empty() {
            vec!["--no-cache".to_owned()]
        } else {
            vec![format!("--no-cache-filter={}", stages.join(","))]
        };
    }
    if random.chance(6) {
        let all = random.chance(30).then(|| "--all".to_owned());
        next.prune = Some(all.into_iter().collect());
    }
    let often = if next.kinds.contains(&Kind::Git) {
        40
    } else {
        8
    };
    if random.chance(often) {
        next.disturbed = Some(random.next());
    }
    if random.chance(50) {
        next.secret = random.next();
    }
    if next.kinds.contains(&Kind::Caches) {
        kinds::caches(random, next);
    }
}

fn first(random: &mut Random, kinds: Vec<Kind>) -> World {
    let mut world = World {
        edit: "first".to_owned(),
        kinds,
        secret: random.next(),
        ..World::default()
    };
    let several = world.kinds.contains(&Kind::Platforms);
    if several {
        world.platforms = Some(kinds::PLATFORMS[0].to_owned());
    }
    for path in PATHS {
        if random.chance(95) {
            let node = file(random, path);
            world.files.insert((*path).to_owned(), node);
        }
    }
    for (path, targets) in LINKS {
        if random.chance(92) {
            let target = random.pick(targets).to_owned();
            world.files.insert((*path).to_owned(), Node::Link(target));
        }
    }
    if random.chance(30) {
        world.files.insert("empty".to_owned(), Node::Folder(0o755));
    }
    if random.chance(30) {
        world.ignore.push(ignore(random));
    }
    let stages = 1 + random.below(4);
    for number in 0..stages {
        let from = match random.below(10) {
            0 if number + 1 == stages && number > 0 => "scratch".to_owned(),
            1..=3 if number > 0 => format!("s{}", random.below(number)),
            4 | 5 if several => "--platform=$BUILDPLATFORM busybox".to_owned(),
            _ => "busybox".to_owned(),
        };
        let base = Piece {
            id: random.next(),
            text: format!(
                "COPY <<base /w/\nstage {number}\nbase\nCOPY <<E /o/base\nstage {number}\nE{}",
                if several { "\nARG TARGETARCH" } else { "" }
            ),
        };
        let mut stage = Stage {
            from,
            lines: vec![base],
        };
        for _ in 0..1 + random.below(4) {
            stage.lines.push(line(random, number, &world.kinds));
        }
        world.stages.push(stage);
    }
    if world.kinds.contains(&Kind::Caches) {
        kinds::caches(random, &mut world);
    }
    world
}

fn ignore(random: &mut Random) -> Piece {
    Piece {
        id: random.next(),
        text: random.pick(IGNORES).to_owned(),
    }
}

fn line(random: &mut Random, stage: usize, kinds: &[Kind]) -> Piece {
    let earlier = format!("s{}", random.below(stage.max(1)));
    let image = if stage == 0 { "busybox" } else { &earlier };
    let text = match random.below(100) {
        0..35 if kinds.contains(&Kind::Mounts) => kinds::mounts(random, image),
        // Emulated commands are slow.
        35..60 | 85.. if kinds.contains(&Kind::Platforms) => kinds::of_platform(random, image),
        0..30 => copy(random, SOURCES, None),
        30..45 if stage > 0 => copy(random, STAGE_SOURCES, Some(&earlier)),
        45..50 => random.pick(ADDS).to_owned(),
        50..58 => random.pick(HEREDOCS).to_owned(),
        58..64 => {
            let text = random.pick(MOUNTS);
            if stage == 0 && text.contains("STAGE") {
                MOUNTS[0].to_owned()
            } else {
                text.replace("STAGE", &earlier)
            }
        }
        64..80 => random.pick(METADATA).to_owned(),
        _ => run(random),
    };
    Piece {
        id: random.next(),
        text,
    }
}

fn run(random: &mut Random) -> String {
    let mut text = format!("RUN {}", random.pick(COMMANDS));
    if random.chance(40) {
        text = format!("{text}; {}", random.pick(COMMANDS));
    }
    if random.chance(90) {
        text = format!("{text} || true");
    }
    text
}

fn copy(random: &mut Random, sources: &[&str], from: Option<&str>) -> String {
    let mut text = "COPY".to_owned();
    if let Some(from) = from {
        text = format!("{text} --from={from}");
    }
    let mut flags: BTreeMap<&str, &str> = BTreeMap::new();
    while random.chance(35) {
        let flag = random.pick(COPY_FLAGS);
        flags.insert(flag.split('=').next().unwrap(), flag);
    }
    for flag in flags.values() {
        text = format!("{text} {flag}");
    }
    text = format!("{text} {}", random.pick(sources));
    if random.chance(25) {
        text = format!("{text} {}", random.pick(sources));
        return format!("{text} {}", random.pick(FOLDERS));
    }
    let dest = if random.chance(75) {
        random.pick(FOLDERS)
    } else {
        random.pick(PLACES)
    };
    format!("{text} {dest}")
}

fn file(random: &mut Random, path: &str) -> Node {
    let mode = if random.chance(80) {
        0o644
    } else {
        MODES[random.below(MODES.len())]
    };
    Node::File(content(random, path), mode, Way::InPlace)
}

fn content(random: &mut Random, path: &str) -> Vec<u8> {
    if path.ends_with(".tar") {
        return archive(random);
    }
    let size = if random.chance(10) { 70_000 } else { 6 };
    let letter = b'a' + u8::try_from(random.below(26)).unwrap();
    let mut bytes = vec![letter; random.below(size)];
    bytes.push(b'\n');
    bytes
}

fn archive(random: &mut Random) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["tf", "td/one", "td/two", "a"] {
        if random.chance(60) {
            let bytes = content(random, name);
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(MODES[random.below(MODES.len())]);
            header.set_uid(random.below(3) as u64);
            header.set_mtime(1_500_000_000);
            builder
                .append_data(&mut header, name, bytes.as_slice())
                .unwrap();
        }
    }
    builder.into_inner().unwrap()
}

/// Changes one thing; says what.
fn edit(random: &mut Random, world: &mut World) -> String {
    match random.below(100) {
        0..42 => edit_files(random, world),
        42..50 => {
            if !world.ignore.is_empty() && random.chance(40) {
                let gone = world.ignore.remove(random.below(world.ignore.len()));
                return format!("ignore no more {}", gone.text);
            }
            let line = ignore(random);
            let text = format!("ignore {}", line.text);
            world.ignore.push(line);
            text
        }
        50..56 => {
            let value = random.below(3).to_string();
            let text = format!("build arg A={value}");
            if value == "0" {
                world.args.remove("A");
            } else {
                world.args.insert("A".to_owned(), value);
            }
            text
        }
        56..62 => {
            world.target = random.chance(60).then(|| random.below(world.stages.len()));
            format!("target {:?}", world.target)
        }
        62..65 => "nothing".to_owned(),
        65..70 if world.platforms.is_some() => {
            let platforms = random.pick(kinds::PLATFORMS).to_owned();
            let text = format!("for {platforms}");
            world.platforms = Some(platforms);
            text
        }
        _ => edit_dockerfile(random, world),
    }
}

fn edit_dockerfile(random: &mut Random, world: &mut World) -> String {
    let number = random.below(world.stages.len());
    let stage = &mut world.stages[number];
    let at = random.below(stage.lines.len() + 1);
    if at == stage.lines.len() || random.chance(20) {
        let new = line(random, number, &world.kinds);
        let text = format!("stage {number}: new {:?}", new.text);
        stage.lines.insert(at, new);
        return text;
    }
    match random.below(10) {
        0..3 if at + 1 < stage.lines.len() => {
            stage.lines.swap(at, at + 1);
            format!("stage {number}: lines {at} and {} change places", at + 1)
        }
        3..5 if stage.lines.len() > 1 => {
            let gone = stage.lines.remove(at);
            format!("stage {number}: no {:?}", gone.text)
        }
        5 => {
            let text = "# a comment\n".to_owned() + &stage.lines[at].text;
            stage.lines[at].text = text;
            format!("stage {number}: a comment before line {at}")
        }
        _ => {
            stage.lines[at] = line(random, number, &world.kinds);
            format!("stage {number}: line {at} is {:?}", stage.lines[at].text)
        }
    }
}

fn edit_files(random: &mut Random, world: &mut World) -> String {
    let paths: Vec<String> = world.files.keys().cloned().collect();
    let kind = random.below(12);
    if paths.is_empty() || kind == 0 {
        let path = random.pick(PATHS);
        let free = !world.files.keys().any(|known| {
            known.starts_with(&format!("{path}/")) || path.starts_with(&format!("{known}/"))
        });
        if free {
            let node = file(random, path);
            world.files.insert(path.to_owned(), node);
            return format!("write {path}");
        }
        return "no new file".to_owned();
    }
    let path = paths[random.below(paths.len())].clone();
    let other = paths[random.below(paths.len())].clone();
    match (kind, world.files[&path].clone()) {
        (1, _) if path.contains('/') || random.chance(30) => {
            world.files.remove(&path);
            format!("delete {path}")
        }
        (2, Node::File(..)) => swap(world, &path, &other),
        (3, _) if path.contains('/') => {
            let beside = path.rsplit_once('/').unwrap().0;
            let to = format!("{beside}/renamed");
            rename(world, &path, &to)
        }
        (4, _) if random.chance(30) && world.files.keys().any(|path| path.starts_with("dir/")) => {
            let to = random.pick(&["dir2", "src/dir"]);
            rename(world, "dir", to)
        }
        (5, Node::File(bytes, _, way)) => {
            let mode = MODES[random.below(MODES.len())];
            world
                .files
                .insert(path.clone(), Node::File(bytes, mode, way));
            format!("chmod {mode:o} {path}")
        }
        (6, Node::File(..)) if !path.contains('/') => {
            let target = random.pick(LINKS[0].1).to_owned();
            world.files.insert(path.clone(), Node::Link(target));
            format!("{path} becomes a link")
        }
        (_, Node::Folder(_)) => {
            let mode = FOLDER_MODES[random.below(FOLDER_MODES.len())];
            world.files.insert(path.clone(), Node::Folder(mode));
            format!("chmod {mode:o} {path}")
        }
        (_, Node::Link(_)) => {
            let targets = LINKS.iter().find(|(link, _)| *link == path);
            let target = random.pick(targets.unwrap_or(&LINKS[0]).1).to_owned();
            let text = format!("{path} -> {target}");
            world.files.insert(path, Node::Link(target));
            text
        }
        (7..10, Node::File(mut bytes, mode, _)) if !path.ends_with(".tar") => {
            let last = bytes.len() - 1;
            let at = random.below(bytes.len());
            bytes[at] = if at == last { b'!' } else { bytes[at] ^ 1 };
            world
                .files
                .insert(path.clone(), Node::File(bytes, mode, Way::TimeKept));
            format!("{path} in the same size, time set back")
        }
        (_, Node::File(_, mode, _)) => {
            let way = if random.chance(50) {
                Way::InPlace
            } else {
                Way::Renamed
            };
            let bytes = content(random, &path);
            world
                .files
                .insert(path.clone(), Node::File(bytes, mode, way));
            format!("other content in {path}, {way:?}")
        }
    }
}

/// Two files change names, and keep all else.
fn swap(world: &mut World, one: &str, other: &str) -> String {
    if one == other || !matches!(world.files[other], Node::File(..)) {
        return "no swap".to_owned();
    }
    for (from, to) in [(one, ".swap"), (other, one), (".swap", other)] {
        world.moves.push((from.to_owned(), to.to_owned()));
        move_files(&mut world.files, from, to);
    }
    format!("swap {one} and {other}")
}

fn rename(world: &mut World, from: &str, to: &str) -> String {
    let below = format!("{to}/");
    if world
        .files
        .keys()
        .any(|path| path == to || path.starts_with(&below))
    {
        return "no new name".to_owned();
    }
    world.moves.push((from.to_owned(), to.to_owned()));
    move_files(&mut world.files, from, to);
    format!("{from} is now {to}")
}
