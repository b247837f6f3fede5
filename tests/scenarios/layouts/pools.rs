//! Keystone's modes of `keystone.os.storage`, and what else a pool can be made of.

use super::words::*;
use super::{DISKS, Made};
use serde_json::{Value, json};

pub(super) fn all() -> Vec<Made> {
    vec![
        keystone("keystone, mirror", 2, |members| json!([mirror(members)])),
        keystone("keystone, raidz1", 3, |members| json!([raidz(1, members)])),
        topology(),
        keys(),
        keystone("keystone, raidz3", 5, |members| json!([raidz(3, members)])),
        keystone("keystone, raidz2", 4, |members| json!([raidz(2, members)])),
        keystone("keystone, stripe", 2, |members| {
            members.iter().map(|member| vdev(member.clone())).collect()
        }),
        keystone("keystone, one disk", 1, |members| json!([vdev(members[0].clone())])),
    ]
}

/// Keystone's layout: ESP on the first disk, one pool, the credstore, encrypted datasets.
fn keystone(name: &'static str, disks: usize, vdevs: fn(&[Value]) -> Value) -> Made {
    // A pool of that name that a layout before left on another disk would be found too.
    let mut steps: Vec<Value> = DISKS.iter().map(|disk_name| wipe(disk_name)).collect();
    for disk_name in &DISKS[..disks] {
        let parts = [("ESP", ESP, 1, 101), ("zfs", LINUX, 101, 3001)];
        steps.push(gpt(disk(disk_name), &format!("disk-{disk_name}"), &parts));
    }
    let members: Vec<Value> = DISKS[..disks].iter().map(|name| part(name, 2)).collect();
    let root = json!({"mountpoint": "none", "compression": "zstd", "acltype": "posixacl",
        "xattr": "sa", "com.sun:auto-snapshot": "true"});
    let crypt = json!({"encryption": "aes-256-gcm", "keyformat": "raw", "mountpoint": "none",
        "keylocation": "file:///etc/credstore/zfs-sysroot.mount"});
    let made = json!({"from": "made", "device": mapper("credstore"), "file": "zfs-sysroot.mount"});
    let credstore = || zvol("rpool/credstore");
    steps.extend([
        vfat(part("d0", 1)),
        pool("rpool", vdevs(&members), json!({"root_properties": root})),
        volume("rpool/credstore", 100, json!({}), Value::Null),
        luks(credstore(), "credstore"),
        mkfs(mapper("credstore"), "ext4", &[]),
        json!({"do": "create-key", "device": mapper("credstore"), "file": "zfs-sysroot.mount",
            "bytes": 32}),
        dataset("rpool/crypt", crypt, made),
        dataset("rpool/crypt/system", json!({"mountpoint": "/"}), Value::Null),
        dataset("rpool/crypt/system/nix", json!({"mountpoint": "/nix"}), Value::Null),
        enroll_password(credstore(), "credstore"),
        close("credstore"),
        mount_dataset("rpool/crypt/system", "/"),
        mount(part("d0", 1), "vfat", "/boot", &["umask=0077"]),
        mount_dataset("rpool/crypt/system/nix", "/nix"),
        check("mountpoint -q /mnt/nix; touch /mnt/nix/testfile"),
        unmount(),
        export("rpool"),
        prove(),
    ]);
    Made {
        name,
        steps,
        fails: false,
        kept: "/mnt/nix/testfile",
        tools: "
            zpool import -N -R /mnt -d /dev/disk/by-partlabel rpool
            zpool status rpool
            test $(zpool list -Ho health rpool) = ONLINE
            for i in $(seq 60); do test -e /dev/zvol/rpool/credstore && break; sleep 1; done
            cryptsetup open --key-file /run/keystone/recovery-credstore /dev/zvol/rpool/credstore credstore
            mkdir -p /etc/credstore; mount -o ro /dev/mapper/credstore /etc/credstore
            zfs load-key rpool/crypt
            umount /etc/credstore; cryptsetup close credstore
            zfs mount rpool/crypt/system; zfs mount rpool/crypt/system/nix
            mount /dev/disk/by-partlabel/disk-d0-ESP /mnt/boot
            test -e /mnt/nix/testfile
            umount -R /mnt; udevadm settle; zpool export rpool",
    }
}

