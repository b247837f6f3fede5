//! `etc/fstab`.

use super::error::ClosureError;
use keystone_protocol::options::FstabEntry;

/// Reads a file in the format of fstab(5); spaces in fields are octal escapes.
pub fn parse(toplevel: &str, text: &str) -> Result<Vec<FstabEntry>, ClosureError> {
    let mut entries = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.split_ascii_whitespace().map(unescape);
        let (Some(source), Some(target), Some(fstype)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(ClosureError::BadFstab {
                toplevel: toplevel.to_owned(),
                line: index + 1,
                text: line.to_owned(),
            });
        };
        let options = fields
            .next()
            .map(|options| options.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        entries.push(FstabEntry { source, target, fstype, options });
    }
    Ok(entries)
}

/// `\040` and its like (getmntent(3)).
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|d| bytes[at] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)))
            .map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0')))
            .and_then(|n| u8::try_from(n).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_comments_and_escapes() {
        let text = "# generated\n\nrpool/crypt/system / zfs x-initrd.mount,zfsutil 0 0\n\
                    /dev/disk/by-partlabel/disk-root-ESP /boot vfat defaults 0 2\n\
                    /dev/sda\\0401 /mnt/with\\040space ext4\n";
        let entries = parse("/nix/store/x", text).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0].options, ["x-initrd.mount", "zfsutil"]);
        assert_eq!(entries[1].target, "/boot");
        assert_eq!(
            (entries[2].source.as_str(), entries[2].target.as_str()),
            ("/dev/sda 1", "/mnt/with space")
        );
        assert!(entries[2].options.is_empty());
        let err = parse("/nix/store/x", "ok / ext4\nbroken /\n").unwrap_err();
        assert!(err.to_string().contains("line 2"), "{err}");
    }
}
