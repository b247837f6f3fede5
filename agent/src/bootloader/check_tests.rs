use super::super::variables::tests::{put, put_entry};
use super::*;
use crate::ensure::Ensured;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::os::unix::fs::symlink;
use uuid::Uuid;

const TOPLEVEL: &str = "/nix/store/00000000000000000000000000000000-nixos-system-test";
const KERNEL: &str = "/nix/store/11111111111111111111111111111111-linux/bzImage";
const INITRD: &str = "/nix/store/22222222222222222222222222222222-initrd/initrd";
const ENTRY: &str = "boot/loader/entries/nixos-generation-1.conf";

/// A root with a system, and with a tmpfs for ESP, laid out as NixOS's builder does.
struct Machine {
    dir: tempfile::TempDir,
    partition: Uuid,
}

impl Machine {
    fn new(secrets: bool) -> Machine {
        let machine = Machine { dir: tempfile::tempdir().unwrap(), partition: Uuid::new_v4() };
        std::fs::create_dir_all(machine.path("boot")).unwrap();
        let boot = machine.path("boot");
        mount(Some("tmpfs"), &boot, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .expect("needs root, to mount a file system in the ESP's place");
        machine.write(KERNEL, &noise(700_001));
        machine.write(INITRD, &noise(300_000));
        machine.write(&format!("{TOPLEVEL}/../33333333333333333333333333333333-init/init"), b"x");
        symlink(
            "/nix/store/33333333333333333333333333333333-init/init",
            machine.path(&format!("{TOPLEVEL}/init")),
        )
        .unwrap();
        let secrets = if secrets { r#""initrdSecrets": "/nix/store/x/append","# } else { "" };
        let spec = format!(
            r#"{{"org.nixos.bootspec.v1": {{ {secrets} "init": "{TOPLEVEL}/init",
                "initrd": "{INITRD}", "kernel": "{KERNEL}", "kernelParams": ["quiet"],
                "label": "NixOS", "system": "x86_64-linux", "toplevel": "{TOPLEVEL}"}},
                "org.nixos.specialisation.v1": {{}}, "org.nixos.systemd-boot": {{}} }}"#
        );
        machine.write(&format!("{TOPLEVEL}/boot.json"), spec.as_bytes());
        machine.write("boot/EFI/nixos/k.efi", &noise(700_001));
        machine.write("boot/EFI/nixos/i.efi", &noise(300_000));
        machine.write("boot/EFI/BOOT/BOOTX64.EFI", b"MZ loader");
        machine.write("boot/EFI/systemd/systemd-bootx64.efi", b"MZ loader");
        machine.write("boot/loader/loader.conf", b"timeout 5\ndefault nixos-generation-1.conf\n");
        machine.entry(&format!("init={TOPLEVEL}/init quiet"));
        std::fs::create_dir(machine.path("efivars")).unwrap();
        put_entry(
            &machine.path("efivars"),
            0,
            Uuid::new_v4(),
            "\\EFI\\systemd\\systemd-bootx64.efi",
        );
        machine
    }

    fn entry(&self, options: &str) {
        let text = format!(
            "title NixOS\nversion Generation 1\nlinux /EFI/nixos/k.efi\ninitrd /EFI/nixos/i.efi\noptions {options}\n"
        );
        self.write(ENTRY, text.as_bytes());
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, contents: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.path(path)).unwrap();
    }

    fn installed(&self) -> Installed {
        Installed {
            root: self.dir.path().to_path_buf(),
            esp: "/boot".to_owned(),
            esp_partition: Partition {
                guid: self.partition,
                number: 1,
                first_lba: 2048,
                sectors: 1 << 21,
            },
            toplevel: TOPLEVEL.to_owned(),
            variables: Some(Variables::new(self.path("efivars"))),
        }
    }

    fn check(&self) -> Result<BootCheck, String> {
        check(&self.installed()).map_err(|error| error.to_string())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = umount2(&self.path("boot"), MntFlags::MNT_DETACH);
    }
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 % 251) as u8).collect()
}

fn changed(length: usize) -> Vec<u8> {
    let mut bytes = noise(length);
    bytes[length - 1] ^= 1;
    bytes
}

