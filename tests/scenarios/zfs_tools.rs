//! `keystone_agent::zfs` against the real `zpool` and `zfs`, beside each other.
//!
//! On one disk the tools run the commands that disko runs for Keystone's layout; on an
//! equal disk the module makes the same. Everything that can be read of the two pools is
//! equal except for what is drawn, counted or timed. Then each imports what the other
//! made, and what must be refused is.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::{
    machine::{Hardware, disk::Disk, ssh::Ssh},
    runner::{Context, Live},
};

/// Drawn, counted or timed: differs between any two pools.
const VOLATILE: &[&str] = &["guid", "load_guid", "creation", "createtxg", "objsetid"];

/// Space, in bytes: the pool's history and metadata differ by a few blocks.
const SPACE: &[&str] =
    &["allocated", "free", "available", "used", "usedbychildren", "usedbydataset", "logicalused"];
const SPACE_TOLERANCE: u64 = 128 << 10;

const ROOT_PROPERTIES: &str = "-O mountpoint=none -O compression=zstd -O acltype=posixacl -O xattr=sa \
                               -O com.sun:auto-snapshot=true";
const KEY: &str = "/run/test-key";
const WRONG_KEY: &str = "/run/wrong-key";
const TOOLS_DISK: &str = "/dev/disk/by-id/virtio-tools-part1";
const OUR_DISK: &str = "/dev/disk/by-id/virtio-ours-part1";

pub(super) fn run(context: &Context) -> Result<()> {
    let hardware = Hardware::new("zfs-tools")
        .memory(3072)
        .disk(Disk::blank("tools", 1))
        .disk(Disk::blank("ours", 1));
    let example = context.agent_example("zfs")?;
    let live = Live::boot(hardware, &context.oracle()?)?;
    let test = Test { ssh: &live.ssh };
    test.ssh.put(&example, "/run/zfs-example")?;
    test.prepare()?;
    let tools = test.made_by_tools()?;
    let ours = test.made_by_us()?;
    compare(&tools, &ours)?;
    test.keys_and_users()?;
    test.imports()?;
    test.another_host()?;
    test.topologies()
}

struct Test<'s> {
    ssh: &'s Ssh,
}

/// Property by dataset and name.
type Properties = BTreeMap<(String, String), String>;

/// What can be read of a pool.
struct Dump {
    pool: Properties,
    datasets: Properties,
    mounts: String,
}

