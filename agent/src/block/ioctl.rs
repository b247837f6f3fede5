//! The block layer's ioctls (`include/uapi/linux/fs.h`, `blkpg.h`) and OpenZFS' one for volumes.

use nix::errno::Errno;
use std::ffi::{CStr, c_char, c_int, c_longlong, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `struct blkpg_partition`.
#[repr(C)]
struct BlkpgPartition {
    /// Bytes from the disk's start.
    start: c_longlong,
    /// Bytes.
    length: c_longlong,
    pno: c_int,
    devname: [c_char; 64],
    volname: [c_char; 64],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct BlkpgArg {
    op: c_int,
    flags: c_int,
    datalen: c_int,
    data: *mut c_void,
}

const BLKPG_ADD_PARTITION: c_int = 1;
const BLKPG_DEL_PARTITION: c_int = 2;

/// `ZFS_MAX_DATASET_NAME_LEN`, the size in `BLKZNAME` (OpenZFS 2.1 to 2.4,
/// `include/sys/fs/zfs.h`).
const ZFS_NAME_LEN: usize = 256;

mod raw {
    use super::{BlkpgArg, ZFS_NAME_LEN, c_char, c_int};

    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_read_bad!(blksszget, 0x1268, c_int);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    // `_IO(0x12, 119)`, with a pointer all the same.
    nix::ioctl_write_ptr_bad!(blkdiscard, 0x1277, [u64; 2]);
    nix::ioctl_write_ptr_bad!(blkpg, 0x1269, BlkpgArg);
    // `STOP_ARRAY` of `include/uapi/linux/raid/md_u.h`; `MD_MAJOR` is 9.
    nix::ioctl_none!(stop_array, 9, 0x32);
    nix::ioctl_read!(blkzname, 0x12, 125, [c_char; ZFS_NAME_LEN]);
}

/// Size in bytes.
pub(super) fn size(file: &File) -> io::Result<u64> {
    let mut bytes = 0usize;
    // SAFETY: the fd is open and the kernel writes one u64 (size_t on 64 bits).
    unsafe { raw::blkgetsize64(file.as_raw_fd(), &mut bytes) }?;
    Ok(bytes as u64)
}

/// Tells the device to forget `length` bytes at `start`.
pub(super) fn discard(file: &File, start: u64, length: u64) -> io::Result<()> {
    let range = [start, length];
    // SAFETY: the fd is open and the kernel reads two u64.
    unsafe { raw::blkdiscard(file.as_raw_fd(), &range) }?;
    Ok(())
}

/// Logical sector size in bytes.
pub(super) fn sector_size(file: &File) -> io::Result<u32> {
    let mut bytes: c_int = 0;
    // SAFETY: the fd is open and the kernel writes one int.
    unsafe { raw::blksszget(file.as_raw_fd(), &mut bytes) }?;
    Ok(bytes as u32)
}

/// Rereads the partition table.
pub(super) fn reread_table(file: &File) -> Result<(), Errno> {
    // SAFETY: the fd is open; the ioctl takes no argument.
    unsafe { raw::blkrrpart(file.as_raw_fd()) }.map(drop)
}

/// Writes what memory holds of the device, and forgets it.
pub(super) fn flush_buffers(file: &File) -> io::Result<()> {
    // SAFETY: the fd is open; the ioctl takes no argument.
    unsafe { raw::blkflsbuf(file.as_raw_fd()) }?;
    Ok(())
}

/// Tells the kernel of a partition; bytes.
pub(super) fn add_partition(
    file: &File,
    number: u32,
    start: u64,
    length: u64,
) -> Result<(), Errno> {
    blkpg(file, BLKPG_ADD_PARTITION, number, start, length)
}

/// Makes the kernel forget a partition.
pub(super) fn remove_partition(file: &File, number: u32) -> Result<(), Errno> {
    blkpg(file, BLKPG_DEL_PARTITION, number, 0, 0)
}

fn blkpg(file: &File, op: c_int, number: u32, start: u64, length: u64) -> Result<(), Errno> {
    let signed = |value: u64| c_longlong::try_from(value).map_err(|_| Errno::EOVERFLOW);
    let mut partition = BlkpgPartition {
        start: signed(start)?,
        length: signed(length)?,
        pno: c_int::try_from(number).map_err(|_| Errno::EOVERFLOW)?,
        devname: [0; 64],
        volname: [0; 64],
    };
    let arg = BlkpgArg {
        op,
        flags: 0,
        datalen: size_of::<BlkpgPartition>() as c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: the fd is open; `arg` and the partition it points to outlive the call, and both
    // have the kernel's layout.
    unsafe { raw::blkpg(file.as_raw_fd(), &arg) }.map(drop)
}

/// Stops an open software RAID.
pub(crate) fn stop_array(file: &File) -> Result<(), Errno> {
    // SAFETY: the fd is open; the ioctl takes no argument.
    unsafe { raw::stop_array(file.as_raw_fd()) }.map(drop)
}

/// The dataset of an open ZFS volume.
pub(super) fn zvol_name(file: &File) -> io::Result<String> {
    let mut name: [c_char; ZFS_NAME_LEN] = [0; ZFS_NAME_LEN];
    // SAFETY: the fd is open and the kernel writes at most ZFS_NAME_LEN bytes, as the ioctl's
    // number says.
    unsafe { raw::blkzname(file.as_raw_fd(), &mut name) }?;
    name[ZFS_NAME_LEN - 1] = 0;
    // SAFETY: the last byte was set to zero, so the string ends in the array.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}
