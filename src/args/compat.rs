//! Flags of `docker buildx build` that choose a builder or ask for what a daemon does: accepted where they change no
//! result, refused where they ask for something that is not there. `build_spec::compat` judges them.

use clap::Args;

// Flags taken for the sake of scripts written for other builders.
#[derive(Args, Debug, Default)]
pub struct CompatArgs {
    /// Builder instance (accepted for scripts: there is one builder)
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
    /// Load the image into the running Docker, and put it into the store, also when `--output` names other outputs
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub load: bool,
    /// Push the image to the registries of its names (`--output=type=registry`)
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub push: bool,
    /// Attestation: `type=sbom|provenance,disabled=true` (attestations are not supported yet)
    #[arg(long = "attest", value_name = "SPEC")]
    pub attestations: Vec<String>,
    /// Provenance attestation: only `false` is supported yet
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL|mode=MODE")]
    pub provenance: Option<String>,
    /// SBOM attestation: only `false` is supported yet
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL|generator=IMAGE")]
    pub sbom: Option<String>,
    /// Source policy (not supported yet)
    #[arg(long = "policy", value_name = "SPEC")]
    pub policies: Vec<String>,
    /// Flags of the classic builder that have no meaning here
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub rm: bool,
    /// As `rm`
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub force_rm: bool,
    /// As `rm`
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub compress: bool,
}
