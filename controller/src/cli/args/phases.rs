//! Which parts of an installation are run.

use clap::{Args, ValueEnum};
use keystone_protocol::phase::Phases;
use std::collections::BTreeSet;

/// Which parts of an installation are run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Phases")]
pub struct PhaseArgs {
    /// Run only these, always in this order: disko makes the disks and mounts them; install fills
    /// and seals them; reboot restarts the machine and sees the new system run. A phase goes on
    /// with what an earlier run left
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_enum)]
    pub phases: Vec<Phase>,
    /// Stop after the seal; the machine stays in its installer. As --phases disko,install
    #[arg(long, conflicts_with = "phases")]
    pub no_reboot: bool,
    /// Stop when the disks are made and mounted. As --phases disko
    #[arg(long, conflicts_with_all = ["phases", "no_reboot"])]
    pub stop_after_disko: bool,
}

/// A part of an installation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Phase {
    /// Nothing to do on a machine that is in its installer; refused on another
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
    /// What is to be run.
    ///
    /// # Errors
    /// A sentence about a set that makes no sense.
    pub fn selected(&self) -> Result<Selected, &'static str> {
        let set: BTreeSet<Phase> = match () {
            () if self.no_reboot => [Phase::Disko, Phase::Install].into(),
            () if self.stop_after_disko => [Phase::Disko].into(),
            () if self.phases.is_empty() => [Phase::Disko, Phase::Install, Phase::Reboot].into(),
            () => self.phases.iter().copied().collect(),
        };
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
        PhaseArgs { phases: phases.to_vec(), no_reboot: false, stop_after_disko: false }.selected()
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
}
