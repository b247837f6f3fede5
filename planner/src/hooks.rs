//! Hooks on this machine: which disks their variables name, and those around unmounting.

use super::refuse::refuse;
use super::{Context, words};
use keystone_protocol::layout::Disk;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{Action, HookKind, HookPlan, HookValue, Step};

/// The step that runs a hook; `when` tells several runs of one apart.
pub(super) fn step(hook: HookPlan, when: &str) -> Step {
    Step {
        id: format!("hook:{}{when}", hook.path),
        title: format!("run the layout's hook {}", hook.path),
        action: Action::Hook(hook),
    }
}

/// Steps that end all uses of the layout's devices, with its hooks around them: of what other things
/// are in, first and last.
pub(super) fn around_unmounting(context: &Context<'_>, ending: Vec<Step>) -> Vec<Step> {
    let of = |kind| context.layout.hooks(&[kind]).into_iter().map(|hook| step(hook, ""));
    of(HookKind::PreUnmount).chain(ending).chain(of(HookKind::PostUnmount).rev()).collect()
}

/// The steps, with variables of hooks that name the disks which the operator gave instead of the
/// layout's. A hook whose text names one of those itself is refused: it would do to the layout's disk
/// what is meant for the other.
pub(super) fn for_this_machine(
    context: &Context<'_>,
    mut steps: Vec<Step>,
) -> Result<Vec<Step>, Refusal> {
    let replaced: Vec<Replaced<'_>> = context
        .layout
        .disks
        .iter()
        .filter(|disk| context.options.disks.contains_key(&disk.name))
        .map(|disk| Replaced { disk, by: path(context, disk) })
        .collect();
    for step in &mut steps {
        let Action::Hook(hook) = &mut step.action else { continue };
        if let Some(named) = replaced.iter().find(|replaced| replaced.is_in(&hook.script)) {
            return Err(named.in_text(context, hook));
        }
        for value in hook.variables.values_mut() {
            for word in words_of(value) {
                if let Some(other) = replaced.iter().find_map(|replaced| replaced.name(word)) {
                    *word = other;
                }
            }
        }
    }
    Ok(steps)
}

fn words_of(value: &mut HookValue) -> Vec<&mut String> {
    match value {
        HookValue::String(word) => vec![word],
        HookValue::List(words) => words.iter_mut().collect(),
        HookValue::Set(set) => set.values_mut().collect(),
    }
}

/// A link that stays, if the disk has one, or else its node.
fn path(context: &Context<'_>, disk: &Disk) -> String {
    let found = context.disks[disk.name.as_str()];
    match found.identity.name.starts_with("/dev/") {
        true => found.identity.name.clone(),
        false => format!("/dev/{}", found.kernel_name),
    }
}

/// A disk of the layout that the operator replaced by another one.
struct Replaced<'a> {
    disk: &'a Disk,
    by: String,
}

impl Replaced<'_> {
    /// What a word of the layout's names now, if it names this disk or a partition of it.
    fn name(&self, word: &str) -> Option<String> {
        let rest = word.strip_prefix(&self.disk.device)?;
        if rest.is_empty() {
            return Some(self.by.clone());
        }
        let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
        let number = digits.parse::<u32>().ok()?;
        (partition(&self.disk.device, number) == word).then(|| partition(&self.by, number))
    }

    /// Whether a text names it or a partition of it.
    fn is_in(&self, text: &str) -> bool {
        let device = self.disk.device.as_str();
        text.match_indices(device).any(|(at, _)| {
            // `/dev/sda` is not in `/dev/sdab`.
            !text[at + device.len()..].starts_with(|c: char| c.is_ascii_alphabetic() && c != 'p')
        })
    }

    fn in_text(&self, context: &Context<'_>, hook: &HookPlan) -> Refusal {
        let Disk { name, device, .. } = self.disk;
        refuse(
            RefusalKind::TargetUnfit,
            format!(
                "the layout's hook {} names {device} itself, and disk {name:?} is {} instead",
                hook.path,
                words::disk(&context.disks[name.as_str()].identity)
            ),
            "let the hook say \"$device\", where it belongs to that disk or what is on it, or give the \
             layout the disk's own path",
        )
    }
}

/// The path of a disk's partition. Source: disko, `lib/default.nix`, `deviceNumbering`; the kernel's
/// names have a `p` between two digits.
fn partition(disk: &str, number: u32) -> String {
    if disk.starts_with("/dev/disk/") {
        return format!("{disk}-part{number}");
    }
    match disk.ends_with(|c: char| c.is_ascii_digit()) {
        true => format!("{disk}p{number}"),
        false => format!("{disk}{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::partition;

    #[test]
    fn partitions_have_paths_by_their_disks() {
        for (disk, path) in [
            ("/dev/sda", "/dev/sda12"),
            ("/dev/nvme0n1", "/dev/nvme0n1p12"),
            ("/dev/mmcblk0", "/dev/mmcblk0p12"),
            ("/dev/disk/by-id/ata-X_1", "/dev/disk/by-id/ata-X_1-part12"),
        ] {
            assert_eq!(partition(disk, 12), path);
        }
    }
}
