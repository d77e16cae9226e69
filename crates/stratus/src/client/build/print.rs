//! `--print`: what there would be to do for a build, for people, for programs, and for Graphviz.

use std::fmt::Write as _;
use std::io;

use build::dockerfile::{Origin, UNNAMED};
use build::{Graph, GraphStage, GraphStep, Outlook};

use super::super::error::Result;
use super::super::terminal::{self, Style};
use super::super::{human, output};

/// For whom. (The variants have no docstrings: clap would make long lists of every help.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    Text,
    Json,
    Dot,
}

/// Prints it.
pub(super) fn print(graph: &Graph, form: Form) -> Result<()> {
    match form {
        Form::Json => output::document(graph),
        Form::Text => output::line(text(graph, terminal::colours(&io::stdout())).trim_end()),
        Form::Dot => output::line(dot(graph).trim_end()),
    }
}

/// What there would be to do for a step, in few words.
fn words(outlook: &Outlook) -> (String, Style) {
    match outlook {
        Outlook::Configures => (String::new(), Style::Plain),
        Outlook::Here => ("here".to_owned(), Style::Dim),
        Outlook::Pulled => ("pulled".to_owned(), Style::Careful),
        Outlook::Cached { size } => (format!("cached, {}", human::decimal(*size)), Style::Good),
        Outlook::CachedFrom { size, from } => (format!("cached in {from}, {}", human::decimal(*size)), Style::Good),
        Outlook::Built => ("built".to_owned(), Style::Careful),
        Outlook::Unknown => ("unknown until built".to_owned(), Style::Dim),
    }
}

/// What a step needs, as people call it.
fn needed(graph: &Graph, origin: &Origin) -> String {
    match origin {
        Origin::Scratch => "scratch".to_owned(),
        Origin::Named { name, .. } => name.clone(),
        Origin::Stage(index) => {
            let stage = graph.stages.iter().find(|stage| stage.stage == *index);
            stage.map_or_else(|| format!("stage {index}"), title)
        }
    }
}

fn title(stage: &GraphStage) -> String {
    stage.name.clone().unwrap_or_else(|| format!("{UNNAMED}{}", stage.stage))
}

fn text(graph: &Graph, colours: bool) -> String {
    let steps = || graph.stages.iter().flat_map(|stage| &stage.steps);
    // What there is to do stands in one column, unless a long instruction is in the way.
    let width = steps().map(|step| step.text.chars().count()).max().unwrap_or(0).min(60);
    let mut text = String::new();
    for stage in &graph.stages {
        // Writing to a string never fails.
        let _ = writeln!(text, "{}", Style::Bold.paint(&title(stage), colours));
        for step in &stage.steps {
            let (outlook, style) = words(&step.outlook);
            let mut line = format!("  {:width$}  {}", human::cut(&step.text, width), style.paint(&outlook, colours));
            // A FROM says by itself what it builds upon.
            if !step.needs.is_empty() && !is_from(stage, step) {
                let needs: Vec<String> = step.needs.iter().map(|origin| needed(graph, origin)).collect();
                let _ = write!(line, "  from {}", needs.join(", "));
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
    }
    text
}

fn is_from(stage: &GraphStage, step: &GraphStep) -> bool {
    stage.steps.first().is_some_and(|first| std::ptr::eq(first, step))
}

/// A graph in Graphviz' language, a cluster for each stage.
fn dot(graph: &Graph) -> String {
    let mut text =
        String::from("digraph build {\n  rankdir=BT;\n  node [shape=box, style=filled, fontname=monospace];\n");
    for stage in &graph.stages {
        let _ = writeln!(text, "  subgraph cluster_{} {{\n    label={};", stage.stage, quoted(&title(stage)));
        for (index, step) in stage.steps.iter().enumerate() {
            let (words, _) = words(&step.outlook);
            let colour = match step.outlook {
                Outlook::Cached { .. } | Outlook::CachedFrom { .. } | Outlook::Here => "palegreen",
                Outlook::Built | Outlook::Pulled => "gold",
                Outlook::Unknown => "lightgrey",
                Outlook::Configures => "white",
            };
            let label = if words.is_empty() { step.text.clone() } else { format!("{}\n{words}", step.text) };
            let node = node(stage.stage, index);
            let _ = writeln!(text, "    {node} [label={}, fillcolor={colour}];", quoted(&label));
        }
        text.push_str("  }\n");
        for (index, step) in stage.steps.iter().enumerate() {
            let own = node(stage.stage, index);
            if index > 0 {
                let _ = writeln!(text, "  {own} -> {};", node(stage.stage, index - 1));
            }
            for origin in &step.needs {
                let _ = match origin {
                    Origin::Scratch => continue,
                    Origin::Stage(other) => match graph.stages.iter().find(|stage| stage.stage == *other) {
                        Some(other) => writeln!(text, "  {own} -> {};", node(other.stage, other.steps.len() - 1)),
                        None => continue,
                    },
                    Origin::Named { name, .. } => writeln!(text, "  {own} -> {};", quoted(name)),
                };
            }
        }
    }
    text.push_str("}\n");
    text
}

fn node(stage: usize, step: usize) -> String {
    format!("s{stage}_{step}")
}

/// A text as Graphviz takes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let step = |text: &str, needs: Vec<Origin>, outlook| GraphStep { text: text.to_owned(), needs, outlook };
        let named = |name: &str| Origin::Named { name: name.to_owned(), meant: None };
        Graph {
            stages: vec![
                GraphStage {
                    stage: 0,
                    name: Some("base".into()),
                    steps: vec![
                        step("FROM busybox AS base", vec![named("busybox")], Outlook::Here),
                        step("RUN echo \"a\"", vec![], Outlook::Cached { size: 1500 }),
                    ],
                },
                GraphStage {
                    stage: 2,
                    name: None,
                    steps: vec![
                        step("FROM scratch", vec![Origin::Scratch], Outlook::Here),
                        step("COPY --from=base /a /", vec![Origin::Stage(0)], Outlook::Built),
                        step("RUN /a", vec![], Outlook::Unknown),
                        step("CMD [\"/a\"]", vec![], Outlook::Configures),
                    ],
                },
            ],
        }
    }

    #[test]
    fn each_step_says_what_there_is_to_do() {
        let lines = text(&graph(), false);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(
            lines,
            [
                "base",
                "  FROM busybox AS base   here",
                "  RUN echo \"a\"           cached, 1.50kB",
                "",
                "stage-2",
                "  FROM scratch           here",
                "  COPY --from=base /a /  built  from base",
                "  RUN /a                 unknown until built",
                "  CMD [\"/a\"]",
                "",
            ]
        );
    }

    #[test]
    fn graphviz_gets_every_edge() {
        let dot = dot(&graph());
        for edge in ["s0_0 -> \"busybox\";", "s0_1 -> s0_0;", "s2_1 -> s0_1;", "s2_2 -> s2_1;"] {
            assert!(dot.contains(edge), "{dot}");
        }
        assert!(dot.contains(r#"s0_1 [label="RUN echo \"a\"\ncached, 1.50kB", fillcolor=palegreen];"#), "{dot}");
    }
}
