//! Keystone protocol.
