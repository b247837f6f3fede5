//! Which disks a word of the operator or the layout stands for.
//!
//! A word is a match, `KEY:VALUE`, or plain:
//!
//! | word | stands for disks |
//! |---|---|
//! | `serial:S` | with that serial number |
//! | `wwn:W` | with that World Wide Name, in any case, with or without `0x` |
//! | `model:M` | of that model, in any case, `_` for spaces or not |
//! | `size:largest`, `size:smallest` | of that size, of those that can be written |
//! | `by-id:L` | with the link `/dev/disk/by-id/L` |
//! | `path:L` | with the link `/dev/disk/by-path/L` |
//! | `/dev/…` | with that link, or that kernel name |
//! | anything else | with that stable name, serial number, WWN, or last part of a link |
//!
//! Whether there is exactly one is for the caller to ask.

use keystone_protocol::inventory::Disk;

/// The disks that `word` stands for, in the inventory's order.
pub(super) fn disks<'a>(disks: &'a [Disk], word: &str) -> Vec<&'a Disk> {
    let all = disks.iter();
    match word.split_once(':') {
        Some(("size", "largest")) => of_size(disks, true),
        Some(("size", "smallest")) => of_size(disks, false),
        Some(("size", _)) => Vec::new(),
        Some(("serial", serial)) => all.filter(|disk| has_serial(disk, serial)).collect(),
        Some(("wwn", wwn)) => all.filter(|disk| has_wwn(disk, wwn)).collect(),
        Some(("model", model)) => all.filter(|disk| is_model(disk, model)).collect(),
        Some(("by-id", link)) => all.filter(|disk| has_link(disk, "by-id", link)).collect(),
        Some(("path", link)) => all.filter(|disk| has_link(disk, "by-path", link)).collect(),
        _ => all.filter(|disk| is_plain(disk, word)).collect(),
    }
}

/// Whether it is a name that the kernel gives in the order of finding.
pub(super) fn is_kernel_name(word: &str) -> bool {
    word.strip_prefix("/dev/").is_some_and(|node| !node.contains('/'))
}

/// The disks of one size. Several disks of that size are all of them: nobody may be right by
/// chance.
fn of_size(disks: &[Disk], largest: bool) -> Vec<&Disk> {
    let writable = |disk: &&Disk| !disk.boot_medium && !disk.read_only && disk.identity.size > 0;
    let usable: Vec<&Disk> = disks.iter().filter(writable).collect();
    let sizes = usable.iter().map(|disk| disk.identity.size);
    let size = if largest { sizes.max() } else { sizes.min() };
    usable.into_iter().filter(|disk| Some(disk.identity.size) == size).collect()
}

fn has_serial(disk: &Disk, serial: &str) -> bool {
    disk.identity.serial.as_deref() == Some(serial)
}

fn has_wwn(disk: &Disk, wwn: &str) -> bool {
    let bare = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.strip_prefix("0x").map_or_else(|| text.clone(), str::to_owned)
    };
    disk.identity.wwn.as_deref().is_some_and(|found| bare(found) == bare(wwn))
}

fn is_model(disk: &Disk, model: &str) -> bool {
    let words = |text: &str| text.replace('_', " ").trim().to_lowercase();
    disk.identity.model.as_deref().is_some_and(|found| words(found) == words(model))
}

fn has_link(disk: &Disk, directory: &str, name: &str) -> bool {
    disk.links.iter().any(|link| {
        let mut parts = link.rsplit('/');
        parts.next() == Some(name) && parts.next() == Some(directory)
    })
}

fn is_plain(disk: &Disk, word: &str) -> bool {
    if let Some(node) = word.strip_prefix("/dev/") {
        return if node.contains('/') {
            disk.links.iter().any(|link| link.strip_prefix("/dev/").unwrap_or(link) == node)
        } else {
            disk.kernel_name == node
        };
    }
    disk.identity.name == word
        || has_serial(disk, word)
        || disk.identity.wwn.as_deref() == Some(word)
        || disk.links.iter().any(|link| link.rsplit('/').next() == Some(word))
}
