//! Where a partition begins and ends, in parted's notation.

use std::str::FromStr;

/// A place as `parted mkpart` takes it: `1MiB`, `512M`, `2048s`, `50%`, `-1GiB`.
///
/// `s` counts sectors, `%` hundredths of the disk, units with `i` are binary, others decimal; a
/// number without a unit counts megabytes; a minus counts back from the disk's end. Source:
/// parted's manual, "unit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Whether it counts back from the disk's end.
    pub from_end: bool,
    /// How many units, in thousandths: parted takes fractions.
    pub thousandths: u64,
    /// The unit.
    pub unit: Unit,
}

/// The unit of a [`Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Logical sectors.
    Sectors,
    /// Hundredths of the disk.
    Percent,
    /// A number of bytes; whether parted takes it exactly (binary units) or somewhere near.
    Bytes {
        /// How many.
        bytes: u64,
        /// Whether it is exact.
        exact: bool,
    },
}

impl Limit {
    /// The byte of a disk of `size` bytes, and whether exactly that is meant.
    pub fn byte(&self, size: u64, sector_size: u32) -> Option<(u64, bool)> {
        let scale =
            |unit: u64| u64::try_from(u128::from(self.thousandths) * u128::from(unit) / 1000).ok();
        let (byte, exact) = match self.unit {
            Unit::Sectors => (scale(u64::from(sector_size))?, true),
            Unit::Percent => {
                let part = u128::from(self.thousandths) * u128::from(size) / 100_000;
                (u64::try_from(part).ok()?, false)
            }
            Unit::Bytes { bytes, exact } => (scale(bytes)?, exact),
        };
        let byte = if self.from_end { size.checked_sub(byte)? } else { byte };
        Some((byte, exact))
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is not a place such as `1MiB`, `512M`, `2048s`, `50%` or `-1GiB`");
        let (from_end, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let digits = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, suffix) = rest.split_at(digits);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || part.len() > 3 || part.contains('.') {
            return Err(wrong());
        }
        let thousandths = format!("{whole}{part:0<3}").parse().map_err(|_| wrong())?;
        let unit = match suffix.to_ascii_lowercase().as_str() {
            "s" => Unit::Sectors,
            "%" => Unit::Percent,
            "b" => Unit::Bytes { bytes: 1, exact: true },
            "" => Unit::Bytes { bytes: 1_000_000, exact: false },
            suffix => {
                let (letter, exact) = match suffix.as_bytes() {
                    [letter] | [letter, b'b'] => (*letter, false),
                    [letter, b'i', b'b'] => (*letter, true),
                    _ => return Err(wrong()),
                };
                let power = b"kmgtp".iter().position(|known| *known == letter).ok_or_else(wrong)?;
                let base: u64 = if exact { 1024 } else { 1000 };
                Unit::Bytes { bytes: base.pow(power as u32 + 1), exact }
            }
        };
        Ok(Limit { from_end, thousandths, unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let byte = |text: &str| text.parse::<Limit>().unwrap().byte(1 << 30, 512);
        assert_eq!(byte("1MiB"), Some((1 << 20, true)));
        assert_eq!(byte("1.5MiB"), Some((3 << 19, true)));
        assert_eq!(byte("512M"), Some((512_000_000, false)));
        assert_eq!(byte("512MB"), Some((512_000_000, false)));
        assert_eq!(byte("100"), Some((100_000_000, false)));
        assert_eq!(byte("2048s"), Some((1 << 20, true)));
        assert_eq!(byte("50%"), Some((1 << 29, false)));
        assert_eq!(byte("100%"), Some((1 << 30, false)));
        assert_eq!(byte("-1MiB"), Some(((1 << 30) - (1 << 20), true)));
        assert_eq!(byte("-2GiB"), None);
        for wrong in ["", "-", "MiB", "1.2345M", "1..2M", "1XiB", "1 MiB", "+1MiB", "1bb"] {
            assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
        }
    }
}
