//! What each stage builds upon and copies from, and which stages a target needs.

use super::expand::Variables;
use super::instruction::Instruction;
use super::scope::Globals;
use super::source::{Mistake, Span};
use super::{Base, Dockerfile};
use crate::suggest::nearest;
use image::Platform;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a stage without a name is shown as begins with; its number follows.
pub const UNNAMED: &str = "stage-";

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// Nowhere: an empty root file system.
    Scratch,
    /// A stage, by its index.
    Stage(usize),
    /// A named context, or an image.
    Named {
        /// Its name.
        name: String,
        /// The stage whose name comes close: what to say if there is neither.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        meant: Option<String>,
    },
}

/// How the stages belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each stage of the file what it needs.
    pub stages: Vec<Needs>,
}

/// What a stage needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// What it builds upon.
    pub base: Origin,
    /// What its base is to be for, unless for the build's target.
    pub platform: Option<Platform>,
    /// What its instructions copy from or mount, in order.
    pub from: Vec<Need>,
}

/// Something that an instruction copies from or mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is.
    pub origin: Origin,
    /// Where it is named.
    pub span: Span,
}

impl Dockerfile {
    /// The stage of a name, in any case, or of a number: the last before `end`, else the first behind it. An instruction
    /// may copy from a stage behind its own; `FROM` takes only those before it.
    fn stage_for(&self, name: &str, end: usize) -> Option<usize> {
        let fits = |index: &usize| self.stages[*index].name().is_some_and(|own| own.eq_ignore_ascii_case(name));
        (0..end).rev().find(fits).or_else(|| (end..self.stages.len()).find(fits))
    }

    fn stage_names(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().filter_map(|stage| stage.name())
    }

    /// The stage that a build ends with: that of a name or a number, else the last one. What is said of another name
    /// names those that there are.
    pub fn target(&self, name: Option<&str>) -> Result<usize, String> {
        let last = self.stages.len().saturating_sub(1);
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(last) };
        // A stage without a name is shown as `stage-2`.
        let shown = name.strip_prefix(UNNAMED).and_then(|number| number.parse::<usize>().ok());
        let shown = shown.filter(|index| self.stages.get(*index).is_some_and(|stage| stage.name().is_none()));
        let number = || shown.or_else(|| name.parse::<usize>().ok().filter(|index| *index <= last));
        self.stage_for(name, self.stages.len()).or_else(number).ok_or_else(|| {
            let names: Vec<_> = self.stage_names().collect();
            let there = match (nearest(name, names.iter().copied()), names.as_slice()) {
                (Some(meant), _) => format!("did you mean {meant}?"),
                (None, []) if last == 0 => "the only stage has no name: it is 0".to_owned(),
                (None, []) => format!("no stage has a name: they are 0 to {last}"),
                (None, names) => format!("there are {}, and the numbers 0 to {last}", names.join(", ")),
            };
            format!("target stage {name:?} could not be found ({there})")
        })
    }

    /// What an instruction of a stage names with `from`.
    pub(crate) fn origin(&self, stage: usize, from: &str, span: Span) -> Result<Origin, Mistake> {
        if let Some(context) = self.context(from) {
            return Ok(context);
        }
        if let Some(index) = self.stage_for(from, stage) {
            return Ok(Origin::Stage(index));
        }
        if from.bytes().all(|byte| byte.is_ascii_digit()) {
            return match from.parse() {
                Ok(index) if index < self.stages.len() => Ok(Origin::Stage(index)),
                _ => {
                    let message = format!("invalid stage index {from}: there are 0 to {}", self.stages.len() - 1);
                    Err(self.source.mistake(span, message))
                }
            };
        }
        Ok(self.named(from))
    }

    /// A context that whoever builds has under a name, in any case, as stages' names are.
    fn context(&self, name: &str) -> Option<Origin> {
        let own = self.contexts.iter().find(|own| own.eq_ignore_ascii_case(name) && *own != "scratch");
        own.map(|own| Origin::Named { name: own.clone(), meant: None })
    }

    fn named(&self, name: &str) -> Origin {
        match name {
            "scratch" => Origin::Scratch,
            name => {
                Origin::Named { name: name.to_owned(), meant: nearest(name, self.stage_names()).map(str::to_owned) }
            }
        }
    }
}

