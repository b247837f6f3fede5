//! A step's exact parameters as text: everything that is in the plan.

use super::device::{device, key_file, list, unlock};
use super::storage;
use crate::ui::format::{bytes, count};
use keystone_protocol::options::HostKeys;
use keystone_protocol::plan::{
    Action, DatasetKey, HookPlan, HookValue, ImportPlan, LuksFormat, LuksOpen, MountPlan,
    MountSource, Release, SwapDiscard,
};
use std::collections::BTreeMap;

/// The lines below a step's title; none where the title says it all.
pub fn parameters(action: &Action) -> Vec<String> {
    match action {
        Action::Release(release) => release_lines(release),
        Action::WipeDisk { .. }
        | Action::SetProfile { .. }
        | Action::InstallBootloader { .. }
        | Action::WriteReport
        | Action::Unmount
        | Action::CloseLuks { .. }
        | Action::Swapoff { .. }
        | Action::StopArray { .. }
        | Action::DeactivateGroup { .. }
        | Action::CreatePhysicalVolume { .. }
        | Action::CreateSnapshot { .. }
        | Action::ExportPool { .. }
        | Action::ProveSeal => Vec::new(),
        Action::Partition(table) | Action::FindPartitions(table) => storage::table_lines(table),
        Action::PartitionMbr(table) => storage::mbr_lines(table),
        Action::PartitionInner(table) => storage::inner_lines(table),
        Action::CopyEsp { mountpoint, to } => {
            vec![format!("what is at {mountpoint}, to {}", device(to))]
        }
        Action::MakeVfat { device: at, label } => {
            vec![format!("FAT32 on {}{}", device(at), labelled(label.as_deref()))]
        }
        Action::MakeFilesystem { device: at, fstype, extra_args } => {
            vec![format!("{fstype} on {}{}", device(at), with(extra_args))]
        }
        Action::CreateSubvolume { device: at, subvolume, extra_args } => {
            vec![format!("{subvolume} in the btrfs on {}{}", device(at), with(extra_args))]
        }
        Action::CreateSwapFile { device: at, path, size } => {
            vec![format!("{path}, {}, in the btrfs on {}", bytes(*size), device(at))]
        }
        Action::MakeSwap { device: at, label, uuid } => {
            let uuid = uuid.as_ref().map_or(String::new(), |uuid| format!(", UUID {uuid}"));
            vec![format!("swap on {}{}{uuid}", device(at), labelled(label.as_deref()))]
        }
        Action::Swapon { device: at, priority, discard, options } => {
            let mut said = Vec::new();
            said.extend(priority.map(|priority| format!("priority {priority}")));
            said.extend(discard.map(|discard| format!("discard {}", discard_word(discard))));
            said.extend(options.iter().cloned());
            vec![format!("{}{}", device(at), in_brackets(&said))]
        }
        Action::CreateArray(array) | Action::AssembleArray(array) => storage::array_lines(array),
        Action::CreateVolumeGroup { members, .. } | Action::ActivateGroup { members, .. } => {
            vec![format!("of {}", list(members))]
        }
        Action::CreateLogicalVolume(volume) => storage::logical_volume_lines(volume),
        Action::Hook(hook) => hook_lines(hook),
        Action::CreatePool(pool) => storage::pool_lines(pool),
        Action::ImportPool(pool) => import_lines(pool),
        Action::OpenLuks { device: at, name, key_file: file } => {
            let file =
                file.as_ref().map_or(String::new(), |file| format!("{}, or ", key_file(file)));
            vec![format!("{name} on {}, by the TPM, {file}a password or recovery key", device(at))]
        }
        Action::UnlockDataset { key, .. } => vec![key_line(key)],
        Action::LoadKey { device: at, file, bytes, .. } => {
            vec![format!("{file}, {bytes} bytes, on {}", device(at))]
        }
        Action::CreateVolume { dataset, size, properties, sparse, key } => {
            let sparse = if *sparse { ", nothing reserved" } else { "" };
            let mut lines = vec![format!("{dataset}, {}{sparse}", bytes(*size))];
            lines.extend(property_lines("", properties));
            lines.extend(key.as_ref().map(key_line));
            lines
        }
        Action::FormatLuks { device: at, name, format, open } => {
            vec![format!(
                "LUKS{} ({}) on {}, opened as {name}{}",
                format.version.unwrap_or(2),
                format_words(format).join(", "),
                device(at),
                in_brackets(&open_words(open))
            )]
        }
        Action::Enroll { unlock: by, additional, .. } => {
            let mut lines = vec![unlock(by)];
            lines.extend(additional.iter().map(|file| format!("and {}", key_file(file))));
            lines
        }
        Action::CreateKey { device: at, file, bytes } => {
            vec![format!("{file}, {bytes} random bytes, on {}", device(at))]
        }
        Action::CreateDataset { properties, key, .. } => {
            let mut lines = property_lines("", properties);
            lines.extend(key.as_ref().map(key_line));
            lines
        }
        Action::Mount(mount) => mount_lines(mount),
        Action::ReceiveClosure { paths, bytes: size } => {
            vec![format!("{}, {}", count(*paths, "store path"), bytes(*size))]
        }
        Action::PutFiles(files) => {
            let size = bytes(files.bytes);
            vec![format!("{}, {size}, Blake3 {}", count(files.entries, "file"), files.blake3)]
        }
        Action::Chown(_) => vec!["with all below it; links themselves".to_owned()],
        Action::HostKey { keys: HostKeys::Given { public } } => public.clone(),
        Action::HostKey { keys: HostKeys::Made } => Vec::new(),
        Action::HostKey { keys: HostKeys::Installer } => {
            vec!["those that are there already stay".to_owned()]
        }
        Action::VerifyBootloader { esp, mountpoint, .. } => {
            vec![format!("ESP: {} at {mountpoint}", device(esp))]
        }
    }
}

