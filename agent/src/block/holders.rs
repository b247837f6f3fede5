//! Who uses a block device.

use super::{DevNo, Device, Roots, probe, sysfs};
use crate::mount::table::{self, MountPoint};
use keystone_protocol::inventory::{Holder, Signature};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// A process that uses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
    /// What it uses: `root`, `cwd`, `exe`, `fd 3`, `a mapped file`.
    pub by: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}, {})", self.pid, self.name, self.by)
    }
}

/// Mounts, swap and devices made of the disk or partition `name` itself.
pub fn of(roots: &Roots, name: &str, mounts: &[MountPoint]) -> Vec<Holder> {
    let mut found = Vec::new();
    if let Some(devno) = sysfs::devno(roots, name) {
        let mounted = mounts_of(roots, name, devno, mounts);
        found.extend(mounted.map(|m| Holder::Mount { target: m.target.clone() }));
        if swaps(roots).iter().any(|path| is_node(roots, path, name, devno)) {
            found.push(Holder::Swap);
        }
    }
    for holder in sysfs::holders(roots, name) {
        let mapper = sysfs::mapper_name(roots, &holder);
        found.push(Holder::Device { kernel_name: holder, name: mapper });
    }
    found
}

/// Mounts of the device `name`, those of file systems with numbers of their own (btrfs) too.
fn mounts_of<'a>(
    roots: &'a Roots,
    name: &'a str,
    devno: DevNo,
    mounts: &'a [MountPoint],
) -> impl Iterator<Item = &'a MountPoint> {
    mounts.iter().filter(move |mount| is_of(roots, mount, name, devno))
}

/// Where the device `name` is mounted.
pub fn mounted_at(roots: &Roots, name: &str, mounts: &[MountPoint]) -> Vec<String> {
    let Some(devno) = sysfs::devno(roots, name) else { return Vec::new() };
    mounts_of(roots, name, devno, mounts).map(|mount| mount.target.clone()).collect()
}

/// Who uses a disk, its partitions, or a partition: a phrase each. This process is left out: it
/// holds the disk's lock.
pub fn phrases(roots: &Roots, name: &str) -> Vec<String> {
    let mounts = table::read(roots).unwrap_or_default();
    let mut devices = vec![name.to_owned()];
    devices.extend(sysfs::partitions(roots, name).into_iter().map(|partition| partition.name));
    let mut phrases = Vec::new();
    for device in &devices {
        let seen = phrases.len();
        phrases.extend(of(roots, device, &mounts).into_iter().map(|holder| match holder {
            Holder::Mount { target } => format!("the mount at {target}"),
            Holder::Swap => format!("swapping to {device}"),
            Holder::Pool { name, .. } => format!("the pool {name}"),
            Holder::Device { kernel_name, name: None } => kernel_name,
            Holder::Device { kernel_name, name: Some(name) } => format!("{name} ({kernel_name})"),
        }));
        if let Some(devno) = sysfs::devno(roots, device) {
            let others = processes_with_device(roots, devno).into_iter();
            let others = others.filter(|process| process.pid != std::process::id());
            phrases.extend(others.map(|process| process.to_string()));
        }
        if phrases.len() == seen && is_in_a_pool(roots, device) {
            phrases.push(format!("an imported ZFS pool (on {device})"));
        }
    }
    phrases.dedup();
    phrases
}

/// Whether a device is claimed and says it is a pool's: the kernel does not tell that ZFS has it.
fn is_in_a_pool(roots: &Roots, name: &str) -> bool {
    let claimed = fs::File::options()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(roots.node(name))
        .is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY));
    claimed
        && Device::open_read(roots, name).is_ok_and(|device| {
            let found = probe::signatures((&device).into()).unwrap_or_default();
            found.contains(&Signature::Other { name: probe::ZFS_MEMBER.to_owned() })
        })
}

/// Processes that have the block device open.
pub fn processes_with_device(roots: &Roots, devno: DevNo) -> Vec<Process> {
    processes(roots, |path| {
        let metadata = fs::metadata(path).ok()?;
        let open =
            metadata.file_type().is_block_device() && DevNo::from_raw(metadata.rdev()) == devno;
        open.then_some(())
    })
}

/// Processes that use files at or below a directory: root, working directory, program, open and
/// mapped files, as `/proc` shows them to this mount namespace.
pub fn processes_below(roots: &Roots, dir: &Path) -> Vec<Process> {
    processes(roots, |link| fs::read_link(link).ok()?.starts_with(dir).then_some(()))
}

