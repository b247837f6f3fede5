//! Block devices: found by what they are, waited for, locked, reread, wiped.
//!
//! Nothing here trusts a link. A partition is "number 2 of the disk `vda`", read from sysfs; a
//! ZFS volume is the `zd*` device whose driver says it belongs to the dataset; a LUKS mapper is the
//! `dm-*` device with that UUID. Their nodes are those of devtmpfs, checked against the device
//! number in sysfs. `/dev/disk/by-partlabel`, `/dev/zvol` and `/dev/mapper` may be stale, missing
//! or somebody else's.
//!
//! | module | job |
//! |---|---|
//! | [`roots`] | where `/proc`, `/sys`, `/dev`, `/run`, `/etc` are; elsewhere in tests |
//! | [`devno`] | device numbers |
//! | [`wait`](mod@wait) | the one bounded wait, which says what it waited for |
//! | [`sysfs`] | the kernel's view: disks, partitions, mappers, holders |
//! | [`udev`] | udev's view: properties and links, and whether it is idle |
//! | [`device`] | an open device: exclusive, locked against udev, with its sizes |
//! | [`reread`] | making the kernel and udev see a new partition table |
//! | [`find`] | from a name in the plan to a node |
//! | `seek` | positions on a device |
//! | [`probe`] | what is on a device, by magic |
//! | [`wipe`] | removing all of that |
//! | `ioctl`, `error` | requests to the kernel; what can go wrong |
//! | [`holders`] | who uses a device, for sentences and for the inventory |

pub mod device;
pub mod devno;
mod error;
pub mod find;
pub mod holders;
pub(crate) mod ioctl;
pub mod probe;
pub mod reread;
pub mod roots;
pub(crate) mod seek;
pub mod sysfs;
pub mod udev;
pub mod wait;
pub mod wipe;

pub use device::{Device, DiskLock};
pub use devno::DevNo;
pub use error::BlockError;
pub use roots::Roots;
pub use wait::{Poll, Timeout, wait};
