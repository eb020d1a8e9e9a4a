//! Where a build works: the store, and the user namespace when one is needed.
//!
//! File work on trees runs in this process when it is root, and as a task inside the build's
//! user namespace otherwise, because trees then hold files of subordinate ids.

use crate::Error;
use sandbox::Sandbox;
use store::Store;

/// Tasks for `sandbox::init_if_child`.
pub const TASKS: &[(&str, sandbox::TaskFn)] = &[];

/// The store and a lazily started sandbox. Shared by reference between threads.
#[derive(Debug)]
pub struct Space {
    _private: (),
}

impl Space {
    /// Over a store; starts nothing.
    #[must_use]
    pub fn new(_store: Store) -> Self {
        todo!()
    }
    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        todo!()
    }
    /// The sandbox, started on first use.
    ///
    /// # Errors
    /// What the host does not allow.
    pub fn sandbox(&self) -> Result<&Sandbox, Error> {
        todo!()
    }
    /// Runs a task of [`TASKS`]: in this process when it is root, else inside the namespace. Request and answer are JSON.
    ///
    /// # Errors
    /// The task's.
    pub fn task<Q: serde::Serialize, A: serde::de::DeserializeOwned>(&self, _name: &str, _request: &Q) -> Result<A, Error> {
        todo!()
    }
    /// Removes a tree, whoever owns its files.
    ///
    /// # Errors
    /// I/O.
    pub fn remove_tree(&self, _path: &std::path::Path) -> std::io::Result<()> {
        todo!()
    }
}
