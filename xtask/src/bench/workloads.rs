//! W1 to W6: fully cached and small, many files, much data, many RUN steps, a RUN with many files, stages side by side.
//! Every builder in turn does all parts of a workload; Kiln's goals and the machine's limits stand beside them.

use super::builders::{Builder, How};
use super::content::{self, Kind};
use super::limit;
use super::place::{Place, write};
use super::race::{self, Bytes, Contestant, Part, Visit};
use crate::peers::registry::Registry;
use crate::shell;
use std::cell::Cell;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// Folders of the many files, and files in each.
const MANY: (usize, usize) = (500, 100);
/// Files of the big COPY.
const PIECES: usize = 64;
/// RUN steps.
const STEPS: usize = 30;

/// Puts the base into the registry of bases and returns its name.
pub fn base(place: &Place) -> Result<String, String> {
    push_base(place, &place.bases)
}

/// Puts it into a registry.
pub fn push_base(place: &Place, registry: &Registry) -> Result<String, String> {
    let name = format!("{}/busybox:1", registry.host());
    let layout = shell::root().join("testdata/images/busybox");
    let mut seed = place.tools.skopeo().ok_or("skopeo is not installed")?;
    seed.args(["copy", "-q", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("docker://{name}"));
    shell::output(&mut seed)?;
    Ok(name)
}

/// A part that takes `work` after `prepare`.
fn step<'a>(
    builder: &Builder<'a>,
    prepare: impl Fn(&Builder<'a>) -> Result<(), String> + 'a,
    work: impl Fn(&Builder<'a>) -> Vec<Command> + 'a,
) -> Contestant<'a> {
    let (first, second) = (builder.clone(), builder.clone());
    Contestant {
        name: builder.name.to_owned(),
        prepare: Box::new(move || prepare(&first)),
        work: Box::new(move || work(&second)),
        daemon: builder.daemon(),
    }
}

/// A visit whose builder keeps what it has for the next round.
fn keeping<'a>(parts: Vec<Contestant<'a>>) -> Visit<'a> {
    Visit {
        parts: parts.into_iter().enumerate().collect(),
        finish: Box::new(|| Ok(())),
    }
}

/// A visit whose builder forgets all after it.
fn cleaning<'a>(builder: &Builder<'a>, parts: Vec<Contestant<'a>>) -> Visit<'a> {
    let builder = builder.clone();
    Visit {
        parts: parts.into_iter().enumerate().collect(),
        finish: Box::new(move || {
            builder.place.target.clear()?;
            builder.clean()
        }),
    }
}

/// A build of which nothing but the base is cached.
fn uncached<'a>(builder: &Builder<'a>, context: &'static str) -> Contestant<'a> {
    let base = |builder: &Builder<'a>| builder.build_now("plain", How::default());
    let how = How {
        no_cache: true,
        ..How::default()
    };
    step(builder, base, move |builder| builder.build(context, how))
}

/// A build of which everything is cached; it has been built before.
fn cached<'a>(builder: &Builder<'a>, context: &'static str) -> Contestant<'a> {
    let build = move |builder: &Builder<'a>| builder.build_now(context, How::default());
    step(builder, build, move |builder| {
        builder.build(context, How::default())
    })
}

/// A build by a builder that knows nothing.
fn first<'a>(builder: &Builder<'a>, context: &'static str) -> Contestant<'a> {
    step(builder, Builder::clean, move |builder| {
        builder.build(context, How::default())
    })
}

/// Those that build Dockerfiles.
fn builders(place: &Place) -> Vec<Builder<'_>> {
    Builder::all(place)
        .into_iter()
        .filter(Builder::builds)
        .collect()
}

/// W1: 12 instructions, 20 files.
pub fn small(place: &Place, base: &str) -> Result<(), String> {
    let dir = place.path("w1");
    for number in 0..20 {
        let text = content::bytes(Kind::Words, number, 1000 + 150 * number as usize);
        write(&dir.join(format!("src/f{number:02}.txt")), text)?;
    }
    let text = format!(
        "FROM {base}\nARG VERSION=1\nENV APP_HOME=/app LANG=C.UTF-8\nLABEL org.example.version=$VERSION\nWORKDIR /app\n\
         RUN mkdir -p /app/data\nCOPY src/f00.txt /app/\nCOPY src/ /app/src/\nRUN cat /app/src/* > /app/all.txt\n\
         EXPOSE 8080\nUSER 1000\nCMD [\"cat\",\"/app/all.txt\"]\n"
    );
    write(&dir.join("Dockerfile"), text)?;
    write(
        &place.path("plain/Dockerfile"),
        format!("FROM {base}\nRUN true\n"),
    )?;
    let parts = [
        Part::new(
            "W1 cold: 12 instructions, 2 of them RUN, 20 files",
            Some(0.08),
        ),
        Part::new("W1 cached: the same, nothing to do", Some(0.008)),
    ];
    let mut visits: Vec<Visit<'_>> = builders(place)
        .iter()
        .map(|builder| keeping(vec![uncached(builder, "w1"), cached(builder, "w1")]))
        .collect();
    visits.push(limit::row(
        0,
        "unshare of a RUN's namespaces and true, twice",
        || limit::commands_in_namespaces(2),
    ));
    visits.push(limit::row(1, "start and end of true", || {
        vec![Command::new("/bin/true")]
    }));
    race::run_parts(place, &parts, visits, 7, Bytes::Uncounted)
}

