//! Who uses an imported pool, asked before it is exported or destroyed.
//!
//! The kernel answers `pool is busy` without saying who, and has by then removed the
//! block devices of all unopened volumes, which come back at the next import only
//! (OpenZFS 2.3 module/zfs/spa.c, spa_export_common). So it is asked only if nobody
//! is found here.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    block::{Roots, find, holders},
    mount::table::{self, MountPoint},
};

/// A phrase for each mount of a dataset of the pool, in any mount namespace, and for
/// each user of a volume of the pool.
pub(super) fn of(roots: &Roots, pool: &str) -> Vec<String> {
    let mut found = mounts(roots, pool);
    for (device, dataset) in find::zvols(roots) {
        if is_in(&dataset, pool) {
            let users = holders::phrases(roots, &device);
            found.extend(users.iter().map(|user| format!("volume {dataset} is used by {user}")));
        }
    }
    found
}

fn is_in(dataset: &str, pool: &str) -> bool {
    dataset.strip_prefix(pool).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '@']))
}

fn mounts(roots: &Roots, pool: &str) -> Vec<String> {
    let of_pool = |mount: &MountPoint| mount.fstype == "zfs" && is_in(&mount.source, pool);
    let own = roots.proc.join("self");
    let mut namespaces = BTreeSet::from([namespace(&own)]);
    let phrase = |mount: MountPoint| format!("{} is mounted at {}", mount.source, mount.target);
    let mut found: Vec<String> =
        table::read(roots).unwrap_or_default().into_iter().filter(of_pool).map(phrase).collect();
    for process in processes(&roots.proc) {
        if namespaces.insert(namespace(&process)) {
            let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            let pid = process.file_name().unwrap_or_default().to_string_lossy();
            let of = format!("in the mount namespace of process {pid} ({})", name.trim());
            let mounts = table::parse(&text).into_iter().filter(of_pool);
            found.extend(mounts.map(|mount| format!("{} {of}", phrase(mount))));
        }
    }
    found
}

fn processes(proc: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    entries.map(|entry| entry.path()).filter(|path| number(path).is_some()).collect()
}

/// Identity of a process' mount namespace; None if it is gone or not ours to ask.
fn namespace(process: &Path) -> Option<PathBuf> {
    fs::read_link(process.join("ns/mnt")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn process(roots: &Roots, name: &str, namespace: &str, mountinfo: &str) {
        let dir = roots.proc.join(name);
        fs::create_dir_all(dir.join("ns")).unwrap();
        symlink(namespace, dir.join("ns/mnt")).unwrap();
        fs::write(dir.join("mountinfo"), mountinfo).unwrap();
        fs::write(dir.join("comm"), "gpg-agent\n").unwrap();
    }

    #[test]
    fn mounts_are_named_in_every_namespace() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        let line =
            |source: &str, target: &str| format!("30 29 0:50 / {target} rw - zfs {source} rw\n");
        let own = line("rpool/crypt", "/mnt") + &line("rpool2/data", "/data");
        process(&roots, "self", "mnt:[1]", &own);
        process(&roots, "1", "mnt:[1]", &own);
        process(&roots, "77", "mnt:[2]", &line("rpool/crypt/var", "/var"));
        assert_eq!(
            of(&roots, "rpool"),
            [
                "rpool/crypt is mounted at /mnt",
                "rpool/crypt/var is mounted at /var in the mount namespace of process 77 (gpg-agent)",
            ]
        );
        assert_eq!(of(&roots, "pool"), [""; 0]);
    }
}
