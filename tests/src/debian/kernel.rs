//! The kernel of all machines, with OpenZFS's modules built by DKMS.
//!
//! Debian's *cloud* flavour has all that the machines need (virtio, TPM, dm-crypt,
//! squashfs, overlayfs, efivarfs, vfat, ext4; checked in its configuration) at a
//! third of the size of the generic one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::Root;
use crate::{lab::Lab, run};

/// A kernel and what boots with it.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says.
    pub version: String,
    /// The bzImage, with its EFI stub.
    pub image: PathBuf,
    /// `lib/modules/<version>`: uncompressed modules, OpenZFS's among them, and depmod's indices.
    pub modules: PathBuf,
    /// Version of the OpenZFS modules, as `modinfo` says.
    pub zfs_version: String,
    /// `systemd-bootx64.efi`, and the stub for unified kernel images beside it.
    pub systemd_boot: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
}

const PACKAGES: &[&str] = &[
    "linux-image-cloud-amd64",
    "linux-headers-cloud-amd64",
    "zfs-dkms",
    "kmod",
    "systemd-boot-efi",
    "busybox-static",
];

/// Copies what machines need out of the root `$1` to `$ROOT/out`; modules are
/// unpacked, because unpacking them at every boot costs an emulated machine more.
const COLLECT: &str = r#"set -eu
version=$(ls "$1/usr/lib/modules")
case "$version" in *' '*|*'
'*) echo "more than one kernel: $version" >&2; exit 1;; esac
modules=$1/usr/lib/modules/$version
if [ ! -e "$modules/updates/dkms/zfs.ko.xz" ]; then
    cat "$1"/var/lib/dkms/zfs/*/build/make.log >&2 || true
    echo "DKMS left no zfs module for $version" >&2; exit 1
fi
find "$modules" -name '*.ko.xz' -print0 | xargs -0 -r -n 64 -P 2 xz -d
chroot "$1" depmod "$version"
out=$1/out
mkdir -p "$out/lib/modules"
echo "$version" > "$out/version"
chroot "$1" modinfo -k "$version" -F version zfs > "$out/zfs-version"
cp "$1/boot/vmlinuz-$version" "$out/vmlinuz"
cp "$1/boot/config-$version" "$out/config"
rm -f "$modules/build" "$modules/source"
mv "$modules" "$out/lib/modules/"
cp "$1"/usr/lib/systemd/boot/efi/systemd-bootx64.efi "$1"/usr/lib/systemd/boot/efi/linuxx64.efi.stub "$out/"
cp "$1/usr/bin/busybox" "$out/"
"#;

/// The kernel, built if it is not in the cache (some minutes: OpenZFS is compiled).
///
/// # Errors
/// The root could not be made or DKMS failed; its log is in the error.
pub fn kernel(lab: &Lab) -> Result<Kernel> {
    let recipe = format!("{} {PACKAGES:?} {COLLECT}", super::SUITE);
    let dir = lab.artefact("kernel", &recipe, |dir| {
        // The root with the compiler is needed only until the modules are out of it.
        let scratch = Lab::at(&dir.join("scratch"))?;
        std::os::unix::fs::symlink(lab.dir("debs")?, scratch.cache().join("debs"))?;
        let root = Root::new("dkms", PACKAGES).customize(COLLECT).build(&scratch)?;
        for entry in fs::read_dir(root.join("out"))? {
            let path = entry?.path();
            run::run(Command::new("mv").arg(&path).arg(dir))?;
        }
        run::run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(scratch.cache()))?;
        Ok(())
    })?;
    Kernel::read(&dir)
}

impl Kernel {
    fn read(dir: &Path) -> Result<Kernel> {
        let line = |name: &str| -> Result<String> {
            let text =
                fs::read_to_string(dir.join(name)).with_context(|| format!("reading {name}"))?;
            Ok(text.trim().to_owned())
        };
        let version = line("version")?;
        let zfs_version = line("zfs-version")?;
        ensure!(zfs_version.starts_with("2.3."), "expected OpenZFS 2.3, DKMS built {zfs_version}");
        Ok(Kernel {
            image: dir.join("vmlinuz"),
            modules: dir.join("lib/modules").join(&version),
            systemd_boot: dir.join("systemd-bootx64.efi"),
            busybox: dir.join("busybox"),
            version,
            zfs_version,
        })
    }
}
