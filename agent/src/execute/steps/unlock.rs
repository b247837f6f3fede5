//! Containers, keyslots, keys.

use super::StepError;
use crate::block::Roots;
use crate::block::find::Node;
use crate::ensure::Ensured;
use crate::execute::machine::Container;
use crate::execute::{Execution, StepResult};
use crate::filesystem::key::KeyError;
use crate::luks::FirstSlot;
use crate::luks::enroll::{self, Tpm2Policy};
use crate::tpm2::Tpm;
use crate::tpm2::seal::PcrPolicy;
use crate::{filesystem, luks};
use keystone_protocol::plan::{
    ContainerUnlock, DatasetKey, DeviceRef, KeyFile, LuksFormat, LuksOpen, Plan,
};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;

/// Formats a container with an ephemeral key that is only in memory, and opens it.
pub(super) fn format(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    name: &str,
    format: &LuksFormat,
    open: &LuksOpen,
) -> StepResult {
    let node = run.machine.node(device)?;
    let bootstrap = luks::ephemeral_key();
    let formatted = luks::format_as(&node.path, FirstSlot::Bootstrap, &bootstrap, format)?;
    let container = Container {
        uuid: luks::uuid(&node.path)?.to_string(),
        bootstrap: Some(bootstrap.clone()),
        keyslots: BTreeMap::new(),
        kdf: luks::lasting_kdf(format),
    };
    // Noted once it is ours: what has that name otherwise is not to be closed.
    let (opened, _) = luks::open_as(&node.path, name, &bootstrap, open)?;
    run.machine.container_opened(name, container);
    Ok(formatted.and(opened))
}

/// Makes the raw key of an encrypted dataset, once, and keeps it in memory for the dataset.
pub(super) fn create_key(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    file: &str,
    bytes: u32,
) -> StepResult {
    let node = run.machine.node(device)?;
    let is_used = its_dataset_is_there(run, device, file)?;
    let (ensured, key) = key_in(run.machine.roots(), &node, file, bytes, is_used)?;
    run.machine.key_made(device, file, key);
    Ok(ensured)
}

/// The key in `file`. It is made if it is not there, unless its dataset is (`is_used`): that has
/// its key, and no other would open it.
fn key_in(
    roots: &Roots,
    node: &Node,
    file: &str,
    bytes: u32,
    is_used: bool,
) -> Result<(Ensured, Secret), KeyError> {
    match is_used {
        true => Ok((Ensured::AlreadySo, filesystem::key::existing(roots, node, file, bytes)?)),
        false => filesystem::key::ensure(roots, node, file, bytes),
    }
}

fn its_dataset_is_there(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    file: &str,
) -> Result<bool, StepError> {
    for dataset in datasets(run.plan, device, file) {
        if run.machine.zfs()?.exists(dataset)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The datasets and volumes of a plan that are encrypted with the key in a file.
fn datasets<'p>(plan: &'p Plan, device: &DeviceRef, file: &str) -> impl Iterator<Item = &'p str> {
    plan.steps.iter().filter_map(move |step| match step.action.dataset_key()? {
        (dataset, DatasetKey::Made { device: on, file: of }) if on == device && of == file => {
            Some(dataset)
        }
        _ => None,
    })
}

/// Makes the lasting keyslots, opens each in a test, removes the ephemeral one.
pub(super) fn enroll_slots(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    name: &str,
    unlock: &ContainerUnlock,
    additional: &[KeyFile],
) -> StepResult {
    let node = run.machine.node(device)?.path;
    let container = run.machine.container(name)?;
    let Some(bootstrap) = container.bootstrap.clone() else {
        return Ok(Ensured::AlreadySo);
    };
    let kdf = container.kdf.clone();
    let mut keyslots = BTreeMap::new();
    match unlock {
        ContainerUnlock::Tpm2 { pcrs, bank, pin } => {
            let mut tpm = Tpm::open()?.ok_or(StepError::NoTpm)?;
            let pcrs = PcrPolicy::new(bank, pcrs)?;
            let pin = if *pin {
                Some(run.supplies.pin().ok_or(StepError::NoSecret("PIN"))?.clone())
            } else {
                None
            };
            let policy = Tpm2Policy { pcrs, pin };
            let (_, slot) = enroll::enroll_tpm2(&node, &bootstrap, &mut tpm, &policy)?;
            keyslots.insert(slot, "tpm2".to_owned());
        }
        ContainerUnlock::Password => {
            let password = run.supplies.password().ok_or(StepError::NoSecret("password"))?.clone();
            let (_, slot) = enroll::enroll_password(&node, &bootstrap, &password, &kdf)?;
            keyslots.insert(slot, "password".to_owned());
        }
        ContainerUnlock::KeyFile(file) => {
            let key = key_file(run, file)?;
            let (_, slot) = enroll::enroll_key_file(&node, &bootstrap, &key, &kdf)?;
            keyslots.insert(slot, "key-file".to_owned());
        }
    }
    for file in additional {
        let key = key_file(run, file)?;
        let (_, slot) = enroll::enroll_key_file(&node, &bootstrap, &key, &kdf)?;
        keyslots.entry(slot).or_insert_with(|| "key-file".to_owned());
    }
    if !matches!(unlock, ContainerUnlock::KeyFile(_)) {
        let (slot, recovery) = enroll::enroll_recovery(&node, &bootstrap)?;
        keyslots.insert(slot, "recovery".to_owned());
        run.supplies.keep_recovery_key(name, recovery.secret())?;
    }
    let _ = luks::remove_slot(&node, luks::BOOTSTRAP_SLOT)?;
    let container = run.machine.container_mut(name)?;
    container.bootstrap = None;
    container.keyslots = keyslots;
    Ok(Ensured::Created)
}

