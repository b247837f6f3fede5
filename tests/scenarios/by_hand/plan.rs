//! A plan's storage steps as the commands that people type for them.
//!
//! What they make is compared with what the agent makes, and mounted by it. They do what the plan says
//! and no more: nothing is looked at before, tested or read back. So they judge how a plan is executed;
//! whether it is the layout's is judged where documents are planned (`planner/src/tests/layouts.rs`), and
//! by `storage.sh` beside this, which no plan is asked for.

use anyhow::{Result, bail};
use keystone_protocol::plan::{
    Action, ContainerUnlock, DatasetKey, DeviceRef, HookPlan, HookValue, InnerTable, KeyFile,
    LogicalVolumePlan, LuksFormat, LuksOpen, LvSize, MbrKind, MbrTable, MountPlan, MountSource,
    PartitionTable, Plan, PoolPlan, SwapDiscard, Vdev,
};
use std::collections::BTreeMap;
use std::fmt::Write;

/// What is at the beginning: the password is in `$password`.
const HEAD: &str = r#"set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
umask 022
wait_for() {
    i=0
    until [ -e "$1" ]; do
        i=$((i + 1))
        [ "$i" -lt 600 ] || { echo "waited 60 s for $1" >&2; exit 1; }
        sleep 0.1
    done
}
# Partition $2 of a RAID or container $1.
inner() { lsblk -rnpo NAME,PARTN "$1" | awk -v n="$2" '$2 == n { print $1 }'; }
settle() { partprobe "$1" || true; udevadm settle --timeout 120; }
"#;

/// A script for `bash` that does what the plan's steps do, up to the mounts; `disk` gives the
/// node of a disk by the layout's name.
///
/// # Errors
/// A step has no such commands.
pub(in crate::scenarios) fn script(plan: &Plan, disk: &dyn Fn(&str) -> String) -> Result<String> {
    let mut script = Script { text: HEAD.to_owned(), plan, disk };
    for step in &plan.steps {
        script.line(&format!("echo {}", quoted(&format!("== {}", step.id))));
        script.step(&step.action)?;
    }
    Ok(script.text)
}

struct Script<'a> {
    text: String,
    plan: &'a Plan,
    disk: &'a dyn Fn(&str) -> String,
}

/// A word of the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn words(words: &[String]) -> String {
    words.iter().map(|word| format!(" {}", quoted(word))).collect()
}

/// `-o NAME=VALUE` for each.
fn properties(flag: &str, properties: &BTreeMap<String, String>) -> String {
    properties
        .iter()
        .map(|(name, value)| format!(" {flag} {}", quoted(&format!("{name}={value}"))))
        .collect()
}

/// ` FLAG VALUE`, if there is one.
fn option(flag: &str, value: Option<impl ToString>) -> String {
    value.map(|value| format!(" {flag} {}", quoted(&value.to_string()))).unwrap_or_default()
}

