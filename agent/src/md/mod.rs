//! Linux software RAID: made and assembled by the running system's `mdadm`, found and stopped by
//! the kernel's own interfaces.
//!
//! An array is the `md*` device that holds all of its members (sysfs), whatever its number and
//! whatever `/dev/md` says.
//!
//! | module | job |
//! |---|---|
//! | [`superblock`] | what a member says of its array |

pub mod superblock;

use crate::block::find::{self, Node};
use crate::block::wipe;
use crate::block::{
    BlockError, Device, Poll, Roots, Timeout, holders, ioctl, probe, sysfs, udev, wait,
};
use crate::ensure::Ensured;
use crate::filesystem::describe;
use crate::tool::{self, Run, Say, ToolError};
use keystone_protocol::inventory::Signature;
use nix::errno::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::time::{Duration, Instant};
use superblock::Superblock;
use thiserror::Error;

/// How long an array may take to appear, or stay busy.
const BOUND: Duration = Duration::from_secs(30);
/// How long udev must have been idle after an array was stopped, so that no event of a member is on its
/// way.
const QUIET: Duration = Duration::from_millis(500);

/// Something about an array failed.
#[derive(Debug, Error)]
pub enum MdError {
    /// The program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A device.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Something else is on a member.
    #[error("{device} is not empty: it has {found}")]
    Occupied {
        /// Kernel name.
        device: String,
        /// What is there.
        found: String,
    },
    /// A member is of another array.
    #[error("{device} is a member of another RAID: {found}")]
    Differs {
        /// Kernel name.
        device: String,
        /// Of which.
        found: String,
    },
    /// It stays in use.
    #[error("the RAID {name} ({device}) stays in use by {}", holders.join(", "))]
    Busy {
        /// Its name.
        name: String,
        /// Its kernel name.
        device: String,
        /// Who uses it.
        holders: Vec<String>,
    },
    /// The kernel refused.
    #[error("stopping the RAID {device}")]
    Stop {
        /// Its kernel name.
        device: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A wait reached its bound.
    #[error(transparent)]
    Timeout(#[from] Timeout),
}

/// Shorthand for this module.
pub type Result<T, E = MdError> = std::result::Result<T, E>;

/// An array.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Array {
    /// Its name, below `/dev/md`.
    pub name: String,
    /// `--level`.
    pub level: u32,
    /// `--metadata`: `default`, `1.0`, `1.2`, `ddf`, …
    pub metadata: String,
    /// Its members.
    pub members: Vec<Node>,
    /// Further arguments of `mdadm --create`.
    pub extra_args: Vec<String>,
}

impl Array {
    /// Makes the array and removes what its content looks like, or assembles it if its members
    /// say that they are its; its node once that is there.
    ///
    /// # Errors
    /// [`MdError::Occupied`], [`MdError::Differs`] if something else is on a member.
    pub fn ensure(&self, roots: &Roots, say: Say<'_>) -> Result<(Ensured, Node)> {
        if let Some(running) = self.running(roots) {
            self.compare_running(roots, &running)?;
            return Ok((Ensured::AlreadySo, find::node(roots, &running)?));
        }
        if self.is_made(roots)? {
            return Ok((Ensured::Created, self.assemble(roots, say)?));
        }
        let mdadm = tool::need("mdadm")?;
        Run::new(&mdadm).args(self.arguments()).run(say)?;
        let node = self.appeared(roots)?;
        // What was on the members shows through: an old table is not to come back to life.
        let _ = wipe::device(roots, &node.name)?;
        Ok((Ensured::Created, node))
    }

    /// Starts an array that exists.
    ///
    /// # Errors
    /// The program's.
    pub fn ensure_assembled(&self, roots: &Roots, say: Say<'_>) -> Result<(Ensured, Node)> {
        match self.running(roots) {
            Some(running) => Ok((Ensured::AlreadySo, find::node(roots, &running)?)),
            None => Ok((Ensured::Created, self.assemble(roots, say)?)),
        }
    }

