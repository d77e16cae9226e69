//! Whole files, and what becomes of them.

use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Dockerfile {
    match parse(Source::new("Dockerfile", text)) {
        Ok(file) => file,
        Err(mistakes) => panic!("{mistakes}"),
    }
}

/// The first instruction behind a `FROM`.
fn step(text: &str) -> Instruction {
    read(&format!("FROM scratch\n{text}\n")).stages.remove(0).steps.remove(0).node
}

/// What is said of a file, one mistake a line.
fn said(text: &str) -> Vec<String> {
    match parse(Source::new("Dockerfile", text)) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes
            .iter()
            .map(|mistake| {
                let Position { line, column } = mistake.span.start;
                format!("{line}:{column}: {}", mistake.summary())
            })
            .collect(),
    }
}

/// What is said of the first instruction behind a `FROM`.
fn said_of(text: &str) -> String {
    said(&format!("FROM scratch\n{text}\n")).join("|")
}

fn raw(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.raw.as_str()).collect()
}

#[test]
fn a_file_is_arguments_and_stages() {
    let file = read(
        "# syntax=docker/dockerfile:1\n# escape=`\n# check=skip=all;error=true\n\nARG TAG=1 B\nFROM --platform=$BUILDPLATFORM a:$TAG as Build\nrun `\n  x\n\nFROM build\n",
    );
    assert_eq!(file.directives.syntax.as_ref().unwrap().value, "docker/dockerfile:1");
    assert_eq!(file.directives.escape, Escape::Backtick);
    let check = &file.directives.check.as_ref().unwrap().value;
    assert_eq!((&check.skip, check.error), (&Checks::All, true));
    assert_eq!(file.arguments[0].node.arguments.len(), 2);
    let stage = &file.stages[0];
    assert_eq!((stage.name(), stage.from.node.image.raw.as_str()), (Some("Build"), "a:$TAG"));
    assert_eq!(stage.from.node.platform.as_ref().unwrap().raw, "$BUILDPLATFORM");
    assert_eq!(stage.from.node.keyword.as_ref().unwrap().value, "as");
    assert_eq!(stage.steps[0].keyword.value, "run");
    assert_eq!(stage.steps[0].span.start.line..=stage.steps[0].span.end.line, 7..=8);
    assert_eq!(file.stages[1].name(), None);
}

#[test]
fn directives_end_with_the_first_line_that_is_none() {
    let escape = |text: &str| read(&format!("{text}\nFROM a")).directives.escape;
    assert_eq!(escape("#escape=`"), Escape::Backtick);
    assert_eq!(escape("#!/usr/bin/env docker\n# Escape = `"), Escape::Backtick);
    assert_eq!(escape("\n# escape=`"), Escape::Backslash);
    assert_eq!(escape("# a comment\n# escape=`"), Escape::Backslash);
    assert_eq!(escape("# other=x\n# escape=`"), Escape::Backslash);
    assert_eq!(said("# escape=x\nFROM a"), ["1:10: invalid escape token 'x' does not match ` or \\"]);
    assert_eq!(said("# escape=`\n# escape=`\nFROM a"), ["2:10: only one escape parser directive can be used"]);
    assert_eq!(
        said("# check=nope=1\nFROM a"),
        ["1:9: invalid check option \"nope\": there are skip, experimental and error"]
    );
}

#[test]
fn commands_are_lines_or_arrays() {
    let Instruction::Run(run) =
        step("RUN --network=none --security=insecure --mount=type=ssh --device=a.b/c=d,required a  \\\n  b")
    else {
        panic!()
    };
    assert_eq!((run.network, run.security, run.mounts.len()), (Network::None, Security::Insecure, 1));
    assert_eq!((run.devices[0].name.as_str(), run.devices[0].required), ("a.b/c=d", true));
    assert_eq!(run.command, CommandLine::Shell("a    b".into()));
    let exec = |words: &[&str]| CommandLine::Exec(words.iter().map(|word| word.to_string()).collect());
    assert_eq!(step("CMD [\"a\", \"b c\"]"), Instruction::Cmd(Cmd { command: exec(&["a", "b c"]) }));
    assert_eq!(step("ENTRYPOINT []"), Instruction::Entrypoint(Entrypoint { command: exec(&[]) }));
    assert_eq!(step("CMD ['a']"), Instruction::Cmd(Cmd { command: CommandLine::Shell("['a']".into()) }));
    assert_eq!(
        step("SHELL [\"/bin/bash\",\"-c\"]"),
        Instruction::Shell(Shell { shell: vec!["/bin/bash".into(), "-c".into()] })
    );
}

