//! A `serde` deserializer over parsed JSON with Go's leniency.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};

use super::Document;

/// Why a value does not fit, in Go's words.
#[derive(Debug)]
pub(crate) struct Failure(pub(super) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Where in the document a value stands: the innermost struct, and the fields that lead there.
#[derive(Clone, Default)]
pub(super) struct Path {
    within: &'static str,
    fields: String,
}

impl Path {
    /// The whole document.
    pub(super) fn root() -> Self {
        Self::default()
    }

    fn field(&self, within: &'static str, name: &str) -> Self {
        let fields = if self.fields.is_empty() { name.to_owned() } else { format!("{}.{name}", self.fields) };
        Self { within, fields }
    }
}

/// Reads one value.
#[derive(Clone)]
pub(super) struct ValueReader<'v> {
    value: &'v Document,
    /// What stands under the same name before it: what an object does not have, those may.
    under: Vec<&'v Document>,
    path: Path,
}

impl<'v> ValueReader<'v> {
    pub(super) fn new(value: &'v Document, path: &Path) -> Self {
        Self { value, under: Vec::new(), path: path.clone() }
    }

    /// For what Go keeps in place (numbers, texts, structs): null leaves what there is.
    fn in_place(mut self) -> Self {
        while *self.value == Document::Null
            && let Some(before) = self.under.pop()
        {
            self.value = before;
        }
        self
    }

    /// For what is nil in Go where there is none (pointers, which `Option`s stand for, slices and maps): null takes away what
    /// there is.
    fn nilable(mut self) -> Self {
        let last = self.under.iter().rposition(|under| **under == Document::Null);
        self.under.drain(..last.map_or(0, |last| last + 1));
        if *self.value == Document::Null {
            self.under.clear();
        }
        self
    }

    fn mismatch(&self, go_type: &str) -> Failure {
        let kind = match self.value {
            Document::Null => "null".to_owned(),
            Document::Bool(_) => "bool".to_owned(),
            Document::Number(number) if go_type.contains("int") || go_type.contains("float") => {
                format!("number {number}")
            }
            Document::Number(_) => "number".to_owned(),
            Document::Text(_) => "string".to_owned(),
            Document::List(_) => "array".to_owned(),
            Document::Object(_) => "object".to_owned(),
        };
        match self.path.within {
            "" => Failure(format!("json: cannot unmarshal {kind} into Go value of type {go_type}")),
            within => Failure(format!(
                "json: cannot unmarshal {kind} into Go struct field {within}.{} of type {go_type}",
                self.path.fields
            )),
        }
    }

    fn entries(&self, go_type: &str) -> Result<Vec<&'v (String, Document)>, Failure> {
        match self.value {
            Document::Object(last) => {
                let before = self.under.iter().filter_map(|under| match under {
                    Document::Object(entries) => Some(entries),
                    _ => None,
                });
                Ok(before.chain([last]).flatten().collect())
            }
            Document::Null => Ok(Vec::new()),
            _ => Err(self.mismatch(go_type)),
        }
    }
}

impl<'v> IntoDeserializer<'v, Failure> for ValueReader<'v> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Whole numbers: Go takes no fraction, no exponent and nothing out of range.
macro_rules! integers {
    ($($method:ident $visit:ident $type:ty, $go:literal;)*) => {
        $(fn $method<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
            let reader = self.in_place();
            let number = match reader.value {
                Document::Null => Some(0),
                Document::Number(number) => number
                    .as_i64()
                    .and_then(|n| <$type>::try_from(n).ok())
                    .or_else(|| number.as_u64().and_then(|n| <$type>::try_from(n).ok())),
                _ => None,
            };
            visitor.$visit(number.ok_or_else(|| reader.mismatch($go))?)
        })*
    };
}

