//! The documents themselves, as an operator gives them to `keystone disko`: made, closed, mounted
//! again with what was written still there, closed, and destroyed. Then the same is made by the
//! commands of everyone's tools, which have to come to the same; and what they made is closed by
//! `keystone disko`.

use super::{CLEAN, DISKS, KEYS};
use crate::keystone::{Ended, run as run_command};
use crate::machine::Hardware;
use crate::machine::disk::{Bus, Disk};
use crate::native;
use crate::runner::{Context, Live};
use crate::scenarios::{by_hand, steps};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Disks need no more than the largest layout takes: swap of 8 GiB, an ESP, and something else.
const GIB: u64 = 14;

/// Layouts that are made on a disk with sectors of 4096 bytes too.
const NATIVE_4K: [&str; 7] = [
    "single-disk-root",
    "os-ext4-single",
    "luks-lvm",
    "simple-efi",
    "hybrid",
    "legacy-table-msdos",
    "swap",
];

/// Disks of all kinds; the last has sectors of 4096 bytes.
fn disks() -> Vec<Disk> {
    let [nvme, first, sata, emulated, second] = DISKS.map(|serial| Disk::blank(serial, GIB));
    vec![
        nvme.on(Bus::Nvme),
        first,
        sata.on(Bus::Sata),
        emulated.sectors(512, 4096),
        second,
        Disk::blank("native4k", GIB).sectors(4096, 4096),
    ]
}

/// Names of documents, comma separated, without `.json`: then only those.
const ONLY: &str = "KEYSTONE_LAB_DOCUMENTS";

/// Exit code of what a machine is unfit for.
const TARGET_UNFIT: i32 = 66;

/// Bytes that the image of a disk may hold that has forgotten all and was written with zeros after that, at both
/// its ends and each partition's.
const LEFT: u64 = 128 << 20;

/// What [`LOOKS`] says of a disk that a pool has whole.
const WHOLE: &str = "whole in a pool";

/// Runs the scenario.
pub(in crate::scenarios) fn run(cx: &Context) -> Result<()> {
    let disks = disks();
    let hardware = disks.iter().cloned().fold(Hardware::new("layouts-documents"), Hardware::disk);
    let medium = cx.oracle()?;
    let live = Live::boot(hardware, &medium)?;
    live.ssh.ok(KEYS)?;
    let documents = documents()?;
    let mut cases = Vec::new();
    for path in &documents {
        cases.push((stem(path), Case::new(cx, &live, &medium.key, path, &disks)?));
    }
    for path in documents.iter().filter(|path| NATIVE_4K.contains(&stem(path).as_str())) {
        let case = Case::new(cx, &live, &medium.key, path, &disks[DISKS.len()..])?;
        cases.push((format!("{} on sectors of 4096 bytes", stem(path)), case));
    }
    let mut failed = Vec::new();
    let count = cases.len();
    let mut total = Times::default();
    for (name, case) in cases {
        match case.run() {
            Ok(times) => {
                println!("    {name}: as it says ({times})");
                total.made += times.made;
                total.by_tools += times.by_tools;
            }
            Err(error) => {
                println!("    {name}: FAILED\n{error:#}");
                failed.push(name);
                let _ = live.ssh.run(CLEAN);
            }
        }
    }
    println!("    {} of {} documents are as they say", count - failed.len(), count);
    println!("    making all of them: {:.2} of what the tools take", total.ratio());
    ensure!(failed.is_empty(), "{} failed", failed.join(", "));
    live.running.kill()
}

fn documents() -> Result<Vec<PathBuf>> {
    let root = native::workspace_root().join("tests/layouts");
    let mut found = Vec::new();
    for directory in ["keystone", "keystone-derived", "disko", "written"] {
        let directory = root.join(directory);
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                found.push(path);
            }
        }
    }
    if let Ok(only) = std::env::var(ONLY) {
        println!("    only {only} ({ONLY})");
        let only: Vec<&str> = only.split(',').collect();
        let unknown = only.iter().find(|name| !found.iter().any(|path| stem(path) == **name));
        ensure!(unknown.is_none(), "{ONLY}: there is no document {}", unknown.unwrap_or(&""));
        found.retain(|path| only.contains(&stem(path).as_str()));
    }
    found.sort();
    Ok(found)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// What an operator may call a disk: of its kind there is one, or its link or serial number is its alone.