#[test]
fn heredocs_belong_to_their_instruction() {
    let Instruction::Run(run) = step("RUN <<-EOF\n\ta\n# b\n\tEOF") else { panic!() };
    let CommandLine::Script(heredoc) = run.command else { panic!("{:?}", run.command) };
    assert_eq!((heredoc.name.as_str(), heredoc.body.as_str(), heredoc.expand), ("EOF", "a\n# b\n", true));
    let Instruction::Run(run) = step("RUN cat <<A 3<<-\"B\" >x\n\ta\nA\n\tb\n\tB\n") else { panic!() };
    assert_eq!(run.command, CommandLine::Shell("cat <<A 3<<-\"B\" >x\n\ta\nA\n\tb\nB\n".into()));
    let Instruction::Copy(copy) = step("COPY <<a.txt x <<'b' /to/\n$A\na.txt\n$B\nb") else { panic!() };
    let heredocs: Vec<_> = copy.files.heredocs().collect();
    assert_eq!((heredocs[0].body.as_str(), heredocs[0].expand, heredocs[1].expand), ("$A\n", true, false));
    assert_eq!(copy.files.sources.len(), 3);
    assert_eq!(copy.files.destination.raw, "/to/");

    let file = read("FROM a\nRUN <<X\nFROM b\nX\nUSER c");
    assert_eq!((file.stages.len(), file.stages[0].steps.len()), (1, 2));
    assert_eq!(file.stages[0].steps[0].span.end.line, 4);
    assert_eq!(
        step("RUN [\"<<EOF\"]"),
        Instruction::Run(Run {
            mounts: Vec::new(),
            network: Network::Default,
            security: Security::Sandbox,
            devices: Vec::new(),
            command: CommandLine::Exec(vec!["<<EOF".into()]),
        })
    );
    assert_eq!(said_of("RUN cat <<EOF\na"), "2:9: unterminated heredoc: no line is \"EOF\"");
    assert_eq!(said_of("COPY a <<EOF"), "2:8: COPY cannot accept a heredoc as a destination");
}

