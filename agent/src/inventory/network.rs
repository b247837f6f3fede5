//! Network interfaces.

use crate::block::Roots;
use keystone_protocol::inventory::Interface;
use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use std::collections::BTreeMap;
use std::fs;

/// All interfaces other than loopback, with their addresses.
pub fn interfaces(roots: &Roots) -> Result<Vec<Interface>, Errno> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        if entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let name = entry.interface_name.clone();
        let interface = found.entry(name).or_insert_with_key(|name| Interface {
            name: name.clone(),
            mac: fs::read_to_string(roots.sys.join("class/net").join(name).join("address"))
                .map(|mac| mac.trim().to_owned())
                .unwrap_or_default(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING),
            addresses: Vec::new(),
        });
        interface.addresses.extend(address(&entry));
    }
    Ok(found.into_values().collect())
}

/// The address with its prefix length, if the entry has an IP address.
fn address(entry: &InterfaceAddress) -> Option<String> {
    let (address, mask) = (entry.address.as_ref()?, entry.netmask.as_ref());
    if let Some(v4) = address.as_sockaddr_in() {
        let mask = mask.and_then(|mask| mask.as_sockaddr_in()).map(|mask| mask.ip().to_bits());
        return Some(format!("{}/{}", v4.ip(), mask.map_or(32, u32::count_ones)));
    }
    let v6 = address.as_sockaddr_in6()?;
    let mask = mask.and_then(|mask| mask.as_sockaddr_in6()).map(|mask| mask.ip().to_bits());
    Some(format!("{}/{}", v6.ip(), mask.map_or(128, u128::count_ones)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_machine_without_loopback() {
        let interfaces = interfaces(&Roots::default()).unwrap();
        assert!(interfaces.iter().all(|interface| interface.name != "lo"));
        let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
        for address in addresses {
            let (ip, prefix) = address.split_once('/').unwrap();
            ip.parse::<std::net::IpAddr>().unwrap();
            assert!(prefix.parse::<u32>().unwrap() <= 128);
        }
    }
}
