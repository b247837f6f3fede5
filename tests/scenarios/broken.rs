//! What is asserted of an installed machine is seen failing: each cause is broken on the running
//! machine, its check must then fail, and after it was mended hold again.

use super::installed::Installed;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;

/// A way to break what a check looks at.
struct Broken {
    /// The check's name.
    check: &'static str,
    /// Breaks it.
    breaks: &'static str,
    /// Mends it.
    mends: &'static str,
}

const BROKEN: &[Broken] = &[
    Broken {
        check: "system",
        breaks: "readlink /run/current-system > /run/was; ln -sfn /nix/store/other /run/current-system",
        mends: "ln -sfn $(cat /run/was) /run/current-system",
    },
    Broken {
        check: "host name",
        breaks: "echo other > /proc/sys/kernel/hostname",
        mends: "echo keystone-ref > /proc/sys/kernel/hostname",
    },
    Broken { check: "mounts", breaks: "mount -t tmpfs none /var", mends: "umount /var" },
    Broken { check: "mounts", breaks: "mount -t tmpfs none /boot", mends: "umount /boot" },
    Broken { check: "root", breaks: "touch /stray", mends: "rm /stray" },
    Broken {
        check: "encryption",
        breaks: "head -c 32 /dev/urandom > /run/key; \
                 zfs change-key -o keyformat=raw -o keylocation=file:///run/key rpool/crypt/system/var",
        mends: "zfs change-key -i rpool/crypt/system/var",
    },
    Broken {
        check: "encryption",
        breaks: "zfs set keylocation=file:///elsewhere rpool/crypt",
        mends: "zfs set keylocation=file:///etc/credstore/zfs-sysroot.mount rpool/crypt",
    },
    Broken {
        check: "pool",
        breaks: "truncate -s 80M /run/log-a /run/log-b; zpool add -f rpool log mirror /run/log-a /run/log-b; \
                 zpool offline rpool /run/log-a",
        mends: "zpool remove rpool $(zpool status rpool | grep -o 'mirror-[0-9]*')",
    },
    Broken {
        check: "credstore",
        breaks: "cryptsetup open --type plain --readonly --key-file /dev/zero --cipher aes-xts-plain64 \
                 --key-size 256 /dev/zvol/rpool/credstore credstore",
        mends: "cryptsetup close credstore",
    },
    Broken {
        check: "units",
        breaks: "! systemd-run --quiet --wait --unit=broken false",
        mends: "systemctl reset-failed broken",
    },
    Broken {
        check: "slots",
        breaks: "cryptsetup token export --token-id 0 /dev/zvol/rpool/credstore > /run/token; \
                 cryptsetup token remove --token-id 0 /dev/zvol/rpool/credstore",
        mends: "cryptsetup token import --token-id 0 --json-file /run/token /dev/zvol/rpool/credstore",
    },
    Broken {
        check: "firewall",
        breaks: "nft add rule inet firewall input tcp dport 80 accept",
        mends: "nft delete rule inet firewall input handle \
                $(nft -a list chain inet firewall input | sed -n 's/.*dport 80 accept # handle //p')",
    },
    Broken {
        check: "table",
        breaks: "sfdisk --no-reread --no-tell-kernel --force --part-label /dev/disk/by-id/virtio-target 2 other",
        mends: "sfdisk --no-reread --no-tell-kernel --force --part-label \
                /dev/disk/by-id/virtio-target 2 disk-root-zfs",
    },
    Broken {
        check: "ESP",
        breaks: "cp /boot/loader/entries/nixos-generation-1.conf /run/entry; \
                 sed -i 's,init=/nix,init=/other,' /boot/loader/entries/nixos-generation-1.conf",
        mends: "cp /run/entry /boot/loader/entries/nixos-generation-1.conf",
    },
    Broken {
        check: "ESP",
        breaks: "printf x >> /boot$(sed -n 's/^linux //p' /boot/loader/entries/nixos-generation-1.conf)",
        mends: "truncate -s -1 /boot$(sed -n 's/^linux //p' /boot/loader/entries/nixos-generation-1.conf)",
    },
    Broken {
        check: "report",
        breaks: "mv /var/lib/keystone/install.json /var/lib/keystone/other",
        mends: "mv /var/lib/keystone/other /var/lib/keystone/install.json",
    },
];

/// Breaks, looks, mends, and looks again.
pub(super) fn each_check_bites(machine: &Installed<'_>) -> Result<()> {
    let broken: BTreeSet<&str> = BROKEN.iter().map(|broken| broken.check).collect();
    let all: BTreeSet<&str> = Installed::names().collect();
    ensure!(broken == all, "checks that nothing breaks: {:?}", all.difference(&broken));
    for Broken { check, breaks, mends } in BROKEN {
        machine
            .ssh
            .ok(&format!("set -e; {breaks}"))
            .with_context(|| format!("breaking {check}"))?;
        let found = machine.check_one(check);
        machine.ssh.ok(&format!("set -e; {mends}")).with_context(|| format!("mending {check}"))?;
        let Err(error) = found else {
            anyhow::bail!("the check of the {check} holds after `{breaks}`");
        };
        let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        println!("    bites: {check}: {first}");
        machine.check_one(check).with_context(|| format!("after {check} was mended"))?;
    }
    Ok(())
}
