//! `nodev`: a file system without a device of its own.

use super::error::LayoutError;
use super::hooks::Hooks;
use super::{content, mount, read::Object};

/// A file system without a device of its own: tmpfs and the like, or a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nodev {
    /// Its place in the document.
    pub path: String,
    /// Its type; `none` for a bind mount.
    pub fstype: String,
    /// First field of fstab(5): for a bind mount, what is mounted.
    pub device: String,
    /// Where it is mounted in the installed system, if it is.
    pub mountpoint: Option<String>,
    /// Mount options, as given.
    pub mount_options: Vec<String>,
    /// Its hooks.
    pub hooks: Hooks,
}

impl Nodev {
    pub(super) fn read(attribute: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "nodev", &["nodev"])?;
        let hooks = Hooks::read(&mut object)?;
        let device = object.string_opt("device")?.unwrap_or_else(|| "none".to_owned());
        let mountpoint = mount::point_or(&mut object, attribute)?;
        let nodev = Nodev {
            path: object.path().to_owned(),
            fstype: object.string("fsType")?,
            device,
            mountpoint,
            mount_options: mount::options(&mut object)?,
            hooks,
        };
        if nodev.is_bind() && !nodev.device.starts_with('/') {
            return Err(LayoutError::invalid(
                object.path_of("device"),
                format!("`{}` is not an absolute path, and is to be bound", nodev.device),
            ));
        }
        object.finish()?;
        Ok(nodev)
    }

    /// Whether it is a directory mounted a second time.
    pub fn is_bind(&self) -> bool {
        self.mount_options.iter().any(|option| option == "bind" || option == "rbind")
    }
}
