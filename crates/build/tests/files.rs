//! Dockerfiles as people write them, in the styles of several languages: all are read, and nothing is said of what is well.

use build::check::{Inputs, Report, check};
use build::dockerfile::{CommandLine, Given, Globals, Instruction, Plan, Source, parse};
use build::ignore::Ignore;

fn report(text: &str) -> Report {
    let file = parse(Source::new("Dockerfile", text)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    check(&file, &Inputs { given: &Given::host(), ignore: &Ignore::default(), base: &|_| None })
}

fn rules(text: &str) -> Vec<&'static str> {
    let report = report(text);
    assert!(report.mistakes.is_empty() && report.notes.is_empty(), "{report:?}");
    report.warnings.iter().map(|warning| warning.rule.name()).collect()
}

#[test]
fn files_of_several_languages_are_read() {
    for (text, expected) in [
        (include_str!("files/node.Dockerfile"), &[][..]),
        (include_str!("files/python.Dockerfile"), &[]),
        (include_str!("files/go.Dockerfile"), &[]),
        (include_str!("files/rust.Dockerfile"), &[]),
        (include_str!("files/java.Dockerfile"), &[]),
        (include_str!("files/c.Dockerfile"), &["NoEmptyContinuation"]),
        // A path of Windows is none of Linux.
        (include_str!("files/windows.Dockerfile"), &["WorkdirRelativePath"]),
    ] {
        assert_eq!(rules(text), expected, "{text}");
    }
}

#[test]
fn scripts_are_what_was_written() {
    let file = parse(Source::new("Dockerfile", include_str!("files/rust.Dockerfile"))).unwrap();
    let commands = file.stages.iter().flat_map(|stage| &stage.steps).filter_map(|step| match &step.node {
        Instruction::Run(run) => Some(&run.command),
        _ => None,
    });
    let commands = commands.collect::<Vec<_>>();
    let [CommandLine::Script(script), CommandLine::Shell(line)] = commands[..] else { panic!("{commands:?}") };
    assert!(script.body.starts_with("#!/bin/bash\nset") && !script.expand);
    assert!(line.ends_with("echo done\nIt is ${UID}.\nEOF\n"), "{line}");
}

#[test]
fn a_target_takes_only_what_it_needs() {
    let file = parse(Source::new("Dockerfile", include_str!("files/node.Dockerfile"))).unwrap();
    let globals = Globals::new(&file, &Given::host()).unwrap();
    let plan = Plan::new(&file, &globals).unwrap();
    let order = |target| plan.order(file.target(Some(target)).unwrap());
    assert_eq!((order("deps"), order("final")), (vec![0, 1], vec![0, 1, 2, 3]));
}
