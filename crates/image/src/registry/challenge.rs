//! `WWW-Authenticate` as registries send it (RFC 9110 section 11.6.1, distribution's token specification).

/// One challenge of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request.
    Basic,
    /// A token that `realm` hands out for `service` and the scopes asked for.
    Bearer { realm: String, service: Option<String>, scope: Option<String>, error: Option<String> },
}

/// Reads one header, which may hold several challenges. What isn't understood is left out.
pub(super) fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header.trim_start();
    while let Some((scheme, after)) = token(rest) {
        let (parameters, after) = parameters(after);
        rest = after;
        let value = |name: &str| {
            parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
        };
        if scheme.eq_ignore_ascii_case("basic") {
            challenges.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = value("realm")
        {
            let (service, scope, error) = (value("service"), value("scope"), value("error"));
            challenges.push(Challenge::Bearer { realm, service, scope, error });
        }
    }
    challenges
}

fn token(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// The `name=value` pairs after a scheme; stops where the next scheme starts.
fn parameters(mut text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    while let Some((name, after)) = token(text) {
        let Some(after) = after.trim_start().strip_prefix('=') else { return (found, text) };
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        found.push((name.to_owned(), value));
        text = after;
    }
    (found, "")
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Challenge::Bearer { realm: realm.into(), service: given(service), scope: given(scope), error: None }
    }

    #[test]
    fn challenges_as_registries_send_them() {
        assert_eq!(
            parse_challenges(r#"Bearer realm="https://a/t",service="reg, one",scope="repository:a/b:pull,push""#),
            [bearer("https://a/t", "reg, one", "repository:a/b:pull,push")]
        );
        assert_eq!(parse_challenges(r#"Basic realm="x""#), [Challenge::Basic]);
        assert_eq!(parse_challenges("basic"), [Challenge::Basic]);
        assert_eq!(
            parse_challenges(r#"Negotiate, bearer realm=https://a/t , BASIC realm="q\"uote""#),
            [bearer("https://a/t", "", ""), Challenge::Basic]
        );
        assert_eq!(parse_challenges(r#"Bearer service="no realm""#), []);
        assert_eq!(parse_challenges(r#"Bearer realm="never ends"#), [bearer("never ends", "", "")]);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_hang(header in "\\PC*") { parse_challenges(&header); }
        #[test]
        fn nor_one_of_the_right_marks(header in "(Bearer|Basic|[a-z ,=\"\\\\]){0,40}") { parse_challenges(&header); }
    }
}
