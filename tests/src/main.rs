//! `cargo lab`: see [`keystone_lab`].

use std::ffi::OsString;

use anyhow::Result;
use clap::{Parser, Subcommand};
use keystone_lab::{
    bench, debian, demo,
    installer::{self, Variant},
    keystone::Keystone,
    lab::Lab,
    native, runner, scenarios, setup, shell, system,
};

/// Keystone's lab: real machines for the installer's tests
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From nothing: install the reference system on a blank machine, reboot it, show what was proved
    Demo,
    /// Build `keystone` and its agent into target/dist, to use on real machines
    Build,
    /// Do all set-up, run unit, property and machine tests, and count them
    Test {
        /// Run every scenario, not only the gate's
        #[arg(long)]
        all: bool,
        /// Run only the scenarios whose name contains this, and no unit tests
        filter: Option<String>,
    },
    /// Measure against what others use
    Bench {
        /// What
        #[command(subcommand)]
        what: Bench,
    },
    /// Name the scenarios
    List,
    /// Install the Debian packages that the lab needs
    Setup,
    /// Boot the live system on a blank machine and give a shell in it
    Shell {
        /// The live system that has the tools
        #[arg(long)]
        oracle: bool,
        /// Run this instead
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build the installer's boot medium
    Medium {
        /// The one that has the tools
        #[arg(long)]
        oracle: bool,
        /// The one that is no installer
        #[arg(long, conflicts_with = "oracle")]
        debian: bool,
    },
    /// Build the installer as a kexec image
    KexecImage,
    /// Build the machines' kernel, with OpenZFS
    Kernel,
    /// Build a Debian root with these packages, to look at
    Root {
        /// Names of Debian packages
        packages: Vec<String>,
    },
    /// Build the reference system and its variants
    System,
    /// Build the static C libraries that the agent links
    Native,
    /// Build the release agent and check that it is static and small enough
    Agent,
    /// Run a cargo command on the agent's crate with those libraries
    AgentCargo {
        /// Such as `test luks::` or `clippy --all-targets`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The closure transfer: nix copy, tar, rsync, a binary cache, and ours
    Closure(bench::Options),
}

fn main() -> Result<()> {
    let Cli { command } = Cli::parse();
    let variant = |oracle| if oracle { Variant::Oracle } else { Variant::Installer };
    let native = || native::ensure(&native::default_cache());
    match command {
        Command::Test { all, filter } => runner::test(scenarios::ALL, all, filter.as_deref())?,
        Command::Bench { what: Bench::Closure(options) } => bench::closure(&options)?,
        Command::Demo => demo::run(&runner::context()?)?,
        Command::Build => println!("{}", Keystone::dist(&native()?)?.display()),
        Command::List => {
            for scenario in scenarios::ALL {
                let gate = if scenario.gate { "gate" } else { "all " };
                println!("{gate}  {}: {}", scenario.name, scenario.about);
            }
        }
        Command::Setup => setup::ensure_all()?,
        Command::Shell { oracle, command } => {
            setup::ensure_all()?;
            shell::shell(&Lab::open()?, variant(oracle), &command)?;
        }
        Command::Medium { oracle, debian } => {
            setup::ensure_all()?;
            let variant = if debian { Variant::Debian } else { variant(oracle) };
            println!("{}", installer::medium(&Lab::open()?, variant)?.image.display());
        }
        Command::KexecImage => {
            setup::ensure_all()?;
            println!("{}", installer::kexec_image(&Lab::open()?)?.display());
        }
        Command::Kernel => {
            setup::ensure_all()?;
            let kernel = debian::kernel(&Lab::open()?)?;
            println!(
                "Linux {}, OpenZFS {}: {}",
                kernel.version,
                kernel.zfs_version,
                kernel.image.display()
            );
        }
        Command::Root { packages } => {
            setup::ensure_all()?;
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            println!("{}", debian::Root::new("trial", &packages).build(&Lab::open()?)?.display());
        }
        Command::System => {
            setup::ensure_all()?;
            let system = system::build(&Lab::open()?)?;
            println!("--store {} {:#?}", system.root.display(), system.toplevels);
        }
        Command::Native => println!(". {}/env.sh", native()?.prefix.display()),
        Command::Agent => println!("{}", native::build_agent(&native()?)?.display()),
        Command::AgentCargo { args } => native::agent_cargo(&native()?, args)?,
    }
    Ok(())
}
