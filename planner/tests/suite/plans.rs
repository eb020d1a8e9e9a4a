//! Whole Dockerfiles and the plans they become, as committed texts.

use crate::build::{build, check, dump, options_of};

#[test]
fn plans_are_as_recorded() {
    insta::glob!("../data", "*.Dockerfile", |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let (plan, warnings) = build(&text, &options_of(&text))
            .unwrap_or_else(|errors| panic!("{path:?}: {errors:?}"));
        check(&plan);
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(dump(&plan, &warnings));
        });
    });
}
