//! The kexec image: the live system in an initrd, with a program that boots it on a machine that
//! runs something else. Its form is that of nixos-images' kexec tarballs (`kexec/run`, `kexec/kexec`,
//! `kexec/ip`, `kexec/bzImage`, `kexec/initrd`).
//!
//! Root's `authorized_keys` are not in it: they come from the machine that it is booted on.

use super::{Variant, image, initrd, tree, write};
use crate::debian::{self, Root};
use crate::lab::Lab;
use crate::run::run;
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("../../installer/kexec-init.sh");
const RUN: &str = include_str!("../../installer/kexec-run.sh");

/// Modules to load, in this order, after what each depends on.
const MODULES: &[&str] = &["loop", "squashfs", "overlay"];

const APPLETS: &[&str] =
    &["sh", "mount", "umount", "insmod", "mkdir", "cp", "chmod", "switch_root"];

/// Copies `kexec` and `ip` with the libraries that they need out of the root `$1` to `$1/out/kexec`,
/// each behind a script that starts it with them: the machine's own may be others.
const COLLECT: &str = r#"set -eu
out=$1/out/kexec
mkdir -p "$out/lib"
for program in kexec ip; do
    file=$(chroot "$1" /bin/sh -c "PATH=/usr/sbin:/usr/bin:/sbin:/bin; command -v $program")
    cp -L "$1$file" "$out/lib/$program"
    chroot "$1" ldd "$file" | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p' | while read -r library; do
        cp -L "$1$library" "$out/lib/"
    done
    printf '#!/bin/sh\nlib=$(dirname "$0")/lib\nexec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$lib/%s" "$@"\n' $program > "$out/$program"
    chmod 755 "$out/$program"
done
test -x "$out/lib/ld-linux-x86-64.so.2"
"#;

/// The image, a `.tar.gz`, built if it is not in the cache.
///
/// # Errors
/// A root, the kernel or the image could not be built.
pub fn kexec_image(lab: &Lab) -> Result<PathBuf> {
    let kernel = debian::kernel(lab)?;
    let root = Variant::Installer.root().build(lab)?;
    let tools = Root::new("kexec", &["kexec-tools", "iproute2"]).customize(COLLECT).build(lab)?;
    let recipe = format!(
        "{} {} {} {} {INIT} {RUN} {MODULES:?} {APPLETS:?} {}",
        kernel.image.display(),
        root.display(),
        tools.display(),
        tree::recipe(),
        image::command_line(),
    );
    let dir = lab.artefact("kexec-image", &recipe, |dir| {
        let tree = dir.join("tree");
        tree::make(&root, &kernel, "", &tree)?;
        fs::remove_file(tree.join("root/.ssh/authorized_keys"))?;
        let squashfs = dir.join("root.squashfs");
        // Compressed: it is sent, kept in memory twice, and of it only what runs is unpacked.
        run(Command::new("mksquashfs")
            .args([&tree, &squashfs])
            .args(["-comp", "zstd", "-Xcompression-level", "3", "-no-progress", "-quiet"])
            .args([
                "-no-xattrs",
                "-e",
                "proc/*",
                "sys/*",
                "dev/*",
                "run/*",
                "tmp/*",
                "-wildcards",
            ]))
        .context("packing the root: install squashfs-tools")?;
        let files = dir.join("kexec");
        run(Command::new("cp").arg("-a").args([&tools.join("out/kexec"), &files]))?;
        fs::copy(&kernel.image, files.join("bzImage"))?;
        let content = initrd::Content {
            init: INIT,
            modules: MODULES,
            applets: APPLETS,
            files: &[(squashfs.as_path(), "root.squashfs")],
        };
        initrd::pack(&kernel, &content, &files.join("initrd"))?;
        write(&files, "run", RUN.replace("@COMMAND_LINE@", image::command_line()))?;
        fs::set_permissions(files.join("run"), fs::Permissions::from_mode(0o755))?;
        archive(dir)?;
        let parts = [&tree, &squashfs, &files];
        run(Command::new("rm").args(["-rf", "--one-file-system"]).args(parts))?;
        Ok(())
    })?;
    Ok(dir.join("kexec.tar.gz"))
}

fn archive(dir: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "-I", "gzip -1", "-cf"]);
    run(tar.arg(dir.join("kexec.tar.gz")).arg("-C").arg(dir).arg("kexec"))?;
    Ok(())
}
