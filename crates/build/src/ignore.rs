//! `.dockerignore`: which files of a context are no part of it.

use crate::dockerfile::{Mistake, Position, Source, Span};
use crate::glob::{Glob, Stars};

/// Rules, of which the last that fits a path or one of its directories counts.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// What they were read from.
    text: String,
}

#[derive(Clone, Debug)]
struct Rule {
    glob: Glob,
    /// `!`: what fits is a part of the context after all.
    negated: bool,
}

impl Ignore {
    /// The names of the files that may have the rules for a Dockerfile, in the order in which they are looked for: the first
    /// one that is there counts, and it alone. All but the last are beside the Dockerfile; the last is the context's.
    pub fn names(dockerfile: &str) -> [String; 2] {
        [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()]
    }

    /// Reads a file.
    pub fn parse(source: &Source) -> Result<Ignore, Mistake> {
        let mut rules = Vec::new();
        for (line, number) in source.text().lines().zip(1..) {
            let text = line.trim();
            if line.starts_with('#') || text.is_empty() {
                continue;
            }
            let (text, negated) = match text.strip_prefix('!') {
                Some(text) => (text.trim(), true),
                None => (text, false),
            };
            let mistake = |message: String| {
                let columns = u32::try_from(line.chars().count() + 1).unwrap_or(u32::MAX);
                let start = Position { line: number, column: 1 };
                source.mistake(Span { start, end: Position { line: number, column: columns } }, message)
            };
            if text.is_empty() {
                return Err(mistake("illegal exclusion pattern: \"!\" with nothing behind it".to_owned()));
            }
            let pattern = clean(text);
            let pattern = pattern.strip_prefix('/').unwrap_or(&pattern);
            let glob = Glob::parse(pattern, Stars::Anywhere).map_err(|why| mistake(why.to_string()))?;
            rules.push(Rule { glob, negated });
        }
        Ok(Ignore { rules, text: source.text().to_owned() })
    }

    /// What the rules were read from.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether there is a rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether something may be a part of the context though its directory is not.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.negated)
    }

    /// Whether a path, relative to the context, is no part of it.
    pub fn ignores(&self, path: &str) -> bool {
        self.last(&clean(path)).is_some_and(|index| !self.rules[index].negated)
    }

    /// Whether a walker has to look into a directory: it is a part of the context, or something below it may be.
    pub fn enters(&self, directory: &str) -> bool {
        let directory = clean(directory);
        match self.last(&directory) {
            Some(index) if !self.rules[index].negated => {
                // What fits the directory fits all below it: only a later exception can be one.
                let mut later = self.rules[index + 1..].iter();
                later.any(|rule| rule.negated && rule.glob.may_match_below(&directory))
            }
            _ => true,
        }
    }

    /// The last rule that fits a path, or fitted one of its directories.
    ///
    /// A rule that fitted a directory fits all below it. But an exception is looked at only where there is something to
    /// except: behind `*.o`, `!src` says nothing of `src` itself, and so nothing of `src/a.o`. docker and BuildKit do the
    /// same, as they go through a context from the top.
    fn last(&self, path: &str) -> Option<usize> {
        if path == "." {
            return None;
        }
        let slashes = path.match_indices('/').map(|(index, _)| &path[..index]);
        let mut fitted = vec![false; self.rules.len()];
        let mut last = None;
        for path in slashes.chain([path]).filter(|path| !path.is_empty()) {
            last = None;
            let mut ignored = false;
            for (index, rule) in self.rules.iter().enumerate() {
                fitted[index] = fitted[index] || (rule.negated == ignored && rule.glob.matches(path));
                if fitted[index] {
                    ignored = !rule.negated;
                    last = Some(index);
                }
            }
        }
        last
    }
}

