//! Whether the system will enrol Secure Boot keys.
//!
//! A system that enrols its keys at the first boot, or already when it is activated, changes
//! PCR 7 between the installation and the boot that has to unlock: what is sealed to PCR 7 now
//! would not open then. Known ways, recognised by the commands and paths that they use:
//! `sbctl enroll-keys` (Keystone's own module, lanzaboote with `autoEnrollKeys`),
//! `loader/keys/auto` and `secure-boot-enroll` (systemd-boot(7)), `bootctl
//! --secure-boot-auto-enroll`. A false positive costs a password prompt; a miss costs the boot.

use super::error::ClosureError;
use super::files::{Files, present};
use super::store::{store_path_of, store_paths_in};
use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};

const MARKS: &[&str] =
    &["enroll-keys", "loader/keys/auto", "secure-boot-enroll", "--secure-boot-auto-enroll"];
/// Scripts and units are small; what is larger is a program.
const MAX_SCRIPT: u64 = 256 << 10;
/// Files looked into at most.
const MAX_FILES: usize = 5000;
/// `activate` names a script, that names the loader's hook, that names its configuration.
const MAX_DEPTH: usize = 3;

/// Looks into activation, the boot loader's installer, the units, and the scripts these name.
///
/// What is not there is passed over; what can't be read is an error, since a miss costs the boot.
pub fn enrols_keys(
    files: &dyn Files,
    toplevel: &str,
    members: &HashSet<&str>,
) -> Result<bool, ClosureError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| ClosureError::Read { path, source }
    };
    let top = Path::new(toplevel);
    let mut level: BTreeSet<PathBuf> =
        [top.join("activate"), top.join("bin/switch-to-configuration")].into();
    for units in ["etc/systemd/system", "etc/systemd/system-generators"] {
        let units = top.join(units);
        let Some(dir) = present(files.resolve(&units)).map_err(at(&units))? else { continue };
        let Some(names) = present(files.names(&dir)).map_err(at(&dir))? else { continue };
        level.extend(names.into_iter().map(|name| dir.join(name)));
    }
    let mut seen: HashSet<PathBuf> = HashSet::new();
    for _ in 0..=MAX_DEPTH {
        let mut next = BTreeSet::new();
        for named in level {
            let Some(path) = present(files.resolve(&named)).map_err(at(&named))? else { continue };
            let inside = store_path_of(&path).is_some_and(|p| members.contains(p.as_str()));
            if !inside || seen.len() >= MAX_FILES || !seen.insert(path.clone()) {
                continue;
            }
            let Some(text) = files.text(&path, MAX_SCRIPT).map_err(at(&path))? else { continue };
            if MARKS.iter().any(|mark| text.contains(mark)) {
                return Ok(true);
            }
            next.extend(files_named_in(&text));
        }
        level = next;
    }
    Ok(false)
}

/// Full paths (`/nix/store/…-x/bin/y`) in a text.
fn files_named_in(text: &str) -> impl Iterator<Item = PathBuf> {
    store_paths_in(text).map(move |path| {
        let start = path.as_ptr() as usize - text.as_ptr() as usize;
        let rest = &text[start + path.len()..];
        let more = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || "/+-._?=@".contains(c)))
            .unwrap_or(rest.len());
        PathBuf::from(&text[start..start + path.len() + more])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::Store;

    #[test]
    fn found_in_a_script_that_activation_names() {
        let dir = tempfile::tempdir().unwrap();
        let hash = "0123456789abcdfghijklmnpqrsvwxyz";
        let (top, script) =
            (format!("/nix/store/{hash}-system"), format!("/nix/store/{hash}-provision"));
        for path in [&top, &script] {
            std::fs::create_dir_all(dir.path().join(&path[1..]).join("bin")).unwrap();
        }
        let write =
            |path: &str, text: &str| std::fs::write(dir.path().join(&path[1..]), text).unwrap();
        write(
            &format!("{top}/activate"),
            &format!("#!/bin/sh\nexec {script}/bin/provision.sh; true\n"),
        );
        write(&format!("{script}/bin/provision.sh"), "sbctl create-keys\n");
        let members: HashSet<&str> = [top.as_str(), script.as_str()].into();
        // As the store of the running system has it: a masked unit leads to a device.
        let units = dir.path().join(&top[1..]).join("etc/systemd/system");
        std::fs::create_dir_all(&units).unwrap();
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("dev/null"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/dev/null", units.join("masked.service")).unwrap();
        let store = Store::below(dir.path());
        assert!(!enrols_keys(&store, &top, &members).unwrap());
        write(&format!("{script}/bin/provision.sh"), "sbctl enroll-keys --microsoft\n");
        assert!(enrols_keys(&store, &top, &members).unwrap());
    }
}
