//! Recovery keys in systemd's format (v257 src/shared/recovery-key.c): 256 random bits as 64
//! modhex characters in eight groups of eight with dashes. The text, dashes included, is the
//! passphrase; systemd adds the dashes to what is typed without.

use crate::tpm2::random;
use keystone_protocol::secret::Secret;
use zeroize::Zeroizing;

/// Modhex: hexadecimal with characters that are at the same places on most keyboards. The boot
/// prompt's keyboard layout may not be the operator's.
const MODHEX: &[u8; 16] = b"cbdefghijklnrtuv";

const RAW_BYTES: usize = 32;
const GROUP: usize = 8;

/// A recovery key. To be shown once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryKey(Secret);

impl RecoveryKey {
    /// Draws one.
    pub fn generate() -> Self {
        Self::of(&Zeroizing::new(random::<RAW_BYTES>()))
    }

    fn of(raw: &[u8; RAW_BYTES]) -> Self {
        let mut text = Vec::with_capacity(RAW_BYTES * 2 + RAW_BYTES * 2 / GROUP);
        for (at, byte) in raw.iter().enumerate() {
            if at > 0 && at % (GROUP / 2) == 0 {
                text.push(b'-');
            }
            text.push(MODHEX[usize::from(byte >> 4)]);
            text.push(MODHEX[usize::from(byte & 0xf)]);
        }
        RecoveryKey(Secret::new(text))
    }

    /// The text that opens the container.
    pub fn secret(&self) -> &Secret {
        &self.0
    }
}

/// What somebody may have meant by what they typed: itself, and if it reads as a recovery key
/// without dashes or with others, the key as it is written (systemd's `normalize_recovery_key`).
pub fn readings(typed: &Secret) -> Vec<Secret> {
    let mut readings = vec![typed.clone()];
    let characters = typed.expose().iter().filter(|byte| !matches!(byte, b'-' | b' '));
    let mut plain: Zeroizing<Vec<u8>> =
        Zeroizing::new(Vec::with_capacity(RAW_BYTES * 2 + typed.len()));
    plain.extend(characters.map(u8::to_ascii_lowercase));
    if plain.len() == RAW_BYTES * 2 && plain.iter().all(|byte| MODHEX.contains(byte)) {
        let groups: Vec<&[u8]> = plain.chunks(GROUP).collect();
        let written = Secret::new(groups.join(&b'-'));
        if written != *typed {
            readings.push(written);
        }
    }
    readings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_key_is_read_however_it_was_typed() {
        let key = RecoveryKey::generate();
        let text = String::from_utf8(key.secret().expose().to_vec()).unwrap();
        assert_eq!(readings(key.secret()), [key.secret().clone()]);
        for typed in [text.replace('-', ""), text.replace('-', " "), text.to_uppercase()] {
            let typed = Secret::from(typed);
            assert_eq!(readings(&typed), [typed.clone(), key.secret().clone()]);
        }
        let password = Secret::from("correct horse battery staple".to_owned());
        assert_eq!(readings(&password), [password.clone()]);
    }

    #[test]
    fn eight_groups_of_eight() {
        let mut raw = [0; RAW_BYTES];
        raw[0] = 0x01;
        raw[1] = 0x23;
        raw[2] = 0x45;
        raw[3] = 0x67;
        raw[4] = 0x89;
        raw[5] = 0xab;
        raw[6] = 0xcd;
        raw[7] = 0xef;
        let key = RecoveryKey::of(&raw);
        let text = std::str::from_utf8(key.secret().expose()).unwrap();
        assert_eq!(&text[..18], "cbdefghi-jklnrtuv-");
        assert_eq!(&text[18..], &["cccccccc"; 6].join("-"));
    }

    #[test]
    fn no_two_are_alike_and_none_is_printed() {
        let (one, two) = (RecoveryKey::generate(), RecoveryKey::generate());
        assert_ne!(one, two);
        assert_eq!(format!("{one:?}"), "RecoveryKey(Secret(71 bytes))");
    }
}