fn word(disk: &Disk) -> String {
    match disk.bus {
        Bus::Nvme => format!("by-id:{}", disk.by_id()),
        Bus::Sata => "model:QEMU HARDDISK".to_owned(),
        Bus::Virtio => format!("serial:{}", disk.serial),
    }
}

/// What the document says of mounts, by their places, in the words of the kernel.
fn mount_options(document: &Value, found: &mut Vec<(String, String)>) -> Result<()> {
    match document {
        Value::Array(values) => values.iter().try_for_each(|value| mount_options(value, found)),
        Value::Object(fields) => {
            if let (Some(place), Some(options)) =
                (document["mountpoint"].as_str(), document["mountOptions"].as_array())
            {
                for option in options.iter().filter_map(Value::as_str) {
                    let words = kernel_words(option)?;
                    found.extend(words.into_iter().map(|word| (place.to_owned(), word)));
                }
            }
            fields.values().try_for_each(|value| mount_options(value, found))
        }
        _ => Ok(()),
    }
}

/// What findmnt shows of an option.
fn kernel_words(option: &str) -> Result<Vec<String>> {
    Ok(match option.split_once('=') {
        // Of the fstab alone.
        None if matches!(option, "defaults" | "nofail") => Vec::new(),
        None if option == "noatime" => vec![option.to_owned()],
        Some(("umask", mask)) => vec![format!("fmask={mask}"), format!("dmask={mask}")],
        Some(("compress", "zstd")) => vec!["compress=zstd:3".to_owned()],
        Some(("size", "200M")) => vec!["size=204800k".to_owned()],
        _ => bail!("what the kernel makes of the mount option {option} is not written down here"),
    })
}

/// One document on the machine's disks.
struct Case<'a> {
    cx: &'a Context,
    live: &'a Live,
    key: &'a Path,
    path: &'a Path,
    files: steps::Files,
    /// Disks, by the layout's names.
    disks: Vec<(String, &'a Disk)>,
    /// Places and options of mounts.
    options: Vec<(String, String)>,
}

impl<'a> Case<'a> {
    fn new(
        cx: &'a Context,
        live: &'a Live,
        key: &'a Path,
        path: &'a Path,
        disks: &'a [Disk],
    ) -> Result<Self> {
        let document: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let names = document["disk"].as_object().context("a layout has disks")?.keys();
        let disks: Vec<_> = names.cloned().zip(disks).collect();
        let mut options = Vec::new();
        mount_options(&document, &mut options)?;
        Ok(Case { cx, live, key, path, files: steps::Files::new()?, disks, options })
    }