/// W2: 50,000 small files.
pub fn many_files(place: &Place) -> Result<(), String> {
    let dir = place.path("w2");
    let (folders, files) = MANY;
    for number in 0..folders * files {
        let size = 1024 + (number * 7919) % 3072;
        let text = content::bytes(Kind::Words, number as u64, size);
        write(
            &dir.join(format!("d{:03}/f{:02}.txt", number / files, number % files)),
            text,
        )?;
    }
    write(&dir.join("Dockerfile"), "FROM scratch\nCOPY . /ctx/\n")?;
    let parts = [
        Part::new("W2 cold: COPY of 50,000 files", Some(1.2)),
        Part::new("W2 cached: the same, nothing changed", Some(0.16)),
        Part::new("W2 touched: the same, one file changed", Some(0.9)),
    ];
    let changes = &Cell::new(0);
    let touched = move |_: &Builder<'_>| {
        changes.set(changes.get() + 1);
        write(
            &dir.join("d250/f50.txt"),
            format!("changed {}\n", changes.get()),
        )
    };
    let touched = &touched;
    let mut visits: Vec<Visit<'_>> = Vec::new();
    for builder in Builder::all(place) {
        let mut list = vec![first(&builder, "w2")];
        if builder.builds() {
            // What the part before has built is cached.
            let again = |builder: &Builder<'_>| builder.build("w2", How::default());
            list.push(step(&builder, |_| Ok(()), again));
            list.push(step(&builder, touched, |builder| {
                builder.build("w2", How::default())
            }));
        }
        visits.push(cleaning(&builder, list));
    }
    let dir = place.path("w2").display().to_string();
    let tar = format!("tar -C '{dir}' -cf - . | openssl dgst -sha256");
    visits.push(limit::script(0, "tar into SHA-256", tar.clone()));
    visits.push(limit::script(
        0,
        "tar into a file",
        format!("tar -C '{dir}' -cf '{dir}.tar' .; rm '{dir}.tar'"),
    ));
    visits.push(limit::script(
        1,
        "find with stat",
        format!("find '{dir}' -type f -size -1 -mtime +1"),
    ));
    visits.push(limit::script(2, "tar into SHA-256", tar));
    race::run_parts(place, &parts, visits, 5, Bytes::Uncounted)?;
    place.remove("w2")
}

/// W3: 1 GiB in files of 16 MiB, half random bytes, half words; then its push.
pub fn much_data(place: &Place) -> Result<(), String> {
    let dir = place.path("w3");
    let each = (place.options.big << 20) / PIECES;
    for number in 0..PIECES {
        let kind = if number % 2 == 0 {
            Kind::Random
        } else {
            Kind::Words
        };
        write(
            &dir.join(format!("f{number:02}")),
            content::bytes(kind, number as u64, each),
        )?;
    }
    write(&dir.join("Dockerfile"), "FROM scratch\nCOPY . /data/\n")?;
    let size = place.options.big;
    let scaled = |goal: f64| Some(goal * size as f64 / 1024.0);
    let parts = [
        Part::new(&format!("W3 cold: COPY of {size} MiB"), scaled(1.1)),
        Part::new("W3 push of it, gzip", scaled(5.0)),
    ];
    let reference = &format!("{}/w3:1", place.target.host());
    let built = |builder: &Builder<'_>| {
        place.target.clear()?;
        builder.clean()?;
        builder.build_now(
            "w3",
            How {
                cache_only: true,
                ..How::default()
            },
        )
    };
    let mut visits: Vec<Visit<'_>> = Vec::new();
    for builder in Builder::all(place) {
        let mut list = vec![first(&builder, "w3")];
        if builder.builds() {
            list.push(step(&builder, built, move |builder| {
                builder.push("w3", reference)
            }));
        }
        visits.push(cleaning(&builder, list));
    }
    visits.extend(limits_of_data(&dir));
    race::run_parts(place, &parts, visits, 3, Bytes::In(&place.target))?;
    place.target.clear()?;
    place.remove("w3")
}

