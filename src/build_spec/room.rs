//! `--cache-max` and `KILN_CACHE_MAX`: how large the cache may grow.

use super::limits;
use crate::args::CacheMaxArgs;
use crate::environment::Environment;
use crate::error::Failure;
use executor::build::CacheMax;

/// The flag, else the variable, else by the disk.
pub fn cache_max(args: &CacheMaxArgs, environment: &Environment) -> Result<CacheMax, Failure> {
    if let Some(text) = &args.cache_max {
        return parse("--cache-max", text);
    }
    match environment.get("KILN_CACHE_MAX") {
        None => Ok(CacheMax::Auto),
        Some(text) => parse("KILN_CACHE_MAX", text),
    }
}

fn parse(name: &'static str, text: &str) -> Result<CacheMax, Failure> {
    match text {
        "auto" => Ok(CacheMax::Auto),
        "unlimited" => Ok(CacheMax::Unlimited),
        _ => limits::size(name, text).map(CacheMax::Bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_words() {
        for (text, wanted) in [
            ("auto", CacheMax::Auto),
            ("unlimited", CacheMax::Unlimited),
            ("0", CacheMax::Bytes(0)),
            ("20GB", CacheMax::Bytes(20 << 30)),
            ("1.5g", CacheMax::Bytes(3 << 29)),
        ] {
            assert_eq!(parse("--cache-max", text).ok(), Some(wanted), "{text}");
        }
        for text in ["", "-1", "much", "10x"] {
            let Err(Failure::Usage(message)) = parse("--cache-max", text) else {
                panic!("{text:?} is taken");
            };
            assert!(message.contains("'--cache-max'"), "{message}");
        }
    }
}
