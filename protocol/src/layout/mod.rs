//! The layout language: `disko.devices` as JSON, internal attributes dropped.
