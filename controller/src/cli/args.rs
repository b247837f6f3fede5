//! Commands and options.
//!
//! | module | job |
//! |---|---|
//! | [`link`] | how to reach the machine, and what to show |
//! | [`system`] | what to install, and how |
//! | [`fetch`] | who fetches from a binary cache |
//! | [`agreement`] | what the operator agrees to, and the secrets of what is made |
//! | [`writing`] | which disks, and how they are written |
//! | [`nix`] | how Nix builds a system |
//! | [`additions`] | what the operator adds to it |
//! | [`phases`] | which parts of an installation are run |
//! | [`kexec`] | how a machine that runs another system gets into an installer |
//! | [`peer`] | options of nixos-anywhere that are taken otherwise, or refused |

pub mod additions;
pub mod agreement;
pub mod fetch;
pub mod kexec;
pub mod link;
pub mod nix;
pub mod peer;
pub mod phases;
pub mod system;
pub mod writing;

pub use link::LinkArgs;
pub use system::SystemArgs;

use super::bundle::BundleArgs;
use super::disks::{DiskoArgs, RescueArgs};
use super::help;
use super::layout::LayoutArgs;
use super::origin::OriginArgs;
use crate::conversation::Connections;
use crate::nar::Delta;
use agreement::{AgreementArgs, MadeSecretsArgs};
use clap::{ArgAction, Args, Parser, Subcommand};
use fetch::FetchArgs;
use kexec::KexecArgs;
use peer::PeerArgs;
use phases::PhaseArgs;
use std::path::PathBuf;

/// How an option with two values that may be repeated collects them: one after the other.
const PAIR: ArgAction = ArgAction::Append;

/// Installs NixOS systems over SSH: encrypted, verified, sealed.
#[derive(Debug, Parser)]
#[command(name = "keystone", version, after_long_help = help::all(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install a system on a machine
    #[command(after_long_help = help::with_codes(help::INSTALL))]
    Install(Box<InstallArgs>),
    /// Show what an installation would do, or without a system what would be done with the disks;
    /// writes nothing
    #[command(after_long_help = help::with_codes(help::PLAN))]
    Plan(Box<PlanArgs>),
    /// Show what a machine is: disks and what is on them, TPM, firmware
    #[command(after_long_help = help::with_codes(help::INVENTORY))]
    Inventory(Box<InventoryArgs>),
    /// Write the layout document of a flake's configuration to standard output
    #[command(after_long_help = help::with_codes(help::LAYOUT))]
    Layout(Box<LayoutArgs>),
    /// Copy a closure into a Nix store below a directory of a machine; installs nothing
    #[command(after_long_help = help::with_codes(help::COPY))]
    Copy(Box<CopyArgs>),
    /// Put a closure into one file, for installations without a store or a network
    #[command(after_long_help = help::with_codes(help::BUNDLE))]
    Bundle(Box<BundleArgs>),
    /// Destroy, format, mount or unmount a machine's disks, as disko does; installs nothing
    #[command(after_long_help = help::with_codes(help::DISKO))]
    Disko(Box<DiskoArgs>),
    /// Open and mount an installed system from any installer, get a shell in it, and close and
    /// seal it again. Ends as the shell did
    #[command(after_long_help = help::with_codes(help::RESCUE))]
    Rescue(Box<RescueArgs>),
    /// Check a machine that was installed, over SSH; changes nothing. Ends with 0 if all is well,
    /// 1 if a check failed, 2 if the machine could not be asked
    #[command(after_long_help = help::VERIFY)]
    Verify(Box<VerifyArgs>),
    /// Show the version
    #[command(after_long_help = help::VERSION)]
    Version {
        /// Write JSON to standard output: the version, and that of the protocol spoken
        #[arg(long)]
        json: bool,
    },
    /// Print what makes a shell complete keystone's commands and options
    #[command(after_long_help = help::COMPLETIONS)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command into a directory
    #[command(after_long_help = help::MANUAL)]
    Manual {
        /// An existing directory
        directory: PathBuf,
    },
}

