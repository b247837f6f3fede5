//! The installer's medium, looked at from inside.

use anyhow::{Result, ensure};

use crate::{installer::HOSTID, machine::exec_trace, runner::Context};

/// Programs that must not be anywhere on the medium.
const FORBIDDEN: &[&str] = &[
    "nix",
    "nix-store",
    "nix-env",
    "nix-build",
    "zpool",
    "zfs",
    "zdb",
    "zed",
    "zgenhostid",
    "mount.zfs",
    "cryptsetup",
    "veritysetup",
    "integritysetup",
    "systemd-cryptsetup",
    "systemd-cryptenroll",
    "dmsetup",
    "sgdisk",
    "gdisk",
    "cgdisk",
    "parted",
    "partprobe",
    "sfdisk",
    "fdisk",
    "cfdisk",
    "mkfs.vfat",
    "mkfs.fat",
    "zvol_id",
    "vdev_id",
    "zvol_wait",
    "sqlite3",
    "python3",
];

/// What is there is what an installer's medium has; what is not there cannot be leaned on.
pub(super) fn run(context: &Context) -> Result<()> {
    let live = context.live()?;
    let ssh = &live.ssh;

    // By name over the whole medium: PATH is not the only way to a program.
    let tests: Vec<String> = FORBIDDEN.iter().map(|name| format!("-name '{name}'")).collect();
    let found = ssh.ok(&format!(
        "find / -xdev \\( {} \\) ! -type d -not -path '/usr/lib/modules/*'",
        tests.join(" -o ")
    ))?;
    ensure!(found.is_empty(), "the medium has what it must not have:\n{found}");
    let rules = ssh.ok("grep -lE 'zvol|cryptsetup|device-mapper|DM_NAME' /usr/lib/udev/rules.d/* /etc/udev/rules.d/* 2>&1 || true")?;
    ensure!(
        !rules
            .lines()
            .any(|rule| rule.contains("zvol") || rule.contains("dm.rules") || rule.contains("zfs")),
        "the medium has udev rules of tools it must not have:\n{rules}"
    );
    let libraries = ssh.ok("find / -xdev -name 'libzfs*' -o -xdev -name 'libcryptsetup*' -o -xdev -name 'libdevmapper*'")?;
    ensure!(libraries.is_empty(), "the medium has libraries it must not have:\n{libraries}");

    for (command, wanted) in [
        (". /etc/os-release; echo $VARIANT_ID", "installer".to_owned()),
        ("hostid", format!("{HOSTID:08x}")),
        ("stat -c %s /etc/hostid", "4".to_owned()),
        ("test -d /sys/firmware/efi && echo uefi", "uefi".to_owned()),
        ("findmnt -n -o FSTYPE,OPTIONS /medium | cut -c1-11", "squashfs ro".to_owned()),
        ("findmnt -n -o FSTYPE /", "overlay".to_owned()),
        ("command -v mkfs.ext4", "/usr/sbin/mkfs.ext4".to_owned()),
        ("test -e /run/udev/control && echo udev", "udev".to_owned()),
        ("cat /sys/class/tpm/tpm0/tpm_version_major", "2".to_owned()),
        ("systemctl --failed --plain --no-legend", String::new()),
        ("sshd -T | grep -x 'passwordauthentication no'", "passwordauthentication no".to_owned()),
    ] {
        let said = ssh.ok(command)?;
        ensure!(said == wanted, "`{command}` said {said:?}, not {wanted:?}");
    }
    for serial in ["target", "spare", "small", "native4k", "keystone-installer"] {
        ssh.ok(&format!("test -b /dev/disk/by-id/virtio-{serial}"))?;
    }
    let sectors = ssh.ok("blockdev --getss /dev/disk/by-id/virtio-native4k")?;
    ensure!(sectors == "4096", "the disk with large sectors has sectors of {sectors}");

    // Opening the device loads the module. The control device of device-mapper likewise.
    for (device, module) in [("/dev/zfs", "zfs"), ("/dev/mapper/control", "dm_mod")] {
        ssh.ok(&format!("bash -c 'exec 3<>{device}' && test -d /sys/module/{module}"))?;
    }
    let version = ssh.ok("cat /sys/module/zfs/version")?;
    ensure!(version.starts_with("2.3."), "the OpenZFS module is {version}");

    // Tracing of what is executed sees processes wherever they come from, and changed roots.
    exec_trace::start(ssh)?;
    ssh.ok("setsid sh -c '/usr/bin/true; chroot /medium /usr/bin/uname' < /dev/null")?;
    let trace = exec_trace::stop(ssh)?;
    let below: Vec<(String, bool)> = trace
        .below(|program| program.ends_with("/setsid"))
        .into_iter()
        .map(|exec| {
            (exec.program.rsplit('/').next().unwrap_or_default().to_owned(), exec.in_other_root)
        })
        .collect();
    let wanted =
        [("setsid", false), ("sh", false), ("true", false), ("chroot", false), ("uname", true)];
    ensure!(
        below.iter().map(|(name, other)| (name.as_str(), *other)).eq(wanted),
        "tracing saw {below:?}, not {wanted:?}"
    );
    Ok(())
}
