# `keystone`, the operator's side. It looks for the agent beside itself, in
# `../libexec/keystone/keystone-agent`, or where `--agent` says.
{ rustPlatform, src }:
rustPlatform.buildRustPackage {
  pname = "keystone";
  version = "0.1.0";
  inherit src;
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [ "--package" "keystone-controller" ];
  # The tests need virtual machines and root: `cargo lab test` runs them.
  doCheck = false;
  meta = {
    description = "Installs encrypted NixOS machines over SSH";
    mainProgram = "keystone";
  };
}
