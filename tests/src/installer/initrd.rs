//! The initrd of the live system: busybox, the modules that reach the medium, and `init.sh`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::{LABEL, write};
use crate::{
    debian::Kernel,
    run::{run, text},
};

const INIT: &str = include_str!("../../installer/init.sh");

/// Modules to load, in this order, after what each depends on.
const MODULES: &[&str] = &["virtio_blk", "squashfs", "overlay"];

const APPLETS: &[&str] =
    &["sh", "mount", "umount", "insmod", "grep", "sed", "mkdir", "usleep", "switch_root"];

/// What the initrd is made by, for the cache.
pub(super) fn recipe() -> String {
    format!("{INIT} {MODULES:?} {APPLETS:?}")
}

/// What is in an initrd, besides busybox and directories.
pub(super) struct Content<'a> {
    /// The first process.
    pub(super) init: &'a str,
    /// Modules to load, in this order, after what each depends on.
    pub(super) modules: &'a [&'a str],
    /// Busybox's programs.
    pub(super) applets: &'a [&'a str],
    /// Files, and their names there.
    pub(super) files: &'a [(&'a Path, &'a str)],
}

/// Writes the medium's initrd to `out`.
pub(super) fn make(kernel: &Kernel, out: &Path) -> Result<()> {
    let init = INIT.replace("@LABEL@", LABEL);
    let content = Content { init: &init, modules: MODULES, applets: APPLETS, files: &[] };
    pack(kernel, &content, out)
}

/// Writes an initrd, a plain `newc` archive, to `out`.
pub(super) fn pack(kernel: &Kernel, content: &Content<'_>, out: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    for directory in ["bin", "dev", "proc", "sys", "medium", "writable", "root", "modules"] {
        fs::create_dir(root.join(directory))?;
    }
    fs::copy(&kernel.busybox, root.join("bin/busybox")).context("copying busybox")?;
    for applet in content.applets {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for (file, name) in content.files {
        fs::copy(file, root.join(name)).with_context(|| format!("copying {}", file.display()))?;
    }
    write(root, "init", content.init)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;

    let mut order = String::new();
    for path in with_dependencies(kernel, content.modules)? {
        let name =
            Path::new(&path).file_name().context("a module's path ends in a name")?.to_owned();
        fs::copy(&path, root.join("modules").join(&name))
            .with_context(|| format!("copying {path}"))?;
        order += &format!("/modules/{}\n", name.to_string_lossy());
    }
    write(root, "modules/order", order)?;

    let mut archive = Command::new("sh");
    archive.args(["-euc", "find . -mindepth 1 | LC_ALL=C sort | cpio -o -H newc --quiet --reproducible -R 0:0 > \"$1\"", "sh"]);
    run(archive.arg(out).current_dir(root)).context("packing the initrd: install cpio")?;
    Ok(())
}

/// Paths of `modules` and what they depend on, in the order to load them.
fn with_dependencies(kernel: &Kernel, modules: &[&str]) -> Result<Vec<String>> {
    // `lib/modules/<version>` lies under the directory modprobe is told to look in.
    let base =
        kernel.modules.ancestors().nth(3).context("the kernel's modules lie under lib/modules")?;
    let mut found: Vec<String> = Vec::new();
    for module in modules {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(base).args(["-S", &kernel.version, "--show-depends", module]);
        for line in text(&mut modprobe).with_context(|| format!("looking for {module}"))?.lines() {
            if let Some(path) = line.strip_prefix("insmod ") {
                let path = path.trim().to_owned();
                if !found.contains(&path) {
                    found.push(path);
                }
            }
        }
    }
    Ok(found)
}
