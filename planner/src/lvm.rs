//! Names of LVM's volumes in the device mapper.
//!
//! Dashes in both names are doubled, one joins group and volume. Source: lvm2,
//! `lib/misc/lvm-string.c`, `build_dm_name`.

/// How the UUIDs of LVM's mappers begin. Source: lvm2, `lib/activate/dev_manager.c`,
/// `UUID_PREFIX`.
pub const UUID_PREFIX: &str = "LVM-";

/// The device-mapper name of a volume.
pub fn mapper_name(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}

/// The volume group of a mapper with that name and UUID, if it is LVM's.
pub fn group_of(name: &str, uuid: &str) -> Option<String> {
    if !uuid.starts_with(UUID_PREFIX) {
        return None;
    }
    let mut at = 0;
    while let Some(dash) = name[at..].find('-').map(|found| at + found) {
        // In `a--b-c` only the single dash ends the group's name.
        if !name[dash + 1..].starts_with('-') {
            return Some(name[..dash].replace("--", "-"));
        }
        at = dash + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_what_was_named() {
        for (group, volume) in [("pool", "root"), ("pool-2", "a-b"), ("a", "b")] {
            let name = mapper_name(group, volume);
            assert_eq!(group_of(&name, "LVM-x").as_deref(), Some(group), "{name}");
        }
        assert_eq!(group_of("pool-root", "CRYPT-LUKS2-x"), None);
        assert_eq!(group_of("pool--root", "LVM-x"), None);
    }
}