    fn run(&self) -> Result<Times> {
        let ssh = &self.live.ssh;
        let began = Instant::now();
        let plan = self.keystone("disko", &["--erase", "--dry-run"])?.ok()?.plan()?;
        let mut times = Times { planned: began.elapsed(), ..Times::default() };
        let made = self.keystone("disko", &["--erase"])?.ok()?;
        ensure!(!made.changed()?.is_empty(), "nothing was made");
        times.made = elapsed(&made)?;
        let mounts = mounts(&plan)?;
        self.mounted(&mounts)?;
        let ours = self.looks()?;
        let kept = mounts.iter().find(|(_, fstype)| fstype != "vfat" && fstype != "tmpfs");
        let kept = kept.map(|(target, _)| format!("/mnt{target}/kept by keystone"));
        if let Some(kept) = &kept {
            ssh.ok(&format!("echo still here > '{kept}'"))?;
        }
        if let Some(kept) = &kept {
            // More than a disk may hold that was told to forget.
            ssh.ok(&format!(
                "[ $(df --output=avail -m '{kept}' | tail -n 1) -lt 300 ] || \
                 dd if=/dev/zero of='{kept}, large' bs=1M count=200 conv=fsync status=none"
            ))?;
        }
        self.changes("unmount", &[])?;
        super::closed(self.live).context("after unmounting")?;
        let again = self.keystone("mount", &[])?.ok()?;
        times.mounted = elapsed(&again)?;
        self.mounted(&mounts)?;
        if let Some(kept) = &kept {
            ensure!(ssh.ok(&format!("cat '{kept}'"))? == "still here", "the file is not as it was");
        }
        let (mut changed, _) = self.changes("mount", &[])?;
        // Hooks are run every time, as by disko.
        changed.retain(|step| !step.starts_with("hook:"));
        ensure!(changed.is_empty(), "mounting what is mounted changed {}", changed.join(", "));
        if self.formats_again()?
            && let Some(kept) = &kept
        {
            ensure!(
                ssh.ok(&format!("cat '{kept}'"))? == "still here",
                "formatting changed the file"
            );
        }
        if plan["steps"].to_string().contains("create-array") {
            ssh.ok(LATE)?;
        }
        // All of it is in use.
        self.destroyed(&["--erase", "--discard"])?;
        super::closed(self.live).context("after destroying what was mounted")?;
        self.forgotten()?;

        times.by_tools = self.by_tools(&plan).context("by the tools")?;
        if times.ratio() > SLOWER {
            println!("    {}", slowest(&made)?);
        }
        let theirs = self.looks()?;
        ensure!(
            ours == theirs,
            "it is not what the tools make; by us:\n{ours}\nby them:\n{theirs}"
        );
        // A pool that zpool put into a table of its own is not one of ours.
        if theirs.contains(WHOLE) {
            ssh.ok(CLEAN)?;
        } else {
            self.changes("unmount", &[]).context("of what the tools made")?;
        }
        super::closed(self.live).context("after unmounting what the tools made")?;
        self.destroyed(&[])?;
        Ok(times)
    }

    /// To format what is there changes nothing. `false` where that is refused: of a pool in containers it can't
    /// be said before they are open whether it is there.
    fn formats_again(&self) -> Result<bool> {
        let ended = self.keystone("format,mount", &[])?;
        if ended.code == Some(TARGET_UNFIT) && ended.stderr.contains("once that is open") {
            println!("    a pool in containers is not formatted again");
            return Ok(false);
        }
        let mut changed = ended.ok().context("--disko-mode format,mount")?.changed()?;
        changed.retain(|step| !step.starts_with("hook:"));
        ensure!(changed.is_empty(), "formatting what is there changed {}", changed.join(", "));
        Ok(true)
    }

    fn destroyed(&self, how: &[&str]) -> Result<()> {
        self.changes("destroy", how)?;
        for (_, disk) in &self.disks {
            let left = self.live.ssh.ok(&format!("wipefs -n /dev/disk/by-id/{}", disk.by_id()))?;
            ensure!(left.is_empty(), "{} is not blank: {left}", disk.serial);
        }
        Ok(())
    }

    /// The disks were told to forget everything: their images hold hardly anything.
    fn forgotten(&self) -> Result<()> {
        for (_, disk) in &self.disks {
            let image = self.live.machine.disk_image(&disk.serial)?;
            let held = fs::metadata(&image)?.blocks() * 512;
            ensure!(held <= LEFT, "{} still holds {} MiB", disk.serial, held >> 20);
        }
        Ok(())
    }

    /// Makes it by the tools; what they took by the machine's clock.
    fn by_tools(&self, plan: &Value) -> Result<Duration> {
        let plan = serde_json::from_value(plan.clone()).context("the plan")?;
        let disk = |wanted: &str| {
            let mut disks = self.disks.iter();
            let found = disks.find(|(name, _)| name == wanted).map(|(_, disk)| disk.by_id());
            format!("/dev/disk/by-id/{}", found.unwrap_or_default())
        };
        let script = tempfile::NamedTempFile::new()?;
        fs::write(script.path(), by_hand::plan::script(&plan, &disk)?)?;
        let ssh = &self.live.ssh;
        ssh.put(script.path(), "/run/tools.sh")?;
        let took = ssh.ok(&format!(
            "began=$(date +%s%3N); password='{}' bash /run/tools.sh > /run/tools.log 2>&1 < /dev/null || \
             {{ tail -n 40 /run/tools.log; exit 1; }}; echo $(($(date +%s%3N) - began))",
            steps::PASSWORD
        ))?;
        Ok(Duration::from_millis(took.parse().context("the machine's clock")?))
    }

