//! Commands and options.
//!
//! | module | job |
//! |---|---|
//! | [`nix`] | how Nix builds a system |
//! | [`additions`] | what the operator adds to it |
//! | [`phases`] | which parts of an installation are run |
//! | [`peer`] | options of nixos-anywhere that are taken otherwise, or refused |

pub mod additions;
pub mod nix;
pub mod peer;
pub mod phases;

use super::bundle::BundleArgs;
use super::disks::{DiskoArgs, RescueArgs};
use super::origin::OriginArgs;
use additions::AdditionArgs;
use nix::NixArgs;
use peer::PeerArgs;
use phases::PhaseArgs;

use crate::flake::Flake;
use crate::install::Kind;
use crate::secrets::SecretSource;
use crate::ssh::{Address, Pin};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::options::Unlock;
use std::fmt::Write;
use std::path::PathBuf;

/// How an option with two values that may be repeated collects them: one after the other.
const PAIR: ArgAction = ArgAction::Append;

const EXAMPLES: &str = "\
Examples:
  Look at a machine that was booted from an installer ISO:
    keystone inventory root@10.0.0.5

  See what would be done; nothing is written:
    keystone plan root@10.0.0.5 --store-path ./result --layout layout.json

  Install a configuration of a flake, asking for everything:
    keystone install --flake .#nas root@10.0.0.5

  Install a system that was built before:
    keystone install root@10.0.0.5 --store-path ./result --layout layout.json

  Install from a binary cache, or from one file that has everything:
    keystone install root@10.0.0.5 --from https://cache.example.org --store-path /nix/store/… \\
      --require-signatures cache.example.org-1:… --layout layout.json
    keystone bundle ./result -o nas.ksb
    keystone install root@10.0.0.5 --from nas.ksb --layout layout.json

  Install unattended, agreeing to the plan that was looked at:
    keystone install root@10.0.0.5 --store-path ./result --layout layout.json \\
      --host-key SHA256:… --yes --plan-hash … --recovery-key-file nas.key --json

The store path is config.system.build.toplevel; the layout is disko.devices as JSON, which
nix/layout.nix extracts. With --flake both are built and evaluated.";

/// Installs NixOS systems over SSH: encrypted, verified, sealed.
#[derive(Debug, Parser)]
#[command(name = "keystone", version, after_long_help = after_help(), max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Install a system on a machine
    #[command(after_long_help = after_help())]
    Install(Box<InstallArgs>),
    /// Show what an installation would do; writes nothing
    #[command(after_long_help = after_help())]
    Plan(Box<PlanArgs>),
    /// Show what a machine is: disks and what is on them, TPM, firmware
    #[command(after_long_help = after_help())]
    Inventory(Box<InventoryArgs>),
    /// Copy a closure into a Nix store below a directory of a machine; installs nothing
    #[command(after_long_help = "Example:\n  keystone copy root@10.0.0.5 --store-path ./result \
        --root /mnt")]
    Copy(Box<CopyArgs>),
    /// Put a closure into one file, for installations without a store or a network
    Bundle(Box<BundleArgs>),
    /// Destroy, format, mount or unmount a machine's disks, as disko does; installs nothing
    Disko(Box<DiskoArgs>),
    /// Open and mount an installed system from any installer, get a shell in it, and close and
    /// seal it again. Ends as the shell did
    Rescue(Box<RescueArgs>),
    /// Check a machine that was installed, over SSH; changes nothing. Ends with 0 if all is well,
    /// 1 if a check failed, 2 if the machine could not be asked
    #[command(after_long_help = "Examples:\n  keystone verify root@10.0.0.5\n  keystone verify \
        root@10.0.0.5 --expect report.json --json")]
    Verify(Box<VerifyArgs>),
    /// Show the version
    #[command(after_long_help = "Example:\n  keystone version")]
    Version,
    /// Print what makes a shell complete keystone's commands and options
    #[command(after_long_help = "Example:\n  keystone completions bash > /etc/bash_completion.d/keystone")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write a manual page for each command into a directory
    #[command(after_long_help = "Example:\n  keystone manual /usr/local/share/man/man1")]
    Manual {
        /// An existing directory
        directory: PathBuf,
    },
}

