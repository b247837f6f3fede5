//! `disk`: a disk, by a name of the layout's own.

use super::content::Content;
use super::error::LayoutError;
use super::gpt::Partition;
use super::hooks::Hooks;
use super::{content, read::Object};

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its place in the document.
    pub path: String,
    /// The layout's name (the attribute's; `name` can differ from it only by hand).
    pub name: String,
    /// `/dev/disk/by-id/…` as a rule; may be overridden by the operator.
    pub device: String,
    /// Whether what is on it is destroyed; else it is kept, and only what is missing is made.
    pub destroy: bool,
    /// What is put onto it, if anything.
    pub content: Option<Content>,
    /// Its hooks.
    pub hooks: Hooks,
}

impl Disk {
    pub(super) fn read(name: &str, mut object: Object<'_>) -> Result<Self, LayoutError> {
        content::expect_type(&mut object, "disk", &["disk"])?;
        let hooks = Hooks::read(&mut object)?;
        let device = object.string("device")?;
        object.string_opt("name")?;
        // Only disko's image builder looks at these.
        object.string_opt("imageName")?;
        object.string_opt("imageSize")?;
        let destroy = object.bool_opt("destroy")?.unwrap_or(true);
        let content = Content::read_opt(&mut object, content::Place::Device)?;
        let path = object.path().to_owned();
        object.finish()?;
        if device.is_empty() {
            return Err(LayoutError::invalid(format!("disk.{name}.device"), "is empty"));
        }
        Ok(Disk { path, name: name.to_owned(), device, destroy, content, hooks })
    }

    /// The partitions of its GPT, by number from 1; none if it has no GPT.
    pub fn partitions(&self) -> &[Partition] {
        match &self.content {
            Some(Content::Gpt(gpt)) => &gpt.partitions,
            _ => &[],
        }
    }
}
