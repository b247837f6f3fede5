//! What a script says of a machine: `key=value`, a line each.

/// The pairs, with values fit for a terminal; other lines are passed over.
pub(crate) fn pairs(text: &str) -> impl Iterator<Item = (&str, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key, crate::conversation::log::clean(value.as_bytes())))
}

/// A number of KiB, in bytes; `None` if it is none.
pub(crate) fn kib(value: &str) -> Option<u64> {
    value.parse::<u64>().ok()?.checked_mul(1024)
}
