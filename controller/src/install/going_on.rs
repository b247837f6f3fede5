//! An execution over one connection after another.
//!
//! Once the target is mounted, a connection that breaks is made anew: the machine leaves everything
//! open for a while, and the next agent goes on with the steps after that, each of which is an
//! ensure; the closure goes on where it was. Before that, a broken connection ends the
//! installation: little is lost.

use super::error::InstallError;
use super::line::Line;
use super::link::Link;
use crate::conversation::{ConversationError, ExecuteError, Execution};
use crate::operator::{Notice, Operator};
use crate::stop::Stop;
use keystone_protocol::message::{ExecuteRequest, PlanRequest};
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::Plan;
use keystone_protocol::report::Report;
use std::sync::Arc;

/// Executes, and gives back the connection over which it came to its end.
///
/// # Errors
/// It failed, or the machine stayed away for longer than the line's patience.
pub(super) async fn execute<O: Operator>(
    mut line: Line<'_>,
    mut link: Link,
    execution: Execution,
    plan: &Plan,
    operator: &mut O,
    stop: &Stop,
) -> Result<(Link, Report), InstallError> {
    let again = (execution.request.patience_s > 0).then(|| going_on(&execution));
    // How the line broke that this one goes on after.
    let mut broken: Option<InstallError> = None;
    let mut next = execution;
    // How often an agent ended though its connection did not.
    let mut died = 0;
    loop {
        let mounted = next.request.goes_on;
        let error = match link.conversation.execute(next, operator, stop).await {
            Ok(report) => return Ok((link, report)),
            Err(error) => error,
        };
        let lost = matches!(error, ExecuteError::Conversation(ConversationError::Lost { .. }));
        let lane = matches!(error, ExecuteError::Conversation(ConversationError::LaneLost { .. }));
        // The disks are written: what is said of them is what was said when the line broke.
        if let (true, ExecuteError::Refused(refusal)) = (mounted, &error)
            && let Some(broken) = broken
        {
            operator.notice(Notice::Remark(&format!("the machine can't go on: {refusal}")));
            link.give_up().await;
            return Err(broken);
        }
        let mounted = mounted || is_after_mounting(plan, link.conversation.step());
        let got_on = link.conversation.received() > 0;
        let log = link.conversation.log().lines().map(str::to_owned).collect();
        died += u32::from(lost && !link.session.has_ended().await);
        let failed =
            InstallError::Execute { error: Box::new(error), plan: Box::new(plan.clone()), log };
        let (true, true, Some(again)) = ((lost && died <= DEATHS) || lane, mounted, &again) else {
            link.give_up().await;
            return Err(failed);
        };
        link.leave().await;
        link = match connect(&mut line, &failed, got_on, operator, stop).await {
            Some(link) => link,
            None => return Err(stopped(failed, stop)),
        };
        broken = Some(failed);
        next = again.clone();
    }
}

/// An agent that ended by itself is followed by another one so often: what killed it once will again.
const DEATHS: u32 = 1;

/// What is told of `failed` if nobody went on after it: that the operator did not want to.
fn stopped(failed: InstallError, stop: &Stop) -> InstallError {
    match failed {
        InstallError::Execute { plan, log, .. } if stop.is_asked() => {
            InstallError::Execute { error: Box::new(ExecuteError::Left), plan, log }
        }
        failed => failed,
    }
}

/// Connects after a connection broke with `error`, again and again; `None` if it is given up.
async fn connect<O: Operator>(
    line: &mut Line<'_>,
    error: &InstallError,
    got_on: bool,
    operator: &mut O,
    stop: &Stop,
) -> Option<Link> {
    if !line.broke(error, got_on, operator, stop).await {
        return None;
    }
    loop {
        let error = match line.open(operator, stop).await {
            Ok(link) => return Some(link),
            Err(error) => error,
        };
        if !line.broke(&error, false, operator, stop).await {
            return None;
        }
    }
}

/// What is asked of the next agent. No secret that only the disks need is kept for it.
fn going_on(execution: &Execution) -> Execution {
    let ExecuteRequest { request, plan, manifest, host_keys, patience_s, .. } = &execution.request;
    let phases = Phases { disko: false, install: true };
    Execution {
        request: ExecuteRequest {
            request: PlanRequest { phases, ..request.clone() },
            plan: plan.clone(),
            manifest: manifest.clone(),
            password: None,
            pin: None,
            key_files: Default::default(),
            host_keys: host_keys.clone(),
            goes_on: true,
            patience_s: *patience_s,
        },
        source: Arc::clone(&execution.source),
        on_target: execution.on_target,
        extra_files: execution.extra_files.clone(),
    }
}

/// Whether a step is one of those that fill the target.
fn is_after_mounting(plan: &Plan, step: Option<&str>) -> bool {
    let at = |id| plan.steps.iter().position(|step| step.id == id);
    step.and_then(at).is_some_and(|at| at >= plan.mounted_at())
}
