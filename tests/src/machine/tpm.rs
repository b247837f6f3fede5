//! A TPM 2.0: swtpm, one process per start of the machine, its state in the machine's directory.

use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// A running swtpm.
#[derive(Debug)]
pub struct Tpm {
    child: Child,
    socket: PathBuf,
}

impl Tpm {
    /// Starts the machine's TPM. All paths are absolute: swtpm changes its directory.
    pub fn start(dir: &Path) -> Result<Tpm> {
        let state = dir.join("tpm");
        fs::create_dir_all(&state)?;
        let socket = dir.join("tpm.sock");
        let _ = fs::remove_file(&socket);
        let mut command = super::spawn::command("swtpm");
        command
            .args(["socket", "--tpm2", "--terminate"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = super::spawn::spawn(command)?;
        let mut tpm = Tpm { child, socket };
        let began = Instant::now();
        while !super::spawn::listens(&tpm.socket)? {
            if let Some(status) = tpm.child.try_wait()? {
                bail!("swtpm ended with {status}");
            }
            if began.elapsed() > Duration::from_secs(10) {
                bail!("waited 10 s for swtpm's socket");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(tpm)
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it. It ends by itself with the machine, and is given a moment to write its state.
    pub fn end(&mut self) -> Result<()> {
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > Duration::from_secs(3) {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Makes the next start one with a new TPM.
pub fn forget(dir: &Path) -> Result<()> {
    let state = dir.join("tpm");
    if state.exists() {
        fs::remove_dir_all(&state)?;
    }
    Ok(())
}
