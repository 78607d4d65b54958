//! Places where the crash tests let the daemon die. Nothing at all in a build without the feature `failpoints`.

/// Aborts here when the variable `FAILPOINTS` says `<name>=return`. The name is the step that has just been taken.
#[doc(hidden)]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| std::process::abort());
    };
}
