//! What a `Boot####` variable says: `EFI_LOAD_OPTION` and the device path in it.
//!
//! Source: UEFI 2.10, 3.1.3 "Load Options", 10.3.1 "Generic Device Path Structures", 10.3.5.1
//! "Hard Drive" and 10.3.5.4 "File Path Media Device Path".

use uuid::Uuid;

const LOAD_OPTION_ACTIVE: u32 = 1;
const MEDIA: u8 = 4;
const HARD_DRIVE: u8 = 1;
const FILE_PATH: u8 = 4;
const END: u8 = 0x7f;
const END_ENTIRE: u8 = 0xff;
const FORMAT_GPT: u8 = 2;
const SIGNATURE_GUID: u8 = 2;

/// Where a partition is, as a load option names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its unique GUID.
    pub guid: Uuid,
    /// Its number in the table, from 1.
    pub number: u32,
    /// Its first logical sector.
    pub first_lba: u64,
    /// Its length, in logical sectors.
    pub sectors: u64,
}

/// The data of a `Boot####` variable, without its attributes: an active option that starts
/// `path` (`EFI/systemd/systemd-bootx64.efi`) on `partition`. The device path is the short form
/// that begins with the partition (UEFI 2.10, 3.1.2), as boot loaders' own installers write it.
pub fn encode(description: &str, partition: &Partition, path: &str) -> Vec<u8> {
    let mut drive = partition.number.to_le_bytes().to_vec();
    drive.extend_from_slice(&partition.first_lba.to_le_bytes());
    drive.extend_from_slice(&partition.sectors.to_le_bytes());
    drive.extend_from_slice(&partition.guid.to_bytes_le());
    drive.extend_from_slice(&[FORMAT_GPT, SIGNATURE_GUID]);
    let file = format!("\\{}", path.trim_start_matches('/').replace('/', "\\"));
    let paths = [
        node(MEDIA, HARD_DRIVE, &drive),
        node(MEDIA, FILE_PATH, &utf16(&file)),
        node(END, END_ENTIRE, &[]),
    ]
    .concat();
    let mut out = LOAD_OPTION_ACTIVE.to_le_bytes().to_vec();
    out.extend_from_slice(&(paths.len() as u16).to_le_bytes());
    out.extend_from_slice(&utf16(description));
    out.extend_from_slice(&paths);
    out
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn node(kind: u8, subtype: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, subtype];
    out.extend_from_slice(&(body.len() as u16 + 4).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// A load option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOption {
    /// Whether the firmware tries it.
    pub active: bool,
    /// What its menu shows.
    pub description: String,
    /// The GPT partition that has the file, by its unique GUID.
    pub partition: Option<Uuid>,
    /// The file, with `\` between names.
    pub file: Option<String>,
}

impl LoadOption {
    /// Reads a variable's data, without its attributes; `None` if they are no load option.
    pub fn parse(data: &[u8]) -> Option<LoadOption> {
        let attributes = u32::from_le_bytes(data.get(..4)?.try_into().ok()?);
        let paths_length = usize::from(u16::from_le_bytes(data.get(4..6)?.try_into().ok()?));
        let rest = data.get(6..)?;
        let (description, used) = string(rest)?;
        let mut nodes = rest.get(used..used + paths_length)?;
        let mut option = LoadOption {
            active: attributes & LOAD_OPTION_ACTIVE != 0,
            description,
            partition: None,
            file: None,
        };
        while let Some(header) = nodes.get(..4) {
            let length = usize::from(u16::from_le_bytes([header[2], header[3]]));
            let body = nodes.get(4..length)?;
            match (header[0], header[1]) {
                (END, _) => break,
                (MEDIA, HARD_DRIVE) => option.partition = partition(body),
                (MEDIA, FILE_PATH) => {
                    // A path may be spread over several nodes.
                    let (part, _) = string(body)?;
                    let file = option.file.get_or_insert_default();
                    if !file.is_empty() && !file.ends_with('\\') && !part.starts_with('\\') {
                        file.push('\\');
                    }
                    file.push_str(&part);
                }
                _ => {}
            }
            nodes = &nodes[length..];
        }
        Some(option)
    }

    /// Whether it is the file `path` (`EFI/BOOT/BOOTX64.EFI`) on that partition.
    pub fn is(&self, partition: Uuid, path: &str) -> bool {
        let file =
            self.file.as_deref().map(|file| file.trim_start_matches('\\').replace('\\', "/"));
        self.partition == Some(partition)
            && file.is_some_and(|file| file.eq_ignore_ascii_case(path))
    }
}

/// The GUID in the body of a hard drive node.
fn partition(body: &[u8]) -> Option<Uuid> {
    let signature: [u8; 16] = body.get(20..36)?.try_into().ok()?;
    (body.get(37) == Some(&SIGNATURE_GUID)).then(|| Uuid::from_bytes_le(signature))
}

/// A UTF-16 string up to its NUL, or to the end, and how many bytes it takes.
fn string(bytes: &[u8]) -> Option<(String, usize)> {
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let length = units.iter().position(|unit| *unit == 0);
    let text = String::from_utf16(&units[..length.unwrap_or(units.len())]).ok()?;
    Some((text, length.map_or(units.len(), |length| length + 1) * 2))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn of(description: &str, guid: Uuid, path: &str) -> Vec<u8> {
        let partition = Partition { guid, number: 1, first_lba: 2048, sectors: 1_048_576 };
        encode(description, &partition, path)
    }

    /// `efibootmgr -v` of a machine that bootctl installed, byte by byte: attributes, length of
    /// the paths, description, HD(1,GPT,…,0x800,0x100000), File(…), end.
    #[test]
    fn writes_what_the_specification_says() {
        let guid = Uuid::parse_str("0fc63daf-8483-4772-8e79-3d69d8477de4").unwrap();
        let expected = "01000000\
             3800\
             78000000\
             04012a00\
             01000000\
             0008000000000000\
             0000100000000000\
             af3dc60f838472478e793d69d8477de4\
             0202\
             04040a005c0061000000\
             7fff0400";
        assert_eq!(hex::encode(of("x", guid, "a")), expected);
    }

    #[test]
    fn reads_what_the_specification_says() {
        let guid = Uuid::parse_str("0fc63daf-8483-4772-8e79-3d69d8477de4").unwrap();
        let bytes = of("Linux Boot Manager", guid, "/EFI/systemd/systemd-bootx64.efi");
        let option = LoadOption::parse(&bytes).unwrap();
        assert!(option.active);
        assert_eq!(option.description, "Linux Boot Manager");
        assert!(option.is(guid, "EFI/systemd/systemd-bootx64.efi"));
        assert!(option.is(guid, "EFI/SYSTEMD/SYSTEMD-BOOTX64.EFI"));
        assert!(!option.is(guid, "EFI/BOOT/BOOTX64.EFI"));
        assert!(!option.is(Uuid::nil(), "EFI/systemd/systemd-bootx64.efi"));
    }

    /// Boot options as OVMF (edk2 2022.11) makes them: a CD-ROM, and HTTP from a network card.
    #[test]
    fn reads_options_without_a_file() {
        for (bytes, description) in [
            (
                "01000000200055004500460049002000510045004d00550020004400560044002d0052004f004d0020\
                 0051004d00300030003000300035002000000002010c00d041030a0000000001010600021f03120a00\
                 0200ffff00007fff0400",
                "UEFI QEMU DVD-ROM QM00005 ",
            ),
            (
                "010000005a0055004500460049002000480054005400500076003400200028004d00410043003a0035\
                 003200350034003000300031003200330034003500360029000000\
                 02010c00d041030a00000000010106000004030b2500525400123456000000000000000000000000\
                 000000000000000000000000000001030c1b00000000000000000000000000000000000000000000\
                 0000031804007fff0400",
                "UEFI HTTPv4 (MAC:525400123456)",
            ),
        ] {
            let option = LoadOption::parse(&hex::decode(bytes).unwrap()).unwrap();
            assert_eq!((option.partition, option.file), (None, None));
            assert_eq!(option.description, description);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = LoadOption::parse(&data);
        }

        #[test]
        fn no_change_makes_it_panic(at in 0..150usize, byte: u8, cut in 0..200usize) {
            let mut bytes = of("x", Uuid::nil(), "a");
            let length = bytes.len();
            bytes[at % length] = byte;
            let _ = LoadOption::parse(&bytes[..cut.min(length)]);
        }
    }
}
