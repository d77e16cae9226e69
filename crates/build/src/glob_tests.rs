use super::*;
use proptest::prelude::*;

fn glob(pattern: &str, stars: Stars) -> Glob {
    Glob::parse(pattern, stars).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn patterns_are_those_of_go() {
    for (pattern, path, fits) in [
        ("abc", "abc", true),
        ("*", "abc", true),
        ("*c", "abc", true),
        ("a*", "a", true),
        ("a*", "ab/c", false),
        ("a*/b", "abc/b", true),
        ("a*/b", "a/c/b", false),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("ab[c]", "abc", true),
        ("ab[b-d]", "abc", true),
        ("ab[e-g]", "abc", false),
        ("ab[^c]", "abc", false),
        ("ab[^e-g]", "abc", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "ab", false),
        ("a?b", "a☺b", true),
        ("a[^a]b", "a☺b", true),
        ("a???b", "a☺b", false),
        ("[a-ζ]*", "α", true),
        ("*[a-ζ]", "A", false),
        ("a?b", "a/b", false),
        ("a*b", "a/b", false),
        ("[\\]a]", "]", true),
        ("[\\-x]", "-", true),
        ("[x\\-]", "z", false),
        ("*x", "xxx", true),
        ("a/**", "a/b/c", false),
        ("", "", true),
        ("", "a", false),
    ] {
        assert_eq!(glob(pattern, Stars::Plain).matches(path), fits, "{pattern} {path}");
    }
    for pattern in
        ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "[]", "[^]", "[a\\", "[a-]"]
    {
        for stars in [Stars::Plain, Stars::Components, Stars::Anywhere] {
            assert!(Glob::parse(pattern, stars).is_err(), "{pattern}");
        }
    }
}

#[test]
fn two_stars_are_any_number_of_directories() {
    for (pattern, path, components, anywhere) in [
        ("**", "a", true, true),
        ("**", "a/b/c", true, true),
        ("a/**", "a", false, false),
        ("a/**", "a/b/c", true, true),
        ("a/**/c", "a/c", true, true),
        ("a/**/c", "a/b/b/c", true, true),
        ("a/**/c", "a/bc", false, false),
        ("**/c", "c", true, true),
        ("**/c", "a/b/c", true, true),
        ("**/c", "bc", false, false),
        ("**/*.go", "a/b.go", true, true),
        ("**/**/c", "a/c", true, true),
        ("**c", "abc", true, true),
        ("**c", "a/bc", false, true),
        ("a**/c", "ab/c", true, true),
        ("a**/c", "a/b/c", false, true),
        ("a/*.txt**", "a/b.txt", true, true),
        ("a**o", "ao", true, true),
        ("a**o", "abo", true, false),
        ("a**o", "ab/o", false, true),
        ("**b*", "ab", true, false),
        ("**b*", "a/bc", false, true),
        ("a**", "ab/c", false, true),
    ] {
        assert_eq!(glob(pattern, Stars::Components).matches(path), components, "{pattern} {path}");
        assert_eq!(glob(pattern, Stars::Anywhere).matches(path), anywhere, "{pattern} {path}");
    }
}

#[test]
fn a_walker_is_told_where_nothing_is() {
    let below = |pattern: &str, directory: &str| glob(pattern, Stars::Components).may_match_below(directory);
    assert!(below("a/b/*.c", "") && below("a/b/*.c", "a") && below("a/b/*.c", "a/b"));
    assert!(!below("a/b/*.c", "b") && !below("a/b/*.c", "a/b/c") && !below("a", "a"));
    assert!(below("**/x", "any/where") && below("a/**", "a/b") && !below("a/**", "b"));
}

#[test]
fn a_pattern_is_no_longer_than_a_path() {
    assert!(Glob::parse(&"a".repeat(4096), Stars::Plain).is_ok());
    let why = Glob::parse(&"a".repeat(4097), Stars::Plain).unwrap_err().to_string();
    assert_eq!(why, format!("syntax error in pattern \"{}…\": it is too long", "a".repeat(40)));
}

#[test]
fn one_path_is_told_from_a_pattern() {
    assert_eq!(glob("a\\*b/c", Stars::Components).literal().as_deref(), Some("a*b/c"));
    assert_eq!(glob("a?", Stars::Components).literal(), None);
}

/// The same by trying everything: components of a path against those of a pattern without classes.
fn naive(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((&"**", [])), rest) => rest.is_some(),
        (Some((&"**", below)), rest) => naive(below, path) || rest.is_some_and(|(_, rest)| naive(pattern, rest)),
        (Some((own, below)), Some((name, rest))) => component(own.as_bytes(), name.as_bytes()) && naive(below, rest),
        (Some(_), None) => false,
    }
}

fn component(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'*', rest)), _) => {
            component(rest, name) || name.split_first().is_some_and(|(_, name)| component(pattern, name))
        }
        (Some((own, pattern)), Some((c, name))) => (*own == b'?' || own == c) && component(pattern, name),
        (Some(_), None) => false,
    }
}

proptest! {
    #[test]
    fn no_pattern_is_a_panic(pattern in "[ab*?/\\[\\]^\\\\é-]{0,16}", path in "[ab/é]{0,10}") {
        for stars in [Stars::Plain, Stars::Components, Stars::Anywhere] {
            if let Ok(glob) = Glob::parse(&pattern, stars) {
                let _ = (glob.matches(&path), glob.may_match_below(&path), glob.literal());
            }
        }
    }

    #[test]
    fn a_pattern_fits_what_trying_everything_fits(
        pattern in prop::collection::vec("\\*\\*|[ab*?]{1,4}", 1..5),
        path in prop::collection::vec("[ab]{1,3}", 1..6),
    ) {
        // Three stars are as many as two.
        let stars = |part: &str| part.len() > 1 && part.bytes().all(|byte| byte == b'*');
        let components: Vec<&str> = pattern.iter().map(|part| if stars(part) { "**" } else { part.as_str() }).collect();
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        let glob = glob(&pattern.join("/"), Stars::Components);
        let fits = naive(&components, &names);
        prop_assert_eq!(glob.matches(&path.join("/")), fits);
        if fits {
            for depth in 0..names.len() {
                prop_assert!(glob.may_match_below(&names[..depth].join("/")));
            }
        }
    }
}
