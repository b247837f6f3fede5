//! What can go wrong, and which kind of failure it is.

use super::PreflightError;
use super::hardware::HardwareError;
use crate::additions::{ArchiveError, KeyError};
use crate::conversation::{ConversationError, ExecuteError};
use crate::flake::NixError;
use crate::kexec::KexecError;
use crate::kexec::tarball::TarballError;
use crate::operator::OperatorError;
use crate::reboot::RebootError;
use crate::ssh::SshError;
use crate::upload::UploadError;
use keystone_protocol::message::{Refusal, RefusalKind};
use keystone_protocol::plan::{Action, Plan};
use keystone_protocol::report::Report;
use thiserror::Error;

/// An installation did not end well.
#[derive(Debug, Error)]
pub enum InstallError {
    /// Refused before the machine was contacted.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// Options that can't be taken together, or not at all.
    #[error("{0}")]
    Usage(String),
    /// What the operator adds to the system can't be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A key that the operator adds can't be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system could not be built, or its layout evaluated.
    #[error(transparent)]
    Nix(#[from] NixError),
    /// The machine could not describe its hardware.
    #[error(transparent)]
    Hardware(#[from] HardwareError),
    /// An installer was not booted in place of what runs there.
    #[error(transparent)]
    Kexec(#[from] KexecError),
    /// The machine is not in a state that this can begin from.
    #[error("{0}")]
    Unfit(String),
    /// The new system runs, and is not all that was installed.
    #[error("the new system runs, but {0}")]
    Checks(String),
    /// Could not connect.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// Could not bring the agent.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The conversation went wrong before anything was written, or the agent refused.
    #[error(transparent)]
    Conversation(#[from] ConversationError),
    /// Refused by a plan that was made here.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The operator did not agree, or could not answer.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// Stopped by the operator before anything was written.
    #[error("interrupted; nothing was written")]
    Interrupted,
    /// The execution failed.
    #[error("{error}")]
    Execute {
        /// Why.
        #[source]
        error: Box<ExecuteError>,
        /// What was executed.
        plan: Box<Plan>,
        /// The end of the agent's log.
        log: Vec<String>,
    },
    /// A copy failed.
    #[error("{error}")]
    Copy {
        /// Why.
        #[source]
        error: Box<ExecuteError>,
        /// The end of the agent's log.
        log: Vec<String>,
    },
    /// Installed and sealed, but the new system was not seen running.
    #[error("{error}")]
    Reboot {
        /// Why.
        #[source]
        error: Box<RebootError>,
        /// What was done.
        report: Box<Report>,
    },
}

/// Kinds of failures, each with an exit code.
///
/// 64 and 70 are those of sysexits(3), the others are Keystone's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong options.
    Usage,
    /// The closure or the layout can't be installed.
    Closure,
    /// The machine can't be installed so.
    TargetUnfit,
    /// Not agreed to, or something that has to be given is missing.
    NotConfirmed,
    /// The machine can't be reached.
    Unreachable,
    /// The machine's key is not the expected one, or it lets nobody in.
    SshRefused,
    /// A defect.
    Internal,
    /// The agent could not be brought, started or understood.
    Agent,
    /// The plan is not the one that was confirmed.
    PlanChanged,
    /// A step on disks, pools or containers failed.
    Storage,
    /// Sending or registering the closure failed.
    Transfer,
    /// Activation or the boot loader failed.
    Bootloader,
    /// Installed, but not proven to be closed.
    NotSealed,
    /// Installed and sealed, but the new system was not seen running.
    NotVerified,
    /// The flake could not be built or evaluated.
    Build,
    /// The installer was not booted by kexec.
    Kexec,
    /// Stopped by the operator.
    Interrupted,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Kind] = &[
        Kind::Usage,
        Kind::Closure,
        Kind::TargetUnfit,
        Kind::NotConfirmed,
        Kind::Unreachable,
        Kind::SshRefused,
        Kind::Internal,
        Kind::Agent,
        Kind::PlanChanged,
        Kind::Storage,
        Kind::Transfer,
        Kind::Bootloader,
        Kind::NotSealed,
        Kind::NotVerified,
        Kind::Build,
        Kind::Kexec,
        Kind::Interrupted,
    ];

    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Kind::Usage => 64,
            Kind::Closure => 65,
            Kind::TargetUnfit => 66,
            Kind::NotConfirmed => 67,
            Kind::Unreachable => 68,
            Kind::SshRefused => 69,
            Kind::Internal => 70,
            Kind::Agent => 71,
            Kind::PlanChanged => 72,
            Kind::Storage => 73,
            Kind::Transfer => 74,
            Kind::Bootloader => 75,
            Kind::NotSealed => 76,
            Kind::NotVerified => 77,
            Kind::Build => 78,
            Kind::Kexec => 79,
            Kind::Interrupted => 130,
        }
    }

