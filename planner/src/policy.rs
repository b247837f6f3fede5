//! Which of TPM2 and password unlocks a container. Pure: the planner calls it.
//!
//! The question behind it is whether PCR 7, as the installer sees it, is what the installed
//! system will see. PCR 7 holds the state of Secure Boot and its keys (TCG PC Client Platform
//! Firmware Profile, section 3.3.4.8), so it is the same only while nothing about Secure Boot
//! changes between this boot and the next:
//!
//! * with Secure Boot on, the certificate that verified the installer's boot loader is measured
//!   too, and the installed system's may be another;
//! * a system that enrols keys at its first boot changes the measured variables;
//! * all zeros means that the firmware measured nothing, all ones that the bank is not in use by
//!   it: neither says anything about the machine, so anything would open the container.

use keystone_protocol::inventory::{SecureBoot, Tpm};
use keystone_protocol::options::Unlock;
use keystone_protocol::plan::ContainerUnlock;
use std::fmt;

/// Banks in order of preference; the first active one is used. SHA-1 is not: it is broken, and
/// a TPM that has nothing else can only be used with PCRs named by the operator.
const DEFAULT_BANKS: [&str; 3] = ["sha256", "sha384", "sha512"];

/// Banks in order of preference when the operator named the PCRs.
const NAMED_BANKS: [&str; 4] = ["sha256", "sha384", "sha512", "sha1"];

/// PCRs that a PC client TPM has.
const PCR_COUNT: u8 = 24;

/// What the decision rests on.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// What the operator asked for.
    pub unlock: Unlock,
    /// PCRs named by the operator; `Some(&[])` binds to none.
    pub pcrs: Option<&'a [u8]>,
    /// Whether a PIN is wanted.
    pub pin: bool,
    /// The TPM, if there is one.
    pub tpm: Option<&'a Tpm>,
    /// State of Secure Boot now.
    pub secure_boot: SecureBoot,
    /// Whether the closure will enrol Secure Boot keys.
    pub enrols_secure_boot_keys: bool,
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Unlock so.
    Unlock {
        /// [`ContainerUnlock::Tpm2`] or [`ContainerUnlock::Password`].
        by: ContainerUnlock,
        /// Why, a sentence for the operator.
        reason: String,
        /// What deserves a second thought about it.
        warning: Option<String>,
    },
    /// It can't be as asked; a sentence that says what to do.
    Refused(String),
}

/// Why the TPM can't be used, or can't be used by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle<'a> {
    NoTpm,
    NoP256,
    OwnerAuth,
    Lockout(u32, u32),
    NoBank,
    Unmeasured(&'a str, Unmeasured),
    SecureBootOn,
    SecureBootUnknown,
    EnrolsKeys,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unmeasured {
    Zeros,
    Ones,
}

impl Obstacle<'_> {
    /// Whether naming PCRs other than 7 gets past it.
    fn is_about_pcr7(self) -> bool {
        matches!(
            self,
            Obstacle::NoBank
                | Obstacle::Unmeasured(..)
                | Obstacle::SecureBootOn
                | Obstacle::SecureBootUnknown
                | Obstacle::EnrolsKeys
        )
    }
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoTpm => f.write_str(
                "the machine shows no TPM 2.0 (no /dev/tpmrm0); if it has one, enable it in the \
                 firmware's setup",
            ),
            Obstacle::NoP256 => f.write_str("the TPM has no ECC P-256, which sealing needs"),
            Obstacle::OwnerAuth => f.write_str(
                "the TPM's owner hierarchy has a password and no storage root key is stored \
                 (0x81000001), so none can be made; clear the TPM in the firmware's setup",
            ),
            Obstacle::Lockout(counter, max) => write!(
                f,
                "the TPM is in dictionary-attack lockout ({counter} of {max} failed \
                 authorisations), in which no PIN is accepted; wait for its recovery time or \
                 clear the TPM in the firmware's setup"
            ),
            Obstacle::NoBank => {
                f.write_str("none of the TPM's SHA-256, SHA-384 and SHA-512 PCR banks is active")
            }
            Obstacle::Unmeasured(bank, Unmeasured::Zeros) => write!(
                f,
                "PCR 7 of bank {bank} is all zeros: the firmware measures nothing into it"
            ),
            Obstacle::Unmeasured(bank, Unmeasured::Ones) => {
                write!(f, "PCR 7 of bank {bank} is all ones: the firmware does not use that bank")
            }
            Obstacle::SecureBootOn => f.write_str(
                "Secure Boot is on, so PCR 7 holds what verified the installer and not what will \
                 verify the installed system",
            ),
            Obstacle::SecureBootUnknown => f.write_str(
                "the state of Secure Boot can't be read, so PCR 7 may change before the \
                 installed system boots",
            ),
            Obstacle::EnrolsKeys => f.write_str(
                "the system to be installed enrols Secure Boot keys, which changes PCR 7",
            ),
        }
    }
}

