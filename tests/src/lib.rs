//! Keystone lab.