impl<'v> Deserializer<'v> for ValueReader<'v> {
    type Error = Failure;

    integers! {
        deserialize_i8 visit_i8 i8, "int8";
        deserialize_i16 visit_i16 i16, "int16";
        deserialize_i32 visit_i32 i32, "int";
        deserialize_i64 visit_i64 i64, "int64";
        deserialize_u8 visit_u8 u8, "uint8";
        deserialize_u16 visit_u16 u16, "uint16";
        deserialize_u32 visit_u32 u32, "uint";
        deserialize_u64 visit_u64 u64, "uint64";
    }

    fn deserialize_any<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let read = match self.value {
            Document::Null => visitor.visit_unit(),
            Document::Bool(yes) => visitor.visit_bool(*yes),
            Document::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                (None, None) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            },
            Document::Text(text) => visitor.visit_borrowed_str(text),
            Document::List(_) => self.clone().deserialize_seq(visitor),
            Document::Object(_) => self.clone().deserialize_map(visitor),
        };
        read.map_err(|failure: Failure| match failure.0.starts_with("invalid type") {
            // What may be one of several types, Go tries as the simplest one last.
            true => self.mismatch("string"),
            false => failure,
        })
    }

    fn deserialize_bool<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let reader = self.in_place();
        match reader.value {
            Document::Null => visitor.visit_bool(false),
            Document::Bool(yes) => visitor.visit_bool(*yes),
            _ => Err(reader.mismatch("bool")),
        }
    }

    fn deserialize_f64<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let reader = self.in_place();
        match reader.value {
            Document::Null => visitor.visit_f64(0.0),
            Document::Number(number) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            _ => Err(reader.mismatch("float64")),
        }
    }

    fn deserialize_f32<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let reader = self.in_place();
        match reader.value {
            Document::Null => visitor.visit_str(""),
            Document::Text(text) => visitor.visit_borrowed_str(text),
            _ => Err(reader.mismatch("string")),
        }
    }

    fn deserialize_string<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let reader = self.nilable();
        match reader.value {
            Document::Null => visitor.visit_none(),
            _ => visitor.visit_some(reader),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'v>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let items = match self.value {
            Document::Null => &[][..],
            Document::List(items) => items.as_slice(),
            _ => return Err(self.mismatch("[]string")),
        };
        visitor.visit_seq(SeqDeserializer::new(items.iter().map(|item| Self::new(item, &self.path))))
    }

    fn deserialize_tuple<V: Visitor<'v>>(self, _: usize, visitor: V) -> Result<V::Value, Failure> {
        self.in_place().deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'v>>(self, visitor: V) -> Result<V::Value, Failure> {
        let reader = self.nilable();
        let entries = reader.entries("map[string]string")?.into_iter();
        let entries = entries.map(|(key, value)| (key.as_str(), Self::new(value, &reader.path)));
        visitor.visit_map(MapDeserializer::new(entries))
    }

    fn deserialize_struct<V: Visitor<'v>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let reader = self.in_place();
        let entries = reader.entries(name)?;
        visitor.visit_map(Fields { reader, name, entries, fields: fields.iter(), next: None })
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'v>>
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct enum identifier ignored_any
    }
}

/// The fields of a struct that the document has, each at most once, in the struct's own order.
struct Fields<'v> {
    reader: ValueReader<'v>,
    name: &'static str,
    entries: Vec<&'v (String, Document)>,
    fields: std::slice::Iter<'static, &'static str>,
    next: Option<(&'static str, Vec<&'v Document>)>,
}

impl<'v> Fields<'v> {
    /// All that the document has for a field, in the order in which it is there; nothing where that is null alone, which
    /// leaves every field as it is without it.
    fn values(&self, field: &str) -> Vec<&'v Document> {
        let matching = self.entries.iter().filter(|(key, _)| is_name(key, field));
        let values: Vec<_> = matching.map(|(_, value)| value).collect();
        if values.iter().all(|value| **value == Document::Null) { Vec::new() } else { values }
    }
}

/// Whether Go takes `key` for the name of a field: by the simple folding of Unicode, which has two more letters for those
/// of ASCII.
fn is_name(key: &str, field: &str) -> bool {
    let folded = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(folded).eq(field.chars().map(folded))
}

impl<'v> de::MapAccess<'v> for Fields<'v> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'v>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        while let Some(field) = self.fields.next() {
            let values = self.values(field);
            if !values.is_empty() {
                self.next = Some((field, values));
                return seed.deserialize(StrDeserializer::<Failure>::new(field)).map(Some);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'v>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let without_key = || Failure("a value without its key".to_owned());
        let (field, mut under) = self.next.take().ok_or_else(without_key)?;
        let value = under.pop().ok_or_else(without_key)?;
        let path = self.reader.path.field(self.name, field);
        seed.deserialize(ValueReader { value, under, path })
    }
}
