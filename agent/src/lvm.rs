//! LVM: physical volumes, volume groups, logical volumes, by the running system's `lvm`.
//!
//! What is there is asked for first, as `lvm`'s JSON report; every call is told the devices that
//! it may look at (`--devices`, lvm2 2.03.12), so a volume group of the same name on another disk
//! is neither found nor changed. Which nodes the volumes have is read from the kernel.

use crate::block::find::{self, Node};
use crate::block::{BlockError, Device, Poll, Roots, Timeout, probe, sysfs, wait};
use crate::ensure::Ensured;
use crate::filesystem::describe;
use crate::tool::{self, Run, Say, ToolError};
use keystone_planner::lvm::group_of;
use keystone_protocol::inventory::Signature;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// How long volumes may stay busy: udev's probes take a moment.
const BUSY_BOUND: Duration = Duration::from_secs(30);

/// Something about LVM failed.
#[derive(Debug, Error)]
pub enum LvmError {
    /// The program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A device.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Something else is on a device.
    #[error("{device} is not empty: it has {found}")]
    Occupied {
        /// Kernel name.
        device: String,
        /// What is there.
        found: String,
    },
    /// It is there and is not what was asked for.
    #[error("{what} exists already and is different: {difference}")]
    Differs {
        /// A group or volume.
        what: String,
        /// In what.
        difference: String,
    },
    /// The report is not what it has to be.
    #[error("lvm's report can't be read: {0}")]
    Report(String),
    /// Volumes stay in use.
    #[error(transparent)]
    Busy(#[from] Timeout),
}

/// Shorthand for this module.
pub type Result<T, E = LvmError> = std::result::Result<T, E>;

/// A volume group: its name, and the devices that it consists of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its physical volumes.
    pub members: Vec<Node>,
}

/// The size of a logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// In bytes, rounded up to whole extents.
    Bytes(u64),
    /// `lvcreate -l`: `100%FREE`, `50%VG`, a number of extents.
    Extents(String),
}

/// A logical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its size; the virtual one for a thin volume.
    pub size: Size,
    /// `--type`.
    pub kind: Option<String>,
    /// The thin pool it lives in.
    pub thin_pool: Option<String>,
    /// Further arguments of lvcreate.
    pub extra_args: Vec<String>,
}

/// Makes a device a physical volume, unless it is one.
///
/// # Errors
/// [`LvmError::Occupied`] if something else is there.
pub fn ensure_physical(roots: &Roots, node: &Node, say: Say<'_>) -> Result<Ensured> {
    let device = Device::open_exclusive(roots, &node.name);
    // In use by its own group, or by something else: its content tells.
    let device = match device {
        Err(BlockError::Busy { .. }) => Device::open_read(roots, &node.name)?,
        other => other?,
    };
    let found = probe::signatures(probe::Source::from(&device))
        .map_err(BlockError::io("reading", device.path()))?;
    drop(device);
    match found.as_slice() {
        [] => {}
        [Signature::Lvm] => return Ok(Ensured::AlreadySo),
        other => {
            let found = other.iter().map(describe).collect::<Vec<_>>().join(" and ");
            return Err(LvmError::Occupied { device: node.name.clone(), found });
        }
    }
    let members = std::slice::from_ref(node);
    lvm("pvcreate", members)?.args(["--yes"]).arg(&node.path).run(say)?;
    Ok(Ensured::Created)
}

impl Group {
    /// Makes the group of its members, or adds those that are in no group yet.
    ///
    /// # Errors
    /// [`LvmError::Differs`] if a member is in another group, or the group has other members.
    pub fn ensure(&self, say: Say<'_>) -> Result<Ensured> {
        let report = self.report("pvs", "pv", "pv_name,vg_name", say)?;
        let mut free = Vec::new();
        let mut ours = 0;
        for node in &self.members {
            let row = report.iter().find(|row| is_node(row, node));
            let group = row.and_then(|row| row.get("vg_name")).map_or("", String::as_str);
            match group {
                "" => free.push(node.path.clone()),
                group if group == self.name => ours += 1,
                other => {
                    return Err(LvmError::Differs {
                        what: format!("the physical volume {}", node.path.display()),
                        difference: format!("it is in the volume group {other}"),
                    });
                }
            }
        }
        let (verb, adds) = match (ours, free.len()) {
            (_, 0) => return Ok(Ensured::AlreadySo),
            (0, _) => ("vgcreate", free),
            _ => ("vgextend", free),
        };
        lvm(verb, &self.members)?.args(["--yes"]).arg(&self.name).args(adds).run(say)?;
        Ok(Ensured::Created)
    }

