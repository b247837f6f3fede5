//! The system to install and what is added to it, from the options.

use super::args::SystemArgs;
use super::args::additions::AdditionArgs;
use super::run::stoppable;
use crate::additions::{Archive, HostKeyFile, keys};
use crate::closure::{Closure, ClosureError, ClosureSource};
use crate::flake::{self, BuiltThere, Flake, NixOptions};
use crate::install::{Additions, InstallError, LinkOptions, PreflightError};
use crate::operator::{Notice, Operator};
use crate::stop::Stop;
use crate::ui::CommandLine;
use keystone_protocol::layout::Layout;
use keystone_protocol::options::{Chown, ExtraFiles, HostKeys};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The system to install.
pub(super) struct Found {
    /// Its closure.
    pub(super) closure: Closure,
    /// Where its contents come from.
    pub(super) source: Arc<dyn ClosureSource>,
    /// Its layout, JSON.
    pub(super) layout: String,
    /// What the source reads, where the system was built on the machine: to be kept as long.
    pub(super) built: Option<BuiltThere>,
}

/// What the plan has to know of what is added.
#[derive(Default)]
pub(super) struct Choices {
    pub(super) extra_files: Option<ExtraFiles>,
    pub(super) chown: Vec<Chown>,
    pub(super) host_keys: HostKeys,
}

/// Finds the system, building it if it is a flake's: here, or on the machine that `link` leads to.
pub(super) async fn find(
    system: &SystemArgs,
    debug: bool,
    link: Option<&mut LinkOptions>,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<Found, InstallError> {
    super::build::check(&system.nix, system.flake.as_ref(), link.is_some())?;
    if let (None, None, [script, _]) =
        (&system.layout, &system.flake, system.store_paths.as_slice())
    {
        return Err(InstallError::Usage(format!(
            "--store-paths {}: disko's script is not run, since it asks nobody and checks nothing; \
             give the layout that it was made from with --layout LAYOUT.json (keystone layout \
             --flake URI#NAME writes it)",
            script.display()
        )));
    }
    let options = system.nix.options(debug);
    let layout =
        layout_of(system.layout.as_deref(), system.flake.as_ref(), &options, operator, stop)
            .await?;
    let mut origin = system.origin.clone();
    let mut built = None;
    match (&system.flake, system.store_paths.as_slice()) {
        (Some(flake), _) => {
            if let Some(link) = link.filter(|_| system.nix.is_remote()) {
                let there = super::build::there(flake, link, &options, operator, stop).await?;
                origin.place.from = Some(there.address());
                origin.store_path = Some(there.toplevel.clone());
                built = Some(there);
            } else {
                let here = super::build::here(flake, &options, operator, stop).await?;
                origin.store_path = Some(here);
            }
        }
        (None, [script, toplevel]) => {
            let remark = format!("{} is not run: the layout decides", script.display());
            operator.notice(Notice::Remark(&remark));
            origin.store_path = Some(toplevel.clone());
        }
        _ if origin.store_path.is_some() || origin.place.from.is_some() => {}
        _ => {
            return Err(InstallError::Usage(
                "which system? Give --flake URI#NAME, --store-path TOPLEVEL or --from".to_owned(),
            ));
        }
    }
    let (closure, source) = stoppable(stop, move || {
        origin.system().map_err(|error| InstallError::Preflight(error.into()))
    })
    .await?;
    Ok(Found { closure, source, layout, built })
}

/// The layout document, read from a file, or evaluated: then what is wrong with it is known before
/// anything is built or any machine called.
pub(super) async fn layout_of(
    file: Option<&Path>,
    flake: Option<&Flake>,
    options: &NixOptions,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<String, InstallError> {
    match (file, flake) {
        (Some(path), _) => read_document(path, stop).await,
        (None, Some(flake)) => {
            let layout = flake::layout(flake, options, operator, stop).await?;
            Layout::parse(&layout)
                .map_err(|error| InstallError::Preflight(PreflightError::from(error)))?;
            Ok(layout)
        }
        (None, None) => Err(InstallError::Usage("there is no layout: give --layout".to_owned())),
    }
}

/// The text of a document; `-` is standard input.
pub(super) async fn read_document(path: &Path, stop: &Stop) -> Result<String, InstallError> {
    let path = path.to_owned();
    stoppable(stop, move || {
        let read = match path == Path::new("-") {
            true => io::read_to_string(io::stdin().lock()),
            false => std::fs::read_to_string(&path),
        };
        read.map_err(|source| InstallError::Preflight(ClosureError::Read { path, source }.into()))
    })
    .await
}

/// What is added to the system: read, checked against the layout, and as the plan has it.
pub(super) async fn additions(
    system: &SystemArgs,
    layout: &Layout,
    stop: &Stop,
) -> Result<(Additions, Choices), InstallError> {
    let (args, layout) = (system.additions.clone(), layout.clone());
    stoppable(stop, move || read_additions(&args, &layout)).await
}

fn read_additions(
    args: &AdditionArgs,
    layout: &Layout,
) -> Result<(Additions, Choices), InstallError> {
    let chown = args.owners().map_err(InstallError::Usage)?;
    let archive = args.extra_files.as_deref().map(Archive::new).transpose()?.map(Arc::new);
    let disk_keys = keys::disk_keys(layout, &args.disk_keys())?;
    let given = HostKeyFile::read_all(&args.host_key_files)?;
    let host_keys = match (args.copy_host_keys, given.as_slice()) {
        (true, _) => HostKeys::Installer,
        (false, []) => HostKeys::Made,
        (false, given) => {
            HostKeys::Given { public: given.iter().map(|key| key.public.clone()).collect() }
        }
    };
    let extra_files = archive.as_ref().map(|archive| archive.facts().clone());
    let host_pems = given.into_iter().map(|key| key.pem).collect();
    let additions = Additions { archive, disk_keys, host_keys: host_pems };
    Ok((additions, Choices { extra_files, chown, host_keys }))
}
