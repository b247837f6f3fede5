//! Virtual machines: UEFI, TPM, disks with serials, a serial console to read and type into.
//!
//! A [`Machine`] is what persists: disks, UEFI variables, TPM state, in a directory of its own. It
//! is started any number of times, each time as a [`Running`] with or without the installer's
//! medium. Whatever a `Running` started ends with it.
//!
//! | module | job |
//! |---|---|
//! | [`accel`] | KVM if a guest really runs under it, else TCG |
//! | [`disk`] | disk images |
//! | [`arguments`] | secrets looked for in a guest: arguments, environments, files |
//! | [`exec_trace`] | what the guest executed, from its kernel |
//! | `emulator` | QEMU and its firmware |
//! | [`qemu`] | the command line |
//! | [`serial`] | the serial console |
//! | [`qmp`] | reset, power, unplugging |
//! | [`tpm`] | swtpm |
//! | `spawn` | processes that end with the lab |
//! | [`ssh`] | commands in the guest |

pub mod accel;
pub mod arguments;
pub mod disk;
mod emulator;
pub mod exec_trace;
pub mod qemu;
pub mod qmp;
pub mod serial;
mod spawn;
pub mod ssh;
pub mod tpm;

pub(crate) use spawn::listens;

use anyhow::{Context, Result, bail};
use disk::Disk;
use emulator::Emulator;
use serde_json::json;
use serial::Serial;
use ssh::Ssh;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// A short name, for messages and files.
    pub name: String,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// Disks, in the order of their slots.
    pub disks: Vec<Disk>,
    /// Whether it has a TPM 2.0.
    pub tpm: bool,
    /// Whether it boots by UEFI; else by BIOS.
    pub uefi: bool,
}

impl Hardware {
    /// Two processors, 3 GiB, UEFI, no TPM, no disk.
    pub fn new(name: &str) -> Hardware {
        Hardware {
            name: name.to_owned(),
            memory_mib: 3072,
            cpus: 2,
            disks: Vec::new(),
            tpm: false,
            uefi: true,
        }
    }

    /// With one more disk.
    pub fn disk(mut self, disk: Disk) -> Hardware {
        self.disks.push(disk);
        self
    }

    /// With a TPM.
    pub fn tpm(mut self) -> Hardware {
        self.tpm = true;
        self
    }

    /// With that much memory, in MiB.
    pub fn memory(mut self, mib: u32) -> Hardware {
        self.memory_mib = mib;
        self
    }

    /// With BIOS instead of UEFI.
    pub fn bios(mut self) -> Hardware {
        self.uefi = false;
        self
    }
}

/// A machine, running or not. Its disks vanish with it.
#[derive(Debug)]
pub struct Machine {
    hardware: Hardware,
    dir: TempDir,
    starts: u32,
}

impl Machine {
    /// A new machine: blank disks, fresh UEFI variables, a fresh TPM.
    pub fn new(hardware: Hardware) -> Result<Machine> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("keystone-lab-{}-", hardware.name))
            .tempdir()
            .context("making the machine's directory")?;
        for disk in &hardware.disks {
            disk.create(dir.path())?;
        }
        if hardware.uefi {
            fresh_uefi_variables(dir.path())?;
        }
        Ok(Machine { hardware, dir, starts: 0 })
    }

    /// The machine's directory: `<serial>.img` for each disk, `uefi-vars.fd`, `tpm/`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it is made of.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The image of the disk with that serial.
    pub fn disk_image(&self, serial: &str) -> Result<PathBuf> {
        let disk = self.hardware.disks.iter().find(|disk| disk.serial == serial);
        Ok(disk.with_context(|| format!("no disk has the serial {serial}"))?.image(self.dir()))
    }

    /// Takes the disk with that serial out, for all later starts.
    pub fn remove_disk(&mut self, serial: &str) {
        self.hardware.disks.retain(|disk| disk.serial != serial);
    }

    /// Replaces the TPM by a new one, as a repair of the board would.
    pub fn replace_tpm(&mut self) -> Result<()> {
        tpm::forget(self.dir())
    }

    /// Forgets all UEFI variables, boot entries included.
    pub fn reset_uefi_variables(&mut self) -> Result<()> {
        fresh_uefi_variables(self.dir())
    }

    /// Starts it. With `medium`, that image is one more disk and booted from first.
    pub fn start(&mut self, medium: Option<&Path>) -> Result<Running> {
        self.starts += 1;
        let log = self.dir().join(format!("serial-{}.log", self.starts));
        let tpm = if self.hardware.tpm { Some(tpm::Tpm::start(self.dir())?) } else { None };
        let ssh_port = free_port()?;
        let monitor = self.dir().join("qmp.sock");
        let console = self.dir().join("serial.sock");
        for socket in [&monitor, &console] {
            let _ = fs::remove_file(socket);
        }
        let emulator = Emulator::get()?;
        let uefi_code = emulator.uefi_code();
        let files = qemu::Files {
            dir: self.dir(),
            uefi_code: &uefi_code,
            log: &log,
            monitor: &monitor,
            console: &console,
            medium,
            tpm: tpm.as_ref().map(tpm::Tpm::socket),
            ssh_port,
        };
        let errors = self.dir().join(format!("qemu-{}.log", self.starts));
        let mut command = emulator.command();
        command
            .args(qemu::arguments(&self.hardware, accel::probe()?, &files))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors)?);
        let child = spawn::spawn(command)?;
        let mut running = Running {
            name: self.hardware.name.clone(),
            child,
            tpm,
            serial: Serial::new(log, console),
            monitor,
            errors,
            ssh_port,
            started: Instant::now(),
            done: false,
        };
        running.wait_for_monitor()?;
        running.serial.keep()?;
        Ok(running)
    }
}

