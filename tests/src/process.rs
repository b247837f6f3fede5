//! What `/proc` says of processes (proc(5)). One that has ended is one of which nothing is said.

use anyhow::Result;
use std::fs;

/// All of them that this program sees.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A program's name, of which the kernel keeps 15 bytes.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// Whether it has that name.
pub fn is_named(pid: u32, wanted: &str) -> bool {
    name(pid) == wanted[..wanted.len().min(15)]
}

/// The fields of `/proc/PID/stat` after the name: the first is the state, the second the parent.
///
/// # Errors
/// It has ended.
pub fn stat(pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// The first of `of` that a process is or descends from.
pub fn ancestor(mut pid: u32, of: &[u32]) -> Option<u32> {
    for _ in 0..32 {
        if of.contains(&pid) {
            return Some(pid);
        }
        pid = stat(pid).ok()?.get(1)?.parse().ok()?;
        if pid <= 1 {
            return None;
        }
    }
    None
}

/// The most memory that a process has had, in MiB; 0 for one that has ended.
pub fn peak(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