/// Decides.
pub fn unlock_policy(facts: &Facts<'_>) -> Decision {
    let named = match facts.pcrs.map(normalize) {
        None => None,
        Some(Ok(pcrs)) => Some(pcrs),
        Some(Err(pcr)) => {
            return Decision::Refused(format!(
                "there is no PCR {pcr}: PCRs are numbered 0 to {}",
                PCR_COUNT - 1
            ));
        }
    };
    match facts.unlock {
        Unlock::Password if facts.pin || named.is_some() => Decision::Refused(
            "a TPM PIN or PCRs were given, but unlocking by password was asked for; leave them \
             out or ask for tpm2"
                .to_owned(),
        ),
        Unlock::Password => Decision::Unlock {
            by: ContainerUnlock::Password,
            reason: "unlocked by password, as asked for".to_owned(),
            warning: None,
        },
        Unlock::Tpm2 => explicit_tpm2(facts, named),
        Unlock::Auto => match usable(facts, named.as_deref()) {
            Ok(bank) => tpm2(facts, named, bank, "unlocked by TPM2"),
            Err(obstacle) => Decision::Unlock {
                by: ContainerUnlock::Password,
                reason: format!("unlocked by password, because {obstacle}"),
                warning: None,
            },
        },
    }
}

fn explicit_tpm2(facts: &Facts<'_>, named: Option<Vec<u8>>) -> Decision {
    match usable(facts, named.as_deref()) {
        Ok(bank) => tpm2(facts, named, bank, "unlocked by TPM2, as asked for"),
        Err(obstacle) if obstacle.is_about_pcr7() => Decision::Refused(format!(
            "unlocking by TPM2 was asked for, but {obstacle}; name the PCRs to bind to with \
             --tpm2-pcrs (an empty list binds to none), or unlock by password"
        )),
        Err(obstacle) => Decision::Refused(format!(
            "unlocking by TPM2 was asked for, but {obstacle}; or unlock by password"
        )),
    }
}

/// The bank to bind to, or the first thing in the way.
fn usable<'a>(facts: &Facts<'a>, named: Option<&[u8]>) -> Result<&'a str, Obstacle<'a>> {
    let tpm = facts.tpm.ok_or(Obstacle::NoTpm)?;
    if !tpm.ecc_p256 {
        return Err(Obstacle::NoP256);
    }
    if tpm.owner_auth_set && !tpm.srk {
        return Err(Obstacle::OwnerAuth);
    }
    if facts.pin && tpm.in_lockout {
        return Err(Obstacle::Lockout(tpm.lockout.0, tpm.lockout.1));
    }
    let active = |banks: &[&str]| {
        let mut preferred = banks.iter();
        preferred.find_map(|bank| tpm.pcr7.get_key_value(*bank))
    };
    if let Some(pcrs) = named {
        return match active(&NAMED_BANKS) {
            Some((bank, _)) => Ok(bank),
            // A policy without PCRs reads no bank; the token names one all the same.
            None if pcrs.is_empty() => Ok("sha256"),
            None => Err(Obstacle::NoBank),
        };
    }
    let (bank, value) = active(&DEFAULT_BANKS).ok_or(Obstacle::NoBank)?;
    if value.bytes().all(|digit| digit == b'0') {
        return Err(Obstacle::Unmeasured(bank, Unmeasured::Zeros));
    }
    if value.bytes().all(|digit| digit.eq_ignore_ascii_case(&b'f')) {
        return Err(Obstacle::Unmeasured(bank, Unmeasured::Ones));
    }
    match facts.secure_boot {
        SecureBoot::On => return Err(Obstacle::SecureBootOn),
        SecureBoot::Unknown => return Err(Obstacle::SecureBootUnknown),
        SecureBoot::Off | SecureBoot::SetupMode => {}
    }
    if facts.enrols_secure_boot_keys {
        return Err(Obstacle::EnrolsKeys);
    }
    Ok(bank)
}

