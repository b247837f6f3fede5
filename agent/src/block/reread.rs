//! Making the kernel and udev see a new partition table.

use super::sysfs::KernelPartition;
use super::{BlockError, DiskLock, Poll, Roots, holders, ioctl, sysfs, udev, wait};
use nix::errno::Errno;
use std::time::{Duration, Instant};

/// How long partitions may stay busy: udev probes each that appears.
const BUSY_BOUND: Duration = Duration::from_secs(20);
/// How long the kernel and udev may take to show the new partitions.
const APPEAR_BOUND: Duration = Duration::from_secs(120);
/// How long they must have stayed so. After the last writable descriptor of a disk is closed udev
/// may still reread the table, and every partition vanishes for a moment.
const SETTLED: Duration = Duration::from_millis(700);

/// A partition that has to appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Number in the table.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// Unique GUID, lower case.
    pub guid: String,
    /// Its name in a GPT, if it has to be that one.
    pub label: Option<String>,
}

/// Makes the kernel forget the disk's old partitions and know exactly `expected`: by rereading
/// the table (`BLKRRPART`), and for what it does not see then, one by one (`BLKPG`).
///
/// No exclusive descriptor of the disk may be open: the kernel claims the disk to reread it.
pub fn kernel(
    roots: &Roots,
    lock: &DiskLock,
    disk: &str,
    expected: &[Expected],
) -> Result<(), BlockError> {
    let what = format!("the kernel to reread the partition table of {disk}");
    let reread = wait(&what, BUSY_BOUND, || match ioctl::reread_table(lock.file()) {
        Ok(()) => Ok(Poll::Ready(())),
        Err(Errno::EBUSY) => Ok(Poll::Pending("a partition of it is in use".to_owned())),
        // No table of partitions on this kind of device by itself; the kernel may still be told.
        Err(Errno::EINVAL) => Ok(Poll::Ready(())),
        Err(errno) => {
            Err(BlockError::io("rereading the partition table of", &roots.node(disk))(errno.into()))
        }
    });
    match reread {
        // A busy partition may be one that stays: told one by one, only its own change fails.
        Ok(()) | Err(BlockError::Timeout(_)) => {}
        Err(error) => return Err(error),
    }
    tell(roots, lock, disk, expected)
}

/// Makes the kernel know exactly `expected` without rereading the table: partitions that are as
/// they have to be stay, in use or not.
pub fn missing(
    roots: &Roots,
    lock: &DiskLock,
    disk: &str,
    expected: &[Expected],
) -> Result<(), BlockError> {
    tell(roots, lock, disk, expected)
}

/// Brings the kernel's partitions to `expected` one by one.
fn tell(
    roots: &Roots,
    lock: &DiskLock,
    disk: &str,
    expected: &[Expected],
) -> Result<(), BlockError> {
    let fail = |action, errno: Errno| BlockError::io(action, &roots.node(disk))(errno.into());
    for known in sysfs::partitions(roots, disk) {
        if expected.iter().any(|e| is_same(e, &known)) {
            continue;
        }
        let busy =
            wait(
                &format!("{} to be free", known.name),
                BUSY_BOUND,
                || match ioctl::remove_partition(lock.file(), known.number) {
                    Ok(()) | Err(Errno::ENXIO) => Ok(Poll::Ready(())),
                    Err(Errno::EBUSY) => Ok(Poll::Pending("it is busy".to_owned())),
                    Err(errno) => Err(fail("removing a partition from", errno)),
                },
            );
        match busy {
            Err(BlockError::Timeout(_)) => {
                let holders = holders::phrases(roots, &known.name);
                return Err(BlockError::Busy { device: known.name, holders });
            }
            other => other?,
        }
    }
    let known = sysfs::partitions(roots, disk);
    for e in expected.iter().filter(|e| !known.iter().any(|k| is_same(e, k))) {
        match ioctl::add_partition(lock.file(), e.number, e.start, e.length) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Err(BlockError::NotPartitionable(disk.to_owned())),
            Err(errno) => return Err(fail("adding a partition to", errno)),
        }
    }
    match difference(expected, &sysfs::partitions(roots, disk)) {
        None => Ok(()),
        Some(difference) => Err(BlockError::OtherPartitions { disk: disk.to_owned(), difference }),
    }
}

