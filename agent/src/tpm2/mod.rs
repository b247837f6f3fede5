//! The TPM 2.0: what it is, and sealing a secret to it so that systemd unseals it at boot.

pub mod policy;
