//! `disk`: a disk, by a name of the layout's own.

use super::error::LayoutError;
use super::gpt::Gpt;
use super::{content, hooks, read::Object};

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The layout's name (the attribute's; `name` can differ from it only by hand).
    pub name: String,
    /// `/dev/disk/by-id/…` as a rule; may be overridden by the operator.
    pub device: String,
    /// Whether what is on it may be destroyed (disko's `destroy`); else what is there is kept,
    /// and what is missing made.
    pub destroy: bool,
    /// Its partition table.
    pub table: Gpt,
}

impl Disk {
    pub(super) fn read(name: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "disk", &["disk"])?;
        hooks::refuse(&mut object)?;
        let device = object.string("device")?;
        object.string_opt("name")?;
        // Only disko's image builder looks at these.
        object.string_opt("imageName")?;
        object.string_opt("imageSize")?;
        let destroy = object.bool_opt("destroy")?.unwrap_or(true);
        let content_path = object.path_of("content");
        let Some(mut content) = object.child_opt("content")? else {
            return Err(LayoutError::Missing { path: object.path().into(), attribute: "content" });
        };
        match content::type_of(&mut content)?.as_str() {
            "gpt" => {}
            other if content::CONTENT_TYPES.contains(&other) => {
                let what = format!("{other} on a whole disk is");
                return Err(LayoutError::not_supported(content_path, what));
            }
            other => return Err(content::unknown_type(content_path, other)),
        }
        let table = Gpt::read(content)?;
        object.finish()?;
        if device.is_empty() {
            return Err(LayoutError::invalid(format!("disk.{name}.device"), "is empty"));
        }
        Ok(Disk { name: name.to_owned(), device, destroy, table })
    }
}
