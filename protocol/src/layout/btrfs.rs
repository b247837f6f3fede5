//! `btrfs`: a btrfs with subvolumes and swap files.

use super::error::LayoutError;
use super::hooks::Hooks;
use super::{content, mount, read::Object, shell_words};

/// A btrfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Btrfs {
    /// Its place in the document.
    pub path: String,
    /// The link by which the installed system knows its device.
    pub device: String,
    /// Further arguments to mkfs.btrfs.
    pub extra_args: Vec<String>,
    /// Where its top is mounted, if it is.
    pub mountpoint: Option<String>,
    /// Mount options of its top, as given.
    pub mount_options: Vec<String>,
    /// Swap files at its top.
    pub swap: Vec<SwapFile>,
    /// Its subvolumes, by the attribute's name.
    pub subvolumes: Vec<Subvolume>,
    /// Its hooks.
    pub hooks: Hooks,
}

/// A subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// Its place in the document.
    pub path: String,
    /// Its path in the file system, as given: for the option `subvol`.
    pub name: String,
    /// Further arguments to `btrfs subvolume create`.
    pub extra_args: Vec<String>,
    /// Where it is mounted, if it is.
    pub mountpoint: Option<String>,
    /// Mount options, as given.
    pub mount_options: Vec<String>,
    /// Swap files in it.
    pub swap: Vec<SwapFile>,
}

impl Subvolume {
    /// Its path in the file system without slashes at both ends.
    pub fn inner_path(&self) -> &str {
        self.name.trim_matches('/')
    }
}

/// A swap file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapFile {
    /// Its path in its subvolume.
    pub file: String,
    /// Its size, in bytes.
    pub size: u64,
}

impl Btrfs {
    /// Reads a btrfs whose `type` was read already.
    pub(super) fn read(mut object: Object<'_>) -> Result<Self, LayoutError> {
        let hooks = Hooks::read(&mut object)?;
        let mut subvolumes = Vec::new();
        for (attribute, subvolume) in object.named_children("subvolumes")? {
            subvolumes.push(Subvolume::read(&attribute, subvolume)?);
        }
        let btrfs = Btrfs {
            path: object.path().to_owned(),
            device: object.string("device")?,
            extra_args: shell_words::split(&mut object, "extraArgs")?,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
            swap: swap_files(&mut object)?,
            subvolumes,
            hooks,
        };
        shell_words::no_devices(|| object.path_of("extraArgs"), &btrfs.extra_args)?;
        object.finish()?;
        Ok(btrfs)
    }
}

impl Subvolume {
    fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "btrfs_subvol", &["btrfs_subvol"])?;
        let subvolume = Subvolume {
            path: object.path().to_owned(),
            name: object.string_opt("name")?.unwrap_or_else(|| attribute.to_owned()),
            extra_args: shell_words::split(&mut object, "extraArgs")?,
            mountpoint: mount::point(&mut object)?,
            mount_options: mount::options(&mut object)?,
            swap: swap_files(&mut object)?,
        };
        if !is_inner_path(subvolume.inner_path()) {
            return Err(LayoutError::invalid(
                object.path_of("name"),
                format!("`{}` can't be the path of a subvolume", subvolume.name),
            ));
        }
        object.finish()?;
        Ok(subvolume)
    }
}

/// `swap`: files by names of the layout's own.
fn swap_files(object: &mut Object<'_>) -> Result<Vec<SwapFile>, LayoutError> {
    let mut files = Vec::new();
    for (attribute, mut file) in object.named_children("swap")? {
        let name = file.string_opt("path")?.unwrap_or(attribute);
        if !is_inner_path(&name) {
            return Err(LayoutError::invalid(
                file.path_of("path"),
                format!("`{name}` can't be the path of a swap file"),
            ));
        }
        let size = file.string("size")?;
        let size = shell_words::size(&size).ok_or_else(|| {
            let problem = format!("`{size}` is not a size like 2G");
            LayoutError::invalid(file.path_of("size"), problem)
        })?;
        // How the installed system swaps to it; nothing is swapped to a file when installing.
        file.strings("options")?;
        file.number_opt("priority")?;
        super::swap::discard(&mut file)?;
        file.finish()?;
        files.push(SwapFile { file: name, size });
    }
    Ok(files)
}

/// Whether it is a relative path without `.`, `..` and empty parts.
fn is_inner_path(path: &str) -> bool {
    path.split('/').all(|part| !["", ".", ".."].contains(&part) && !part.contains('\0'))
}
