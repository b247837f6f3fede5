//! Which features a new pool gets. Pure: the planner calls it.
//!
//! A pool with an active feature that the installed system's ZFS does not know can't be imported
//! by it, and installers are often newer than what they install. So a new pool gets the features
//! that both know: the running module, by its own account, and the OpenZFS in the closure, by
//! its version.
//!
//! Source of the table: OpenZFS, `cmd/zpool/compatibility.d/openzfs-2.*`, the files for Linux.

use thiserror::Error;

/// Features of the first version in [`ADDED`], by their short names.
const SINCE_2_0: &[&str] = &[
    "allocation_classes",
    "async_destroy",
    "bookmark_v2",
    "bookmark_written",
    "bookmarks",
    "device_rebuild",
    "device_removal",
    "edonr",
    "embedded_data",
    "empty_bpobj",
    "enabled_txg",
    "encryption",
    "extensible_dataset",
    "filesystem_limits",
    "hole_birth",
    "large_blocks",
    "large_dnode",
    "livelist",
    "log_spacemap",
    "lz4_compress",
    "multi_vdev_crash_dump",
    "obsolete_counts",
    "project_quota",
    "redacted_datasets",
    "redaction_bookmarks",
    "resilver_defer",
    "sha512",
    "skein",
    "spacemap_histogram",
    "spacemap_v2",
    "userobj_accounting",
    "zpool_checkpoint",
    "zstd_compress",
];

/// Versions, oldest first, and the features each added.
const ADDED: &[((u32, u32), &[&str])] = &[
    ((2, 0), SINCE_2_0),
    ((2, 1), &["draid"]),
    ((2, 2), &["blake3", "block_cloning", "head_errlog", "vdev_zaps_v2", "zilsaxattr"]),
    (
        (2, 3),
        &["fast_dedup", "large_microzap", "longname", "raidz_expansion", "redaction_list_spill"],
    ),
    ((2, 4), &["block_cloning_endian", "dynamic_gang_header", "physical_rewrite"]),
];

/// The features of a new pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Features to enable, by their short names, sorted.
    pub enabled: Vec<String>,
    /// Features of the module that stay disabled, sorted.
    pub left_out: Vec<String>,
    /// The version whose features were taken, as `2.3`.
    pub taken_as: String,
    /// Whether that is a guess: the system's own version can't be told.
    pub guessed: bool,
}

/// A system whose ZFS is older than the table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the system's OpenZFS is version {0}; versions before 2.0 are not supported")]
pub struct TooOld(pub String);

/// The features to enable, of those of the running `module`, for a system with OpenZFS
/// `target`. A version newer than the table counts as the newest in it; where the version can't
/// be told, the oldest is taken.
pub fn enabled_features(module: &[String], target: Option<&str>) -> Result<Choice, TooOld> {
    let told = target.and_then(|text| Some((text, major_minor(text)?)));
    let oldest = ADDED[0].0;
    let version = match told {
        Some((text, version)) if version < oldest => return Err(TooOld(text.to_owned())),
        Some((_, version)) => version,
        None => oldest,
    };
    let known: Vec<_> = ADDED.iter().take_while(|(since, _)| *since <= version).collect();
    let taken_as = known.last().map_or(oldest, |(since, _)| *since);
    let (mut enabled, mut left_out): (Vec<String>, Vec<String>) = module
        .iter()
        .cloned()
        .partition(|feature| known.iter().any(|(_, added)| added.contains(&feature.as_str())));
    enabled.sort();
    left_out.sort();
    Ok(Choice {
        enabled,
        left_out,
        taken_as: format!("{}.{}", taken_as.0, taken_as.1),
        guessed: told.is_none(),
    })
}

/// `2.3.4-1`, `zfs-2.3.4` → (2, 3).
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches(|c: char| !c.is_ascii_digit()).split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All features of a version's module, and one that no table knows.
    fn module(version: (u32, u32)) -> Vec<String> {
        let added =
            ADDED.iter().filter(|(since, _)| *since <= version).flat_map(|(_, added)| *added);
        added.map(|feature| (*feature).to_owned()).chain(["from_the_future".to_owned()]).collect()
    }

    #[test]
    fn equal_versions_leave_out_only_what_is_unknown() {
        let choice = enabled_features(&module((2, 3)), Some("2.3.4-1")).unwrap();
        assert_eq!(choice.enabled.len(), 44);
        assert_eq!(choice.left_out, ["from_the_future"]);
        assert_eq!((choice.taken_as.as_str(), choice.guessed), ("2.3", false));
        assert!(choice.enabled.is_sorted());
    }

    #[test]
    fn an_older_system_gets_no_newer_feature() {
        let choice = enabled_features(&module((2, 3)), Some("2.1.11")).unwrap();
        assert!(choice.enabled.contains(&"draid".to_owned()));
        assert!(!choice.enabled.contains(&"blake3".to_owned()));
        assert!(choice.left_out.contains(&"vdev_zaps_v2".to_owned()));
    }

    #[test]
    fn an_older_module_gets_what_it_has() {
        let choice = enabled_features(&module((2, 1)), Some("2.9.0")).unwrap();
        assert_eq!(choice.left_out, ["from_the_future"]);
        assert_eq!(choice.taken_as, "2.4");
        assert!(!choice.enabled.contains(&"blake3".to_owned()));
    }

    #[test]
    fn an_unknown_version_counts_as_the_oldest() {
        for target in [None, Some("unstable"), Some("")] {
            let choice = enabled_features(&module((2, 3)), target).unwrap();
            assert!(choice.guessed);
            assert_eq!(choice.taken_as, "2.0");
            assert_eq!(choice.enabled.len(), SINCE_2_0.len());
        }
    }

    #[test]
    fn versions_before_the_table_are_refused() {
        assert_eq!(
            enabled_features(&[], Some("0.8.6")).unwrap_err().to_string(),
            "the system's OpenZFS is version 0.8.6; versions before 2.0 are not supported"
        );
    }
}
