//! An engine and the platform's own restart, taken together as one engine.
//!
//! The engine looks, and the platform restarts what the engine cannot restart, or must not. Together they appear as one engine that is able
//! to do more, so that the rules, the restart protocol and the simulator have no special case for a platform.

use std::sync::Arc;

use async_trait::async_trait;
use defib_policy::abilities::Abilities;
use defib_policy::id::{ContainerId, EngineName};
use defib_policy::sample::Sample;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::Explanation;
use crate::{
    Engine, EngineCheck, EngineError, EngineEvent, EngineReport, LastLines, PlatformRestart, RestartCall, RestartHow,
    Target,
};

/// Who makes the restarts that an engine could make by itself (`DEFIB_RESTART_BY`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartBy {
    /// The engine; the platform only what the engine cannot.
    #[default]
    Engine,
    /// The platform makes all of them.
    Platform,
}

/// An engine whose workspaces the platform restarts as well.
pub struct WithPlatform {
    engine: Arc<dyn Engine>,
    platform: Arc<PlatformRestart>,
    by: RestartBy,
}

impl WithPlatform {
    /// `engine`, with restarts by `platform` as `by` says. Several engines may share one platform, and then share its rate.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, platform: Arc<PlatformRestart>, by: RestartBy) -> Self {
        Self { engine, platform, by }
    }

    /// Whether the platform is asked for this, and not the engine.
    fn is_the_platforms(&self, how: RestartHow) -> bool {
        let engine = self.engine.abilities();
        let able = match how {
            RestartHow::Start => engine.starts,
            RestartHow::KillAndStart { .. } => engine.kills,
            RestartHow::Recreate => engine.recreates,
        };
        self.by == RestartBy::Platform || !able
    }
}

#[async_trait]
impl Engine for WithPlatform {
    fn name(&self) -> &EngineName {
        self.engine.name()
    }

    fn abilities(&self) -> Abilities {
        let engine = self.engine.abilities();
        let kills = self.platform.kills() || (self.by == RestartBy::Engine && engine.kills);
        Abilities { starts: true, kills, recreates: true, ..engine }
    }

    async fn sample_all(&self, targets: &[Target]) -> EngineReport {
        self.engine.sample_all(targets).await
    }

    async fn sample_restless(&self, targets: &[Target]) -> Option<EngineReport> {
        self.engine.sample_restless(targets).await
    }

    async fn sample_some(&self, targets: &[Target]) -> EngineReport {
        self.engine.sample_some(targets).await
    }

    async fn confirm(&self, target: &Target) -> Sample {
        self.engine.confirm(target).await
    }

    async fn restart(&self, call: &RestartCall) -> Result<(), EngineError> {
        if self.is_the_platforms(call.how) {
            self.platform.restart(self.engine.name(), call).await
        } else {
            self.engine.restart(call).await
        }
    }

    async fn last_lines(
        &self,
        container: &ContainerId,
        lines: u32,
        most: usize,
    ) -> Result<Option<LastLines>, EngineError> {
        self.engine.last_lines(container, lines, most).await
    }

    fn start_forgets(&self) -> bool {
        self.is_the_platforms(RestartHow::Start) || self.engine.start_forgets()
    }

    async fn watch(&self, events: mpsc::Sender<EngineEvent>, stop: CancellationToken) {
        self.engine.watch(events, stop).await;
    }

    async fn check(&self) -> Result<EngineCheck, EngineError> {
        self.engine.check().await
    }

    async fn explain(&self, examples: &[Target]) -> Explanation {
        self.engine.explain(examples).await
    }
}
