//! Drives `keystone_agent::zfs` by hand, for comparing with the real tools in a
//! machine that has both. Prints one line per call: the result, or the error's chain.
//!
//! ```text
//! zfs open                                  module version, number of features
//! zfs label DEVICE
//! zfs pools
//! zfs create POOL ALTROOT TARGET-VERSION|- VDEV… [-o K=V]… [-O K=V]…
//!     VDEV: /path | mirror:/a,/b | raidz2:/a,/b,/c,/d | log:VDEV | special:VDEV | spare:/path | cache:/path
//! zfs export POOL | destroy POOL GUID | import[-any-host] GUID ALTROOT|- DEVICE… | sync POOL | clear DEVICE
//! zfs filesystem NAME KEYFILE|- [K=V]… | volume NAME BYTES [K=V]… | set NAME [K=V]…
//! zfs get NAME PROPERTY | device VOLUME | root NAME
//! zfs verify-key NAME KEYFILE | load-key NAME KEYFILE | unload-key NAME
//! ```

use std::{collections::BTreeMap, error::Error, fs, path::Path};

use keystone_agent::block::{Roots, find};
use keystone_agent::zfs::{
    Class, Import, PoolSpec, TopVdev, Vdev, Zfs, clear_label, features, module_features,
    module_version, read_label,
};

type Outcome = Result<String, Box<dyn Error>>;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            let mut chain = error.to_string();
            let mut cause = error.source();
            while let Some(inner) = cause {
                chain += &format!(": {inner}");
                cause = inner.source();
            }
            println!("error: {chain}");
            std::process::exit(1);
        }
    }
}

fn run(args: &[&str]) -> Outcome {
    let debug = |value: &dyn std::fmt::Debug| Ok(format!("{value:?}"));
    match args {
        ["label", device] => return debug(&read_label(Path::new(device))?),
        ["clear", device] => return debug(&clear_label(Path::new(device))?),
        _ => {}
    }
    let zfs = Zfs::open()?;
    match args {
        ["open"] => {
            debug(&(module_version(), module_features()?.len(), Zfs::known_features().len()))
        }
        ["pools"] => debug(&zfs.imported_pools()?),
        ["create", name, altroot, target, rest @ ..] => {
            debug(&zfs.ensure_pool(&spec(name, altroot, target, rest)?)?)
        }
        ["export", name] => debug(&zfs.ensure_exported(name, false)?),
        ["destroy", name, guid] => debug(&zfs.ensure_destroyed(name, guid.parse()?)?),
        [how @ ("import" | "import-any-host"), guid, altroot, devices @ ..] => {
            debug(&zfs.ensure_imported(&Import {
                guid: guid.parse()?,
                devices: devices.iter().map(Into::into).collect(),
                altroot: given(altroot),
                any_host: *how == "import-any-host",
            })?)
        }
        ["sync", name] => debug(&zfs.sync_pool(name)?),
        ["filesystem", name, key, rest @ ..] => {
            let key = given(key).map(|path| key_of(&path)).transpose()?;
            debug(&zfs.ensure_filesystem(name, &pairs(rest)?, key.as_ref())?)
        }
        ["volume", name, size, rest @ ..] => {
            debug(&zfs.ensure_volume(name, size.parse()?, &pairs(rest)?)?)
        }
        ["set", name, rest @ ..] => debug(&zfs.ensure_properties(name, &pairs(rest)?)?),
        ["get", name, property] => debug(&zfs.property(name, property)?),
        ["device", name] => debug(&find::zvol(&Roots::default(), name)?),
        ["root", name] => debug(&(zfs.encryption_root(name)?, zfs.key_status(name)?)),
        ["verify-key", name, key] => debug(&zfs.verify_key(name, &key_of(key)?)?),
        ["load-key", name, key] => debug(&zfs.ensure_key_loaded(name, &key_of(key)?)?),
        ["unload-key", name] => debug(&zfs.ensure_key_unloaded(name)?),
        _ => Err("see the head of agent/examples/zfs.rs for what can be asked".into()),
    }
}

fn given(text: &str) -> Option<String> {
    (text != "-").then(|| text.to_owned())
}

fn key_of(path: &str) -> Result<[u8; 32], Box<dyn Error>> {
    fs::read(path)?.try_into().map_err(|_| format!("{path} does not hold 32 bytes").into())
}

fn pairs(args: &[&str]) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
    let pair = |arg: &&str| {
        let (key, value) = arg.split_once('=').ok_or_else(|| format!("{arg} is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    args.iter().map(pair).collect()
}

fn spec(
    name: &str,
    altroot: &str,
    target: &str,
    rest: &[&str],
) -> Result<PoolSpec, Box<dyn Error>> {
    let mut spec = PoolSpec {
        name: name.to_owned(),
        altroot: given(altroot),
        features: features::enabled_features(&module_features()?, given(target).as_deref())?
            .enabled,
        ..PoolSpec::default()
    };
    let mut rest = rest.iter();
    while let Some(&arg) = rest.next() {
        let (class, vdev) = match arg.split_once(':') {
            _ if arg == "-o" || arg == "-O" => {
                let value = rest.next().ok_or("an option has no value")?;
                let into =
                    if arg == "-o" { &mut spec.properties } else { &mut spec.root_properties };
                into.extend(pairs(&[value])?);
                continue;
            }
            Some(("spare", path)) => {
                spec.spares.push(path.into());
                continue;
            }
            Some(("cache", path)) => {
                spec.caches.push(path.into());
                continue;
            }
            Some(("log", vdev)) => (Class::Log, vdev),
            Some(("special", vdev)) => (Class::Special, vdev),
            Some(("dedup", vdev)) => (Class::Dedup, vdev),
            _ => (Class::Data, arg),
        };
        spec.vdevs.push(TopVdev { class, vdev: parse_vdev(vdev)? });
    }
    Ok(spec)
}

fn parse_vdev(text: &str) -> Result<Vdev, Box<dyn Error>> {
    let leaves = |list: &str| list.split(',').map(|path| Vdev::Leaf(path.into())).collect();
    Ok(match text.split_once(':') {
        None => Vdev::Leaf(text.into()),
        Some(("mirror", list)) => Vdev::Mirror(leaves(list)),
        Some((raidz, list)) => {
            let parity = raidz.strip_prefix("raidz").ok_or_else(|| format!("no vdev: {text}"))?;
            Vdev::Raidz { parity: parity.parse()?, children: leaves(list) }
        }
    })
}
