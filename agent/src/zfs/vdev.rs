//! What a pool is made of, as name-value lists: equal to what `zpool create`
//! builds (OpenZFS 2.3 cmd/zpool/zpool_vdev.c, construct_spec and make_leaf_vdev).

use std::{
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use super::{
    error::{Error, Result},
    ffi::NvList,
};

/// A virtual device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vdev {
    /// A block device (a partition: never partitioned further) or a file. Absolute path.
    Leaf(PathBuf),
    /// Copies on each.
    Mirror(Vec<Vdev>),
    /// RAID-Z.
    Raidz {
        /// 1 to 3.
        parity: u8,
        /// More than `parity`.
        children: Vec<Vdev>,
    },
}

/// What a top-level vdev is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Data.
    #[default]
    Data,
    /// Intent log.
    Log,
    /// Metadata and small blocks.
    Special,
    /// Deduplication tables.
    Dedup,
}

/// A top-level vdev.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopVdev {
    /// What it is for.
    pub class: Class,
    /// What it is made of.
    pub vdev: Vdev,
}

impl TopVdev {
    /// A top-level vdev for data.
    pub fn data(vdev: Vdev) -> TopVdev {
        TopVdev { class: Class::Data, vdev }
    }
}

impl Vdev {
    /// All leaves, in order.
    pub fn leaves(&self) -> Vec<&Path> {
        match self {
            Vdev::Leaf(path) => vec![path],
            Vdev::Mirror(children) | Vdev::Raidz { children, .. } => {
                children.iter().flat_map(Vdev::leaves).collect()
            }
        }
    }

    fn list(&self, ashift: Option<u64>) -> Result<NvList> {
        let (name, minimum, children) = match self {
            Vdev::Leaf(path) => return leaf(path, ashift),
            Vdev::Mirror(children) => ("mirror", 2, children),
            Vdev::Raidz { parity, children } if (1..=3).contains(parity) => {
                ("raidz", usize::from(*parity) + 1, children)
            }
            Vdev::Raidz { parity, .. } => {
                return Err(Error::Invalid(format!(
                    "there is no raidz{parity}; parity is 1, 2 or 3"
                )));
            }
        };
        if children.len() < minimum {
            return Err(Error::Invalid(format!(
                "{name} needs at least {minimum} devices and was given {}",
                children.len()
            )));
        }
        if children.iter().any(|c| !matches!(c, Vdev::Leaf(_))) {
            return Err(Error::Invalid(format!(
                "{name} is made of devices, not of further groups"
            )));
        }
        let mut list = NvList::new()?;
        list.add_string("type", name)?;
        if let Vdev::Raidz { parity, .. } = self {
            list.add_u64("nparity", u64::from(*parity))?;
        }
        let children = children.iter().map(|c| c.list(ashift)).collect::<Result<Vec<_>>>()?;
        list.add_lists("children", &children)?;
        Ok(list)
    }
}

fn leaf(path: &Path, ashift: Option<u64>) -> Result<NvList> {
    let failed = |source| Error::Device { action: "look at", path: path.to_owned(), source };
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    let text = path.to_str().filter(|p| p.starts_with('/'));
    let text =
        text.ok_or_else(|| Error::Invalid(format!("{} is not an absolute path", path.display())))?;
    let mut list = NvList::new()?;
    list.add_string("path", text)?;
    if kind.is_block_device() {
        list.add_string("type", "disk")?;
        list.add_u64("whole_disk", 0)?;
    } else if kind.is_file() {
        list.add_string("type", "file")?;
    } else {
        return Err(Error::Invalid(format!("{text} is neither a block device nor a file")));
    }
    if let Some(ashift) = ashift.filter(|a| *a != 0) {
        list.add_u64("ashift", ashift)?;
    }
    Ok(list)
}

/// The root vdev for `zpool_create()`.
pub(super) fn root(
    tops: &[TopVdev],
    spares: &[PathBuf],
    caches: &[PathBuf],
    ashift: Option<u64>,
) -> Result<NvList> {
    if !tops.iter().any(|t| t.class == Class::Data) {
        return Err(Error::Invalid("a pool needs at least one vdev for data".into()));
    }
    let mut children = Vec::new();
    for top in tops {
        if top.class != Class::Data && matches!(top.vdev, Vdev::Raidz { .. }) {
            return Err(Error::Invalid(
                "log, special and dedup vdevs are single devices or mirrors".into(),
            ));
        }
        let mut list = top.vdev.list(ashift)?;
        list.add_u64("is_log", u64::from(top.class == Class::Log))?;
        match top.class {
            Class::Data => {}
            Class::Log => list.add_string("alloc_bias", "log")?,
            Class::Special => list.add_string("alloc_bias", "special")?,
            Class::Dedup => list.add_string("alloc_bias", "dedup")?,
        }
        children.push(list);
    }
    let mut root = NvList::new()?;
    root.add_string("type", "root")?;
    root.add_lists("children", &children)?;
    for (key, paths) in [("spares", spares), ("l2cache", caches)] {
        if !paths.is_empty() {
            let leaves = paths.iter().map(|p| leaf(p, ashift)).collect::<Result<Vec<_>>>()?;
            root.add_lists(key, &leaves)?;
        }
    }
    Ok(root)
}

