//! `keystone install`, and `keystone plan` of a system against a machine.

use super::args::phases::Selected;
use super::args::{InstallArgs, LinkArgs, SystemArgs};
use super::link::{address, link_options, reach_at};
use super::outcome::success_text;
use super::output::print;
use super::system::{Choices, Found};
use crate::confirm::plan_text;
use crate::conversation::Connections;
use crate::install::{
    InstallError, InstallRequest, Installed, LinkOptions, Until, install, preflight,
};
use crate::kexec::Outcome;
use crate::nar::Delta;
use crate::reboot::RebootOptions;
use crate::report::InstallReport;
use crate::ssh::{Address, Destination};
use crate::stop::Stop;
use crate::ui::CommandLine;
use crate::ui::style::Style;
use keystone_protocol::options::InstallOptions;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// Installs, or only plans if there are no `args`, and tells what came of it.
pub(super) async fn install_and_tell(
    link: &LinkArgs,
    system: &SystemArgs,
    args: Option<&InstallArgs>,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    // Everything that needs no machine comes first.
    let place = &system.origin.place;
    let on_target = args.map(|args| args.fetch.on_target(place)).transpose()?.unwrap_or(false);
    if on_target && args.is_some_and(|args| args.peer.no_substitute_on_destination) {
        return Err(InstallError::Usage(
            "--fetch on-target and --no-substitute-on-destination contradict each other: leave one \
             of them out"
                .to_owned(),
        ));
    }
    let selected = match args {
        Some(args) => super::begin::selected(args, operator)?,
        None => Selected::ALL,
    };
    let debug = args.is_some_and(|args| args.peer.debug);
    if let (Some(args), Some(flake)) = (args, &system.flake)
        && args.vm_test
    {
        if system.nix.is_remote() {
            return Err(InstallError::Usage(
                "--vm-test is built and run here: leave --build-on out".to_owned(),
            ));
        }
        let path = crate::flake::vm_test(flake, &system.nix.options(debug), operator, stop).await?;
        operator.screen().finish();
        print(&format!("the test ran well: {}\n", path.display()));
        return Ok(());
    }
    address(link)?;
    super::build::check(&system.nix, system.flake.as_ref(), true)?;
    let Begun { options: mut begun, mut kexec } = match args {
        Some(args) => match begin(args, selected, operator, stop).await? {
            Some(begun) => begun,
            None => return Ok(()),
        },
        None => Begun { options: None, kexec: false },
    };
    if begun.is_none() && system.nix.is_remote() {
        begun = Some(link_options(link, operator)?);
    }
    let found = super::system::find(system, debug, begun.as_mut(), operator, stop).await?;
    let Found { closure, source, layout, built } = found;
    let checked = preflight(&layout, &closure)?;
    let (additions, choices) = super::system::additions(system, &checked, stop).await?;
    additions.disk_keys.values().chain(&additions.host_keys).for_each(|key| operator.hide(key));
    let mut options = match begun {
        Some(options) => options,
        None => link_options(link, operator)?,
    };
    options.patience = Duration::from_secs(args.map_or(0, |args| args.patience));
    options.delta = args.map_or(Delta::default(), |args| args.delta);
    options.connections = args.map_or(Connections::default(), |args| args.connections);
    let mut until = until(args, selected, &options, operator)?;
    if let Some(args) = args.filter(|_| std::mem::take(&mut kexec)) {
        match super::begin::boot_installer(args, Some(&checked), &mut options, operator, stop)
            .await?
        {
            Outcome::Planned => return Ok(()),
            Outcome::NothingToDo(_) => {}
            // The new system is waited for where the installer is, unless another place is given.
            Outcome::Booted(_) => until = self::until(Some(args), selected, &options, operator)?,
        }
    }
    let destination = options.destination.clone();
    let agent = options.agent.hash;
    let at = match &until {
        Until::Verified(reboot) => reboot.at.to_string(),
        _ => destination.to_string(),
    };
    let to_verify = match &until {
        Until::Verified(reboot) if args.is_some_and(|args| args.verify) => Some(reboot.clone()),
        _ => None,
    };
    let request = InstallRequest {
        link: options,
        closure,
        source,
        on_target,
        layout,
        options: install_options(system, args, choices),
        phases: selected.plan,
        additions,
        until,
    };
    let done = install(request, operator, stop).await;
    drop(built);
    operator.screen().finish();
    let named = args.and_then(|args| args.report.as_deref());
    match done {
        Ok(installed) => {
            let report = InstallReport::of(&installed, destination.to_string(), &agent);
            let saved = report.and_then(|report| save(&report, &destination.host, named));
            tell(&installed, &destination, &at, saved.as_deref(), link.output.json, operator);
            if let (Some(at), Some(report)) = (to_verify, &installed.report) {
                super::verify::after_install(&at, report, link.output.json, operator, stop).await?;
            }
            Ok(())
        }
        Err(error) => {
            if let InstallError::Reboot { error, report } = &error {
                let problem = crate::chain(error.as_ref());
                let report =
                    InstallReport::unverified(report, problem, destination.to_string(), &agent);
                save(&report, &destination.host, named);
            }
            Err(error)
        }
    }
}

