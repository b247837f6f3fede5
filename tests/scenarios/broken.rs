//! What is asserted of an installed machine is seen failing: each cause is broken on the running
//! machine, its check must then fail, that of `keystone verify` too, and after it was mended hold again.

use super::installed::Installed;
use super::verified::fails;
use crate::runner::Context;
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::path::Path;

/// A way to break what a check looks at.
struct Broken {
    /// The check's name.
    check: &'static str,
    /// The check of `keystone verify` that has to fail then, where it looks at the same.
    verify: Option<&'static str>,
    /// Breaks it.
    breaks: &'static str,
    /// Mends it.
    mends: &'static str,
}

const BROKEN: &[Broken] = &[
    Broken {
        check: "system",
        verify: Some("system"),
        breaks: "readlink /run/current-system > /run/was; ln -sfn /nix/store/other /run/current-system",
        mends: "ln -sfn $(cat /run/was) /run/current-system",
    },
    Broken {
        check: "host name",
        verify: Some("hostname"),
        breaks: "echo other > /proc/sys/kernel/hostname",
        mends: "echo keystone-ref > /proc/sys/kernel/hostname",
    },
    Broken {
        check: "mounts",
        verify: None,
        breaks: "mount -t tmpfs none /var",
        mends: "umount /var",
    },
    Broken {
        check: "mounts",
        verify: None,
        breaks: "mount -t tmpfs none /boot",
        mends: "umount /boot",
    },
    Broken { check: "root", verify: None, breaks: "touch /stray", mends: "rm /stray" },
    Broken {
        check: "encryption",
        verify: Some("encryption"),
        breaks: "head -c 32 /dev/urandom > /run/key; \
                 zfs change-key -o keyformat=raw -o keylocation=file:///run/key rpool/crypt/system/var",
        mends: "zfs change-key -i rpool/crypt/system/var",
    },
    Broken {
        check: "encryption",
        verify: None,
        breaks: "zfs set keylocation=file:///elsewhere rpool/crypt",
        mends: "zfs set keylocation=file:///etc/credstore/zfs-sysroot.mount rpool/crypt",
    },
    Broken {
        check: "pool",
        verify: Some("pool"),
        breaks: "truncate -s 80M /run/log-a /run/log-b; zpool add -f rpool log mirror /run/log-a /run/log-b; \
                 zpool offline rpool /run/log-a",
        mends: "zpool remove rpool $(zpool status rpool | grep -o 'mirror-[0-9]*')",
    },
    Broken {
        check: "credstore",
        verify: Some("credstore"),
        breaks: "cryptsetup open --type plain --readonly --key-file /dev/zero --cipher aes-xts-plain64 \
                 --key-size 256 /dev/zvol/rpool/credstore credstore",
        mends: "cryptsetup close credstore",
    },
    Broken {
        check: "units",
        verify: Some("failed-units"),
        breaks: "! systemd-run --quiet --wait --unit=broken false",
        mends: "systemctl reset-failed broken",
    },
    Broken {
        check: "slots",
        verify: Some("keyslots"),
        breaks: "cryptsetup token export --token-id 0 /dev/zvol/rpool/credstore > /run/token; \
                 cryptsetup token remove --token-id 0 /dev/zvol/rpool/credstore",
        mends: "cryptsetup token import --token-id 0 --json-file /run/token /dev/zvol/rpool/credstore",
    },
    Broken {
        check: "firewall",
        verify: Some("firewall"),
        breaks: "nft add rule inet firewall input tcp dport 80 accept",
        mends: "nft delete rule inet firewall input handle \
                $(nft -a list chain inet firewall input | sed -n 's/.*dport 80 accept # handle //p')",
    },
    Broken {
        check: "table",
        verify: None,
        breaks: "sfdisk --no-reread --no-tell-kernel --force --part-label /dev/disk/by-id/virtio-target 2 other",
        mends: "sfdisk --no-reread --no-tell-kernel --force --part-label \
                /dev/disk/by-id/virtio-target 2 disk-root-zfs",
    },
    Broken {
        check: "ESP",
        verify: None,
        breaks: "cp /boot/loader/entries/nixos-generation-1.conf /run/entry; \
                 sed -i 's,init=/nix,init=/other,' /boot/loader/entries/nixos-generation-1.conf",
        mends: "cp /run/entry /boot/loader/entries/nixos-generation-1.conf",
    },
    Broken {
        check: "ESP",
        verify: None,
        breaks: "printf x >> /boot$(sed -n 's/^linux //p' /boot/loader/entries/nixos-generation-1.conf)",
        mends: "truncate -s -1 /boot$(sed -n 's/^linux //p' /boot/loader/entries/nixos-generation-1.conf)",
    },
    Broken {
        check: "report",
        verify: None,
        breaks: "mv /var/lib/keystone/install.json /var/lib/keystone/other",
        mends: "mv /var/lib/keystone/other /var/lib/keystone/install.json",
    },
];

/// Breaks, looks, mends, and looks again; `report` is what was installed.
pub(super) fn each_check_bites(cx: &Context, machine: &Installed<'_>, report: &Path) -> Result<()> {
    let broken: BTreeSet<&str> = BROKEN.iter().map(|broken| broken.check).collect();
    let all: BTreeSet<&str> = Installed::names().collect();
    ensure!(broken == all, "checks that nothing breaks: {:?}", all.difference(&broken));
    for Broken { check, verify, breaks, mends } in BROKEN {
        machine
            .ssh
            .ok(&format!("set -e; {breaks}"))
            .with_context(|| format!("breaking {check}"))?;
        let found = machine.check_one(check);
        let verified = verify.map(|name| fails(cx, machine.ssh, report, name));
        machine.ssh.ok(&format!("set -e; {mends}")).with_context(|| format!("mending {check}"))?;
        let Err(error) = found else {
            anyhow::bail!("the check of the {check} holds after `{breaks}`");
        };
        let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
        println!("    bites: {check}: {first}");
        if let Some(verified) = verified {
            println!(
                "    and keystone verify's: {}",
                verified.with_context(|| breaks.to_string())?
            );
        }
        machine.check_one(check).with_context(|| format!("after {check} was mended"))?;
    }
    Ok(())
}
