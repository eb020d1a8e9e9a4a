//! Runs the cases of a suite side by side and gathers what they say in the order of the corpus.

use super::SuiteResult;
use super::bases::Bases;
use super::builds::Levels;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all suites share.
#[derive(Debug)]
pub struct Harness {
    /// The binary and the base images.
    pub bases: Bases,
    /// Folder of the cases' folders.
    pub work: PathBuf,
    /// Only cases whose name contains this.
    pub case: Option<String>,
}

/// A case with its place.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What the corpus says.
    pub value: &'a Value,
    /// Its name.
    pub name: &'a str,
    /// Its own folder; it goes away after the case.
    pub dir: &'a Path,
    /// The binary and the base images.
    pub bases: &'a Bases,
}

impl Harness {
    /// Runs the named cases; an `Err` of one is a failure, or leaves it out (`LEFT_OUT`).
    pub fn run(
        &self,
        suite: &str,
        cases: &[(String, &Value)],
        one: impl Fn(Case<'_>, &mut Levels) -> Result<(), String> + Sync,
    ) -> Vec<SuiteResult> {
        let cases: Vec<&(String, &Value)> = cases
            .iter()
            .filter(|(name, _)| {
                self.case
                    .as_ref()
                    .is_none_or(|part| name.contains(part.as_str()))
            })
            .collect();
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Levels)>> = Mutex::new(Vec::new());
        let worker = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((name, value)) = cases.get(number) else {
                    break;
                };
                let dir = self.work.join(format!(
                    "{}-{number}-{}",
                    super::file_name(suite),
                    super::file_name(name)
                ));
                let mut levels = Levels::new(suite);
                let case = Case {
                    value,
                    name,
                    dir: &dir,
                    bases: &self.bases,
                };
                if let Err(reason) = one(case, &mut levels) {
                    levels.fail(name, &reason);
                }
                // What cannot be removed goes with the whole work folder.
                let _ = std::fs::remove_dir_all(&dir);
                done.lock()
                    .expect("BUG: no case panics while it reports")
                    .push((number, levels));
            }
        };
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(worker);
            }
        });
        let mut done = done
            .into_inner()
            .expect("BUG: no case panics while it reports");
        done.sort_by_key(|(number, _)| *number);
        let mut all = Levels::new(suite);
        done.into_iter().for_each(|(_, levels)| all.absorb(levels));
        all.into_results()
    }
}
