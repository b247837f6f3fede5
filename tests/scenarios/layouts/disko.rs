//! disko's examples, with smaller sizes where the disks are smaller.

use super::Made;
use super::words::*;
use serde_json::{Value, json};

pub(super) fn all() -> Vec<Made> {
    vec![
        swap_layout(),
        luks_lvm(),
        luks_btrfs(),
        mdadm(),
        hybrid(),
        legacy_table(),
        zfs_over_legacy(),
        zfs_encrypted_root(),
    ]
}

/// Everything on top of everything else.
pub(super) fn stacked() -> Vec<Made> {
    vec![complex(), a_failure()]
}

fn secret() -> Value {
    key_file("/tmp/secret.key", 0, None)
}

fn additional() -> Value {
    key_file("/tmp/additionalSecret.key", 0, None)
}

/// `example/swap.nix`.
fn swap_layout() -> Made {
    let parts = [
        ("ESP", ESP, 1, 101),
        ("root", LINUX, 101, 1101),
        ("plainSwap", SWAP, 1101, 1201),
        ("encryptedSwap", SWAP, 1201, 1211),
    ];
    Made {
        name: "swap",
        steps: vec![
            wipe("d0"),
            gpt(disk("d0"), "disk-main", &parts),
            vfat(part("d0", 1)),
            mkfs(part("d0", 2), "ext4", &[]),
            swap(part("d0", 3)),
            mount(part("d0", 2), "ext4", "/", &[]),
            mount(part("d0", 1), "vfat", "/boot", &["umask=0077"]),
            swapon(part("d0", 3), Some(100), Some("both")),
            check(
                "findmnt -no FSTYPE /mnt | grep -qx ext4
                 findmnt -no OPTIONS /mnt/boot | grep -q fmask=0077
                 swapon --show=NAME,PRIO --noheadings | grep -Eq '^/dev/vd.3 +100$'
                 touch /mnt/testfile",
            ),
            swapoff(part("d0", 3)),
            unmount(),
            prove(),
        ],
        fails: false,
        kept: "/mnt/testfile",
        tools: "
            lsblk -no PARTTYPENAME /dev/disk/by-partlabel/disk-main-plainSwap | grep -qx 'Linux swap'
            blkid -p -o value -s TYPE /dev/disk/by-partlabel/disk-main-plainSwap | grep -qx swap
            if blkid -p /dev/disk/by-partlabel/disk-main-encryptedSwap | grep -q ' TYPE='; then exit 1; fi
            mount /dev/disk/by-partlabel/disk-main-root /mnt
            mount /dev/disk/by-partlabel/disk-main-ESP /mnt/boot
            swapon /dev/disk/by-partlabel/disk-main-plainSwap
            test -e /mnt/testfile
            swapoff -a; umount -R /mnt
            fsck.ext4 -fn /dev/disk/by-partlabel/disk-main-root
            sgdisk --verify /dev/disk/by-id/virtio-d0",
    }
}

