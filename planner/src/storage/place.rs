//! Devices in ids and titles.

use super::Builder;
use keystone_protocol::plan::DeviceRef;

impl Builder<'_> {
    /// A device in an id and in a title. Ids of different devices differ, whatever their names.
    pub(super) fn place(&self, device: &DeviceRef) -> (String, String) {
        match device {
            DeviceRef::Disk { disk } => (format!("disk:{disk}"), format!("disk {disk}")),
            DeviceRef::Partition { disk, number } => {
                let name = self.partition_name(device, *number);
                (format!("{disk}/{name}"), format!("partition {name} of disk {disk}"))
            }
            DeviceRef::Inner { on, number } => {
                let name = self.partition_name(device, *number);
                let (id, place) = self.place(on);
                (format!("inner:{id}/{name}"), format!("partition {name} of {place}"))
            }
            DeviceRef::Volume { dataset } => {
                (format!("zvol:{dataset}"), format!("volume {dataset}"))
            }
            DeviceRef::Mapper { name } => (name.clone(), format!("container {name}")),
            DeviceRef::LogicalVolume { group, name } => {
                (format!("lvm:{group}/{name}"), format!("logical volume {group}/{name}"))
            }
            DeviceRef::Array { name } => (format!("raid:{name}"), format!("RAID {name}")),
        }
    }

    /// The layout's name of a partition, or its number.
    fn partition_name(&self, device: &DeviceRef, number: u32) -> String {
        let tables = &self.decisions.tables;
        let on_disk = tables.gpt.iter().flat_map(|table| {
            table.partitions.iter().map(|p| (table.device.partition(p.number), &p.name))
        });
        let inner = tables.inner.iter().flat_map(|table| {
            table.partitions.iter().map(|p| (table.device.partition(p.number), &p.name))
        });
        on_disk
            .chain(inner)
            .find(|(found, _)| found == device)
            .map_or_else(|| number.to_string(), |(_, name)| name.clone())
    }
}
