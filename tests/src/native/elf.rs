//! Whether an executable needs a loader.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use object::{
    Endianness,
    elf::{FileHeader64, PT_INTERP},
    read::elf::{FileHeader, ProgramHeader},
};

/// Whether the 64-bit ELF file at `path` has neither a `PT_INTERP` segment nor
/// a `DT_NEEDED` entry: the kernel alone can start it.
///
/// # Errors
/// If the file cannot be read or is not a 64-bit ELF file.
pub fn is_static(path: &Path) -> Result<bool> {
    let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let header = FileHeader64::<Endianness>::parse(&*data).context("parsing the ELF header")?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, &*data)? {
        if segment.p_type(endian) == PT_INTERP {
            return Ok(false);
        }
        if let Some(entries) = segment.dynamic(endian, &*data)?
            && entries.iter().any(|e| e.d_tag.get(endian) == u64::from(object::elf::DT_NEEDED))
        {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_apart() {
        assert!(!is_static(Path::new("/usr/bin/env")).expect("read /usr/bin/env"));
    }
}
