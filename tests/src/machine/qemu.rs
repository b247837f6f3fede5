//! QEMU's command line.

use super::Hardware;
use super::accel::Accel;
use super::disk::Bus;
use std::ffi::OsString;
use std::path::Path;

/// The id of the installer medium's device.
pub const MEDIUM_DEVICE: &str = "medium";

/// Files and ports of one start.
pub struct Files<'a> {
    /// The machine's directory.
    pub dir: &'a Path,
    /// The firmware, if it boots by UEFI.
    pub uefi_code: &'a Path,
    /// Where the console's output goes.
    pub log: &'a Path,
    /// Socket of the monitor.
    pub monitor: &'a Path,
    /// Socket of the console.
    pub console: &'a Path,
    /// The installer's medium.
    pub medium: Option<&'a Path>,
    /// Socket of the TPM.
    pub tpm: Option<&'a Path>,
    /// Port on 127.0.0.1 that leads to the guest's 22.
    pub ssh_port: u16,
}

/// All arguments.
pub fn arguments(hardware: &Hardware, accel: Accel, files: &Files<'_>) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut push = |flag: &str, value: String| args.extend([flag.into(), value.into()]);
    push("-name", hardware.name.clone());
    push("-machine", "q35,smm=off,vmport=off".to_owned());
    match accel {
        Accel::Kvm => {
            push("-accel", "kvm".to_owned());
            push("-cpu", "host".to_owned());
        }
        Accel::Tcg => {
            push("-accel", "tcg,thread=multi,tb-size=1024".to_owned());
            // Without what TCG emulates slowly and nothing here needs.
            push("-cpu", "max,la57=off,pmu=off".to_owned());
        }
    }
    push("-m", hardware.memory_mib.to_string());
    push("-smp", hardware.cpus.to_string());
    push("-display", "none".to_owned());
    args.push("-nodefaults".into());
    let mut push = |flag: &str, value: String| args.extend([flag.into(), value.into()]);
    push("-vga", "none".to_owned());
    push("-rtc", "base=utc".to_owned());
    push("-object", "rng-random,id=rng,filename=/dev/urandom".to_owned());
    push("-device", "virtio-rng-pci,rng=rng".to_owned());
    if hardware.uefi {
        push(
            "-drive",
            format!("if=pflash,unit=0,format=raw,readonly=on,file={}", files.uefi_code.display()),
        );
        let variables = files.dir.join("uefi-vars.fd");
        push("-drive", format!("if=pflash,unit=1,format=raw,file={}", variables.display()));
    }
    push(
        "-chardev",
        format!(
            "socket,id=console,path={},server=on,wait=off,logfile={},logappend=off",
            files.console.display(),
            files.log.display()
        ),
    );
    push("-serial", "chardev:console".to_owned());
    push("-qmp", format!("unix:{},server=on,wait=off", files.monitor.display()));
    push("-netdev", format!("user,id=net,hostfwd=tcp:127.0.0.1:{}-:22", files.ssh_port));
    push("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
    if let Some(socket) = files.tpm {
        push("-chardev", format!("socket,id=tpm,path={}", socket.display()));
        push("-tpmdev", "emulator,id=tpm,chardev=tpm".to_owned());
        push("-device", "tpm-crb,tpmdev=tpm".to_owned());
    }
    if let Some(medium) = files.medium {
        push("-blockdev", blockdev("medium-image", medium, true));
        push("-device", "pcie-root-port,id=medium-port,chassis=9,slot=9".to_owned());
        push(
            "-device",
            format!(
                "virtio-blk-pci,drive=medium-image,id={MEDIUM_DEVICE},serial=keystone-installer,bus=medium-port,bootindex=0"
            ),
        );
    }
    for (index, disk) in hardware.disks.iter().enumerate() {
        let node = format!("disk{index}");
        push("-blockdev", blockdev(&node, &disk.image(files.dir), false));
        let device = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Nvme => "nvme".to_owned(),
            // q35 has six ports.
            Bus::Sata => format!("ide-hd,bus=ide.{}", index % 6),
        };
        push(
            "-device",
            format!(
                "{device},drive={node},serial={},logical_block_size={},physical_block_size={},bootindex={}",
                disk.serial,
                disk.sector_size,
                disk.physical_sector_size.max(disk.sector_size),
                index + 1
            ),
        );
    }
    args
}

/// Writes go to the host's cache and stay there: a machine does not outlive its test.
fn blockdev(node: &str, image: &Path, read_only: bool) -> String {
    format!(
        "driver=raw,node-name={node},read-only={},discard=unmap,cache.direct=off,cache.no-flush=on,file.driver=file,file.filename={}",
        if read_only { "on" } else { "off" },
        image.display()
    )
}
