//! Where a partition begins and ends, in sgdisk's notation.

use std::fmt;
use std::str::FromStr;

/// A sector number as `sgdisk --new` takes it: `0`, `+1G`, `-8G`, `1M`, `2048s`.
///
/// Zero means the default, with any sign: the first free sector, or the last one. Units are
/// binary, written `G` or `GiB`; without one (or with disko's `s`) the number counts sectors.
/// Source: sgdisk(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// From where it counts.
    pub anchor: Anchor,
    /// How many units.
    pub count: u64,
    /// The unit in bytes; `None` for sectors.
    pub unit: Option<u64>,
}

/// From where a [`Position`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// From the disk's beginning: no sign.
    Absolute,
    /// From the beginning of the free space or of the partition: `+`.
    Start,
    /// Back from the end of the free space: `-`.
    End,
}

impl Position {
    /// sgdisk's default.
    pub const DEFAULT: Position = Position { anchor: Anchor::Absolute, count: 0, unit: None };

    /// The number of sectors it stands for; `None` if that exceeds 64 bits. A part of a sector
    /// is dropped.
    pub fn sectors(&self, sector_size: u32) -> Option<u64> {
        let sector_size = u64::from(sector_size);
        match self.unit {
            None => Some(self.count),
            Some(unit) if unit >= sector_size => self.count.checked_mul(unit / sector_size),
            Some(unit) => Some(self.count / (sector_size / unit)),
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a position such as `0`, `1M`, `+1G` or `-8G` \
                 (a sign, a whole number, and one of s, K, M, G, T, P, E)"
            )
        };
        let (anchor, rest) = match text.as_bytes().first() {
            Some(b'+') => (Anchor::Start, &text[1..]),
            Some(b'-') => (Anchor::End, &text[1..]),
            _ => (Anchor::Absolute, text),
        };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, suffix) = rest.split_at(digits);
        let count = number.parse().map_err(|_| wrong())?;
        let unit = match suffix.to_ascii_uppercase().as_str() {
            "" | "S" => None,
            suffix => {
                let letter = suffix.trim_end_matches('B').trim_end_matches('I');
                let power = ["K", "M", "G", "T", "P", "E"].iter().position(|u| *u == letter);
                Some(1 << (10 * (power.ok_or_else(wrong)? + 1)))
            }
        };
        Ok(Position { anchor, count, unit })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.anchor {
            Anchor::Absolute => "",
            Anchor::Start => "+",
            Anchor::End => "-",
        };
        let unit = match self.unit {
            None => "",
            Some(unit) => ["K", "M", "G", "T", "P", "E"][(unit.trailing_zeros() / 10 - 1) as usize],
        };
        write!(f, "{sign}{}{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_written() {
        for text in ["0", "-0", "+1G", "-8G", "1M", "+500M", "2048", "+0", "-10M", "4T"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        assert_eq!("34s".parse::<Position>().unwrap().to_string(), "34");
        assert_eq!("+64MiB".parse::<Position>().unwrap().to_string(), "+64M");
        for text in ["", "G", "+", "1.5G", "50%", "1GX", "1B", "--1", "99999999999999999999"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }

    #[test]
    fn sectors_depend_on_their_size() {
        let sectors = |text: &str, size| text.parse::<Position>().unwrap().sectors(size);
        assert_eq!(sectors("+1G", 512), Some(2_097_152));
        assert_eq!(sectors("+1G", 4096), Some(262_144));
        assert_eq!(sectors("+6K", 4096), Some(1));
        assert_eq!(sectors("2048", 4096), Some(2048));
        assert_eq!(sectors("17000000000P", 512), None);
    }
}
