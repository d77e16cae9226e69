use std::collections::BTreeMap;

use http::HeaderValue;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    memory: i64,
    init: Option<bool>,
    binds: Vec<String>,
    tmpfs: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "PascalCase")]
struct CreateRequest {
    image: String,
    tty: bool,
    host_config: HostConfig,
}

fn read(text: &str) -> Result<CreateRequest> {
    document(text.as_bytes())
}

fn refusal(text: &str) -> String {
    read(text).expect_err(text).message().to_owned()
}

#[test]
fn names_match_in_any_case_and_unknown_ones_are_passed_over() {
    let request =
        read(r#"{"IMAGE":"alpine","tTy":true,"Nonsense":{"a":[1]},"HostConfig":{"memory":7}}"#).expect("read");
    assert_eq!((request.image.as_str(), request.tty, request.host_config.memory), ("alpine", true, 7));
}

#[test]
fn null_leaves_the_default() {
    let nulls = r#"{"Image":null,"Tty":null,"HostConfig":{"Memory":null,"Init":null,"Binds":null,"Tmpfs":null}}"#;
    assert_eq!(read(nulls).expect("read"), CreateRequest::default());
    assert_eq!(read(r#"{"HostConfig":null}"#).expect("read"), CreateRequest::default());
    assert_eq!(read("null").expect("read"), CreateRequest::default());
}

#[test]
fn the_last_of_several_wins() {
    for text in [
        r#"{"Image":"a","Image":"b"}"#,
        r#"{"Image":"a","image":"b"}"#,
        r#"{"image":"a","Image":"b"}"#,
        r#"{"IMAGE":"a","iMage":"b","imaGe":null}"#,
    ] {
        assert_eq!(read(text).expect("read").image, "b", "{text}");
    }
}

/// As Go reads into what it has read already.
#[test]
fn objects_are_read_one_over_the_other_and_lists_are_not() {
    let config = read(
        r#"{"HostConfig":{"Memory":1,"Binds":["a","b"],"Tmpfs":{"/a":"x","/A":"y"}},
            "hostconfig":{"memory":2,"Tmpfs":{"/b":"z"}},"hostConfig":{"Init":true,"binds":["c"]},"HostConfig":null}"#,
    );
    let tmpfs = [("/A", "y"), ("/a", "x"), ("/b", "z")].map(|(path, options)| (path.to_owned(), options.to_owned()));
    let merged =
        HostConfig { memory: 2, init: Some(true), binds: vec!["c".to_owned()], tmpfs: tmpfs.into_iter().collect() };
    assert_eq!(config.expect("read").host_config, merged);
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "PascalCase")]
struct Nilable {
    memory: i64,
    name: String,
    size: [u32; 2],
    restart: HostConfig,
    host_config: Option<HostConfig>,
    init: Option<bool>,
    binds: Vec<String>,
    tmpfs: BTreeMap<String, String>,
}

/// As Go has nil for pointers, slices and maps, and for nothing else.
#[test]
fn null_takes_away_what_can_be_nil_and_leaves_the_rest() {
    let read = |text: &str| document::<Nilable>(text.as_bytes()).expect(text);
    let host = |memory, init| HostConfig { memory, init, ..HostConfig::default() };
    for (text, expected) in [
        (r#"{"HostConfig":{"Memory":1},"HostConfig":null}"#, Nilable::default()),
        (r#"{"Init":true,"Binds":["a"],"Tmpfs":{"/a":"x"},"init":null,"binds":null,"tmpfs":null}"#, Nilable::default()),
        (
            r#"{"HostConfig":{"Memory":1},"HostConfig":null,"HostConfig":{"Init":true}}"#,
            Nilable { host_config: Some(host(0, Some(true))), ..Nilable::default() },
        ),
        (
            r#"{"Restart":{"Memory":1},"Restart":null,"Restart":{"Init":true},"Restart":null}"#,
            Nilable { restart: host(1, Some(true)), ..Nilable::default() },
        ),
        (
            r#"{"Tmpfs":{"/a":"x"},"Tmpfs":null,"Tmpfs":{"/b":"y"}}"#,
            Nilable { tmpfs: BTreeMap::from([("/b".to_owned(), "y".to_owned())]), ..Nilable::default() },
        ),
        (
            r#"{"Memory":1,"Name":"a","Size":[1,2],"Memory":null,"Name":null,"Size":null}"#,
            Nilable { memory: 1, name: "a".to_owned(), size: [1, 2], ..Nilable::default() },
        ),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn letters_that_fold_to_those_of_ascii_are_theirs() {
    let request = read("{\"HO\u{17f}TCONFIG\":{\"Bind\u{17f}\":[\"a\"]},\"I\u{307}mage\":\"no\"}").expect("read");
    assert_eq!((request.host_config.binds.len(), request.image.as_str()), (1, ""));
}

#[test]
fn wrong_types_fail_in_gos_words() {
    for (text, message) in [
        (
            r#"{"Image":3}"#,
            "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.Image of type string",
        ),
        (
            r#"{"HostConfig":{"Memory":"1g"}}"#,
            "invalid JSON: json: cannot unmarshal string into Go struct field HostConfig.HostConfig.Memory of type int64",
        ),
        (
            r#"{"HostConfig":{"Memory":1.5}}"#,
            "invalid JSON: json: cannot unmarshal number 1.5 into Go struct field HostConfig.HostConfig.Memory of type int64",
        ),
        ("[]", "invalid JSON: json: cannot unmarshal array into Go value of type CreateRequest"),
    ] {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn broken_json_fails_in_gos_words() {
    for (text, message) in [
        ("", "invalid JSON: got EOF while reading request body"),
        ("{", "invalid JSON: unexpected EOF"),
        ("{\"Image\":\"x\"", "invalid JSON: unexpected EOF"),
        ("nonsense", "invalid JSON: invalid character 'o' in literal null (expecting 'u')"),
        ("{Image:1}", "invalid JSON: invalid character 'I' looking for beginning of object key string"),
        ("{\"Image\" 1}", "invalid JSON: invalid character '1' after object key"),
        ("x", "invalid JSON: invalid character 'x' looking for beginning of value"),
        ("{} {}", "unexpected content after JSON"),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
}

#[test]
fn the_content_type_must_be_json_where_there_is_a_body() {
    let with = |value: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
    assert!(check_content_type(&HeaderMap::new(), true).is_ok());
    assert!(check_content_type(&with("application/json; charset=utf-8"), false).is_ok());
    let refusal = |headers: &HeaderMap| check_content_type(headers, false).expect_err("refused").message().to_owned();
    assert_eq!(
        refusal(&with("text/plain")),
        "unsupported Content-Type header (text/plain): must be 'application/json'"
    );
    assert_eq!(refusal(&HeaderMap::new()), "malformed Content-Type header (): mime: no media type");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}:,\"a-zA-Z0-9. ]{0,40}|.*") {
        let _ = read(&text);
    }
}
