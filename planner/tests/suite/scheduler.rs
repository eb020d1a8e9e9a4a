//! The scheduler over a backend that runs nothing and counts everything.

use crate::common::{command, context, plan};
use planner::key::{CacheKey, ContentId};
use planner::plan::{CopyFrom, Op, Plan, Step, StepId};
use planner::scheduler::{
    Backend, Cancel, Observer, Outcome, RunError, Standing, StepEvent, run, survey,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("exit code: {0}")]
    Exit(u8),
    #[error("stopped")]
    Stopped,
    #[error("no such file")]
    Missing,
}

/// A command `same ...` gives the same files whatever it reads; any other gives files of its own per input.
/// `fail ...` fails, `wait ...` runs until it is cancelled, `meet N ...` ends when N such run at once.
#[derive(Default)]
struct Fake {
    contexts: Mutex<BTreeMap<String, String>>,
    records: Mutex<HashMap<CacheKey, String>>,
    executed: Mutex<Vec<u32>>,
    lookups: Mutex<Vec<(u32, bool)>>,
    sources: Mutex<Vec<u32>>,
    running: AtomicUsize,
    most: AtomicUsize,
    met: Mutex<usize>,
    meeting: Condvar,
    threads: Mutex<BTreeSet<String>>,
}

impl Fake {
    fn with_context(content: &str) -> Self {
        let fake = Self::default();
        fake.change("src", content);
        fake
    }

    fn change(&self, context: &str, content: &str) {
        self.contexts
            .lock()
            .unwrap()
            .insert(context.to_owned(), content.to_owned());
    }

    fn content(&self, step: &Step) -> Option<Result<String, Failure>> {
        let Op::Copy(copy) = &step.op else {
            return None;
        };
        let CopyFrom::Context(name) = &copy.from else {
            return None;
        };
        Some(
            self.contexts
                .lock()
                .unwrap()
                .get(name)
                .cloned()
                .ok_or(Failure::Missing),
        )
    }

    /// Runs the plan from a clean count.
    fn build(&self, plan: &Plan, jobs: usize) -> Result<Outcome<String>, RunError<Failure>> {
        self.executed.lock().unwrap().clear();
        self.lookups.lock().unwrap().clear();
        self.sources.lock().unwrap().clear();
        self.threads.lock().unwrap().clear();
        run(plan, self, &Log::default(), jobs, &Cancel::default())
    }

    fn executed(&self) -> Vec<u32> {
        let mut executed = self.executed.lock().unwrap().clone();
        executed.sort_unstable();
        executed
    }

