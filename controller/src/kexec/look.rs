//! What runs on the machine, and whether an installer may be booted in its place.

use crate::ssh::said::{kib, pairs};
use crate::ui::format::bytes;

/// Says what runs there, a `key=value` a line; for POSIX sh, as anybody.
pub const SCRIPT: &str = r#"say() { printf '%s=%s\n' "$1" "$2"; }
say kernel "$(uname -s)"
say machine "$(uname -m)"
say host "$(uname -n)"
say home "$HOME"
say boot "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
(VARIANT_ID= PRETTY_NAME=; . /etc/os-release 2>/dev/null; say variant "$VARIANT_ID"; say name "$PRETTY_NAME")
c=$(systemd-detect-virt --container 2>/dev/null)
[ -n "$c" ] || c=$(cat /run/systemd/container 2>/dev/null)
[ -n "$c" ] || { [ -e /.dockerenv ] && c=docker; }
[ -n "$c" ] || { [ -e /run/.containerenv ] && c=podman; }
[ "$c" = none ] || say container "$c"
while read -r k v _; do
  case $k in MemTotal:) say total "$v" ;; MemAvailable:) say available "$v" ;; esac
done 2>/dev/null </proc/meminfo
say disabled "$(cat /proc/sys/kernel/kexec_load_disabled 2>/dev/null)"
for t in tar cpio gzip sha256sum df tail; do
  command -v $t >/dev/null 2>&1 || say lacks $t
done
setsid --wait true >/dev/null 2>&1 && say setsid yes
# Disks that are not blank, by all their names: with partitions, or used whole.
m=$(while read -r a _; do printf ' %s ' "$a"; done 2>/dev/null </proc/mounts)
for b in /sys/block/*; do
  [ -e "$b/device" ] || continue
  d=/dev/${b##*/} u=
  for p in "$b"/*/partition "$b"/holders/*; do [ ! -e "$p" ] || u=1; done
  case $m in *" $d "*) u=1 ;; esac
  [ -n "$u" ] || continue
  for s in "$b/serial" "$b/device/serial"; do [ ! -r "$s" ] || say holding "$d serial:$(cat "$s")"; done
  say holding "$d $d"
  for l in /dev/disk/by-*/*; do [ "$(readlink -f "$l")" != "$d" ] || say holding "$d $l"; done
done
exit 0"#;

/// Memory that the running system has to keep while the image is loaded, in bytes.
pub(super) const KEPT_FREE: u64 = 32 << 20;

/// What it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// `uname -s`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// What it calls itself.
    pub host: String,
    /// The home of who logged in.
    pub home: String,
    /// Its boot id.
    pub boot: String,
    /// `VARIANT_ID` of its os-release.
    pub variant: String,
    /// `PRETTY_NAME` of its os-release.
    pub name: String,
    /// What kind of container it is; empty if it is none.
    pub container: String,
    /// Its memory, in bytes.
    pub total: Option<u64>,
    /// What of that programs can get, in bytes.
    pub available: Option<u64>,
    /// Whether its kernel refuses to load another (`kernel.kexec_load_disabled`).
    pub disabled: bool,
    /// Programs that are needed and not there.
    pub lacks: Vec<String>,
    /// Whether `setsid --wait` is there.
    pub has_setsid: bool,
    /// Names of disks that are not blank, each with the node of its disk.
    pub holding: Vec<(String, String)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in an installer.
    NothingToDo,
    /// Boot the image.
    Boot,
    /// That can't be, a sentence.
    Refused(String),
}

impl Machine {
    /// From what [`SCRIPT`] printed; what it did not say stays empty.
    pub fn parse(text: &str) -> Self {
        let mut machine = Machine::default();
        for (key, value) in pairs(text) {
            match key {
                "kernel" => machine.kernel = value,
                "machine" => machine.machine = value,
                "host" => machine.host = value,
                "home" => machine.home = value,
                "boot" => machine.boot = value,
                "variant" => machine.variant = value,
                "name" => machine.name = value,
                "container" => machine.container = value,
                "total" => machine.total = kib(&value),
                "available" => machine.available = kib(&value),
                "disabled" => machine.disabled = value == "1",
                "lacks" => machine.lacks.push(value),
                "setsid" => machine.has_setsid = true,
                "holding" => {
                    let names = value.split_once(' ');
                    machine.holding.extend(names.map(|(disk, n)| (n.trim().into(), disk.into())));
                }
                _ => {}
            }
        }
        machine
    }

    /// What runs there, to be shown.
    pub fn system(&self) -> String {
        let name = if self.name.is_empty() { "an unknown system" } else { &self.name };
        match self.host.as_str() {
            "" => name.to_owned(),
            host => format!("{name} ({host})"),
        }
    }

    /// Whether it says that it is an installer.
    pub fn is_installer(&self) -> bool {
        self.variant == "installer"
    }

    /// What to do; `force` replaces an installer too.
    pub fn judge(&self, force: bool) -> Verdict {
        if self.is_installer() && !force {
            return Verdict::NothingToDo;
        }
        let refused = |why: String| Verdict::Refused(format!("no kexec on this machine: {why}"));
        if self.kernel != "Linux" {
            return refused(format!(
                "it runs {}, not Linux; boot an installer's medium",
                self.kernel
            ));
        }
        if self.machine != "x86_64" {
            return refused(format!(
                "its processor is {}, and installers are booted on x86_64 only",
                self.machine
            ));
        }
        if !self.container.is_empty() {
            return refused(format!(
                "it is a container ({}), whose kernel is another machine's; name that machine",
                self.container
            ));
        }
        if self.boot.is_empty() {
            return refused(
                "it has no boot id (/proc/sys/kernel/random/boot_id), so that nobody could tell \
                 whether it booted; boot an installer's medium"
                    .into(),
            );
        }
        if self.disabled {
            return refused(
                "its kernel loads no other (kernel.kexec_load_disabled=1) until it is restarted \
                 without that setting; or boot an installer's medium"
                    .into(),
            );
        }
        if !self.lacks.is_empty() {
            return refused(format!(
                "it lacks {}, with which the image is unpacked and the machine's keys are put into \
                 it; install that there",
                self.lacks.join(", ")
            ));
        }
        Verdict::Boot
    }

