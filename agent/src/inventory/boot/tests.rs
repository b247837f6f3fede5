use super::*;
use crate::block::sysfs::tests::tree;
use crate::inventory::pool::tests::Given;
use crate::mount::table;

/// Two disks, the second with a partition; a loop device over a file on it.
fn machine(root: &Path) -> Roots {
    let part = "sys/class/block/vdb/vdb1";
    tree(
        root,
        &[
            ("sys/block/vda/dev", "254:0"),
            ("sys/class/block/vda/dev", "254:0"),
            ("sys/block/vdb/dev", "254:16"),
            ("sys/class/block/vdb/dev", "254:16"),
            (&format!("{part}/partition"), "1"),
            (&format!("{part}/start"), "64"),
            (&format!("{part}/size"), "64"),
            (&format!("{part}/dev"), "254:17"),
            ("sys/class/block/vdb1/dev", "254:17"),
            ("sys/block/loop0/dev", "7:0"),
            ("sys/class/block/loop0/dev", "7:0"),
            ("sys/class/block/loop0/loop/backing_file", "/iso/nix-store.squashfs\n"),
            ("sys/block/dm-0/dev", "253:0"),
            ("sys/class/block/dm-0/dev", "253:0"),
            ("sys/class/block/dm-0/slaves/vdb1/dev", "254:17"),
        ],
    );
    Roots::below(root)
}

fn found(mountinfo: &str) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let roots = machine(root.path());
    let mounts = table::parse(mountinfo);
    let zfs = Given::default();
    let pools = Pools::find(&roots, &zfs, &mounts);
    let disks = disks(&roots, &mounts, &pools).into_iter();
    disks.filter(|name| name.starts_with("vd")).collect()
}

#[test]
fn nixos_iso() {
    assert_eq!(
        found(
            "1 0 0:2 / / rw - tmpfs tmpfs rw\n\
             2 1 254:16 / /iso ro - iso9660 /dev/vdb ro\n\
             3 1 7:0 / /nix/.ro-store ro - squashfs /dev/loop0 ro\n\
             4 1 0:9 / /nix/store rw - overlay overlay rw,lowerdir=/nix/.ro-store,upperdir=/nix/.rw-store/store\n"
        ),
        ["vdb"]
    );
    // Only the image's loop device leads there.
    assert_eq!(
        found(
            "1 0 0:2 / / rw - tmpfs tmpfs rw\n\
             2 1 254:17 / /iso ro - iso9660 /dev/vdb1 ro\n\
             4 1 0:9 / / rw - overlay overlay rw,lowerdir=/iso/x:/nix/.ro-store\n"
        ),
        ["vdb"]
    );
}

#[test]
fn overlay_at_the_root_and_the_target_beside_it() {
    assert_eq!(
        found(
            "1 0 0:2 / / rw - overlay overlay rw,lowerdir=/run/live/rootfs,upperdir=/run/live/rw\n\
             2 1 0:3 / /run rw - tmpfs tmpfs rw\n\
             3 2 254:17 / /run/live/rootfs ro - ext4 /dev/vdb1 ro\n\
             4 1 254:0 / /mnt rw - ext4 /dev/vda rw\n"
        ),
        ["vdb"]
    );
}

#[test]
fn an_installed_system_on_a_mapper() {
    assert_eq!(found("1 0 253:0 / / rw - ext4 /dev/mapper/root rw\n"), ["vdb"]);
    // btrfs has an anonymous device number, and its source is the node.
    assert!(found("1 0 0:30 /sub / rw - btrfs /dev/nowhere rw\n").is_empty());
}

#[test]
fn nothing_but_memory() {
    assert!(found("1 0 0:2 / / rw - tmpfs tmpfs rw\n").is_empty());
    assert!(
        found("1 0 0:2 / / rw - tmpfs tmpfs rw\n2 1 254:0 / /mnt rw - ext4 /dev/vda rw\n")
            .is_empty()
    );
}

#[test]
fn the_command_line_names_a_label() {
    let root = tempfile::tempdir().unwrap();
    let roots = machine(root.path());
    tree(root.path(), &[("proc/cmdline", "quiet root=LABEL=nixos-25.11 init=/init\n")]);
    assert_eq!(named_on_command_line(&roots), None);
    let size = 1 << 20;
    fs::write(root.path().join("sys/class/block/vdb/size"), (size / 512).to_string()).unwrap();
    let mut image = vec![0; size];
    image[32768..32774].copy_from_slice(b"\x01CD001");
    image[32808..32840].copy_from_slice(b"nixos-25.11                     ");
    fs::create_dir(&roots.dev).unwrap();
    fs::write(roots.node("vdb"), image).unwrap();
    assert_eq!(named_on_command_line(&roots).as_deref(), Some("vdb"));
}

#[test]
fn what_root_may_name() {
    assert_eq!(Root::parse("live:LABEL=a"), Some(Root::Label("a")));
    assert_eq!(Root::parse("/dev/disk/by-label/a"), Some(Root::Label("a")));
    assert_eq!(Root::parse("UUID=0"), Some(Root::Uuid("0")));
    assert_eq!(Root::parse("PARTUUID=0"), Some(Root::PartUuid("0")));
    assert_eq!(Root::parse("/dev/vda1"), Some(Root::Node(Path::new("/dev/vda1"))));
    assert_eq!(Root::parse("zfs:rpool"), None);
}