    fn assemble(&self, roots: &Roots, say: Say<'_>) -> Result<Node> {
        let mdadm = tool::need("mdadm")?;
        let members = self.members.iter().map(|node| &node.path);
        let assembled =
            Run::new(&mdadm).args(["--assemble", "--run", &self.link()]).args(members).run(say);
        match (assembled, self.running(roots)) {
            // udev was quicker.
            (_, Some(_)) | (Ok(_), None) => self.appeared(roots),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn link(&self) -> String {
        format!("/dev/md/{}", self.name)
    }

    /// Arguments of `mdadm --create`: disko's, without its questions (`--run` answers them).
    fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            "--create".into(),
            self.link().into(),
            format!("--level={}", self.level).into(),
            format!("--raid-devices={}", self.members.len()).into(),
            format!("--metadata={}", self.metadata).into(),
            "--force".into(),
            "--homehost=any".into(),
            "--run".into(),
        ];
        args.extend(self.extra_args.iter().map(OsString::from));
        args.extend(self.members.iter().map(|node| node.path.clone().into_os_string()));
        args
    }

    /// The kernel name of the array that runs on the members.
    pub fn running(&self, roots: &Roots) -> Option<String> {
        let members: Vec<&str> = self.members.iter().map(|node| node.name.as_str()).collect();
        find::array_now(roots, &members)
    }

    fn appeared(&self, roots: &Roots) -> Result<Node> {
        let what = format!("the RAID {} to appear", self.name);
        let name = wait(&what, BOUND, || {
            Ok::<_, MdError>(match self.running(roots) {
                Some(name) => Poll::Ready(name),
                None => Poll::Pending("no md device holds its members".to_owned()),
            })
        })?;
        Ok(find::node(roots, &name)?)
    }

    fn compare_running(&self, roots: &Roots, running: &str) -> Result<()> {
        let level = sysfs::attribute(roots, running, "md/level").unwrap_or_default();
        let wanted = level_name(self.level);
        if level == wanted {
            return Ok(());
        }
        Err(MdError::Differs {
            device: running.to_owned(),
            found: format!("its level is {level}, not {wanted}"),
        })
    }

    /// Whether all members say that they are this array's; an error if one says something else.
    fn is_made(&self, roots: &Roots) -> Result<bool> {
        let mut seen: Vec<Option<Superblock>> = Vec::new();
        for node in &self.members {
            let device = Device::open_read(roots, &node.name)?;
            let fail = BlockError::io("reading", device.path());
            let found = superblock::read(&device).map_err(fail)?;
            if found.is_none() {
                empty(&device)?;
            }
            if let Some(other) = found.as_ref().filter(|found| !self.is_of(found)) {
                let found = format!("{} ({})", other.name, other.uuid);
                return Err(MdError::Differs { device: node.name.clone(), found });
            }
            seen.push(found);
        }
        let first = seen.first().cloned().flatten();
        let Some(first) = first else {
            return match seen.iter().zip(&self.members).find(|(found, _)| found.is_some()) {
                None => Ok(false),
                Some((_, node)) => Err(self.partly(node)),
            };
        };
        match seen
            .iter()
            .zip(&self.members)
            .find(|(found, _)| found.as_ref().is_none_or(|found| found.uuid != first.uuid))
        {
            None => Ok(true),
            Some((_, node)) => Err(self.partly(node)),
        }
    }

    fn partly(&self, node: &Node) -> MdError {
        let found = format!("only some of the members are of the RAID {}", self.name);
        MdError::Differs { device: node.name.clone(), found }
    }

    fn is_of(&self, found: &Superblock) -> bool {
        let same_level = u32::try_from(found.level) == Ok(self.level);
        found.name == self.name && same_level && found.devices as usize == self.members.len()
    }

