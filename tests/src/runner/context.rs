//! What scenarios are given.

use std::{
    cell::{OnceCell, RefCell, RefMut},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    installer::{self, Medium, Variant},
    keystone::Keystone,
    lab::{Lab, timed},
    machine::{
        Hardware, LostTimer, Machine, Running,
        accel::{self, Accel},
        disk::Disk,
        ssh::Ssh,
    },
    native::{self, NativeEnv},
    system::{self, System},
};

/// How long the live system may take to answer SSH: a minute where it is emulated
/// on an idle computer, several on a busy one.
const LIVE_BOOT: Duration = Duration::from_secs(420);
/// The same where a processor runs it.
const LIVE_BOOT_BY_KVM: Duration = Duration::from_secs(150);

/// The lab as scenarios see it. What is built here is built once.
#[derive(Debug)]
pub struct Context {
    lab: Lab,
    env: NativeEnv,
    live: RefCell<Option<Live>>,
    keystone: OnceCell<Keystone>,
    system: OnceCell<System>,
}

/// The live system, running on a machine whose disks are blank when it starts.
#[derive(Debug)]
pub struct Live {
    /// What runs. Declared first: it ends before its machine's files go.
    pub running: Running,
    /// The machine.
    pub machine: Machine,
    /// Commands in it.
    pub ssh: Ssh,
}

impl Context {
    pub(super) fn new(lab: Lab, env: NativeEnv) -> Context {
        Context {
            lab,
            env,
            live: RefCell::new(None),
            keystone: OnceCell::new(),
            system: OnceCell::new(),
        }
    }

    /// The lab's cache.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The installer's boot medium.
    ///
    /// # Errors
    /// It could not be built.
    pub fn medium(&self) -> Result<Medium> {
        installer::medium(&self.lab, Variant::Installer)
    }

    /// The medium that has the tools.
    ///
    /// # Errors
    /// It could not be built.
    pub fn oracle(&self) -> Result<Medium> {
        installer::medium(&self.lab, Variant::Oracle)
    }

    /// A medium that boots a Debian which is no installer.
    ///
    /// # Errors
    /// It could not be built.
    pub fn debian(&self) -> Result<Medium> {
        installer::medium(&self.lab, Variant::Debian)
    }

    /// The installer as a kexec image.
    ///
    /// # Errors
    /// It could not be built.
    pub fn kexec_image(&self) -> Result<PathBuf> {
        installer::kexec_image(&self.lab)
    }

    /// `keystone` and the release build of its agent.
    ///
    /// # Errors
    /// They could not be built, or are not what they should be.
    pub fn keystone(&self) -> Result<&Keystone> {
        if self.keystone.get().is_none() {
            let built = timed("build keystone and its agent", || Keystone::build(&self.env))?;
            let _ = self.keystone.set(built);
        }
        Ok(self.keystone.get().expect("set above"))
    }

    /// The reference system.
    ///
    /// # Errors
    /// It could not be built.
    pub fn system(&self) -> Result<&System> {
        if self.system.get().is_none() {
            let _ = self.system.set(system::build(&self.lab)?);
        }
        Ok(self.system.get().expect("set above"))
    }

    /// A layout of Keystone's modules, by the name of its file.
    pub fn layout(&self, name: &str) -> PathBuf {
        native::workspace_root().join("tests/layouts/keystone").join(name)
    }

    /// An example of the agent's crate: a program that drives one module by hand.
    ///
    /// # Errors
    /// It could not be built, or is not static.
    pub fn agent_example(&self, name: &str) -> Result<PathBuf> {
        timed(&format!("build the example {name}"), || native::build_example(&self.env, name))
    }

    /// The shared live system, booted if it does not run: 4 GiB, a TPM, and the
    /// blank disks `target` and `spare` (24 GiB), `small` (1 GiB) and `native4k`
    /// (24 GiB, sectors of 4096 bytes).
    ///
    /// Leave it as it was: nothing mounted, imported or open, disks as you like.
    /// If that cannot be, call [`Context::discard_live`] at the end.
    ///
    /// # Errors
    /// It did not come up; the end of its console is in the error.
    pub fn live(&self) -> Result<RefMut<'_, Live>> {
        if self.live.borrow().is_none() {
            let disks = [
                Disk::blank("target", 24),
                Disk::blank("spare", 24),
                Disk::blank("small", 1),
                Disk::blank("native4k", 24).sectors(4096, 4096),
            ];
            let hardware =
                disks.into_iter().fold(Hardware::new("live").memory(4096).tpm(), Hardware::disk);
            let live = Live::boot(hardware, &self.medium()?)?;
            self.live.replace(Some(live));
        }
        Ok(RefMut::map(self.live.borrow_mut(), |live| live.as_mut().expect("booted above")))
    }

    /// Turns the shared live system off; the next [`Context::live`] boots another.
    pub fn discard_live(&self) {
        self.live.replace(None);
    }
}

impl Live {
    /// Boots `medium` on a new machine and waits for SSH.
    ///
    /// # Errors
    /// It did not come up; the end of its console is in the error.
    pub fn boot(hardware: Hardware, medium: &Medium) -> Result<Live> {
        let boot = || {
            let mut machine = Machine::new(hardware.clone())?;
            let mut running = machine.start(Some(&medium.image))?;
            let ssh = running.ssh(&medium.key)?;
            let bound = if accel::probe()? == Accel::Kvm { LIVE_BOOT_BY_KVM } else { LIVE_BOOT };
            running.wait_ssh(&ssh, bound).context("the live system did not come up")?;
            Ok(Live { running, machine, ssh })
        };
        let by = accel::probe()?;
        let what = format!("boot the live system on {}", hardware.name);
        match timed(&what, boot) {
            Err(error) if accel::fall_back(by) => {
                eprintln!("lab: KVM is not used from here on: {error:#}");
                timed(&what, boot)
            }
            Err(error) if error.is::<LostTimer>() => {
                eprintln!("lab: the same once more: {error:#}");
                timed(&what, boot)
            }
            booted => booted,
        }
    }
}
