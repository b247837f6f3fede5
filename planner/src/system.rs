//! Steps from the closure to the seal.

use super::capacity::Esp;
use super::existing::Existing;
use super::occupancy::group_of;
use super::storage::{Needed, needed};
use super::{Context, Remarks, words};
use keystone_protocol::layout::{Content, Root};
use keystone_protocol::options::{Chown, ClosureFacts, HostKeys};
use keystone_protocol::plan::{Action, DeviceRef, Step};

/// The steps.
pub(super) fn steps(
    context: &Context<'_>,
    closure: &ClosureFacts,
    esp: &Esp,
    copies: &[DeviceRef],
    remarks: &mut Remarks,
) -> Vec<Step> {
    let toplevel = || closure.toplevel.clone();
    let mut steps = Steps(Vec::new());
    steps.push(
        "closure",
        format!(
            "receive the closure: {} paths, {}",
            closure.paths,
            words::human(closure.nar_bytes)
        ),
        Action::ReceiveClosure { paths: closure.paths, bytes: closure.nar_bytes },
    );
    steps.push(
        "profile",
        "make it the system profile",
        Action::SetProfile { toplevel: toplevel() },
    );
    let options = context.options;
    if let Some(files) = &options.extra_files {
        let size = words::human(files.bytes);
        let title = format!("put the operator's files into the system: {}, {size}", files.entries);
        steps.push("extra-files", title, Action::PutFiles(files.clone()));
    }
    // Names are those of the system's own users, which its activation makes.
    let owners = || options.chown.iter().zip(1..);
    for (chown, number) in owners().filter(|(chown, _)| !chown.has_names()) {
        steps.chown(number, chown);
    }
    let keys = options.host_keys.clone();
    let title = match &keys {
        HostKeys::Made => "make the machine's SSH host key",
        HostKeys::Installer => "copy the installer's SSH host keys",
        HostKeys::Given { .. } => "give the machine its SSH host keys",
    };
    steps.push("host-key", title, Action::HostKey { keys });
    steps.push(
        "bootloader",
        "activate the system and install its boot loader",
        Action::InstallBootloader { toplevel: toplevel() },
    );
    for (chown, number) in owners().filter(|(chown, _)| chown.has_names()) {
        steps.chown(number, chown);
    }
    steps.push(
        "verify-bootloader",
        "check the boot loader",
        Action::VerifyBootloader {
            toplevel: toplevel(),
            esp: esp.device.clone(),
            mountpoint: esp.mountpoint.clone(),
        },
    );
    for copy in copies {
        let disk = copy.disk().unwrap_or_default();
        steps.push(
            format!("copy-esp:{disk}"),
            format!("copy the EFI system partition to disk {disk}"),
            Action::CopyEsp { mountpoint: esp.mountpoint.clone(), to: copy.clone() },
        );
    }
    steps.push("report", "write the report", Action::WriteReport);
    steps.0.extend(closing(context, remarks));
    steps.0
}

/// The steps that close everything that was opened, and prove it: the seal.
fn closing(context: &Context<'_>, remarks: &mut Remarks) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    steps.push("unmount", "unmount everything", Action::Unmount);
    swapoffs(context, &mut steps);
    steps.close(containers(context, |needed| needed == Needed::Mounted));
    if context.options.skip_seal {
        remarks.warnings.push(
            "THE SEAL IS LEFT OUT, as asked for: pools are not exported, and the installed \
             system will refuse to import them and not boot"
                .to_owned(),
        );
        return steps.0;
    }
    close_all(context, &mut steps);
    steps.0.push(seal());
    steps.0
}

