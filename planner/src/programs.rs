//! Programs of the running system that steps may need, and where they are looked for.

/// All of them, for the inventory.
pub const KNOWN: [&str; 12] = [
    "bash",
    "btrfs",
    "lvm",
    "mdadm",
    "mkfs.bcachefs",
    "mkfs.btrfs",
    "mkfs.ext2",
    "mkfs.ext3",
    "mkfs.ext4",
    "mkfs.f2fs",
    "mkfs.xfs",
    "sh",
];

/// Where they are looked for after PATH.
pub const DIRECTORIES: [&str; 4] = ["/run/current-system/sw/bin", "/usr/sbin", "/sbin", "/usr/bin"];

/// The package that has a program, by the name that Debian and nixpkgs share.
pub fn package(program: &str) -> Option<&'static str> {
    Some(match program {
        "bash" => "bash",
        "btrfs" | "mkfs.btrfs" => "btrfs-progs",
        "lvm" => "lvm2",
        "mdadm" => "mdadm",
        "mkfs.bcachefs" => "bcachefs-tools",
        "mkfs.ext2" | "mkfs.ext3" | "mkfs.ext4" => "e2fsprogs",
        "mkfs.f2fs" => "f2fs-tools",
        "mkfs.xfs" => "xfsprogs",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAT is made natively.
    #[test]
    fn every_program_that_makes_a_file_system_is_known() {
        for format in ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs"] {
            let program = format!("mkfs.{format}");
            assert!(KNOWN.contains(&program.as_str()) && package(&program).is_some(), "{program}");
        }
    }
}