    /// What is on the disks, without what is drawn.
    fn looks(&self) -> Result<String> {
        let disks: Vec<String> = self.disks.iter().map(|(_, disk)| disk.by_id()).collect();
        self.live.ssh.ok(&format!("set -- {}; {LOOKS}", disks.join(" ")))
    }

    /// The steps that changed something, and what they took.
    fn changes(&self, mode: &str, more: &[&str]) -> Result<(Vec<String>, Duration)> {
        let ended =
            self.keystone(mode, more)?.ok().with_context(|| format!("--disko-mode {mode}"))?;
        Ok((ended.changed()?, elapsed(&ended)?))
    }

    fn keystone(&self, mode: &str, more: &[&str]) -> Result<Ended> {
        let mut command = self.cx.keystone()?.on("disko", &self.live.ssh, self.key);
        command.args(["--disko-mode", mode, "--json", "--layout"]).arg(self.path);
        for (name, disk) in &self.disks {
            command.arg("--disk").arg(format!("{name}={}", word(disk)));
        }
        let dry = more.contains(&"--dry-run");
        if matches!(mode, "disko" | "destroy" | "format,mount") && !dry {
            command.arg("--yes");
            for (_, disk) in &self.disks {
                command.arg("--disk-id").arg(disk.by_id());
            }
        }
        if mode == "disko" && !dry {
            self.files.forget();
            command.arg("--recovery-key-file").arg(self.files.path("recovery-key"));
            command.arg("--password-file").arg(self.files.path("password"));
        }
        if matches!(mode, "mount" | "format,mount") {
            command.arg("--unlock-key-file").arg(self.files.path("password"));
            command.arg("--password-file").arg(self.files.path("password"));
        }
        command.args(more);
        run_command(command)
    }

    fn mounted(&self, mounts: &[(String, String)]) -> Result<()> {
        for (target, fstype) in mounts {
            let place = format!("/mnt{target}");
            let place = place.trim_end_matches('/');
            let found = self.live.ssh.ok(&format!("findmnt -n -o FSTYPE '{place}' | tail -n 1"))?;
            ensure!(found == *fstype, "{place} is {found:?}, not {fstype}");
        }
        for (target, option) in &self.options {
            let place = format!("/mnt{target}");
            let place = place.trim_end_matches('/');
            let found =
                self.live.ssh.ok(&format!("findmnt -n -o OPTIONS '{place}' | tail -n 1"))?;
            ensure!(
                found.split(',').any(|found| found == option),
                "{place}: {option} is not in {found}"
            );
        }
        Ok(())
    }
}

