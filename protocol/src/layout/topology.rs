//! `mode` of a pool: how its members are combined.

use super::content;
use super::error::{LayoutError, closest};
use super::read::Object;

/// How the members of a pool are combined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolMode {
    /// One vdev, or with [`VdevMode::Stripe`] one for each member.
    One(VdevMode),
    /// As written down.
    Topology(Topology),
}

/// How the members of a vdev are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VdevMode {
    /// Each member is a vdev of its own.
    Stripe,
    /// A mirror.
    Mirror,
    /// RAID-Z with this many parity devices, 1 to 3.
    Raidz(u8),
}

/// A pool's vdevs. Members are named by disko's names: a path, or the name of a disk whose
/// partition `zfs` it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Data vdevs.
    pub vdevs: Vec<TopologyVdev>,
    /// Intent log vdevs.
    pub log: Vec<TopologyVdev>,
    /// Vdevs for metadata.
    pub special: Vec<TopologyVdev>,
    /// Vdevs for deduplication tables.
    pub dedup: Vec<TopologyVdev>,
    /// Read caches.
    pub cache: Vec<String>,
    /// Hot spares.
    pub spare: Vec<String>,
}

/// A vdev of a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopologyVdev {
    /// Its place in the document.
    pub path: String,
    /// How its members are combined.
    pub mode: VdevMode,
    /// Its members.
    pub members: Vec<String>,
}

impl VdevMode {
    fn read(path: String, mode: &str) -> Result<Self, LayoutError> {
        match mode {
            "" => Ok(VdevMode::Stripe),
            "mirror" => Ok(VdevMode::Mirror),
            "raidz" | "raidz1" => Ok(VdevMode::Raidz(1)),
            "raidz2" => Ok(VdevMode::Raidz(2)),
            "raidz3" => Ok(VdevMode::Raidz(3)),
            other => Err(LayoutError::UnknownName {
                path,
                what: "mode",
                found: other.to_owned(),
                closest: closest(other, ["mirror", "raidz", "raidz1", "raidz2", "raidz3"]),
            }),
        }
    }

    /// The fewest members that it can have.
    pub fn least_members(self) -> usize {
        match self {
            VdevMode::Stripe => 1,
            VdevMode::Mirror => 2,
            VdevMode::Raidz(parity) => usize::from(parity) + 1,
        }
    }
}

impl PoolMode {
    /// Reads the attribute `mode` of a pool.
    pub(super) fn read(object: &mut Object<'_>) -> Result<Self, LayoutError> {
        let path = object.path_of("mode");
        match object.value_opt("mode") {
            None => Ok(PoolMode::One(VdevMode::Stripe)),
            Some(serde_json::Value::String(mode)) => VdevMode::read(path, mode).map(PoolMode::One),
            Some(value) => {
                let mut mode = Object::new(path, value)?;
                let topology = mode.child_opt("topology")?;
                let path = mode.path().to_owned();
                mode.finish()?;
                let topology =
                    topology.ok_or(LayoutError::Missing { path, attribute: "topology" })?;
                Topology::read(topology).map(PoolMode::Topology)
            }
        }
    }
}

impl Topology {
    fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "topology", &["topology"])?;
        let topology = Topology {
            vdevs: vdevs(&mut object, "vdev")?,
            log: vdevs(&mut object, "log")?,
            special: vdevs(&mut object, "special")?,
            dedup: vdevs(&mut object, "dedup")?,
            cache: object.strings("cache")?,
            spare: object.strings("spare")?,
        };
        let path = object.path().to_owned();
        object.finish()?;
        if topology.vdevs.is_empty() {
            return Err(LayoutError::Missing { path, attribute: "vdev" });
        }
        // Source: OpenZFS, "a log device can't be a raidz", zpoolconcepts(7).
        if let Some(vdev) = topology.log.iter().find(|v| matches!(v.mode, VdevMode::Raidz(_))) {
            return Err(LayoutError::invalid(&vdev.path, "a log can't be a RAID-Z"));
        }
        Ok(topology)
    }

    /// All vdevs with members of their own: data, log, special, dedup.
    pub fn all_vdevs(&self) -> impl Iterator<Item = &TopologyVdev> {
        self.vdevs.iter().chain(&self.log).chain(&self.special).chain(&self.dedup)
    }

    /// The names of all members.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.all_vdevs()
            .flat_map(|vdev| &vdev.members)
            .chain(&self.cache)
            .chain(&self.spare)
            .map(String::as_str)
    }
}

fn vdevs(object: &mut Object<'_>, name: &'static str) -> Result<Vec<TopologyVdev>, LayoutError> {
    object
        .child_list(name)?
        .into_iter()
        .map(|mut vdev| {
            let mode = vdev.string_opt("mode")?.unwrap_or_default();
            let read = TopologyVdev {
                path: vdev.path().to_owned(),
                mode: VdevMode::read(vdev.path_of("mode"), &mode)?,
                members: vdev.strings("members")?,
            };
            vdev.finish()?;
            let least = read.mode.least_members();
            if read.members.len() < least {
                return Err(LayoutError::invalid(
                    read.path,
                    format!("has {} members and needs at least {least}", read.members.len()),
                ));
            }
            Ok(read)
        })
        .collect()
}