/// How long a guest may be expected to boot, what an attempt to log in may take then, and what it may take
/// later: a guest that is up may be slow to answer.
const BOOTING: Duration = Duration::from_secs(120);
const ATTEMPT: Duration = Duration::from_secs(10);
const LATER_ATTEMPT: Duration = Duration::from_secs(60);

/// What Linux says where a processor's timer never ticks, which emulators sometimes forget to start.
const NO_TICKS: &str = "rcu_preempt kthread starved for";

/// The guest did not come up, and the last it said is that a processor has no ticks: not the guest's fault.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LostTimer(String);

/// A machine that runs. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    tpm: Option<tpm::Tpm>,
    /// Its serial console.
    pub serial: Serial,
    monitor: PathBuf,
    errors: PathBuf,
    ssh_port: u16,
    started: Instant,
    /// Whether whoever started it is done with it.
    done: bool,
}

impl Running {
    /// The port on 127.0.0.1 behind which the guest's port 22 is.
    pub fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    /// Since its start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Commands in the guest, with the lab's key. The guest's host key is learned at the first
    /// connection of the `Ssh` and pinned from then on.
    pub fn ssh(&self, key: &Path) -> Result<Ssh> {
        Ssh::new(self.ssh_port, key)
    }

    /// Waits until the guest answers SSH.
    ///
    /// # Errors
    /// QEMU ended; `bound` is over, [`LostTimer`] then being one of the reasons.
    pub fn wait_ssh(&mut self, ssh: &Ssh, bound: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let attempt = if began.elapsed() < BOOTING { ATTEMPT } else { LATER_ATTEMPT };
            let Err(words) = ssh.answers(attempt) else { return Ok(()) };
            self.alive()?;
            if began.elapsed() > bound {
                let waited = bound.as_secs();
                let (name, now) = (&self.name, self.now());
                let said =
                    format!("{name}: waited {waited} s for SSH; ssh's last words: {words}; {now}");
                if self.serial.tail(60).contains(NO_TICKS) {
                    bail!(LostTimer(said));
                }
                bail!(said);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    /// Waits until the guest turned itself off (or was reset, if started with `-no-reboot`).
    pub fn wait_exit(&mut self, bound: Duration) -> Result<()> {
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > bound {
                bail!(
                    "{}: waited {} s for it to turn itself off; {}",
                    self.name,
                    bound.as_secs(),
                    self.now()
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Fails with QEMU's last words if it is gone.
    pub fn alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{}: QEMU ended with {status}: {}",
                self.name,
                fs::read_to_string(&self.errors).unwrap_or_default().trim()
            ),
        }
    }

    /// What the machine is doing, for the message of a wait that is over: the console's end, and
    /// where the processor is. One that is halted (`HLT=1`) has nothing to do, one that is at the
    /// same place twice is stuck there.
    fn now(&self) -> String {
        let processor = || {
            let registers = json!({ "command-line": "info registers" });
            let said = self.qmp("human-monitor-command", registers);
            let said = said.map(|said| said.as_str().unwrap_or_default().to_owned());
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            said.lines().filter(|line| line.contains("RIP=")).collect::<Vec<_>>().join("\n")
        };
        let first = processor();
        std::thread::sleep(Duration::from_secs(1));
        let then = processor();
        format!(
            "run by {:?}; the console's end:\n{}\nthe processor:\n{first}\nand a second later:\n{then}",
            accel::probe(),
            self.serial.tail(60)
        )
    }

    /// A command to QEMU's monitor.
    pub fn qmp(&self, command: &str, arguments: serde_json::Value) -> Result<serde_json::Value> {
        qmp::execute(&self.monitor, command, arguments)
    }

    /// Resets the machine, as its button would.
    pub fn reset(&self) -> Result<()> {
        self.qmp("system_reset", json!({})).map(drop)
    }

    /// Unplugs the installer's medium.
    pub fn eject_medium(&self) -> Result<()> {
        self.qmp("device_del", json!({ "id": qemu::MEDIUM_DEVICE })).map(drop)
    }

    /// Pulls the plug.
    pub fn kill(mut self) -> Result<()> {
        self.done = true;
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        if let Some(mut tpm) = self.tpm.take() {
            tpm.end()?;
        }
        Ok(())
    }

    fn wait_for_monitor(&mut self) -> Result<()> {
        let began = Instant::now();
        while !spawn::listens(&self.monitor)? {
            self.alive()?;
            if began.elapsed() > Duration::from_secs(20) {
                bail!("{}: waited 20 s for QEMU's monitor", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            println!(
                "    {}: the console's end, as it is given up:\n{}",
                self.name,
                self.serial.tail(40)
            );
        }
        if let Err(error) = self.end() {
            eprintln!("{}: ending the machine: {error:#}", self.name);
        }
    }
}

/// Gives a machine UEFI variables as they left the factory.
fn fresh_uefi_variables(dir: &Path) -> Result<()> {
    let from = Emulator::get()?.uefi_variables();
    let copied = fs::copy(&from, dir.join("uefi-vars.fd"));
    copied.with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// A port on the loopback interface that is free now.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("looking for a port")?;
    Ok(listener.local_addr()?.port())
}
