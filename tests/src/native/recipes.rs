//! How each library is built. The text of the recipes is the cache's key.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::apt::{Apt, Source};

/// Raised when the code below changes what it makes without the flags changing.
const REVISION: u32 = 2;

/// Where the two source packages come from. trixie's cryptsetup (2.7) is newer
/// than bookworm's by one LUKS2 fix round, and builds on bookworm unchanged.
const SOURCES: Source = Source { kind: "deb-src", suite: "trixie", components: "main" };

/// Where OpenZFS comes from: its static libraries must not need a newer glibc
/// than this machine's (trixie's want `strlcpy`, glibc 2.38).
fn zfs_source() -> Result<Source> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .map(|v| v.trim_matches('"'))
        .unwrap_or_default();
    let suite = match codename {
        "bookworm" => "bookworm-backports",
        "trixie" => "trixie",
        other => anyhow::bail!("knows OpenZFS packages for Debian 12 and 13, not for `{other}`"),
    };
    Ok(Source { kind: "deb", suite, components: "main contrib" })
}

/// libdm only: everything of LVM itself is off. Without udev synchronisation
/// libdm makes the nodes in /dev/mapper itself and waits for no cookie, which
/// would never be released on a system without the device-mapper udev rules.
const LIBDM: &[&str] = &[
    "--enable-static_link",
    "--disable-udev_sync",
    "--disable-udev_rules",
    "--disable-selinux",
    "--disable-readline",
    "--disable-blkid_wiping",
    "--without-systemd",
    "--with-cache=none",
    "--with-thin=none",
    "--with-vdo=none",
    "--with-writecache=none",
    "--with-integrity=none",
];

/// The library without its programs. External tokens are dlopen()ed, which a
/// static program cannot; tokens are plain JSON to the agent.
const LIBCRYPTSETUP: &[&str] = &[
    "--enable-static",
    "--disable-shared",
    "--disable-udev",
    "--disable-external-tokens",
    "--disable-ssh-token",
    "--disable-nls",
    "--disable-asciidoc",
    "--disable-selinux",
    "--disable-cryptsetup",
    "--disable-veritysetup",
    "--disable-integritysetup",
    "--with-crypto_backend=openssl",
];

