//! The C libraries the agent links statically, and the agent itself.
//!
//! Debian ships no static libcryptsetup or libdevmapper, so both are built here
//! from Debian's *source* packages (trixie: cryptsetup 2.7, lvm2's libdm 1.02);
//! libzfs, libzfs_core, libnvpair and libuutil come ready from
//! `libzfslinux-dev`, which is unpacked and never installed. Everything lands in
//! one prefix, `<lab cache>/native`:
//!
//! ```text
//! native/lib/*.a              static libraries (and lib/pkgconfig/*.pc)
//! native/include/             libcryptsetup.h, libdevmapper.h
//! native/include/{libzfs,libspl}/   OpenZFS headers, as Debian lays them out
//! native/versions.json        which package version each came from
//! native/env.sh               for developers: `. …/env.sh`, then plain cargo
//! ```
//!
//! # Use
//!
//! - `cargo lab native` builds what is missing (a minute), says nothing new otherwise.
//! - `cargo lab agent` builds the release agent and checks that it is static.
//! - `cargo lab agent-cargo test luks::` runs any cargo command on the agent's
//!   crate in that environment; the same without the wrapper:
//!   `. $CARGO_TARGET_DIR/lab/native/env.sh && cargo test -p keystone-agent luks::`.
//!
//! # Why an explicit target
//!
//! `+crt-static` reaches the agent through
//! `CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS` together with
//! `CARGO_BUILD_TARGET`: with a target named, cargo keeps flags away from build
//! scripts and procedural macros (which cannot be linked statically), and puts
//! the artefacts beside, not over, those of ordinary builds.

mod agent;
mod apt;
mod elf;
mod recipes;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

pub use agent::{MAX_AGENT_BYTES, agent_cargo, build_agent, build_example};
pub(crate) use apt::machine_mirror;
pub use elf::is_static;

/// The only target the agent is built for so far.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Debian packages the build needs on this machine.
pub const HOST_PACKAGES: &[&str] = &[
    "autoconf",
    "automake",
    "autopoint",
    "build-essential",
    "debian-archive-keyring",
    "dpkg-dev",
    "gettext",
    "libaio-dev",
    "libblkid-dev",
    "libclang-dev",
    "libjson-c-dev",
    "libpopt-dev",
    "libssl-dev",
    "libtirpc-dev",
    "libtool",
    "pkg-config",
    "uuid-dev",
    "zlib1g-dev",
];

/// The prefix with the static libraries and the environment that finds them.
#[derive(Debug, Clone)]
pub struct NativeEnv {
    /// `<lab cache>/native`.
    pub prefix: PathBuf,
    /// Environment for cargo, complete: see the module's documentation.
    pub vars: BTreeMap<&'static str, OsString>,
}

impl NativeEnv {
    /// Sets the environment on `command`.
    pub fn apply<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        // A RUSTFLAGS of the caller's would replace the target's own flags.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").envs(&self.vars)
    }
}

/// The lab's cache directory: `$CARGO_TARGET_DIR/lab`, or `target/lab` of the workspace.
pub fn default_cache() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map(PathBuf::from)
        .unwrap_or_else(|| workspace_root().join("target"))
        .join("lab")
}

/// The workspace this lab was compiled from.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the lab is a member of the workspace")
}

/// Makes sure that the static libraries are in `<cache>/native` and returns the
/// environment to build with. Runs at most one build at a time (file lock).
///
/// # Errors
/// Missing Debian packages are installed when running as root and named
/// otherwise; a failing build names its log file and shows the end of it.
pub fn ensure(cache: &Path) -> Result<NativeEnv> {
    let prefix = cache.join("native");
    fs::create_dir_all(&prefix).with_context(|| format!("creating {}", prefix.display()))?;
    let prefix = prefix.canonicalize()?;
    let lock = fs::File::create(prefix.join("lock"))?;
    lock.lock().context("waiting for another build of the native libraries")?;

    let stamp = prefix.join("stamp");
    let wanted = recipes::stamp(&prefix);
    if fs::read_to_string(&stamp).ok().as_deref() != Some(&wanted) {
        crate::setup::ensure_packages(HOST_PACKAGES)?;
        let _ = fs::remove_file(&stamp);
        let versions = recipes::build_all(&prefix)?;
        let json = serde_json::to_string_pretty(&versions)? + "\n";
        fs::write(prefix.join("versions.json"), json)?;
        write_env_sh(&prefix)?;
        fs::write(&stamp, wanted)?;
    }
    environment(&prefix)
}

fn environment(prefix: &Path) -> Result<NativeEnv> {
    let vars = BTreeMap::from([
        ("KEYSTONE_NATIVE", prefix.as_os_str().to_owned()),
        ("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig").into()),
        ("PKG_CONFIG_ALLOW_CROSS", "1".into()),
        ("LIBCLANG_PATH", libclang()?.into()),
        ("CARGO_BUILD_TARGET", TARGET.into()),
        (
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            format!("-C target-feature=+crt-static -L native={}/lib", prefix.display()).into(),
        ),
    ]);
    Ok(NativeEnv { prefix: prefix.to_owned(), vars })
}

/// The newest LLVM's directory with `libclang.so`, which bindgen loads.
fn libclang() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib")?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.strip_prefix("llvm-")?.parse().ok()?;
            let lib = entry.path().join("lib");
            lib.join("libclang.so.1").exists().then_some((version, lib))
        })
        .collect();
    found.sort();
    let newest = found.pop().context("found no libclang (install libclang-dev)")?;
    Ok(newest.1)
}

fn write_env_sh(prefix: &Path) -> Result<()> {
    let mut text = String::from(
        "# Source this to run plain cargo commands on keystone-agent.\nunset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS\n",
    );
    for (name, value) in &environment(prefix)?.vars {
        let value = value.to_str().context("the cache's path is not UTF-8")?;
        ensure!(!value.contains('\''), "the cache's path contains a quote: {value}");
        text += &format!("export {name}='{value}'\n");
    }
    fs::write(prefix.join("env.sh"), text)?;
    Ok(())
}
