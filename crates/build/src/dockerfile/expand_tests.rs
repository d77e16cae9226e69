use super::*;
use proptest::prelude::*;

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn with(text: &str, pairs: &[(&str, &str)]) -> Result<String, String> {
    expand(text, Kind::Word, Escape::Backslash, &variables(pairs))
        .map(|expansion| expansion.text)
        .map_err(|why| why.to_string())
}

const HOME: [(&str, &str); 3] = [("PWD", "/home"), ("SHELL", "bash"), ("NULL", "")];

#[test]
fn quotes_and_escapes_are_taken_away() {
    for (text, meaning) in [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he\"ll\"o", "hello"),
        ("he\\'llo", "he'llo"),
        ("'he\\'", "he\\"),
        ("\"a\\\"b\\\\c\\d\"", "a\"b\\c\\d"),
        ("a\\", "a"),
        ("\\$PWD '$PWD' \"$PWD\" $PWD", "$PWD $PWD /home /home"),
        ("", ""),
        ("\"\"", ""),
        ("한국어", "한국어"),
    ] {
        assert_eq!(with(text, &HOME), Ok(meaning.to_owned()), "{text}");
    }
    assert_eq!(with("'a", &[]), Err("unexpected end of statement while looking for matching single-quote".into()));
    assert_eq!(with("\"a\\", &[]), Err("unexpected end of statement while looking for matching double-quote".into()));
}

#[test]
fn variables_have_modifiers() {
    let pairs = [("FOO", "xxx"), ("BAR", ""), ("X", "xxyy"), ("P", "/a/foo/b/c.txt"), ("N", "/?/"), ("U", "http://h")];
    for (text, meaning) in [
        ("a$FOO-b", "axxx-b"),
        ("${FOO}$FOO", "xxxxxx"),
        ("$", "$"),
        ("$$ a$", " a$"),
        ("$1a", "a"),
        ("${FOO-a} ${BAR-b} ${BAZ-c}", "xxx  c"),
        ("${FOO:-a} ${BAR:-b} ${BAZ:-c}", "xxx b c"),
        ("${FOO+a} ${BAR+b} ${BAZ+c}", "a b "),
        ("${FOO:+a} ${BAR:+b} ${BAZ:+c}", "a  "),
        ("${FOO?a}${BAR?b}${FOO:?c}", "xxxxxx"),
        ("${BAZ:-${BAR:-$FOO}}", "xxx"),
        ("${BAZ:-\"a }\"}", "a }"),
        ("${X#*x}", "xyy"),
        ("${X##*x}", "yy"),
        ("${X#*}", "xxyy"),
        ("${X##*}", ""),
        ("${X#}", "xxyy"),
        ("${X#*x*y}", "y"),
        ("${X%y}", "xxy"),
        ("${X%%y*}", "xx"),
        ("${X%x}", "xxyy"),
        ("${P%.*}", "/a/foo/b/c"),
        ("${P##*/}", "c.txt"),
        ("${P/$N//}", "/foo/b/c.txt"),
        ("${P//o/0}", "/a/f00/b/c.txt"),
        ("${P//\\//-}", "-a-foo-b-c.txt"),
        ("${U/http:\\/\\//https:\\/\\/}", "https:\\/\\/h"),
        ("${X///}", "xxyy"),
        ("${BAZ///}", ""),
        ("${X/x*y/.}", "."),
        ("${X//?/a}", "aaaa"),
    ] {
        assert_eq!(with(text, &pairs), Ok(meaning.to_owned()), "{text}");
    }
    assert_eq!(with("${A#?\\?}", &[("A", "???y")]), Ok("?y".into()));
    assert_eq!(with("${A%%\\**\\*}", &[("A", "a***yy*")]), Ok("a".into()));
    assert_eq!(with("${A#()[]{\\}^$.\\*\\?|\\\\}", &[("A", "()[]{}^$.*?|\\x")]), Ok("x".into()));
    assert_eq!(
        with("${A/$B/.} ${A//$B/.}", &[("A", "/foo*/*/*.txt"), ("B", "\\*/")]),
        Ok("/foo.*/*.txt /foo..*.txt".into())
    );
}

