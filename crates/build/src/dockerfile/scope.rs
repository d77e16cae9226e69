//! Which variables there are: `ARG` before the first `FROM`, `ARG` and `ENV` in a stage, and what is there unasked.

use super::expand::Variables;
use super::instruction::Argument;
use super::lines::Escape;
use super::source::{Mistake, Source};
use super::{Dockerfile, Word};
use image::Platform;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Arguments that `RUN` has without an `ARG`, if the build was given them. They are no part of an image, and what a step
/// makes of them is no other step.
pub const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a build is asked for beside its file.
#[derive(Clone, Debug)]
pub struct Given {
    /// `--build-arg`
    pub arguments: BTreeMap<String, String>,
    /// Where it is built.
    pub build_platform: Platform,
    /// What it is built for.
    pub target_platform: Platform,
    /// `--target`
    pub target: Option<String>,
}

impl Given {
    /// Nothing but this machine.
    pub fn host() -> Given {
        let platform = Platform::host();
        Given { arguments: BTreeMap::new(), build_platform: platform.clone(), target_platform: platform, target: None }
    }

    /// What every file has as `TARGETPLATFORM` and the like: all of it before the first `FROM`, and in a stage behind an
    /// `ARG` of the name.
    fn automatic(&self) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        for (prefix, platform) in [("BUILD", &self.build_platform), ("TARGET", &self.target_platform)] {
            let variant = platform.variant.clone().unwrap_or_default();
            let named = [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", variant),
            ];
            values.extend(named.map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        values.insert("TARGETSTAGE".to_owned(), self.target.clone().unwrap_or_else(|| "default".to_owned()));
        values
    }
}

/// The variables of `FROM`: what is there unasked, and `ARG` before the first of them.
#[derive(Clone, Debug)]
pub struct Globals {
    escape: Escape,
    given: BTreeMap<String, String>,
    automatic: BTreeMap<String, String>,
    values: BTreeMap<String, String>,
    declared: BTreeSet<String>,
}

impl Variables for Globals {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.values.get(name).or_else(|| self.automatic.get(name)).map(|value| Cow::Borrowed(value.as_str()))
    }
}

impl Globals {
    /// Carries out the `ARG` before the first `FROM`.
    pub fn new(file: &Dockerfile, given: &Given) -> Result<Globals, Mistake> {
        let mut automatic = given.automatic();
        for (name, value) in &mut automatic {
            if let Some(given) = given.arguments.get(name) {
                value.clone_from(given);
            }
        }
        let mut globals = Globals {
            escape: file.directives.escape,
            given: given.arguments.clone(),
            automatic,
            values: BTreeMap::new(),
            declared: BTreeSet::new(),
        };
        for argument in file.arguments.iter().flat_map(|arg| &arg.node.arguments) {
            let name = globals.expand(&argument.name, &file.source)?;
            // A default that is not needed need not be one: `ARG A=${B:?give A or B}`.
            let value = match (globals.given.get(&name), &argument.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(globals.expand(default, &file.source)?),
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.values.insert(name.clone(), value);
            }
            globals.declared.insert(name);
        }
        Ok(globals)
    }

    /// What a word of a `FROM` means.
    pub fn expand(&self, word: &Word, source: &Source) -> Result<String, Mistake> {
        word.expand(source, self.escape, self).map(|expansion| expansion.text)
    }

    /// Whether a name is one that `FROM` may use, with or without a value.
    pub fn declares(&self, name: &str) -> bool {
        self.declared.contains(name) || self.automatic.contains_key(name)
    }

    /// The names that `FROM` may use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().chain(self.automatic.keys()).map(String::as_str)
    }
}

/// The variables of a stage, as far as it was carried out.
#[derive(Clone, Debug)]
pub struct Scope<'a> {
    globals: &'a Globals,
    environment: Vec<(String, String)>,
    arguments: Vec<(String, Option<String>)>,
}

impl Variables for Scope<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        // ENV is always before ARG, wherever the two stand.
        let value = of(&self.environment, name).or_else(|| of(&self.arguments, name)?.as_ref());
        value.map(|value| Cow::Borrowed(value.as_str()))
    }
}

fn of<'a, T>(pairs: &'a [(String, T)], name: &str) -> Option<&'a T> {
    pairs.iter().find(|(own, _)| own == name).map(|(_, value)| value)
}

fn put<T>(pairs: &mut Vec<(String, T)>, name: String, value: T) {
    match pairs.iter_mut().find(|(own, _)| *own == name) {
        Some((_, own)) => *own = value,
        None => pairs.push((name, value)),
    }
}

impl<'a> Scope<'a> {
    /// The scope of a stage on an image, with the image's environment. That of a stage on another one begins as a clone
    /// of the other's at its end.
    pub fn new(globals: &'a Globals, environment: Vec<(String, String)>) -> Scope<'a> {
        Scope { globals, environment, arguments: Vec::new() }
    }

    /// The file's escape character.
    pub fn escape(&self) -> Escape {
        self.globals.escape
    }

    /// What a word means.
    pub fn expand(&self, word: &Word, source: &Source) -> Result<String, Mistake> {
        word.expand(source, self.globals.escape, self).map(|expansion| expansion.text)
    }

    /// Carries out one argument of an `ARG`: what the build was given is before its default, and an `ARG` without one
    /// takes what that of the same name before the first `FROM` has.
    pub fn declare(&mut self, argument: &Argument, source: &Source) -> Result<(), Mistake> {
        let name = self.expand(&argument.name, source)?;
        let value = match (self.globals.given.get(&name), &argument.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.expand(default, source)?),
            (None, None) => self.globals.value(&name).map(Cow::into_owned),
        };
        put(&mut self.arguments, name, value);
        Ok(())
    }

