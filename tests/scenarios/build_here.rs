//! One command from a flake, which is built on the operator's computer by its own Nix, to the installed system.
//!
//! The store here has an earlier generation, so all that is left to build is the system. What has to come of it
//! is known: the path that the lab's own Nix built, with the same contents.

use super::build_on_remote::{built, flake};
use super::installed::check_store;
use super::steps;
use crate::keystone::{run as run_command, with_store};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::runner::{Context, Live};
use anyhow::{Result, ensure};
use std::fs;

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let system = cx.system()?;
    let toplevel = &system.toplevels.next;
    let medium = cx.medium()?;
    let files = steps::Files::new()?;
    for name in ["root", "home", "flake"] {
        fs::create_dir(files.path(name))?;
    }
    flake(system, &cx.layout("single-disk-root.json"), &files.path("flake"))?;
    timed("an earlier generation into the operator's store", || {
        system.copy_to(&files.path("root"), &system.toplevels.reference)
    })?;
    let store = files.path("root/nix");
    let built_path = store.join(toplevel.trim_start_matches("/nix/"));
    ensure!(!built_path.exists(), "the system is there already: {}", built_path.display());

    let hardware = Hardware::new("build-here").disk(Disk::blank("target", 24)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let mut command = cx.keystone()?.on("install", &ssh, &medium.key);
    command.arg("--flake").arg(format!("{}#keystone-ref", files.path("flake").display()));
    command.args(["-L", "--yes", "--disk-id", "virtio-target", "--json"]).args(files.outputs());
    command.env("HOME", files.path("home")).env("NIX_REMOTE", "");
    command.env("NIX_CONFIG", "build-users-group =\nsandbox = false\nsubstitute = false\n");
    let ended =
        timed("build, install, reboot", || run_command(with_store(&command, &store))?.ok())?;

    let built = built(&ended.stdout);
    ensure!(built.len() == 1, "not one thing was built, but {built:?}:\n{}", ended.stdout);
    ensure!(built_path.exists(), "{} was not built here", built_path.display());
    let ssh = steps::rebooted(&running, &medium, toplevel, &files)?;
    check_store(&ssh, system, toplevel)?;
    running.kill()
}
