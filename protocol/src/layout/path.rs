//! Places in the document, written as Nix writes attribute paths.

/// The place of `name` below `parent`.
pub(super) fn child(parent: &str, name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_'-".contains(c));
    let name = if plain { name.to_owned() } else { format!("{name:?}") };
    if parent.is_empty() { name } else { format!("{parent}.{name}") }
}

/// The place of an element of a list.
pub(super) fn element(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nix_would_quote_are_quoted() {
        assert_eq!(child("", "disk"), "disk");
        assert_eq!(
            child("zpool.rpool.datasets", "crypt/system"),
            "zpool.rpool.datasets.\"crypt/system\""
        );
        assert_eq!(
            element("disk.a.content.partitions.b.attributes", 2),
            "disk.a.content.partitions.b.attributes[2]"
        );
    }
}
