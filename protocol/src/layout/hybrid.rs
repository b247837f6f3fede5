//! `hybrid`: how a partition of a GPT is shown in a hybrid MBR.

use super::error::LayoutError;
use super::gpt::Hybrid;
use super::partition_type;
use super::read::Object;

/// Reads the attribute `hybrid` of a partition of that type.
pub(super) fn read(
    object: &mut Object<'_>,
    type_guid: &str,
) -> Result<Option<Hybrid>, LayoutError> {
    let Some(mut hybrid) = object.child_opt("hybrid")? else { return Ok(None) };
    let path = hybrid.path_of("mbrPartitionType");
    let type_code = match hybrid.string_opt("mbrPartitionType")? {
        Some(text) => {
            let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(&text);
            u8::from_str_radix(digits, 16).ok().filter(|code| *code != 0).ok_or_else(|| {
                let problem = format!("`{text}` is not an MBR type such as 0x0c");
                LayoutError::invalid(path, problem)
            })?
        }
        // sgdisk takes the first byte of its own code. Source: gptfdisk, `gptcl.cc`.
        None => partition_type::code(type_guid)
            .and_then(|code| u8::from_str_radix(&code[..2], 16).ok())
            .ok_or_else(|| {
                LayoutError::invalid(
                    path,
                    format!("the type {type_guid} has no MBR type; give one"),
                )
            })?,
    };
    let bootable = hybrid.bool_opt("mbrBootableFlag")?.unwrap_or(false);
    hybrid.finish()?;
    Ok(Some(Hybrid { type_code, bootable }))
}
