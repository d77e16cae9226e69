//! `stratus build --check`: what is wrong with a Dockerfile, and what is likely not meant. Nothing is built.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use build::check::{BaseImage, Inputs, Report, Warning, check};
use build::dockerfile::{Given, Globals, Mistake, Origin, Plan, Source, Span, parse};
use image::Platform;
use serde_json::{Value, json};

use super::super::Context;
use super::super::error::{Error, Result};
use super::super::output::{self, Format};
use super::super::request::{Request, segment};
use super::super::terminal::{self, Style};
use super::{BuildArgs, source};

/// How long the daemon may take to say what base images set. A file is checked without it, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks a Dockerfile.
pub(super) async fn checked(context: &Context, args: &BuildArgs) -> Result<ExitCode> {
    let format = if args.output.iter().any(|text| text == "json") { Format::Json } else { context.format };
    let source = dockerfile(args)?;
    let ignore = source::rules(&args.recipe.path, &source::file_path(args))?.ignore;
    let given = given(args)?;
    let file = match parse(source.clone()) {
        Ok(file) => file,
        Err(mistakes) => {
            let report = Report { mistakes: mistakes.iter().cloned().collect(), ..Report::default() };
            return told(format, &source, &report);
        }
    };
    file.target(given.target.as_deref()).map_err(Error::Usage)?;
    let names = Globals::new(&file, &given).and_then(|globals| Plan::new(&file, &globals)).map(|plan| images(&plan));
    let known = base_images(context, names.unwrap_or_default()).await;
    if known.is_none() {
        output::warning(
            "no daemon says what base images set: variables that nobody sets are not looked for in stages upon them (UndefinedVar)",
        );
    }
    let known = known.unwrap_or_default();
    let base = |name: &str| known.get(name).cloned();
    let report = check(&file, &Inputs { given: &given, ignore: &ignore, base: &base });
    told(format, &source, &report)
}

/// The Dockerfile, and how it is called.
fn dockerfile(args: &BuildArgs) -> Result<Source> {
    let standard_input = |what: &Path| what.as_os_str() == "-";
    if args.recipe.file.as_deref().is_some_and(standard_input)
        || (args.recipe.file.is_none() && standard_input(&args.recipe.path))
    {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(Error::io("reading the Dockerfile of standard input"))?;
        return Ok(Source::from_bytes("Dockerfile", &bytes));
    }
    let path = source::file_path(args);
    let mut bytes = Vec::new();
    let read = source::open_file(&args.recipe.path, &path)?.read_to_end(&mut bytes);
    read.map_err(Error::io(format!("reading {}", path.display())))?;
    Ok(Source::from_bytes(path.display().to_string(), &bytes))
}

fn given(args: &BuildArgs) -> Result<Given> {
    let mut given = Given { target: args.recipe.target.clone(), ..Given::host() };
    if let Some(platform) = args.platform.first() {
        given.target_platform = platform.clone();
    }
    for (name, value) in args.recipe.arguments()? {
        given.arguments.extend(value.map(|value| (name, value)));
    }
    Ok(given)
}

/// The images that stages build upon.
fn images(plan: &Plan) -> Vec<String> {
    let name = |origin: &Origin| match origin {
        Origin::Named { name, .. } => Some(name.clone()),
        _ => None,
    };
    plan.stages.iter().filter_map(|stage| name(&stage.base)).collect()
}

/// What the daemon knows of images that it has; `None`: there is none that says so.
async fn base_images(context: &Context, names: Vec<String>) -> Option<BTreeMap<String, BaseImage>> {
    let mut known = BTreeMap::new();
    let ask = async {
        for name in names {
            match context.daemon.document(Request::get(format!("/images/{}/json", segment(&name)))).await {
                Ok(document) => known.extend(base_image(&document).map(|image| (name, image))),
                Err(Error::Refused { .. }) => {}
                Err(_) => return false,
            }
        }
        true
    };
    let answered = tokio::time::timeout(PATIENCE, ask).await;
    answered.unwrap_or(false).then_some(known)
}

/// What an inspected image sets.
fn base_image(document: &Value) -> Option<BaseImage> {
    let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
    let config = document.get("Config")?;
    let environment = config.get("Env").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Some(BaseImage {
        environment: environment.filter_map(|entry| entry.split_once('=').map(pair)).collect(),
        has_shell: config.get("Shell").and_then(Value::as_array).is_some_and(|shell| !shell.is_empty()),
        platform: Platform::new(text("Os"), text("Architecture"), Some(text("Variant"))),
    })
}

/// Tells what was found; the exit status is 1 if that is anything.
fn told(format: Format, source: &Source, report: &Report) -> Result<ExitCode> {
    match format {
        Format::Json => output::document(&document(source, report))?,
        Format::Table => {
            if report.mistakes.is_empty() || !report.warnings.is_empty() {
                let colours = terminal::colours(&std::io::stdout());
                let warned = written(source, report, colours);
                let alone = report.warnings.is_empty() && !report.notes.is_empty();
                output::line(if alone {
                    "Check complete, no warnings found. What may be one:"
                } else {
                    warned.trim_end()
                })?;
            }
            report.notes.iter().for_each(|note| output::warning(&note.to_string()));
            for mistake in &report.mistakes {
                output::error(&Error::Failed(mistake.to_string()));
            }
            if let Some((_, violation)) = report.violation() {
                output::error(&Error::Failed(violation));
            }
        }
    }
    let clean = report.warnings.is_empty() && report.mistakes.is_empty();
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was found, as docker writes it.
fn written(source: &Source, report: &Report, colours: bool) -> String {
    let mut text = match report.warnings.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        several => format!("Check complete, {several} warnings have been found!\n"),
    };
    for warning in &report.warnings {
        let title = Style::Careful.paint(&format!("WARNING: {}", warning.rule), colours);
        // Writing to a string never fails.
        let _ = writeln!(text, "\n{title} - {}\n{}", warning.rule.url(), warning.detail);
        excerpt(&mut text, source, warning.span);
    }
    text
}

/// The lines of a place, and two on each side.
fn excerpt(text: &mut String, source: &Source, span: Span) {
    const AROUND: u32 = 2;
    const RULER: &str = "--------------------";
    let (first, last) = (span.start.line, span.end.line);
    let _ = writeln!(text, "{}:{first}\n{RULER}", source.name());
    for line in first.saturating_sub(AROUND).max(1)..=last.saturating_add(AROUND).min(source.line_count()) {
        let mark = if (first..=last).contains(&line) { ">>>" } else { "   " };
        let _ = writeln!(text, "{}", format!("{line:>4} | {mark} {}", source.line(line)).trim_end());
    }
    let _ = writeln!(text, "{RULER}");
}

/// What was found, for programs.
fn document(source: &Source, report: &Report) -> Value {
    let warning = |warning: &Warning| {
        json!({
            "ruleName": warning.rule.name(),
            "description": warning.rule.description(),
            "url": warning.rule.url(),
            "detail": warning.detail,
            "location": { "file": source.name(), "start": warning.span.start, "end": warning.span.end },
        })
    };
    let mistake = |mistake: &Mistake| {
        json!({
            "message": mistake.message,
            "suggestion": mistake.suggestion,
            "location": { "file": mistake.file, "start": mistake.span.start, "end": mistake.span.end },
        })
    };
    json!({
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
        "notes": report.notes.iter().map(mistake).collect::<Vec<_>>(),
        "errors": report.mistakes.iter().map(mistake).collect::<Vec<_>>(),
        "warningsAreErrors": report.warnings_are_errors,
    })
}
