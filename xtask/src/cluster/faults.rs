//! What goes wrong ends in the right result or in an error that says what, within a bound, and leaves nothing that runs.

use super::harness::{Bench, Case, Needs, same};
use rustix::process::Signal;
use std::thread;
use std::time::{Duration, Instant};

/// All of them.
pub fn all() -> Vec<Case> {
    let case = |name, needs, run| Case { name, needs, run };
    vec![
        case("failure", Needs::Nothing, failure),
        case("failure-by-signal", Needs::Nothing, failure_by_signal),
        case("failed-sibling", Needs::Nothing, failed_sibling),
        case("time-out", Needs::Nothing, time_out),
        case("no-worker", Needs::Nothing, no_worker),
        case("no-worker-but-here", Needs::Nothing, no_worker_but_here),
        case("busy", Needs::Queue, busy),
        case("cancelled", Needs::Nothing, cancelled),
        case("cancelled-neighbour", Needs::Nothing, cancelled_neighbour),
        case("evicted", Needs::Nothing, evicted),
        case("restarted", Needs::Nothing, restarted),
        case("crashed", Needs::Nothing, crashed),
        case("worker-killed", Needs::Nothing, worker_killed),
    ]
}

/// That nothing of a build is left on the server.
fn at_rest(bench: &Bench) -> Result<(), String> {
    let since = Instant::now();
    while let Some(count) = bench.server.children().filter(|count| *count > 0) {
        if since.elapsed() > Duration::from_secs(15) {
            return Err(format!("{count} processes are left on the server"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn failure(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN echo to-out; echo the reason >&2; exit 42\n")?;
    let flag = bench.executor("");
    let machine = bench.machine();
    for store in [&machine, &machine, &bench.machine()] {
        let built = bench.build(store, &context, &[&flag])?;
        built.failed(
            1,
            &[
                "to-out",
                "the reason",
                "did not complete successfully: exit code: 42",
                "Dockerfile:2",
            ],
        )?;
        // What failed is run again, whoever kept it.
        same("hits", &built.count("remote hit"), &0)?;
    }
    at_rest(bench)
}

fn failure_by_signal(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN kill -9 $$\n")?;
    let flag = bench.executor("");
    let built = bench.build(&bench.machine(), &context, &[&flag])?;
    built.failed(1, &["exit code: 137"])
}

fn failed_sibling(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(
        "FROM busybox AS a\nRUN sleep 1000\nFROM busybox AS b\nRUN sleep 1; exit 7\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n",
    )?;
    let flag = bench.executor("");
    let built = bench.build(&bench.machine(), &context, &[&flag])?;
    built.failed(1, &["exit code: 7"])?;
    at_rest(bench)
}

fn time_out(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN sleep 1000\n")?;
    let flag = bench.executor(",timeout=3s");
    let built = bench.build(&bench.machine(), &context, &[&flag])?;
    built.failed(1, &["did not end within 3 s"])?;
    at_rest(bench)
}

/// A property that no worker has; and one that all servers heed.
const NOBODY: &str = ",property=ISA=s390x,queue-timeout=2s";

fn no_worker(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN echo a > /a\n")?;
    let flag = bench.executor(NOBODY);
    let built = bench.build(&bench.machine(), &context, &[&flag])?;
    built.failed(1, &["no worker of", "ISA=s390x"])
}

fn no_worker_but_here(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN echo a > /a\nRUN echo b > /b\n")?;
    let local = bench.good(&bench.machine(), &context, &[])?;
    let flag = bench.executor(NOBODY);
    let flags = [flag.as_str(), "--executor-fallback=local"];
    let built = bench.good(&bench.machine(), &context, &flags)?;
    same("image", &built.digest, &local.digest)?;
    same("steps here", &built.count("runs on this machine"), &2)
}

/// Workers that there are, and that have no time.
fn busy(bench: &mut Bench) -> Result<(), String> {
    use std::fmt::Write as _;
    let (mut stages, mut last) = (String::new(), "FROM scratch\n".to_owned());
    for number in 0..bench.workers {
        let _ = writeln!(
            stages,
            "FROM busybox AS s{number}\nRUN echo {number}; sleep 1000"
        );
        let _ = writeln!(last, "COPY --from=s{number} / /{number}/");
    }
    let long = bench.context(&format!("{stages}{last}"))?;
    let flag = bench.executor("");
    let mut running = bench.start(&bench.machine(), &long, &[&flag])?;
    running.wait("the commands", |_| {
        bench.server.running() >= Some(bench.workers)
    })?;
    let context = bench.context("FROM busybox\nRUN echo late > /late\n")?;
    let flag = bench.executor(",queue-timeout=3s");
    let built = bench.build(&bench.machine(), &context, &[&flag])?;
    running.signal(Signal::INT);
    let other = running.finish()?;
    built.failed(1, &["no worker of"])?;
    same("exit code of what was before", &other.code, &Some(130))?;
    at_rest(bench)
}

fn cancelled(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN sleep 1000\n")?;
    let flag = bench.executor("");
    let machine = bench.machine();
    let mut running = bench.start(&machine, &context, &[&flag])?;
    running.wait("the command", |_| bench.server.children() > Some(1))?;
    let since = Instant::now();
    running.signal(Signal::INT);
    let built = running.finish()?;
    same("exit code", &built.code, &Some(130))?;
    at_rest(bench)?;
    let took = since.elapsed();
    if took > Duration::from_secs(10) {
        return Err(format!("it took {took:?} until nothing ran any more"));
    }
    Ok(())
}

/// Two machines want the same step, which servers may run once for both: one gives up, and the other has it all the same.
fn cancelled_neighbour(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN sleep 6 && echo ours > /ours\n")?;
    let flag = bench.executor("");
    let (first, second) = (bench.machine(), bench.machine());
    let mut leaves = bench.start(&first, &context, &[&flag])?;
    leaves.wait("the command", |_| bench.server.children() > Some(1))?;
    let mut stays = bench.start(&second, &context, &[&flag])?;
    stays.wait("its step", |stays| stays.said().contains("] RUN sleep 6"))?;
    leaves.signal(Signal::INT);
    let left = leaves.finish()?;
    let built = stays.finish()?;
    same("exit code of who left", &left.code, &Some(130))?;
    if built.code != Some(0) {
        return Err(format!("exit code {:?}:\n{}", built.code, built.said));
    }
    let local = bench.good(&bench.machine(), &context, &[])?;
    same("image", &built.digest, &local.digest)?;
    at_rest(bench)
}

const STEPS: &str = "\
FROM busybox
RUN seq 1 1000 > /first
RUN seq 1 2000 > /second
RUN cat /first /second > /third
";

fn evicted(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(STEPS)?;
    let flag = bench.executor("");
    let (first, second) = (bench.machine(), bench.machine());
    let built = bench.good(&first, &context, &[&flag])?;
    if !bench.server.evict_all() {
        return Err("there was nothing to evict".to_owned());
    }
    // Nobody has it any more: it is made again, and so is what the first machine takes to be there.
    let again = bench.good(&second, &context, &[&flag])?;
    same("image of the second", &again.digest, &built.digest)?;
    bench.server.evict_all();
    let anew = bench.good(&first, &context, &[&flag, "--no-cache"])?;
    same("image of the first", &anew.digest, &built.digest)
}

fn restarted(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context(STEPS)?;
    let flag = bench.executor("");
    let built = bench.good(&bench.machine(), &context, &[&flag])?;
    bench.server.crash();
    let second = bench.good(&bench.machine(), &context, &[&flag])?;
    same("image", &second.digest, &built.digest)
}

/// The server dies in the middle of a step and comes back: the step runs once more, or the build says why not.
fn crashed(bench: &mut Bench) -> Result<(), String> {
    let context = bench.context("FROM busybox\nRUN sleep 3 && echo done > /done\n")?;
    let flag = bench.executor("");
    let machine = bench.machine();
    let mut running = bench.start(&machine, &context, &[&flag])?;
    running.wait("the command", |_| bench.server.children() > Some(1))?;
    bench.server.crash();
    let built = running.finish()?;
    if built.code != Some(0) {
        built.failed(1, &[&bench.server.url().replace("grpc://", "")])?;
    }
    // Whatever came of it, the next build is right.
    let local = bench.good(&bench.machine(), &context, &[])?;
    let next = bench.good(&machine, &context, &[&flag])?;
    same("image", &next.digest, &local.digest)?;
    at_rest(bench)
}

/// A worker that dies with what it runs: another one runs it.
fn worker_killed(bench: &mut Bench) -> Result<(), String> {
    let context =
        bench.context("FROM busybox\nRUN echo half-way; sleep 4 && echo done > /done\n")?;
    let flag = bench.executor("");
    let machine = bench.machine();
    bench.server.mark("half-way");
    let mut running = bench.start(&machine, &context, &[&flag])?;
    running.wait("the command", |_| bench.server.children() > Some(1))?;
    bench.server.kill_workers();
    let built = running.finish()?;
    if built.code != Some(0) {
        return Err(format!("exit code {:?}:\n{}", built.code, built.said));
    }
    let local = bench.good(&bench.machine(), &context, &[])?;
    same("image", &built.digest, &local.digest)?;
    at_rest(bench)
}
