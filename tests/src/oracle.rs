//! Oracles: the tools whose work the agent does without them, to compare with.
//!
//! [`Systemd`] is a Debian root with systemd 257's `systemd-cryptenroll` and `systemd-cryptsetup`,
//! cryptsetup and the TPM's tools. Its programs run in a chroot with a mount namespace of their
//! own: `/mnt` is a directory of the test's, `/run` a tmpfs, the root itself is not written to.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::debian::Root;
use crate::lab::Lab;

/// What the oracle consists of. The TPM libraries are loaded by name at run time, so no package
/// depends on them.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-cryptsetup",
    "udev",
    "kmod",
    "e2fsprogs",
    "cryptsetup-bin",
    "tpm2-tools",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "libtss2-tcti-swtpm0t64",
];

/// Enters the root `$1` with `$2` at its `/mnt` and runs the rest.
const ENTER: &str = r#"root=$1 work=$2; shift 2
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 tmpfs "$root/run"
mount --bind "$work" "$root/mnt"
exec chroot "$root" "$@""#;

/// Debian's systemd and cryptsetup.
#[derive(Debug, Clone)]
pub struct Systemd {
    root: PathBuf,
    work: PathBuf,
}

impl Systemd {
    /// The root, built if it is not in the cache.
    ///
    /// # Errors
    /// As [`Root::build`].
    pub fn root(lab: &Lab) -> Result<PathBuf> {
        Root::new("systemd", PACKAGES).build(lab)
    }

    /// Programs of the oracle that find the directory `work` at `/mnt`.
    ///
    /// # Errors
    /// As [`Root::build`].
    pub fn new(lab: &Lab, work: &Path) -> Result<Systemd> {
        Ok(Systemd { root: Self::root(lab)?, work: work.to_owned() })
    }

    /// A command in the root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "--", "sh", "-euc", ENTER, "sh"]);
        command.arg(&self.root).arg(&self.work).arg(program);
        command.stdin(Stdio::null());
        command
    }
}

/// A software TPM that speaks over Unix sockets: `tpm` for commands, `tpm.ctrl` for its control,
/// where tpm2-tss's `swtpm:path=…` looks for both.
#[derive(Debug)]
pub struct SoftwareTpm {
    process: Child,
    socket: PathBuf,
}

impl SoftwareTpm {
    /// Starts a fresh one in a directory.
    ///
    /// # Errors
    /// swtpm is missing or makes no socket.
    pub fn start(dir: &Path) -> Result<SoftwareTpm> {
        let socket = dir.join("tpm");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", dir.join("tpm.ctrl").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting swtpm: install swtpm")?;
        let tpm = SoftwareTpm { process, socket };
        let began = Instant::now();
        while !crate::machine::listens(&tpm.socket)? {
            if began.elapsed() > Duration::from_secs(20) {
                bail!("waited 20 s for swtpm's socket");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tpm)
    }

    /// Its socket for commands.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes a key file as systemd likes it: for its owner alone.
///
/// # Errors
/// I/O.
pub fn write_key(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, bytes)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