/// `example/zfs-with-vdevs.nix`: everything that a pool can be made of.
fn topology() -> Made {
    let parts = [
        ("data", LINUX, 1, 1001),
        ("log", LINUX, 1001, 1501),
        ("special", LINUX, 1501, 2001),
        ("dedup", LINUX, 2001, 2501),
        ("cache", LINUX, 2501, 3001),
    ];
    let mut steps = Vec::new();
    for disk_name in &DISKS[..4] {
        steps.push(wipe(disk_name));
        steps.push(gpt(disk(disk_name), &format!("disk-{disk_name}"), &parts));
    }
    let of = |number: u32, disks: &[&str]| -> Vec<Value> {
        disks.iter().map(|disk| part(disk, number)).collect()
    };
    let data = json!([mirror(&of(1, &["d0", "d1"])), mirror(&of(1, &["d2", "d3"]))]);
    let further = json!({
        "log": [mirror(&of(2, &["d0", "d1"]))],
        "special": [mirror(&of(3, &["d0", "d1"]))],
        "dedup": [mirror(&of(4, &["d0", "d1"]))],
        "cache": [part("d0", 5)],
        "spare": [part("d1", 5)],
        "root_properties": {"compression": "zstd"},
    });
    steps.extend([
        pool("zroot", data.clone(), further.clone()),
        pool("zroot", data, further),
        mount_dataset("zroot", "/"),
        check("touch /mnt/testfile"),
        unmount(),
        export("zroot"),
        prove(),
    ]);
    Made {
        name: "zfs-with-vdevs",
        steps,
        fails: false,
        kept: "/mnt/testfile",
        tools: "
            zpool import -N -R /mnt -d /dev/disk/by-partlabel zroot
            zpool status -P zroot
            zpool status -LP zroot | grep -o 'mirror-[0-9]\\|dedup\\|special\\|logs\\|cache\\|spares\\|/dev/vd[a-z]*[0-9]*' > /run/shape
            p() { for x in \"$@\"; do readlink -f /dev/disk/by-partlabel/disk-$x; done; }
            { echo mirror-0; p d0-data d1-data; echo mirror-1; p d2-data d3-data
              echo dedup; echo mirror-4; p d0-dedup d1-dedup; echo special; echo mirror-3; p d0-special d1-special
              echo logs; echo mirror-2; p d0-log d1-log; echo cache; p d0-cache; echo spares; p d1-cache; } > /run/wanted
            diff /run/wanted /run/shape
            mount -t zfs -o zfsutil zroot /mnt; test -e /mnt/testfile; umount /mnt; zpool export zroot",
    }
}

/// Keys of every format, of datasets, a volume and a pool's root; snapshots.
fn keys() -> Made {
    let parts = [("one", LINUX, 1, 1001), ("two", LINUX, 1001, 2001)];
    let hex = json!({"encryption": "on", "keyformat": "hex", "keylocation": "file:///tmp/hex.key",
        "mountpoint": "none"});
    let passphrase = json!({"encryption": "on", "keyformat": "passphrase",
        "keylocation": "file:///tmp/passphrase", "mountpoint": "/"});
    let file = |path: &str| json!({"from": "file", "path": path});
    Made {
        name: "zfs, keys of every format",
        steps: vec![
            wipe("d0"),
            gpt(disk("d0"), "disk-d0", &parts),
            pool(
                "zone",
                json!([vdev(part("d0", 1))]),
                json!({"root_properties": passphrase, "root_key": file("/tmp/passphrase")}),
            ),
            pool("ztwo", json!([vdev(part("d0", 2))]), json!({})),
            dataset("ztwo/hex", hex.clone(), file("/tmp/hex.key")),
            json!({"do": "create-volume", "dataset": "ztwo/vol", "size": 64 << 20, "sparse": true,
                "properties": {"encryption": "on", "keyformat": "hex",
                    "keylocation": "file:///tmp/hex.key"},
                "key": file("/tmp/hex.key")}),
            mkfs(zvol("ztwo/vol"), "ext4", &[]),
            snapshot("ztwo/hex@blank"),
            snapshot("ztwo/hex@blank"),
            mount_dataset("zone", "/"),
            mount(zvol("ztwo/vol"), "ext4", "/vol", &[]),
            dataset("ztwo/hex", hex, file("/tmp/hex.key")),
            check(
                "zfs list -t snapshot -H -o name | grep -qx ztwo/hex@blank
                 touch /mnt/testfile /mnt/vol/testfile",
            ),
            unmount(),
            export("zone"),
            export("ztwo"),
            prove(),
        ],
        fails: false,
        kept: "/mnt/vol/testfile",
        tools: "
            zpool import -N -R /mnt -d /dev/disk/by-partlabel zone
            zpool import -N -R /mnt -d /dev/disk/by-partlabel ztwo
            zfs load-key -a
            test $(zfs get -Ho value keylocation zone) = file:///tmp/passphrase
            test $(zfs get -Ho value keystatus zone ztwo/hex ztwo/vol | sort -u) = available
            test $(zfs get -Hpo value refreservation ztwo/vol) = 0
            zfs mount zone; test -e /mnt/testfile
            for i in $(seq 60); do test -e /dev/zvol/ztwo/vol && break; sleep 1; done
            mount /dev/zvol/ztwo/vol /mnt/vol; test -e /mnt/vol/testfile
            umount -R /mnt; udevadm settle; zpool export zone; zpool export ztwo",
    }
}
