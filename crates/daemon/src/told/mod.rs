//! What is told to people and programs about the fleet: the standing of each workspace, its timeline, and the words for both.
//!
//! `defib status` and `defib explain`, the status page and `/api/v1` all use this module, so that they cannot differ.

pub(crate) mod explain;
#[cfg(test)]
pub(crate) mod golden;
pub(crate) mod groups;
mod last_words;
pub(crate) mod names;
pub(crate) mod natural;
pub(crate) mod picture;
pub(crate) mod show;
pub(crate) mod standing;
pub(crate) mod status;
pub(crate) mod viewer;
pub(crate) mod webhook;
