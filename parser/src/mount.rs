//! `RUN --mount=` values: one CSV record of key=value fields, as BuildKit's `parseMount`.

/// Kinds of mounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MountType {
    /// `bind`, the default.
    #[default]
    Bind,
    /// `cache`.
    Cache,
    /// `tmpfs`.
    Tmpfs,
    /// `secret`.
    Secret,
    /// `ssh`.
    Ssh,
}

/// `sharing=` of cache mounts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Sharing {
    /// Several steps use it at once.
    #[default]
    Shared,
    /// A second user gets a mount of its own.
    Private,
    /// A second user waits.
    Locked,
}

/// A parsed mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mount {
    /// `type`.
    pub kind: MountType,
    /// `from`.
    pub from: Option<String>,
    /// `source` / `src`.
    pub source: Option<String>,
    /// `target` / `dst` / `destination`.
    pub target: Option<String>,
    /// Resulting read-only state after defaults (bind: true unless rw).
    pub readonly: bool,
    /// `id`.
    pub id: Option<String>,
    /// `sharing`.
    pub sharing: Sharing,
    /// `required`.
    pub required: bool,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `env` of secrets.
    pub env: Option<String>,
    /// `size` of tmpfs, bytes.
    pub size: Option<u64>,
}

/// Expands one field value; given to [`parse`] by the planner, `Ok` of the same text to check only.
pub type Expander<'a> = dyn Fn(&str) -> Result<String, String> + 'a;

/// Parses a `--mount` value. `expand` is applied to each field's value before it is read
/// (not to `from`, where a variable is an error).
///
/// # Errors
/// BuildKit's messages: unknown type or key with the nearest name, missing value, key not allowed for the type.
pub fn parse(_value: &str, _expand: &Expander<'_>) -> Result<Mount, String> {
    todo!()
}
