//! GPT partition types: sgdisk's short codes and GUIDs.

/// The EFI system partition's type.
pub const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Short codes and their GUIDs, as `sgdisk --typecode` (gptfdisk 1.0.9) writes them.
const CODES: &[(&str, &str)] = &[
    ("0700", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"), // Microsoft basic data
    ("0C01", "E3C9E316-0B5C-4DB8-817D-F92DF00215AE"), // Microsoft reserved
    ("2700", "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"), // Windows RE
    ("8200", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F"), // Linux swap
    ("8300", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"), // Linux filesystem
    ("8301", "8DA63339-0007-60C0-C436-083AC8230908"), // Linux reserved
    ("8302", "933AC7E1-2EB4-4F13-B844-0E14E2AEF915"), // Linux /home
    ("8303", "44479540-F297-41B2-9AF7-D131D5F0458A"), // Linux x86 root
    ("8304", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"), // Linux x86-64 root
    ("8305", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"), // Linux ARM64 root
    ("8306", "3B8F8425-20E0-4F3B-907F-1A25A76F98E8"), // Linux /srv
    ("8307", "69DAD710-2CE4-4E3C-B16C-21A1D49ABED3"), // Linux ARM32 root
    ("8308", "7FFEC5C9-2D00-49B7-8941-3EA10A5586B7"), // Linux dm-crypt
    ("8309", "CA7D7CCB-63ED-4C53-861C-1742536059CC"), // Linux LUKS
    ("8310", "4D21B016-B534-45C2-A9FB-5C16E091FD2D"), // Linux /var
    ("8311", "7EC6F557-3BC5-4ACA-B293-16EF5DF639D1"), // Linux /var/tmp
    ("8312", "773F91EF-66D4-49B5-BD83-D683BF40AD16"), // Linux user's home
    ("8314", "8484680C-9521-48C6-9C11-B0720656F69E"), // Linux x86-64 /usr
    ("8316", "B0E01050-EE5F-4390-949A-9101B17104E9"), // Linux ARM64 /usr
    ("8E00", "E6D6D379-F507-44C2-A23C-238F2A3DF928"), // Linux LVM
    ("BF00", "6A85CF4D-1DD2-11B2-99A6-080020736631"), // Solaris root
    ("BF01", "6A898CC3-1DD2-11B2-99A6-080020736631"), // Solaris /usr and macOS ZFS
    ("BF07", "6A945A3B-1DD2-11B2-99A6-080020736631"), // Solaris reserved 1
    ("EA00", "BC13C2FF-59E6-4262-A352-B275FD6F7172"), // XBOOTLDR
    ("EF00", ESP),
    ("EF01", "024DEE41-33E7-11D3-9D69-0008C781F39F"), // MBR partition scheme
    ("EF02", "21686148-6449-6E6F-744E-656564454649"), // BIOS boot
    ("FD00", "A19D880F-05FC-4D3B-A006-743F0F84911E"), // Linux RAID
];

/// The short codes that are known.
pub fn codes() -> impl Iterator<Item = &'static str> {
    CODES.iter().map(|(code, _)| *code)
}

/// The GUID, upper case, of a short code or of a GUID in any case.
pub fn guid(code: &str) -> Option<String> {
    let upper = code.to_ascii_uppercase();
    if is_guid(&upper) {
        return Some(upper);
    }
    CODES.iter().find(|(code, _)| *code == upper).map(|(_, guid)| (*guid).to_owned())
}

/// The short code of a GUID in upper case.
pub fn code(guid: &str) -> Option<&'static str> {
    CODES.iter().find(|(_, known)| *known == guid).map(|(code, _)| *code)
}

/// Whether `text` is a GUID in its usual form, any case.
pub fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_guids() {
        assert_eq!(guid("ef00").as_deref(), Some(ESP));
        assert_eq!(guid(&ESP.to_ascii_lowercase()).as_deref(), Some(ESP));
        assert_eq!(guid("EF05"), None);
        assert_eq!(guid("C12A7328-F81F-11D2-BA4B-00A0C93EC93"), None);
        assert!(CODES.iter().all(|(_, guid)| is_guid(guid)));
    }
}
