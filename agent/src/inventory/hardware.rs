//! Processor and memory, from procfs.

use crate::block::Roots;
use keystone_protocol::inventory::{Cpu, Memory};
use std::fs;

/// The processor.
pub fn cpu(roots: &Roots) -> Cpu {
    parse_cpu(&fs::read_to_string(roots.proc.join("cpuinfo")).unwrap_or_default())
}

/// Memory.
pub fn memory(roots: &Roots) -> Memory {
    parse_memory(&fs::read_to_string(roots.proc.join("meminfo")).unwrap_or_default())
}

/// x86 says `flags`, Arm says `Features` and has no model name.
fn parse_cpu(text: &str) -> Cpu {
    let fields =
        || text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim()));
    let field = |name: &str| fields().find(|(key, _)| *key == name).map(|(_, value)| value);
    let features = field("flags").or_else(|| field("Features")).unwrap_or("");
    Cpu {
        model: field("model name").unwrap_or("unknown").to_owned(),
        cores: fields().filter(|(key, _)| *key == "processor").count() as u32,
        aes: features.split(' ').any(|feature| feature == "aes"),
    }
}

fn parse_memory(text: &str) -> Memory {
    let kib = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.strip_suffix("kB"))
            .and_then(|value| value.trim().parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    };
    Memory { total: kib("MemTotal"), available: kib("MemAvailable") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu aes sse\n\n\
                    processor\t: 1\nmodel name\t: AMD EPYC\nflags\t\t: fpu aes sse\n";
        assert_eq!(parse_cpu(text), Cpu { model: "AMD EPYC".into(), cores: 2, aes: true });
    }

    #[test]
    fn arm_and_nothing() {
        let text = "processor\t: 0\nFeatures\t: fp asimd pmull\n";
        assert_eq!(parse_cpu(text), Cpu { model: "unknown".into(), cores: 1, aes: false });
        assert_eq!(parse_cpu("").cores, 0);
    }

    #[test]
    fn meminfo() {
        let text = "MemTotal:        4028096 kB\nMemFree:  1 kB\nMemAvailable:    3500000 kB\n";
        let memory = Memory { total: 4_028_096 * 1024, available: 3_500_000 * 1024 };
        assert_eq!(parse_memory(text), memory);
    }
}
