//! Marshalling: big-endian integers and length-prefixed buffers (TCG TPM 2.0 Library, part 2),
//! and the numbers of the commands, algorithms and handles in use here.

use zeroize::Zeroizing;

/// Tags of commands and responses (`TPM_ST`).
pub(super) const ST_NO_SESSIONS: u16 = 0x8001;
/// With an authorization area.
pub(super) const ST_SESSIONS: u16 = 0x8002;

/// Command codes (`TPM_CC`).
pub(super) mod cc {
    pub(in crate::tpm2) const EVICT_CONTROL: u32 = 0x0120;
    pub(in crate::tpm2) const CREATE_PRIMARY: u32 = 0x0131;
    pub(in crate::tpm2) const CREATE: u32 = 0x0153;
    pub(in crate::tpm2) const LOAD: u32 = 0x0157;
    pub(in crate::tpm2) const UNSEAL: u32 = 0x015e;
    pub(in crate::tpm2) const FLUSH_CONTEXT: u32 = 0x0165;
    pub(in crate::tpm2) const POLICY_AUTH_VALUE: u32 = 0x016b;
    pub(in crate::tpm2) const READ_PUBLIC: u32 = 0x0173;
    pub(in crate::tpm2) const START_AUTH_SESSION: u32 = 0x0176;
    pub(in crate::tpm2) const GET_CAPABILITY: u32 = 0x017a;
    pub(in crate::tpm2) const PCR_READ: u32 = 0x017e;
    pub(in crate::tpm2) const POLICY_PCR: u32 = 0x017f;
}

/// Algorithms (`TPM_ALG`).
pub(super) mod alg {
    pub(in crate::tpm2) const RSA: u16 = 0x0001;
    pub(in crate::tpm2) const AES: u16 = 0x0006;
    pub(in crate::tpm2) const KEYEDHASH: u16 = 0x0008;
    pub(in crate::tpm2) const SHA256: u16 = 0x000b;
    pub(in crate::tpm2) const NULL: u16 = 0x0010;
    pub(in crate::tpm2) const ECC: u16 = 0x0023;
    pub(in crate::tpm2) const CFB: u16 = 0x0043;
}

/// Handles (`TPM_RH`, `TPM_RS`).
pub(super) mod handle {
    pub(in crate::tpm2) const OWNER: u32 = 0x4000_0001;
    pub(in crate::tpm2) const NULL: u32 = 0x4000_0007;
    pub(in crate::tpm2) const PASSWORD_SESSION: u32 = 0x4000_0009;
}

/// ECC curve NIST P-256 (`TPM_ECC`).
pub(super) const ECC_NIST_P256: u16 = 0x0003;

/// Attributes of objects (`TPMA_OBJECT`).
pub(super) mod object {
    pub(in crate::tpm2) const FIXED_TPM: u32 = 1 << 1;
    pub(in crate::tpm2) const FIXED_PARENT: u32 = 1 << 4;
    pub(in crate::tpm2) const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    pub(in crate::tpm2) const USER_WITH_AUTH: u32 = 1 << 6;
    pub(in crate::tpm2) const NO_DA: u32 = 1 << 10;
    pub(in crate::tpm2) const RESTRICTED: u32 = 1 << 16;
    pub(in crate::tpm2) const DECRYPT: u32 = 1 << 17;
}

/// A buffer being written; zeroed when dropped, since it may hold secrets.
#[derive(Default)]
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    pub(super) fn new() -> Self {
        // Room for any command, so that growing leaves no copies behind.
        Writer(Zeroizing::new(Vec::with_capacity(4096)))
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A `TPM2B`: 16-bit length, then the bytes. What is written here is always short.
    pub(super) fn sized(&mut self, bytes: &[u8]) -> &mut Self {
        self.u16(u16::try_from(bytes.len()).expect("a TPM2B has less than 64 KiB")).raw(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A response was shorter than its parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the TPM's response ends too early")]
pub struct Truncated;

/// Reads front to back.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(super) fn raw(&mut self, length: usize) -> Result<&'a [u8], Truncated> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        self.raw(N)?.try_into().map_err(|_| Truncated)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Truncated> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Result<u16, Truncated> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Truncated> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A `TPM2B`'s bytes.
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Truncated> {
        let length = self.u16()?;
        self.raw(length.into())
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u32, short: u16, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut writer = Writer::new();
            writer.u16(short).sized(&bytes).u32(number).u8(7);
            let mut reader = Reader::new(writer.bytes());
            prop_assert_eq!(reader.u16(), Ok(short));
            prop_assert_eq!(reader.sized(), Ok(bytes.as_slice()));
            prop_assert_eq!(reader.u32(), Ok(number));
            prop_assert_eq!(reader.u8(), Ok(7));
            prop_assert_eq!(reader.u8(), Err(Truncated));
        }
    }
}
