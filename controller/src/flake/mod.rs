//! A system and its layout from a flake: built and evaluated by the operator's own `nix`.
//!
//! | module | job |
//! |---|---|
//! | [`reference`] | `URI#ATTR` |
//! | [`command`] | runs `nix`, shows what it does, keeps what it says |
//! | [`progress`] | what `nix` says in its own JSON log |
//! | [`builder`] | the machine as the place where it is built |
//! | [`relay`] | `nix`'s way to the machine, over our own connection |
//!
//! Only `nix build`, `nix eval` and `nix copy` are used, with options that exist since Nix 2.4. Lock
//! files are not written.

pub mod builder;
pub mod command;
pub mod progress;
pub mod reference;
pub mod relay;

pub use builder::{Builder, BuiltThere, NoBuilder};
pub use command::{NixError, NixOptions};
pub use reference::Flake;

use crate::operator::Operator;
use crate::stop::Stop;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What takes a configuration's `disko.devices` to a layout document.
const LAYOUT: &str = include_str!("../../../nix/layout.nix");

/// Builds the system (`config.system.build.toplevel`) and returns its store path.
///
/// # Errors
/// [`NixError`].
pub async fn toplevel(
    flake: &Flake,
    options: &NixOptions,
    operator: &mut impl Operator,
    stop: &Stop,
) -> Result<PathBuf, NixError> {
    build(flake, "system.build.toplevel", options, operator, stop).await
}

/// Builds disko's test of the configuration in a virtual machine, which runs it.
///
/// # Errors
/// [`NixError`]; a test that fails is a build that fails.
pub async fn vm_test(
    flake: &Flake,
    options: &NixOptions,
    operator: &mut impl Operator,
    stop: &Stop,
) -> Result<PathBuf, NixError> {
    build(flake, "system.build.installTest", options, operator, stop).await
}

/// The layout document of a configuration, JSON.
///
/// # Errors
/// [`NixError`].
pub async fn layout(
    flake: &Flake,
    options: &NixOptions,
    operator: &mut impl Operator,
    stop: &Stop,
) -> Result<String, NixError> {
    let what = flake.installable("disko.devices");
    let doing = format!("evaluating the layout of {flake}");
    let args = ["eval", "--json", "--apply", LAYOUT, &what];
    command::nix(&doing, &args, options, operator, stop).await
}

#[derive(Deserialize)]
struct Built {
    outputs: BTreeMap<String, PathBuf>,
}

async fn build(
    flake: &Flake,
    attribute: &str,
    options: &NixOptions,
    operator: &mut impl Operator,
    stop: &Stop,
) -> Result<PathBuf, NixError> {
    let what = flake.installable(attribute);
    let doing = format!("building {what}");
    let args = ["build", "--no-link", "--json", &what];
    let said = command::nix(&doing, &args, options, operator, stop).await?;
    out(&doing, &said)
}

/// The store path in what `nix build --json` said.
fn out(doing: &str, said: &str) -> Result<PathBuf, NixError> {
    let unexpected = || NixError::Unexpected { doing: doing.to_owned(), said: said.to_owned() };
    let built: Vec<Built> = serde_json::from_str(said).map_err(|_| unexpected())?;
    let out = built.into_iter().next().and_then(|mut built| built.outputs.remove("out"));
    out.ok_or_else(unexpected)
}