/// `example/luks-lvm.nix`.
fn luks_lvm() -> Made {
    let parts = [("ESP", ESP, 1, 101), ("luks", LINUX, 101, 1101)];
    let device = || part("d0", 2);
    Made {
        name: "luks-lvm",
        steps: vec![
            wipe("d0"),
            gpt(disk("d0"), "disk-main", &parts),
            vfat(part("d0", 1)),
            luks(device(), "crypted"),
            pv(mapper("crypted")),
            vg("pool", &[mapper("crypted")]),
            lvcreate("pool", "home", 100, None),
            lvcreate("pool", "raw", 10, None),
            lvcreate_rest("pool", "root"),
            mkfs(lv("pool", "home"), "ext4", &[]),
            mkfs(lv("pool", "root"), "ext4", &[]),
            enroll(device(), "crypted", secret(), &[additional()]),
            mount(lv("pool", "root"), "ext4", "/", &[]),
            mount(part("d0", 1), "vfat", "/boot", &["umask=0077"]),
            mount(lv("pool", "home"), "ext4", "/home", &[]),
            // Asked for again, nothing changes.
            lvcreate("pool", "home", 100, None),
            mkfs(lv("pool", "home"), "ext4", &[]),
            check(
                "findmnt -no SOURCE,FSTYPE /mnt/home
                 lvs --noheadings -o lv_name pool | sort | xargs | grep -qx 'home raw root'
                 dmsetup table crypted | grep -q allow_discards
                 touch /mnt/home/testfile",
            ),
            unmount(),
            deactivate("pool"),
            close("crypted"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/home/testfile",
        tools: "
            d=/dev/disk/by-partlabel/disk-main-luks
            cryptsetup isLuks --type luks2 $d
            cryptsetup open --test-passphrase --key-file /tmp/additionalSecret.key $d
            test $(cryptsetup luksDump --dump-json-metadata $d | jq '.keyslots | length') = 2
            cryptsetup luksDump $d | grep -q allow-discards
            cryptsetup open --key-file /tmp/secret.key $d crypted
            vgchange -ay pool
            test $(lvs --noheadings --units m --nosuffix -o lv_size pool/home | xargs) = 100.00
            test $(vgs --noheadings -o vg_free_count pool) = 0
            mount /dev/pool/root /mnt; mount /dev/pool/home /mnt/home
            test -e /mnt/home/testfile
            umount -R /mnt; vgchange -an pool; cryptsetup close crypted",
    }
}

/// `example/luks-btrfs-subvolumes.nix`.
fn luks_btrfs() -> Made {
    let parts = [("ESP", ESP, 1, 101), ("luks", LINUX, 101, 1101)];
    let on = || mapper("crypted");
    let options = |subvolume: &str| {
        ["compress=zstd".to_owned(), "noatime".into(), format!("subvol={subvolume}")]
    };
    let mounted = |subvolume: &str, target: &str| {
        let options = options(subvolume);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        mount(on(), "btrfs", target, &options)
    };
    Made {
        name: "luks-btrfs-subvolumes",
        steps: vec![
            wipe("d0"),
            gpt(disk("d0"), "disk-main", &parts),
            vfat(part("d0", 1)),
            luks(part("d0", 2), "crypted"),
            mkfs(on(), "btrfs", &["-f"]),
            subvolume(on(), "home"),
            subvolume(on(), "nix"),
            subvolume(on(), "root"),
            subvolume(on(), "swap"),
            swap_file(on(), "swap/swapfile", 20),
            enroll(part("d0", 2), "crypted", secret(), &[]),
            mounted("root", "/"),
            mount(part("d0", 1), "vfat", "/boot", &["umask=0077"]),
            mounted("home", "/home"),
            mounted("nix", "/nix"),
            mount(on(), "btrfs", "/.swapvol", &["subvol=swap"]),
            // Asked for again, nothing changes.
            mounted("nix", "/nix"),
            subvolume(on(), "nix"),
            swap_file(on(), "swap/swapfile", 20),
            check(
                "findmnt -no FSROOT /mnt | grep -qx /root
                 findmnt -no OPTIONS /mnt/home | grep -q compress=zstd
                 swapon /mnt/.swapvol/swapfile; swapoff /mnt/.swapvol/swapfile
                 touch /mnt/home/testfile",
            ),
            unmount(),
            close("crypted"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/home/testfile",
        tools: "
            cryptsetup open --key-file /tmp/secret.key /dev/disk/by-partlabel/disk-main-luks crypted
            btrfs check --readonly /dev/mapper/crypted
            mount -o subvol=/root /dev/mapper/crypted /mnt
            mount -o subvol=/home /dev/mapper/crypted /mnt/home
            mount -o subvol=/swap /dev/mapper/crypted /mnt/.swapvol
            btrfs subvolume list /mnt | grep -o 'path .*' | cut -c6- | sort | xargs | grep -qx 'home nix root swap'
            lsattr /mnt/.swapvol/swapfile | grep -q C
            swapon /mnt/.swapvol/swapfile; swapoff /mnt/.swapvol/swapfile
            test -e /mnt/home/testfile
            umount -R /mnt; cryptsetup close crypted",
    }
}

/// `example/mdadm.nix`.
fn mdadm() -> Made {
    let parts = [("boot", BIOS, 1, 2), ("mdadm", LINUX, 2, 1026)];
    let members = [part("d0", 2), part("d1", 2)];
    let primary = || inner(array("raid1"), 1);
    Made {
        name: "mdadm",
        steps: vec![
            wipe("d0"),
            wipe("d1"),
            gpt(disk("d0"), "disk-disk1", &parts),
            gpt(disk("d1"), "disk-disk2", &parts),
            raid("raid1", 1, &members),
            gpt(array("raid1"), "mdadm-raid1", &[("primary", LINUX, 1, 1001)]),
            mkfs(primary(), "ext4", &[]),
            mount(primary(), "ext4", "/", &[]),
            raid("raid1", 1, &members),
            check("grep -q raid1 /proc/mdstat; touch /mnt/testfile"),
            unmount(),
            stop("raid1"),
            // Started again from what its members say.
            raid("raid1", 1, &members),
            mount(primary(), "ext4", "/", &[]),
            check("test -e /mnt/testfile"),
            unmount(),
            stop("raid1"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/testfile",
        tools: "
            mdadm --assemble --run /dev/md/raid1 /dev/disk/by-partlabel/disk-disk[12]-mdadm
            udevadm settle
            mdadm --detail --export /dev/md/raid1 | grep -qx MD_LEVEL=raid1
            mdadm --detail --export /dev/md/raid1 | grep -qx MD_NAME=any:raid1
            mount /dev/disk/by-id/md-name-any:raid1-part1 /mnt
            test -e /mnt/testfile
            umount /mnt; mdadm --stop /dev/md/raid1
            mdadm --zero-superblock /dev/disk/by-partlabel/disk-disk[12]-mdadm",
    }
}

/// `example/hybrid.nix` and `example/hybrid-mbr.nix`.
fn hybrid() -> Made {
    let parts = [("boot", BIOS, 1, 2), ("ESP", ESP, 2, 102), ("root", LINUX, 102, 1102)];
    let shown = json!({"protective_first": true, "entries": [
        {"number": 2, "type_code": 0x0c, "bootable": false},
        {"number": 3, "type_code": 0x83, "bootable": true},
    ]});
    Made {
        name: "hybrid",
        steps: vec![
            wipe("d0"),
            gpt_with(disk("d0"), "disk-main", &parts, shown),
            vfat(part("d0", 2)),
            mkfs(part("d0", 3), "ext4", &[]),
            mount(part("d0", 3), "ext4", "/", &[]),
            mount(part("d0", 2), "vfat", "/boot", &["umask=0077"]),
            check("touch /mnt/testfile"),
            unmount(),
            prove(),
        ],
        fails: false,
        kept: "/mnt/testfile",
        tools: "
            d=/dev/disk/by-id/virtio-d0
            sgdisk --verify $d
            sfdisk --label-nested dos --dump $d
            test $(sfdisk --label-nested dos --dump $d | grep -c 'type=ee\\|type=c,\\|type=c$\\|type=83') = 3
            sfdisk --label-nested dos --dump $d | grep 'type=83' | grep -q bootable
            mount /dev/disk/by-partlabel/disk-main-root /mnt
            mount /dev/disk/by-partlabel/disk-main-ESP /mnt/boot
            test -e /mnt/testfile; umount -R /mnt",
    }
}

/// `example/legacy-table-with-whitespace.nix` and its like, by MBR; with a tmpfs and a bind mount.
fn legacy_table() -> Made {
    let sectors = |mib: u64| mib * 2048;
    let partition = |number: u32, kind: &str, type_code: u8, first: u64, end: u64| {
        let table = (kind == "logical").then(|| sectors(first) - 2048);
        json!({"number": number, "kind": kind, "type_code": type_code, "bootable": number == 1,
            "first_lba": sectors(first), "last_lba": sectors(end) - 1, "table_lba": table})
    };
    let partitions = [
        partition(1, "primary", 0x83, 1, 201),
        partition(2, "extended", 0x0f, 201, 1001),
        partition(5, "logical", 0x83, 202, 602),
        partition(6, "logical", 0x82, 603, 1001),
    ];
    Made {
        name: "legacy-table, xfs, tmpfs, bind",
        steps: vec![
            wipe("d0"),
            json!({"do": "partition-mbr", "device": disk("d0"), "keep": false,
                "partitions": partitions}),
            mkfs(part("d0", 1), "ext4", &[]),
            mkfs(part("d0", 5), "xfs", &["-L", "data"]),
            swap(part("d0", 6)),
            mount(part("d0", 1), "ext4", "/", &[]),
            mount(part("d0", 5), "xfs", "/data", &["pquota"]),
            tmpfs("/tmp", &["size=20M"]),
            bind("/mnt/data", "/home"),
            check(
                "findmnt -no SIZE /mnt/tmp | grep -q 20M
                 findmnt -no OPTIONS /mnt/data | grep -q prjquota
                 touch /mnt/home/testfile; test -e /mnt/data/testfile",
            ),
            unmount(),
            prove(),
        ],
        fails: false,
        kept: "/mnt/data/testfile",
        tools: "
            sfdisk --verify /dev/disk/by-id/virtio-d0
            parted -s /dev/disk/by-id/virtio-d0 print | grep -q 'Partition Table: msdos'
            mount /dev/disk/by-id/virtio-d0-part1 /mnt; mount /dev/disk/by-id/virtio-d0-part5 /mnt/data
            test -e /mnt/data/testfile
            umount -R /mnt; xfs_repair -n /dev/disk/by-id/virtio-d0-part5",
    }
}

/// `example/zfs-over-legacy.nix`.
fn zfs_over_legacy() -> Made {
    let parts = [("ESP", ESP, 1, 101), ("primary", LINUX, 101, 1101)];
    Made {
        name: "zfs-over-legacy",
        steps: vec![
            wipe("d0"),
            wipe("d1"),
            gpt(disk("d0"), "disk-disk1", &parts),
            vfat(part("d0", 1)),
            mkfs(part("d0", 2), "ext4", &[]),
            pool("zroot", json!([vdev(disk("d1"))]), json!({"root_properties": {}})),
            dataset("zroot/root", json!({"mountpoint": "none"}), Value::Null),
            dataset(
                "zroot/root/zfs_fs",
                json!({"com.sun:auto-snapshot": "true", "mountpoint": "/zfs_fs"}),
                Value::Null,
            ),
            mount(part("d0", 2), "ext4", "/", &[]),
            mount_dataset("zroot/root/zfs_fs", "/zfs_fs"),
            check("findmnt -no FSTYPE /mnt/zfs_fs | grep -qx zfs; touch /mnt/zfs_fs/testfile"),
            unmount(),
            export("zroot"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/zfs_fs/testfile",
        tools: "
            mount /dev/disk/by-partlabel/disk-disk1-primary /mnt
            zpool import -N -R /mnt -d /dev/disk/by-id zroot
            zfs mount zroot/root/zfs_fs; test -e /mnt/zfs_fs/testfile
            test $(zfs get -Ho value com.sun:auto-snapshot zroot/root/zfs_fs) = true
            umount -R /mnt; zpool export zroot",
    }
}

/// `example/zfs-encrypted-root.nix`: a passphrase, swap on a volume in it.
fn zfs_encrypted_root() -> Made {
    let parts = [("ESP", ESP, 1, 101), ("zfs", LINUX, 101, 3001)];
    let root = json!({"encryption": "aes-256-gcm", "keyformat": "passphrase",
        "keylocation": "prompt", "mountpoint": "/", "pbkdf2iters": "100000"});
    let volume_options = json!({"volblocksize": "4096", "compression": "zle",
        "logbias": "throughput", "sync": "always", "primarycache": "metadata",
        "secondarycache": "none", "com.sun:auto-snapshot": "false"});
    Made {
        name: "zfs-encrypted-root",
        steps: vec![
            wipe("d0"),
            gpt(disk("d0"), "disk-root", &parts),
            vfat(part("d0", 1)),
            pool("zroot", json!([vdev(part("d0", 2))]), json!({})),
            dataset("zroot/root", root.clone(), json!({"from": "asked"})),
            dataset("zroot/root/nix", json!({"mountpoint": "/nix"}), Value::Null),
            volume("zroot/root/swap", 64, volume_options, Value::Null),
            swap(zvol("zroot/root/swap")),
            mount_dataset("zroot/root", "/"),
            mount(part("d0", 1), "vfat", "/boot", &["nofail"]),
            mount_dataset("zroot/root/nix", "/nix"),
            swapon(zvol("zroot/root/swap"), None, None),
            // Asked for again: the key is right and what can change changes.
            dataset("zroot/root", root, json!({"from": "asked"})),
            dataset("zroot/root/nix", json!({"mountpoint": "/nix", "atime": "off"}), Value::Null),
            check(
                "swapon --show=NAME --noheadings | grep -q /dev/zd
                 touch /mnt/nix/testfile",
            ),
            swapoff(zvol("zroot/root/swap")),
            unmount(),
            export("zroot"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/nix/testfile",
        tools: "
            zpool import -N -R /mnt -d /dev/disk/by-partlabel zroot
            test $(zfs get -Ho value keyformat,keylocation zroot/root | xargs | tr ' ' ,) = passphrase,prompt
            if printf wrong-passphrase | zfs load-key zroot/root; then exit 1; fi
            printf 'correct horse battery staple' | zfs load-key zroot/root
            zfs mount zroot/root; zfs mount zroot/root/nix
            test -e /mnt/nix/testfile
            test $(zfs get -Ho value atime zroot/root/nix) = off
            udevadm settle; blkid -p -o value -s TYPE /dev/zvol/zroot/root/swap | grep -qx swap
            umount -R /mnt; zpool export zroot",
    }
}

/// `example/complex.nix`: four disks there, of which one is but an ESP.
fn complex() -> Made {
    let luks_part = [("luks", LINUX, 1, 2001)];
    let part_of_key = key_file("/tmp/secret.key", 2, Some(8));
    let raids = [lv("pool", "raid1"), lv("pool", "raid2")];
    let on_raid = || inner(array("raid1"), 1);
    Made {
        name: "complex",
        steps: vec![
            wipe("d0"),
            wipe("d1"),
            wipe("d2"),
            gpt(disk("d0"), "disk-disk0", &[("ESP", ESP, 1, 128)]),
            gpt(disk("d1"), "disk-disk1", &luks_part),
            gpt(disk("d2"), "disk-disk2", &luks_part),
            vfat(part("d0", 1)),
            luks(part("d1", 1), "crypted1"),
            luks(part("d2", 1), "crypted2"),
            pv(mapper("crypted1")),
            pv(mapper("crypted2")),
            vg("pool", &[mapper("crypted1"), mapper("crypted2")]),
            lvcreate("pool", "raid1", 30, Some("raid0")),
            lvcreate("pool", "raid2", 30, Some("raid0")),
            lvcreate("pool", "root", 10, Some("mirror")),
            lvcreate("pool", "zfs1", 128, Some("raid0")),
            lvcreate("pool", "zfs2", 128, Some("raid0")),
            mkfs(lv("pool", "root"), "ext4", &[]),
            raid("raid1", 1, &raids),
            gpt(array("raid1"), "mdadm-raid1", &[("bla", LINUX, 1, 25)]),
            mkfs(on_raid(), "ext4", &[]),
            pool(
                "zroot",
                json!([mirror(&[lv("pool", "zfs1"), lv("pool", "zfs2")])]),
                json!({"root_properties": {"com.sun:auto-snapshot": "false", "compression": "zstd"}}),
            ),
            dataset("zroot/zfs_fs", json!({"mountpoint": "/zfs_fs"}), Value::Null),
            dataset("zroot/zfs_legacy_fs", json!({"mountpoint": "legacy"}), Value::Null),
            volume("zroot/zfs_testvolume", 10, json!({}), Value::Null),
            mkfs(zvol("zroot/zfs_testvolume"), "ext4", &[]),
            enroll(part("d1", 1), "crypted1", secret(), &[additional()]),
            enroll(part("d2", 1), "crypted2", part_of_key, &[]),
            mount_dataset("zroot", "/"),
            mount(part("d0", 1), "vfat", "/boot", &["umask=0077"]),
            mount(lv("pool", "root"), "ext4", "/ext4_on_lvm", &[]),
            mount(on_raid(), "ext4", "/ext4_mdadm_lvm", &[]),
            mount(zvol("zroot/zfs_testvolume"), "ext4", "/ext4onzfs", &[]),
            mount_dataset("zroot/zfs_fs", "/zfs_fs"),
            check(
                "touch /mnt/ext4_on_lvm/file-from-postMountHook
                 for m in ext4_mdadm_lvm ext4onzfs zfs_fs; do mountpoint -q /mnt/$m; touch /mnt/$m/x; done
                 lvs --noheadings -o segtype pool/root | grep -q mirror",
            ),
            unmount(),
            export("zroot"),
            stop("raid1"),
            deactivate("pool"),
            close("crypted1"),
            close("crypted2"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/ext4_mdadm_lvm/x",
        tools: "
            cryptsetup open --key-file /tmp/secret.key /dev/disk/by-partlabel/disk-disk1-luks crypted1
            cryptsetup open --key-file /tmp/secret.key --keyfile-offset 2 --keyfile-size 8 /dev/disk/by-partlabel/disk-disk2-luks crypted2
            vgchange -ay pool; udevadm settle
            test -e /dev/md/raid1 || mdadm --assemble --run /dev/md/raid1 /dev/pool/raid1 /dev/pool/raid2
            udevadm settle
            zpool import -N -R /mnt -d /dev/pool zroot
            mount -t zfs -o zfsutil zroot /mnt
            mount /dev/pool/root /mnt/ext4_on_lvm
            test -e /mnt/ext4_on_lvm/file-from-postMountHook
            mount /dev/disk/by-id/md-name-any:raid1-part1 /mnt/ext4_mdadm_lvm; test -e /mnt/ext4_mdadm_lvm/x
            zpool status zroot | grep -q mirror
            umount -R /mnt; udevadm settle; zpool export zroot; mdadm --stop /dev/md/raid1
            vgchange -an pool; cryptsetup close crypted1; cryptsetup close crypted2",
    }
}

/// The same with a hook that fails while everything is open, and it is swapped to too.
fn a_failure() -> Made {
    let Made { mut steps, .. } = complex();
    let mounted = steps.iter().rposition(|step| step["do"] == "mount").unwrap_or(0);
    steps.truncate(mounted + 1);
    steps.extend([
        lvcreate("pool", "swap", 32, None),
        swap(lv("pool", "swap")),
        swapon(lv("pool", "swap"), None, None),
        check("swapon --show=NAME --noheadings | grep -q /dev/dm-; zpool list zroot; exit 7"),
    ]);
    Made {
        name: "complex, failing while all is open",
        steps,
        fails: true,
        kept: "/nothing",
        tools: "test -e /sys/module/dm_crypt",
    }
}
