//! `keystone plan`.

use super::args::PlanArgs;
use super::install::{install_and_tell, install_options};
use super::link::link_options;
use super::output::print;
use super::system::{self, Choices, read_document};
use crate::confirm::plan_text;
use crate::disks::{self, DisksRequest};
use crate::install::{InstallError, preflight};
use crate::operator::{Notice, Operator};
use crate::stop::Stop;
use crate::ui::CommandLine;
use crate::ui::style::Style;
use keystone_protocol::inventory::{INVENTORY_VERSION, Inventory};
use keystone_protocol::options::{ClosureFacts, InstallOptions};
use keystone_protocol::plan::Plan;
use serde::Deserialize;
use std::io;
use std::path::Path;

/// Plans, and shows the plan.
pub(super) async fn plan(
    args: &PlanArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let names_a_system = args.system.names_a_system();
    if !names_a_system && let Some(option) = args.system.additions.first_given() {
        return Err(InstallError::Usage(format!(
            "{option} adds to a system, and none is named: give --flake URI#NAME, --store-path \
             TOPLEVEL or --from, or leave it out to see what would be done with the disks alone"
        )));
    }
    match (&args.inventory, names_a_system) {
        (Some(file), _) => offline(args, file, operator, stop).await,
        (None, true) => install_and_tell(&args.link, &args.system, None, operator, stop).await,
        (None, false) => of_disks(args, operator, stop).await,
    }
}

/// Against a machine, the disks alone: what `keystone disko` would do.
async fn of_disks(
    args: &PlanArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let (layout, options) = disks_alone(args, stop).await?;
    let link = link_options(&args.link, operator)?;
    let host = link.destination.host.clone();
    let request = DisksRequest { layout, link, options, dry_run: true };
    let done = disks::disks(request, operator, stop).await?;
    show(args, &host, &done.inventory, &done.plan, operator);
    Ok(())
}

/// For a machine that a file describes.
async fn offline(
    args: &PlanArgs,
    file: &Path,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let stdin = Some(Path::new("-"));
    if Some(file) == stdin && args.system.layout.as_deref() == stdin {
        return Err(InstallError::Usage(
            "--inventory - and --layout - both read standard input: give a file for one of them"
                .to_owned(),
        ));
    }
    let inventory = read_inventory(file, stop).await?;
    let (layout, options, facts) = match args.system.names_a_system() {
        true => of_system(args, operator, stop).await?,
        false => {
            let (layout, options) = disks_alone(args, stop).await?;
            (layout, options, None)
        }
    };
    operator.notice(Notice::Inventory(&inventory));
    let plan = keystone_planner::plan_with(&inventory, &layout, &options, facts.as_ref())?;
    operator.notice(Notice::Plan(&plan));
    show(args, &inventory.system.hostname, &inventory, &plan, operator);
    Ok(())
}

/// Layout and options where the disks alone are dealt with.
async fn disks_alone(
    args: &PlanArgs,
    stop: &Stop,
) -> Result<(String, InstallOptions), InstallError> {
    let Some(path) = &args.system.layout else {
        return Err(InstallError::Usage("there is no layout: give --layout".to_owned()));
    };
    Ok((read_document(path, stop).await?, install_options(&args.system, None, Choices::default())))
}

/// Layout, options and closure where a system is named.
async fn of_system(
    args: &PlanArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(String, InstallOptions, Option<ClosureFacts>), InstallError> {
    let found = system::find(&args.system, false, None, operator, stop).await?;
    let layout = preflight(&found.layout, &found.closure)?;
    let (_, choices) = system::additions(&args.system, &layout, stop).await?;
    let options = install_options(&args.system, None, choices);
    Ok((found.layout, options, Some(found.closure.facts)))
}

fn show(
    args: &PlanArgs,
    host: &str,
    inventory: &Inventory,
    plan: &Plan,
    operator: &mut CommandLine,
) {
    operator.screen().finish();
    if !args.link.output.json {
        print(&plan_text(host, inventory, plan, Style::of(&io::stdout())));
    }
}

/// Reads what `keystone inventory --json` wrote.
async fn read_inventory(path: &Path, stop: &Stop) -> Result<Inventory, InstallError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let text = read_document(path, stop).await?;
    let unusable = |why: String| {
        InstallError::Usage(format!(
            "--inventory {}: {why}; keystone inventory root@HOST --json writes one",
            path.display()
        ))
    };
    let no_inventory = |error| unusable(format!("this is no inventory: {error}"));
    // The version first: another one may have other fields.
    let Versioned { version } = serde_json::from_str(&text).map_err(no_inventory)?;
    if version != INVENTORY_VERSION {
        return Err(unusable(format!(
            "this inventory has format {version}, and this keystone reads {INVENTORY_VERSION}"
        )));
    }
    serde_json::from_str(&text).map_err(no_inventory)
}
