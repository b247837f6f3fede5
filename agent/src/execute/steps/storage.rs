//! Partition tables, file systems, swap, mounts.

use super::StepError;
use crate::block::{Device, wipe};
use crate::ensure::Ensured;
use crate::execute::machine::TARGET;
use crate::execute::{Execution, StepResult};
use crate::mount::swap::Discard;
use crate::mount::{MountRequest, SwapOptions};
use crate::{btrfs, filesystem, gpt, mbr, mount};
use keystone_planner::geometry::{Wanted, allocate};
use keystone_protocol::plan::{
    DeviceRef, InnerPresence, InnerTable, MbrTable, MountPlan, MountSource, PartitionTable,
    PlannedPartition, SwapDiscard,
};
use std::path::Path;

/// Writes a GPT and notes its GUIDs.
pub(super) fn partition(run: &mut Execution<'_>, table: &PartitionTable) -> StepResult {
    let node = run.machine.node(&table.device)?;
    let (ensured, ids) = gpt::ensure(run.machine.roots(), &node.name, table)?;
    run.machine.partitioned(table, ids, ensured);
    Ok(ensured)
}

/// Writes a GPT onto something that has its size only now.
pub(super) fn partition_inner(run: &mut Execution<'_>, table: &InnerTable) -> StepResult {
    let node = run.machine.node(&table.device)?;
    let device = Device::open_read(run.machine.roots(), &node.name)?;
    let failed = |problem: String| StepError::Inner(table.device.clone(), problem);
    let wanted = table
        .partitions
        .iter()
        .map(|partition| {
            Ok(Wanted {
                start: partition.start.parse()?,
                end: partition.end.parse()?,
                alignment: partition.alignment,
            })
        })
        .collect::<Result<Vec<Wanted>, String>>()
        .map_err(failed)?;
    let extents = allocate(device.size(), device.sector_size(), &wanted)
        .map_err(|error| failed(error.to_string()))?;
    drop(device);
    let partitions =
        table.partitions.iter().zip(extents).map(|(partition, extent)| PlannedPartition {
            number: partition.number,
            name: partition.name.clone(),
            label: partition.label.clone(),
            type_guid: partition.type_guid.clone(),
            guid: partition.guid.clone(),
            first_lba: extent.first,
            last_lba: extent.last,
            attributes: partition.attributes,
        });
    let presence = table.presence;
    let table = PartitionTable {
        device: table.device.clone(),
        keep: presence == InnerPresence::Kept,
        partitions: partitions.collect(),
        hybrid: None,
    };
    let roots = run.machine.roots();
    match presence {
        InnerPresence::Found => {
            let _ = gpt::find(roots, &node.name, &table)?;
            return Ok(Ensured::AlreadySo);
        }
        InnerPresence::Kept => {
            let device = Device::open_read(roots, &node.name)?;
            let is_gpt = gpt::read(device.file(), device.size(), device.sector_size()).is_some();
            if !is_gpt && !wipe::is_blank(&device)? {
                let problem = "it holds something, and no partition table".to_owned();
                return Err(StepError::Inner(table.device, problem));
            }
        }
        InnerPresence::New => {}
    }
    let (ensured, _) = gpt::ensure(roots, &node.name, &table)?;
    Ok(ensured)
}

/// Writes an MBR partition table and notes it.
pub(super) fn partition_mbr(run: &mut Execution<'_>, table: &MbrTable) -> StepResult {
    let node = run.machine.node(&table.device)?;
    let (ensured, _) = mbr::ensure(run.machine.roots(), &node.name, table)?;
    run.machine.partitioned_mbr(table, ensured);
    Ok(ensured)
}

/// Makes a FAT32 file system.
pub(super) fn make_vfat(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    label: Option<&str>,
) -> StepResult {
    let node = run.machine.node(device)?;
    let ensured = filesystem::vfat::ensure(run.machine.roots(), &node.name, label)?;
    run.machine.formatted(device, ensured);
    Ok(ensured)
}

/// Makes a file system by the running system's program.
pub(super) fn make_filesystem(
    run: &mut Execution<'_>,
    step: &str,
    device: &DeviceRef,
    fstype: &str,
    extra_args: &[String],
) -> StepResult {
    let node = run.machine.node(device)?;
    let roots = run.machine.roots().clone();
    let mut say = |line: &str| run.output(step, line);
    let ensured = filesystem::mkfs::ensure(&roots, &node.name, fstype, extra_args, &mut say)?;
    run.machine.formatted(device, ensured);
    Ok(ensured)
}

/// Makes a btrfs subvolume.
pub(super) fn create_subvolume(
    run: &mut Execution<'_>,
    step: &str,
    device: &DeviceRef,
    subvolume: &str,
    extra_args: &[String],
) -> StepResult {
    let node = run.machine.node(device)?;
    let roots = run.machine.roots().clone();
    if extra_args.is_empty() {
        return Ok(btrfs::ensure_subvolume(&roots, &node.path, subvolume)?);
    }
    let mut say = |line: &str| run.output(step, line);
    Ok(btrfs::ensure_subvolume_with(&roots, &node.path, subvolume, extra_args, &mut say)?)
}

/// Makes a swap file in a btrfs file system.
pub(super) fn create_swap_file(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    path: &str,
    size: u64,
) -> StepResult {
    let node = run.machine.node(device)?;
    Ok(btrfs::ensure_swap_file(run.machine.roots(), &node.path, path, size)?)
}