    /// The first of these words for disks that stands for one which is not blank, and that one's node. A word
    /// that has to be matched with all disks (`model:…`, `size:largest`) is not judged.
    pub fn holds<'a>(&'a self, words: &'a [String]) -> Option<(&'a str, &'a str)> {
        words.iter().find_map(|word| {
            let id = word.strip_prefix("by-id:").map(|name| format!("/dev/disk/by-id/{name}"));
            let word_for = id.as_deref().unwrap_or(word);
            let (_, disk) = self.holding.iter().find(|(name, _)| name == word_for)?;
            Some((word.as_str(), disk.as_str()))
        })
    }

    /// Whether an image whose files are `room` bytes can be loaded, and booted: it is in memory
    /// beside the running system first, and beside what comes out of it then.
    ///
    /// # Errors
    /// A sentence.
    pub fn has_memory_for(&self, room: u64) -> Result<(), String> {
        let too_little = |what: &str, is: u64, needed: u64| {
            format!(
                "no kexec on this machine: {} of memory {what}, and the image needs {}; {}",
                bytes(is),
                bytes(needed),
                "boot an installer's medium, or take a smaller image"
            )
        };
        match (self.total, self.available) {
            (Some(total), _) if total < 2 * room => {
                Err(too_little("are all it has", total, 2 * room))
            }
            (_, Some(available)) if available < room + KEPT_FREE => {
                Err(too_little("are free", available, room + KEPT_FREE))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const DEBIAN: &str = "kernel=Linux\nmachine=x86_64\nhost=web1\nhome=/home/alice\n\
        boot=0b6e\nvariant=\nname=Debian GNU/Linux 13 (trixie)\ntotal=3000000\navailable=2500000\n\
        disabled=0\nsetsid=yes\n";

    fn with(more: &str) -> Machine {
        Machine::parse(&format!("{DEBIAN}{more}"))
    }

    #[test]
    fn a_running_debian_is_replaced_and_an_installer_left_alone() {
        let debian = with("");
        assert_eq!(debian.judge(false), Verdict::Boot);
        assert_eq!(debian.system(), "Debian GNU/Linux 13 (trixie) (web1)");
        assert!(debian.has_setsid && debian.home == "/home/alice");
        let installer = with("variant=installer\n");
        assert_eq!(installer.judge(false), Verdict::NothingToDo);
        assert_eq!(installer.judge(true), Verdict::Boot);
        // Nothing is needed of one that stays.
        assert_eq!(with("variant=installer\nlacks=cpio\n").judge(false), Verdict::NothingToDo);
    }

    #[test]
    fn what_can_not_be_is_refused_with_a_way_out() {
        for (more, words) in [
            ("kernel=FreeBSD\n", "FreeBSD"),
            ("machine=aarch64\n", "aarch64"),
            ("container=lxc\n", "lxc"),
            ("boot=\n", "boot id"),
            ("disabled=1\n", "kexec_load_disabled"),
            ("lacks=cpio\nlacks=gzip\n", "lacks cpio, gzip"),
        ] {
            let Verdict::Refused(why) = with(more).judge(false) else { panic!("{more}") };
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn memory_is_for_the_image_twice() {
        let debian = with("");
        assert_eq!(debian.has_memory_for(1 << 30), Ok(()));
        assert!(debian.has_memory_for(2 << 30).unwrap_err().contains("are all it has"));
        let busy = with("available=900000\n");
        assert!(busy.has_memory_for(1 << 30).unwrap_err().contains("are free"));
        // Who does not say is tried.
        assert_eq!(Machine::parse("").has_memory_for(1 << 40), Ok(()));
    }

    #[test]
    fn a_disk_that_holds_something_is_known_by_each_of_its_names() {
        let machine = with(
            "holding=/dev/sda serial:A 1\nholding=/dev/sda /dev/sda\n\
             holding=/dev/sda /dev/disk/by-id/ata-A\n",
        );
        let holds = |word: &str| {
            let words = ["/dev/sdb".to_owned(), word.to_owned()];
            machine.holds(&words).map(|(word, disk)| (word.to_owned(), disk.to_owned()))
        };
        for word in ["serial:A 1", "/dev/sda", "/dev/disk/by-id/ata-A", "by-id:ata-A"] {
            assert_eq!(holds(word), Some((word.to_owned(), "/dev/sda".to_owned())));
        }
        for word in ["serial:A", "/dev/sda1", "by-id:ata-B", "size:largest"] {
            assert_eq!(holds(word), None);
        }
    }

    #[test]
    fn nothing_from_the_machine_steers_the_terminal() {
        assert_eq!(with("host=\x1b[2Jx\n").host, "\u{fffd}[2Jx");
    }

    /// On this very computer.
    #[test]
    fn the_script_says_it_all() {
        let out = Command::new("/bin/sh").args(["-c", SCRIPT]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let machine = Machine::parse(&String::from_utf8(out.stdout).unwrap());
        assert_eq!((machine.kernel.as_str(), machine.boot.len()), ("Linux", 36));
        assert!(machine.total > machine.available && machine.available > Some(0), "{machine:?}");
        assert!(machine.has_setsid && !machine.name.is_empty(), "{machine:?}");
    }
}