    /// Its name in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::Closure => "closure",
            Kind::TargetUnfit => "target-unfit",
            Kind::NotConfirmed => "not-confirmed",
            Kind::Unreachable => "unreachable",
            Kind::SshRefused => "ssh-refused",
            Kind::Internal => "internal",
            Kind::Agent => "agent",
            Kind::PlanChanged => "plan-changed",
            Kind::Storage => "storage",
            Kind::Transfer => "transfer",
            Kind::Bootloader => "bootloader",
            Kind::NotSealed => "not-sealed",
            Kind::NotVerified => "not-verified",
            Kind::Build => "build",
            Kind::Kexec => "kexec",
            Kind::Interrupted => "interrupted",
        }
    }

    /// What it means, for the help.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::Usage => "wrong options",
            Kind::Closure => "the closure or the layout can't be installed",
            Kind::TargetUnfit => {
                "the machine can't be installed so, or a key file that the layout names is neither given nor there"
            }
            Kind::NotConfirmed => "not agreed to, or a password or the like is missing",
            Kind::Unreachable => "the machine can't be reached",
            Kind::SshRefused => "another host key than expected, or no key is let in",
            Kind::Internal => "a defect in keystone",
            Kind::Agent => "the agent could not be brought, started or understood",
            Kind::PlanChanged => "the machine is not as it was when the plan was confirmed",
            Kind::Storage => "a step on disks, pools or containers failed",
            Kind::Transfer => "sending or registering the closure failed",
            Kind::Bootloader => "activation or the boot loader failed",
            Kind::NotSealed => "installed, but not proven to be closed",
            Kind::NotVerified => {
                "installed and sealed, but the new system was not seen running, or a check failed"
            }
            Kind::Build => "the flake could not be built or evaluated; nothing was written",
            Kind::Kexec => "the installer was not booted by kexec; nothing was installed",
            Kind::Interrupted => "stopped by the operator",
        }
    }

    fn of_refusal(kind: RefusalKind) -> Self {
        match kind {
            RefusalKind::Layout | RefusalKind::Closure => Kind::Closure,
            RefusalKind::TargetUnfit => Kind::TargetUnfit,
            RefusalKind::NotConfirmed => Kind::NotConfirmed,
            RefusalKind::PlanChanged => Kind::PlanChanged,
            RefusalKind::Protocol => Kind::Agent,
        }
    }

    /// By what the failed step was to do.
    fn of_step(plan: &Plan, step: Option<&str>) -> Self {
        let at = plan.steps.iter().position(|s| Some(s.id.as_str()) == step);
        let action = at.map(|at| &plan.steps[at].action);
        // From the report on, everything is closing.
        let report = plan.steps.iter().position(|s| matches!(s.action, Action::WriteReport));
        if report.is_some() && at >= report {
            return Kind::NotSealed;
        }
        match action {
            Some(Action::ReceiveClosure { .. } | Action::SetProfile { .. }) => Kind::Transfer,
            Some(
                Action::HostKey { .. }
                | Action::PutFiles(_)
                | Action::Chown(_)
                | Action::InstallBootloader { .. }
                | Action::VerifyBootloader { .. },
            ) => Kind::Bootloader,
            Some(Action::Unmount | Action::ExportPool { .. } | Action::ProveSeal) => {
                Kind::NotSealed
            }
            Some(_) => Kind::Storage,
            None => Kind::Agent,
        }
    }
}

impl From<&SshError> for Kind {
    fn from(error: &SshError) -> Self {
        match error {
            SshError::Resolve { .. }
            | SshError::Unreachable { .. }
            | SshError::Handshake { .. }
            | SshError::TimedOut { .. }
            | SshError::Jump { .. }
            | SshError::ProxyStart { .. }
            | SshError::ProxyCommand { .. }
            | SshError::Broken { .. } => Kind::Unreachable,
            SshError::KnownHosts { .. }
            | SshError::UnknownHostKey { .. }
            | SshError::HostKeyChanged { .. }
            | SshError::NotThePinnedKey { .. }
            | SshError::RevokedHostKey { .. }
            | SshError::HostCertificate { .. }
            | SshError::Identity { .. }
            | SshError::NoPassphrase { .. }
            | SshError::NoIdentity { .. }
            | SshError::NotAuthenticated { .. }
            | SshError::NotRoot { .. }
            | SshError::ExecRefused { .. } => Kind::SshRefused,
            SshError::Config(_) => Kind::Usage,
            SshError::Remote { .. } => Kind::Agent,
        }
    }
}

