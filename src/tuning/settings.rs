//! What an administrator requests for the sockets of a network.

use crate::scalar;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use std::fmt;
use std::ops::RangeInclusive;

/// Sizes of a buffer that can be requested, in bytes: from less than the kernel's default up to more
/// than any path needs: 10 Gbit/s over 200 ms.
pub const BUFFER_SIZES: RangeInclusive<u32> = (64 << 10)..=(256 << 20);

/// How TCP reacts to loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// The system's, and BBR where loss slows it down.
    #[default]
    Auto,
    /// The system's, in every case.
    System,
    /// BBR, in every case.
    Bbr,
    /// CUBIC, in every case.
    Cubic,
}

impl Congestion {
    const ALL: [Self; 4] = [Self::Auto, Self::System, Self::Bbr, Self::Cubic];

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::System => "system",
            Self::Bbr => "bbr",
            Self::Cubic => "cubic",
        }
    }

    /// Reads a value of the configuration. The error is what is wrong with it, as a sentence.
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        all.find(|congestion| congestion.name() == text)
            .ok_or_else(|| {
                format!(
                    "{} is not a congestion control, expected one of: auto, system, bbr, cubic",
                    scalar::shown(text)
                )
            })
    }
}

/// The size of send and receive buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Buffer {
    /// The kernel's, and larger where the path needs it.
    #[default]
    Auto,
    /// The kernel's, in every case.
    System,
    /// This number of bytes, one of [`BUFFER_SIZES`], in every case.
    Bytes(u32),
}

impl Buffer {
    /// Reads a value of the configuration: a word, or a number of bytes, KiB (`K`) or MiB (`M`). The
    /// error is what is wrong with it, as a sentence.
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => return Ok(Self::Auto),
            "system" => return Ok(Self::System),
            _ => {}
        }
        let (digits, unit) = match text.as_bytes().last() {
            Some(b'K') => (&text[..text.len() - 1], 1 << 10),
            Some(b'M') => (&text[..text.len() - 1], 1 << 20),
            _ => (text, 1),
        };
        scalar::decimal_text(digits)
            .and_then(|number| number.checked_mul(unit))
            .and_then(Self::of_bytes)
            .ok_or_else(|| {
                format!(
                    "{} is not a buffer size, expected one of: auto, system, a number of bytes from 64K to 256M",
                    scalar::shown(text)
                )
            })
    }

    fn of_bytes(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        BUFFER_SIZES.contains(&bytes).then_some(Self::Bytes(bytes))
    }
}

/// The form of the configuration, with the largest unit that divides the size.
impl fmt::Display for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::System => f.write_str("system"),
            Self::Bytes(bytes) if bytes % (1 << 20) == 0 => write!(f, "{}M", bytes >> 20),
            Self::Bytes(bytes) if bytes % (1 << 10) == 0 => write!(f, "{}K", bytes >> 10),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

/// `"auto"`, `"system"`, or a number of bytes.
impl Serialize for Buffer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::System => serializer.serialize_str("system"),
            Self::Bytes(bytes) => serializer.serialize_u32(*bytes),
        }
    }
}

/// A number may also be a string of digits, as Perl may send it.
impl<'de> Deserialize<'de> for Buffer {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(source)?;
        match value.as_str() {
            Some("auto") => return Ok(Self::Auto),
            Some("system") => return Ok(Self::System),
            _ => {}
        }
        let size = scalar::decimal(&value).and_then(Self::of_bytes);
        size.ok_or_else(|| {
            de::Error::custom(format_args!(
                "a buffer is \"auto\", \"system\" or a number of bytes from {} to {}",
                BUFFER_SIZES.start(),
                BUFFER_SIZES.end()
            ))
        })
    }
}

/// What is requested for the sockets of one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How TCP reacts to loss.
    pub congestion: Congestion,
    /// The size of the buffers.
    pub buffer: Buffer,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_the_configuration_are_read_strictly() {
        for (text, expected) in [
            ("auto", Buffer::Auto),
            ("system", Buffer::System),
            ("65536", Buffer::Bytes(65_536)),
            ("64K", Buffer::Bytes(65_536)),
            ("32M", Buffer::Bytes(32 << 20)),
            ("256M", Buffer::Bytes(256 << 20)),
        ] {
            assert_eq!(Buffer::from_text(text), Ok(expected), "{text}");
            let shown = expected.to_string();
            assert_eq!(Buffer::from_text(&shown), Ok(expected), "{shown}");
        }
        for (bytes, shown) in [
            (1 << 20, "1M"),
            (96 << 10, "96K"),
            ((64 << 10) + 1, "65537"),
        ] {
            assert_eq!(Buffer::Bytes(bytes).to_string(), shown);
        }
        for text in [
            "",
            "Auto",
            "0",
            "65535",
            "63K",
            "257M",
            "1G",
            "M",
            "-1",
            "1.5M",
            "32 M",
            "32m",
            "32MB",
            "18446744073709551615M",
            "4294967296",
        ] {
            let error = Buffer::from_text(text).unwrap_err();
            assert!(
                error.contains("expected one of: auto, system, a number"),
                "{error}"
            );
        }
        for congestion in Congestion::ALL {
            assert_eq!(Congestion::from_text(congestion.name()), Ok(congestion));
        }
        let error = Congestion::from_text("BBR").unwrap_err();
        assert_eq!(
            error,
            "'BBR' is not a congestion control, expected one of: auto, system, bbr, cubic"
        );
    }

    #[test]
    fn a_buffer_is_a_word_or_a_number_in_json() {
        for (buffer, expected) in [
            (Buffer::Auto, json!("auto")),
            (Buffer::System, json!("system")),
            (Buffer::Bytes(1 << 20), json!(1_048_576)),
        ] {
            assert_eq!(serde_json::to_value(buffer).unwrap(), expected);
            assert_eq!(serde_json::from_value::<Buffer>(expected).unwrap(), buffer);
        }
        assert_eq!(
            serde_json::from_value::<Buffer>(json!("1048576")).unwrap(),
            Buffer::Bytes(1 << 20)
        );
        for malformed in [
            json!(null),
            json!(65_535),
            json!("1M"),
            json!(1.5),
            json!([]),
            json!(-1),
        ] {
            assert!(
                serde_json::from_value::<Buffer>(malformed.clone()).is_err(),
                "{malformed}"
            );
        }
    }
}
