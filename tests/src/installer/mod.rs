//! The installer's boot medium: a read-only live system as Keystone's ISO is one.
//!
//! A GPT image with an ESP (systemd-boot, kernel, a small initrd) and a squashfs
//! that is the root, under a writable layer of memory. It has sshd (keys only),
//! udev, all kernel modules with OpenZFS's among them, and `mkfs.ext4`; it has no
//! nix, zpool, zfs, cryptsetup, sgdisk or parted, nor the udev helpers that come
//! with them: of OpenZFS and LUKS there is only what the kernel brings.
//!
//! [`Variant::Oracle`] is the same system with those tools, to hold the
//! installer's results against what they make and read.
//!
//! | module | job |
//! |---|---|
//! | `tree` | the root's files |
//! | `initrd` | from the kernel to systemd |
//! | `image` | the disk image |
//! | [`running`] | what makes the live system one that is no installer |
//! | `kexec` | the live system as a kexec image |

mod image;
mod initrd;
mod kexec;
pub mod running;
mod tree;

pub use kexec::kexec_image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    debian::{self, Root},
    lab::Lab,
    run::run,
};

/// The host id of the live system, as of Keystone's ISO.
pub const HOSTID: u32 = 0x8425_e349;

/// The name of the medium's root partition.
const LABEL: &str = "keystone-installer";

/// What the live system can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// What an installer medium has.
    Installer,
    /// The same as a Debian that is no installer.
    Debian,
    /// The same with the ordinary tools for disks, pools and containers.
    Oracle,
}

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Variant::Installer => "installer",
            Variant::Debian => "debian",
            Variant::Oracle => "oracle",
        }
    }

    fn root(self) -> Root {
        let mut packages = vec![
            "systemd",
            "systemd-sysv",
            "udev",
            "kmod",
            "openssh-server",
            "openssh-sftp-server",
            "iproute2",
        ];
        packages.extend(["e2fsprogs", "procps", "zstd"]);
        if self == Variant::Oracle {
            packages.extend([
                "zfsutils-linux",
                "cryptsetup-bin",
                "gdisk",
                "dosfstools",
                "fdisk",
                "parted",
                "lvm2",
                "mdadm",
                "btrfs-progs",
                "f2fs-tools",
                "thin-provisioning-tools",
                "xfsprogs",
            ]);
            packages.extend([
                "systemd-cryptsetup",
                "libtss2-esys-3.0.2-0t64",
                "libtss2-mu-4.0.1-0t64",
            ]);
            packages.extend([
                "libtss2-rc0t64",
                "libtss2-tcti-device0t64",
                "tpm2-tools",
                "sqlite3",
                "nix-bin",
                "jq",
            ]);
        }
        if self == Variant::Debian {
            packages.extend(["sudo", "cpio"]);
            return running::root(Root::new(self.name(), &packages));
        }
        Root::new(self.name(), &packages)
    }
}

/// A boot medium.
#[derive(Debug, Clone)]
pub struct Medium {
    /// The disk image; attach it read-only.
    pub image: PathBuf,
    /// The private key that root's `authorized_keys` names.
    pub key: PathBuf,
}

/// The boot medium, built if it is not in the cache.
///
/// # Errors
/// A root, the kernel or the image could not be built.
pub fn medium(lab: &Lab, variant: Variant) -> Result<Medium> {
    let key = key(lab)?;
    let public = fs::read_to_string(key.with_extension("pub"))?;
    let kernel = debian::kernel(lab)?;
    let root = variant.root().build(lab)?;
    let mut recipe = format!(
        "{} {} {public} {} {} {}",
        kernel.image.display(),
        root.display(),
        tree::recipe(),
        initrd::recipe(),
        image::recipe(),
    );
    if variant == Variant::Debian {
        recipe += &running::recipe();
    }
    let dir = lab.artefact(&format!("medium-{}", variant.name()), &recipe, |dir| {
        let tree = dir.join("tree");
        tree::make(&root, &kernel, &public, &tree)?;
        if variant == Variant::Debian {
            running::change(&tree, &public)?;
        }
        let initrd = dir.join("initrd");
        initrd::make(&kernel, &initrd)?;
        image::make(&kernel, &initrd, &tree, &dir.join("medium.img"))?;
        run(Command::new("rm").args(["-rf", "--one-file-system"]).args([&tree, &initrd]))?;
        Ok(())
    })?;
    Ok(Medium { image: dir.join("medium.img"), key })
}

/// The lab's own SSH key, made on first use: `<cache>/ssh/id_ed25519`.
///
/// # Errors
/// `ssh-keygen` is missing or failed.
pub fn key(lab: &Lab) -> Result<PathBuf> {
    const NAME: &str = "id_ed25519";
    // Both halves are there at once, and of one key, whoever else makes it.
    let made = lab.artefact("ssh-key", "ed25519", |dir| {
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "keystone-lab", "-f"])
            .arg(dir.join(NAME)))
        .context("making the lab's SSH key: install openssh-client")
        .map(drop)
    })?;
    Ok(made.join(NAME))
}

/// Writes `text` to `root/path`, with the directories it needs.
fn write(root: &Path, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}
