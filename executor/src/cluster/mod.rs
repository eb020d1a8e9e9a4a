//! Steps on a cluster: which of them may go there, what a worker is given, and what is taken of its answer.
//!
//! It schedules nothing: the scheduler of the plan hands over steps, and waits.

#![allow(dead_code, reason = "used once steps run there")]

mod platform;
mod policy;
mod program;
pub mod tree;
