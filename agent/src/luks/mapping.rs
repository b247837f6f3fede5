//! Opening and closing: device-mapper.
//!
//! libdevmapper is built without udev synchronisation and makes `/dev/mapper/NAME` itself, while
//! udevd may make a link of the same name. Neither is relied on: what is open is what the kernel
//! says (`/sys/block/dm-*/dm`), and its node is devtmpfs's `/dev/dm-N`.

use super::LuksError;
use super::container::{Container, attempt};
use super::slot::test_key;
use crate::block::find::{Node, luks2_mapper_uuid, mapper, mapper_now, node};
use crate::block::{Poll, Roots, Timeout, holders, sysfs, wait};
use crate::ensure::Ensured;
use keystone_protocol::plan::LuksOpen;
use keystone_protocol::secret::Secret;
use libcryptsetup_rs::CryptInit;
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptDeactivate};
use std::path::Path;
use std::time::Duration;

/// How long closing is tried while something has the device open. udev's probes of a device that
/// was just written take a moment.
const CLOSE_BOUND: Duration = Duration::from_secs(20);

/// Opens a container; its node once that is there.
///
/// # Errors
/// [`LuksError::WrongKey`], also if the container is open already: the key is tested either way.
/// [`LuksError::NameTaken`], [`LuksError::OpenElsewhere`].
pub fn open(device: &Path, name: &str, key: &Secret) -> Result<(Ensured, Node), LuksError> {
    open_as(device, name, key, &LuksOpen::default())
}

/// As [`open`], with what the layout says of discards and performance, which is kept in the
/// header for every later opening (`cryptsetup open --persistent`), as disko does.
///
/// # Errors
/// As [`open`].
pub fn open_as(
    device: &Path,
    name: &str,
    key: &Secret,
    how: &LuksOpen,
) -> Result<(Ensured, Node), LuksError> {
    let roots = Roots::default();
    let mut container = Container::load(device)?;
    let luks_uuid = container.uuid()?.to_string();
    let dm_uuid = luks2_mapper_uuid(&luks_uuid, name);
    if let Some(node) = opened(&roots, device, name, &luks_uuid)? {
        test_key(device, None, key)?;
        return Ok((Ensured::AlreadySo, node));
    }
    let opened = container.attempt("open", |device| {
        let (slot, flags) = (None, flags(how));
        device.activate_handle().activate_by_passphrase(Some(name), slot, key.expose(), flags)
    });
    match opened {
        Err(error) if error.errno() == Some(libc::EPERM) => {
            return Err(LuksError::WrongKey { device: device.to_owned(), slot: None });
        }
        opened => opened?,
    };
    if !flags(how).is_empty() {
        let kept = container.attempt("keep the flags in", |device| {
            device.luks2_flag_handle::<CryptActivate>().persistent_flags_set(flags(how))
        });
        if let Err(error) = kept {
            let _ = close(name);
            return Err(error);
        }
    }
    match mapper(&roots, &dm_uuid) {
        Ok(node) => Ok((Ensured::Created, node)),
        Err(error) => {
            if let Err(error) = close(name) {
                tracing::error!(%error, name, "a mapper whose node is missing stays");
            }
            Err(error.into())
        }
    }
}

/// The node of the container on `device`, if it is open as `name`.
///
/// # Errors
/// [`LuksError::NameTaken`], [`LuksError::OpenElsewhere`].
pub fn is_open(device: &Path, name: &str) -> Result<Option<Node>, LuksError> {
    let roots = Roots::default();
    let luks_uuid = Container::load(device)?.uuid()?.to_string();
    opened(&roots, device, name, &luks_uuid)
}

fn opened(
    roots: &Roots,
    device: &Path,
    name: &str,
    luks_uuid: &str,
) -> Result<Option<Node>, LuksError> {
    let dm_uuid = luks2_mapper_uuid(luks_uuid, name);
    if let Some(taken) = mapper_now(roots, |found, _| found == name) {
        let uuid = sysfs::attribute(roots, &taken, "dm/uuid").unwrap_or_default();
        if uuid != dm_uuid {
            return Err(LuksError::NameTaken { name: name.to_owned(), uuid });
        }
        return Ok(Some(node(roots, &taken)?));
    }
    let any_name = luks2_mapper_uuid(luks_uuid, "");
    if let Some(other) = mapper_now(roots, |_, uuid| uuid.starts_with(&any_name)) {
        let name = sysfs::mapper_name(roots, &other).unwrap_or(other);
        return Err(LuksError::OpenElsewhere { device: device.to_owned(), name });
    }
    Ok(None)
}

fn flags(how: &LuksOpen) -> CryptActivate {
    let mut flags = CryptActivate::empty();
    for (wanted, flag) in [
        (how.allow_discards, CryptActivate::ALLOW_DISCARDS),
        (how.no_read_workqueue, CryptActivate::NO_READ_WORKQUEUE),
        (how.no_write_workqueue, CryptActivate::NO_WRITE_WORKQUEUE),
        (how.same_cpu_crypt, CryptActivate::SAME_CPU_CRYPT),
        (how.submit_from_crypt_cpus, CryptActivate::SUBMIT_FROM_CRYPT_CPUS),
    ] {
        flags.set(flag, wanted);
    }
    flags
}

/// The node of an open mapper, if there is one of that name; whatever kind it is of.
///
/// # Errors
/// Its node does not appear.
pub fn status(name: &str) -> Result<Option<Node>, LuksError> {
    let roots = Roots::default();
    let found = mapper_now(&roots, |found, _| found == name);
    Ok(found.map(|kernel_name| node(&roots, &kernel_name)).transpose()?)
}

/// Closes a mapper and sees it gone. Tried again, bounded, while something has it open.
///
/// # Errors
/// [`LuksError::Busy`] with who uses it, [`LuksError::StillOpen`].
pub fn close(name: &str) -> Result<Ensured, LuksError> {
    let roots = Roots::default();
    let Some(kernel_name) = mapper_now(&roots, |found, _| found == name) else {
        return Ok(Ensured::AlreadySo);
    };
    let what = format!("/dev/mapper/{name} to be closed");
    wait(&what, CLOSE_BOUND, || match deactivate(name) {
        Ok(()) => Ok(Poll::Ready(())),
        Err(error) if error.errno() == Some(libc::EBUSY) => {
            Ok(Poll::Pending("it is in use".to_owned()))
        }
        // Somebody else closed it.
        Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ENXIO)) => {
            Ok(Poll::Ready(()))
        }
        Err(error) => Err(Closing::Failed(error)),
    })
    .map_err(|error| match error {
        Closing::Failed(error) => error,
        Closing::TimedOut => LuksError::Busy {
            name: name.to_owned(),
            seconds: CLOSE_BOUND.as_secs(),
            holders: holders::phrases(&roots, &kernel_name),
        },
    })?;
    match mapper_now(&roots, |found, _| found == name) {
        None => Ok(Ensured::Created),
        Some(_) => Err(LuksError::StillOpen(name.to_owned())),
    }
}

enum Closing {
    Failed(LuksError),
    TimedOut,
}

impl From<Timeout> for Closing {
    fn from(_: Timeout) -> Self {
        Closing::TimedOut
    }
}

fn deactivate(name: &str) -> Result<(), LuksError> {
    let subject = Path::new("/dev/mapper").join(name);
    attempt("close", &subject, || {
        let mut device = CryptInit::init_by_name_and_header(name, None)?;
        device.activate_handle().deactivate(name, CryptDeactivate::empty())
    })
}