fn tpm2(facts: &Facts<'_>, named: Option<Vec<u8>>, bank: &str, how: &str) -> Decision {
    let by_default = named.is_none();
    let pcrs = named.unwrap_or_else(|| vec![7]);
    let list = pcrs.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let with_pin = if facts.pin { " and a PIN" } else { "" };
    let bound = match pcrs.as_slice() {
        [] => "bound to no PCR".to_owned(),
        [_] => format!("bound to PCR {list} (bank {bank})"),
        _ => format!("bound to PCRs {list} (bank {bank})"),
    };
    let because = if by_default {
        "; Secure Boot is off and the system will not enrol keys, so PCR 7 stays as it is"
    } else {
        ""
    };
    let warning = match pcrs.as_slice() {
        [] if !facts.pin => Some(
            "the container is bound to no PCR and to no PIN: whatever boots on this machine can \
             open it"
                .to_owned(),
        ),
        [] => None,
        _ if by_default => None,
        _ => Some(format!(
            "the container is bound to PCR values as they are under the installer ({list}); if \
             the installed system boots with others, only the recovery key opens it"
        )),
    };
    Decision::Unlock {
        reason: format!("{how}{with_pin}, {bound}{because}"),
        by: ContainerUnlock::Tpm2 { pcrs, bank: bank.to_owned(), pin: facts.pin },
        warning,
    }
}