#[test]
fn files_have_their_flags() {
    let Instruction::Copy(copy) =
        step("COPY --from=build --chown=1:app --chmod=u=rwX --link --parents --exclude=*.o --exclude=a a/ b /c")
    else {
        panic!()
    };
    assert_eq!(copy.from.unwrap().value, "build");
    let Files { sources, destination, chown, chmod, link, parents, exclude } = copy.files;
    assert_eq!((sources.len(), destination.raw.as_str(), link, parents), (2, "/c", true, true));
    assert_eq!((chown.unwrap().raw.as_str(), chmod.unwrap().raw.as_str()), ("1:app", "u=rwX"));
    assert_eq!(raw(&exclude), ["*.o", "a"]);
    let Instruction::Add(add) = step("ADD --keep-git-dir=true --unpack=false --link=false [\"a b\", \"/c d\"]") else {
        panic!()
    };
    assert_eq!((add.keep_git_dir, add.unpack, add.files.link), (true, Some(false), false));
    assert_eq!(add.files.destination.raw, "/c d");
    for (text, message) in [
        ("COPY --chwon=a b c", "2:6: unknown flag: --chwon (did you mean --chown?)"),
        ("COPY --link --link b c", "2:13: duplicate flag specified: link"),
        ("COPY --from b c", "2:6: missing a value on flag: from"),
        ("COPY --link=maybe b c", "2:6: expecting boolean value for flag link, not: maybe"),
        (
            "COPY --from=$A b c",
            "2:6: '--from' doesn't support variable expansion: name a stage with FROM, and that stage here",
        ),
        (
            "COPY a",
            "2:1: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("ADD", "2:1: ADD requires at least two arguments: SOURCE... DESTINATION"),
        ("COPY [\"a\", 1]", "2:6: when using JSON array syntax, arrays must be comprised of strings only: 1 is none"),
        (
            "COPY --chmod=999 a b",
            "2:6: invalid chmod parameter: \"999\" (it should be an octal number between 0 and 07777, or as u=rwX,go=rX)",
        ),
        ("ADD --from=x a b", "2:5: unknown flag: --from"),
        ("RUN --mount=type=chace,target=/x a", "2:13: unsupported mount type \"chace\" (did you mean cache?)"),
        (
            "RUN \\\n --mount=type=bind,target=/x,\"soruce=a\" a",
            "3:31: unexpected key 'soruce' in 'soruce=a' (did you mean source?)",
        ),
        (
            "RUN --network=nnoe a",
            "2:5: invalid network mode: \"nnoe\": there are default, none, host (did you mean none?)",
        ),
    ] {
        assert_eq!(said_of(text), message, "{text}");
    }
}

#[test]
fn names_and_values_have_two_forms() {
    let pairs = |text: &str| match step(text) {
        Instruction::Env(Env { pairs, legacy }) | Instruction::Label(Label { pairs, legacy }) => {
            (pairs.into_iter().map(|pair| (pair.name.raw, pair.value.raw)).collect::<Vec<_>>(), legacy)
        }
        other => panic!("{other:?}"),
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        pairs("ENV a=b c=\"d e\" f=g\\ h i="),
        (vec![pair("a", "b"), pair("c", "\"d e\""), pair("f", "g\\ h"), pair("i", "")], false)
    );
    assert_eq!(pairs("LABEL \"a b\"='c' d.e=f"), (vec![pair("\"a b\"", "'c'"), pair("d.e", "f")], false));
    assert_eq!(pairs("ENV a  b c=d "), (vec![pair("a", "b c=d")], true));
    let Instruction::Arg(arg) = step("ARG a b= c=\"d e\"") else { panic!() };
    let defaults: Vec<_> = arg.arguments.iter().map(|one| one.default.as_ref().map(|word| word.raw.as_str())).collect();
    assert_eq!(defaults, [None, Some(""), Some("\"d e\"")]);
    for (text, message) in [
        ("ENV", "2:1: ENV requires at least one argument"),
        ("ENV a", "2:5: ENV must have two arguments"),
        ("ENV =a", "2:5: ENV names can not be blank"),
        ("ENV a=b  c", "2:10: Syntax error - can't find = in \"c\". Must be of the form: name=value"),
        ("ARG =a", "2:5: ARG names can not be blank"),
    ] {
        assert_eq!(said_of(text), message, "{text}");
    }
}

#[test]
fn health_and_triggers() {
    use std::time::Duration;
    let Instruction::Healthcheck(Healthcheck::Command(health)) =
        step("HEALTHCHECK --interval=1m30s --timeout=0 --retries=3 cmd a b")
    else {
        panic!()
    };
    assert_eq!((health.interval, health.timeout, health.retries), (Some(Duration::from_secs(90)), None, Some(3)));
    assert_eq!(health.command, CommandLine::Shell("a b".into()));
    assert_eq!(step("HEALTHCHECK none"), Instruction::Healthcheck(Healthcheck::None));
    let Instruction::OnBuild(trigger) = step("ONBUILD COPY <<A \\\n /x\n$b\nA") else { panic!() };
    assert_eq!(trigger.text, "COPY <<A  /x\n$b\nA");
    assert_eq!(super::trigger(&Source::new("ONBUILD", &trigger.text)).unwrap().node.name(), "COPY");
    for (text, message) in [
        ("HEALTHCHECK", "2:1: HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE a", "2:13: HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "2:13: Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK curl x", "2:13: Unknown type \"CURL\" in HEALTHCHECK (try CMD)"),
        (
            "HEALTHCHECK --interval=5 CMD a",
            "2:13: invalid duration \"5\" of --interval: expected one as 30s, 1m30s or 500ms",
        ),
        ("HEALTHCHECK --timeout=1us CMD a", "2:13: Interval \"timeout\" cannot be less than 1ms"),
        ("HEALTHCHECK --retries=-1 CMD a", "2:13: --retries cannot be negative (-1)"),
        ("ONBUILD onbuild RUN a", "2:9: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM a", "2:9: FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD RNU a", "2:9: unknown instruction: RNU (did you mean RUN?)"),
        (
            "SHELL bash -c",
            "2:7: SHELL requires the arguments to be in JSON form (did you mean SHELL [\"bash\",\"-c\"]?)",
        ),
        ("VOLUME [\"\"]", "2:8: VOLUME specified can not be an empty string"),
        ("WORKDIR", "2:1: WORKDIR requires exactly one argument"),
        ("USER --x a", "2:6: unknown flag: --x"),
    ] {
        assert_eq!(said_of(text), message, "{text}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    assert_eq!(
        said("FORM alpine\nRUN a\nCOPY a\n"),
        [
            "1:1: unknown instruction: FORM (did you mean FROM?)",
            "3:1: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ]
    );
    assert_eq!(said("RUN a\nFROM b"), ["1:1: no build stage in current context: RUN before FROM"]);
    assert_eq!(said("# nothing\n"), ["1:1: file with no instructions"]);
    assert_eq!(said("ARG a\n"), ["1:1: dockerfile contains no stages to build"]);
    assert_eq!(
        said("FROM a b"),
        ["1:8: FROM requires either one or three arguments: FROM IMAGE, or FROM IMAGE AS NAME"]
    );
    assert_eq!(
        said("FROM a sa b"),
        ["1:8: FROM requires either one or three arguments: FROM IMAGE, or FROM IMAGE AS NAME (did you mean AS?)"]
    );
    assert_eq!(
        said("FROM a AS 1b"),
        ["1:11: invalid name for build stage: \"1b\", name can't start with a number or contain symbols"]
    );
    assert_eq!(said(&"NO x\n".repeat(100)).len(), 20);
}

#[test]
fn bytes_that_are_no_text_matter_only_in_instructions() {
    let read = |bytes: &[u8]| {
        parse(Source::from_bytes("f", bytes)).map_err(|mistakes| mistakes.iter().next().map(Mistake::summary))
    };
    assert!(read(b"# Jos\xe9\nFROM a\nRUN a \\\n# \xe9\n b").is_ok());
    assert_eq!(read(b"FROM a\nUSER Jos\xe9").unwrap_err().unwrap(), "this is not UTF-8");
    assert!(read(b"FROM a\nRUN <<E\n# \xe9\nE").is_err());
    assert!(read("FROM a\nUSER Jos\u{fffd}".as_bytes()).is_ok());
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in "([A-Za-z#=`\\\\\"'<>$\\[\\]{}\\-\\n \\t,:/é]|FROM |RUN |COPY |--mount=|<<E|\\nE\\n){0,60}") {
        if let Err(mistakes) = parse(Source::new("f", &text)) {
            prop_assert!(!mistakes.is_empty());
            prop_assert!(!mistakes.to_string().is_empty());
        }
    }

    /// What is written in the plain form is read as it was meant, on however many lines.
    #[test]
    fn a_file_is_read_as_it_was_written(
        words in prop::collection::vec("[a-z0-9/._-]{1,8}", 2..6),
        breaks in prop::collection::vec(any::<bool>(), 6),
    ) {
        let words: Vec<String> = words.into_iter().map(|word| format!("w{word}")).collect();
        let mut text = "FROM scratch\nCOPY".to_owned();
        for (word, broken) in words.iter().zip(breaks) {
            text.push_str(if broken { " \\\n# a comment\n  " } else { " " });
            text.push_str(word);
        }
        let Instruction::Copy(copy) = read(&text).stages.remove(0).steps.remove(0).node else { panic!() };
        let mut again: Vec<_> = copy.files.sources.iter().map(|source| match source {
            FileSource::Path(word) => word.clone(),
            FileSource::Heredoc(heredoc) => panic!("{heredoc:?}"),
        }).collect();
        again.push(copy.files.destination);
        prop_assert_eq!(raw(&again), words.iter().map(String::as_str).collect::<Vec<_>>());
        for word in &again {
            let line: Vec<char> = text.lines().nth(word.span.start.line as usize - 1).unwrap().chars().collect();
            let at = word.span.start.column as usize - 1..word.span.end.column as usize - 1;
            prop_assert_eq!(line[at].iter().collect::<String>(), word.raw.clone());
        }
    }

    /// Whatever a value is: once it is in quotes, it is read and expanded to itself.
    #[test]
    fn a_value_in_quotes_is_itself(values in prop::collection::vec("[^\\r\\n\u{0}]{0,12}", 1..4)) {
        let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        let pairs: Vec<String> = values.iter().map(|value| format!("N=\"{}\"", quoted(value))).collect();
        let Instruction::Env(env) = step(&format!("ENV {}", pairs.join(" "))) else { panic!() };
        let source = Source::new("f", "");
        let none = std::collections::BTreeMap::new();
        let again: Vec<String> = env.pairs.iter()
            .map(|pair| pair.value.expand(&source, Escape::Backslash, &none).unwrap().text)
            .collect();
        prop_assert_eq!(again, values);
    }
}
