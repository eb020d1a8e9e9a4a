//! The flag of the search for steps that are not deterministic.

use clap::Args;

// `--verify`.
#[derive(Args, Debug, Default)]
pub struct VerifyArgs {
    /// Carry all steps out again and compare them with what the cache has; status 1 if one gave something else
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", hide_default_value = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub verify: bool,
}
