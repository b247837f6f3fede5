//! Words for people: sizes, lists, disks.

use keystone_protocol::inventory::DiskIdentity;

/// A size in binary units with one decimal, `7.5 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list<T: AsRef<str>>(items: &[T]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [most @ .., last] => {
            let most: Vec<&str> = most.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", most.join(", "), last.as_ref())
        }
    }
}

/// A disk by its stable name and what else tells it: `virtio-a (QEMU, serial a, 20.0 GiB)`.
pub(crate) fn disk(identity: &DiskIdentity) -> String {
    let mut known = Vec::new();
    known.extend(identity.model.clone());
    known.extend(identity.serial.as_ref().map(|serial| format!("serial {serial}")));
    known.push(human(identity.size));
    format!("{} ({})", identity.name, known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_lists() {
        assert_eq!(human(512), "512 bytes");
        assert_eq!(human(100 << 20), "100.0 MiB");
        assert_eq!(human((1 << 40) + (1 << 39)), "1.5 TiB");
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list(&["a", "b"]), "a and b");
        assert_eq!(list::<&str>(&[]), "");
    }
}
