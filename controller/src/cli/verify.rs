//! `keystone verify`.

use super::args::VerifyArgs;
use super::link::reach;
use super::output::print;
use crate::closure::ClosureError;
use crate::install::{InstallError, connect};
use crate::reboot::{RebootError, RebootOptions};
use crate::ssh::{ConnectOptions, Destination, HostKeyPolicy, PublicKey};
use crate::stop::Stop;
use crate::ui::CommandLine;
use crate::ui::json::Json;
use crate::ui::style::Style;
use crate::verify::{Expected, Outcome, Verified, show, verify as ask};
use keystone_protocol::report::Report;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Exit code where the machine could not be asked.
pub(super) const NOT_ASKED: u8 = 2;

/// Bound of connecting to a system that was just seen.
const CONNECT: Duration = Duration::from_secs(30);

/// Asks, shows, and returns the exit code.
pub(super) async fn verify(
    args: &VerifyArgs,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<u8, InstallError> {
    let expected = Expected {
        report: args.expect.as_deref().map(report).transpose()?,
        hostname: args.hostname.clone(),
    };
    let (destination, options) = reach(&args.link, operator)?;
    let verified = tokio::select! {
        verified = ask_at(&destination, &options, &expected, operator) => verified?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    operator.screen().finish();
    match args.link.output.json {
        true => print(&format!("{:#}\n", show::json(&verified))),
        false => print(&show::text(&verified, Style::of(&io::stdout()))),
    }
    Ok(verified.exit_code())
}

/// Connects, and asks.
async fn ask_at(
    destination: &Destination,
    options: &ConnectOptions,
    expected: &Expected,
    operator: &mut CommandLine,
) -> Result<Verified, InstallError> {
    let session = connect(destination, options, operator).await?;
    let verified = ask(&session, expected).await;
    session.disconnect().await;
    Ok(verified?)
}

/// Asks the system that was just installed, and seen running at `at`, whether it is what `report`
/// says.
///
/// # Errors
/// It could not be asked, or a check failed.
pub(super) async fn after_install(
    at: &RebootOptions,
    report: &Report,
    json: bool,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let key = report.ssh_host_key.as_deref().and_then(|key| PublicKey::from_openssh(key).ok());
    let key = key.ok_or(RebootError::NoHostKey);
    let key = key.map_err(|error| InstallError::Checks(crate::chain(&error)))?;
    let options = ConnectOptions {
        host_key: HostKeyPolicy::exactly(&key),
        timeout: CONNECT,
        ..at.connect.clone()
    };
    let expected = Expected { report: Some(report.clone()), hostname: None };
    let verified = tokio::select! {
        verified = ask_at(&at.at, &options, &expected, operator) => verified.map_err(|error| {
            InstallError::Checks(format!("was not asked: {}", crate::chain(&error)))
        })?,
        () = stop.asked(1) => {
            return Err(InstallError::Checks("was not asked: stopped by the operator".to_owned()));
        }
    };
    operator.screen().finish();
    match json {
        true => Json::new(io::stdout()).line(&serde_json::json!({
            "event": "checks", "verified": show::json(&verified),
        })),
        false => print(&show::text(&verified, Style::of(&io::stdout()))),
    }
    match verified.is_good() {
        true => Ok(()),
        false => {
            let failed =
                verified.checks.iter().filter(|c| c.outcome == Outcome::Fail && c.required);
            let failed: Vec<&str> = failed.map(|check| check.check).collect();
            Err(InstallError::Checks(format!("failed these checks: {}", failed.join(", "))))
        }
    }
}

/// The report of an installation. What the controller added to it is left out.
fn report(path: &Path) -> Result<Report, InstallError> {
    let failed = |source| {
        InstallError::Preflight(ClosureError::Read { path: path.to_owned(), source }.into())
    };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(io::Error::other(error)))
}
