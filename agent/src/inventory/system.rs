//! The running system.

use crate::block::Roots;
use keystone_protocol::inventory::System;
use std::collections::BTreeMap;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Describes the running system.
pub fn read(roots: &Roots) -> System {
    let uname = nix::sys::utsname::uname().ok();
    let word = |of: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname.as_ref().map(|uname| of(uname).to_string_lossy().into_owned()).unwrap_or_default()
    };
    let release = os_release(&fs::read_to_string(roots.etc.join("os-release")).unwrap_or_default());
    System {
        hostname: word(|uname| uname.nodename()),
        platform: format!("{}-linux", word(|uname| uname.machine())),
        kernel: word(|uname| uname.release()),
        boot_id: boot_id_at(roots).unwrap_or_default(),
        os_id: release.get("ID").cloned(),
        variant_id: release.get("VARIANT_ID").cloned(),
        hostid: hostid(roots),
        product: trimmed(roots.sys.join("class/dmi/id/product_name")),
        clock: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    }
}

/// The kernel's random id of this boot.
pub fn boot_id() -> Option<String> {
    boot_id_at(&Roots::default())
}

fn boot_id_at(roots: &Roots) -> Option<String> {
    trimmed(roots.proc.join("sys/kernel/random/boot_id"))
}

fn trimmed(path: std::path::PathBuf) -> Option<String> {
    let text = fs::read_to_string(path).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// What a pool is marked with when it is imported here (OpenZFS 2.3
/// `module/os/linux/spl/spl-generic.c`, `zone_get_hostid`): the module's parameter, else the four
/// bytes of `/etc/hostid` in the machine's byte order, else 0.
fn hostid(roots: &Roots) -> u32 {
    let parameter = trimmed(roots.sys.join("module/spl/parameters/spl_hostid"))
        .and_then(|text| parse_number(&text))
        .filter(|id| *id != 0);
    let file = || {
        let bytes = fs::read(roots.etc.join("hostid")).ok()?;
        Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
    };
    parameter.or_else(file).unwrap_or(0)
}

fn parse_number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `os-release(5)`: assignments, values quoted or not.
fn os_release(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(key, _)| !key.starts_with('#'))
        .map(|(key, value)| {
            let quoted =
                |quote| value.strip_prefix(quote).and_then(|v: &str| v.strip_suffix(quote));
            let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::sysfs::tests::tree;

    #[test]
    fn os_release_values() {
        let release = os_release(
            "NAME=NixOS\nID=nixos\n# VARIANT_ID=no\nVARIANT_ID=\"installer\"\nPRETTY_NAME='a b'\n\n",
        );
        assert_eq!(release["ID"], "nixos");
        assert_eq!(release["VARIANT_ID"], "installer");
        assert_eq!(release["PRETTY_NAME"], "a b");
        assert_eq!(release.len(), 4);
    }

    #[test]
    fn hostid_from_the_module_then_from_the_file() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots::below(root.path());
        assert_eq!(hostid(&roots), 0);
        fs::create_dir(&roots.etc).unwrap();
        fs::write(roots.etc.join("hostid"), 0x8425_e349_u32.to_ne_bytes()).unwrap();
        assert_eq!(hostid(&roots), 0x8425_e349);
        tree(root.path(), &[("sys/module/spl/parameters/spl_hostid", "0\n")]);
        assert_eq!(hostid(&roots), 0x8425_e349);
        tree(root.path(), &[("sys/module/spl/parameters/spl_hostid", "3735928559\n")]);
        assert_eq!(hostid(&roots), 0xdead_beef);
    }
}