impl Test<'_> {
    /// Runs the example; its one line has to contain `wanted`.
    fn want(&self, wanted: &str, arguments: &str) -> Result<String> {
        let output = self.ssh.run(&format!("/run/zfs-example {arguments}"))?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(said.contains(wanted), "`zfs {arguments}` said\n  {said}\nand not\n  {wanted}");
        Ok(said)
    }

    fn prepare(&self) -> Result<()> {
        self.want("Some(\"2.", "open")?;
        self.ssh.ok(&format!(
            "umask 077; head -c 32 /dev/urandom > {KEY}; head -c 32 /dev/urandom > {WRONG_KEY}; \
             mkdir -p /etc/credstore; cp {KEY} /etc/credstore/zfs-sysroot.mount"
        ))?;
        for disk in ["tools", "ours"] {
            self.ssh.ok(&format!(
                "sgdisk --clear --new=1:0:-64M /dev/disk/by-id/virtio-{disk} && udevadm settle --timeout 60"
            ))?;
        }
        Ok(())
    }

    fn made_by_tools(&self) -> Result<Dump> {
        self.ssh.ok(&format!(
            "set -e
             zpool create -f rpool -R /mnt -o ashift=12 {ROOT_PROPERTIES} {TOOLS_DISK}
             zfs create rpool/credstore -V 100M
             zfs create -up rpool/crypt -o encryption=aes-256-gcm -o keyformat=raw \
                 -o keylocation=file:///etc/credstore/zfs-sysroot.mount -o mountpoint=none
             zfs create -up rpool/crypt/system -o mountpoint=/
             zfs create -up rpool/crypt/system/nix -o mountpoint=/nix -o com.sun:auto-snapshot=false
             zfs create -up rpool/crypt/system/var -o mountpoint=/var"
        ))?;
        let dump = self.dump()?;
        // The module is given keys as bytes and looks for no file.
        self.ssh.ok("udevadm settle; zpool export rpool && rm -r /etc/credstore")?;
        self.want("state: Exported", &format!("label {TOOLS_DISK}"))?;
        self.ssh.ok(&format!("zpool labelclear -f {TOOLS_DISK}"))?;
        Ok(dump)
    }

    fn made_by_us(&self) -> Result<Dump> {
        let version = self.ssh.ok("cat /sys/module/zfs/version")?;
        let create = |disk, altroot| {
            format!("create rpool {altroot} {version} {disk} -o ashift=12 {ROOT_PROPERTIES}")
        };
        let crypt = "encryption=aes-256-gcm keyformat=raw \
                     keylocation=file:///etc/credstore/zfs-sysroot.mount mountpoint=none";
        for (wanted, arguments) in [
            ("Created", create(OUR_DISK, "/mnt")),
            ("AlreadySo", create(OUR_DISK, "/mnt")),
            ("different: it is a pool on", create(TOOLS_DISK, "/mnt")),
            ("different: it is imported below /mnt, not below /", create(OUR_DISK, "-")),
            ("Created", "volume rpool/credstore 104857600".into()),
            ("AlreadySo", "volume rpool/credstore 104857600".into()),
            ("different: volsize is 104857600", "volume rpool/credstore 105906176".into()),
            ("name: \"zd0\"", "device rpool/credstore".into()),
            ("Created", format!("filesystem rpool/crypt {KEY} {crypt}")),
            ("AlreadySo", format!("filesystem rpool/crypt {KEY} {crypt}")),
            (
                "the key does not open rpool/crypt",
                format!("filesystem rpool/crypt {WRONG_KEY} {crypt}"),
            ),
            (
                "different: mountpoint is none",
                format!("filesystem rpool/crypt {KEY} mountpoint=/x"),
            ),
            ("different: it is a filesystem", "volume rpool/crypt 104857600".into()),
            ("Created", "filesystem rpool/crypt/system - mountpoint=/".into()),
            (
                "Created",
                "filesystem rpool/crypt/system/nix - mountpoint=/nix com.sun:auto-snapshot=false"
                    .into(),
            ),
            (
                "AlreadySo",
                "filesystem rpool/crypt/system/nix - mountpoint=/nix com.sun:auto-snapshot=false"
                    .into(),
            ),
            ("Created", "filesystem rpool/crypt/system/var - mountpoint=/var".into()),
            ("invalid property 'nosuch'", "filesystem rpool/crypt/bad - nosuch=1".into()),
            (
                "'compression' must be one of",
                "filesystem rpool/crypt/bad - compression=nosuch".into(),
            ),
        ] {
            self.want(wanted, &arguments)?;
        }
        self.dump()
    }

    fn dump(&self) -> Result<Dump> {
        self.ssh.ok("zpool sync")?;
        Ok(Dump {
            pool: properties(&self.ssh.ok("zpool get all -Hp rpool")?)?,
            datasets: properties(&self.ssh.ok("zfs get all -rHp rpool")?)?,
            mounts: self.ssh.ok("zfs list -rH -o name,type,mountpoint,mounted,keystatus rpool")?,
        })
    }

    fn keys_and_users(&self) -> Result<()> {
        let mount = "mount -t zfs -o zfsutil rpool/crypt/system /mnt";
        self.want("(Some(\"rpool/crypt\"), Available)", "root rpool/crypt/system/nix")?;
        self.want("(None, NotEncrypted)", "root rpool")?;
        self.want("true", &format!("verify-key rpool/crypt {KEY}"))?;
        self.want("false", &format!("verify-key rpool/crypt {WRONG_KEY}"))?;
        self.ssh.ok(&format!("{mount} && echo hello > /mnt/hello"))?;
        self.want("resource busy", "unload-key rpool/crypt")?;
        self.want("'rpool': rpool/crypt/system is mounted at /mnt", "export rpool")?;
        self.want("state: Active", &format!("label {OUR_DISK}"))?;
        self.ssh.ok("umount /mnt")?;
        self.ssh.ok("nohup sh -c 'exec 9</dev/zd0; exec sleep 600' >/dev/null 2>&1 & sleep 1")?;
        self.want("volume rpool/credstore is used by process", "export rpool")?;
        // Refused before the kernel was asked: its device is still there.
        self.want("name: \"zd0\"", "device rpool/credstore")?;
        self.ssh.ok("kill $(pgrep -xf 'sleep 600')")?;
        self.want("Created", "unload-key rpool/crypt")?;
        self.want("AlreadySo", "unload-key rpool/crypt")?;
        self.want("Unavailable", "root rpool/crypt/system")?;
        self.want("the key does not open", &format!("load-key rpool/crypt {WRONG_KEY}"))?;
        self.want("Created", &format!("load-key rpool/crypt {KEY}"))?;
        self.want("AlreadySo", &format!("load-key rpool/crypt {KEY}"))?;
        self.want("Created", "set rpool/crypt/system/var compression=lz4")?;
        self.want("AlreadySo", "set rpool/crypt/system/var compression=lz4")?;
        self.want("Some(\"/mnt/var\")", "get rpool/crypt/system/var mountpoint")?;
        self.want("no such dataset: rpool/nope", "get rpool/nope compression")?;
        let history = self.ssh.ok("zpool history -il rpool")?;
        ensure!(!history.contains("wkey"), "the pool's history has a key:\n{history}");
        Ok(())
    }

    fn imports(&self) -> Result<()> {
        let guid = self.guid()?;
        self.ssh.ok("udevadm settle")?;
        self.want("Created", "export rpool")?;
        self.want("AlreadySo", "export rpool")?;
        self.want("state: Exported", &format!("label {OUR_DISK}"))?;
        self.want("no such pool", &format!("import {guid} /mnt {TOOLS_DISK}"))?;
        self.want("Created", &format!("import {guid} /mnt {TOOLS_DISK} {OUR_DISK}"))?;
        self.want("AlreadySo", &format!("import {guid} /mnt {OUR_DISK}"))?;
        self.want(&format!("guid: {guid}, health: \"ONLINE\""), "pools")?;
        self.ssh.ok("udevadm settle")?;
        self.want("Created", "export rpool")?;
        // The tool does without `-f`, and finds what was written.
        let hello = self.ssh.ok(&format!(
            "zpool import -d {OUR_DISK} -R /mnt -N {guid} && zfs load-key -L file://{KEY} rpool/crypt && \
             mount -t zfs -o zfsutil rpool/crypt/system /mnt && cat /mnt/hello && umount /mnt"
        ))?;
        ensure!(hello == "hello", "the imported pool says {hello:?}");
        Ok(())
    }

    /// The kernel does not ask whose pool it is; the module has to.
    fn another_host(&self) -> Result<()> {
        let guid = self.guid()?;
        self.ssh.ok(&format!(
            "zpool sync && dd if={OUR_DISK} of={TOOLS_DISK} bs=1M status=none && udevadm settle && \
             zpool export rpool && zpool labelclear -f {OUR_DISK} && \
             cat /sys/module/spl/parameters/spl_hostid > /run/hostid && \
             echo 3735928559 > /sys/module/spl/parameters/spl_hostid"
        ))?;
        self.want("and not exported there", &format!("import {guid} /mnt {TOOLS_DISK}"))?;
        self.want("Created", &format!("import-any-host {guid} /mnt {TOOLS_DISK}"))?;
        self.ssh.ok("cat /run/hostid > /sys/module/spl/parameters/spl_hostid")?;
        self.want("resource busy", &format!("clear {TOOLS_DISK}"))?;
        self.want("its GUID is", "destroy rpool 1")?;
        self.ssh.ok("udevadm settle")?;
        self.want("Created", &format!("destroy rpool {guid}"))?;
        self.want("AlreadySo", &format!("destroy rpool {guid}"))?;
        self.want("state: Destroyed", &format!("label {TOOLS_DISK}"))?;
        self.want("no such pool", &format!("import {guid} /mnt {TOOLS_DISK}"))?;
        self.want("Created", &format!("clear {TOOLS_DISK}"))?;
        self.want("AlreadySo", &format!("clear {TOOLS_DISK}"))?;
        self.want("None", &format!("label {TOOLS_DISK}"))?;
        Ok(())
    }

    fn topologies(&self) -> Result<()> {
        self.ssh.ok("mkdir /run/f && truncate -s 128M /run/f/{1,2,3,4,5,6,7,8,9}")?;
        let look = "zpool status -P tank && zpool get all -Hp tank | grep -vE 'guid|load|free|alloc' && \
                    zfs get -Hp volsize,volblocksize,refreservation tank/v";
        let by_tools = self.ssh.ok(&format!(
            "set -e; cd /run/f
             zpool create -f -R /mnt -o ashift=13 -O mountpoint=none tank raidz2 $PWD/1 $PWD/2 $PWD/3 $PWD/4 \
                 log mirror $PWD/5 $PWD/6 special $PWD/7 cache $PWD/8 spare $PWD/9
             zfs create tank/v -V 20M
             {look}
             udevadm settle; zpool destroy tank"
        ))?;
        let version = self.ssh.ok("cat /sys/module/zfs/version")?;
        let f = "/run/f";
        self.want(
            "Created",
            &format!(
                "create tank /mnt {version} raidz2:{f}/1,{f}/2,{f}/3,{f}/4 log:mirror:{f}/5,{f}/6 special:{f}/7 \
                 cache:{f}/8 spare:{f}/9 -o ashift=13 -O mountpoint=none"
            ),
        )?;
        self.want("Created", "volume tank/v 20971520")?;
        let by_us = self.ssh.ok(look)?;
        ensure!(by_us == by_tools, "the tools made\n{by_tools}\nand the module\n{by_us}");
        self.ssh.ok("udevadm settle; zpool destroy tank")?;

        // For an older system: what it does not know stays disabled.
        self.want("Created", &format!("create tank /mnt 2.1.11 {OUR_DISK}"))?;
        let features = self.ssh.ok(
            "zpool get -H -o property,value feature@draid,feature@blake3,feature@fast_dedup tank",
        )?;
        let wanted =
            "feature@draid\tenabled\nfeature@blake3\tdisabled\nfeature@fast_dedup\tdisabled";
        ensure!(features == wanted, "a pool for OpenZFS 2.1 has\n{features}");
        self.want("name is reserved", &format!("create mirror /mnt 2.3 {TOOLS_DISK}"))?;
        self.ssh.ok("truncate -s 1M /run/f/small")?;
        self.want("less than the minimum size", "create small /mnt 2.3 /run/f/small")?;
        Ok(())
    }

    fn guid(&self) -> Result<String> {
        self.ssh.ok("zpool get -Hp -o value guid rpool")
    }
}