fn release_lines(release: &Release) -> Vec<String> {
    vec![match release {
        Release::Unmount { target } => format!("unmount {target}"),
        Release::Swapoff { device: at } => format!("stop swapping to {}", device(at)),
        Release::CloseMapper { name, uuid } => format!("close {name} ({uuid})"),
        Release::StopArray { name } => format!("stop the RAID {name}"),
        Release::DeactivateGroup { name } => format!("deactivate the volume group {name}"),
        Release::ExportPool { name, guid, .. } => format!("export the pool {name} ({guid})"),
        Release::DestroyPool { name, guid } => format!("destroy the imported pool {name} ({guid})"),
    }]
}

fn import_lines(pool: &ImportPlan) -> Vec<String> {
    let guid = pool.guid.as_deref().unwrap_or("known once its members are open");
    let mut line = format!("GUID {guid}, from {}", list(&pool.members));
    if !pool.auxiliary.is_empty() {
        line.push_str(&format!(", with the caches and spares {}", list(&pool.auxiliary)));
    }
    if pool.any_host {
        line.push_str(", whichever host had it last");
    }
    vec![line]
}

/// The hook's text in full, after the variables it gets.
fn hook_lines(hook: &HookPlan) -> Vec<String> {
    let mut lines = vec![format!("{}, run by bash with", hook.path)];
    lines.extend(hook.variables.iter().map(|(name, value)| match value {
        HookValue::String(value) => format!("  {name}={value:?}"),
        HookValue::List(values) => format!("  {name}={values:?}"),
        HookValue::Set(values) => format!("  {name}={values:?}"),
    }));
    lines.extend(hook.script.lines().map(|line| format!("| {line}")));
    lines
}

fn mount_lines(mount: &MountPlan) -> Vec<String> {
    let source = match &mount.source {
        MountSource::Dataset { dataset } => format!("dataset {dataset}"),
        MountSource::Filesystem { device: at, fstype } => format!("{fstype} on {}", device(at)),
        MountSource::Virtual { fstype, name } => format!("{fstype} ({name})"),
        MountSource::Bind { path, recursive: false } => format!("{path} of this system"),
        MountSource::Bind { path, recursive: true } => {
            format!("{path} of this system, with what is mounted below it,")
        }
    };
    vec![format!("{source} at {}{}", mount.target, in_brackets(&mount.options))]
}

/// Properties in one line, if there are any.
pub(super) fn property_lines(head: &str, properties: &BTreeMap<String, String>) -> Vec<String> {
    if properties.is_empty() {
        return Vec::new();
    }
    let list: Vec<String> = properties.iter().map(|(k, v)| format!("{k}={v}")).collect();
    vec![format!("{head}{}", list.join(" "))]
}

/// Where a dataset's key comes from.
pub(super) fn key_line(key: &DatasetKey) -> String {
    match key {
        DatasetKey::Made { device: at, file } => format!("key: {file} on {}", device(at)),
        DatasetKey::File { path } => format!("key: the file {path} of the machine as it is now"),
        DatasetKey::Asked => "key: the password".to_owned(),
    }
}

fn format_words(format: &LuksFormat) -> Vec<String> {
    let pbkdf = &format.pbkdf;
    let mut words = vec![pbkdf.kind.clone().unwrap_or_else(|| "argon2id".to_owned())];
    let mut say = |what: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{what} {value}")));
    };
    say("iteration time in ms", pbkdf.iter_time.map(|n| n.to_string()));
    say("iterations", pbkdf.iterations.map(|n| n.to_string()));
    say("memory in KiB", pbkdf.memory.map(|n| n.to_string()));
    say("threads", pbkdf.parallel.map(|n| n.to_string()));
    say("cipher", format.cipher.clone());
    say("key bits", format.key_size.map(|n| n.to_string()));
    say("hash", format.hash.clone());
    say("sector bytes", format.sector_size.map(|n| n.to_string()));
    say("label", format.label.clone());
    say("subsystem", format.subsystem.clone());
    say("UUID", format.uuid.clone());
    words
}

fn open_words(open: &LuksOpen) -> Vec<String> {
    let flags = [
        (open.allow_discards, "discards allowed"),
        (open.no_read_workqueue, "no read workqueue"),
        (open.no_write_workqueue, "no write workqueue"),
        (open.same_cpu_crypt, "encryption on the same CPU"),
        (open.submit_from_crypt_cpus, "submitted from the encrypting CPU"),
    ];
    flags.into_iter().filter(|(set, _)| *set).map(|(_, word)| word.to_owned()).collect()
}

fn discard_word(discard: SwapDiscard) -> &'static str {
    match discard {
        SwapDiscard::Once => "once",
        SwapDiscard::Pages => "of freed pages",
        SwapDiscard::Both => "once and of freed pages",
    }
}

fn labelled(label: Option<&str>) -> String {
    label.map_or(String::new(), |label| format!(", labelled {label:?}"))
}

/// Arguments from the layout, if there are any.
pub(super) fn with(extra_args: &[String]) -> String {
    match extra_args {
        [] => String::new(),
        args => format!(", with {}", args.join(" ")),
    }
}

fn in_brackets(words: &[String]) -> String {
    match words {
        [] => String::new(),
        words => format!(" ({})", words.join(",")),
    }
}