impl Script<'_> {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// The node of a device, as a word of the shell.
    fn node(&self, device: &DeviceRef) -> String {
        match device {
            DeviceRef::Disk { disk } => (self.disk)(disk),
            DeviceRef::Partition { disk, number } => format!("{}-part{number}", (self.disk)(disk)),
            DeviceRef::Inner { on, number } => format!("\"$(inner {} {number})\"", self.node(on)),
            DeviceRef::Volume { dataset } => format!("/dev/zvol/{dataset}"),
            DeviceRef::Mapper { name } => format!("/dev/mapper/{name}"),
            DeviceRef::LogicalVolume { group, name } => format!("/dev/{group}/{name}"),
            DeviceRef::Array { name } => format!("/dev/md/{name}"),
        }
    }

    fn nodes(&self, devices: &[DeviceRef]) -> String {
        devices.iter().map(|device| format!(" {}", self.node(device))).collect()
    }

    fn step(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::WipeDisk { disk, .. } => {
                let line = format!("wipefs -q -a {}", (self.disk)(disk));
                self.line(&line);
            }
            Action::Partition(table) => self.partition(table),
            Action::PartitionInner(table) => self.partition_inner(table),
            Action::PartitionMbr(table) => self.partition_mbr(table),
            Action::MakeVfat { device, label } => {
                let line = format!(
                    "mkfs.vfat -F 32{} {}",
                    option("-n", label.as_ref()),
                    self.node(device)
                );
                self.line(&line);
            }
            Action::MakeFilesystem { device, fstype, extra_args } => {
                let line = format!("mkfs.{fstype}{} {}", words(extra_args), self.node(device));
                self.line(&line);
            }
            Action::CreateSubvolume { device, subvolume, extra_args } => {
                let make =
                    format!("btrfs subvolume create{} \"$top/{subvolume}\"", words(extra_args));
                self.at_top(
                    device,
                    &format!("mkdir -p \"$(dirname \"$top/{subvolume}\")\"; {make}"),
                );
            }
            Action::CreateSwapFile { device, path, size } => self.at_top(
                device,
                &format!("btrfs filesystem mkswapfile --size {size} \"$top/{path}\""),
            ),
            Action::MakeSwap { device, label, uuid } => {
                let options = option("-L", label.as_ref()) + &option("-U", uuid.as_ref());
                let line = format!("mkswap{options} {}", self.node(device));
                self.line(&line);
            }
            Action::Swapon { device, priority, discard, options } => {
                let discard = discard.map(|discard| match discard {
                    SwapDiscard::Once => " --discard=once",
                    SwapDiscard::Pages => " --discard=pages",
                    SwapDiscard::Both => " --discard",
                });
                let options = (!options.is_empty()).then(|| options.join(","));
                let flags =
                    option("-p", *priority) + discard.unwrap_or_default() + &option("-o", options);
                let line = format!("swapon{flags} {}", self.node(device));
                self.line(&line);
            }
            Action::CreateArray(array) => {
                let line = format!(
                    "echo y | mdadm --create /dev/md/{name} --level={} --raid-devices={} --metadata={} \
                     --force --homehost=any{}{}; udevadm settle; wait_for /dev/md/{name}",
                    array.level,
                    array.members.len(),
                    array.metadata,
                    words(&array.extra_args),
                    self.nodes(&array.members),
                    name = array.name,
                );
                self.line(&line);
            }
            Action::CreatePhysicalVolume { device } => {
                let line = format!("pvcreate -y {}", self.node(device));
                self.line(&line);
            }
            Action::CreateVolumeGroup { name, members } => {
                let line = format!("vgcreate {name}{}", self.nodes(members));
                self.line(&line);
            }
            Action::CreateLogicalVolume(volume) => self.logical_volume(volume),
            Action::Hook(hook) => self.hook(hook),
            Action::CreatePool(pool) => self.pool(pool),
            Action::CreateVolume { dataset, size, properties: given, sparse, key } => {
                let sparse = if *sparse { " -s" } else { "" };
                let make =
                    format!("zfs create -V {size}{sparse}{} {dataset}", properties("-o", given));
                self.keyed(key.as_ref(), given.get("keylocation"), &make);
                self.line(&format!("wait_for /dev/zvol/{dataset}"));
            }
            Action::CreateDataset { dataset, properties: given, key } => {
                let make = format!("zfs create -u{} {dataset}", properties("-o", given));
                self.keyed(key.as_ref(), given.get("keylocation"), &make);
            }
            Action::CreateSnapshot { snapshot } => self.line(&format!("zfs snapshot {snapshot}")),
            Action::FormatLuks { device, name, format, open } => {
                self.format_luks(device, name, format, open)?;
            }
            Action::Enroll { device, name, additional, .. } => {
                let key = key_argument(&self.unlock(name)?)?;
                for file in additional {
                    let line = format!(
                        "{} cryptsetup -q luksAddKey {} --key-file - {} {}",
                        key.0,
                        key.1,
                        self.node(device),
                        quoted(&file.path)
                    );
                    self.line(&line);
                }
            }
            Action::CloseLuks { name } => self.line(&format!("cryptsetup close {name}")),
            Action::CreateKey { device, file, bytes } => self.at_top(
                device,
                &format!(
                    "head -c {bytes} /dev/urandom > \"$top/{file}\"; chmod 0400 \"$top/{file}\""
                ),
            ),
            Action::Mount(mount) => self.mount(mount),
            // What a program keeps loaded the other one does too.
            Action::LoadKey { .. } | Action::UnlockDataset { .. } => {}
            other => bail!("there are no commands for {other:?}"),
        }
        Ok(())
    }

    /// Runs commands while the file system of a device is mounted at `$top`.
    fn at_top(&mut self, device: &DeviceRef, commands: &str) {
        let node = self.node(device);
        self.line(&format!("top=$(mktemp -d); mount {node} \"$top\""));
        self.line(commands);
        self.line("umount \"$top\"; rmdir \"$top\"");
    }

    fn partition(&mut self, table: &PartitionTable) {
        let node = self.node(&table.device);
        let mut command = "sgdisk --clear --set-alignment=1".to_owned();
        for part in &table.partitions {
            let n = part.number;
            let _ = write!(command, " --new={n}:{}:{}", part.first_lba, part.last_lba);
            let _ = write!(command, " {}", quoted(&format!("--change-name={n}:{}", part.label)));
            let _ = write!(command, " --typecode={n}:{}", part.type_guid);
            if let Some(guid) = &part.guid {
                let _ = write!(command, " --partition-guid={n}:{guid}");
            }
            if part.attributes != 0 {
                let _ = write!(command, " --attributes={n}:=:{:x}", part.attributes);
            }
        }
        self.line(&format!("{command} {node}"));
        if let Some(hybrid) = &table.hybrid {
            let numbers: Vec<String> =
                hybrid.entries.iter().map(|entry| entry.number.to_string()).collect();
            let protective = if hybrid.protective_first { ":EE" } else { "" };
            self.line(&format!("sgdisk --hybrid {}{protective} {node}", numbers.join(":")));
            for (index, entry) in hybrid.entries.iter().enumerate() {
                let slot = index + 1 + usize::from(hybrid.protective_first);
                self.line(&format!(
                    "sfdisk --label-nested dos --part-type {node} {slot} {:02x}",
                    entry.type_code
                ));
                if entry.bootable {
                    self.line(&format!("sfdisk --label-nested dos --activate {node} {slot}"));
                }
            }
        }
        self.line(&format!("settle {node}"));
        for part in &table.partitions {
            let node = self.node(&table.device.partition(part.number));
            self.line(&format!("wait_for {node}"));
        }
    }

    fn partition_inner(&mut self, table: &InnerTable) {
        let node = self.node(&table.device);
        self.line(&format!("sgdisk --clear {node}"));
        for part in &table.partitions {
            let n = part.number;
            let alignment = option("-a", part.alignment.filter(|alignment| *alignment > 0));
            self.line(&format!(
                "sgdisk --align-end{alignment} --new={n}:{}:{} {} --typecode={n}:{} {node}",
                part.start,
                part.end,
                quoted(&format!("--change-name={n}:{}", part.label)),
                part.type_guid,
            ));
        }
        self.line(&format!("settle {node}"));
    }

    fn partition_mbr(&mut self, table: &MbrTable) {
        let node = self.node(&table.device);
        let mut text = "label: dos\n".to_owned();
        for part in &table.partitions {
            let kind = match part.kind {
                MbrKind::Extended => 0x0f,
                MbrKind::Primary | MbrKind::Logical => part.type_code,
            };
            let bootable = if part.bootable { ", bootable" } else { "" };
            let size = part.last_lba + 1 - part.first_lba;
            let _ = writeln!(
                text,
                "{} : start={}, size={size}, type={kind:x}{bootable}",
                part.number, part.first_lba
            );
        }
        self.line(&format!("sfdisk -q {node} <<'END'\n{text}END\nsettle {node}"));
    }

    fn logical_volume(&mut self, volume: &LogicalVolumePlan) {
        let size = match (&volume.size, &volume.thin_pool) {
            (LvSize::Bytes { bytes }, Some(_)) => format!("-V {bytes}b"),
            (LvSize::Bytes { bytes }, None) => format!("-L {bytes}b"),
            (LvSize::Percent { percent, of }, _) => format!("-l {percent}%{of}"),
        };
        let line = format!(
            "lvcreate -y {size} -n {}{}{}{} {}",
            volume.name,
            option("--type", volume.kind.as_ref()),
            option("--thinpool", volume.thin_pool.as_ref()),
            words(&volume.extra_args),
            volume.group
        );
        self.line(&line);
    }

    fn hook(&mut self, hook: &HookPlan) {
        let variables: String = hook
            .variables
            .iter()
            .map(|(name, value)| match value {
                HookValue::String(value) => format!("{name}={}\n", quoted(value)),
                HookValue::List(values) => format!("declare -a {name}=({})\n", words(values)),
                HookValue::Set(set) => {
                    let pairs = set.iter();
                    let pairs: String = pairs
                        .map(|(key, value)| format!(" [{}]={}", quoted(key), quoted(value)))
                        .collect();
                    format!("declare -A {name}=({pairs})\n")
                }
            })
            .collect();
        let text = format!("set -efu\n{variables}{}", hook.script);
        self.line(&format!("bash -c {}", quoted(&text)));
    }

    fn pool(&mut self, pool: &PoolPlan) {
        let vdevs = |vdevs: &[Vdev]| -> String {
            vdevs
                .iter()
                .map(|vdev| {
                    let kind = match vdev {
                        Vdev::Disk { .. } => String::new(),
                        Vdev::Mirror { .. } => " mirror".to_owned(),
                        Vdev::Raidz { parity, .. } => format!(" raidz{parity}"),
                    };
                    kind + &self.nodes(vdev.members())
                })
                .collect()
        };
        let mut command = format!(
            "zpool create -f -R /mnt{}{} {}{}",
            properties("-o", &pool.properties),
            properties("-O", &pool.root_properties),
            pool.name,
            vdevs(&pool.vdevs)
        );
        for (class, members) in
            [("log", &pool.log), ("special", &pool.special), ("dedup", &pool.dedup)]
        {
            if !members.is_empty() {
                let _ = write!(command, " {class}{}", vdevs(members));
            }
        }
        for (class, members) in [("cache", &pool.cache), ("spare", &pool.spare)] {
            if !members.is_empty() {
                let _ = write!(command, " {class}{}", self.nodes(members));
            }
        }
        self.keyed(pool.root_key.as_ref(), pool.root_properties.get("keylocation"), &command);
        // zpool mounts it at once, wherever that is.
        self.line(&format!("zfs unmount {} 2>/dev/null || true", pool.name));
    }

    /// A command that makes an encryption root.
    fn keyed(&mut self, key: Option<&DatasetKey>, location: Option<&String>, command: &str) {
        match key {
            None | Some(DatasetKey::File { .. }) => self.line(command),
            Some(DatasetKey::Asked) => {
                self.line(&format!("printf '%s\\n' \"$password\" | {command}"))
            }
            Some(DatasetKey::Made { device, .. }) => {
                let path = location.map_or("", String::as_str).trim_start_matches("file://");
                let dir = path.rsplit_once('/').map_or("/", |(dir, _)| dir);
                let node = self.node(device);
                self.line(&format!("mkdir -p {dir}; mount {node} {dir}; {command}; umount {dir}"));
            }
        }
    }

    /// What opens a container in the end.
    fn unlock(&self, name: &str) -> Result<ContainerUnlock> {
        let found = self.plan.steps.iter().find_map(|step| match &step.action {
            Action::Enroll { name: enrolled, unlock, .. } if enrolled == name => {
                Some(unlock.clone())
            }
            _ => None,
        });
        found.map_or_else(|| bail!("nothing opens container {name}"), Ok)
    }

    fn format_luks(
        &mut self,
        device: &DeviceRef,
        name: &str,
        format: &LuksFormat,
        open: &LuksOpen,
    ) -> Result<()> {
        let (feed, key) = key_argument(&self.unlock(name)?)?;
        let node = self.node(device);
        let pbkdf = &format.pbkdf;
        let options = [
            option("--type", format.version.map(|version| format!("luks{version}"))),
            option("--cipher", format.cipher.as_ref()),
            option("--key-size", format.key_size),
            option("--hash", format.hash.as_ref()),
            option("--sector-size", format.sector_size),
            option("--label", format.label.as_ref()),
            option("--subsystem", format.subsystem.as_ref()),
            option("--uuid", format.uuid.as_ref()),
            option("--pbkdf", pbkdf.kind.as_ref()),
            option("--iter-time", pbkdf.iter_time),
            option("--pbkdf-force-iterations", pbkdf.iterations),
            option("--pbkdf-memory", pbkdf.memory),
            option("--pbkdf-parallel", pbkdf.parallel),
        ]
        .concat();
        self.line(&format!("{feed} cryptsetup -q luksFormat{options} {key} --key-file - {node}"));
        let flags: String = [
            (open.allow_discards, " --allow-discards"),
            (open.no_read_workqueue, " --perf-no_read_workqueue"),
            (open.no_write_workqueue, " --perf-no_write_workqueue"),
            (open.same_cpu_crypt, " --perf-same_cpu_crypt"),
            (open.submit_from_crypt_cpus, " --perf-submit_from_crypt_cpus"),
        ]
        .iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, flag)| *flag)
        .collect();
        self.line(&format!(
            "{feed} cryptsetup open --persistent{flags} {key} --key-file - {node} {name}"
        ));
        Ok(())
    }

    /// Whether a dataset is mounted as others are (`mountpoint=legacy`).
    fn is_legacy(&self, wanted: &str) -> bool {
        self.plan.steps.iter().any(|step| match &step.action {
            Action::CreateDataset { dataset, properties, .. } => {
                dataset == wanted && properties.get("mountpoint").is_some_and(|at| at == "legacy")
            }
            _ => false,
        })
    }

    fn mount(&mut self, mount: &MountPlan) {
        let target = quoted(format!("/mnt{}", mount.target).trim_end_matches('/'));
        let mut options = mount.options.clone();
        let what = match &mount.source {
            MountSource::Dataset { dataset } => {
                if !self.is_legacy(dataset) {
                    options.push("zfsutil".to_owned());
                }
                format!("-t zfs {dataset}")
            }
            MountSource::Filesystem { device, fstype } => {
                format!("-t {fstype} {}", self.node(device))
            }
            MountSource::Virtual { fstype, name } => format!("-t {fstype} {name}"),
            MountSource::Bind { path, recursive } => {
                options.retain(|option| option != "bind" && option != "rbind");
                format!("{} {path}", if *recursive { "--rbind" } else { "--bind" })
            }
        };
        let options = (!options.is_empty()).then(|| options.join(","));
        self.line(&format!("mkdir -p {target}; mount{} {what} {target}", option("-o", options)));
    }
}

/// What feeds the key to cryptsetup's standard input, and which part of it is the key.
fn key_argument(unlock: &ContainerUnlock) -> Result<(String, String)> {
    match unlock {
        ContainerUnlock::Password => Ok(("printf %s \"$password\" |".to_owned(), String::new())),
        ContainerUnlock::KeyFile(KeyFile { path, trim_newline, offset, size }) => {
            let feed = if *trim_newline { "tr -d '\\n' <" } else { "cat" };
            let skip = (*offset > 0).then_some(*offset);
            let part = option("--keyfile-offset", skip) + &option("--keyfile-size", *size);
            Ok((format!("{feed} {} |", quoted(path)), part))
        }
        ContainerUnlock::Tpm2 { .. } => {
            bail!("the machine has a TPM, and cryptsetup has no word for it")
        }
    }
}
