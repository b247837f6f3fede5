//! The disks alone: disko's modes, and a look into an installed system for repair.
//!
//! | module | job |
//! |---|---|
//! | [`rescue`](mod@rescue) | opened and mounted, a shell in it, closed and sealed again |
//!
//! What is done is planned by the agent, shown, and, if it writes, agreed to, as an installation
//! is.

pub mod rescue;

pub use rescue::{RescueRequest, rescue};

use crate::closure::{ClosureSource, LocalSource};
use crate::conversation::Execution;
use crate::install::{InstallError, Link, LinkOptions, Until, plan_and_confirm};
use crate::operator::{Notice, Operator};
use crate::stop::Stop;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::{ExecuteRequest, PlanRequest};
use keystone_protocol::options::InstallOptions;
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::Plan;
use keystone_protocol::report::Report;
use std::sync::Arc;

/// What is done with which machine's disks.
pub struct DisksRequest {
    /// The machine and how to reach it.
    pub link: LinkOptions,
    /// `disko.devices`, JSON as given.
    pub layout: String,
    /// The operator's choices, the mode among them.
    pub options: InstallOptions,
    /// Only plan; nothing is written.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// What the machine is.
    pub inventory: Inventory,
    /// What was planned.
    pub plan: Plan,
    /// What was done, unless only a plan was asked for.
    pub report: Option<Report>,
}

/// Does it.
///
/// # Errors
/// As an installation's; `stop` asked once stops between two writes.
pub async fn disks<O: Operator>(
    request: DisksRequest,
    operator: &mut O,
    stop: &Stop,
) -> Result<Done, InstallError> {
    let mut link = tokio::select! {
        link = Link::open(&request.link, operator) => link?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    let done = in_mode(&mut link, &request, operator, stop).await;
    link.end(done.as_ref().err()).await;
    if let Ok(Done { report: Some(report), .. }) = &done {
        operator.notice(Notice::Done(report));
    }
    done
}

/// One mode, over a link that is open.
async fn in_mode<O: Operator>(
    link: &mut Link,
    request: &DisksRequest,
    operator: &mut O,
    stop: &Stop,
) -> Result<Done, InstallError> {
    let plan_request = PlanRequest {
        layout: request.layout.clone(),
        options: request.options.clone(),
        closure: None,
        phases: Phases::ALL,
    };
    let until = if request.dry_run { Until::Planned } else { Until::Sealed };
    let planned = tokio::select! {
        planned = plan_and_confirm(link, &plan_request, &request.link, &until, operator) => planned?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    let (inventory, plan, Some(secrets)) = planned else {
        let (inventory, plan, _) = planned;
        return Ok(Done { inventory, plan, report: None });
    };
    // No path is ever asked for.
    let source: Arc<dyn ClosureSource> = Arc::new(LocalSource::default());
    let execution = Execution {
        request: ExecuteRequest {
            request: plan_request,
            plan: plan.hash.clone(),
            manifest: Manifest { toplevel: String::new(), paths: Vec::new() },
            password: secrets.password,
            pin: secrets.pin,
            key_files: Default::default(),
            host_keys: Vec::new(),
            goes_on: false,
            patience_s: 0,
        },
        source,
        on_target: false,
        extra_files: None,
    };
    match link.conversation.execute(execution, operator, stop).await {
        Ok(report) => Ok(Done { inventory, plan, report: Some(report) }),
        Err(error) => {
            let log = link.conversation.log().lines().map(str::to_owned).collect();
            Err(InstallError::Execute { error: Box::new(error), plan: Box::new(plan), log })
        }
    }
}