/// Leaves of a vdev tree of a label or a pool's configuration: device path and GUID.
pub(super) fn leaves(tree: &NvList) -> Vec<(Option<String>, u64)> {
    let children = tree.lists("children");
    let mut found: Vec<_> = if children.is_empty() {
        let device = matches!(tree.string("type").as_deref(), Some("disk" | "file"));
        tree.u64("guid")
            .filter(|_| device)
            .map(|guid| (tree.string("path"), guid))
            .into_iter()
            .collect()
    } else {
        children.iter().flat_map(leaves).collect()
    };
    for key in ["spares", "l2cache"] {
        found.extend(tree.lists(key).iter().flat_map(leaves));
    }
    found
}

pub(super) fn leaf_guids(tree: &NvList) -> Vec<u64> {
    leaves(tree).into_iter().map(|(_, guid)| guid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(count: usize) -> (tempfile::TempDir, Vec<Vdev>) {
        let dir = tempfile::tempdir().unwrap();
        let leaves = (0..count)
            .map(|i| {
                let path = dir.path().join(format!("disk{i}"));
                fs::File::create(&path).unwrap();
                Vdev::Leaf(path)
            })
            .collect();
        (dir, leaves)
    }

    #[test]
    fn a_single_device_as_the_tool_describes_it() {
        let (_dir, leaves) = files(1);
        let root = root(&[TopVdev::data(leaves[0].clone())], &[], &[], Some(12)).unwrap();
        assert_eq!(root.names(), ["type", "children"]);
        assert_eq!(root.string("type").as_deref(), Some("root"));
        let disk = &root.lists("children")[0];
        // `whole_disk` is for block devices alone.
        assert_eq!(disk.names(), ["path", "type", "ashift", "is_log"]);
        assert_eq!((disk.u64("ashift"), disk.u64("is_log")), (Some(12), Some(0)));
    }

    #[test]
    fn groups_and_classes() {
        let (_dir, d) = files(8);
        let tops = [
            TopVdev::data(Vdev::Raidz { parity: 2, children: d[0..4].to_vec() }),
            TopVdev { class: Class::Log, vdev: Vdev::Mirror(d[4..6].to_vec()) },
            TopVdev { class: Class::Special, vdev: d[6].clone() },
        ];
        let Vdev::Leaf(spare) = &d[7] else { unreachable!() };
        let root = root(&tops, std::slice::from_ref(spare), &[], None).unwrap();
        let children = root.lists("children");
        assert_eq!(children[0].u64("nparity"), Some(2));
        assert_eq!(children[0].lists("children").len(), 4);
        assert_eq!(
            (children[1].u64("is_log"), children[1].string("alloc_bias").as_deref()),
            (Some(1), Some("log"))
        );
        assert_eq!(children[2].string("alloc_bias").as_deref(), Some("special"));
        assert_eq!(root.lists("spares").len(), 1);
        assert_eq!(children[2].u64("ashift"), None);
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        let (_dir, d) = files(2);
        let refused = |tops: &[TopVdev]| root(tops, &[], &[], None).unwrap_err().to_string();
        assert!(refused(&[]).contains("at least one vdev for data"));
        assert!(refused(&[TopVdev { class: Class::Log, vdev: d[0].clone() }]).contains("for data"));
        assert!(
            refused(&[TopVdev::data(Vdev::Mirror(d[..1].to_vec()))]).contains("at least 2 devices")
        );
        assert!(
            refused(&[TopVdev::data(Vdev::Raidz { parity: 4, children: d.clone() })])
                .contains("raidz4")
        );
        assert!(
            refused(&[TopVdev::data(Vdev::Leaf("/proc".into()))])
                .contains("neither a block device")
        );
        assert!(
            refused(&[TopVdev::data(Vdev::Leaf("/dev/no-such-disk".into()))])
                .contains("/dev/no-such-disk")
        );
    }
}
