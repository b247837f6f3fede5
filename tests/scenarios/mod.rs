//! The scenarios, in the order they run: those that share the live system first.

mod another_linux;
mod broken;
mod broken_lines;
mod build_here;
mod build_on_remote;
mod by_hand;
mod deltas;
mod disk_keys;
mod disks;
mod equals_the_tools;
mod hazards;
pub mod installed;
mod kexec;
mod layouts;
mod line_breaks;
mod live_system;
mod logins;
mod luks_device;
mod memory;
mod modes;
mod os_modes;
mod password;
mod phases;
mod reference_system;
mod refusals;
mod run_again;
mod sources;
mod steps;
mod tpm;
mod unsealed;
mod verified;
mod zfs_tools;

use crate::runner::Scenario;
use std::time::Duration;

/// How long an installed machine may take from its start to answering SSH.
pub const BOOT: Duration = Duration::from_secs(420);

/// All scenarios. Names are unique; the gate is what guards the most in the time there is.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "live-system",
        gate: true,
        about: "the installer's medium is what the agent may rely on, and no more",
        run: live_system::run,
    },
    Scenario {
        name: "broken-lines",
        gate: false,
        about: "a copy over a line that is cut twenty times and flips bits, with an agent or an operator's program that is killed, onto a full disk, or one whose power fails: it ends, and what is registered is whole",
        run: broken_lines::run,
    },
    Scenario {
        name: "memory",
        gate: false,
        about: "a file of 4 GiB is copied, compressed and not: neither program takes more memory than is said",
        run: memory::run,
    },
    Scenario {
        name: "deltas",
        gate: false,
        about: "a copy onto a disk with a former version of it: over a slow line only what has changed comes, over a fast one all",
        run: deltas::run,
    },
    Scenario {
        name: "luks-device",
        gate: false,
        about: "a container on a disk, opened and closed beside udev, and by systemd through the TPM",
        run: luks_device::run,
    },
    Scenario {
        name: "tpm",
        gate: true,
        about: "a blank machine is installed, boots with no key pressed, is what it should be, and every check of that bites; with another TPM the recovery key opens it",
        run: tpm::run,
    },
    Scenario {
        name: "password",
        gate: true,
        about: "without a TPM the boot takes a typed password; the agent executes only itself and mkfs.ext4",
        run: password::run,
    },
    Scenario {
        name: "run-again",
        gate: false,
        about: "stopped, killed and over an installed system: refused without consent, and works with it",
        run: run_again::run,
    },
    Scenario {
        name: "logins",
        gate: false,
        about: "key, agent, password, certificates of user and host, through another server, IPv6: each gets into the same machine; another host key does not",
        run: logins::run,
    },
    Scenario {
        name: "phases",
        gate: false,
        about: "phase by phase, with files, owners and host keys of the operator's; a wrong order and another plan are refused",
        run: phases::run,
    },
    Scenario {
        name: "disk-keys",
        gate: false,
        about: "keys of the operator's, in a file and in a pipe, open the container, and stay on the operator's computer",
        run: disk_keys::run,
    },
    Scenario {
        name: "kexec",
        gate: false,
        about: "a running Debian, by sudo with a password, gets into the installer by kexec and stays the same machine, for which a plan is made",
        run: kexec::run,
    },
    Scenario {
        name: "another-linux",
        gate: false,
        about: "one command from a running Debian by kexec to the installed system, with files, owners and the host key the machine had",
        run: another_linux::run,
    },
    Scenario {
        name: "build-here",
        about: "one command from a flake, built by the operator's own Nix, to the installed system",
        gate: false,
        run: build_here::run,
    },
    Scenario {
        name: "build-on-remote",
        gate: false,
        about: "one command from a flake, which the machine builds with its own Nix, to the installed system",
        run: build_on_remote::run,
    },
    Scenario {
        name: "sources",
        gate: false,
        about: "a closure that the machine fetches itself from a binary cache, and one from a bundle, to the installed system, which is asked at the end",
        run: sources::run,
    },
    Scenario {
        name: "line-breaks",
        gate: false,
        about: "an installation whose line is cut amid the closure goes on by itself; one whose controller is killed is closed by the machine",
        run: line_breaks::run,
    },
    Scenario {
        name: "unsealed",
        gate: false,
        about: "a machine whose installation was not sealed does not boot",
        run: unsealed::run,
    },
    Scenario {
        name: "refusals",
        gate: true,
        about: "what can't be installed is refused before the first write, with a sentence that helps",
        run: refusals::run,
    },
    Scenario {
        name: "hazards",
        gate: false,
        about: "what is on other disks, or of others on the disk, is never touched: pools, groups, RAIDs and containers over two disks, names that two have, disks that are to be kept",
        run: hazards::run,
    },
    Scenario {
        name: "modes",
        gate: false,
        about: "format, again with a file that survives, unmount, mount by TPM and recovery key, rescue, destroy; foreign uses are refused",
        run: modes::run,
    },
    Scenario {
        name: "equals-the-tools",
        gate: false,
        about: "a whole installation beside the disk that disko's commands make: table, pool, datasets, container",
        run: equals_the_tools::run,
    },
    Scenario {
        name: "layouts-disko",
        gate: false,
        about: "disko's examples are made, mounted, closed by the agent's steps, and opened and mounted again by the tools",
        run: layouts::run,
    },
    Scenario {
        name: "layouts-stacked",
        gate: false,
        about: "RAID and ZFS on LVM on LUKS on two disks, the same way; and when it fails while all is open, all is closed",
        run: layouts::run_stacked,
    },
    Scenario {
        name: "layouts-pools",
        gate: false,
        about: "Keystone's modes and every vdev, key and snapshot of a pool, the same way",
        run: layouts::run_pools,
    },
    Scenario {
        name: "layouts-documents",
        gate: false,
        about: "every document by keystone disko: made, unmounted, mounted again with a file that survives, destroyed",
        run: layouts::documents::run,
    },
    Scenario {
        name: "os-zfs-single",
        gate: false,
        about: "the layout of Keystone's later modules is installed, and boots with no key pressed",
        run: os_modes::zfs_single,
    },
    Scenario {
        name: "os-zfs-mirror",
        gate: false,
        about: "two disks with --mirror-esp: installed, booted, a second generation, and booted without the first disk",
        run: os_modes::zfs_mirror,
    },
    Scenario {
        name: "os-ext4-single",
        gate: false,
        about: "ext4 in a container, without ZFS: installed, and boots with no key pressed",
        run: os_modes::ext4_single,
    },
    Scenario {
        name: "reference-system",
        gate: false,
        about: "the system under installation, installed by hand with everyone's tools, boots, and its boot's checks bite",
        run: reference_system::run,
    },
    Scenario {
        name: "zfs-equals-the-tools",
        gate: false,
        about: "pools, datasets, volumes and keys are what zpool and zfs make with disko's commands",
        run: zfs_tools::run,
    },
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_words_joined_by_hyphens() {
        let mut names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
