//! A forked child of the helper that runs one registered task and sends its result.

use crate::TaskFn;
use crate::helper::close_all_but;
use crate::init::die_with_parent;
use crate::sys;
use crate::wire::{self, Request};
use rustix::fd::OwnedFd;
use std::fs::File;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};

/// Body of the child.
pub(crate) fn main(
    tasks: &[(&'static str, TaskFn)],
    request: Request,
    reply: OwnedFd,
    life: &OwnedFd,
) -> ! {
    let result = prepare(&request, &reply, life).and_then(|()| run(tasks, request));
    answer(reply, result);
    sys::exit_now(0)
}

fn prepare(request: &Request, reply: &OwnedFd, life: &OwnedFd) -> Result<(), String> {
    let mut kept = request.descriptors();
    kept.extend([reply, life]);
    close_all_but(&kept)
        .map_err(|errno| format!("could not close inherited descriptors: {errno}"))?;
    die_with_parent(life).map_err(|failure| failure.stage)?;
    let _ = rustix::thread::set_name(c"kiln-task");
    Ok(())
}

fn run(tasks: &[(&'static str, TaskFn)], mut request: Request) -> Result<Vec<u8>, String> {
    let payload = request
        .payload
        .take()
        .map_err(|error| format!("could not read the request: {error}"))?;
    let (name, body) = wire::split_task_payload(&payload).ok_or("malformed request")?;
    let (_, function) = tasks
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| format!("no task {name:?}"))?;
    let panic = Arc::new(Mutex::new(None));
    let told = Arc::clone(&panic);
    std::panic::set_hook(Box::new(move |info| {
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(info.to_string());
    }));
    let fds = std::mem::take(&mut request.fds);
    std::panic::catch_unwind(AssertUnwindSafe(|| function(body, fds))).unwrap_or_else(|_| {
        let message: Option<String> = panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        Err(format!(
            "task {name} panicked: {}",
            message.unwrap_or_default()
        ))
    })
}

/// Sends a task's result. A caller that is gone needs none.
pub(crate) fn answer(reply: OwnedFd, result: Result<Vec<u8>, String>) {
    let (status, bytes) = match result {
        Ok(bytes) => (0, bytes),
        Err(message) => (1, message.into_bytes()),
    };
    let mut stream = File::from(reply);
    let mut head = [status; 9];
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    let _ = stream
        .write_all(&head)
        .and_then(|()| stream.write_all(&bytes));
}