    /// Stops the array, or a part of it, and sees its members free.
    ///
    /// # Errors
    /// As [`stop`].
    pub fn stop(&self, roots: &Roots) -> Result<Ensured> {
        let members: Vec<String> = self.members.iter().map(|node| node.name.clone()).collect();
        free(roots, &self.name, &members)
    }
}

/// Kernel names of the arrays that run now and whose members say that they are of that name.
///
/// # Errors
/// A member can't be read.
pub fn running_as(roots: &Roots, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for device in sysfs::whole_devices(roots).into_iter().filter(|name| name.starts_with("md")) {
        let Some(member) = sysfs::slaves(roots, &device).into_iter().next() else { continue };
        let member = Device::open_read(roots, &member)?;
        let fail = BlockError::io("reading", member.path());
        if superblock::read(&member).map_err(fail)?.is_some_and(|found| found.name == name) {
            found.push(device);
        }
    }
    Ok(found)
}

/// An array's level as the kernel writes it.
fn level_name(level: u32) -> String {
    format!("raid{level}")
}

/// An error if anything is recognised on a device.
fn empty(device: &Device) -> Result<()> {
    let found = probe::signatures(probe::Source::from(device))
        .map_err(BlockError::io("reading", device.path()))?;
    // One whose superblock is of no version that is read here.
    if found.is_empty() {
        return Ok(());
    }
    let found: Vec<String> = found
        .iter()
        .map(|signature| match signature {
            Signature::MdRaid => "a member of a software RAID of another kind".to_owned(),
            other => describe(other),
        })
        .collect();
    Err(MdError::Occupied { device: device.name().to_owned(), found: found.join(" and ") })
}

/// Stops the array of that kernel name and sees it let go of its members, see [`free`].
///
/// # Errors
/// [`MdError::Busy`], naming who.
pub fn stop(roots: &Roots, name: &str, device: &str) -> Result<Ensured> {
    free(roots, name, &sysfs::slaves(roots, device))
}

/// Stops every array that holds one of `members` until none does; tried again, bounded, while
/// something uses it. Where udev runs it may have an event of a member left, upon which it assembles
/// the array anew, as another `md*` or a part of it: so it is waited until udev has nothing to do, and
/// what it assembled is stopped too.
///
/// # Errors
/// [`MdError::Busy`], naming who uses it.
fn free(roots: &Roots, name: &str, members: &[String]) -> Result<Ensured> {
    let holder = || find::array_of_any(roots, members);
    let mut ensured = Ensured::AlreadySo;
    let mut since: Option<Instant> = None;
    let freed = wait(&format!("the RAID {name} to stay stopped"), BOUND, || {
        if let Some(device) = holder() {
            since = None;
            return Ok(Poll::Pending(if stop_once(roots, &device)? {
                ensured = Ensured::Created;
                format!("{device} was stopped only just")
            } else {
                format!("{device} is in use")
            }));
        }
        if ensured == Ensured::AlreadySo || !udev::is_running(roots) {
            return Ok(Poll::Ready(()));
        }
        if !udev::is_idle(roots) {
            since = None;
            return Ok(Poll::Pending("udev is busy".to_owned()));
        }
        let since = *since.get_or_insert_with(Instant::now);
        Ok::<_, MdError>(if since.elapsed() >= QUIET {
            Poll::Ready(())
        } else {
            Poll::Pending("udev is idle only just".to_owned())
        })
    });
    match (freed, holder()) {
        (Ok(()) | Err(MdError::Timeout(_)), Some(device)) => {
            let mut holders = holders::phrases(roots, &device);
            if holders.is_empty() {
                holders.push("somebody who assembles it each time that it is stopped".to_owned());
            }
            Err(MdError::Busy { name: name.to_owned(), holders, device })
        }
        // A udev that is never idle has something else to do.
        (Ok(()) | Err(MdError::Timeout(_)), None) => Ok(ensured),
        (Err(error), _) => Err(error),
    }
}

/// Whether the array is stopped; not if something uses it.
fn stop_once(roots: &Roots, device: &str) -> Result<bool> {
    let fail = |source| MdError::Stop { device: device.to_owned(), source };
    let file = match File::open(roots.node(device)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(fail(error)),
    };
    match ioctl::stop_array(&file) {
        // Or somebody else stopped it.
        Ok(()) | Err(Errno::ENODEV | Errno::ENXIO) => Ok(true),
        Err(Errno::EBUSY) => Ok(false),
        Err(errno) => Err(fail(errno.into())),
    }
}

#[cfg(test)]
mod tests;