/// The steps that close what a plan opened that mounts nothing; what was open before stays so.
pub(super) fn closing_again(context: &Context<'_>, existing: &Existing) -> Vec<Step> {
    let was_open = |name: &String| context.inventory.mappers.iter().any(|open| open.name == *name);
    let close = |needed: Needed| {
        let mut names = containers(context, |found| found == needed);
        names.retain(|name| !was_open(name));
        names
    };
    let mut steps = Steps(Vec::new());
    steps.close(close(Needed::Mounted));
    let inventory = context.inventory;
    let active =
        |group: &str| inventory.mappers.iter().any(|open| group_of(open).as_deref() == Some(group));
    let running = |array: &str| inventory.arrays.iter().any(|found| found.name == array);
    let mut rest = Steps(Vec::new());
    close_all(context, &mut rest);
    let was_open = |step: &Step| match &step.action {
        Action::CloseLuks { name } => was_open(name),
        Action::DeactivateGroup { name } => active(name),
        Action::StopArray { name } => running(name),
        Action::ExportPool { pool } => existing.pool(pool).is_some_and(|pool| pool.imported),
        _ => false,
    };
    steps.0.extend(rest.0.into_iter().filter(|step| !was_open(step)));
    steps.0
}

/// The proof that everything is closed.
pub(super) fn seal() -> Step {
    let title = "prove that everything is closed".to_owned();
    Step { id: "seal".to_owned(), title, action: Action::ProveSeal }
}

struct Steps(Vec<Step>);

impl Steps {
    fn push(&mut self, id: impl Into<String>, title: impl Into<String>, action: Action) {
        self.0.push(Step { id: id.into(), title: title.into(), action });
    }

    fn chown(&mut self, number: usize, chown: &Chown) {
        let title = format!("give {} to {}", chown.path, chown.owner());
        self.push(format!("chown:{number}"), title, Action::Chown(chown.clone()));
    }

    fn close(&mut self, names: Vec<String>) {
        for name in names {
            let title = format!("close container {name}");
            self.push(format!("close:{name}"), title, Action::CloseLuks { name });
        }
    }
}

/// Containers that are needed as long as `wanted` says, inner ones first.
pub(super) fn containers(context: &Context<'_>, wanted: impl Fn(Needed) -> bool) -> Vec<String> {
    let contents = context.layout.contents();
    contents
        .into_iter()
        .rev()
        .filter_map(|(_, content)| match content {
            Content::Luks(luks) if wanted(needed(luks)) => Some(luks.name.clone()),
            _ => None,
        })
        .collect()
}

/// Closes what everything is made of, each after what is made of it: disko's order backwards.
fn close_all(context: &Context<'_>, steps: &mut Steps) {
    let layout = context.layout;
    for root in layout.order().iter().rev() {
        let contents = layout.contents_of(*root).into_iter().rev();
        let below = contents.filter_map(|placed| match placed.content {
            Content::Luks(luks) if needed(luks) == Needed::Below => Some(luks.name.clone()),
            _ => None,
        });
        steps.close(below.collect());
        match root {
            Root::Pool(index) => {
                let name = &layout.zpools[*index].name;
                steps.push(
                    format!("export:{name}"),
                    format!("export pool {name}"),
                    Action::ExportPool { pool: name.clone() },
                );
            }
            Root::Group(index) => {
                let name = &layout.groups[*index].name;
                steps.push(
                    format!("deactivate:{name}"),
                    format!("deactivate volume group {name}"),
                    Action::DeactivateGroup { name: name.clone() },
                );
            }
            Root::Array(index) => {
                let name = &layout.arrays[*index].name;
                steps.push(
                    format!("stop:{name}"),
                    format!("stop RAID {name}"),
                    Action::StopArray { name: name.clone() },
                );
            }
            Root::Disk(_) | Root::Nodev(_) => {}
        }
    }
}

/// Ends swapping to all that the layout swaps to.
fn swapoffs(context: &Context<'_>, steps: &mut Steps) {
    for (device, content) in context.layout.contents() {
        match content {
            Content::Swap(swap) if !swap.random_encryption => {
                let id = format!("swapoff:{}", swap.path);
                let title = format!("stop swapping to {}", swap.device);
                steps.push(id, title, Action::Swapoff { device });
            }
            _ => {}
        }
    }
}