fn properties(text: &str) -> Result<Properties> {
    text.lines()
        .map(|line| {
            let (name, rest) = line.split_once('\t').context("a line without fields")?;
            let (property, value) = rest.split_once('\t').context("a line without a value")?;
            Ok(((name.to_owned(), property.to_owned()), value.to_owned()))
        })
        .collect()
}

fn same(property: &str, tools: &str, ours: &str) -> bool {
    let bytes =
        |value: &str| value.split('\t').next().and_then(|number| number.parse::<u64>().ok());
    if VOLATILE.contains(&property) || tools == ours {
        return true;
    }
    match (bytes(tools), bytes(ours)) {
        (Some(tools), Some(ours)) if SPACE.contains(&property) => {
            tools.abs_diff(ours) <= SPACE_TOLERANCE
        }
        _ => false,
    }
}

fn compare(tools: &Dump, ours: &Dump) -> Result<()> {
    ensure!(
        ours.mounts == tools.mounts,
        "the tools made\n{}\nand we\n{}",
        tools.mounts,
        ours.mounts
    );
    for (tools, ours) in [(&tools.pool, &ours.pool), (&tools.datasets, &ours.datasets)] {
        // A comparison of nothing would find no difference.
        ensure!(tools.len() > 60, "only {} properties were read", tools.len());
        let keys: Vec<_> = tools.keys().collect();
        ensure!(ours.keys().collect::<Vec<_>>() == keys, "the pools have different properties");
        let different: Vec<String> = keys
            .into_iter()
            .filter(|key| !same(&key.1, &tools[key], &ours[key]))
            .map(|key| format!("{} {}: {} / {}", key.0, key.1, tools[key], ours[key]))
            .collect();
        ensure!(different.is_empty(), "by the tools / by us:\n{}", different.join("\n"));
    }
    Ok(())
}
