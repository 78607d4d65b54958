//! A real engine behind a proxy that ends every event stream, so that only polls and suspicions make defib look.

use anyhow::Result;
use defib_testkit::relay::{Handling, Relay};

/// The proxy. It ends with its value.
#[derive(Debug)]
pub struct EventlessEngine(Relay);

impl EventlessEngine {
    /// In front of the engine at `unix://…`.
    pub async fn before(engine: &str) -> Result<Self> {
        let decide = |_: &str, path: &str| if path.contains("/events") { Handling::CutOff } else { Handling::Pass };
        Ok(Self(Relay::before(engine, decide).await?))
    }

    /// The address, as defib takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        self.0.url()
    }
}