#[test]
fn what_is_no_substitution_is_told() {
    for (text, said) in [
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:-a}", "syntax error: bad substitution"),
        ("${A", "syntax error: missing '}'"),
        ("${A:-b", "syntax error: missing '}'"),
        ("${A=b}", "unsupported modifier (=) in substitution"),
        ("${A:=b}", "unsupported modifier (:=) in substitution"),
        ("${A//b}", "syntax error: missing '/' in ${}"),
        ("${A#\\x}", "invalid pattern (\\x) in substitution: invalid escape '\\x'"),
        ("${A?}", "A: is not allowed to be unset"),
        ("${NULL:?}", "NULL: is not allowed to be empty"),
        ("${A:?say $SHELL}", "A: say bash"),
    ] {
        assert_eq!(with(text, &HOME), Err(said.to_owned()), "{text}");
    }
    let deep = format!("{}x{}", "${A:-".repeat(2000), "}".repeat(2000));
    assert_eq!(with(&deep, &[]), Err("too many variables within variables".into()));
}

#[test]
fn what_was_read_is_remembered() {
    let expansion =
        expand("$A ${B:-$C} ${D:-e} $F", Kind::Word, Escape::Backslash, &variables(&[("A", "1"), ("B", "")]));
    let expansion = expansion.unwrap();
    let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(names(&expansion.read), "A B");
    assert_eq!(names(&expansion.unset), "C D F");
    assert_eq!(names(&expansion.missing), "C F");
}

#[test]
fn words_are_parted_where_no_quotes_are() {
    let pairs = variables(&[("P", "80 443/tcp")]);
    let words = |text| expand(text, Kind::Word, Escape::Backslash, &pairs).unwrap().words;
    assert_eq!(words("1 $P"), ["1", "80", "443/tcp"]);
    assert_eq!(words("\"$P\" a\\ b 'c d' ''"), ["80 443/tcp", "a b", "c d"]);
}

#[test]
fn a_heredoc_keeps_its_quotes() {
    let lines = |text| expand(text, Kind::Heredoc, Escape::Backslash, &variables(&HOME)).unwrap().text;
    assert_eq!(lines("\"$PWD\" it's\n"), "\"/home\" it's\n");
    assert_eq!(lines("\\$PWD \\\\\n"), "$PWD \\\n");
    let windows = expand("c:\\a `$PWD", Kind::Word, Escape::Backtick, &variables(&HOME)).unwrap();
    assert_eq!(windows.text, "c:\\a $PWD");
}

#[test]
fn a_value_that_doubles_again_and_again_ends_somewhere() {
    let pairs = variables(&[("A", &"x".repeat(1 << 18))]);
    assert!(expand(&"$A".repeat(10), Kind::Word, Escape::Backslash, &pairs).is_err());
    assert!(expand("${A//x/xxxxxxxxxx}", Kind::Word, Escape::Backslash, &pairs).is_err());
}

/// Whether all of a text fits a pattern without escapes.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, rest) => rest.is_none(),
        (Some(('*', pattern_rest)), rest) => {
            naive(pattern_rest, text) || rest.is_some_and(|(_, rest)| naive(pattern, rest))
        }
        (Some((own, pattern)), Some((c, text))) => (*own == '?' || own == c) && naive(pattern, text),
        (Some(_), None) => false,
    }
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in "[$A-C{}:+?#%/\\-'\"\\\\*x é]{0,40}", value in "[x*é/]{0,20}") {
        for escape in [Escape::Backslash, Escape::Backtick] {
            for kind in [Kind::Word, Kind::Heredoc] {
                let _ = expand(&text, kind, escape, &variables(&[("A", &value), ("B", "")]));
            }
        }
    }

    #[test]
    fn a_quoted_text_means_itself(text in "[^']{0,30}") {
        prop_assert_eq!(with(&format!("'{text}'"), &[]), Ok(text));
    }

    /// Every begin and end that fits is tried by hand.
    #[test]
    fn trimming_is_what_trying_all_gives(pattern in "[ab*?]{0,6}", value in "[abc]{0,8}") {
        let (shape, chars): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
        let begins: Vec<usize> = (0..=chars.len()).filter(|end| naive(&shape, &chars[..*end])).collect();
        let ends: Vec<usize> = (0..=chars.len()).filter(|start| naive(&shape, &chars[*start..])).collect();
        let after = |at: Option<&usize>| chars[at.copied().unwrap_or(0)..].iter().collect::<String>();
        let before = |at: Option<&usize>| chars[..at.copied().unwrap_or(chars.len())].iter().collect::<String>();
        let got = |operator: &str| with(&format!("${{V{operator}{pattern}}}"), &[("V", &value)]).unwrap();
        // A pattern that begins with the operator would be another one; none of these does.
        prop_assert_eq!(got("#"), after(begins.first()));
        prop_assert_eq!(got("##"), after(begins.last()));
        prop_assert_eq!(got("%"), before(ends.last()));
        prop_assert_eq!(got("%%"), before(ends.first()));
    }
}