    fn work(&self, text: &str, cancel: &Cancel) -> Result<(), Failure> {
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["fail", ..] => Err(Failure::Exit(2)),
            ["wait", ..] => {
                while !cancel.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Failure::Stopped)
            }
            ["meet", count, ..] => {
                let count: usize = count.parse().unwrap();
                let mut met = self.met.lock().unwrap();
                *met += 1;
                self.meeting.notify_all();
                while *met < count {
                    let (guard, timeout) = self
                        .meeting
                        .wait_timeout(met, Duration::from_secs(20))
                        .unwrap();
                    assert!(
                        !timeout.timed_out(),
                        "the others never ran at the same time"
                    );
                    met = guard;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn digest(text: &str) -> ContentId {
    let mut bytes = [0_u8; 32];
    for (index, byte) in text.bytes().enumerate() {
        bytes[index % 32] = bytes[index % 32].wrapping_mul(31).wrapping_add(byte);
    }
    ContentId(bytes)
}

impl Backend for Fake {
    type Output = String;
    type Error = Failure;

    fn source_digest(&self, step: &Step) -> Result<Option<ContentId>, Failure> {
        self.sources.lock().unwrap().push(step.id.0);
        self.content(step)
            .map(|content| content.map(|text| digest(&text)))
            .transpose()
    }

    fn lookup(
        &self,
        step: &Step,
        key: &CacheKey,
        inputs: Option<&[String]>,
    ) -> Result<Option<String>, Failure> {
        self.lookups
            .lock()
            .unwrap()
            .push((step.id.0, inputs.is_some()));
        Ok(self.records.lock().unwrap().get(key).cloned())
    }

    fn input_identity(
        &self,
        _step: &Step,
        _index: usize,
        input: &String,
    ) -> Result<ContentId, Failure> {
        Ok(digest(input))
    }

    fn execute(
        &self,
        step: &Step,
        inputs: &[String],
        events: &dyn Observer,
        cancel: &Cancel,
    ) -> Result<String, Failure> {
        self.executed.lock().unwrap().push(step.id.0);
        self.threads
            .lock()
            .unwrap()
            .insert(format!("{:?}", std::thread::current().id()));
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        events.event(
            step.id,
            StepEvent::Output {
                stderr: false,
                data: b"working\n".to_vec(),
            },
        );
        let result = match (&step.op, self.content(step)) {
            (_, Some(content)) => content,
            (Op::Run(op), None) => {
                self.work(&op.args[0], cancel)
                    .map(|()| match op.args[0].as_str() {
                        same if same.starts_with("same") => same.to_owned(),
                        other => format!("{other}({})", inputs.join(",")),
                    })
            }
            _ => unreachable!("plans here hold copies of contexts and commands"),
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn record(&self, _step: &Step, keys: &[CacheKey], output: &String) -> Result<(), Failure> {
        let mut records = self.records.lock().unwrap();
        records.extend(keys.iter().map(|key| (*key, output.clone())));
        Ok(())
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<(u32, String)>>);

impl Observer for Log {
    fn event(&self, step: StepId, event: StepEvent) {
        self.0.lock().unwrap().push((step.0, format!("{event:?}")));
    }
}

impl Log {
    fn of(&self, step: u32) -> Vec<String> {
        let events = self.0.lock().unwrap();
        events
            .iter()
            .filter(|(id, _)| *id == step)
            .map(|(_, event)| event.clone())
            .collect()
    }
}

/// context -> same (its result never changes) -> two users -> both
fn five_steps() -> Plan {
    plan(
        vec![
            context(0, "src"),
            command(1, "same", &[0]),
            command(2, "left", &[1]),
            command(3, "right", &[1]),
            command(4, "join", &[2, 3]),
        ],
        &[4],
    )
}

#[test]
fn cold_runs_all_warm_runs_none() {
    let fake = Fake::with_context("one");
    let cold = fake.build(&five_steps(), 2).unwrap();
    assert_eq!((cold.executed, cold.cached), (5, 0));
    assert_eq!(fake.executed(), [0, 1, 2, 3, 4]);
    assert_eq!(
        cold.outputs[4].as_deref(),
        Some("join(left(same),right(same))")
    );

    let warm = fake.build(&five_steps(), 2).unwrap();
    assert_eq!((warm.executed, warm.cached), (0, 5));
    assert_eq!(warm.outputs[4], cold.outputs[4]);
}

#[test]
fn nothing_below_a_hit_is_looked_up() {
    let fake = Fake::with_context("one");
    fake.build(&five_steps(), 2).unwrap();
    let warm = fake.build(&five_steps(), 2).unwrap();
    assert_eq!(*fake.lookups.lock().unwrap(), [(4, false)]);
    assert!(
        warm.outputs[..4].iter().all(Option::is_none),
        "below the hit nothing is wanted"
    );
}

#[test]
fn an_equal_middle_cuts_off_what_follows() {
    let fake = Fake::with_context("one");
    fake.build(&five_steps(), 2).unwrap();
    fake.change("src", "two");
    let changed = fake.build(&five_steps(), 2).unwrap();
    assert_eq!(
        fake.executed(),
        [0, 1],
        "the copy and the command that read it"
    );
    assert_eq!((changed.executed, changed.cached), (2, 3));
    let again = fake.build(&five_steps(), 2).unwrap();
    assert_eq!(
        *fake.lookups.lock().unwrap(),
        [(4, false)],
        "what was cut off is recorded under its definition, too"
    );
    assert_eq!(again.executed, 0);
}

#[test]
fn a_change_runs_only_what_depends_on_it() {
    let fake = Fake::with_context("one");
    fake.change("other", "x");
    let steps = vec![
        context(0, "src"),
        context(1, "other"),
        command(2, "a", &[0]),
        command(3, "b", &[1]),
        command(4, "c", &[2, 3]),
    ];
    let plan = plan(steps, &[4]);
    fake.build(&plan, 2).unwrap();
    fake.change("other", "y");
    fake.build(&plan, 2).unwrap();
    assert_eq!(fake.executed(), [1, 3, 4]);
}

#[test]
fn independent_steps_run_at_once_but_no_more_than_allowed() {
    let meeting = |count: usize| {
        let steps = (0..6).map(|id| command(id, &format!("meet {count} {id}"), &[]));
        let all: Vec<u32> = (0..6).collect();
        plan(steps.chain([command(6, "join", &all)]).collect(), &[6])
    };
    for jobs in [1, 2, 3] {
        let fake = Fake::default();
        fake.build(&meeting(jobs), jobs).unwrap();
        assert_eq!(fake.most.load(Ordering::SeqCst), jobs);
    }
}

#[test]
fn ready_steps_run_in_plan_order() {
    let fake = Fake::with_context("one");
    fake.build(&five_steps(), 1).unwrap();
    assert_eq!(*fake.executed.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_chain_of_steps_needs_no_other_thread() {
    let fake = Fake::with_context("one");
    let chain = plan(
        vec![
            context(0, "src"),
            command(1, "a", &[0]),
            command(2, "b", &[1]),
            command(3, "c", &[2]),
        ],
        &[3],
    );
    fake.build(&chain, 8).unwrap();
    let caller = format!("{:?}", std::thread::current().id());
    assert_eq!(
        fake.threads.lock().unwrap().iter().collect::<Vec<_>>(),
        [&caller]
    );
}

#[test]
fn a_failure_cancels_and_awaits_the_others() {
    let steps = vec![
        command(0, "wait", &[]),
        command(1, "fail", &[]),
        command(2, "never", &[0]),
        command(3, "never either", &[1, 2]),
    ];
    let plan = plan(steps, &[3]);
    let fake = Fake::default();
    let log = Log::default();
    let cancel = Cancel::default();
    let error = run(&plan, &fake, &log, 2, &cancel).unwrap_err();
    assert!(
        matches!(
            error,
            RunError::Step {
                step: StepId(1),
                source: Failure::Exit(2)
            }
        ),
        "{error:?}"
    );
    assert_eq!(fake.executed(), [0, 1]);
    assert_eq!(fake.running.load(Ordering::SeqCst), 0, "all were awaited");
    assert_eq!(log.of(0).last().map(String::as_str), Some("Cancelled"));
    assert_eq!(
        log.of(1).last().map(String::as_str),
        Some("Failed(\"exit code: 2\")")
    );
    assert!(log.of(2).is_empty() && log.of(3).is_empty());
    assert!(
        !cancel.is_cancelled(),
        "the caller's own flag is the caller's"
    );
}

#[test]
fn a_failed_step_leaves_no_record_and_finished_ones_stay() {
    let fake = Fake::with_context("one");
    let failing = plan(
        vec![
            context(0, "src"),
            command(1, "a", &[0]),
            command(2, "fail", &[1]),
        ],
        &[2],
    );
    fake.build(&failing, 2).unwrap_err();
    assert_eq!(fake.executed(), [0, 1, 2]);
    fake.build(&failing, 2).unwrap_err();
    assert_eq!(fake.executed(), [2], "the steps below were recorded");
}

#[test]
fn cancelling_from_outside_stops_the_build() {
    let plan = plan(
        vec![command(0, "wait", &[]), command(1, "after", &[0])],
        &[1],
    );
    let fake = Fake::default();
    let log = Log::default();
    let cancel = Cancel::default();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while fake.executed.lock().unwrap().is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
            cancel.cancel();
        });
        run(&plan, &fake, &log, 2, &cancel).unwrap_err()
    });
    assert!(matches!(error, RunError::Cancelled), "{error:?}");
    assert_eq!(fake.executed(), [0]);
    assert_eq!(log.of(0).last().map(String::as_str), Some("Cancelled"));

    let before = run(&plan, &fake, &Log::default(), 2, &cancel).unwrap_err();
    assert!(
        matches!(before, RunError::Cancelled),
        "a build cancelled before it starts runs nothing"
    );
    assert_eq!(fake.executed(), [0]);
}

#[test]
fn equal_content_runs_once() {
    let fake = Fake::default();
    fake.change("a", "equal");
    fake.change("b", "equal");
    let steps = vec![
        context(0, "a"),
        context(1, "b"),
        command(2, "slow", &[0]),
        command(3, "slow", &[1]),
        command(4, "join", &[2, 3]),
    ];
    let outcome = fake.build(&plan(steps, &[4]), 2).unwrap();
    let slow: Vec<u32> = fake
        .executed()
        .into_iter()
        .filter(|id| [2, 3].contains(id))
        .collect();
    assert_eq!(slow.len(), 1, "the second waits for the first one's result");
    assert_eq!((outcome.executed, outcome.cached), (4, 1));
    assert_eq!(outcome.outputs[2], outcome.outputs[3]);
}

#[test]
fn a_step_without_cache_runs_and_is_recorded() {
    let fake = Fake::with_context("one");
    let mut plan = five_steps();
    fake.build(&plan, 2).unwrap();
    plan.steps[1].no_cache = true;
    fake.build(&plan, 2).unwrap();
    assert_eq!(fake.executed(), [1], "its users are found by content");
    assert!(!fake.lookups.lock().unwrap().iter().any(|(id, _)| *id == 1));
    assert!(
        !fake.lookups.lock().unwrap().contains(&(4, false)),
        "a user's definition says nothing of a new run"
    );

    let fresh = Fake::with_context("one");
    fresh.build(&plan, 2).unwrap();
    fresh.build(&five_steps(), 2).unwrap();
    assert!(fresh.executed().is_empty(), "its result was recorded");
}

#[test]
fn a_missing_source_stops_the_build_before_anything_runs() {
    let fake = Fake::default();
    let plan = plan(
        vec![
            command(0, "a", &[]),
            context(1, "nowhere"),
            command(2, "join", &[0, 1]),
        ],
        &[2],
    );
    let log = Log::default();
    let error = run(&plan, &fake, &log, 2, &Cancel::default()).unwrap_err();
    assert!(
        matches!(
            error,
            RunError::Step {
                step: StepId(1),
                source: Failure::Missing
            }
        ),
        "{error:?}"
    );
    assert!(fake.executed().is_empty());
    assert_eq!(log.of(1), ["Failed(\"no such file\")"]);
}

#[test]
fn events_come_in_order() {
    let fake = Fake::with_context("one");
    let log = Log::default();
    run(&five_steps(), &fake, &log, 1, &Cancel::default()).unwrap();
    let output = "Output { stderr: false, data: [119, 111, 114, 107, 105, 110, 103, 10] }";
    for id in 0..5 {
        assert_eq!(log.of(id), ["Started { why: None }", output, "Finished"]);
    }
    let log = Log::default();
    run(&five_steps(), &fake, &log, 1, &Cancel::default()).unwrap();
    let events: Vec<(u32, String)> = log.0.into_inner().unwrap();
    assert_eq!(
        events,
        (0..5)
            .map(|id| (id, "Cached".to_owned()))
            .collect::<Vec<_>>()
    );
}

#[test]
fn a_survey_tells_standings_without_running() {
    let fake = Fake::with_context("one");
    fake.build(&five_steps(), 2).unwrap();
    fake.change("src", "two");
    let mut wider = five_steps();
    wider.steps.push(command(5, "new", &[2]));
    wider.targets.push(plan(vec![], &[5]).targets.remove(0));
    let survey = survey(&wider, &fake, &Cancel::default()).unwrap();
    assert!(
        survey
            .standings
            .iter()
            .all(|standing| *standing == Standing::Miss)
    );
    fake.change("src", "one");
    let survey = planner::scheduler::survey(&wider, &fake, &Cancel::default()).unwrap();
    use Standing::{Hit, Miss, NotNeeded};
    assert_eq!(
        survey.standings,
        [NotNeeded, NotNeeded, Hit, NotNeeded, Hit, Miss]
    );
}

#[test]
fn several_targets_share_what_they_have_in_common() {
    let fake = Fake::with_context("one");
    let shared = plan(
        vec![
            context(0, "src"),
            command(1, "a", &[0]),
            command(2, "b", &[0]),
        ],
        &[1, 2],
    );
    let outcome = fake.build(&shared, 2).unwrap();
    assert_eq!(outcome.executed, 3);
    assert!(outcome.outputs[1].is_some() && outcome.outputs[2].is_some());
}

#[test]
fn many_steps_with_many_workers_all_run_once() {
    let fake = Fake::with_context("one");
    let mut steps = vec![context(0, "src")];
    for id in 1..200 {
        let inputs: BTreeSet<u32> = [id / 2, id / 3, id - 1 - (id % 7).min(id - 1)]
            .into_iter()
            .collect();
        let inputs: Vec<u32> = inputs.into_iter().collect();
        steps.push(command(id, &format!("step {id}"), &inputs));
    }
    let all: Vec<u32> = (0..200).collect();
    let outcome = fake.build(&plan(steps, &all), 8).unwrap();
    assert_eq!(outcome.executed, 200);
    assert_eq!(fake.executed(), all);
    assert!(fake.most.load(Ordering::SeqCst) <= 8);
}
