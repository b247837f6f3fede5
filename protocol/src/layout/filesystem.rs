//! `filesystem`: a file system made by its `mkfs`.

use super::error::{LayoutError, closest};
use super::hooks::Hooks;
use super::{mount, read::Object, shell_words};

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its place in the document.
    pub path: String,
    /// Which.
    pub format: Format,
    /// The link by which the installed system knows its device.
    pub device: String,
    /// Further arguments to its `mkfs`; for FAT those that are not [`Filesystem::label`].
    pub extra_args: Vec<String>,
    /// The label that the arguments give a FAT file system.
    pub label: Option<String>,
    /// Where it is mounted in the installed system, if it is.
    pub mountpoint: Option<String>,
    /// Mount options, as given.
    pub mount_options: Vec<String>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the file systems'")]
pub enum Format {
    Vfat,
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    F2fs,
    Bcachefs,
}

/// Names of the formats.
const NAMES: [(&str, Format); 8] = [
    ("vfat", Format::Vfat),
    ("ext2", Format::Ext2),
    ("ext3", Format::Ext3),
    ("ext4", Format::Ext4),
    ("xfs", Format::Xfs),
    ("btrfs", Format::Btrfs),
    ("f2fs", Format::F2fs),
    ("bcachefs", Format::Bcachefs),
];

/// Formats that people use with disko and this version can't make.
const NOT_YET: [&str; 4] = ["exfat", "jfs", "ntfs", "reiserfs"];

/// All names, those of formats that can't be made yet among them.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name).chain(NOT_YET)
}

impl Format {
    /// The name in the layout, in fstab and for mount(2).
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    fn read(path: String, name: &str) -> Result<Self, LayoutError> {
        if let Some((_, format)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(*format);
        }
        if NOT_YET.contains(&name) {
            return Err(LayoutError::not_supported(path, format!("the file system {name} is")));
        }
        Err(LayoutError::UnknownName {
            path,
            what: "file system",
            found: name.to_owned(),
            closest: closest(name, NAMES.iter().map(|(name, _)| *name).chain(NOT_YET)),
        })
    }
}

impl Filesystem {
    /// Reads a file system whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        let format = object.string("format")?;
        let mut filesystem = Filesystem {
            path: object.path().to_owned(),
            format: Format::read(object.path_of("format"), &format)?,
            device: object.string("device")?,
            extra_args: object.strings("extraArgs")?,
            label: None,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
            hooks,
        };
        if filesystem.format == Format::Vfat {
            let path = object.path_of("extraArgs");
            filesystem.label = vfat_label(path, std::mem::take(&mut filesystem.extra_args))?;
        }
        shell_words::no_devices(|| object.path_of("extraArgs"), &filesystem.extra_args)?;
        object.finish()?;
        Ok(filesystem)
    }
}

/// The label among the arguments of mkfs.vfat. FAT is made natively, always FAT32, so `-F 32` says
/// nothing new and anything else is refused. Source: mkfs.fat(8).
fn vfat_label(path: String, args: Vec<String>) -> Result<Option<String>, LayoutError> {
    let mut words = args.iter().flat_map(|arg| arg.split_whitespace());
    let mut label = None;
    while let Some(word) = words.next() {
        let (option, value) = match word {
            "-n" | "-F" => (word, words.next()),
            _ => match word.split_at_checked(2) {
                Some((option @ ("-n" | "-F"), value)) => (option, Some(value)),
                _ => (word, None),
            },
        };
        match (option, value) {
            ("-F", Some("32")) => {}
            ("-n", Some(value)) => {
                let valid = (1..=11).contains(&value.len())
                    && value.bytes().all(|b| (b' '..0x7f).contains(&b))
                    && !value.contains([
                        '"', '*', '+', ',', '.', '/', ':', ';', '<', '=', '>', '?', '[', '\\', ']',
                        '|',
                    ]);
                if !valid {
                    return Err(LayoutError::invalid(
                        path,
                        format!("`{value}` is not a label of FAT: 1 to 11 plain characters"),
                    ));
                }
                label = Some(value.to_ascii_uppercase());
            }
            _ => {
                return Err(LayoutError::not_supported(
                    path,
                    format!("the argument {word} of mkfs.vfat is"),
                ));
            }
        }
    }
    Ok(label)
}
