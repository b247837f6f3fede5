//! ZFS's kernel module, loaded by the kernel's own autoload.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::error::{Error, Result};

const CONTROL: &str = "/dev/zfs";
const SYSFS: &str = "/sys/module/zfs";
/// `ZFS_DEVICE_MINOR` of OpenZFS module/os/linux/zfs/zfs_ioctl_os.c; the module's
/// alias `char-major-10-249` is what an open of such a node asks for.
const MISC_MAJOR: u64 = 10;
const ZFS_MINOR: u64 = 249;
const NODE_WAIT: Duration = Duration::from_secs(10);

/// Makes sure that the module is loaded and `/dev/zfs` can be opened.
pub(super) fn load() -> Result<()> {
    let first = match open_control(Path::new(CONTROL)) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    match first.raw_os_error() {
        Some(libc::ENOENT) => {
            if !Path::new(SYSFS).exists() {
                ask_through_private_node()?;
            }
            wait_for_control()
        }
        // The node is static (kmod's modules.devname) and nothing answers behind it.
        Some(libc::ENODEV | libc::ENXIO) => Err(missing("opening /dev/zfs loads none")),
        _ => Err(Error::Control(first)),
    }
}

fn open_control(path: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(path).map(drop)
}

/// Opens a node of our own with the module's well-known number: the kernel then
/// loads the module just as it does for `/dev/zfs`.
fn ask_through_private_node() -> Result<()> {
    let node = format!("/dev/.keystone-zfs-{}", std::process::id());
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    mknod(node.as_str(), SFlag::S_IFCHR, mode, makedev(MISC_MAJOR, ZFS_MINOR)).map_err(|e| {
        missing(&format!("there is no /dev/zfs, and no device node can be made ({e})"))
    })?;
    let opened = open_control(Path::new(&node));
    let _ = fs::remove_file(&node);
    opened.map_err(|e| match e.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => {
            missing("there is no /dev/zfs, and asking for its number loads none")
        }
        _ => Error::Control(e),
    })
}

fn wait_for_control() -> Result<()> {
    let deadline = Instant::now() + NODE_WAIT;
    loop {
        match open_control(Path::new(CONTROL)) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(50));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Timeout { what: CONTROL.into(), seconds: NODE_WAIT.as_secs() });
            }
            Err(e) => return Err(Error::Control(e)),
        }
    }
}

fn missing(reason: &str) -> Error {
    Error::ModuleMissing { kernel: kernel_release(), reason: reason.into() }
}

/// Release of the running kernel, as `uname -r` prints it.
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|u| u.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Version of the loaded module, such as `2.3.2-1`; None if it is not loaded.
pub fn module_version() -> Option<String> {
    let version = fs::read_to_string(format!("{SYSFS}/version")).ok()?;
    Some(version.trim().to_owned())
}

/// Names (`feature@NAME`) of the pool features that a pool can be made with here, sorted:
/// the loaded module supports them and the linked libzfs can enable them. The module's are
/// in sysfs since OpenZFS 0.8, a directory per feature GUID (module/os/linux/zfs/zfs_sysfs.c);
/// of a module newer than the library only the library's are usable.
///
/// # Errors
/// If the directory cannot be read: the module is not loaded.
pub fn module_features() -> Result<Vec<String>> {
    let dir = Path::new(SYSFS).join("features.pool");
    let failed = |source| Error::Device { action: "read", path: dir.clone(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let name =
            fs::read_to_string(entry.map_err(failed)?.path().join("uname")).map_err(failed)?;
        names.push(name.trim().to_owned());
    }
    let known = super::Zfs::known_features();
    names.retain(|name| known.contains(name));
    names.sort();
    Ok(names)
}
