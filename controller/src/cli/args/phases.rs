//! Which parts of an installation are run.

use clap::{Args, ValueEnum};
use keystone_protocol::phase::Phases;
use std::collections::BTreeSet;

/// Which parts of an installation are run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Phases")]
pub struct PhaseArgs {
    /// Run only these, always in this order: kexec boots an installer on a machine that runs
    /// another system; disko makes the disks and mounts them; install fills
    /// and seals them; reboot restarts the machine and sees the new system run. A phase goes on
    /// with what an earlier run left
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_enum)]
    pub phases: Vec<Phase>,
    /// Stop after the seal; the machine stays in its installer. As --phases disko,install
    /// (after kexec, if --kexec is given)
    #[arg(long, conflicts_with = "phases")]
    pub no_reboot: bool,
    /// Stop when the disks are made and mounted. As --phases disko (after kexec, if
    /// --kexec is given)
    #[arg(long, conflicts_with_all = ["phases", "no_reboot"])]
    pub stop_after_disko: bool,
}

/// A part of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Phase {
    /// Boots the image of --kexec, unless the machine is in an installer
    Kexec,
    /// Makes the disks and mounts them
    Disko,
    /// Fills and seals them
    Install,
    /// Restarts the machine and sees the new system run
    Reboot,
}

/// What is to be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selected {
    /// Whether the machine is to be brought into an installer, if it is in none.
    pub kexec: bool,
    /// Which parts of the plan.
    pub plan: Phases,
    /// Whether the machine is restarted.
    pub reboot: bool,
}

impl Selected {
    /// Everything, on a machine that is in its installer.
    pub const ALL: Selected = Selected { kexec: false, plan: Phases::ALL, reboot: true };
}

impl PhaseArgs {
    /// What is to be run; `kexec` says that this phase is asked for by an option of its own.
    ///
    /// # Errors
    /// A sentence about a set that makes no sense.
    pub fn selected(&self, kexec: bool) -> Result<Selected, &'static str> {
        let mut set: BTreeSet<Phase> = match () {
            () if self.no_reboot => [Phase::Disko, Phase::Install].into(),
            () if self.stop_after_disko => [Phase::Disko].into(),
            () if self.phases.is_empty() => [Phase::Disko, Phase::Install, Phase::Reboot].into(),
            () => self.phases.iter().copied().collect(),
        };
        if kexec && self.phases.is_empty() {
            set.insert(Phase::Kexec);
        }
        let has = |phase| set.contains(&phase);
        if has(Phase::Disko) && has(Phase::Reboot) && !has(Phase::Install) {
            return Err(
                "--phases disko,reboot would restart a machine with nothing on its disks: add \
                 install, or leave reboot out",
            );
        }
        Ok(Selected {
            kexec: has(Phase::Kexec),
            plan: Phases { disko: has(Phase::Disko), install: has(Phase::Install) },
            reboot: has(Phase::Reboot),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(phases: &[Phase]) -> Result<Selected, &'static str> {
        PhaseArgs { phases: phases.to_vec(), no_reboot: false, stop_after_disko: false }
            .selected(false)
    }

    #[test]
    fn any_order_is_the_one_order() {
        use Phase::*;
        assert_eq!(selected(&[Reboot, Install, Disko]), selected(&[]));
        let one = selected(&[Install]).unwrap();
        assert_eq!(one.plan, Phases { disko: false, install: true });
        assert!(!one.reboot && !one.kexec);
        assert_eq!(selected(&[Reboot]).unwrap().plan, Phases::NONE);
        assert!(selected(&[Reboot, Disko]).is_err());
    }

    #[test]
    fn an_image_is_a_phase_unless_phases_are_named() {
        let with_image = |phases: &[Phase], no_reboot| {
            let args = PhaseArgs { phases: phases.to_vec(), no_reboot, stop_after_disko: false };
            args.selected(true).unwrap()
        };
        assert!(with_image(&[], false).kexec && with_image(&[], true).kexec);
        assert!(!with_image(&[Phase::Disko], false).kexec);
        assert!(!selected(&[]).unwrap().kexec);
    }
}