    /// Makes a logical volume and waits for its node; a thin pool has none.
    ///
    /// # Errors
    /// [`LvmError::Differs`] if one of that name is smaller or of another type.
    pub fn ensure_volume(&self, roots: &Roots, volume: &Volume, say: Say<'_>) -> Result<Ensured> {
        let fields = "lv_name,lv_size,segtype,pool_lv";
        let there = self.report("lvs", "lv", fields, say)?;
        let ensured = match there.iter().find(|row| row.get("lv_name") == Some(&volume.name)) {
            Some(row) => {
                self.compare(volume, row)?;
                Ensured::AlreadySo
            }
            None => {
                let args = volume.arguments(&self.name);
                lvm("lvcreate", &self.members)?.args(args).run(say)?;
                Ensured::Created
            }
        };
        if volume.kind.as_deref() != Some("thin-pool") {
            let _ = self.activate(say)?;
            find::logical_volume(roots, &self.name, &volume.name)?;
        }
        Ok(ensured)
    }

    fn compare(&self, volume: &Volume, row: &BTreeMap<String, String>) -> Result<()> {
        let differs = |difference| LvmError::Differs {
            what: format!("the logical volume {}/{}", self.name, volume.name),
            difference,
        };
        let field = |name: &str| row.get(name).map_or("", String::as_str);
        let size: u64 = field("lv_size").parse().map_err(|_| {
            LvmError::Report(format!("the size of {} is {:?}", volume.name, field("lv_size")))
        })?;
        if let Size::Bytes(wanted) = volume.size
            && size < wanted
        {
            return Err(differs(format!("it has {size} bytes, not {wanted}")));
        }
        let segments = field("segtype");
        match &volume.kind {
            // `raid5` is kept as `raid5_ls`, `raid6` as `raid6_zr`; `thinlv` is disko's word.
            Some(kind) if !same_kind(kind, segments) => {
                Err(differs(format!("it is {segments}, not {kind}")))
            }
            _ if field("pool_lv") != volume.thin_pool.as_deref().unwrap_or("") => {
                Err(differs(format!("its thin pool is {:?}", field("pool_lv"))))
            }
            _ => Ok(()),
        }
    }

    /// Makes the group's volumes available (`vgchange -a y`).
    ///
    /// # Errors
    /// The program's.
    pub fn activate(&self, say: Say<'_>) -> Result<Ensured> {
        let inactive = self
            .report("lvs", "lv", "lv_name,lv_active", say)?
            .iter()
            .any(|row| row.get("lv_active").is_none_or(|active| active != "active"));
        if !inactive {
            return Ok(Ensured::AlreadySo);
        }
        lvm("vgchange", &self.members)?.args(["--activate", "y"]).arg(&self.name).run(say)?;
        Ok(Ensured::Created)
    }

    /// Ends all volumes of the group and sees them gone; tried again, bounded, while one is busy.
    /// Without members any group of that name is meant.
    ///
    /// # Errors
    /// [`LvmError::Busy`] with what is still there.
    pub fn deactivate(&self, roots: &Roots, say: Say<'_>) -> Result<Ensured> {
        if active(roots, &self.name).is_empty() {
            return Ok(Ensured::AlreadySo);
        }
        wait(&format!("the volumes of {} to be free", self.name), BUSY_BOUND, || {
            let run = lvm("vgchange", &self.members)?;
            let said = run.args(["--activate", "n"]).arg(&self.name).run(say);
            match (said, active(roots, &self.name)) {
                (_, left) if left.is_empty() => Ok(Poll::Ready(())),
                (Err(error @ ToolError::Failed { .. }), _) => Ok(Poll::Pending(error.to_string())),
                (Err(error), _) => Err(LvmError::from(error)),
                (Ok(_), left) => Ok(Poll::Pending(format!("{} are still there", left.join(", ")))),
            }
        })?;
        Ok(Ensured::Created)
    }

