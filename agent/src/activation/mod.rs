//! The system's own programs, run in a chroot as nixos-enter and nixos-install run them.
//!
//! ```text
//! agent ── leash (stdin) ──▶ keeper ── fork ──▶ init, pid 1 of its PID namespace
//!   ▲                          │                  ├ mounts, chroot
//!   └─ reports and output ─────┴──────────────────┼ activate
//!      (one pipe)                                 ├ systemd-tmpfiles --create --remove -E
//!                                                 └ switch-to-configuration boot
//! ```
//!
//! The keeper is this very program started anew ([`child_main`]), since namespaces are entered
//! by a process of one thread. It has mount, PID and UTS namespaces of its own. Init runs the
//! programs and buries what they leave behind, and never becomes another program. When it ends,
//! the kernel kills whatever still runs in the namespace, and the keeper ends after that: once
//! [`run`] returns, nothing of the system runs and none of its mounts exist. When the agent dies,
//! the leash's end makes the keeper kill init.
//!
//! Inside, `/dev` and `/sys` are the installer's (efivarfs mounted, and writable, under UEFI),
//! `/proc` and `/run` are fresh: activation links `/run/current-system`, and on the installer's
//! `/run` it would repoint the running system. The environment is empty but for `PATH`, `HOME` and
//! what nixos-enter and nixos-install set.
//!
//! Sources: nixpkgs `pkgs/by-name/ni/nixos-enter/nixos-enter.sh`, `nixos-install.sh`.

mod child;
mod chroot;
pub mod hostkey;
pub mod openssh;
mod parent;
mod report;
pub mod shell;

pub use child::{SUBCOMMAND, child_main};
pub use parent::{Activated, ActivationError, Limits, System, run};
pub use report::{Ended, Phase};
