//! KVM if a guest really runs under it, else TCG.
//!
//! That `/dev/kvm` opens proves nothing: there are hosts on which it opens and guests hang. So a
//! boot sector that writes one byte to the serial port is booted under KVM, once per process. Even a
//! guest that boots may lack its interrupts: one that does not come up is tried once more by TCG.

use super::emulator::Emulator;
use anyhow::{Context, Result};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By translation.
    Tcg,
}

/// `mov dx,0x3f8; mov al,'K'; out dx,al; cli; hlt`: says `K` on the first serial port.
const SAYS_K: [u8; 8] = [0xba, 0xf8, 0x03, 0xb0, b'K', 0xee, 0xfa, 0xf4];

/// How long the guest may take.
const BOUND: Duration = Duration::from_secs(5);

/// What works here. `KEYSTONE_LAB_ACCEL=kvm|tcg` decides without looking.
pub fn probe() -> Result<Accel> {
    let mut found = found();
    if let Some(found) = *found {
        return Ok(found);
    }
    let accel = match std::env::var("KEYSTONE_LAB_ACCEL").as_deref() {
        Ok("kvm") => Accel::Kvm,
        Ok("tcg") => Accel::Tcg,
        _ if Path::new("/dev/kvm").exists() && boots_under_kvm()? => Accel::Kvm,
        _ => Accel::Tcg,
    };
    *found = Some(accel);
    Ok(accel)
}

/// A guest that was run `by` that did not come up: whether it is worth to try another one, by TCG.
pub(crate) fn fall_back(by: Accel) -> bool {
    let asked_for = std::env::var_os("KEYSTONE_LAB_ACCEL").is_some();
    let worth = by == Accel::Kvm && !asked_for;
    if worth {
        *found() = Some(Accel::Tcg);
    }
    worth
}

fn found() -> MutexGuard<'static, Option<Accel>> {
    static FOUND: Mutex<Option<Accel>> = Mutex::new(None);
    FOUND.lock().unwrap_or_else(PoisonError::into_inner)
}

fn boots_under_kvm() -> Result<bool> {
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("boot.img");
    let mut sector = [0; 512];
    sector[..SAYS_K.len()].copy_from_slice(&SAYS_K);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    fs::File::create(&image)?.write_all(&sector)?;
    let said = dir.path().join("said");
    let mut child = Emulator::get()?
        .command()
        .args(["-accel", "kvm", "-machine", "q35", "-m", "64", "-nodefaults", "-display", "none"])
        .arg("-serial")
        .arg(format!("file:{}", said.display()))
        .arg("-drive")
        .arg(format!("file={},format=raw,if=ide", image.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting QEMU")?;
    let began = Instant::now();
    let mut boots = false;
    while began.elapsed() < BOUND && child.try_wait()?.is_none() && !boots {
        std::thread::sleep(Duration::from_millis(100));
        boots = fs::read(&said).is_ok_and(|text| text.contains(&b'K'));
    }
    let _ = child.kill();
    child.wait()?;
    Ok(boots)
}