impl Plan {
    /// Looks up all that the stages name. Two that need each other are a mistake.
    pub fn new(file: &Dockerfile, globals: &Globals) -> Result<Plan, Mistake> {
        let mut stages = Vec::with_capacity(file.stages.len());
        for (index, stage) in file.stages.iter().enumerate() {
            let platform = platform(file, globals, index)?;
            let mut from = Vec::new();
            for step in &stage.steps {
                needs(file, index, &step.node, &mut from)?;
            }
            stages.push(Needs { base: base(file, globals, index)?, platform, from });
        }
        let plan = Plan { stages };
        let mut walk = Walk::new(&plan);
        for index in 0..plan.stages.len() {
            walk.visit(index).map_err(|span| {
                let name = file.stages[index].name().map_or_else(|| index.to_string(), str::to_owned);
                file.source.mistake(span, format!("circular dependency detected on stage: {name}"))
            })?;
        }
        Ok(plan)
    }

    /// The stages that one needs, itself at the end, each behind those that it needs itself.
    pub fn order(&self, target: usize) -> Vec<usize> {
        let mut walk = Walk::new(self);
        // A plan with a circle was never made.
        let _ = walk.visit(target);
        walk.order
    }
}

/// A walk from stages to those that they need.
struct Walk<'a> {
    plan: &'a Plan,
    /// For each stage whether it is in `order`.
    done: Vec<bool>,
    order: Vec<usize>,
}

impl Walk<'_> {
    fn new(plan: &Plan) -> Walk<'_> {
        Walk { plan, done: vec![false; plan.stages.len()], order: Vec::new() }
    }

    /// Adds a stage behind all that it needs; where it is named by one that it needs, if it is.
    fn visit(&mut self, stage: usize) -> Result<(), Span> {
        // Each stage that is being visited, and how many of those that it needs were.
        let mut above: Vec<(usize, usize)> = vec![(stage, 0)];
        while let Some((stage, next)) = above.last_mut() {
            let (stage, edge) = (*stage, *next);
            *next += 1;
            let Some(needs) = self.plan.stages.get(stage).filter(|_| !self.done[stage]) else {
                above.pop();
                continue;
            };
            // A stage's base is always before it: it closes no circle.
            let needed = match edge.checked_sub(1) {
                None => Some((&needs.base, None)),
                Some(index) => needs.from.get(index).map(|need| (&need.origin, Some(need.span))),
            };
            match needed {
                Some((Origin::Stage(other), span)) => {
                    match span.filter(|_| above.iter().any(|(own, _)| own == other)) {
                        Some(span) => return Err(span),
                        None => above.push((*other, 0)),
                    }
                }
                Some(_) => {}
                None => {
                    self.done[stage] = true;
                    self.order.push(stage);
                    above.pop();
                }
            }
        }
        Ok(())
    }
}

fn base(file: &Dockerfile, globals: &Globals, index: usize) -> Result<Origin, Mistake> {
    let word = &file.stages[index].from.node.image;
    let name = globals.expand(word, &file.source)?;
    if name.is_empty() {
        let mistake = file.source.mistake(word.span, format!("base name ({}) should not be blank", word.raw));
        return Err(mistake.meant(meant_variable(file, globals, index)));
    }
    if let Some(context) = file.context(&name) {
        return Ok(context);
    }
    match file.stage_for(&name, index).filter(|other| *other < index) {
        Some(other) => Ok(Origin::Stage(other)),
        None => Ok(file.named(&name)),
    }
}

fn platform(file: &Dockerfile, globals: &Globals, index: usize) -> Result<Option<Platform>, Mistake> {
    let Some(word) = &file.stages[index].from.node.platform else { return Ok(None) };
    let text = globals.expand(word, &file.source)?;
    let message = if text.is_empty() {
        format!("empty platform value from expression {}", word.raw)
    } else {
        match text.parse::<Platform>() {
            Ok(platform) => return Ok(Some(platform)),
            Err(why) => format!("failed to parse platform {}: {why}", word.raw),
        }
    };
    Err(file.source.mistake(word.span, message).meant(meant_variable(file, globals, index)))
}

/// What was likely meant by a variable of a `FROM` that is not there.
fn meant_variable(file: &Dockerfile, globals: &Globals, index: usize) -> Option<String> {
    let Base { image, platform, .. } = &file.stages[index].from.node;
    let words = platform.iter().chain([image]);
    let expansions = words.filter_map(|word| word.expand(&file.source, file.directives.escape, globals).ok());
    let missing: BTreeSet<String> = expansions.flat_map(|expansion| expansion.missing).collect();
    let unknown = missing.iter().filter(|name| globals.value(name).is_none());
    unknown.filter_map(|name| nearest(name, globals.names())).next().map(|name| format!("${name}"))
}

