//! An installation, from the connection to the new system's answer.
//!
//! | module | job |
//! |---|---|
//! | [`preflight`] | what can be refused before the machine is contacted |
//! | [`link`](mod@link) | connection, agent, conversation |
//! | [`line`](mod@line) | connections one after another, as they break |
//! | `going_on` | an execution over one connection after another |
//! | [`hardware`] | a description of the hardware by the machine's own tools |
//! | [`error`] | what can go wrong, and which kind of failure it is |
//!
//! [`install`] is the whole; front ends call it with their own [`Operator`].

pub mod error;
mod going_on;
pub mod hardware;
pub mod line;
pub mod link;
pub mod preflight;

pub use error::{InstallError, Kind};
pub use line::Line;
pub use link::{Link, LinkOptions, connect};
pub use preflight::{PreflightError, preflight};

use crate::additions::{Archive, DiskKeys};
use crate::closure::{Closure, ClosureSource};
use crate::conversation::Execution;
use crate::operator::{Notice, Operator, Proposal};
use crate::reboot::{self, RebootOptions, Verification};
use crate::stop::Stop;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::message::{ExecuteRequest, PlanRequest};
use keystone_protocol::options::InstallOptions;
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::Plan;
use keystone_protocol::report::{EndsAt, Report};
use keystone_protocol::secret::Secret;
use std::sync::Arc;

/// What to install where.
pub struct InstallRequest {
    /// The machine and how to reach it.
    pub link: LinkOptions,
    /// The system.
    pub closure: Closure,
    /// Where its contents come from.
    pub source: Arc<dyn ClosureSource>,
    /// Whether the machine is to fetch itself what it can.
    pub on_target: bool,
    /// `disko.devices`, JSON as given; see [`preflight`].
    pub layout: String,
    /// The operator's choices.
    pub options: InstallOptions,
    /// Which parts of the plan.
    pub phases: Phases,
    /// What the operator adds to the system; the options name it.
    pub additions: Additions,
    /// How far to go.
    pub until: Until,
}

/// What the operator adds to the system.
#[derive(Debug, Default)]
pub struct Additions {
    /// Files.
    pub archive: Option<Arc<Archive>>,
    /// Key files by the layout's path.
    pub disk_keys: DiskKeys,
    /// SSH host keys, in the order of the options' public halves.
    pub host_keys: Vec<Secret>,
}

/// How far to go.
#[derive(Debug, Clone)]
pub enum Until {
    /// Only plan; nothing is written.
    Planned,
    /// Run the phases; the machine stays in its installer.
    Sealed,
    /// Restart it, and see the new system run.
    Verified(RebootOptions),
}

/// What came of it.
#[derive(Debug)]
pub struct Installed {
    /// What the machine is.
    pub inventory: Inventory,
    /// What was planned.
    pub plan: Plan,
    /// What was done, unless only a plan was asked for.
    pub report: Option<Report>,
    /// What was seen of the new system.
    pub verification: Option<Verification>,
}

/// Installs.
///
/// Nothing is written before [`Operator::confirm`] has agreed. `stop` asked once stops between
/// two writes.
pub async fn install<O: Operator>(
    request: InstallRequest,
    operator: &mut O,
    stop: &Stop,
) -> Result<Installed, InstallError> {
    let InstallRequest { link: options, closure, source, layout, phases, additions, until, .. } =
        request;
    let on_target = request.on_target;
    let (choices, closure_facts) = (request.options, Some(closure.facts));
    let plan_request = PlanRequest { layout, options: choices, closure: closure_facts, phases };
    let mut line = Line::to(&options);
    let mut link = line.open(operator, stop).await?;
    let confirmed = tokio::select! {
        confirmed = plan_and_confirm(&mut link, &plan_request, &options, &until, operator) => confirmed,
        () = stop.asked(1) => Err(InstallError::Interrupted),
    };
    let (inventory, plan, secrets) = match confirmed {
        Ok((inventory, plan, Some(secrets))) => (inventory, plan, secrets),
        Ok((inventory, plan, None)) => {
            link.close().await;
            return Ok(Installed { inventory, plan, report: None, verification: None });
        }
        Err(error) => {
            link.give_up().await;
            return Err(error);
        }
    };
    let execution = Execution {
        request: ExecuteRequest {
            request: plan_request,
            plan: plan.hash.clone(),
            manifest: closure.manifest,
            password: secrets.password,
            pin: secrets.pin,
            key_files: additions.disk_keys,
            host_keys: additions.host_keys,
            goes_on: false,
            patience_s: options.patience.as_secs(),
        },
        source,
        on_target,
        extra_files: additions.archive,
    };
    let (mut link, mut report) =
        going_on::execute(line, link, execution, &plan, operator, stop).await?;
    let verification = match until {
        Until::Verified(reboot) => {
            let boot_id = link.conversation.reboot(operator).await;
            let installer = link.session.host_key().clone();
            link.leave().await;
            let failed = |error, report: Report| InstallError::Reboot {
                error: Box::new(error),
                report: Box::new(report),
            };
            let boot_id = match boot_id {
                Ok(boot_id) => boot_id,
                Err(error) => return Err(failed(error.into(), report)),
            };
            operator.notice(Notice::Rebooting);
            let before = reboot::Before { boot_id, installer };
            match reboot::wait(&reboot, &before, &report, operator, stop).await {
                Ok(verification) => {
                    report.ends_at = EndsAt::Verified;
                    Some(verification)
                }
                Err(error) => return Err(failed(error, report)),
            }
        }
        Until::Planned | Until::Sealed => {
            link.close().await;
            None
        }
    };
    operator.notice(Notice::Done(&report));
    Ok(Installed { inventory, plan, report: Some(report), verification })
}

/// What the operator gave for the execution.
pub(crate) struct Secrets {
    pub(crate) password: Option<Secret>,
    pub(crate) pin: Option<Secret>,
}

/// Up to the operator's agreement; `None` instead of secrets if only a plan is wanted.
///
/// A plan that makes and destroys nothing is shown, and needs no agreement.
pub(crate) async fn plan_and_confirm<O: Operator>(
    link: &mut Link,
    request: &PlanRequest,
    options: &LinkOptions,
    until: &Until,
    operator: &mut O,
) -> Result<(Inventory, Plan, Option<Secrets>), InstallError> {
    let inventory = link.conversation.inventory(operator).await?;
    operator.notice(Notice::Inventory(&inventory));
    let plan = link.conversation.plan(request, operator).await?;
    operator.notice(Notice::Plan(&plan));
    if matches!(until, Until::Planned) {
        return Ok((inventory, plan, None));
    }
    let phases = request.phases;
    if !phases.any() {
        return Ok((inventory, plan, Some(Secrets { password: None, pin: None })));
    }
    if phases.disko {
        operator.prepare(&plan).await?;
    }
    let host = options.destination.host.as_str();
    let mode = request.options.disko_mode;
    if request.closure.is_some() || mode.formats() || mode.destroys() {
        operator.confirm(&Proposal { host, inventory: &inventory, plan: &plan }).await?;
    }
    let password = match plan.opened_by_password().as_slice() {
        _ if !phases.disko => None,
        [] => None,
        containers => Some(operator.password(containers).await?),
    };
    let pin = match plan.opened_by_pin().as_slice() {
        _ if !phases.disko => None,
        [] => None,
        containers => Some(operator.pin(containers).await?),
    };
    Ok((inventory, plan, Some(Secrets { password, pin })))
}
