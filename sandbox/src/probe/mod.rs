//! What this place allows: each thing a sandbox may need, tried as the sandbox would, with the settings that would change it.

pub(crate) mod fixes;