/// Adds what an instruction of a stage copies from or mounts.
pub(crate) fn needs(
    file: &Dockerfile,
    stage: usize,
    instruction: &Instruction,
    into: &mut Vec<Need>,
) -> Result<(), Mistake> {
    let mut add = |from: &str, span| -> Result<(), Mistake> {
        into.push(Need { origin: file.origin(stage, from, span)?, span });
        Ok(())
    };
    match instruction {
        Instruction::Copy(copy) => copy.from.as_ref().map_or(Ok(()), |from| add(&from.value, from.span)),
        Instruction::Run(run) => run.mounts.iter().try_for_each(|mount| match mount.from() {
            Some(from) => add(from, mount.span),
            None => Ok(()),
        }),
        // A trigger names stages of the file that builds upon this image.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{Given, Source, parse};

    fn plan(text: &str) -> Result<Plan, String> {
        let file = parse(Source::new("f", text)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let globals = Globals::new(&file, &Given::host()).unwrap();
        Plan::new(&file, &globals).map_err(|mistake| mistake.summary())
    }

    #[test]
    fn stages_are_found_by_name_and_number() {
        let plan = plan(
            "ARG B=Build\nFROM alpine AS build\nFROM $B AS two\nCOPY --from=0 a /\nCOPY --from=BUILD a /\nRUN --mount=from=tow,target=/x a\n\
             COPY --from=scratch a /\nFROM --platform=linux/arm64 scratch\nCOPY --from=two a /\n",
        )
        .unwrap();
        assert_eq!(plan.stages[1].base, Origin::Stage(0));
        assert_eq!(plan.stages[2].base, Origin::Scratch);
        assert_eq!(plan.stages[2].platform, Some(Platform::new("linux", "arm64", None)));
        let origins: Vec<_> = plan.stages[1].from.iter().map(|need| need.origin.clone()).collect();
        let named = Origin::Named { name: "tow".into(), meant: Some("two".into()) };
        assert_eq!(origins, [Origin::Stage(0), Origin::Stage(0), named, Origin::Scratch]);
    }

    #[test]
    fn a_context_of_a_stages_name_is_in_its_place() {
        let text = "FROM x AS build\nFROM build AS two\nCOPY --from=Build a /\nCOPY --from=0 a /\nFROM two\n";
        let mut file = parse(Source::new("f", text)).unwrap();
        file.contexts = ["build".to_owned()].into();
        let globals = Globals::new(&file, &Given::host()).unwrap();
        let plan = Plan::new(&file, &globals).unwrap();
        let named = Origin::Named { name: "build".into(), meant: None };
        assert_eq!((&plan.stages[1].base, &plan.stages[1].from[0].origin), (&named, &named));
        assert_eq!((&plan.stages[1].from[1].origin, plan.order(2)), (&Origin::Stage(0), vec![0, 1, 2]));
    }

    #[test]
    fn a_target_needs_only_what_it_needs() {
        let plan =
            plan("FROM x AS a\nFROM x AS b\nFROM a AS c\nCOPY --from=b y /\nFROM x AS d\nFROM d\nCOPY --from=c y /\n");
        let plan = plan.unwrap();
        assert_eq!(plan.order(2), [0, 1, 2]);
        assert_eq!(plan.order(4), [3, 0, 1, 2, 4]);
        assert_eq!(plan.order(1), [1]);
    }

    #[test]
    fn mistakes_between_stages_are_told() {
        for (text, said) in [
            ("FROM x AS a\nCOPY --from=a y /", "circular dependency detected on stage: a"),
            ("FROM x AS a\nCOPY --from=b y /\nFROM a AS b", "circular dependency detected on stage: a"),
            ("FROM x\nCOPY --from=3 y /", "invalid stage index 3: there are 0 to 0"),
            ("ARG A\nFROM $A", "base name ($A) should not be blank"),
            ("ARG IMAGE=x\nFROM $IMGAE", "base name ($IMGAE) should not be blank (did you mean $IMAGE?)"),
            (
                "FROM --platform=$BULIDPLATFORM x",
                "empty platform value from expression $BULIDPLATFORM (did you mean $BUILDPLATFORM?)",
            ),
        ] {
            assert_eq!(plan(text), Err(said.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_target_is_a_name_or_a_number_or_the_last_stage() {
        let file = parse(Source::new("f", "FROM x AS build\nFROM x AS test\nFROM x")).unwrap();
        assert_eq!((file.target(None), file.target(Some("TEST")), file.target(Some("0"))), (Ok(2), Ok(1), Ok(0)));
        assert_eq!(
            file.target(Some("biuld")),
            Err("target stage \"biuld\" could not be found (did you mean build?)".into())
        );
        assert_eq!(file.target(Some("stage-2")), Ok(2), "as it is shown");
        for missing in ["7", "stage-0", "stage-3"] {
            let said =
                format!("target stage {missing:?} could not be found (there are build, test, and the numbers 0 to 2)");
            assert_eq!(file.target(Some(missing)), Err(said));
        }
    }
}
