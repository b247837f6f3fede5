//! From words in a layout to what `mount(2)` takes.

use nix::mount::MsFlags;

/// Flags, and the rest that is the file system's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Flags of the mount.
    pub flags: MsFlags,
    /// Options for the file system.
    pub data: Vec<String>,
}

impl Options {
    /// Whether a directory or file is to be mounted a second time.
    pub fn is_bind(&self) -> bool {
        self.flags.contains(MsFlags::MS_BIND)
    }

    /// Sorts options as `mount(8)` does (util-linux 2.40 `libmount/src/optmap.c`): words it knows
    /// become flags, words meant for user space are dropped, all others go to the file system.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut options = Options { flags: MsFlags::empty(), data: Vec::new() };
        for word in words.into_iter().flat_map(|words| words.split(',')) {
            match flag(word) {
                Some((flag, true)) => options.flags |= flag,
                Some((flag, false)) => options.flags -= flag,
                None if is_for_user_space(word) => {}
                None => options.data.push(word.to_owned()),
            }
        }
        options
    }
}

fn flag(word: &str) -> Option<(MsFlags, bool)> {
    Some(match word {
        "ro" => (MsFlags::MS_RDONLY, true),
        "rw" => (MsFlags::MS_RDONLY, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "lazytime" => (MsFlags::MS_LAZYTIME, true),
        "nolazytime" => (MsFlags::MS_LAZYTIME, false),
        "iversion" => (MsFlags::MS_I_VERSION, true),
        "noiversion" => (MsFlags::MS_I_VERSION, false),
        "mand" => (MsFlags::MS_MANDLOCK, true),
        "nomand" => (MsFlags::MS_MANDLOCK, false),
        "silent" => (MsFlags::MS_SILENT, true),
        "loud" => (MsFlags::MS_SILENT, false),
        "bind" => (MsFlags::MS_BIND, true),
        "rbind" => (MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
        _ => return None,
    })
}

/// `zfsutil` is for `mount.zfs`: it says that the dataset's mountpoint is not `legacy`.
fn is_for_user_space(word: &str) -> bool {
    matches!(
        word,
        "" | "defaults"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "owner"
            | "group"
            | "nofail"
            | "_netdev"
            | "zfsutil"
    ) || ["x-", "X-", "comment="].iter().any(|prefix| word.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_sorted() {
        let options = Options::parse(["defaults", "umask=0077,noatime", "x-systemd.automount"]);
        assert_eq!(options.flags, MsFlags::MS_NOATIME);
        assert_eq!(options.data, ["umask=0077"]);
    }

    #[test]
    fn the_last_word_counts() {
        assert_eq!(Options::parse(["ro,rw"]).flags, MsFlags::empty());
        assert_eq!(Options::parse(["nosuid", "nodev,suid"]).flags, MsFlags::MS_NODEV);
        assert_eq!(Options::parse(["zfsutil"]), Options::parse([""]));
    }

    #[test]
    fn binds() {
        let rbind = Options::parse(["rbind", "ro"]);
        assert!(rbind.is_bind() && rbind.flags.contains(MsFlags::MS_REC | MsFlags::MS_RDONLY));
        assert!(!Options::parse(["subvol=/root"]).is_bind());
    }
}
