//! The keys that a struct reads, from its derived `Deserialize`, so that they are not listed a second time.

use serde::de::{Deserialize, Deserializer, Error, Visitor, value};
use serde::forward_to_deserialize_any;

/// The names of the fields of `T`; none if `T` is not a struct.
pub fn field_names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Fails by design: a struct passes its field names on before it asks for values.
    let _ = T::deserialize(Recorder { names: &mut names });
    names
}

struct Recorder<'a> {
    names: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Recorder<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        *self.names = fields;
        Err(Error::custom("the names are recorded"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_structs_keys_are_recorded_under_the_names_it_reads() {
        #[derive(serde::Deserialize)]
        struct Settings {
            #[serde(rename = "rate_s")]
            _rate: f64,
            #[serde(default)]
            _name: String,
        }
        assert_eq!(field_names::<Settings>(), ["rate_s", "_name"]);
        assert_eq!(field_names::<String>(), [""; 0]);
    }
}
