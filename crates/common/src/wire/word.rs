//! Enums whose JSON is a word that people write: `"skip"`. The name of the contract is read too.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::pb::{catch_up::Mode, schedule::Overlap};

macro_rules! words {
    ($kind:ty: $($value:path => $word:literal),* $(,)?) => {
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match self { $($value => $word),* })
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                let known: &[&str] = &[$($word),*];
                match word.as_str() {
                    $($word => Ok($value),)*
                    other => <$kind>::from_str_name(other).ok_or_else(|| {
                        let known = known.iter().filter(|word| !word.is_empty());
                        let known = known.copied().collect::<Vec<_>>().join(", ");
                        de::Error::custom(format_args!("{other:?} is none of {known}"))
                    }),
                }
            }
        }
    };
}

words!(Overlap:
    Overlap::Unspecified => "",
    Overlap::Skip => "skip",
    Overlap::Queue => "queue",
    Overlap::CancelOlder => "cancel_older",
    Overlap::Allow => "allow",
);
words!(Mode:
    Mode::Unspecified => "",
    Mode::None => "none",
    Mode::Last => "last",
    Mode::All => "all",
);