/// How to reach the machine and what to show.
#[derive(Debug, Clone, Args)]
pub struct LinkArgs {
    /// The machine: [USER@]HOST, an IPv6 address in brackets, or a Host of ~/.ssh/config; who is
    /// not root there needs sudo or doas
    #[arg(value_name = "root@HOST")]
    pub destination: Option<Address>,
    /// The same as root@HOST
    #[arg(long, value_name = "root@HOST", conflicts_with = "destination")]
    pub target_host: Option<Address>,
    /// TCP port of its SSH server
    #[arg(short, long, visible_alias = "ssh-port", value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Its host key: SHA256:… as ssh-keygen -l prints it, or the public key itself
    #[arg(long, value_name = "FINGERPRINT")]
    pub host_key: Option<Pin>,
    /// Look for its host key in this file instead of ~/.ssh/known_hosts; may be repeated
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Vec<PathBuf>,
    /// Log in with this private key; may be repeated. Else ~/.ssh/id_* and the ssh-agent
    #[arg(short, long = "identity", value_name = "KEY")]
    pub identities: Vec<PathBuf>,
    /// Read this file instead of ~/.ssh/config and /etc/ssh/ssh_config; none for none
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// Set an option of ssh_config(5), before the files; may be repeated
    #[arg(long = "ssh-option", value_name = "KEY=VALUE")]
    pub ssh_options: Vec<String>,
    /// Log in with the password in this file or pipe (- for standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "env_password")]
    pub ssh_password_file: Option<SecretSource>,
    /// Log in with the password in the environment's variable SSHPASS
    #[arg(long)]
    pub env_password: bool,
    /// Give sudo or doas the password in this file or pipe; else the one that logged in is tried
    #[arg(long, value_name = "FILE")]
    pub sudo_password_file: Option<SecretSource>,
    /// Give up connecting after this many seconds [default: ConnectTimeout, or 20]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub connect_timeout: Option<u64>,
    /// The agent to bring to the machine, instead of the one installed with keystone
    #[arg(long, value_name = "PATH", env = "KEYSTONE_AGENT", hide_env_values = true)]
    pub agent: Option<PathBuf>,
    /// Read defaults of options for this host from this file instead of ./keystone.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write JSON to standard output: a line for each event (inventory: one document)
    #[arg(long)]
    pub json: bool,
    /// Show the agent's log and what programs print; twice for more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to install, and how.
#[derive(Debug, Args)]
pub struct SystemArgs {
    /// Where it comes from.
    #[command(flatten)]
    pub origin: OriginArgs,
    /// The system: a configuration of a flake, which nix builds
    #[arg(short, long, value_name = "URI#NAME", value_parser = nix::flake,
          conflicts_with_all = ["store_path", "store_paths", "from"])]
    pub flake: Option<Flake>,
    /// The system, the second of the two; the first, disko's script, is not run: give --layout
    #[arg(short = 's', long, num_args = 2, value_names = ["SCRIPT", "TOPLEVEL"],
          conflicts_with = "store_path")]
    pub store_paths: Vec<PathBuf>,
    /// The layout of its disks: disko.devices as JSON (- for standard input); a flake has its own
    #[arg(long, value_name = "LAYOUT.json", required_unless_present_any = ["flake", "store_paths"])]
    pub layout: Option<PathBuf>,
    /// What opens encrypted containers at boot; auto takes the TPM if it can be trusted to
    #[arg(long, value_enum, default_value_t = UnlockArg::Auto)]
    pub unlock: UnlockArg,
    /// PCRs to bind the TPM to: 7, 0+7, or none
    #[arg(long, value_name = "PCRS", value_parser = pcrs)]
    pub tpm2_pcrs: Option<Pcrs>,
    /// Ask for a PIN besides the TPM
    #[arg(long)]
    pub tpm2_pin: bool,
    /// Read that PIN from a file or pipe (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub tpm2_pin_file: Option<SecretSource>,
    /// Which disk the layout's disk NAME is: a name in /dev/disk/by-id or a serial number; or
    /// serial:…, wwn:…, model:…, by-id:…, path:…, size:largest, size:smallest, if that is one disk
    #[arg(long = "disk", value_name = "NAME=ID", value_parser = named_disk)]
    pub disks: Vec<(String, String)>,
    /// Agree that what is on the disks now is destroyed; blank disks don't need it
    #[arg(long)]
    pub erase: bool,
    /// Put an ESP of the same size first on every other member of the root pool's mirror, and copy
    /// the first one to it; a deviation from disko
    #[arg(long)]
    pub mirror_esp: bool,
    /// Tell disks that are wiped to forget everything (discard, TRIM), where they can
    #[arg(long)]
    pub discard: bool,
    /// What to do with the disks first: disko (destroy, format, mount), mount (install into what
    /// is there), or format,mount (make what is missing)
    #[arg(long, value_name = "MODE", default_value_t = DiskoMode::Disko)]
    pub disko_mode: DiskoMode,
    /// How it is built.
    #[command(flatten)]
    pub nix: NixArgs,
    /// What is added to it.
    #[command(flatten)]
    pub additions: AdditionArgs,
}

