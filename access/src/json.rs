//! JSON read strictly: a name that stands twice in an object is refused, and an integer is never a float.
//!
//! RFC 8259, 4 leaves it to the reader which of two equal names counts; readers that differ are how one token becomes
//! two. `serde_json` bounds the depth at 128.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// An object's names and values.
pub(crate) type Object = BTreeMap<String, Json>;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    /// `null`, `true`, `false`.
    Other,
    /// An integer from 0 to 2^64 - 1, written as one.
    Unsigned(u64),
    /// An integer below 0.
    Negative,
    /// A number with a point or an exponent, or beyond 64 bits.
    Float,
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(Object),
}

/// Reads an object; none if it is no JSON object from the first byte to the last, or has a name twice at any depth.
pub(crate) fn object(bytes: &[u8]) -> Option<Object> {
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(object)) => Some(object),
        _ => None,
    }
}

impl Json {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Unsigned(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Json, E> {
        Ok(u64::try_from(number).map_or(Json::Negative, Json::Unsigned))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Float)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Object::new();
        while let Some((name, value)) = entries.next_entry::<String, Json>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<Json> {
        object(format!("{{\"v\":{text}}}").as_bytes()).and_then(|mut object| object.remove("v"))
    }

    #[test]
    fn only_what_is_written_as_an_integer_is_one() {
        assert_eq!(value("18446744073709551615"), Some(Json::Unsigned(u64::MAX)));
        assert_eq!(value("0"), Some(Json::Unsigned(0)));
        for text in ["1.0", "1e3", "-0", "18446744073709551616", "-1.5", "1E0"] {
            assert_eq!(value(text), Some(Json::Float), "{text}");
        }
        assert_eq!(value("-1"), Some(Json::Negative));
        assert_eq!(value("\"1\""), Some(Json::Text("1".into())));
        for text in ["null", "true", "false"] {
            assert_eq!(value(text), Some(Json::Other), "{text}");
        }
        for text in ["01", "+1", "1.", "NaN", "1e999", "'1'", ""] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_at_any_depth() {
        assert!(object(br#"{"a":1,"b":{"a":2}}"#).is_some());
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":{"a":1,"a":2}}"#, r#"{"b":[{"a":1,"a":2}]}"#, r#"{"a":1,"\u0061":2}"#]
        {
            assert!(object(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn only_one_whole_object_is_taken() {
        for text in ["", "[]", "1", "{} {}", "{}x", "{\"a\":1,}", "{\"a\":\"\u{0}\"}", "\u{feff}{}"] {
            assert!(object(text.as_bytes()).is_none(), "{text}");
        }
        assert!(object(b" {} ").is_some() && object(b"{\"a\":\"\xff\"}").is_none());
        assert!(object(format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200)).as_bytes()).is_none());
    }
}
