//! How progress names the steps of a stage: `[linux/amd64->arm64 build 2/5] RUN make`.

use super::context::Place;
use super::scope::Env;
use crate::plan::Origin;
use crate::platform::Platform;

/// How progress names a stage's steps.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    /// The stage's name, or `stage-N`.
    pub(super) full_name: String,
    /// It stands before the numbers.
    pub(super) shown: bool,
    /// Stage name or index.
    pub(super) label: String,
    pub(super) index: usize,
    pub(super) total: usize,
    pub(super) several_platforms: bool,
    pub(super) onbuild: bool,
}

impl Naming {
    pub(super) fn origin(
        &mut self,
        text: &str,
        place: Place,
        platform: &Platform,
        env: &Env,
    ) -> Origin {
        let name = self.name(text, platform, env);
        Origin {
            name,
            stage: self.label.clone(),
            span: Some(place.span),
            lines: Some(place.lines),
            ..Origin::default()
        }
    }

    /// `[linux/amd64->arm64 build 2/5] RUN make`: the numbers are as wide as the greatest of them.
    fn name(&mut self, text: &str, platform: &Platform, env: &Env) -> String {
        let text = upper_case_keyword(text);
        if self.total == 0 {
            return text;
        }
        self.index += 1;
        let mut words = Vec::new();
        if self.several_platforms {
            words.push(format!("{platform}{}", cross_target(platform, env)));
        }
        if self.shown {
            words.push(self.full_name.clone());
        }
        let width = self.total.to_string().len();
        words.push(format!("{:>width$}/{}", self.index, self.total));
        let trigger = if self.onbuild { "ONBUILD " } else { "" };
        format!("[{}] {trigger}{text}", words.join(" "))
    }
}

fn upper_case_keyword(text: &str) -> String {
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// `->arm64` where a stage runs on one platform and its TARGET arguments say another.
fn cross_target(platform: &Platform, env: &Env) -> String {
    let given = |name: &str| env.value(name).filter(|value| !value.is_empty());
    let target = if let Some(text) = given("TARGETPLATFORM") {
        Platform::parse(text, platform).ok()
    } else if given("TARGETOS")
        .or(given("TARGETARCH"))
        .or(given("TARGETVARIANT"))
        .is_some()
    {
        let os = given("TARGETOS").unwrap_or(&platform.os);
        let architecture = given("TARGETARCH").unwrap_or(&platform.architecture);
        Some(Platform::new(
            os,
            architecture,
            given("TARGETVARIANT").unwrap_or(""),
        ))
    } else {
        None
    };
    match target {
        Some(target) if target.os != platform.os => format!("->{target}"),
        Some(target) if target.architecture != platform.architecture => {
            let variant = target
                .variant
                .map(|variant| format!("/{variant}"))
                .unwrap_or_default();
            format!("->{}{variant}", target.architecture)
        }
        _ => String::new(),
    }
}