/// The processes with a link in `/proc/<pid>` that `uses` accepts, each once.
fn processes(roots: &Roots, uses: impl Fn(&Path) -> Option<()>) -> Vec<Process> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir(&roots.proc).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let dir = entry.path();
        let Some(by) = used_by(&dir, &uses) else { continue };
        let name = fs::read_to_string(dir.join("comm")).unwrap_or_default();
        let name = if pid == own { "this agent" } else { name.trim() };
        found.push(Process { pid, name: name.to_owned(), by });
    }
    found.sort_by_key(|process| process.pid);
    found
}

fn used_by(process: &Path, uses: &impl Fn(&Path) -> Option<()>) -> Option<String> {
    for link in ["root", "cwd", "exe"] {
        if uses(&process.join(link)).is_some() {
            return Some(link.to_owned());
        }
    }
    for (dir, what) in [("fd", "fd"), ("map_files", "a mapped file")] {
        for entry in fs::read_dir(process.join(dir)).into_iter().flatten().flatten() {
            if uses(&entry.path()).is_some() {
                let number = entry.file_name();
                return Some(match dir {
                    "fd" => format!("{what} {}", number.to_string_lossy()),
                    _ => what.to_owned(),
                });
            }
        }
    }
    None
}

/// Devices and files in `/proc/swaps`.
pub fn swaps(roots: &Roots) -> Vec<String> {
    parse_swaps(&fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default())
}

fn parse_swaps(text: &str) -> Vec<String> {
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.map(table::unescape).collect()
}

fn is_node(roots: &Roots, path: &str, name: &str, devno: DevNo) -> bool {
    Path::new(path) == roots.node(name) || DevNo::of_node(Path::new(path)) == Some(devno)
}

/// Whether a mount is of that device: by number, or, for file systems with anonymous numbers such
/// as btrfs, by source, or as another device of the same btrfs.
fn is_of(roots: &Roots, mount: &MountPoint, name: &str, devno: DevNo) -> bool {
    mount.devno == devno
        || (mount.devno.major == 0
            && mount.source.starts_with('/')
            && (is_node(roots, &mount.source, name, devno)
                || is_in_one_btrfs(roots, &mount.source, name)))
}

/// Whether a btrfs that is mounted has both. Source: the kernel, `fs/btrfs/sysfs.c`:
/// `/sys/fs/btrfs/<uuid>/devices/<name>`.
fn is_in_one_btrfs(roots: &Roots, source: &str, name: &str) -> bool {
    let source = fs::canonicalize(source).unwrap_or_default();
    let Some(source) = source.file_name() else { return false };
    let mounted = fs::read_dir(roots.sys.join("fs/btrfs")).into_iter().flatten().flatten();
    mounted.map(|entry| entry.path().join("devices")).any(|devices| {
        devices.join(source).symlink_metadata().is_ok()
            && devices.join(name).symlink_metadata().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swaps_are_parsed() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/dm-1                               partition\t8388604\t\t0\t\t-2\n\
                    /swap\\040file                           file\t\t1048572\t\t0\t\t-3\n";
        assert_eq!(parse_swaps(text), ["/dev/dm-1", "/swap file"]);
        assert!(parse_swaps("").is_empty());
    }

    #[test]
    fn all_devices_of_a_btrfs_are_mounted_with_the_one_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots { sys: dir.path().to_owned(), ..Roots::default() };
        let source = dir.path().join("vdb");
        fs::write(&source, "").unwrap();
        for (uuid, devices) in [("1", ["vdb", "vdc"]), ("2", ["vdd", "vde"])] {
            for device in devices {
                fs::create_dir_all(
                    dir.path().join("fs/btrfs").join(uuid).join("devices").join(device),
                )
                .unwrap();
            }
        }
        fs::create_dir_all(dir.path().join("fs/btrfs/features")).unwrap();
        let is_in = |name| is_in_one_btrfs(&roots, source.to_str().unwrap(), name);
        assert!(is_in("vdc") && is_in("vdb") && !is_in("vdd"));
        assert!(!is_in_one_btrfs(&roots, "/nonexistent", "vdc"));
    }

    #[test]
    fn a_process_below_a_directory_is_found_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("60").current_dir(&path).spawn().unwrap();
        let found = processes_below(&Roots::default(), &path);
        child.kill().unwrap();
        child.wait().unwrap();
        let found: Vec<_> = found.iter().filter(|p| p.pid == child.id()).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), format!("process {} (sleep, cwd)", child.id()));
    }
}
