//! Arguments as disko gives them to programs: joined and split again by the shell.

use super::error::LayoutError;
use super::read::Object;

/// The arguments in `name`, each split at white space, as disko's `toString` and then the shell
/// do. Text that the shell would change further is refused: no shell is run here.
pub(super) fn split(
    object: &mut Object<'_>,
    name: &'static str,
) -> Result<Vec<String>, LayoutError> {
    let path = object.path_of(name);
    let mut words = Vec::new();
    for argument in object.strings(name)? {
        if let Some(found) = argument.chars().find(|c| "\"'\\$`|&;<>()*?[]{}~#!".contains(*c)) {
            return Err(LayoutError::not_supported(
                path,
                format!("the character {found:?}, which a shell would interpret, in arguments is"),
            ));
        }
        words.extend(argument.split_whitespace().map(str::to_owned));
    }
    Ok(words)
}

/// Refuses words that name a device: the program would write to one that the plan does not show.
pub(super) fn no_devices(
    path: impl FnOnce() -> String,
    words: &[String],
) -> Result<(), LayoutError> {
    let names_device = |word: &&String| word.contains("dev/") || word.contains("device=");
    match words.iter().find(names_device) {
        None => Ok(()),
        Some(word) => Err(LayoutError::invalid(
            path(),
            format!(
                "`{word}` names a further device, which would be written to without being in the \
                 plan; leave it out, and add that device by its own command once the system runs"
            ),
        )),
    }
}

/// A size with a binary unit, in bytes: `20M`, `4096`, `1GiB`.
pub(super) fn size(text: &str) -> Option<u64> {
    size_in(text, 1)
}

/// As [`size`], a number without a unit being of `plain` bytes.
pub(super) fn size_in(text: &str, plain: u64) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or(unit.strip_suffix('B')).unwrap_or(&unit);
    let scale = match ["", "K", "M", "G", "T", "P", "E"].iter().position(|known| *known == unit)? {
        0 if text.len() == digits => plain,
        power => 1u64.checked_shl(10 * power as u32)?,
    };
    number.parse::<u64>().ok()?.checked_mul(scale).filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("100M"), Some(104_857_600));
        assert_eq!(size("1GiB"), Some(1 << 30));
        assert_eq!(size("4096"), Some(4096));
        assert_eq!(size_in("10", 1 << 20), Some(10 << 20));
        assert_eq!(size_in("10k", 1 << 20), Some(10 << 10));
        for wrong in ["", "M", "0", "1.5G", "1X", "99999999999P", "-1M"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
