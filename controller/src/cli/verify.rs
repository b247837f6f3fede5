//! `keystone verify`.

use super::args::VerifyArgs;
use super::link::reach;
use super::run::print;
use crate::closure::ClosureError;
use crate::install::{InstallError, connect};
use crate::stop::Stop;
use crate::ui::CommandLine;
use crate::ui::style::Style;
use crate::verify::{Expected, show, verify as ask};
use keystone_protocol::report::Report;
use std::io;
use std::path::Path;

/// Exit code where the machine could not be asked.
pub(super) const NOT_ASKED: u8 = 2;

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
    let asked = async {
        let session = connect(&destination, &options, operator).await?;
        let verified = ask(&session, &expected).await;
        session.disconnect().await;
        Ok::<_, InstallError>(verified?)
    };
    let verified = tokio::select! {
        verified = asked => verified?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    operator.screen().finish();
    match args.link.json {
        true => print(&format!("{:#}\n", show::json(&verified))),
        false => print(&show::text(&verified, Style::of(&io::stdout()))),
    }
    Ok(verified.exit_code())
}

/// The report of an installation. What the controller added to it is left out.
fn report(path: &Path) -> Result<Report, InstallError> {
    let failed = |source| {
        InstallError::Preflight(ClosureError::Read { path: path.to_owned(), source }.into())
    };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(io::Error::other(error)))
}