/// Sorted, each once; the number that is no PCR otherwise.
fn normalize(pcrs: &[u8]) -> Result<Vec<u8>, u8> {
    if let Some(wrong) = pcrs.iter().find(|pcr| **pcr >= PCR_COUNT) {
        return Err(*wrong);
    }
    let set: std::collections::BTreeSet<u8> = pcrs.iter().copied().collect();
    Ok(set.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn tpm() -> Tpm {
        Tpm {
            manufacturer: "IBM".to_owned(),
            firmware: "8217.1".to_owned(),
            pcr7: BTreeMap::from([
                ("sha1".to_owned(), "b5".repeat(20)),
                ("sha256".to_owned(), "65".repeat(32)),
            ]),
            in_lockout: false,
            lockout: (0, 3),
            owner_auth_set: false,
            srk: false,
            ecc_p256: true,
        }
    }

    fn facts(tpm: &Tpm) -> Facts<'_> {
        Facts {
            unlock: Unlock::Auto,
            pcrs: None,
            pin: false,
            tpm: Some(tpm),
            secure_boot: SecureBoot::Off,
            enrols_secure_boot_keys: false,
        }
    }

    fn by_tpm(pcrs: &[u8], bank: &str) -> ContainerUnlock {
        ContainerUnlock::Tpm2 { pcrs: pcrs.to_vec(), bank: bank.to_owned(), pin: false }
    }

    fn decided(facts: &Facts<'_>) -> (ContainerUnlock, String, Option<String>) {
        match unlock_policy(facts) {
            Decision::Unlock { by, reason, warning } => (by, reason, warning),
            Decision::Refused(why) => panic!("refused: {why}"),
        }
    }

    fn refused(facts: &Facts<'_>) -> String {
        match unlock_policy(facts) {
            Decision::Refused(why) => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    /// With `auto` falls back for the reason, with `tpm2` is refused with it.
    fn stands_in_the_way(facts: Facts<'_>, phrase: &str) {
        let (by, reason, _) = decided(&facts);
        assert_eq!(by, ContainerUnlock::Password);
        assert!(reason.contains(phrase), "{reason}");
        let why = refused(&Facts { unlock: Unlock::Tpm2, ..facts });
        assert!(why.contains(phrase), "{why}");
    }

    #[test]
    fn a_sound_tpm_is_bound_to_pcr_7() {
        let tpm = tpm();
        for unlock in [Unlock::Auto, Unlock::Tpm2] {
            let (by, reason, warning) = decided(&Facts { unlock, ..facts(&tpm) });
            assert_eq!(by, by_tpm(&[7], "sha256"));
            assert!(reason.contains("PCR 7 (bank sha256)"), "{reason}");
            assert_eq!(warning, None);
        }
        let setup = Facts { secure_boot: SecureBoot::SetupMode, ..facts(&tpm) };
        assert_eq!(decided(&setup).0, by_tpm(&[7], "sha256"));
    }

    #[test]
    fn whatever_makes_pcr_7_doubtful_stands_in_the_way_unless_pcrs_are_named() {
        let sound = tpm();
        let with = |value: &str| Tpm {
            pcr7: BTreeMap::from([("sha256".to_owned(), value.repeat(32))]),
            ..tpm()
        };
        let (zeros, ones) = (with("00"), with("ff"));
        let only_sha1 =
            Tpm { pcr7: BTreeMap::from([("sha1".to_owned(), "b5".repeat(20))]), ..tpm() };
        let cases = [
            (facts(&zeros), "all zeros"),
            (facts(&ones), "all ones"),
            (facts(&only_sha1), "PCR banks is active"),
            (Facts { secure_boot: SecureBoot::On, ..facts(&sound) }, "Secure Boot is on"),
            (Facts { secure_boot: SecureBoot::Unknown, ..facts(&sound) }, "can't be read"),
            (Facts { enrols_secure_boot_keys: true, ..facts(&sound) }, "enrols Secure Boot keys"),
        ];
        for (case, phrase) in cases {
            stands_in_the_way(case.clone(), phrase);
            let named = Facts { unlock: Unlock::Tpm2, pcrs: Some(&[4, 0, 4]), ..case };
            let (by, _, warning) = decided(&named);
            let ContainerUnlock::Tpm2 { pcrs, .. } = by else { panic!("{by:?}") };
            assert_eq!(pcrs, [0, 4]);
            assert!(warning.unwrap().contains("under the installer"));
        }
    }

    #[test]
    fn an_unusable_tpm_stands_in_the_way_whatever_is_named() {
        let no_p256 = Tpm { ecc_p256: false, ..tpm() };
        let owned = Tpm { owner_auth_set: true, ..tpm() };
        let sound = tpm();
        let cases = [
            (Facts { tpm: None, ..facts(&sound) }, "no TPM 2.0"),
            (facts(&no_p256), "no ECC P-256"),
            (facts(&owned), "owner hierarchy has a password"),
        ];
        for (case, phrase) in cases {
            stands_in_the_way(case.clone(), phrase);
            stands_in_the_way(Facts { pcrs: Some(&[7]), ..case }, phrase);
        }
    }

    #[test]
    fn an_owned_tpm_with_a_storage_root_key_is_fine() {
        let owned = Tpm { owner_auth_set: true, srk: true, ..tpm() };
        assert_eq!(decided(&facts(&owned)).0, by_tpm(&[7], "sha256"));
    }

    #[test]
    fn lockout_matters_with_a_pin_only() {
        let locked = Tpm { in_lockout: true, lockout: (3, 3), ..tpm() };
        assert_eq!(decided(&facts(&locked)).0, by_tpm(&[7], "sha256"));
        stands_in_the_way(Facts { pin: true, ..facts(&locked) }, "3 of 3 failed");
    }

    #[test]
    fn no_pcr_and_no_pin_is_warned_of() {
        let tpm = tpm();
        let none = Facts { pcrs: Some(&[]), ..facts(&tpm) };
        assert!(decided(&none).2.unwrap().contains("whatever boots"));
        assert_eq!(decided(&Facts { pin: true, ..none }).2, None);
        let bare = Tpm { pcr7: BTreeMap::new(), ..tpm.clone() };
        let none = Facts { tpm: Some(&bare), pcrs: Some(&[]), ..facts(&tpm) };
        assert_eq!(decided(&none).0, by_tpm(&[], "sha256"));
    }

    #[test]
    fn contradictions_and_impossible_pcrs_are_refused() {
        let tpm = tpm();
        assert!(refused(&Facts { pcrs: Some(&[24]), ..facts(&tpm) }).contains("no PCR 24"));
        let password = Facts { unlock: Unlock::Password, ..facts(&tpm) };
        assert_eq!(decided(&password).0, ContainerUnlock::Password);
        assert!(refused(&Facts { pin: true, ..password.clone() }).contains("leave them out"));
        assert!(refused(&Facts { pcrs: Some(&[7]), ..password }).contains("leave them out"));
    }
}
