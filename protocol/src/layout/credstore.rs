//! Keystone's credstore: the hooks that make the key of an encrypted dataset.
//!
//! Keystone's layout keeps the raw key of its encrypted datasets in a small LUKS container, and
//! makes it with two hooks of the encryption root:
//!
//! ```sh
//! # preCreateHook, in one of two forms; the second keeps a key that is already there
//! mount -o X-mount.mkdir /dev/mapper/credstore /etc/credstore && head -c 32 /dev/urandom > /etc/credstore/zfs-sysroot.mount
//! mount -o X-mount.mkdir /dev/mapper/credstore /etc/credstore && { [ -e /etc/credstore/zfs-sysroot.mount ] || head -c 32 /dev/urandom > /etc/credstore/zfs-sysroot.mount; }
//! # postCreateHook
//! umount /etc/credstore && cryptsetup luksClose /dev/mapper/credstore
//! ```
//!
//! The hooks are recognised word by word, whatever the names, and never run. What they do is done
//! natively, and once.

use super::error::LayoutError;
use super::read::Object;
use crate::plan::HookKind;
use std::collections::BTreeMap;

/// The key of an encryption root, kept in a file system in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredstoreKey {
    /// Mapper name of the container whose file system keeps it.
    pub container: String,
    /// File name at that file system's root.
    pub file: String,
    /// Its length, in bytes.
    pub bytes: u32,
}

/// What the two hooks say.
#[derive(Debug, PartialEq, Eq)]
struct Hooks {
    container: String,
    directory: String,
    file: String,
    bytes: u32,
}

/// The key of the dataset `object`, whose other attributes are in `options`, if the hooks that
/// make it are Keystone's; any other hooks are left unread.
pub(super) fn read(
    object: &mut Object<'_>,
    options: &BTreeMap<String, String>,
) -> Result<Option<CredstoreKey>, LayoutError> {
    let encrypted = options.get("encryption").is_some_and(|value| value != "off");
    let pre = object.peek_string(HookKind::PreCreate.attribute()).unwrap_or_default();
    let post = object.peek_string(HookKind::PostCreate.attribute()).unwrap_or_default();
    let Some(hooks) = recognise(pre, post).filter(|_| encrypted) else { return Ok(None) };
    for kind in [HookKind::PreCreate, HookKind::PostCreate] {
        object.string_opt(kind.attribute())?;
    }
    check(object, options, &hooks)?;
    Ok(Some(CredstoreKey { container: hooks.container, file: hooks.file, bytes: hooks.bytes }))
}

/// Whether the dataset reads the key that the hooks make.
fn check(
    object: &Object<'_>,
    options: &BTreeMap<String, String>,
    hooks: &Hooks,
) -> Result<(), LayoutError> {
    let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
    let location = format!("file://{}/{}", hooks.directory, hooks.file);
    if option("keylocation") != location {
        return Err(LayoutError::invalid(
            object.path_of("options"),
            format!(
                "the hooks make the key at {location}, keylocation is `{}`",
                option("keylocation")
            ),
        ));
    }
    // Raw keys are 32 bytes for every cipher. Source: OpenZFS, zfs_crypto.h, WRAPPING_KEY_LEN.
    if option("keyformat") != "raw" || hooks.bytes != 32 {
        return Err(LayoutError::invalid(
            object.path_of("options"),
            format!(
                "the hooks make a raw key of {} bytes; keyformat is `{}`, and a raw key has 32",
                hooks.bytes,
                option("keyformat")
            ),
        ));
    }
    Ok(())
}

/// Reads both hooks; `None` unless they are exactly what the module describes.
fn recognise(pre: &str, post: &str) -> Option<Hooks> {
    let pre = words(pre);
    let pre: Vec<&str> = pre.iter().map(String::as_str).collect();
    let ["mount", "-o", "X-mount.mkdir", device, directory, "&&", make @ ..] = pre.as_slice()
    else {
        return None;
    };
    let head = match make {
        ["{", "[", "-e", tested, "]", "||", head @ .., ";", "}"] if head.last() == Some(tested) => {
            head
        }
        head => head,
    };
    let ["head", "-c", bytes, "/dev/urandom", ">", path] = head else { return None };

    let post = words(post);
    let post: Vec<&str> = post.iter().map(String::as_str).collect();
    let ["umount", unmounted, "&&", "cryptsetup", "luksClose" | "close", closed] = post.as_slice()
    else {
        return None;
    };
    let container = device.strip_prefix("/dev/mapper/")?;
    let file = path.strip_prefix(directory)?.strip_prefix('/')?;
    let plain = |name: &str| {
        !name.is_empty()
            && !name.starts_with('.')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let matches = unmounted == directory
        && closed.strip_prefix("/dev/mapper/").unwrap_or(closed) == container
        && directory.starts_with('/')
        && directory.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && plain(container)
        && plain(file);
    matches.then_some(Hooks {
        container: container.to_owned(),
        directory: (*directory).to_owned(),
        file: file.to_owned(),
        bytes: bytes.parse().ok()?,
    })
}

/// Shell words of a text without quotes, with `;`, `{`, `}` and `>` apart and comments left out.
fn words(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_once('#').map_or(line, |(code, _)| code))
        .flat_map(|line| {
            line.replace(';', " ; ")
                .replace('>', " > ")
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONCE: &str = "mount -o X-mount.mkdir /dev/mapper/credstore /etc/credstore && { [ -e /etc/credstore/zfs-sysroot.mount ] || head -c 32 /dev/urandom > /etc/credstore/zfs-sysroot.mount; }";
    const ALWAYS: &str = "mount -o X-mount.mkdir /dev/mapper/credstore /etc/credstore && head -c 32 /dev/urandom > /etc/credstore/zfs-sysroot.mount";
    const POST: &str = "umount /etc/credstore && cryptsetup luksClose /dev/mapper/credstore\n";

    #[test]
    fn both_forms_are_recognised() {
        let hooks = recognise(ALWAYS, POST).unwrap();
        assert_eq!(hooks.container, "credstore");
        assert_eq!(hooks.file, "zfs-sysroot.mount");
        assert_eq!(hooks.bytes, 32);
        assert_eq!(recognise(ONCE, POST), Some(hooks));
    }

    #[test]
    fn anything_else_is_not() {
        for (pre, post) in [
            (format!("{ALWAYS}; echo x"), POST.into()),
            (format!("{ALWAYS} && true"), POST.into()),
            (ALWAYS.replace("urandom", "zero"), POST.into()),
            (ALWAYS.replace("/dev/mapper/credstore", "/dev/sda"), POST.into()),
            (ALWAYS.replace("> /etc/credstore/", "> /etc/"), POST.into()),
            (ALWAYS.replace("zfs-sysroot.mount", "../x"), POST.into()),
            (ALWAYS.replace("32", "$(reboot)"), POST.into()),
            (ONCE.replacen("zfs-sysroot.mount", "other", 1), POST.into()),
            (ALWAYS.into(), POST.replace("credstore\n", "other")),
            (ALWAYS.into(), POST.replace("umount /etc/credstore", "umount /etc")),
            (ALWAYS.into(), String::new()),
            (String::new(), POST.into()),
        ] {
            assert_eq!(recognise(&pre, &post), None, "{pre}\n{post}");
        }
    }
}