/// A path without what means nothing in it, as Go's `path.Clean` makes it: no `.`, no `..` behind a name, no two slashes,
/// none at its end.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(&Source::new(".dockerignore", text)).unwrap_or_else(|mistake| panic!("{mistake}"))
    }

    #[test]
    fn the_last_rule_counts_for_a_path_and_what_is_below_it() {
        for (rules, path, ignored) in [
            ("*.go", "a.go", true),
            ("*.go", "b/a.go", false),
            ("**/*.go", "b/a.go", true),
            ("docs", "docs/a/b", true),
            ("docs/", "docs", true),
            ("/docs", "docs/a", true),
            ("./a/../docs//", "docs/a", true),
            ("docs\n!docs/README.md", "docs/README.md", false),
            ("docs/*\n!docs/README.md", "docs/README.md", false),
            ("!a.go\n*.go", "a.go", true),
            ("*.go\n!a.go", "a.go", false),
            ("**\n!util/docker/web", "util/docker/web/foo", false),
            ("**\n!util/docker/web\nutil/docker/web/foo", "util/docker/web/foo", true),
            ("# docs\n\n  \n", "docs", false),
            ("\u{feff}docs", "docs", true),
            ("  ! docs  \n", "docs", false),
            ("*\n  ! docs  \n", "docs", false),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**file", "dir/dir/file", true),
            ("a**/*.txt", "a/dir/file.txt", true),
            ("a[^b-d]e", "aze", true),
            ("abc/**", "abc", false),
            ("**/.foo", "bar.foo", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("a\\*b", "a*b", true),
            (".", "a", false),
            ("..", "a", false),
            ("docs", ".", false),
            ("**/*.o\n!src", "src/a.o", true),
            ("*\n!src", "src/a.o", false),
            ("*\n!src\n**/*.o", "src/a.o", true),
            ("docs\r\nb", "docs", true),
        ] {
            assert_eq!(ignore(rules).ignores(path), ignored, "{rules:?} {path}");
        }
    }

    #[test]
    fn mistakes_have_their_line() {
        let said = |text: &str| Ignore::parse(&Source::new(".dockerignore", text)).unwrap_err().to_string();
        assert_eq!(
            said("a\n!"),
            ".dockerignore:2:1: illegal exclusion pattern: \"!\" with nothing behind it\n   2 | !\n     | ^"
        );
        assert!(said("a[").starts_with(".dockerignore:1:1: syntax error in pattern \"a[\": a [ without its ]\n"));
    }

    #[test]
    fn directories_with_nothing_in_them_are_not_walked() {
        let rules = ignore("node_modules\ntarget\n!target/keep/*.so\n!other");
        assert!(!rules.enters("node_modules") && !rules.enters("node_modules/a"));
        assert!(rules.enters("target") && rules.enters("target/keep") && !rules.enters("target/debug"));
        assert!(rules.enters("src") && rules.enters("."));
        // An exception before the rule is none.
        assert!(!ignore("!a/b\na").enters("a"));
        assert!(ignore("a\n!a/b").enters("a"));
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, cleaned) in [
            ("", "."),
            ("a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../..", ".."),
            ("/../a", "/a"),
            ("/", "/"),
            ("../a", "../a"),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_rules_are_a_panic(text in "[ab!#*?/.\\[\\]\\\\ \\n-]{0,40}", path in "[ab/.]{0,12}") {
            if let Ok(ignore) = Ignore::parse(&Source::new("f", &text)) {
                let _ = (ignore.ignores(&path), ignore.enters(&path));
            }
        }

        /// Whoever walks only where it is told to misses nothing.
        #[test]
        fn what_is_not_walked_is_ignored(
            rules in prop::collection::vec("!?(\\*\\*/)?[ab*]{1,2}(/[ab*]{1,2}){0,2}", 1..5),
            path in prop::collection::vec("[ab]{1,2}", 1..5),
        ) {
            let ignore = ignore(&rules.join("\n"));
            let whole = path.join("/");
            if !ignore.ignores(&whole) {
                for depth in 1..path.len() {
                    prop_assert!(ignore.enters(&path[..depth].join("/")), "{rules:?} {whole}");
                }
            }
        }
    }
}
