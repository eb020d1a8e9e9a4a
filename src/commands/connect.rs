//! A registry client for commands that are no builds: settings, and an end when a signal comes.

use crate::args::RegistryArgs;
use crate::environment::Environment;
use crate::error::Failure;
use executor::remote::Remote;
use planner::scheduler::Cancel;

/// A client that signals stop.
pub struct Connection {
    /// The client; it connects when first used.
    pub remote: Remote,
    cancel: Cancel,
    signals: signal_hook::iterator::Handle,
}

/// Reads the settings; connects to nothing.
pub fn connect(args: &RegistryArgs, environment: &Environment) -> Result<Connection, Failure> {
    let options = crate::registry_options::client_options(args, environment)?;
    let cancel = Cancel::default();
    let signals = super::build::watch_signals(&cancel)?;
    Ok(Connection {
        remote: Remote::new(&options, &cancel),
        cancel,
        signals,
    })
}

/// A client for what is missing in the store, which mostly is nothing. Signals end the process.
pub fn fetching(args: &RegistryArgs, environment: &Environment) -> Result<Remote, Failure> {
    let options = crate::registry_options::client_options(args, environment)?;
    Ok(Remote::new(&options, &Cancel::default()))
}

impl Connection {
    /// A failure of work over this connection.
    pub fn failed(&self, error: executor::Error) -> Failure {
        if self.cancel.is_cancelled() || matches!(error, executor::Error::Cancelled) {
            return Failure::Interrupted;
        }
        Failure::from(error)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.signals.close();
    }
}
