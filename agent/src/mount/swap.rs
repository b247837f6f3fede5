//! Swapping begun and ended, by `swapon(2)` and `swapoff(2)`.

use super::MountError;
use super::table;
use crate::block::Roots;
use crate::block::find::Node;
use crate::ensure::Ensured;
use nix::errno::Errno;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// `SWAP_FLAG_*` of Linux `include/linux/swap.h`.
const PREFER: i32 = 0x8000;
const PRIORITY_MASK: i32 = 0x7fff;
const DISCARD: i32 = 0x1_0000;
const DISCARD_ONCE: i32 = 0x2_0000;
const DISCARD_PAGES: i32 = 0x4_0000;

/// When freed swap space is discarded, as `swapon --discard` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// All of it, once, at the beginning.
    Once,
    /// Pages as they become free.
    Pages,
    /// Both.
    Both,
}

/// How it is swapped to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwapOptions {
    /// 0 to 32767, higher first; the kernel's own choice without.
    pub priority: Option<u16>,
    /// No discard without.
    pub discard: Option<Discard>,
}

impl SwapOptions {
    /// Takes over what words of fstab(5) say (`pri=…`, `discard`, `discard=once|pages`), as
    /// `swapon -o` does; others are not for swapping.
    #[must_use]
    pub fn with_words<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        for word in words.into_iter().flat_map(|words| words.split(',')) {
            match word.split_once('=') {
                Some(("pri", priority)) => self.priority = priority.parse().ok().or(self.priority),
                Some(("discard", "once")) => self.discard = Some(Discard::Once),
                Some(("discard", "pages")) => self.discard = Some(Discard::Pages),
                None if word == "discard" => self.discard = Some(Discard::Both),
                _ => {}
            }
        }
        self
    }

    fn flags(self) -> i32 {
        let priority = self.priority.map_or(0, |priority| {
            PREFER | (i32::from(priority).min(PRIORITY_MASK) & PRIORITY_MASK)
        });
        let discard = match self.discard {
            None => 0,
            Some(Discard::Once) => DISCARD | DISCARD_ONCE,
            Some(Discard::Pages) => DISCARD | DISCARD_PAGES,
            Some(Discard::Both) => DISCARD,
        };
        priority | discard
    }
}

/// Begins swapping to a device or file that has a header, unless it is swapped to.
pub fn swapon(roots: &Roots, source: &Path, options: SwapOptions) -> Result<Ensured, MountError> {
    if active(roots, source)?.is_some() {
        return Ok(Ensured::AlreadySo);
    }
    let fail = |source_errno| MountError::Swapon { to: source.to_owned(), source: source_errno };
    let path = c_path(source).map_err(fail)?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    Errno::result(unsafe { libc::swapon(path.as_ptr(), options.flags()) }).map_err(fail)?;
    Ok(Ensured::Created)
}

/// Ends swapping to a device, if it is swapped to.
pub fn swapoff(roots: &Roots, device: &Node) -> Result<Ensured, MountError> {
    swapoff_path(roots, &device.path)
}

/// Ends swapping to a device or file, if it is swapped to.
pub fn swapoff_path(roots: &Roots, source: &Path) -> Result<Ensured, MountError> {
    let Some(active) = active(roots, source)? else { return Ok(Ensured::AlreadySo) };
    let fail = |errno| MountError::Swapoff { device: source.to_owned(), source: errno };
    let path = c_path(&active).map_err(fail)?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    Errno::result(unsafe { libc::swapoff(path.as_ptr()) }).map_err(fail)?;
    Ok(Ensured::Created)
}

/// Ends swapping to files at or below `dir`.
pub fn swapoff_below(roots: &Roots, dir: &Path) -> Result<Ensured, MountError> {
    let mut ensured = Ensured::AlreadySo;
    for path in all(roots)?.into_iter().filter(|path| path.starts_with(dir)) {
        ensured = ensured.and(swapoff_path(roots, &path)?);
    }
    Ok(ensured)
}

/// Whether it is swapped to a device or file now; the kernel's path of it.
pub fn active(roots: &Roots, source: &Path) -> Result<Option<PathBuf>, MountError> {
    Ok(all(roots)?.into_iter().find(|active| is_same(active, source)))
}

/// What is swapped to now: devices and files.
pub fn all(roots: &Roots) -> Result<Vec<PathBuf>, MountError> {
    let text = std::fs::read_to_string(roots.proc.join("swaps")).map_err(MountError::Table)?;
    let sources = text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
    Ok(sources.map(|source| PathBuf::from(table::unescape(source))).collect())
}

/// Whether two paths, which may be links, are one device or file.
fn is_same(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let devno = |path: &Path| crate::block::DevNo::of_node(path);
    real(one) == real(other) || (devno(one).is_some() && devno(one) == devno(other))
}

fn c_path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_the_kernels_flags() {
        assert_eq!(SwapOptions::default().flags(), 0);
        let of = |words: &[&str]| SwapOptions::default().with_words(words.iter().copied()).flags();
        assert_eq!(of(&["defaults", "nofail", "pri=100"]), 0x8064);
        assert_eq!(of(&["discard"]), 0x1_0000);
        assert_eq!(of(&["discard=once,pri=0"]), 0x3_8000);
        assert_eq!(of(&["discard=pages"]), 0x5_0000);
        let both = SwapOptions { priority: Some(32767), discard: Some(Discard::Both) };
        assert_eq!(both.flags(), 0x1_ffff);
    }
}
