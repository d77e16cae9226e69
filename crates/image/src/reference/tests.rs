use super::*;
use proptest::prelude::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[track_caller]
fn names(text: &str, domain: &str, path: &str, familiar: &str) {
    let reference = Reference::parse(text).unwrap();
    assert_eq!((reference.domain(), reference.path()), (domain, path), "{text}");
    assert_eq!(reference.familiar(), familiar, "{text}");
    assert_eq!(Reference::parse(&reference.canonical()).unwrap(), reference);
    assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
}

#[test]
fn short_names_belong_to_the_default_registry() {
    names("debian", "docker.io", "library/debian", "debian");
    names("debian:12", "docker.io", "library/debian", "debian:12");
    names("team/app", "docker.io", "team/app", "team/app");
    names("docker.io/debian", "docker.io", "library/debian", "debian");
    names("index.docker.io/debian:12", "docker.io", "library/debian", "debian:12");
    names("library/debian", "docker.io", "library/debian", "debian");
    names("library/a/b", "docker.io", "library/a/b", "library/a/b");
}

#[test]
fn a_registry_is_told_by_its_dot_colon_or_name() {
    names("localhost/app", "localhost", "app", "localhost/app");
    names("localhost:5000/app:1", "localhost:5000", "app", "localhost:5000/app:1");
    names("quay.example/team/app", "quay.example", "team/app", "quay.example/team/app");
    names("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000", "a/b/c", "127.0.0.1:5000/a/b/c:x");
    names("[::1]:5000/app", "[::1]:5000", "app", "[::1]:5000/app");
    names("[fd00:1:2::3]/app", "[fd00:1:2::3]", "app", "[fd00:1:2::3]/app");
    names("Upper/app", "Upper", "app", "Upper/app");
}

#[test]
fn tag_and_digest_are_both_kept() {
    let text = format!("debian:12@sha256:{HEX}");
    let reference = Reference::parse(&text).unwrap();
    assert_eq!(reference.tag(), Some("12"));
    assert_eq!(reference.digest(), Some(&*format!("sha256:{HEX}")));
    assert_eq!(reference.canonical(), format!("docker.io/library/debian:12@sha256:{HEX}"));
    assert_eq!(reference.with_tag("13").unwrap().familiar(), "debian:13");
    assert_eq!(reference.with_digest(&format!("sha256:{HEX}")).unwrap().familiar(), format!("debian@sha256:{HEX}"));
    assert_eq!(reference.without_version().with_default_tag().familiar(), "debian:latest");
}

