//! The checks, by the names and words that Docker's documentation has for them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Rule {
    /// A stage's name has capitals.
    StageNameCasing,
    /// `FROM` and `as` are written differently.
    FromAsCasing,
    /// An instruction goes on behind an empty line.
    NoEmptyContinuation,
    /// Some instructions are in capitals, some are not.
    ConsistentInstructionCasing,
    /// Two stages have one name.
    DuplicateStageName,
    /// A stage's name means something else.
    ReservedStageName,
    /// A shell would be what gets the signals.
    JsonArgsRecommended,
    /// `MAINTAINER`
    MaintainerDeprecated,
    /// `FROM` uses what no `ARG` before it declares.
    UndefinedArgInFrom,
    /// `WORKDIR` depends on the base image's.
    WorkdirRelativePath,
    /// A variable that nothing sets.
    UndefinedVar,
    /// Only the last of several counts.
    MultipleInstructionsDisallowed,
    /// `ENV NAME VALUE`
    LegacyKeyValueFormat,
    /// The base image is for another platform.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM`
    RedundantTargetPlatform,
    /// A secret would be in the image.
    SecretsUsedInArgOrEnv,
    /// `FROM` works only with arguments that the build is given.
    InvalidDefaultArgInFrom,
    /// `--platform=linux/amd64`
    FromPlatformFlagConstDisallowed,
    /// What is copied is no part of the context.
    CopyIgnoredFile,
    /// A comment above an `ARG` or a stage does not describe it.
    InvalidDefinitionDescription,
    /// `EXPOSE 80/TCP`
    ExposeProtoCasing,
    /// `EXPOSE 8080:80`
    ExposeInvalidFormat,
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.name().to_owned()
    }
}

impl TryFrom<String> for Rule {
    type Error = String;

    fn try_from(name: String) -> Result<Rule, String> {
        let named = Rule::ALL.into_iter().find(|rule| rule.name() == name);
        named.ok_or_else(|| format!("no check is called {name:?}"))
    }
}

impl Rule {
    /// All of them.
    pub const ALL: [Rule; 22] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::ConsistentInstructionCasing,
        Rule::DuplicateStageName,
        Rule::ReservedStageName,
        Rule::JsonArgsRecommended,
        Rule::MaintainerDeprecated,
        Rule::UndefinedArgInFrom,
        Rule::WorkdirRelativePath,
        Rule::UndefinedVar,
        Rule::MultipleInstructionsDisallowed,
        Rule::LegacyKeyValueFormat,
        Rule::InvalidBaseImagePlatform,
        Rule::RedundantTargetPlatform,
        Rule::SecretsUsedInArgOrEnv,
        Rule::InvalidDefaultArgInFrom,
        Rule::FromPlatformFlagConstDisallowed,
        Rule::CopyIgnoredFile,
        Rule::InvalidDefinitionDescription,
        Rule::ExposeProtoCasing,
        Rule::ExposeInvalidFormat,
    ];

    /// Its name, as `check=skip=` takes it.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// What it asks for.
    pub fn description(self) -> &'static str {
        self.texts().1
    }

    /// Where Docker's documentation explains it.
    pub fn url(self) -> String {
        let mut page = String::new();
        let mut before = ' ';
        for c in self.name().chars() {
            // "JSONArgs" is two words.
            if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
                page.push('-');
            }
            page.push(c.to_ascii_lowercase());
            before = c;
        }
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", page.replace("jsonargs", "json-args"))
    }

    /// Whether it is made only where it is asked for.
    pub fn experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Rule::StageNameCasing => ("StageNameCasing", "Stage names should be lowercase"),
            Rule::FromAsCasing => ("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
            Rule::NoEmptyContinuation => {
                ("NoEmptyContinuation", "Empty continuation lines will become errors in a future release")
            }
            Rule::ConsistentInstructionCasing => (
                "ConsistentInstructionCasing",
                "All commands within the Dockerfile should use the same casing (either upper or lower)",
            ),
            Rule::DuplicateStageName => ("DuplicateStageName", "Stage names should be unique"),
            Rule::ReservedStageName => ("ReservedStageName", "Reserved words should not be used as stage names"),
            Rule::JsonArgsRecommended => (
                "JSONArgsRecommended",
                "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
            ),
            Rule::MaintainerDeprecated => (
                "MaintainerDeprecated",
                "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
            ),
            Rule::UndefinedArgInFrom => ("UndefinedArgInFrom", "FROM command must use declared ARGs"),
            Rule::WorkdirRelativePath => (
                "WorkdirRelativePath",
                "Relative workdir without an absolute workdir declared within the build can have unexpected results if the \
                 base image changes",
            ),
            Rule::UndefinedVar => ("UndefinedVar", "Variables should be defined before their use"),
            Rule::MultipleInstructionsDisallowed => (
                "MultipleInstructionsDisallowed",
                "Multiple instructions of the same type should not be used in the same stage",
            ),
            Rule::LegacyKeyValueFormat => {
                ("LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used")
            }
            Rule::InvalidBaseImagePlatform => {
                ("InvalidBaseImagePlatform", "Base image platform does not match expected target platform")
            }
            Rule::RedundantTargetPlatform => (
                "RedundantTargetPlatform",
                "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ),
            Rule::SecretsUsedInArgOrEnv => {
                ("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands")
            }
            Rule::InvalidDefaultArgInFrom => (
                "InvalidDefaultArgInFrom",
                "Default value for global ARG results in an empty or invalid base image name",
            ),
            Rule::FromPlatformFlagConstDisallowed => {
                ("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value")
            }
            Rule::CopyIgnoredFile => ("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"),
            Rule::InvalidDefinitionDescription => (
                "InvalidDefinitionDescription",
                "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this \
                 is not intended to be a description comment, add an empty line or comment between the instruction and the \
                 comment.",
            ),
            Rule::ExposeProtoCasing => ("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
            Rule::ExposeInvalidFormat => (
                "ExposeInvalidFormat",
                "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a \
                 future release",
            ),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