/// Waits until the kernel knows exactly `expected`, each has its node, and udev, where it runs,
/// has recorded each with its GUID and is idle; and until that has been so for a moment.
pub fn settled(roots: &Roots, disk: &str, expected: &[Expected]) -> Result<(), BlockError> {
    let what = format!("the kernel and udev to show the new partitions of {disk}");
    let mut since: Option<Instant> = None;
    wait(&what, APPEAR_BOUND, || match unsettled(roots, disk, expected) {
        Some(why) => {
            since = None;
            Ok(Poll::Pending(why))
        }
        None => {
            let since = *since.get_or_insert_with(Instant::now);
            Ok(if since.elapsed() >= SETTLED || !udev::is_running(roots) {
                Poll::Ready(())
            } else {
                Poll::Pending("they have only just appeared".to_owned())
            })
        }
    })
}

fn unsettled(roots: &Roots, disk: &str, expected: &[Expected]) -> Option<String> {
    let known = sysfs::partitions(roots, disk);
    if let Some(difference) = difference(expected, &known) {
        return Some(difference);
    }
    for (partition, expected) in known.iter().zip(expected) {
        let node = roots.node(&partition.name);
        if super::DevNo::of_node(&node) != Some(partition.devno) {
            return Some(format!("{} is not there yet", node.display()));
        }
        // udev looks into a RAID only where mdadm's rules are installed.
        if udev::is_running(roots) && !disk.starts_with("md") {
            let record = udev::record(roots, partition.devno).unwrap_or_default();
            match record.get("ID_PART_ENTRY_UUID") {
                Some(guid) if guid.eq_ignore_ascii_case(&expected.guid) => {}
                Some(guid) => {
                    return Some(format!("udev still has {} as {guid}", partition.name));
                }
                None => return Some(format!("udev has no GUID of {} yet", partition.name)),
            }
            let label = record.get("ID_PART_ENTRY_NAME").unwrap_or_default();
            // Blanks may have been trimmed.
            let bare = |encoded: &str| {
                let blanks = [r"\x20", r"\x09", r"\x0a", r"\x0b", r"\x0c", r"\x0d"];
                blanks.iter().fold(encoded.to_owned(), |text, blank| text.replace(blank, ""))
            };
            let wanted = expected.label.as_deref().map(udev::encoded);
            if wanted.is_some_and(|wanted| bare(&wanted) != bare(label)) {
                return Some(format!("udev still has {} named {label:?}", partition.name));
            }
        }
    }
    (udev::is_running(roots) && !udev::is_idle(roots)).then(|| "udev is busy".to_owned())
}

fn is_same(expected: &Expected, known: &KernelPartition) -> bool {
    (expected.number, expected.start, expected.length) == (known.number, known.start, known.length)
}

/// How `known` differs from `expected`, a phrase. Both are sorted by number.
fn difference(expected: &[Expected], known: &[KernelPartition]) -> Option<String> {
    for e in expected {
        match known.iter().find(|k| k.number == e.number) {
            None => return Some(format!("partition {} is missing", e.number)),
            Some(k) if !is_same(e, k) => {
                return Some(format!(
                    "{} is {} bytes from {}, not {} from {}",
                    k.name, k.length, k.start, e.length, e.start
                ));
            }
            Some(_) => {}
        }
    }
    known
        .iter()
        .find(|k| !expected.iter().any(|e| e.number == k.number))
        .map(|k| format!("{} is still there", k.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::DevNo;

    fn expected(number: u32, start: u64, length: u64) -> Expected {
        Expected { number, start, length, guid: "aa".into(), label: None }
    }

    fn known(number: u32, start: u64, length: u64) -> KernelPartition {
        let devno = DevNo { major: 254, minor: number };
        KernelPartition { number, name: format!("vda{number}"), start, length, devno }
    }

    #[test]
    fn differences_are_named() {
        let wanted = [expected(1, 1 << 20, 4096), expected(2, 1 << 21, 4096)];
        let one = known(1, 1 << 20, 4096);
        let two = known(2, 1 << 21, 4096);
        assert_eq!(difference(&wanted, &[one.clone(), two.clone()]), None);
        assert_eq!(difference(&[], &[]), None);
        let missing = difference(&wanted, std::slice::from_ref(&one)).unwrap();
        assert_eq!(missing, "partition 2 is missing");
        let other = difference(&wanted, &[one.clone(), known(2, 1 << 21, 512)]).unwrap();
        assert_eq!(other, "vda2 is 512 bytes from 2097152, not 4096 from 2097152");
        let more = difference(&wanted, &[one, two, known(3, 1 << 22, 1)]).unwrap();
        assert_eq!(more, "vda3 is still there");
    }
}
