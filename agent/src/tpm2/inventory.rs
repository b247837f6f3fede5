//! What the TPM is and how it is.

use super::command::{Authorization, Command};
use super::wire::{ECC_NIST_P256, Reader, cc};
use super::{Tpm, TpmError};
use keystone_protocol::inventory;
use std::collections::BTreeMap;

/// Capabilities (`TPM_CAP`).
const CAP_PCRS: u32 = 0x5;
const CAP_TPM_PROPERTIES: u32 = 0x6;
const CAP_ECC_CURVES: u32 = 0x8;

/// Properties (`TPM_PT`): the fixed ones in use here are 0x105 to 0x10c, the variable ones 0x200
/// to 0x20f.
const PT_MANUFACTURER: u32 = 0x105;
const PT_FIRMWARE_VERSION_1: u32 = 0x10b;
const PT_FIRMWARE_VERSION_2: u32 = 0x10c;
const PT_PERMANENT: u32 = 0x200;
const PT_LOCKOUT_COUNTER: u32 = 0x20e;
const PT_MAX_AUTH_FAIL: u32 = 0x20f;

/// Bits of `TPMA_PERMANENT`.
const OWNER_AUTH_SET: u32 = 1 << 0;
const IN_LOCKOUT: u32 = 1 << 9;

/// A PCR bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bank {
    /// As systemd spells it in `tpm2-pcr-bank`.
    pub(super) name: &'static str,
    /// `TPM_ALG`.
    pub(super) algorithm: u16,
    /// Digest length, in bytes.
    pub(super) length: usize,
}

/// The banks known here: those that systemd knows (v257 src/shared/tpm2-util.c
/// `tpm2_hash_alg_to_string`).
const BANKS: [Bank; 4] = [
    Bank { name: "sha1", algorithm: 0x0004, length: 20 },
    Bank { name: "sha256", algorithm: 0x000b, length: 32 },
    Bank { name: "sha384", algorithm: 0x000c, length: 48 },
    Bank { name: "sha512", algorithm: 0x000d, length: 64 },
];

impl Bank {
    pub(super) fn by_name(name: &str) -> Option<Bank> {
        BANKS.into_iter().find(|bank| bank.name == name)
    }
}

impl Tpm {
    /// What the planner and the operator need to know.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn inventory(&mut self) -> Result<inventory::Tpm, TpmError> {
        let mut properties = self.properties(PT_MANUFACTURER, 8)?;
        properties.extend(self.properties(PT_PERMANENT, 16)?);
        let property = |number: u32| properties.get(&number).copied().unwrap_or(0);
        let permanent = property(PT_PERMANENT);
        let mut pcr7 = BTreeMap::new();
        for bank in BANKS {
            if self.active_pcrs(bank)?.contains(&7) {
                let values = self.pcr_values(bank, &[7])?;
                pcr7.insert(bank.name.to_owned(), hex::encode(values.concat()));
            }
        }
        Ok(inventory::Tpm {
            manufacturer: printable(&property(PT_MANUFACTURER).to_be_bytes()),
            firmware: format!(
                "{}.{}",
                dotted(property(PT_FIRMWARE_VERSION_1)),
                dotted(property(PT_FIRMWARE_VERSION_2))
            ),
            pcr7,
            in_lockout: permanent & IN_LOCKOUT != 0,
            lockout: (property(PT_LOCKOUT_COUNTER), property(PT_MAX_AUTH_FAIL)),
            owner_auth_set: permanent & OWNER_AUTH_SET != 0,
            srk: self.storage_root_key()?.is_some(),
            ecc_p256: self.has_p256()?,
        })
    }

    fn properties(&mut self, first: u32, count: u32) -> Result<BTreeMap<u32, u32>, TpmError> {
        self.capability(CAP_TPM_PROPERTIES, first, count, |list| {
            let count = list.u32()?;
            (0..count).map(|_| Ok((list.u32()?, list.u32()?))).collect()
        })
    }

    fn has_p256(&mut self) -> Result<bool, TpmError> {
        let one = u32::from(ECC_NIST_P256);
        self.capability(CAP_ECC_CURVES, one, 1, |list| {
            let count = list.u32()?;
            Ok(count > 0 && list.u16()? == ECC_NIST_P256)
        })
    }

    /// The PCRs of a bank that are in use; none if the bank is not.
    pub(super) fn active_pcrs(&mut self, bank: Bank) -> Result<Vec<u8>, TpmError> {
        self.capability(CAP_PCRS, 0, 1, |list| {
            let mut pcrs = Vec::new();
            for _ in 0..list.u32()? {
                let algorithm = list.u16()?;
                let length = list.u8()?;
                let bitmap = list.raw(length.into())?;
                if algorithm == bank.algorithm {
                    pcrs = (0..=u8::MAX)
                        .take(bitmap.len() * 8)
                        .filter(|pcr| bitmap[usize::from(pcr / 8)] & (1 << (pcr % 8)) != 0)
                        .collect();
                }
            }
            Ok(pcrs)
        })
    }

    fn capability<T>(
        &mut self,
        capability: u32,
        first: u32,
        count: u32,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, super::Truncated>,
    ) -> Result<T, TpmError> {
        let mut command = Command::new("TPM2_GetCapability", cc::GET_CAPABILITY);
        command.parameters.u32(capability).u32(first).u32(count);
        let response = command.run(self, Authorization::None)?;
        response.read(|parameters| {
            // More data: what is asked for here always fits. Then the capability again.
            parameters.u8()?;
            parameters.u32()?;
            read(parameters)
        })
    }
}

fn printable(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .filter(|byte| byte.is_ascii_graphic() || **byte == b' ')
        .map(|byte| char::from(*byte))
        .collect();
    text.trim_end().to_owned()
}

/// Two 16-bit numbers.
fn dotted(version: u32) -> String {
    format!("{}.{}", version >> 16, version & 0xffff)
}
