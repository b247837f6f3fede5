//! Where Nix runs: a Debian root with `nix-bin`, in a mount namespace of its own
//! in which the store, the kernel and the expressions are mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::packages::{self, Package};
use crate::{
    debian::{Kernel, Root},
    lab::Lab,
    run,
};

/// Where the builder finds the lab's kernel.
pub(super) const KERNEL: &str = "/in/kernel";
const EXPRESSIONS: &str = "/in/system";
const INPUTS: &str = "/in/inputs.json";
const DEBS: &str = "/debs";

/// Nix itself, and what the scripts in `tests/system` call.
const TOOLS: &[&str] =
    &["nix-bin", "patchelf", "binutils", "kmod", "cpio", "zstd", "xz-utils", "perl-base"];

/// Runs in a new mount namespace: mounts what the builder is to see and enters it.
/// Single user, no sandbox: the machine's own user ids and file systems need not
/// allow more. Nix's system call filter forbids setuid bits, which packages have
/// and which registering a path removes.
const ENTER: &str = r#"set -eu
root=$1 nix=$2 kernel=$3 expressions=$4 inputs=$5
shift 5
mount --make-rprivate /
mount --bind "$nix" "$root/nix"
mount --bind "$kernel" "$root/in/kernel"
mount --bind "$expressions" "$root/in/system"
[ -z "$inputs" ] || mount --bind "$inputs" "$root/in/inputs.json"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
export NIX_CONFIG='build-users-group =
sandbox = false
filter-syscalls = false
substituters =
sync-before-registering = false
fsync-metadata = false
extra-experimental-features = nix-command'
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LC_ALL=C.UTF-8 NIX_CONFIG="$NIX_CONFIG" "$@"
"#;

#[derive(Debug, Clone)]
pub(super) struct Builder {
    root: PathBuf,
    kernel: PathBuf,
    expressions: PathBuf,
}

impl Builder {
    /// The builder's root, with the packages of the reference system downloaded.
    ///
    /// # Errors
    /// The root could not be made or a package could not be had.
    pub(super) fn new(lab: &Lab, kernel: &Kernel, expressions: &Path) -> Result<Builder> {
        let list = packages::list(expressions)?;
        let wanted = packages::wanted(&list).join(" ");
        // An empty status file: apt then names everything, essential packages too if wanted.
        let download = format!(
            r#"set -eu
mkdir -p "$1{DEBS}/partial" "$1/in/kernel" "$1/in/system" "$1/nix"
touch "$1/in/inputs.json"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --yes --download-only --no-install-recommends \
    -o Dir::State::status=/dev/null -o Dir::Cache::archives="$1{DEBS}" {wanted}
"#
        );
        let root = Root::new("nix", TOOLS).customize(&download).build(lab)?;
        // <kernel>/lib/modules/<version>
        let kernel = kernel.modules.ancestors().nth(3).context("where the kernel is")?.to_owned();
        Ok(Builder { root, kernel, expressions: expressions.to_owned() })
    }

    /// Changes whenever the kernel's directory is another.
    pub(super) fn kernel_id(&self) -> String {
        self.kernel.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The packages of the reference system, each after the ones it depends on.
    ///
    /// # Errors
    /// A package cannot be read.
    pub(super) fn packages(&self) -> Result<Vec<Package>> {
        packages::read(&self.root.join(&DEBS[1..]), DEBS)
    }

    /// Builds all variants into the store below `root`, and returns their names and paths as JSON.
    ///
    /// # Errors
    /// A build failed.
    pub(super) fn build(&self, root: &Path, inputs: &Path) -> Result<String> {
        let expression = format!("import {EXPRESSIONS} {{ inputs = {INPUTS}; }}");
        let paths = format!("builtins.mapAttrs (name: system: system.outPath) ({expression})");
        let toplevels = self.text(
            root,
            Some(inputs),
            &["nix-instantiate", "--eval", "--strict", "--json", "--expr", &paths],
        )?;
        self.text(
            root,
            Some(inputs),
            &["nix-build", "--no-out-link", "--max-jobs", "auto", "--expr", &expression],
        )?;
        Ok(toplevels)
    }

    /// Runs `command` in the builder, on the store below `root`, and returns what it printed.
    ///
    /// # Errors
    /// It ended with an error.
    pub(super) fn text(
        &self,
        root: &Path,
        inputs: Option<&Path>,
        command: &[&str],
    ) -> Result<String> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--fork", "--kill-child", "sh", "-c", ENTER, "sh"]);
        unshare.arg(&self.root).arg(root.join("nix")).arg(&self.kernel).arg(&self.expressions);
        unshare.arg(inputs.unwrap_or(Path::new(""))).args(command);
        run::text(&mut unshare)
    }
}

/// A hash over the names and contents of all files below `dir`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn hash_tree(dir: &Path) -> Result<String> {
    fn walk(dir: &Path, hasher: &mut blake3::Hasher) -> Result<()> {
        let mut entries: Vec<_> =
            fs::read_dir(dir)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        entries.sort();
        for path in entries {
            hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(b"\0");
            if path.is_dir() {
                hasher.update(b"(");
                walk(&path, hasher)?;
                hasher.update(b")");
            } else {
                hasher.update(blake3::hash(&fs::read(&path)?).as_bytes());
            }
        }
        Ok(())
    }
    let mut hasher = blake3::Hasher::new();
    walk(dir, &mut hasher).with_context(|| format!("reading {}", dir.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}