/// What was done before there is a system.
struct Begun {
    /// The machine, if it was called.
    options: Option<LinkOptions>,
    /// Whether the phase kexec is still to be run.
    kexec: bool,
}

/// The phase kexec, where it is all that is to be done, or its installer is to build the system or to
/// describe the hardware that the flake needs; and that description. Otherwise the machine is called
/// once it is sure that there is a system for it. `None` if that was all.
async fn begin(
    args: &InstallArgs,
    selected: Selected,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<Option<Begun>, InstallError> {
    let alone = !selected.plan.any() && !selected.reboot;
    let describes = !args.generate_hardware_config.is_empty();
    let builds = selected.kexec && args.system.nix.is_remote();
    if !describes && !alone && !builds {
        return Ok(Some(Begun { options: None, kexec: selected.kexec }));
    }
    let mut options = link_options(&args.link, operator)?;
    if selected.kexec
        && super::begin::boot_installer(args, None, &mut options, operator, stop).await?
            == Outcome::Planned
    {
        return Ok(None);
    }
    if describes {
        super::begin::describe_hardware(args, &mut options, operator, stop).await?;
    }
    Ok((!alone).then_some(Begun { options: Some(options), kexec: false }))
}

/// How far to go.
fn until(
    args: Option<&InstallArgs>,
    selected: Selected,
    options: &LinkOptions,
    operator: &mut CommandLine,
) -> Result<Until, InstallError> {
    Ok(match args {
        Some(args) if !args.agreement.dry_run => match selected.reboot {
            true => Until::Verified(reboot_options(args, options, operator)?),
            false => Until::Sealed,
        },
        _ => Until::Planned,
    })
}

/// The operator's choices, as the plan has them.
pub(super) fn install_options(
    system: &SystemArgs,
    args: Option<&InstallArgs>,
    choices: Choices,
) -> InstallOptions {
    InstallOptions {
        tpm2_pcrs: system.tpm2_pcrs.clone().map(|pcrs| pcrs.0),
        tpm2_pin: system.tpm2_pin || system.tpm2_pin_file.is_some(),
        mirror_esp: system.mirror_esp,
        disko_mode: system.disko_mode,
        extra_files: choices.extra_files,
        chown: choices.chown,
        host_keys: choices.host_keys,
        skip_seal: args.is_some_and(|args| args.skip_seal_for_tests),
        ..system.writing.options(&system.names)
    }
}

/// Where the installed system will answer: to root, and under the same name, unless others are given.
fn reboot_options(
    args: &InstallArgs,
    options: &LinkOptions,
    operator: &mut CommandLine,
) -> Result<RebootOptions, InstallError> {
    let given = args
        .installed_host
        .as_deref()
        .map(|given| given.rsplit_once('@').unwrap_or(("root", given)));
    let (user, host) = given.unwrap_or(("root", &options.destination.host));
    let address = Address {
        user: Some(user.to_owned()),
        host: host.to_owned(),
        port: args.installed_port.or(Some(options.destination.port)),
    };
    let (at, connect) = reach_at(&args.link, &address, &options.connect, operator)?;
    Ok(RebootOptions { at, connect, bound: Duration::from_secs(args.boot_timeout) })
}

/// Saves the report; where, for the closing words. A report that can't be saved is no failure of
/// the installation, but is said.
fn save(report: &InstallReport<'_>, host: &str, named: Option<&Path>) -> Option<String> {
    if named == Some(Path::new("-")) {
        let json = serde_json::to_string_pretty(report).ok()?;
        print(&format!("{json}\n"));
        return None;
    }
    let path = named.map(Path::to_owned).or_else(|| report.default_path(host))?;
    match report.save(&path) {
        Ok(()) => Some(path.display().to_string()),
        Err(error) => {
            tracing::warn!("the report can't be written to {}: {error}", path.display());
            None
        }
    }
}

fn tell(
    installed: &Installed,
    destination: &Destination,
    at: &str,
    saved: Option<&str>,
    json: bool,
    operator: &CommandLine,
) {
    if json {
        return;
    }
    let Some(report) = &installed.report else {
        let style = Style::of(&io::stdout());
        print(&plan_text(&destination.host, &installed.inventory, &installed.plan, style));
        return;
    };
    let style = Style::of(&io::stderr());
    let text = success_text(report, at, operator.warnings(), operator.kept(), saved, style);
    let _ = io::stderr().write_all(text.as_bytes());
}
