use super::*;
use crate::dockerfile::{Source, parse};
use std::collections::BTreeSet;

/// Checks a file on images of which one is known: `known` sets `PATH` and `JAVA_HOME`, and is for arm64.
fn report(text: &str, ignore: &str, given: &Given) -> Report {
    let file = parse(Source::new("Dockerfile", text)).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let ignore = Ignore::parse(&Source::new(".dockerignore", ignore)).unwrap();
    let base = |name: &str| {
        let environment = [("PATH", "/bin"), ("JAVA_HOME", "/java")];
        (name == "known").then(|| BaseImage {
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            has_shell: false,
            platform: Platform::new("linux", "arm64", None),
        })
    };
    check(&file, &Inputs { given, ignore: &ignore, base: &base })
}

fn arm(arguments: &[(&str, &str)]) -> Given {
    let platform = Platform::new("linux", "arm64", None);
    Given {
        arguments: arguments.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        build_platform: platform.clone(),
        target_platform: platform,
        target: None,
    }
}

fn lines(report: &Report) -> Vec<String> {
    let told = |warning: &Warning| format!("{} {}: {}", warning.span.start.line, warning.rule, warning.detail);
    report.warnings.iter().map(told).collect()
}

fn found(text: &str) -> Vec<String> {
    let report = report(text, "", &arm(&[]));
    assert_eq!(report.mistakes, [], "{text}");
    lines(&report)
}

