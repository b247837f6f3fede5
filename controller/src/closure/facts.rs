//! What makes a path a NixOS system, and what the planner needs to know of it.

use super::error::ClosureError;
use super::files::{Files, present};
use super::store::store_path_of;
use super::{boot, enrolment, fstab, zfs};
use keystone_protocol::manifest::Manifest;
use keystone_protocol::options::ClosureFacts;
use std::collections::HashSet;
use std::path::Path;

/// What every toplevel has, by nixpkgs' top-level.nix; checked in this order.
const REQUIRED: &[&str] = &["init", "activate", "boot.json", "etc", "sw", "system"];

/// Programs that install other boot loaders, by the end of their names in `switch-to-configuration`, and what
/// they install. Source: nixpkgs, `nixos/modules/system/boot/loader`.
const OTHER_LOADERS: &[(&str, &str)] =
    &[("-install-grub.sh", "GRUB"), ("-extlinux-conf-builder.sh", "extlinux")];

/// Reads and checks the facts.
pub fn read(files: &dyn Files, manifest: &Manifest) -> Result<ClosureFacts, ClosureError> {
    let toplevel = &manifest.toplevel;
    let members: HashSet<&str> = manifest.paths.iter().map(|p| p.path.as_str()).collect();
    let reader = Reader { files, members: &members };
    let top = Path::new(toplevel);

    let mut missing: Vec<String> = Vec::new();
    for name in REQUIRED {
        if !reader.exists(&top.join(name))? {
            missing.push((*name).to_owned());
        }
    }
    if !missing.is_empty() {
        return Err(ClosureError::NotASystem { toplevel: toplevel.clone(), missing });
    }
    let Some(switch) = reader.bytes(&top.join("bin/switch-to-configuration"))? else {
        return Err(ClosureError::NoSwitch { toplevel: toplevel.clone() });
    };
    // A script, or a program that a wrapper gives the installer's path.
    let names = |part: &str| switch.windows(part.len()).any(|at| at == part.as_bytes());
    if let Some((_, loader)) = OTHER_LOADERS.iter().find(|(installer, _)| names(installer)) {
        return Err(ClosureError::BootLoader { toplevel: toplevel.clone(), loader });
    }
    let system = reader.text(&top.join("system"))?.unwrap_or_default().trim().to_owned();
    if !system.ends_with("-linux") {
        return Err(ClosureError::NotLinux { toplevel: toplevel.clone(), system });
    }
    let boot_json = reader.bytes(&top.join("boot.json"))?.unwrap_or_default();
    let boot = boot::read(files, toplevel, &members, &boot_json)?;
    let fstab = match reader.text(&top.join("etc/fstab"))? {
        Some(text) => fstab::parse(toplevel, &text)?,
        None => Vec::new(),
    };
    let hostid = match reader.bytes(&top.join("etc/hostid"))? {
        Some(bytes) => hostid(toplevel, &bytes)?,
        None => None,
    };
    let zfs_root = fstab.iter().any(|entry| entry.target == "/" && entry.fstype == "zfs");
    if zfs_root && hostid.is_none() {
        return Err(ClosureError::NoHostid { toplevel: toplevel.clone() });
    }
    let hostname = reader.text(&top.join("etc/hostname"))?.map(|name| name.trim().to_owned());
    Ok(ClosureFacts {
        toplevel: toplevel.clone(),
        system,
        paths: manifest.paths.len() as u64,
        nar_bytes: manifest.nar_bytes(),
        boot_bytes: boot.bytes,
        hostid,
        hostname: hostname.filter(|name| !name.is_empty()),
        fstab,
        zfs_version: zfs::version(files, toplevel, &members)?,
        enrols_secure_boot_keys: enrolment::enrols_keys(files, toplevel, &members)?,
    })
}

/// `/etc/hostid`: four bytes in the machine's order (gethostid(3)), little-endian on every
/// platform that NixOS has; zero means none.
fn hostid(toplevel: &str, bytes: &[u8]) -> Result<Option<u32>, ClosureError> {
    let bytes: [u8; 4] = bytes.try_into().map_err(|_| ClosureError::BadHostid {
        toplevel: toplevel.to_owned(),
        length: bytes.len(),
    })?;
    Ok(Some(u32::from_le_bytes(bytes)).filter(|&id| id != 0))
}

/// Reads files that lie in the closure, however many links lead there.
struct Reader<'a> {
    files: &'a dyn Files,
    members: &'a HashSet<&'a str>,
}

impl Reader<'_> {
    fn exists(&self, path: &Path) -> Result<bool, ClosureError> {
        let fail = |source| ClosureError::Read { path: path.to_owned(), source };
        self.files.exists(path).map_err(fail)
    }

    fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>, ClosureError> {
        let fail = |source| ClosureError::Read { path: path.to_owned(), source };
        let Some(resolved) = present(self.files.resolve(path)).map_err(fail)? else {
            return Ok(None);
        };
        let inside = store_path_of(&resolved).is_some_and(|p| self.members.contains(p.as_str()));
        if !inside {
            return Err(ClosureError::LeadsOut {
                path: path.display().to_string(),
                target: resolved.display().to_string(),
            });
        }
        self.files.read(&resolved).map_err(fail)
    }

    fn text(&self, path: &Path) -> Result<Option<String>, ClosureError> {
        Ok(self.bytes(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}