/// Keeps OpenSSL from loading shared objects, and configurations that name some,
/// of whatever system the agent runs on. A static program that does so gets that
/// system's libc beside its own: with another glibc it crashes in
/// `__libc_early_init`. The optional "legacy" provider has only algorithms that
/// LUKS2 containers made here do not use.
const OPENSSL_ALONE: [(&str, &str); 2] = [
    (
        "bool ossl_threads = false;",
        "bool ossl_threads = false;\n\n\tOPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);",
    ),
    (r#"ossl_legacy = OSSL_PROVIDER_try_load(ossl_ctx, "legacy", 0);"#, "ossl_legacy = NULL;"),
];

const UDEV_STUB: &str = include_str!("udev_stub.c");

/// What the cache must have been made with to be used again.
pub(super) fn stamp(prefix: &Path) -> String {
    format!(
        "{REVISION}\n{}\n{LIBDM:?}\n{LIBCRYPTSETUP:?}\n{OPENSSL_ALONE:?}\n{UDEV_STUB}",
        prefix.display()
    )
}

/// Builds everything into `prefix`; returns the packages' versions by name.
pub(super) fn build_all(prefix: &Path) -> Result<BTreeMap<String, String>> {
    let work = prefix.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    for dir in ["lib/pkgconfig", "include"] {
        fs::create_dir_all(prefix.join(dir))?;
    }
    println!("fetching cryptsetup, lvm2 (source) and libzfslinux-dev");
    let apt = Apt::update(&work.join("apt"), &[SOURCES, zfs_source()?])?;
    let mut versions = BTreeMap::new();
    devmapper(&apt, &work, prefix, &mut versions)?;
    cryptsetup(&apt, &work, prefix, &mut versions)?;
    zfs(&apt, &work, prefix, &mut versions)?;
    udev_stub(&work, prefix)?;
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    Ok(versions)
}

fn devmapper(
    apt: &Apt,
    work: &Path,
    prefix: &Path,
    versions: &mut BTreeMap<String, String>,
) -> Result<()> {
    println!("building libdevmapper");
    let tree = unpack_source(apt, "lvm2", work, versions)?;
    logged(work, "libdm-configure", Command::new("./configure").current_dir(&tree).args(LIBDM))?;
    logged(
        work,
        "libdm-make",
        Command::new("make").current_dir(&tree).arg(jobs()).arg("libdm.device-mapper"),
    )?;
    install(&tree.join("libdm/ioctl/libdevmapper.a"), &prefix.join("lib"))?;
    install(&tree.join("libdm/libdevmapper.h"), &prefix.join("include"))?;
    pkg_config(prefix, "devmapper", &versions["lvm2"], "", "-ldevmapper -lm -lpthread")
}

fn cryptsetup(
    apt: &Apt,
    work: &Path,
    prefix: &Path,
    versions: &mut BTreeMap<String, String>,
) -> Result<()> {
    println!("building libcryptsetup");
    let tree = unpack_source(apt, "cryptsetup", work, versions)?;
    patch(&tree.join("lib/crypto_backend/crypto_openssl.c"), &OPENSSL_ALONE)?;
    logged(
        work,
        "cryptsetup-autoreconf",
        Command::new("autoreconf").current_dir(&tree).arg("-fi"),
    )?;
    logged(
        work,
        "cryptsetup-configure",
        Command::new("./configure")
            .current_dir(&tree)
            .args(LIBCRYPTSETUP)
            .arg(format!("CPPFLAGS=-I{}/include", prefix.display()))
            .arg(format!("LDFLAGS=-L{}/lib", prefix.display()))
            .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")),
    )?;
    logged(
        work,
        "cryptsetup-make",
        Command::new("make").current_dir(&tree).arg(jobs()).arg("libcryptsetup.la"),
    )?;
    install(&tree.join(".libs/libcryptsetup.a"), &prefix.join("lib"))?;
    install(&tree.join("lib/libcryptsetup.h"), &prefix.join("include"))?;
    let version = pc_version(&tree.join("lib/libcryptsetup.pc"))?;
    // Plain names: with +crt-static the linker takes Debian's .a of each.
    let private = "-lcryptsetup -ldevmapper -lblkid -luuid -ljson-c -lcrypto -lm -lpthread";
    pkg_config(prefix, "libcryptsetup", &version, "", private)
}

fn zfs(
    apt: &Apt,
    work: &Path,
    prefix: &Path,
    versions: &mut BTreeMap<String, String>,
) -> Result<()> {
    println!("unpacking libzfs");
    let deb = apt.binary("libzfslinux-dev", &work.join("zfs"))?;
    let tree = work.join("zfs/tree");
    logged(work, "zfs-unpack", Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
    let version = Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Version").output()?;
    versions.insert(
        "libzfslinux-dev".into(),
        String::from_utf8_lossy(&version.stdout).trim().to_owned(),
    );
    for lib in ["libnvpair.a", "libuutil.a", "libzfs.a", "libzfs_core.a"] {
        install(&tree.join("usr/lib/x86_64-linux-gnu").join(lib), &prefix.join("lib"))?;
    }
    for headers in ["libspl", "libzfs"] {
        let to = prefix.join("include").join(headers);
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        fs::rename(tree.join("usr/include").join(headers), &to)
            .with_context(|| format!("moving headers to {}", to.display()))?;
    }
    Ok(())
}

fn udev_stub(work: &Path, prefix: &Path) -> Result<()> {
    let (source, object) = (work.join("udev_stub.c"), work.join("udev_stub.o"));
    fs::write(&source, UDEV_STUB)?;
    let archive = prefix.join("lib/libudev.a");
    let _ = fs::remove_file(&archive);
    logged(
        work,
        "udev-cc",
        Command::new("cc").args(["-O2", "-Wall", "-Werror", "-c", "-o"]).arg(&object).arg(&source),
    )?;
    logged(work, "udev-ar", Command::new("ar").arg("rcs").arg(&archive).arg(&object))
}

fn unpack_source(
    apt: &Apt,
    name: &str,
    work: &Path,
    versions: &mut BTreeMap<String, String>,
) -> Result<PathBuf> {
    let dsc = apt.source(name, &work.join(name))?;
    let text = fs::read_to_string(&dsc)?;
    let version = text
        .lines()
        .find_map(|l| l.strip_prefix("Version: "))
        .context("the .dsc has no version")?;
    versions.insert(name.into(), version.to_owned());
    let tree = work.join(name).join("tree");
    // apt has checked every file against the signed Sources list, so the
    // maintainer's own signature on the .dsc adds nothing here.
    logged(
        work,
        &format!("{name}-unpack"),
        Command::new("dpkg-source").args(["--no-check", "-x"]).arg(&dsc).arg(&tree),
    )?;
    Ok(tree)
}

/// Replaces each text that is there exactly once.
fn patch(file: &Path, replacements: &[(&str, &str)]) -> Result<()> {
    let mut text =
        fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    for (from, to) in replacements {
        ensure!(
            text.matches(from).count() == 1,
            "{} no longer has `{from}` once: look at what to patch now",
            file.display()
        );
        text = text.replace(from, to);
    }
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn pkg_config(prefix: &Path, name: &str, version: &str, requires: &str, libs: &str) -> Result<()> {
    let version = version.split(['-', ':']).next().unwrap_or(version);
    let text = format!(
        "prefix={}\nName: {name}\nDescription: {name}, static, for keystone-agent\nVersion: {version}\n\
         Requires: {requires}\nCflags: -I${{prefix}}/include\nLibs: -L${{prefix}}/lib {libs}\n",
        prefix.display()
    );
    fs::write(prefix.join(format!("lib/pkgconfig/{name}.pc")), text)?;
    Ok(())
}

fn pc_version(pc: &Path) -> Result<String> {
    let text = fs::read_to_string(pc)?;
    let version = text.lines().find_map(|l| l.strip_prefix("Version: "));
    version.map(str::to_owned).with_context(|| format!("{} has no version", pc.display()))
}

fn install(file: &Path, dir: &Path) -> Result<()> {
    let name = file.file_name().context("not a file")?;
    fs::copy(file, dir.join(name)).with_context(|| format!("copying {}", file.display()))?;
    Ok(())
}

fn jobs() -> String {
    format!("-j{}", std::thread::available_parallelism().map_or(1, |n| n.get()))
}

/// Runs `command` with its output in `work/NAME.log`, shown in part on failure.
fn logged(work: &Path, name: &str, command: &mut Command) -> Result<()> {
    let log = work.join(format!("{name}.log"));
    let out = fs::File::create(&log)?;
    let status = command
        .stdin(std::process::Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .with_context(|| format!("running {}", command.get_program().to_string_lossy()))?;
    let text =
        if status.success() { String::new() } else { fs::read_to_string(&log).unwrap_or_default() };
    let end: Vec<&str> = text.lines().rev().take(30).collect();
    let end: Vec<&str> = end.into_iter().rev().collect();
    ensure!(
        status.success(),
        "{name} ended with {status}; {} ends with:\n{}",
        log.display(),
        end.join("\n")
    );
    Ok(())
}
