//! `src/ring/` and nothing else; its loom tests are in its own files.

#[path = "../../src/ring/mod.rs"]
pub mod ring;