/// `keystone install`
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// What it agrees to.
    #[command(flatten)]
    pub agreement: AgreementArgs,
    /// The secrets of what is made.
    #[command(flatten)]
    pub secrets: MadeSecretsArgs,
    /// Ask the new system at the end whether it is what was installed, as keystone verify
    #[arg(long, conflicts_with_all = ["no_reboot", "stop_after_disko", "dry_run"])]
    pub verify: bool,
    /// Where the new system answers, if not where the installer does, and to whom, if not to root
    #[arg(long, value_name = "[USER@]HOST")]
    pub installed_host: Option<String>,
    /// Its SSH port, if not the installer's
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub installed_port: Option<u16>,
    /// Give up waiting for the new system, and for the image of --kexec, after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub boot_timeout: u64,
    /// After a connection that breaks once the target is mounted, go on connecting for this many
    /// seconds; the machine waits as long, and closes what is open then (0: both do so at once)
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub patience: u64,
    /// Send no chunks of store paths that the machine holds already, in other versions of them
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub delta: Delta,
    /// Carry the closure over this many connections at once: a number, or auto, which takes more than one
    /// where one does not fill the line
    #[arg(long, value_name = "COUNT", default_value_t)]
    pub connections: Connections,
    /// Write the report to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Have the machine's own tool (which must be there) describe its hardware, and write that to
    /// PATH, before the flake is built
    #[arg(long, num_args = 2, value_names = ["TOOL", "PATH"])]
    pub generate_hardware_config: Vec<String>,
    /// Write what the machine is, as keystone inventory --json has it, to this file
    #[arg(long, value_name = "FILE")]
    pub hardware_report: Option<PathBuf>,
    /// Who fetches it.
    #[command(flatten)]
    pub fetch: FetchArgs,
    /// Build disko's test of the configuration in a virtual machine, and nothing else
    #[arg(long, requires = "flake", conflicts_with_all = ["generate_hardware_config",
          "extra_files", "disk_encryption_keys", "build_on_remote"])]
    pub vm_test: bool,
    /// Write what is needed to understand a failure to this file (tar.zst), without secrets
    #[arg(long, value_name = "FILE")]
    pub support_bundle: Option<PathBuf>,
    /// Leave the pool imported, to prove that booting then fails
    #[arg(long, hide = true)]
    pub skip_seal_for_tests: bool,
    // Options with headings of their own come last: those after them would be under them.
    /// The system.
    #[command(flatten)]
    pub system: SystemArgs,
    /// Which parts of it.
    #[command(flatten)]
    pub phases: PhaseArgs,
    /// An installer by kexec.
    #[command(flatten)]
    pub kexec: KexecArgs,
    /// As nixos-anywhere has them.
    #[command(flatten)]
    pub peer: PeerArgs,
}

/// `keystone plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Plan for the machine that this file describes, which keystone inventory --json wrote (- for
    /// standard input); none is contacted
    #[arg(long, value_name = "MACHINE.json", conflicts_with_all = ["destination", "target_host"])]
    pub inventory: Option<PathBuf>,
    /// The system.
    #[command(flatten)]
    pub system: SystemArgs,
}

/// `keystone copy`
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// What to copy, with all it refers to.
    #[command(flatten)]
    pub origin: OriginArgs,
    /// Who fetches it.
    #[command(flatten)]
    pub fetch: FetchArgs,
    /// Write it below this directory of the machine, as Nix's local?root=DIR
    #[arg(long, value_name = "DIR", default_value = "/mnt")]
    pub root: String,
    /// After a broken connection, go on connecting for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub patience: u64,
    /// Send no chunks of store paths that the machine holds already, in other versions of them
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub delta: Delta,
    /// Carry the closure over this many connections at once: a number, or auto, which takes more than one
    /// where one does not fill the line
    #[arg(long, value_name = "COUNT", default_value_t)]
    pub connections: Connections,
}

/// `keystone verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Compare with the report that keystone install wrote
    #[arg(long, value_name = "REPORT.json")]
    pub expect: Option<PathBuf>,
    /// Its host name, if not the one in its own /etc/hostname
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
}

/// `keystone inventory`
#[derive(Debug, Args)]
pub struct InventoryArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(args)
    }

    const INSTALL: &[&str] =
        &["keystone", "install", "root@nas", "--store-path", "x", "--layout", "y"];

    pub(super) fn install(more: &[&str]) -> Result<InstallArgs, clap::Error> {
        let args: Vec<&str> = INSTALL.iter().chain(more).copied().collect();
        match parse(&args)?.command {
            Command::Install(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn yes_says_what_to() {
        assert!(install(&["--yes"]).is_err());
        assert!(install(&["--plan-hash", "x"]).is_err());
        assert!(install(&["--yes", "--plan-hash", "x", "--disk-id", "y"]).is_err());
        assert!(install(&["--yes", "--plan-hash", "x"]).unwrap().agreement.yes);
        let args = install(&["--yes", "--disk-id", "a", "--disk-id", "b"]).unwrap();
        assert_eq!(args.agreement.disk_ids, ["a", "b"]);
        assert!(install(&["--end-system", "web1"]).is_err());
        let args = install(&["--yes", "--end-system", "web1", "--disk-id", "a"]).unwrap();
        assert_eq!(args.kexec.end_system.as_deref(), Some("web1"));
        assert!(install(&["--yes", "--end-system", "web1"]).is_ok());
    }

    #[test]
    fn values() {
        let args =
            install(&["--tpm2-pcrs", "7+0", "--disk", "root=virtio-1", "-p", "2222"]).unwrap();
        assert_eq!(args.system.tpm2_pcrs, Some(system::Pcrs(vec![0, 7])));
        assert_eq!(args.system.names.disks, [("root".to_owned(), "virtio-1".to_owned())]);
        assert_eq!(args.link.port, Some(2222));
        assert_eq!(
            install(&["--tpm2-pcrs", "none"]).unwrap().system.tpm2_pcrs,
            Some(system::Pcrs(vec![]))
        );
        for bad in [&["--tpm2-pcrs", "24"], &["--disk", "root"], &["-p", "0"], &["--host-key", "x"]]
        {
            assert!(install(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_command_has_examples() {
        let command = Cli::command();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let help = command.get_after_long_help().map(ToString::to_string);
            assert!(help.is_some_and(|help| help.contains("keystone ")), "{}", command.get_name());
        }
    }

    #[test]
    fn help_is_as_it_was() {
        let mut command = Cli::command().term_width(100);
        let install = command.find_subcommand_mut("install").unwrap();
        insta::assert_snapshot!(install.render_long_help().to_string());
    }
}
