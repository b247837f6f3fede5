//! The scenarios, in the order they run: those that share the live system first.

mod live_system;
mod luks_device;

use crate::runner::Scenario;

/// All scenarios. Names are unique; the gate is what guards the most in the time there is.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "live-system",
        gate: true,
        about: "the installer's medium is what the agent may rely on, and no more",
        run: live_system::run,
    },
    Scenario {
        name: "luks-device",
        gate: false,
        about: "a container on a disk, opened and closed beside udev, and by systemd through the TPM",
        run: luks_device::run,
    },
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_words_joined_by_hyphens() {
        let mut names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