fn limits_of_data(dir: &Path) -> Vec<Visit<'static>> {
    let dir = dir.display();
    let copy = format!("cp -r '{dir}' '{dir}.copy'; rm -r '{dir}.copy'");
    vec![
        limit::script(
            0,
            "SHA-256 alone, one processor",
            format!("cat '{dir}'/* | openssl dgst -sha256"),
        ),
        limit::script(0, "cp -r and rm", copy),
        limit::script(
            1,
            "zstd -1 -T0, not gzip",
            format!("cat '{dir}'/* | zstd -q -1 -T0 > /dev/null"),
        ),
    ]
}

/// W4: 30 small RUN steps.
pub fn many_steps(place: &Place, base: &str) -> Result<(), String> {
    let mut text = format!("FROM {base}\n");
    for number in 0..STEPS {
        let _ = writeln!(text, "RUN echo {number} > /f{number}");
    }
    write(&place.path("w4/Dockerfile"), text)?;
    write(
        &place.path("plain/Dockerfile"),
        format!("FROM {base}\nRUN true\n"),
    )?;
    let parts = [Part::new(
        "W4: 30 small RUN steps",
        Some(0.006 * STEPS as f64),
    )];
    let mut visits: Vec<Visit<'_>> = builders(place)
        .iter()
        .map(|builder| keeping(vec![uncached(builder, "w4")]))
        .collect();
    visits.push(limit::row(
        0,
        "unshare of a RUN's namespaces and true, 30 times",
        || limit::commands_in_namespaces(STEPS),
    ));
    race::run_parts(place, &parts, visits, 5, Bytes::Uncounted)
}

/// W5: a RUN that makes 20,000 files and one that deletes 10,000 of them.
pub fn files_of_commands(place: &Place, base: &str) -> Result<(), String> {
    let make = |root: &str| {
        format!(
            "d=0; while [ $d -lt 200 ]; do mkdir -p {root}/$d; i=0; while [ $i -lt 100 ]; do \
             echo $d-$i > {root}/$d/$i; i=$((i+1)); done; d=$((d+1)); done"
        )
    };
    let delete = |root: &str| format!("find {root} -type f -name '*[02468]' -exec rm -f {{}} +");
    let text = format!("FROM {base}\nRUN {}\nRUN {}\n", make("/d"), delete("/d"));
    write(&place.path("w5/Dockerfile"), text)?;
    write(
        &place.path("plain/Dockerfile"),
        format!("FROM {base}\nRUN true\n"),
    )?;
    let parts = [Part::new(
        "W5: RUN makes 20,000 files, RUN deletes 10,000",
        Some(1.6),
    )];
    let mut visits: Vec<Visit<'_>> = builders(place)
        .iter()
        .map(|builder| keeping(vec![uncached(builder, "w5")]))
        .collect();
    let root = place.path("w5-limit").display().to_string();
    let script = format!(
        "{}; tar -C {root} -cf - . | openssl dgst -sha256; {}; rm -rf {root}",
        make(&root),
        delete(&root)
    );
    visits.push(limit::script(
        0,
        "the same by sh, with tar into SHA-256",
        script,
    ));
    race::run_parts(place, &parts, visits, 5, Bytes::Uncounted)
}

/// W6: six stages that wait for two seconds.
pub fn stages(place: &Place, base: &str) -> Result<(), String> {
    let mut text = String::new();
    for number in 0..6 {
        let _ = writeln!(
            text,
            "FROM {base} AS s{number}\nRUN sleep 2 && echo {number} > /out"
        );
    }
    text.push_str("FROM scratch\n");
    for number in 0..6 {
        let _ = writeln!(text, "COPY --from=s{number} /out /out{number}");
    }
    write(&place.path("w6/Dockerfile"), text)?;
    write(
        &place.path("plain/Dockerfile"),
        format!("FROM {base}\nRUN true\n"),
    )?;
    let parts = [Part::new(
        "W6: six stages of sleep 2, a COPY from each",
        Some(2.15),
    )];
    let mut visits: Vec<Visit<'_>> = builders(place)
        .iter()
        .map(|builder| keeping(vec![uncached(builder, "w6")]))
        .collect();
    visits.push(limit::script(0, "sleep 2", "sleep 2".to_owned()));
    race::run_parts(place, &parts, visits, 3, Bytes::Uncounted)
}