impl From<&KexecError> for Kind {
    fn from(error: &KexecError) -> Self {
        match error {
            KexecError::NoImage { .. }
            | KexecError::Unfit(_)
            | KexecError::HostKeyLost { .. }
            | KexecError::NoPlace { .. } => Kind::TargetUnfit,
            KexecError::NoKey { .. }
            | KexecError::OtherKey { .. }
            | KexecError::NotLetIn { .. } => Kind::SshRefused,
            KexecError::Tarball(TarballError::Fetch(_) | TarballError::NotThere(_)) => Kind::Kexec,
            KexecError::Tarball(_) => Kind::Usage,
            KexecError::Ssh(error) => error.into(),
            KexecError::NotWaiting { .. } => Kind::Interrupted,
            KexecError::NotSent { .. }
            | KexecError::Altered { .. }
            | KexecError::Run { .. }
            | KexecError::Stayed { .. }
            | KexecError::NotAnInstaller { .. }
            | KexecError::NotInTime { .. } => Kind::Kexec,
        }
    }
}

impl From<&UploadError> for Kind {
    fn from(error: &UploadError) -> Self {
        match error {
            UploadError::Ssh(error) => error.into(),
            UploadError::NotLinux { .. } => Kind::TargetUnfit,
            _ => Kind::Agent,
        }
    }
}

impl From<&ConversationError> for Kind {
    fn from(error: &ConversationError) -> Self {
        match error {
            ConversationError::Refused(refusal) => Kind::of_refusal(refusal.kind),
            _ => Kind::Agent,
        }
    }
}

impl From<&InstallError> for Kind {
    fn from(error: &InstallError) -> Self {
        match error {
            InstallError::Preflight(_) => Kind::Closure,
            InstallError::Usage(_) | InstallError::Archive(_) | InstallError::Key(_) => Kind::Usage,
            InstallError::Nix(NixError::Stopped(_)) => Kind::Interrupted,
            InstallError::Nix(_) => Kind::Build,
            InstallError::Hardware(HardwareError::Ssh(error)) => error.into(),
            InstallError::Hardware(_) | InstallError::Unfit(_) => Kind::TargetUnfit,
            InstallError::Checks(_) => Kind::NotVerified,
            InstallError::Kexec(error) => error.into(),
            InstallError::Ssh(error) => error.into(),
            InstallError::Upload(error) => error.into(),
            InstallError::Conversation(error) => error.into(),
            InstallError::Refused(refusal) => Kind::of_refusal(refusal.kind),
            InstallError::Operator(_) => Kind::NotConfirmed,
            InstallError::Interrupted => Kind::Interrupted,
            InstallError::Execute { error, plan, .. } => match error.as_ref() {
                ExecuteError::Refused(refusal) => Kind::of_refusal(refusal.kind),
                ExecuteError::Failed { stopped: true, .. } | ExecuteError::Left => {
                    Kind::Interrupted
                }
                ExecuteError::Failed { step, .. } => Kind::of_step(plan, step.as_deref()),
                ExecuteError::Conversation(error) => error.into(),
            },
            InstallError::Copy { error, .. } => match error.as_ref() {
                ExecuteError::Refused(refusal) => Kind::of_refusal(refusal.kind),
                ExecuteError::Failed { stopped: true, .. } | ExecuteError::Left => {
                    Kind::Interrupted
                }
                ExecuteError::Failed { .. } => Kind::Transfer,
                ExecuteError::Conversation(error) if error.is_loss() => Kind::Unreachable,
                ExecuteError::Conversation(error) => error.into(),
            },
            InstallError::Reboot { error, .. } => match error.as_ref() {
                RebootError::Interrupted => Kind::Interrupted,
                _ => Kind::NotVerified,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_none_is_a_success() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert!(codes.iter().all(|&code| code >= 64));
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(codes.is_sorted());
    }

    #[test]
    fn the_documentation_lists_them() {
        let text = include_str!("../../../docs/exit-codes.md");
        for kind in Kind::ALL {
            let row = format!("| {} | `{}` | {} |", kind.code(), kind.name(), kind.meaning());
            assert!(text.contains(&row), "{row}");
        }
        assert_eq!(text.matches("` | ").count(), Kind::ALL.len());
    }
}