/// What is on the disks `$@`: tables; what is on them, and how large; what is mounted and swapped to;
/// pools with their vdevs, and what was set of their datasets.
const LOOKS: &str = r#"
    udevadm settle
    # Signatures are read, not taken from udev: it looks into no mapping that others than dmsetup made.
    devices() {
        lsblk -rno KNAME,TYPE,SIZE,PARTLABEL "$1" | while read -r name rest; do
            echo "$rest" $(blkid -p -o value -s TYPE -s LABEL "/dev/$name")
        done | sort
    }
    for disk; do
        echo "disk $disk"
        # zpool puts a table on a disk first that a pool gets whole, and we do not (docs/decisions/programs.md).
        if [ "$(blkid -p -o value -s TYPE /dev/disk/by-id/$disk)" = zfs_member ] ||
            sfdisk -d /dev/disk/by-id/$disk 2>/dev/null | grep -q 'type=6A945A3B-1DD2-11B2-99A6-080020736631'; then
            echo "whole in a pool"
            continue
        fi
        sfdisk -d /dev/disk/by-id/$disk 2>/dev/null | sed -E '/^(label-id|device)/d; s#^/dev/[^ ]+ *: *##; s/, uuid=[^,]*//'
        devices /dev/disk/by-id/$disk
    done
    for volume in /dev/zd*[0-9]; do [ ! -b $volume ] || devices $volume; done
    # Not lsblk's word: of btrfs it finds mounts by the name that a device was mounted by.
    findmnt -rno TARGET,FSTYPE,SOURCE,FSROOT -R /mnt | sort | while read -r target type source root; do
        device=${source%%\[*}
        [ ! -b "$device" ] || device=$(lsblk -dno TYPE,SIZE,PARTLABEL "$device")
        echo "$target $type $root" $device
    done
    swapon --noheadings --raw --show=TYPE,SIZE,PRIO | sort
    for pool in $(zpool list -Ho name); do
        zpool list -vHo name $pool | awk -v pool=$pool '{
            known = $1 == pool || $1 ~ /^(mirror|raidz|logs|cache|special|dedup|spare)/
            print known ? $1 : "member" }'
        zfs get -rHpo name,property,value -s local,received all $pool | sort
    done
"#;

/// udev has events of all devices that it handles only in a while, and assembles a RAID again that was
/// stopped before it came to them.
const LATE: &str = "udevadm settle; udevadm control --stop-exec-queue; \
                    udevadm trigger --action=change --subsystem-match=block; \
                    (sleep 20; udevadm control --start-exec-queue) > /dev/null 2>&1 < /dev/null &";

/// Where it takes so much longer than by the tools, it is said where the time goes.
const SLOWER: f32 = 1.2;

/// The steps that took longest, with their milliseconds, and what no step took.
fn slowest(ended: &Ended) -> Result<String> {
    let mut steps = Vec::new();
    for line in ended.lines()?.iter().filter(|line| line["event"] == "step-finished") {
        let step = line["step"].as_str().unwrap_or_default().to_owned();
        steps.push((line["elapsed_ms"].as_u64().unwrap_or_default(), step));
    }
    let between = elapsed(ended)?.as_millis() as u64;
    let between = between.saturating_sub(steps.iter().map(|step| step.0).sum());
    steps.sort();
    let steps = steps.iter().rev().take(6).map(|(ms, step)| format!("{step} {ms}"));
    Ok(format!("ms: {}; between steps {between}", steps.collect::<Vec<_>>().join(", ")))
}

/// How long it took.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// To plan it, the connection included.
    planned: Duration,
    made: Duration,
    mounted: Duration,
    by_tools: Duration,
}

impl Times {
    fn ratio(&self) -> f32 {
        self.made.as_secs_f32() / self.by_tools.as_secs_f32().max(f32::EPSILON)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [planned, made, mounted, by_tools] =
            [self.planned, self.made, self.mounted, self.by_tools].map(|time| time.as_secs_f32());
        write!(
            f,
            "planned in {planned:.1} s with the connection, made in {made:.1} s, mounted in \
             {mounted:.1} s; by the tools made in {by_tools:.1} s: {:.2}",
            self.ratio()
        )
    }
}

/// What an execution took by its own clock.
fn elapsed(ended: &Ended) -> Result<Duration> {
    let last = ended.lines()?.iter().filter_map(|line| line["at_ms"].as_u64()).next_back();
    let last = last.with_context(|| format!("no events:\n{}", ended.stdout))?;
    Ok(Duration::from_millis(last))
}

/// Targets and types of the plan's mounts.
fn mounts(plan: &Value) -> Result<Vec<(String, String)>> {
    let steps = plan["steps"].as_array().context("a plan has steps")?;
    let actions = steps.iter().map(|step| &step["action"]).filter(|action| action["do"] == "mount");
    let actions = actions.filter(|action| action["source"]["source"] != "bind");
    actions
        .map(|action| {
            let target = action["target"].as_str().context("a mount has a target")?;
            let source = &action["source"];
            let fstype = source["fstype"].as_str().unwrap_or("zfs");
            Ok((target.to_owned(), fstype.to_owned()))
        })
        .collect()
}
