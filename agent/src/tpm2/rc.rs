//! Response codes (TCG TPM 2.0 Library, part 2, section 6.6).

use std::fmt;

/// A response code other than success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseCode(pub(super) u32);

/// Bit that marks a code which is about a handle, session or parameter (`RC_FMT1`).
const FORMAT_ONE: u32 = 0x080;

/// An authorization was wrong and counts towards the lockout (`TPM_RC_AUTH_FAIL`).
pub(super) const AUTH_FAIL: u32 = FORMAT_ONE + 0x0e;
/// An authorization was wrong and does not count (`TPM_RC_BAD_AUTH`).
pub(super) const BAD_AUTH: u32 = FORMAT_ONE + 0x22;
/// The policy does not hold, as when a PCR has another value (`TPM_RC_POLICY_FAIL`).
pub(super) const POLICY_FAIL: u32 = FORMAT_ONE + 0x1d;
/// There is nothing at the handle (`TPM_RC_HANDLE`).
pub(super) const HANDLE: u32 = FORMAT_ONE + 0x0b;
/// The object is not this TPM's or parent's (`TPM_RC_INTEGRITY`).
pub(super) const INTEGRITY: u32 = FORMAT_ONE + 0x1f;
/// The TPM was not started (`TPM_RC_INITIALIZE`).
pub(super) const INITIALIZE: u32 = 0x100;
/// Lockout is in force (`TPM_RC_LOCKOUT`).
pub(super) const LOCKOUT: u32 = 0x921;

impl ResponseCode {
    /// The code without the number of the handle, session or parameter that it is about.
    pub(super) fn base(self) -> u32 {
        let code = self.0 & 0xfff;
        if code & FORMAT_ONE != 0 { code & 0x0bf } else { code }
    }

    /// Whether the same command may be sent again after a moment: `TPM_RC_YIELDED`, `_TESTING`,
    /// `_NV_RATE`, `_RETRY`, `_NV_UNAVAILABLE`.
    pub(super) fn is_transient(self) -> bool {
        matches!(self.0 & 0xfff, 0x908 | 0x90a | 0x920 | 0x922 | 0x923)
    }

    fn name(self) -> Option<&'static str> {
        Some(match self.base() {
            0x082 => "attributes not as needed",
            0x083 => "hash algorithm not supported",
            0x084 => "value out of range or not correct",
            0x085 => "hierarchy disabled or not correct",
            0x08a => "type not as needed",
            HANDLE => "handle not correct",
            AUTH_FAIL => "authorization failed, and counts towards lockout",
            0x092 => "scheme not supported",
            0x095 => "size not correct",
            0x096 => "symmetric algorithm not supported",
            POLICY_FAIL => "policy check failed",
            INTEGRITY => "integrity check failed",
            BAD_AUTH => "authorization failed",
            0x0a6 => "curve not supported",
            INITIALIZE => "not started",
            0x101 => "in failure mode",
            0x120 => "command disabled",
            0x124 => "authorization of that kind not allowed",
            0x125 => "authorization missing",
            0x128 => "PCR changed since it was checked",
            0x12f => "authorization not available",
            0x130 => "restart needed",
            0x143 => "command not supported",
            0x14b => "no room left in its non-volatile memory",
            0x14c => "handle already in use",
            0x902 => "out of memory for objects",
            0x903 => "out of memory for sessions",
            0x908 => "yielded",
            0x90a => "testing itself",
            0x920 => "limiting the rate of writes",
            LOCKOUT => "in dictionary-attack lockout",
            0x922 => "busy",
            0x923 => "non-volatile memory not available",
            _ => return None,
        })
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:03x})", self.0),
            None => write!(f, "code 0x{:03x}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_does_not_matter() {
        // TPM_RC_AUTH_FAIL at session 1, TPM_RC_HANDLE at parameter 1 and at handle 1.
        assert_eq!(ResponseCode(0x98e).base(), AUTH_FAIL);
        assert_eq!(ResponseCode(0x1cb).base(), HANDLE);
        assert_eq!(ResponseCode(0x18b).base(), HANDLE);
        assert_eq!(ResponseCode(0x99d).base(), POLICY_FAIL);
        assert_eq!(ResponseCode(0x99d).to_string(), "policy check failed (0x99d)");
        assert!(ResponseCode(0x922).is_transient());
        assert!(!ResponseCode(LOCKOUT).is_transient());
        assert_eq!(ResponseCode(0xb0143).to_string(), "command not supported (0xb0143)");
    }
}