/// `keystone install`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what-is-agreed-to").args(["plan_hash", "disk_ids"]))]
pub struct InstallArgs {
    /// The machine.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Read the boot password from a file or pipe (- for standard input)
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<SecretSource>,
    /// Write recovery keys to this new file, instead of showing them
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: Option<PathBuf>,
    /// Agree without being asked, together with --plan-hash or --disk-id
    #[arg(long, requires = "what-is-agreed-to")]
    pub yes: bool,
    /// Agree to the plan with this hash, as keystone plan prints it
    #[arg(long, value_name = "HASH", requires = "yes")]
    pub plan_hash: Option<String>,
    /// Agree to writing this disk, by its stable name; all disks of the plan have to be named
    #[arg(long = "disk-id", value_name = "ID", requires = "yes")]
    pub disk_ids: Vec<String>,
    /// Only show what would be done, as keystone plan
    #[arg(long)]
    pub dry_run: bool,
    /// Ask the new system at the end whether it is what was installed, as keystone verify
    #[arg(long, conflicts_with_all = ["no_reboot", "stop_after_disko", "dry_run"])]
    pub verify: bool,
    /// Where the new system answers, if not at HOST
    #[arg(long, value_name = "HOST")]
    pub installed_host: Option<String>,
    /// Its SSH port, if not the one given with -p
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub installed_port: Option<u16>,
    /// Give up waiting for the new system after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub boot_timeout: u64,
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
    /// Write it below this directory of the machine, as Nix's local?root=DIR
    #[arg(long, value_name = "DIR", default_value = "/mnt")]
    pub root: String,
    /// After a broken connection, go on connecting for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub patience: u64,
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

/// `--unlock`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnlockArg {
    /// The TPM if it can be trusted to open at the next boot, else a password
    Auto,
    /// The TPM
    Tpm2,
    /// A password typed at boot
    Password,
}

impl From<UnlockArg> for Unlock {
    fn from(arg: UnlockArg) -> Self {
        match arg {
            UnlockArg::Auto => Unlock::Auto,
            UnlockArg::Tpm2 => Unlock::Tpm2,
            UnlockArg::Password => Unlock::Password,
        }
    }
}

/// `--tpm2-pcrs`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcrs(pub Vec<u8>);

fn pcrs(text: &str) -> Result<Pcrs, String> {
    if text == "none" || text.is_empty() {
        return Ok(Pcrs(Vec::new()));
    }
    let mut list = Vec::new();
    for part in text.split(['+', ',']) {
        match part.trim().parse::<u8>() {
            Ok(pcr) if pcr < 24 => list.push(pcr),
            _ => return Err(format!("'{part}' is not a PCR: 0 to 23, joined by +, or none")),
        }
    }
    list.sort_unstable();
    list.dedup();
    Ok(Pcrs(list))
}

pub(super) fn named_disk(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, id)) if !name.is_empty() && !id.is_empty() => Ok((name.into(), id.into())),
        _ => Err("expected NAME=ID, as root=/dev/disk/by-id/nvme-…".into()),
    }
}

fn after_help() -> String {
    let mut text = format!("{EXAMPLES}\n\nExit codes:\n    0  done\n");
    for kind in Kind::ALL {
        let _ = writeln!(text, "  {:>3}  {}", kind.code(), kind.meaning());
    }
    text
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
        assert!(install(&["--yes", "--plan-hash", "x"]).unwrap().yes);
        let args = install(&["--yes", "--disk-id", "a", "--disk-id", "b"]).unwrap();
        assert_eq!(args.disk_ids, ["a", "b"]);
    }

    #[test]
    fn values() {
        let args =
            install(&["--tpm2-pcrs", "7+0", "--disk", "root=virtio-1", "-p", "2222"]).unwrap();
        assert_eq!(args.system.tpm2_pcrs, Some(Pcrs(vec![0, 7])));
        assert_eq!(args.system.disks, [("root".to_owned(), "virtio-1".to_owned())]);
        assert_eq!(args.link.port, Some(2222));
        assert_eq!(install(&["--tpm2-pcrs", "none"]).unwrap().system.tpm2_pcrs, Some(Pcrs(vec![])));
        for bad in [&["--tpm2-pcrs", "24"], &["--disk", "root"], &["-p", "0"], &["--host-key", "x"]]
        {
            assert!(install(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn help_is_as_it_was() {
        let mut command = Cli::command().term_width(100);
        let install = command.find_subcommand_mut("install").unwrap();
        insta::assert_snapshot!(install.render_long_help().to_string());
    }
}
