//! The plan's hash.

use super::{Basis, Plan};

/// Blake3 of the basis' canonical JSON, 64 hex digits.
///
/// Canonical: fields in the order of the type's definition, maps sorted by key, no white space,
/// which is what `serde_json` writes for types without hash maps.
pub fn basis_hash(basis: &Basis) -> String {
    let json = serde_json::to_vec(basis).expect("a basis has no type that JSON can't hold");
    blake3::hash(&json).to_hex().to_string()
}

impl Plan {
    /// Whether its last step proves that everything is closed.
    pub fn is_sealed(&self) -> bool {
        matches!(self.steps.last(), Some(step) if step.action == super::Action::ProveSeal)
    }

    /// Whether `hash` still is the hash of the plan's basis, and the basis lists its steps.
    pub fn is_consistent(&self) -> bool {
        basis_hash(&self.basis) == self.hash
            && self.basis.steps.len() == self.steps.len()
            && self
                .steps
                .iter()
                .zip(&self.basis.steps)
                .all(|(step, json)| serde_json::to_string(step).is_ok_and(|s| s == *json))
    }
}
