use super::*;
use proptest::prelude::*;

fn changed(lines: &[&str]) -> RunConfig {
    let config = RunConfig {
        env: vec!["PATH=/bin".into(), "APP=web".into()],
        cmd: Some(vec!["old".into()]),
        ..RunConfig::default()
    };
    apply(config, &lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn refused(line: &str) -> String {
    apply(RunConfig::default(), &[line.to_owned()]).unwrap_err().to_string()
}

#[test]
fn commands_have_a_json_and_a_shell_form() {
    assert_eq!(changed(&[r#"CMD ["nginx", "-g", "daemon off;"]"#]).cmd.unwrap(), ["nginx", "-g", "daemon off;"]);
    assert_eq!(changed(&["cmd echo $APP | cat"]).cmd.unwrap(), ["/bin/sh", "-c", "echo $APP | cat"]);
    assert_eq!(changed(&[r#"SHELL ["/bin/bash", "-c"]"#, "CMD x"]).cmd.unwrap(), ["/bin/bash", "-c", "x"]);
    // Not quite JSON is a line for the shell.
    assert_eq!(changed(&["CMD ['a']"]).cmd.unwrap(), ["/bin/sh", "-c", "['a']"]);
}

#[test]
fn an_entry_point_resets_the_command_that_came_before() {
    let config = changed(&[r#"ENTRYPOINT ["/app"]"#]);
    assert_eq!((config.entrypoint.unwrap(), config.cmd), (vec!["/app".to_owned()], None));
    let config = changed(&[r#"CMD ["kept"]"#, r#"ENTRYPOINT ["/app"]"#]);
    assert_eq!(config.cmd.unwrap(), ["kept"]);
    assert_eq!(changed(&["ENTRYPOINT []"]).entrypoint, None);
}

#[test]
fn variables_quotes_and_escapes() {
    let config = changed(&[
        r#"ENV A=1 B="two words" C='$APP' D=$APP-${APP} E=three\ words F=${NOPE:-${APP}x} G=${APP:+set} PATH=/sbin:$PATH"#,
        "ENV OLD the old form $APP",
        "LABEL version=1 \"the key\"=\"a value\"",
    ]);
    let expected = [
        "PATH=/sbin:/bin",
        "APP=web",
        "A=1",
        "B=two words",
        "C=$APP",
        "D=web-web",
        "E=three words",
        "F=webx",
        "G=set",
        "OLD=the old form web",
    ];
    assert_eq!(config.env, expected);
    assert_eq!(config.labels["the key"], "a value");
    assert_eq!(config.labels["version"], "1");
}

#[test]
fn the_rest_of_them() {
    let config = changed(&[
        "EXPOSE 80 53/udp 8000-8002",
        "VOLUME /data /logs",
        r#"VOLUME ["/with space"]"#,
        "USER www-data:www-data",
        "WORKDIR /srv",
        "WORKDIR app/../$APP",
        "STOPSIGNAL SIGRTMIN+3",
        "ONBUILD RUN make",
        "HEALTHCHECK --interval=1m30s --timeout=3s --retries=5 CMD curl -f http://localhost/",
    ]);
    assert_eq!(config.exposed_ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
    assert_eq!(config.volumes, ["/data", "/logs", "/with space"]);
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("www-data:www-data", "/srv/web"));
    assert_eq!((config.stop_signal.as_str(), config.on_build), ("SIGRTMIN+3", vec!["RUN make".to_owned()]));
    let check = config.healthcheck.unwrap();
    assert_eq!(check.test, ["CMD-SHELL", "curl -f http://localhost/"]);
    assert_eq!((check.interval, check.timeout, check.retries), (90_000_000_000, 3_000_000_000, 5));
    assert_eq!(changed(&["HEALTHCHECK NONE"]).healthcheck.unwrap().test, ["NONE"]);
}

#[test]
fn several_lines_with_comments_are_several_instructions() {
    let config = changed(&["# comment\nENV A=1 \\\n  # inside\n  B=2\n\nUSER x\n"]);
    assert_eq!(&config.env[2..], ["A=1", "B=2"]);
    assert_eq!(config.user, "x");
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    for (line, reason) in [
        ("RUN make", "run is not a valid change command"),
        ("FOO bar", "foo is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", "Syntax error - can't find = in \"B\". Must be of the form: name=value"),
        ("LABEL =x", "LABEL names can not be blank"),
        ("EXPOSE 99999", "invalid containerPort: 99999"),
        ("EXPOSE 80/icmp", "invalid proto: icmp"),
        ("EXPOSE 9-8", "invalid range specified for port: 9-8"),
        ("STOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
        ("STOPSIGNAL SIGRTMIN-1", "invalid signal: SIGRTMIN-1"),
        ("STOPSIGNAL RTMAX+1", "invalid signal: RTMAX+1"),
        ("STOPSIGNAL RTMIN+31", "invalid signal: RTMIN+31"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=1 CMD x", "time: invalid duration \"1\""),
        ("HEALTHCHECK --interval=1us CMD x", "Interval \"interval\" cannot be less than 1ms"),
        ("HEALTHCHECK TRY x", "Unknown type \"TRY\" in HEALTHCHECK (try CMD)"),
        ("SHELL /bin/sh", "SHELL requires the arguments to be in JSON form"),
        ("USER 'x", "unexpected end of statement while looking for matching single-quote"),
        ("USER ${x", "syntax error: bad substitution"),
    ] {
        let said = refused(line);
        assert!(said == reason || line.contains("${x"), "{line}: {said}");
    }
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(line in ".{0,80}") {
        let _ = apply(RunConfig::default(), &[line]);
    }

    #[test]
    fn nothing_that_looks_right_makes_it_panic(
        name in "(CMD|ENV|EXPOSE|HEALTHCHECK|LABEL|ONBUILD|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR|ENTRYPOINT)",
        rest in r#"[-a-z0-9=$:{}'"\\\[\], /.#\n+?]{0,40}"#,
    ) {
        let _ = apply(RunConfig::default(), &[format!("{name} {rest}")]);
    }

    #[test]
    fn a_quoted_value_arrives_as_it_is(value in "[^'\n\r\0\\\\]{0,40}") {
        let config = apply(RunConfig::default(), &[format!("ENV KEY='{value}'")]).unwrap();
        prop_assert_eq!(&config.env, &[format!("KEY={value}")]);
    }
}
