//! The parameter `filters`: `{"label": ["a=b"]}`, or `{"label": {"a=b": true}}` as older clients write it.

use std::collections::{BTreeMap, BTreeSet};

use engine::model::Filters;
use serde::Deserialize;

use crate::error::{ApiError, Result};
use crate::query::Query;

/// Keys and their values.
pub(crate) type FilterMap = BTreeMap<String, BTreeSet<String>>;

/// The values of one key, in either form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(BTreeSet<String>),
}

/// The filters of a request; none where the parameter is missing or empty.
pub(crate) fn from_query(query: &Query) -> Result<Filters> {
    parse(query.text("filters"))
}

/// Reads filters from JSON.
///
/// # Errors
/// As [`parse_map`].
pub(crate) fn parse(text: &str) -> Result<Filters> {
    parse_map(text).map(Filters::new)
}

/// Reads filters from JSON, for those who add some of their own.
///
/// # Errors
/// 400 `invalid filter` for everything that is in neither form, and for a mixture of the two, as dockerd takes none.
pub(crate) fn parse_map(text: &str) -> Result<FilterMap> {
    if text.is_empty() {
        return Ok(FilterMap::new());
    }
    let invalid = |_| ApiError::bad_request("invalid filter");
    let fields: Option<BTreeMap<String, Option<Values>>> = serde_json::from_str(text).map_err(invalid)?;
    let fields = fields.unwrap_or_default();
    let lists = fields.values().filter(|values| matches!(values, Some(Values::List(_)))).count();
    let maps = fields.values().filter(|values| matches!(values, Some(Values::Map(_)))).count();
    if lists > 0 && maps > 0 {
        return Err(ApiError::bad_request("invalid filter"));
    }
    let values = |values| match values {
        None => BTreeSet::new(),
        Some(Values::List(list)) => list,
        Some(Values::Map(map)) => map.into_keys().collect(),
    };
    Ok(fields.into_iter().map(|(key, given)| (key, values(given))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(filters: &Filters, key: &str) -> Vec<String> {
        filters.values(key).map(str::to_owned).collect()
    }

    #[test]
    fn both_forms_are_read() {
        for text in [r#"{"label":["a","b=c"]}"#, r#"{"label":{"a":true,"b=c":true}}"#] {
            assert_eq!(values(&parse(text).expect(text), "label"), ["a", "b=c"]);
        }
    }

    #[test]
    fn nothing_is_no_filter() {
        for text in ["", "{}", "null"] {
            assert!(parse(text).expect(text).is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused_in_dockerds_words() {
        for text in ["x", "[]", "3", r#"{"label":"a"}"#, r#"{"label":[1]}"#, r#"{"a":["b"],"c":{"d":true}}"#] {
            let error = parse(text).expect_err(text);
            assert_eq!((error.status().as_u16(), error.message()), (400, "invalid filter"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = parse(&text);
        }

        #[test]
        fn lists_round_trip(map in prop::collection::btree_map("[a-z!]{1,8}", prop::collection::btree_set(".{0,8}", 0..4), 0..4)) {
            let text = serde_json::to_string(&map).expect("JSON");
            let filters = parse(&text).expect("filters");
            for (key, set) in &map {
                prop_assert_eq!(&values(&filters, key).into_iter().collect::<BTreeSet<_>>(), set);
            }
        }
    }
}