    /// Carries out one variable of an `ENV`.
    pub fn set(&mut self, name: String, value: String) {
        put(&mut self.environment, name, value);
    }

    /// The environment that the image has.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// What `RUN` has beside the environment: arguments with a value that no `ENV` hides. A step depends on them.
    pub fn arguments(&self) -> impl Iterator<Item = (&str, &str)> {
        self.arguments
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
            .filter(|(name, _)| of(&self.environment, name).is_none())
    }

    /// What `RUN` has beside all that without having declared it: proxies that the build was given. No step depends on them.
    pub fn undeclared(&self) -> impl Iterator<Item = (&str, &str)> {
        PREDEFINED
            .into_iter()
            .filter(|name| !self.declares(name))
            .filter_map(|name| Some((name, self.globals.given.get(name)?.as_str())))
    }

    /// Whether the build was given an argument: its default counts for nothing then.
    pub fn is_given(&self, name: &str) -> bool {
        self.globals.given.contains_key(name)
    }

    /// Whether a name is one that the stage may use, with or without a value.
    pub fn declares(&self, name: &str) -> bool {
        of(&self.environment, name).is_some() || of(&self.arguments, name).is_some()
    }

    /// The names that the stage may use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let environment = self.environment.iter().map(|(name, _)| name.as_str());
        environment.chain(self.arguments.iter().map(|(name, _)| name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{Instruction, parse};

    fn given(arguments: &[(&str, &str)]) -> Given {
        let arm = Platform::new("linux", "arm", Some("v7"));
        Given {
            arguments: arguments.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            build_platform: Platform::new("linux", "amd64", None),
            target_platform: arm,
            target: None,
        }
    }

    /// What the variables of the last stage are at its end.
    fn values(text: &str, arguments: &[(&str, &str)], names: &str) -> String {
        let file = parse(Source::new("f", text)).unwrap();
        let globals = Globals::new(&file, &given(arguments)).unwrap();
        let mut scope = Scope::new(&globals, vec![("BASE".into(), "b".into())]);
        for step in &file.stages.last().unwrap().steps {
            match &step.node {
                Instruction::Arg(arg) => {
                    arg.arguments.iter().for_each(|one| scope.declare(one, &file.source).unwrap());
                }
                Instruction::Env(env) => {
                    for pair in &env.pairs {
                        scope.set(pair.name.raw.clone(), scope.expand(&pair.value, &file.source).unwrap());
                    }
                }
                _ => {}
            }
        }
        let value = |name: &str| scope.value(name).map_or_else(|| "-".to_owned(), Cow::into_owned);
        names.split(' ').map(value).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_argument_is_seen_where_it_was_declared() {
        assert_eq!(values("ARG A=1\nFROM x", &[], "A BASE"), "- b");
        assert_eq!(values("ARG A=1\nFROM x\nARG A", &[], "A"), "1");
        assert_eq!(values("ARG A=1\nFROM x\nARG A=2", &[], "A"), "2");
        assert_eq!(values("ARG A=1\nFROM x\nARG A=2 B=$A", &[("A", "3")], "A B"), "3 3");
        assert_eq!(values("FROM x\nARG A", &[("A", "3"), ("B", "4")], "A B"), "3 -");
        assert_eq!(values("ARG A=${B:?b}\nFROM x\nARG A=${B:?b}", &[("A", "3")], "A"), "3");
        assert_eq!(values("FROM x\nENV A=e\nARG A=2", &[("A", "3")], "A"), "e");
    }

    #[test]
    fn platforms_are_there_before_the_first_stage_and_on_demand() {
        let file = parse(Source::new("f", "ARG T=$TARGETARCH\nFROM x")).unwrap();
        let globals = Globals::new(&file, &given(&[])).unwrap();
        assert_eq!(globals.value("T").as_deref(), Some("arm"));
        assert_eq!(values("FROM x", &[], "TARGETARCH"), "-");
        assert_eq!(
            values(
                "FROM x\nARG TARGETPLATFORM TARGETVARIANT BUILDPLATFORM",
                &[],
                "TARGETPLATFORM TARGETVARIANT BUILDPLATFORM"
            ),
            "linux/arm/v7 v7 linux/amd64"
        );
    }

    #[test]
    fn a_step_sees_proxies_that_it_does_not_depend_on() {
        let file = parse(Source::new("f", "FROM x\nARG A=1 no_proxy")).unwrap();
        let globals = Globals::new(&file, &given(&[("http_proxy", "p"), ("no_proxy", "n"), ("OTHER", "o")])).unwrap();
        let mut scope = Scope::new(&globals, Vec::new());
        let Instruction::Arg(arg) = &file.stages[0].steps[0].node else { panic!() };
        arg.arguments.iter().for_each(|one| scope.declare(one, &file.source).unwrap());
        assert_eq!(scope.arguments().collect::<Vec<_>>(), [("A", "1"), ("no_proxy", "n")]);
        assert_eq!(scope.undeclared().collect::<Vec<_>>(), [("http_proxy", "p")]);
    }
}