    fn report(
        &self,
        verb: &str,
        key: &str,
        fields: &str,
        say: Say<'_>,
    ) -> Result<Vec<BTreeMap<String, String>>> {
        let run = lvm(verb, &self.members)?;
        let run = run.args(["--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields]);
        let run = match verb {
            // Physical volumes that are in no group yet count too.
            "pvs" => run.args(self.members.iter().map(|node| &node.path)),
            _ => run.arg(&self.name),
        };
        rows(&run.output(say)?, key)
    }
}

/// Device-mapper names of a group's volumes that are there now, hidden ones included.
pub fn active(roots: &Roots, group: &str) -> Vec<String> {
    let devices = active_devices(roots, group).into_iter();
    devices.filter_map(|device| sysfs::mapper_name(roots, &device)).collect()
}

/// Kernel names of the same.
pub fn active_devices(roots: &Roots, group: &str) -> Vec<String> {
    let is_volume = |device: &String| {
        let uuid = sysfs::attribute(roots, device, "dm/uuid").unwrap_or_default();
        let name = sysfs::mapper_name(roots, device).unwrap_or_default();
        group_of(&name, &uuid).as_deref() == Some(group)
    };
    sysfs::whole_devices(roots).into_iter().filter(is_volume).collect()
}

fn same_kind(wanted: &str, found: &str) -> bool {
    match wanted {
        "thin" | "thinlv" => found == "thin",
        "striped" | "linear" => matches!(found, "striped" | "linear"),
        _ => found == wanted || found.starts_with(&format!("{wanted}_")),
    }
}

impl Volume {
    /// Arguments of lvcreate.
    fn arguments(&self, group: &str) -> Vec<OsString> {
        let mut args: Vec<String> = vec!["--yes".into()];
        let thin = self.thin_pool.is_some();
        match &self.size {
            Size::Bytes(bytes) if thin => args.extend(["-V".into(), format!("{bytes}b")]),
            Size::Bytes(bytes) => args.extend(["-L".into(), format!("{bytes}b")]),
            Size::Extents(extents) => args.extend(["-l".into(), extents.clone()]),
        }
        args.extend(["-n".into(), self.name.clone()]);
        match self.kind.as_deref() {
            Some("thinlv") => args.push("--type=thin".into()),
            Some(kind) => args.push(format!("--type={kind}")),
            None => {}
        }
        if let Some(pool) = &self.thin_pool {
            args.push(format!("--thinpool={pool}"));
        }
        args.extend(self.extra_args.iter().cloned());
        args.push(group.to_owned());
        args.into_iter().map(OsString::from).collect()
    }
}

/// A command of `lvm` that looks at these devices and no others.
fn lvm<'a>(verb: &str, devices: &[Node]) -> Result<Run<'a>> {
    let devices = devices
        .iter()
        .flat_map(|node| [OsString::from("--devices"), PathBuf::from(&node.path).into_os_string()]);
    Ok(command(&tool::need("lvm")?, verb).args(devices))
}

fn command<'a>(program: &std::path::Path, verb: &str) -> Run<'a> {
    let quiet = BTreeMap::from([("LVM_SUPPRESS_FD_WARNINGS".to_owned(), "1".to_owned())]);
    Run::new(program).arg(verb).envs(&quiet)
}

fn is_node(row: &BTreeMap<String, String>, node: &Node) -> bool {
    let path = row.get("pv_name").map(PathBuf::from).unwrap_or_default();
    path == node.path || crate::block::DevNo::of_node(&path) == Some(node.devno)
}

/// The rows of a report: `{"report": [{"lv": [{"lv_name": "…"}]}]}`.
fn rows(json: &str, key: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let document: Value =
        serde_json::from_str(json).map_err(|error| LvmError::Report(error.to_string()))?;
    let missing = || LvmError::Report(format!("it has no {key:?}"));
    let rows = document["report"][0][key].as_array().ok_or_else(missing)?;
    let row = |row: &Value| {
        let fields = row.as_object().into_iter().flatten();
        fields
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect()
    };
    Ok(rows.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::sysfs::tests::tree;

    fn volume(name: &str) -> Volume {
        Volume {
            name: name.to_owned(),
            size: Size::Bytes(10 << 20),
            kind: None,
            thin_pool: None,
            extra_args: Vec::new(),
        }
    }

    #[test]
    fn lvcreate_gets_the_layouts_words() {
        let root = Volume { size: Size::Extents("100%FREE".into()), ..volume("root") };
        assert_eq!(root.arguments("pool"), ["--yes", "-l", "100%FREE", "-n", "root", "pool"]);
        let mirror = Volume { kind: Some("mirror".into()), ..volume("home") };
        let args = ["--yes", "-L", "10485760b", "-n", "home", "--type=mirror", "pool"];
        assert_eq!(mirror.arguments("pool"), args);
        let thin = Volume {
            kind: Some("thinlv".into()),
            thin_pool: Some("tp".into()),
            extra_args: vec!["--setactivationskip".into(), "n".into()],
            ..volume("t")
        };
        assert_eq!(
            thin.arguments("pool"),
            [
                "--yes",
                "-V",
                "10485760b",
                "-n",
                "t",
                "--type=thin",
                "--thinpool=tp",
                "--setactivationskip",
                "n",
                "pool"
            ]
        );
    }

    #[test]
    fn reports_are_read() {
        let json = r#"{"report":[{"lv":[{"lv_name":"root","lv_size":"10485760"}]}],"log":[]}"#;
        assert_eq!(rows(json, "lv").unwrap()[0]["lv_name"], "root");
        assert!(matches!(rows(json, "pv"), Err(LvmError::Report(_))));
        assert!(matches!(rows("", "pv"), Err(LvmError::Report(_))));
    }

    #[test]
    fn what_exists_is_compared() {
        let group = Group { name: "pool".into(), members: Vec::new() };
        let row = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let raid5 = Volume { kind: Some("raid5".into()), ..volume("r") };
        let there = row(&[("lv_size", "12582912"), ("segtype", "raid5_ls"), ("pool_lv", "")]);
        group.compare(&raid5, &there).unwrap();
        let small = row(&[("lv_size", "4194304"), ("segtype", "raid5_ls"), ("pool_lv", "")]);
        let error = group.compare(&raid5, &small).unwrap_err().to_string();
        assert_eq!(
            error,
            "the logical volume pool/r exists already and is different: it has 4194304 bytes, \
             not 10485760"
        );
        let mirror = Volume { kind: Some("mirror".into()), ..volume("r") };
        assert!(group.compare(&mirror, &there).is_err());
    }

    #[test]
    fn volumes_of_a_group_and_not_of_its_namesakes() {
        let root = tempfile::tempdir().unwrap();
        let devices = [
            ("dm-0", "pool-root", "LVM-aaa"),
            ("dm-1", "pool-a--b_rimage_0", "LVM-bbb"),
            ("dm-2", "pool--2-root", "LVM-ccc"),
            ("dm-3", "pool-credstore", "CRYPT-LUKS2-x-pool-credstore"),
        ];
        for (dm, name, uuid) in devices {
            tree(
                root.path(),
                &[
                    (&format!("sys/block/{dm}/dm/name"), name),
                    (&format!("sys/class/block/{dm}/dm/name"), name),
                    (&format!("sys/class/block/{dm}/dm/uuid"), uuid),
                ],
            );
        }
        let roots = Roots::below(root.path());
        assert_eq!(active(&roots, "pool"), ["pool-root", "pool-a--b_rimage_0"]);
        assert_eq!(active(&roots, "pool-2"), ["pool--2-root"]);
        assert_eq!(keystone_planner::lvm::mapper_name("pool-2", "a-b"), "pool--2-a--b");
    }
}
