//! Keystone controller.
