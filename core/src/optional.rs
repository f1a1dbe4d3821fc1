//! Optional times and table indices without a byte for the tag, for records that a run keeps by the million.

use crate::time::Time;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::num::{NonZeroU16, NonZeroU64};

/// Defines `$name`, an `Option<$inner>` in the size of `$inner`: it stores `value + 1` and 0 for none.
macro_rules! optional {
    ($(#[$doc:meta])* $name:ident($nonzero:ty) of $inner:ty: $number:ty, $into:expr, $from:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(Option<$nonzero>);

        impl $name {
            /// No value.
            pub const NONE: Self = Self(None);

            /// The value, if there is one.
            pub fn get(self) -> Option<$inner> {
                self.0.map(|stored| $from(stored.get() - 1))
            }

            /// Whether there is a value.
            pub fn is_some(self) -> bool {
                self.0.is_some()
            }

            /// Whether there is no value.
            pub fn is_none(self) -> bool {
                self.0.is_none()
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                let number: $number = $into(value);
                Self(<$nonzero>::new(number.saturating_add(1)))
            }
        }

        impl From<Option<$inner>> for $name {
            fn from(value: Option<$inner>) -> Self {
                value.map_or(Self::NONE, Self::from)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.get().fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.get().serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Option::<$inner>::deserialize(deserializer).map(Self::from)
            }
        }
    };
}

optional! {
    /// A [`Time`] or none, in eight bytes; the last representable nanosecond becomes the one before it. Serializes like
    /// `Option<Time>`.
    MaybeTime(NonZeroU64) of Time: u64, |time: Time| time.0, Time
}

optional! {
    /// An index into a table of at most 65,535 names, or none, in two bytes. Serializes like `Option<u16>`.
    MaybeIndex(NonZeroU16) of u16: u16, std::convert::identity, std::convert::identity
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_value_takes_no_more_room_and_reads_back() {
        assert_eq!((size_of::<MaybeTime>(), size_of::<MaybeIndex>()), (8, 2));
        for ns in [0, 1, u64::MAX - 1] {
            assert_eq!(MaybeTime::from(Time(ns)).get(), Some(Time(ns)));
        }
        assert_eq!(MaybeTime::from(Time(u64::MAX)).get(), Some(Time(u64::MAX - 1)));
        assert_eq!(MaybeIndex::from(0).get(), Some(0));
        assert_eq!((MaybeTime::NONE.get(), MaybeIndex::from(None).get()), (None, None));
        assert!(MaybeTime::default().is_none() && MaybeIndex::from(7).is_some());
    }

    #[test]
    fn it_serializes_like_an_option() {
        let both = (MaybeTime::from(Time(5)), MaybeIndex::NONE);
        let text = serde_json::to_string(&both).unwrap();
        assert_eq!(text, "[5,null]");
        assert_eq!(serde_json::from_str::<(MaybeTime, MaybeIndex)>(&text).unwrap(), both);
        assert_eq!(format!("{both:?}"), "(Some(Time(5)), None)");
    }
}
