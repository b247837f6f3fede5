//! Which disk of the machine each disk of the layout is.

use super::matching::{self, is_kernel_name};
use super::refuse::refuse;
use super::{Remarks, words};
use keystone_protocol::inventory::{Disk, Inventory};
use keystone_protocol::layout::Layout;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::options::InstallOptions;
use std::collections::BTreeMap;

/// Sector sizes that GPT and everything after it are made for.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// Finds every disk of the layout, by the operator's word or the layout's, and refuses those
/// that must not or can't be written.
pub(super) fn disks<'a>(
    inventory: &'a Inventory,
    layout: &'a Layout,
    options: &InstallOptions,
    remarks: &mut Remarks,
) -> Result<BTreeMap<&'a str, &'a Disk>, Refusal> {
    let names: Vec<&str> = layout.disks.iter().map(|disk| disk.name.as_str()).collect();
    if let Some(unknown) = options.disks.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!("a disk was given for {unknown:?}, which the layout does not have"),
            format!("the layout's disks are {}", words::list(&names)),
        ));
    }
    let mut found: BTreeMap<&str, &Disk> = BTreeMap::new();
    for wanted in &layout.disks {
        let given = options.disks.get(&wanted.name);
        if let Some(word) = given.filter(|word| is_kernel_name(word)) {
            return Err(typed_kernel_name(inventory, &wanted.name, word));
        }
        let word = given.unwrap_or(&wanted.device);
        let disk = find(inventory, &wanted.name, word)?;
        writable(&wanted.name, disk)?;
        refuse_twin(inventory, disk)?;
        if let Some((other, _)) = found.iter().find(|(_, other)| other.devno == disk.devno) {
            return Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "the layout's disks {other:?} and {:?} are the same disk, {}",
                    wanted.name,
                    words::disk(&disk.identity)
                ),
                format!("name another one with --disk {}=DISK", wanted.name),
            ));
        }
        if is_kernel_name(word) {
            remarks.warnings.push(format!(
                "disk {:?} is given as {word}, a name that may be another disk's at the next \
                 boot; now it is {}",
                wanted.name,
                words::disk(&disk.identity)
            ));
        }
        found.insert(&wanted.name, disk);
    }
    Ok(found)
}

/// The one disk that `word` stands for.
fn find<'a>(inventory: &'a Inventory, name: &str, word: &str) -> Result<&'a Disk, Refusal> {
    match matching::disks(&inventory.disks, word).as_slice() {
        [disk] => Ok(disk),
        [] => Err(refuse(
            RefusalKind::TargetUnfit,
            format!("there is no disk {word} (disk {name:?} of the layout) on this machine"),
            there_are(inventory, name),
        )),
        several => {
            let several: Vec<String> = several.iter().map(|d| words::disk(&d.identity)).collect();
            Err(refuse(
                RefusalKind::TargetUnfit,
                format!(
                    "{word} (disk {name:?} of the layout) stands for {} disks: {}",
                    several.len(),
                    words::list(&several)
                ),
                format!(
                    "choose one by what only it has: --disk {name}=by-id:…, serial:…, wwn:… or \
                     path:…"
                ),
            ))
        }
    }
}

/// From here on the disk is known by its name: two disks of one name, as some USB bridges make
/// them, could be taken for each other.
fn refuse_twin(inventory: &Inventory, disk: &Disk) -> Result<(), Refusal> {
    let twin = inventory
        .disks
        .iter()
        .find(|other| other.devno != disk.devno && other.identity.name == disk.identity.name);
    let Some(twin) = twin else { return Ok(()) };
    Err(refuse(
        RefusalKind::TargetUnfit,
        format!(
            "/dev/{} and /dev/{} have the same name, {}, and could be taken for each other",
            disk.kernel_name, twin.kernel_name, disk.identity.name
        ),
        "detach the one that is not to be installed on",
    ))
}

/// A kernel name may be another disk's tomorrow, so it counts only where the layout has it.
fn typed_kernel_name(inventory: &Inventory, name: &str, word: &str) -> Refusal {
    let now = matching::disks(&inventory.disks, word);
    let hint = match now.as_slice() {
        [disk] => format!(
            "now it is {}: --disk {name}={}",
            words::disk(&disk.identity),
            disk.identity.name
        ),
        _ => there_are(inventory, name),
    };
    refuse(
        RefusalKind::TargetUnfit,
        format!(
            "disk {name:?} is given as {word}, a name that may be another disk's at the next boot"
        ),
        hint,
    )
}

fn there_are(inventory: &Inventory, name: &str) -> String {
    let disks: Vec<String> = inventory
        .disks
        .iter()
        .filter(|disk| !disk.boot_medium)
        .map(|disk| words::disk(&disk.identity))
        .collect();
    match disks.as_slice() {
        [] => "it has no disk besides the one it was booted from".to_owned(),
        disks => format!("it has {}; choose one with --disk {name}=DISK", words::list(disks)),
    }
}

fn writable(name: &str, disk: &Disk) -> Result<(), Refusal> {
    let shown = words::disk(&disk.identity);
    if disk.boot_medium {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!("disk {name:?} is {shown}, which the running system was booted from"),
            format!("choose another one with --disk {name}=DISK"),
        ));
    }
    if disk.read_only {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!("disk {name:?}, {shown}, is write-protected"),
            "remove the write protection (a switch, the hypervisor's read-only flag, blockdev \
             --setrw) or choose another disk",
        ));
    }
    if !SECTOR_SIZES.contains(&disk.identity.sector_size) {
        return Err(refuse(
            RefusalKind::TargetUnfit,
            format!(
                "disk {name:?}, {shown}, has logical sectors of {} bytes; 512 and 4096 are \
                 supported",
                disk.identity.sector_size
            ),
            "reformat it to 512 or 4096 bytes, if it can be, or choose another disk",
        ));
    }
    Ok(())
}
