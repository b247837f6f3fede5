//! A software TPM for tests: `swtpm`, started for one test and ended with it.

use super::Tpm;
use super::command::{Authorization, Command};
use super::inventory::Bank;
use super::transport::Socket;
use super::wire::{Writer, cc};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long swtpm may take to listen.
const START: Duration = Duration::from_secs(20);

/// A running swtpm with its state.
pub(crate) struct SoftwareTpm {
    process: Child,
    directory: tempfile::TempDir,
}

impl SoftwareTpm {
    /// Starts a fresh one.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = spawn(directory.path());
        SoftwareTpm { process, directory }
    }

    /// Powers it off and on: PCRs start anew, what is stored stays.
    pub(crate) fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.directory.path());
    }

    /// Connects. One connection at a time.
    pub(crate) fn connect(&self) -> Tpm {
        let started = Instant::now();
        loop {
            match Socket::connect(&self.socket()) {
                Ok(socket) => return Tpm::over(socket),
                // The socket has its name before swtpm listens on it.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    assert!(started.elapsed() < START, "swtpm does not listen: {error}");
                    sleep(Duration::from_millis(20));
                }
                Err(error) => panic!("connecting to swtpm: {error}"),
            }
        }
    }

    /// The data socket; the control socket has `.ctrl` at its end.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("tpm")
    }
}

fn spawn(directory: &Path) -> Child {
    let (socket, control) = (directory.join("tpm"), directory.join("tpm.ctrl"));
    for stale in [&socket, &control] {
        let _ = std::fs::remove_file(stale);
    }
    let process = Process::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", directory.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("this test needs swtpm: apt-get install swtpm");
    let started = Instant::now();
    while !socket.exists() {
        assert!(started.elapsed() < START, "swtpm makes no socket");
        sleep(Duration::from_millis(20));
    }
    process
}

impl Drop for SoftwareTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tpm {
    /// `TPM2_PCR_Extend` of the SHA-256 bank.
    pub(crate) fn extend_pcr(&mut self, pcr: u8) {
        let sha256 = Bank::by_name("sha256").unwrap();
        let mut command = Command::new("TPM2_PCR_Extend", 0x0182).handle(pcr.into());
        command.parameters.u32(1).u16(sha256.algorithm).raw(&[0x42; 32]);
        command.run(self, Authorization::EmptyPassword).unwrap();
    }

    /// `TPM2_PCR_Allocate`: from the next start on, the SHA-256 bank only.
    pub(crate) fn allocate_only_sha256(&mut self) {
        let mut command = Command::new("TPM2_PCR_Allocate", 0x012b).handle(0x4000_000c);
        command.parameters.u32(4);
        for (algorithm, bits) in [(0x0004, 0), (0x000b, 0xff), (0x000c, 0), (0x000d, 0)] {
            command.parameters.u16(algorithm).u8(3).raw(&[bits; 3]);
        }
        command.run(self, Authorization::EmptyPassword).unwrap();
    }

    /// Stores an RSA key as the storage root key, as Windows and older systems do; with a
    /// password of its own, if one is given.
    pub(crate) fn store_rsa_storage_root_key(&mut self, password: &[u8]) {
        let mut public = Writer::new();
        // TPMT_PUBLIC of the provisioning guidance's RSA template: SHA-256, AES-128-CFB, no
        // scheme, 2048 bits, default exponent, empty modulus.
        public.u16(0x0001).u16(0x000b).u32(0x0003_0472).sized(&[]);
        public.u16(0x0006).u16(128).u16(0x0043).u16(0x0010).u16(2048).u32(0).sized(&[]);
        let mut sensitive = Writer::new();
        sensitive.sized(password).sized(&[]);
        let mut command = Command::new("TPM2_CreatePrimary", cc::CREATE_PRIMARY)
            .handle(super::wire::handle::OWNER);
        command.parameters.sized(sensitive.bytes()).sized(public.bytes()).sized(&[]).u32(0);
        let key = command.run(self, Authorization::EmptyPassword).unwrap().handle;
        let mut command = Command::new("TPM2_EvictControl", cc::EVICT_CONTROL)
            .handle(super::wire::handle::OWNER)
            .handle(key);
        command.parameters.u32(super::key::SRK_HANDLE);
        command.run(self, Authorization::EmptyPassword).unwrap();
        self.flush(key);
    }

    /// `TPM2_HierarchyChangeAuth` of the owner hierarchy.
    pub(crate) fn set_owner_auth(&mut self, password: &[u8]) {
        let mut command =
            Command::new("TPM2_HierarchyChangeAuth", 0x0129).handle(super::wire::handle::OWNER);
        command.parameters.sized(password);
        command.run(self, Authorization::EmptyPassword).unwrap();
    }
}
