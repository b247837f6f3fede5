//! Keystone agent.
