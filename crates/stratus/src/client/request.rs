//! A call of the API, before it is sent.

use std::io;

use bytes::Bytes;
use http::Method;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What stays as it is in a path or a query (RFC 3986, section 2.3), and slashes, which image names have.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What a request carries.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A call.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
    has_query: bool,
}

impl Request {
    /// A call of a path that needs no encoding.
    pub(super) fn new(method: Method, path: impl Into<String>) -> Request {
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        Request { method, path: path.into(), headers: Vec::new(), body, has_query: false }
    }

    pub(super) fn get(path: impl Into<String>) -> Request {
        Request::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>) -> Request {
        Request::new(Method::POST, path)
    }

    pub(super) fn delete(path: impl Into<String>) -> Request {
        Request::new(Method::DELETE, path)
    }

    /// Adds a parameter.
    pub(super) fn query(mut self, name: &str, value: impl AsRef<str>) -> Request {
        self.path.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.path.push_str(name);
        self.path.push('=');
        self.path.extend(utf8_percent_encode(value.as_ref(), KEPT));
        self
    }

    /// Adds a parameter where there is a value.
    pub(super) fn maybe(self, name: &str, value: Option<impl AsRef<str>>) -> Request {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds a parameter that says yes.
    pub(super) fn flag(self, name: &str, yes: bool) -> Request {
        if yes { self.query(name, "1") } else { self }
    }

    /// Adds filters, given as `NAME=VALUE`.
    pub(super) fn filters(self, filters: &[Filter]) -> Request {
        if filters.is_empty() {
            return self;
        }
        let mut map = std::collections::BTreeMap::<&str, Vec<&str>>::new();
        for filter in filters {
            map.entry(&filter.name).or_default().push(&filter.value);
        }
        let text = serde_json::json!(map).to_string();
        self.query("filters", text)
    }

    /// Carries a document.
    pub(super) fn json(mut self, document: &Value) -> Request {
        self.headers.push(("content-type", "application/json".into()));
        self.body = Full::from(document.to_string()).map_err(|never| match never {}).boxed_unsync();
        self
    }

    /// Carries an archive.
    pub(super) fn archive(mut self, body: Body) -> Request {
        self.headers.push(("content-type", "application/x-tar".into()));
        self.body = body;
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: String) -> Request {
        self.headers.push((name, value));
        self
    }
}

/// A name as a part of a path.
pub(super) fn segment(name: &str) -> String {
    utf8_percent_encode(name, KEPT).to_string()
}

/// A `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    name: String,
    value: String,
}

impl Filter {
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = text.split_once('=').ok_or("a filter is NAME=VALUE, such as status=running")?;
        Ok(Filter { name: name.trim().to_lowercase(), value: value.trim().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_encoded() {
        let request = Request::get(format!("/images/{}/json", segment("a/b:1?"))).query("x", "a b&c").flag("no", false);
        assert_eq!(request.path, "/images/a/b%3A1%3F/json?x=a%20b%26c");
    }

    #[test]
    fn filters_of_one_name_add_up() {
        let filters = ["label=a=b", "Label=c", "status=exited"].map(|text| text.parse().expect("a filter"));
        let path = Request::get("/x").flag("all", true).filters(&filters).path;
        let decoded = percent_encoding::percent_decode_str(&path).decode_utf8().expect("UTF-8").into_owned();
        assert_eq!(decoded, r#"/x?all=1&filters={"label":["a=b","c"],"status":["exited"]}"#);
        assert!("label".parse::<Filter>().is_err());
    }
}