#[test]
fn what_is_written_is_checked() {
    for (text, expected) in [
        ("FROM scratch AS Bad", &["1 StageNameCasing: Stage name 'Bad' should be lowercase"][..]),
        ("FROM scratch as b", &["1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"]),
        ("from scratch AS b", &["1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"]),
        ("FROM scratch\nCOPY a \\\n\nb", &["3 NoEmptyContinuation: Empty continuation line"]),
        (
            "From scratch as a\nFROM scratch AS b",
            &[
                "1 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "FROM scratch\ncopy a /\ncopy b /",
            &[
                "1 ConsistentInstructionCasing: Command 'FROM' should match the case of the command majority (lowercase)",
            ],
        ),
        ("from scratch\ncopy a /", &[]),
        (
            "FROM scratch AS b\nFROM scratch AS B",
            &[
                "2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique",
                "2 StageNameCasing: Stage name 'B' should be lowercase",
            ],
        ),
        (
            "FROM scratch AS scratch\nFROM scratch AS context",
            &[
                "1 ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\"",
                "2 ReservedStageName: Stage name should not use the same name as reserved stage \"context\"",
            ],
        ),
        (
            "FROM scratch\nMAINTAINER me",
            &["2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
        ),
        (
            "FROM scratch\nENV a b\nLABEL c d",
            &[
                "2 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
                "3 LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
            ],
        ),
        (
            "FROM scratch\nCMD [\"a\"]\nENTRYPOINT [\"b\"]\nCMD [\"c\"]",
            &[
                "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the \
               last one will be used",
            ],
        ),
        ("FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]", &[]),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn secrets_are_known_by_their_names() {
    let names = |text: &str| {
        let quoted = |line: &String| line.split('"').nth(1).map(str::to_owned);
        found(text).iter().filter_map(quoted).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        names(
            "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=a password=b sunflower=c git_key= PUBLIC_KEY=\nARG public_token auth"
        ),
        "SECRET_PASSPHRASE SUPER_Secret password git_key auth"
    );
    assert_eq!(names("ARG token\nFROM scratch\nENV KEY_FILE=a TOKEN_VERSION=b tokens=c"), "token");
}

#[test]
fn a_shell_gets_the_signals_unless_one_was_chosen() {
    let said = "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals";
    assert_eq!(found("FROM scratch\nCMD a"), [format!("2 JSONArgsRecommended: {said}")]);
    assert_eq!(found("FROM scratch\nSHELL [\"/sh\"]\nENTRYPOINT a"), [""; 0]);
    assert_eq!(found("FROM scratch AS base\nSHELL [\"/sh\"]\nFROM base\nCMD a"), [""; 0]);
}

#[test]
fn from_uses_what_was_declared() {
    for (text, expected) in [
        ("ARG base=scratch\nFROM $base", &[][..]),
        ("FROM --platform=$BUILDPLATFORM scratch", &[]),
        ("ARG DEBUG\nFROM scra${DEBUG:-tch}", &[]),
        (
            "ARG tag=latest\nFROM busybox:${tag}${version} AS b",
            &["2 UndefinedArgInFrom: FROM argument 'version' is not declared"],
        ),
        (
            "ARG MY_ARCH=amd64\nFROM busybox:x${MYARCH}",
            &["2 UndefinedArgInFrom: FROM argument 'MYARCH' is not declared (did you mean MY_ARCH?)"],
        ),
        (
            "FROM --platform=${TARGETPLATFORM} scratch",
            &[
                "1 RedundantTargetPlatform: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the \
               default behavior",
            ],
        ),
        (
            "FROM --platform=linux/amd64 scratch",
            &["1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\""],
        ),
        ("FROM --platform=linux/amd64 scratch AS my_amd64_stage", &[]),
        ("ARG VARIANT\nFROM busybox:stable${VARIANT}", &[]),
        (
            "FROM --platform=$BUILDPLATFORM known AS a\nFROM --platform=linux/amd64 known AS amd64",
            &[
                "2 InvalidBaseImagePlatform: Base image known was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for \
               current build",
            ],
        ),
    ] {
        assert_eq!(found(text), expected, "{text}");
    }
    let given = arm(&[("VERSION", "latest"), ("IMAGE", "busybox")]);
    assert_eq!(
        lines(&report("ARG VERSION IMAGE\nFROM busybox:$VERSION\nFROM $IMAGE", "", &given)),
        [
            "2 InvalidDefaultArgInFrom: Default value for ARG busybox:$VERSION results in empty or invalid base image name",
            "3 InvalidDefaultArgInFrom: Default value for ARG $IMAGE results in empty or invalid base image name",
        ]
    );
    let broken = report("FROM --platform=$BULIDPLATFORM scratch", "", &arm(&[]));
    assert_eq!(
        lines(&broken),
        ["1 UndefinedArgInFrom: FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?)"]
    );
    assert_eq!(
        broken.mistakes[0].summary(),
        "empty platform value from expression $BULIDPLATFORM (did you mean $BUILDPLATFORM?)"
    );
}

#[test]
fn variables_are_defined_before_their_use() {
    for (text, expected) in [
        ("FROM scratch\nARG foo\nCOPY a$foo .", &[][..]),
        ("FROM scratch AS base\nARG foo=a\nFROM base\nCOPY $foo .", &[]),
        ("FROM scratch\nRUN echo $PATH $foo", &[]),
        ("FROM scratch\nCOPY $foo .\nARG foo=bar", &["2 UndefinedVar: Usage of undefined variable '$foo'"]),
        (
            "FROM scratch\nARG DIR_BINARIES=a DIR_ASSETS=b\nCOPY $DIR_ASSET .",
            &["3 UndefinedVar: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)"],
        ),
        (
            "FROM scratch\nENV PATH=$PAHT:/tmp/bin",
            &["2 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)"],
        ),
        ("FROM scratch\nCOPY ${foo:-a} ${foo+b} .", &[]),
        ("FROM scratch\nCOPY \\$foo '$foo' .", &[]),
        ("FROM scratch\nENV a=1 b=$a", &["2 UndefinedVar: Usage of undefined variable '$a'"]),
        ("FROM scratch\nENV a=1\nENV b=$a", &[]),
        (
            "FROM scratch\nCOPY <<EOF /a\n$foo\nEOF\nCOPY <<'EOF' /a\n$foo\nEOF",
            &["2 UndefinedVar: Usage of undefined variable '$foo'"],
        ),
        (
            "FROM scratch\nRUN --mount=type=cache,target=/x$foo a",
            &["2 UndefinedVar: Usage of undefined variable '$foo'"],
        ),
        // Whatever an image sets of which nothing is known.
        (
            "FROM unknown\nWORKDIR $JAVA_HOME\nARG VERSION\nCOPY $VERSOIN .",
            &["4 UndefinedVar: Usage of undefined variable '$VERSOIN' (did you mean $VERSION?)"],
        ),
        ("FROM known\nCOPY $JAVA_HOME $FOO .", &["2 UndefinedVar: Usage of undefined variable '$FOO'"]),
    ] {
        let text_found: Vec<_> = found(text).into_iter().filter(|line| !line.contains("WorkdirRelative")).collect();
        assert_eq!(text_found, expected, "{text}");
    }
}

#[test]
fn paths_and_ports() {
    assert_eq!(
        found("FROM scratch\nWORKDIR app/\nWORKDIR b"),
        ["2 WorkdirRelativePath: Relative workdir \"app/\" can have unexpected results if the base image changes"]
    );
    assert_eq!(found("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR b"), [""; 0]);
    assert_eq!(
        found("FROM scratch\nARG P=\"80/TCP 81/udp\"\nEXPOSE $P 127.0.0.1:80:80 80:80"),
        [
            "3 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
            "3 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
            "3 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
        ]
    );
}

#[test]
fn a_stage_that_is_misspelt_may_be_an_image() {
    let text =
        "FROM scratch AS build\nFROM scratch\nCOPY --from=biuld a /\nCOPY --from=build:1 a /\nCOPY --from=nginx a /";
    let report = report(text, "", &arm(&[]));
    assert_eq!((report.warnings.len(), report.mistakes.len(), report.notes.len()), (0, 0, 1));
    assert_eq!(
        report.notes[0].summary(),
        "no stage is called \"biuld\": an image of that name will be looked for (did you mean build?)"
    );
}

#[test]
fn a_port_that_is_none_is_a_mistake() {
    let report = report("FROM scratch\nEXPOSE $NOTHING 80 http", "", &arm(&[]));
    assert_eq!(
        report.mistakes[0].summary(),
        "invalid containerPort: \"http\" of \"http\": expected a number, or two as 8000-8010"
    );
}

#[test]
fn files_that_are_ignored_are_not_copied() {
    let copied = |text: &str, ignore: &str| lines(&report(text, ignore, &arm(&[])));
    let text = "FROM scratch AS base\nCOPY ./Dockerfile /x .\nADD a/../Dockerfile https://x/Dockerfile /\nFROM base\nCOPY --from=base /Dockerfile /";
    assert_eq!(
        copied(text, "Dockerfile\n"),
        [
            "2 CopyIgnoredFile: Attempting to Copy file \"Dockerfile\" that is excluded by .dockerignore",
            "3 CopyIgnoredFile: Attempting to Add file \"Dockerfile\" that is excluded by .dockerignore",
        ]
    );
    assert_eq!(copied("FROM scratch\nCOPY docs src /", "docs\n!docs/a\nsrc\n").len(), 1);
}

#[test]
fn comments_describe_what_is_below_them() {
    let text =
        |comment: &str, below: &str| format!("# check=experimental=InvalidDefinitionDescription\n{comment}\n{below}");
    let detail = |comment: &str, below: &str| found(&text(comment, below)).join("|");
    assert_eq!(detail("# foo is foo", "ARG foo\nFROM scratch"), "");
    assert_eq!(
        detail("# bar is foo", "ARG foo\nFROM scratch"),
        "3 InvalidDefinitionDescription: Comment for ARG should follow the format: `# foo <description>`"
    );
    assert_eq!(
        detail("# BasE is it", "FROM scratch AS base\n# no\nARG a b"),
        "3 InvalidDefinitionDescription: Comment for FROM should follow the format: `# base <description>`|\
         5 InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>`"
    );
    assert_eq!(found("# bar is foo\nARG foo\nFROM scratch"), [""; 0]);
}

#[test]
fn checks_are_left_out_and_made_mistakes_of() {
    let body = "FROM scratch as base\ncopy a /\n";
    let rules = |text: &str, given: &Given| {
        let report = report(text, "", given);
        let rules: BTreeSet<_> = report.warnings.iter().map(|warning| warning.rule.name()).collect();
        (
            rules.into_iter().collect::<Vec<_>>().join(" "),
            report.violation().map(|(span, said)| (span.start.line, said)),
        )
    };
    let none = arm(&[]);
    assert_eq!(rules(&format!("#check=skip=all;error=true\n{body}"), &none), (String::new(), None));
    assert_eq!(
        rules(&format!("#check=skip=consistentinstructioncasing,FromAsCasing\n{body}"), &none),
        (String::new(), None)
    );
    assert_eq!(
        rules(&format!("#check=skip=ConsistentInstructionCasing;error=true\n{body}"), &none),
        ("FromAsCasing".into(), Some((2, "lint violation found for rules: FromAsCasing".into())))
    );
    let asked = arm(&[(ARGUMENT, "skip=ConsistentInstructionCasing;error=true")]);
    assert_eq!(rules(&format!("#check=skip=all\n{body}"), &asked).0, "FromAsCasing");
    assert_eq!(report(body, "", &arm(&[(ARGUMENT, "nonsense")])).mistakes.len(), 1);
}

#[test]
fn a_check_that_is_not_there_is_told() {
    let text = "# check=skip=JSONArgRecommended,FromAsCasing;experimental=all\nFROM scratch\n";
    let notes = report(text, "", &arm(&[])).notes;
    let notes: Vec<_> = notes.iter().map(Mistake::summary).collect();
    assert_eq!(notes, ["no check is called \"jsonargrecommended\" (did you mean JSONArgsRecommended?)"]);
}

#[test]
fn only_what_a_target_needs_is_carried_out() {
    let text = "FROM scratch AS a\nCOPY $x /\nFROM scratch AS b\nCOPY $y /\n";
    assert_eq!(found(text).len(), 2);
    let given = Given { target: Some("a".into()), ..arm(&[]) };
    assert_eq!(lines(&report(text, "", &given)), ["2 UndefinedVar: Usage of undefined variable '$x'"]);
    let given = Given { target: Some("c".into()), ..arm(&[]) };
    assert_eq!(
        report(text, "", &given).mistakes[0].summary(),
        "target stage \"c\" could not be found (there are a, b, and the numbers 0 to 1)"
    );
}

#[test]
fn every_check_has_a_name_and_a_page_of_its_own() {
    let names: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), Rule::ALL.len());
    for (rule, page) in [
        (Rule::JsonArgsRecommended, "json-args-recommended"),
        (Rule::SecretsUsedInArgOrEnv, "secrets-used-in-arg-or-env"),
        (Rule::FromPlatformFlagConstDisallowed, "from-platform-flag-const-disallowed"),
    ] {
        assert_eq!(rule.url(), format!("https://docs.docker.com/go/dockerfile/rule/{page}/"));
    }
}
