//! What one machine has made another takes: nothing runs twice.

use super::harness::{Bench, Case, Needs, same};

/// All of them.
pub fn all() -> Vec<Case> {
    vec![
        Case {
            name: "nothing-runs-twice",
            needs: Needs::Nothing,
            run: nothing_runs_twice,
        },
        Case {
            name: "change-in-the-middle",
            needs: Needs::Nothing,
            run: change_in_the_middle,
        },
        Case {
            name: "shared-steps",
            needs: Needs::Nothing,
            run: shared_steps,
        },
        Case {
            name: "no-cache",
            needs: Needs::Nothing,
            run: no_cache,
        },
    ]
}

/// Whatever runs again gives another image.
const ONCE: &str = "\
FROM busybox AS side
RUN cat /proc/sys/kernel/random/uuid > /side
FROM busybox
RUN cat /proc/sys/kernel/random/uuid > /first
COPY --from=side /side /side
COPY file /file
RUN cat /proc/sys/kernel/random/uuid /file > /second
";
const RUNS: usize = 3;

fn nothing_runs_twice(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(ONCE)?;
    let flag = bench.executor("");
    let first = bench.good(&bench.machine(), &context, &[&flag])?;
    same("hits of the first", &first.count("remote hit"), &0)?;
    let second = bench.machine();
    let built = bench.good(&second, &context, &[&flag])?;
    same("image of the second", &built.digest, &first.digest)?;
    same("hits of the second", &built.count("remote hit"), &RUNS)?;
    let again = bench.good(&second, &context, &[&flag])?;
    same("image of its own store", &again.digest, &first.digest)?;
    same("what it asked for again", &again.count("remote hit"), &0)
}

fn change_in_the_middle(bench: &mut Bench) -> Result<(), String> {
    let flag = bench.executor("");
    let first = bench.context(ONCE)?;
    bench.good(&bench.machine(), &first, &[&flag])?;
    let changed = bench.context(ONCE)?;
    crate::bench::write_file(&changed.join("file"), "changed\n")?;
    let built = bench.good(&bench.machine(), &changed, &[&flag])?;
    same("hits", &built.count("remote hit"), &(RUNS - 1))
}

fn shared_steps(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(ONCE)?;
    let executor = bench.executor("");
    let cache = format!("--remote-cache={}", bench.server.url());
    let first = bench.good(&bench.machine(), &context, &[&executor, &cache])?;
    // Without workers: what was made is found by the step's own key.
    let second = bench.good(&bench.machine(), &context, &[&cache])?;
    same("image of the second", &second.digest, &first.digest)?;
    let both = bench.good(&bench.machine(), &context, &[&executor, &cache])?;
    same("image of the third", &both.digest, &first.digest)
}

fn no_cache(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(ONCE)?;
    let flag = bench.executor("");
    let first = bench.good(&bench.machine(), &context, &[&flag])?;
    let again = bench.good(&bench.machine(), &context, &[&flag, "--no-cache"])?;
    same("hits", &again.count("remote hit"), &0)?;
    if again.digest == first.digest {
        return Err("a build with --no-cache ran nothing".to_owned());
    }
    Ok(())
}