#[test]
fn finds_what_boots_the_system() {
    let machine = Machine::new(false);
    let checked = machine.check().unwrap();
    assert_eq!(checked.entry, "nixos-generation-1.conf");
    assert_eq!(checked.title, "NixOS Generation 1");
    assert_eq!((checked.kernel.size, checked.kernel.appended), (700_001, 0));
    assert_eq!(checked.kernel.blake3, blake3::hash(&noise(700_001)).to_hex().to_string());
    assert_eq!(checked.initrd.as_ref().unwrap().path, "/EFI/nixos/i.efi");
    assert_eq!(checked.init, format!("{TOPLEVEL}/init"));
    assert_eq!(checked.loaders.len(), 2);
    // The entry that is there is another disk's.
    assert_eq!(checked.firmware, Firmware::FallbackPath);
    let not_set = set_boot_next(&machine.installed(), &checked);
    assert!(matches!(not_set, BootNext::NotSet { .. }), "{not_set:?}");
    // Nobody made one: it is made once, and then found.
    let other = Machine::new(false);
    let mut made = other.check().unwrap();
    assert_eq!(ensure_boot_entry(&other.installed(), &mut made).unwrap(), Ensured::Created);
    assert_eq!(made.firmware, Firmware::Entry { number: 1 });
    let mut again = other.check().unwrap();
    assert_eq!(again.firmware, made.firmware);
    assert_eq!(ensure_boot_entry(&other.installed(), &mut again).unwrap(), Ensured::AlreadySo);
    put_entry(
        &machine.path("efivars"),
        7,
        machine.partition,
        "\\EFI\\SYSTEMD\\systemd-bootx64.efi",
    );
    let checked = machine.check().unwrap();
    assert_eq!(checked.firmware, Firmware::Entry { number: 7 });
    let set = |ensured| BootNext::Set { number: 7, ensured };
    assert_eq!(set_boot_next(&machine.installed(), &checked), set(Ensured::Created));
    assert_eq!(set_boot_next(&machine.installed(), &checked), set(Ensured::AlreadySo));
    let without = Installed { variables: None, ..machine.installed() };
    assert_eq!(check(&without).unwrap().firmware, Firmware::FallbackPath);
}

#[test]
fn secrets_may_follow_the_initrd_only_where_there_is_a_hook() {
    let longer = [noise(300_000), b"secrets".to_vec()].concat();
    let machine = Machine::new(true);
    assert_eq!(machine.check().unwrap().initrd.unwrap().appended, 0);
    machine.write("boot/EFI/nixos/i.efi", &longer);
    assert_eq!(machine.check().unwrap().initrd.unwrap().appended, 7);
    let machine = Machine::new(false);
    machine.write("boot/EFI/nixos/i.efi", &longer);
    assert!(machine.check().unwrap_err().contains("has 300007 bytes, not 300000"));
}

#[test]
fn says_what_would_not_boot() {
    type Break<'a> = &'a dyn Fn(&Machine);
    let cases: Vec<(Break, &str)> = vec![
        (&|m| m.write("boot/EFI/nixos/k.efi", &changed(700_001)), "they differ at byte 700000"),
        (&|m| m.write("boot/EFI/nixos/k.efi", &noise(700_000)), "has 700000 bytes, not 700001"),
        (&|m| m.write("boot/EFI/nixos/i.efi", &changed(300_000)), "they differ at byte 299999"),
        (&|m| m.remove("boot/EFI/nixos/i.efi"), "it is missing"),
        (&|m| m.entry("quiet"), "no init="),
        (&|m| m.entry("init=/nix/store/other/init"), "and the system's is"),
        (&|m| m.remove("/nix/store/33333333333333333333333333333333-init/init"), "does not exist"),
        (
            &|m| m.write("boot/loader/loader.conf", b"default nixos-generation-2.conf"),
            "matches no entry",
        ),
        (&|m| m.remove(ENTRY), "loader/entries is empty"),
        (&|m| m.write(ENTRY, b"title x\n"), "no init="),
        (&|m| m.remove("boot/loader/loader.conf"), "only systemd-boot can be checked"),
        (&|m| m.remove(&format!("{TOPLEVEL}/boot.json")), "boot.json"),
        (&|m| m.write(&format!("{TOPLEVEL}/boot.json"), b"{}"), "boot.json can't be read"),
        (
            &|m| {
                m.write("boot/EFI/systemd/systemd-bootx64.efi", b"");
                m.write("boot/EFI/BOOT/BOOTX64.EFI", b"text");
            },
            "no boot loader",
        ),
        (&|m| m.remove("boot/EFI/BOOT/BOOTX64.EFI"), "would not find its boot loader"),
        (
            &|m| {
                // A name that leads out of the ESP leads nowhere.
                let entry = std::fs::read_to_string(m.path(ENTRY)).unwrap();
                m.write(ENTRY, entry.replace("/EFI/nixos/k.efi", "/../..").as_bytes());
            },
            "it is missing",
        ),
        (
            &|m| {
                m.write("boot/loader/entries/old.conf", b"title old\n");
                let units: Vec<u8> =
                    "old.conf\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
                let vendor = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
                put(&m.path("efivars"), "LoaderEntryDefault", vendor, &units);
            },
            "the default entry old.conf does not boot the system",
        ),
        (
            &|m| umount2(&m.path("boot"), MntFlags::MNT_DETACH).unwrap(),
            "nothing is mounted at /boot",
        ),
    ];
    for (i, (break_it, expected)) in cases.into_iter().enumerate() {
        let machine = Machine::new(false);
        machine.check().unwrap();
        break_it(&machine);
        let message = machine.check().expect_err(expected);
        assert!(message.contains(expected), "case {i}: {message:?} does not say {expected:?}");
    }
}