#[test]
fn wrong_names_get_dockers_words() {
    let error = |text: &str| Reference::parse(text).unwrap_err().to_string();
    for text in [
        "",
        ":",
        ":tag",
        "a:",
        "a b",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a/",
        "/a",
        "a//b",
        "a:b:c",
        "a@",
        "a@sha256:abc",
        "http://a/b",
        "a:-tag",
        "[::1",
        "[::1]x/app",
        "[g::1]/app",
        "host.:5000/a",
        "-host.x/a",
        "host:port/app",
    ] {
        assert_eq!(error(text), "invalid reference format", "{text:?}");
    }
    assert_eq!(
        error("Debian"),
        "invalid reference format: repository name (library/Debian) must be lowercase".replace("library/", "")
    );
    assert_eq!(error("localhost/App:1"), "invalid reference format: repository name (App) must be lowercase");
    assert_eq!(error(HEX), format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"));
    assert_eq!(error(&"a".repeat(300)), "repository name must not be more than 255 characters");
    assert_eq!(error(&format!("a:{}", "t".repeat(129))), "invalid reference format");
    assert_eq!(error(&format!("a@sha256:{}", &HEX[..40])), "invalid checksum digest length");
    assert_eq!(error(&format!("a@md5:{}", &HEX[..32])), "unsupported digest algorithm");
    assert_eq!(error(&format!("a@sha256:{}", HEX.to_uppercase())), "invalid checksum digest format");
    assert_eq!(Reference::parse("a").unwrap().with_tag("x y").unwrap_err().to_string(), "invalid tag format");
}

#[test]
fn filters_match_the_name_or_the_whole() {
    let matches =
        |pattern: &str, name: &str| Reference::parse(name).unwrap().matches(&Pattern::parse(pattern).unwrap());
    assert!(matches("debian", "debian:12"));
    assert!(matches("deb*", "debian:12"));
    assert!(matches("debian:1?", "debian:12"));
    assert!(matches("*:1[0-9]", "debian:12"));
    assert!(!matches("*:1[^0-9]", "debian:12"));
    assert!(!matches("*", "team/app"));
    assert!(matches("*/*", "team/app"));
    assert!(matches("team/a\\pp", "team/app"));
    assert!(!matches("debia", "debian"));
    for bad in ["[", "[]a]", "[a", "a\\", "[-a]", "[a-]"] {
        assert_eq!(Pattern::parse(bad), Err(BadPattern), "{bad}");
    }
}

#[test]
fn long_runs_of_stars_take_no_time() {
    let pattern = Pattern::parse(&"*a".repeat(200)).unwrap();
    assert!(!pattern.matches(&format!("{}b", "a".repeat(4000))));
}

fn component() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,6}((\\.|_|__|-{1,3})[a-z0-9]{1,6}){0,2}"
}

fn domain() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9]{1,8}(\\.[a-zA-Z0-9]{1,8}){1,3}(:[0-9]{1,5})?",
        "localhost(:[0-9]{1,5})?",
        "\\[[a-f0-9]{0,4}:[a-f0-9:]{1,16}\\](:[0-9]{1,5})?",
    ]
}

proptest! {
    #[test]
    fn whatever_is_built_by_the_grammar_comes_back(
        domain in proptest::option::of(domain()),
        path in proptest::collection::vec(component(), 1..4),
        tag in proptest::option::of("[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}"),
        digest in proptest::option::of("sha256:[a-f0-9]{64}"),
    ) {
        prop_assume!(domain.is_some() || path.len() == 1 || !path[0].contains('.'), "`a.b/c` names a registry");
        let mut text = domain.map(|domain| format!("{domain}/")).unwrap_or_default() + &path.join("/");
        if let Some(tag) = &tag { text = format!("{text}:{tag}"); }
        if let Some(digest) = &digest { text = format!("{text}@{digest}"); }
        prop_assume!(!text.starts_with("localhost:"), "a lone `localhost:1` is a tag, not a port");
        prop_assume!(!is_image_id(&text));
        let reference = Reference::parse(&text).unwrap();
        prop_assert_eq!(reference.tag(), tag.as_deref());
        prop_assert_eq!(reference.digest(), digest.as_deref());
        let canonical = Reference::parse(&reference.canonical());
        prop_assert_eq!(canonical.as_ref(), Ok(&reference));
        let familiar = Reference::parse(&reference.familiar());
        prop_assert_eq!(familiar.as_ref(), Ok(&reference));
        prop_assert_eq!(Reference::parse_canonical(&reference.canonical()), Ok(reference));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        if let Ok(reference) = Reference::parse(&text) {
            prop_assert_eq!(Reference::parse(&reference.canonical()), Ok(reference));
        }
    }

    #[test]
    fn a_pattern_without_marks_matches_itself_only(name in "[a-z/:.]{0,20}", other in "[a-z/:.]{0,20}") {
        let pattern = Pattern::parse(&name).unwrap();
        prop_assert!(pattern.matches(&name));
        prop_assert_eq!(pattern.matches(&other), name == other);
    }

    #[test]
    fn no_pattern_makes_the_matcher_panic(pattern in "\\PC{0,30}", name in "\\PC{0,30}") {
        if let Ok(pattern) = Pattern::parse(&pattern) { pattern.matches(&name); }
    }
}
