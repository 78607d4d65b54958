//! The policies that others use, from their published rules, in the same world.

/// A policy to compare with.
pub struct Baseline {
    /// Its name in reports.
    pub name: &'static str,
    /// Where its rule was published.
    pub source: &'static str,
    /// A new one.
    pub make: fn() -> Box<dyn crate::detector::Detector>,
}

/// All of them.
pub const ALL: &[Baseline] = &[];
