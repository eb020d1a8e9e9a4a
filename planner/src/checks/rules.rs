//! The build checks: name, description and page of each rule, as BuildKit's linter has them.

/// Where the rules are described, up to the rule's own part.
const PAGES: &str = "https://docs.docker.com/go/dockerfile/rule/";

/// A build check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its name, as in `# check=skip=NAME` and in [`parser::Diagnostic::code`].
    pub name: &'static str,
    /// What it asks for.
    pub description: &'static str,
    /// Off unless `# check=experimental=NAME` turns it on.
    pub experimental: bool,
}

impl Rule {
    /// The address of its page: the name in lower case, words joined by hyphens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{PAGES}{}/", self.page())
    }

    /// The name in lower case, words joined by hyphens: `JSONArgsRecommended` is `json-args-recommended`.
    #[must_use]
    pub fn page(&self) -> String {
        let chars: Vec<char> = self.name.chars().collect();
        let mut page = String::with_capacity(chars.len() + 8);
        for (index, c) in chars.iter().enumerate() {
            let after_lower = index > 0 && chars[index - 1].is_lowercase();
            let before_lower = chars.get(index + 1).is_some_and(|next| next.is_lowercase());
            if index > 0 && c.is_uppercase() && (after_lower || before_lower) {
                page.push('-');
            }
            page.push(c.to_ascii_lowercase());
        }
        page
    }
}

/// The rule of a name.
#[must_use]
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.name == name)
}

macro_rules! rules {
    ($($id:ident $name:literal $description:literal,)*) => {
        $(
            #[doc = concat!("`", $name, "`.")]
            pub static $id: Rule = Rule {
                name: $name,
                description: $description,
                experimental: is_experimental($name),
            };
        )*

        /// All rules.
        pub static RULES: &[&Rule] = &[$(&$id),*];
    };
}

const fn is_experimental(name: &str) -> bool {
    matches!(name.as_bytes(), b"InvalidDefinitionDescription")
}

rules! {
    STAGE_NAME_CASING "StageNameCasing" "Stage names should be lowercase",
    FROM_AS_CASING "FromAsCasing" "The 'as' keyword should match the case of the 'from' keyword",
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" "Empty continuation lines will become errors in a future release",
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing"
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    DUPLICATE_STAGE_NAME "DuplicateStageName" "Stage names should be unique",
    RESERVED_STAGE_NAME "ReservedStageName" "Reserved words should not be used as stage names",
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended"
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    MAINTAINER_DEPRECATED "MaintainerDeprecated"
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" "FROM command must use declared ARGs",
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath"
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    UNDEFINED_VAR "UndefinedVar" "Variables should be defined before their use",
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed"
        "Multiple instructions of the same type should not be used in the same stage",
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat"
        "Legacy key/value format with whitespace separator should not be used",
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform"
        "Base image platform does not match expected target platform",
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform"
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv" "Sensitive data should not be used in the ARG or ENV commands",
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom"
        "Default value for global ARG results in an empty or invalid base image name",
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed"
        "FROM --platform flag should not use a constant value",
    COPY_IGNORED_FILE "CopyIgnoredFile" "Attempting to Copy file that is excluded by .dockerignore",
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription"
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    EXPOSE_PROTO_CASING "ExposeProtoCasing" "Protocol in EXPOSE instruction should be lowercase",
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat"
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
}