/// Writes a swap header.
pub(super) fn make_swap(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    label: Option<&str>,
    uuid: Option<&str>,
) -> StepResult {
    let node = run.machine.node(device)?;
    Ok(filesystem::swap::ensure(run.machine.roots(), &node.name, label, uuid)?)
}

/// Begins to swap to a device.
pub(super) fn swapon(
    run: &mut Execution<'_>,
    device: &DeviceRef,
    priority: Option<u16>,
    discard: Option<SwapDiscard>,
    options: &[String],
) -> StepResult {
    let node = run.machine.node(device)?;
    let how = swap_options(priority, discard, options);
    run.machine.swapping_to(node.path.clone());
    Ok(mount::swapon(run.machine.roots(), &node.path, how)?)
}

/// The layout's own fields count before the words of its options.
fn swap_options(
    priority: Option<u16>,
    discard: Option<SwapDiscard>,
    options: &[String],
) -> SwapOptions {
    let words = SwapOptions::default().with_words(options.iter().map(String::as_str));
    let discard = discard.map(|discard| match discard {
        SwapDiscard::Once => Discard::Once,
        SwapDiscard::Pages => Discard::Pages,
        SwapDiscard::Both => Discard::Both,
    });
    SwapOptions { priority: priority.or(words.priority), discard: discard.or(words.discard) }
}

/// Ends swapping to a device.
pub(super) fn swapoff(run: &mut Execution<'_>, device: &DeviceRef) -> StepResult {
    let node = run.machine.node(device)?;
    Ok(mount::swapoff(run.machine.roots(), &node)?)
}

/// Mounts below the target's root.
pub(super) fn mount(run: &mut Execution<'_>, plan: &MountPlan) -> StepResult {
    let target = Path::new(TARGET).join(plan.target.trim_start_matches('/'));
    let mut options = plan.options.clone();
    let (source, fstype) = match &plan.source {
        MountSource::Dataset { dataset } => (dataset.clone(), "zfs".to_owned()),
        MountSource::Filesystem { device, fstype } => {
            (run.machine.node(device)?.path.display().to_string(), fstype.clone())
        }
        MountSource::Virtual { fstype, name } => (name.clone(), fstype.clone()),
        MountSource::Bind { path, recursive } => {
            options.push(if *recursive { "rbind" } else { "bind" }.to_owned());
            (path.clone(), "none".to_owned())
        }
    };
    let request = MountRequest { source, target, fstype, options };
    Ok(mount::ensure(run.machine.roots(), &request)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::machine::Machine;
    use crate::execute::testing::{machine, plan, with_execution};
    use crate::testing::Loop;
    use keystone_protocol::plan::{MbrKind, MbrPartition};

    /// What is said of the only disk after a failure.
    fn left(machine: &Machine) -> String {
        machine.disks_left().collect::<Vec<_>>().join(", ")
    }

    fn mbr(keep: bool) -> MbrTable {
        let partition = MbrPartition {
            number: 1,
            kind: MbrKind::Primary,
            type_code: 0x83,
            bootable: true,
            first_lba: 2048,
            last_lba: 22_527,
            table_lba: None,
        };
        let device = DeviceRef::Disk { disk: "root".to_owned() };
        MbrTable { device, keep, partitions: vec![partition] }
    }

    #[test]
    fn an_mbr_that_was_written_is_what_is_left_after_a_failure() {
        let (plan, disk) = (plan(), Loop::new(16 << 20, 512));
        let state = with_execution(&plan, machine(&plan, &disk), |run| {
            assert!(left(&run.machine).ends_with(" was not partitioned by this run"));
            run.machine.wiped("root");
            assert!(left(&run.machine).ends_with(" was wiped, and not partitioned"));
            assert_eq!(partition_mbr(run, &mbr(false)).unwrap(), Ensured::Created);
            assert!(left(&run.machine).ends_with(" is partly written"));
            assert_eq!(partition_mbr(run, &mbr(false)).unwrap(), Ensured::AlreadySo);
            assert!(left(&run.machine).ends_with(" is partly written"));
            serde_json::to_string(&run.machine.state()).unwrap()
        });
        // The next agent says so too; one that begins anew keeps what is there.
        let mut next = machine(&plan, &disk);
        next.restore(&serde_json::from_str(&state).unwrap());
        assert!(left(&next).ends_with(" is partly written"));
        with_execution(&plan, machine(&plan, &disk), |run| {
            assert_eq!(partition_mbr(run, &mbr(true)).unwrap(), Ensured::AlreadySo);
            assert!(left(&run.machine).ends_with(" keeps its partitions"));
        });
    }

    #[test]
    fn a_discard_policy_is_what_swapping_begins_with() {
        let words = ["pri=5,discard=once".to_owned()];
        for (policy, discard) in [
            (None, Discard::Once),
            (Some(SwapDiscard::Once), Discard::Once),
            (Some(SwapDiscard::Pages), Discard::Pages),
            (Some(SwapDiscard::Both), Discard::Both),
        ] {
            let wanted = SwapOptions { priority: Some(7), discard: Some(discard) };
            assert_eq!(swap_options(Some(7), policy, &words), wanted);
        }
        let of_words = SwapOptions { priority: Some(5), discard: Some(Discard::Once) };
        assert_eq!(swap_options(None, None, &words), of_words);
        assert_eq!(swap_options(None, None, &[]), SwapOptions::default());
    }
}