/// A key file: the operator's, if it was given, else the machine's.
pub(super) fn key_file(run: &Execution<'_>, file: &KeyFile) -> Result<Secret, StepError> {
    let key = match run.supplies.key_file(&file.path) {
        Some(given) => luks::key_file::of(file, given),
        None => luks::key_file::read(file),
    };
    key.map_err(|source| StepError::KeyFile { path: file.path.clone(), source })
}

/// Closes a container.
pub(super) fn close(name: &str) -> StepResult {
    Ok(luks::close(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::find;
    use crate::execute::testing;
    use crate::mount::TempMount;
    use crate::testing::{Loop, run};
    use keystone_protocol::plan::Action;
    use std::fs;

    const FILE: &str = "zfs-sysroot.mount";

    /// Where keys are kept, without the container around it.
    struct Credstore {
        roots: Roots,
        node: Node,
        disk: Loop,
        dir: tempfile::TempDir,
    }

    impl Credstore {
        fn new() -> Credstore {
            let disk = Loop::new(16 << 20, 512);
            run("e2fsprogs", "mkfs.ext4", &["-q", disk.node()]);
            let dir = tempfile::tempdir().unwrap();
            let roots = Roots { run: dir.path().to_owned(), ..Roots::default() };
            let node = find::node(&roots, disk.name()).unwrap();
            Credstore { roots, node, disk, dir }
        }

        fn key(&self, is_used: bool) -> Result<(Ensured, Secret), KeyError> {
            key_in(&self.roots, &self.node, FILE, 32, is_used)
        }

        fn mounted(&self, act: impl FnOnce(&std::path::Path)) {
            let mount = TempMount::new(&self.roots, &self.node.path, "ext4", false).unwrap();
            act(mount.path());
            mount.unmount().unwrap();
        }

        /// Nothing was written, and nothing is mounted any more.
        fn is_untouched(&self, act: impl FnOnce()) {
            let before = fs::read(self.disk.backing()).unwrap();
            act();
            assert!(fs::read(self.disk.backing()).unwrap() == before, "something was written");
            let mounts = self.dir.path().join("keystone");
            assert!(!mounts.exists() || fs::read_dir(mounts).unwrap().next().is_none());
        }
    }

    #[test]
    fn a_key_that_is_lost_is_not_made_anew_as_long_as_its_dataset_is_there() {
        let credstore = Credstore::new();
        let lost = || credstore.key(true).unwrap_err();
        // It never was there: the container was made anew under a dataset that was kept.
        credstore
            .is_untouched(|| assert!(matches!(lost(), KeyError::Missing(file) if file == FILE)));

        let (made, key) = credstore.key(false).unwrap();
        assert_eq!(made, Ensured::Created);
        credstore.is_untouched(|| {
            let (kept, same) = credstore.key(true).unwrap();
            assert!(kept == Ensured::AlreadySo && same == key);
        });
        // It was there; what an interrupted run left beside it is nobody's key.
        credstore.mounted(|at| fs::rename(at.join(FILE), at.join(format!(".{FILE}.new"))).unwrap());
        credstore
            .is_untouched(|| assert!(matches!(lost(), KeyError::Missing(file) if file == FILE)));
        // What is left of it is no key either.
        credstore.mounted(|at| {
            fs::rename(at.join(format!(".{FILE}.new")), at.join(FILE)).unwrap();
            fs::File::options().write(true).open(at.join(FILE)).unwrap().set_len(31).unwrap();
        });
        credstore.is_untouched(|| assert!(matches!(lost(), KeyError::NotAKey { .. })));
    }

    #[test]
    fn whose_key_a_file_has_is_seen_in_the_plan() {
        let mut plan = testing::plan();
        let made = plan.steps.iter().find_map(|step| match &step.action {
            Action::CreateKey { device, file, .. } => Some((device.clone(), file.clone())),
            _ => None,
        });
        let (device, file) = made.unwrap();
        assert_eq!(datasets(&plan, &device, &file).collect::<Vec<_>>(), ["rpool/crypt"]);
        assert_eq!(datasets(&plan, &device, "other").count(), 0);
        let elsewhere = DeviceRef::Mapper { name: "other".to_owned() };
        assert_eq!(datasets(&plan, &elsewhere, &file).count(), 0);
        plan.steps.retain(|step| step.action.dataset_key().is_none());
        assert_eq!(datasets(&plan, &device, &file).count(), 0);
    }
}
