# The reference system as a flake has it: `system` and `inputs.json` are what the lab builds it from.
{
  outputs = { self }: {
    nixosConfigurations.keystone-ref.config = {
      system.build.toplevel = (import ./system { inputs = ./inputs.json; }).next;
      disko.devices = builtins.fromJSON (builtins.readFile ./layout.json);
    };
  };
}
